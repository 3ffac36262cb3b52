"""Keep why facts of a recording can not be compared: losses, calls without arguments or result, pasts that were not recorded."""

from typing import Final

import attrs

from replay.events import Event, Lost, MemslotSet, NotifierRegister, Opaque, ShadowRootAlloc, VmAttach
from replay.header import CUT_SHORT, Trailer
from replay.kvm.policies import Policy

BORROWED: Final = "the model takes this result from the recording"
UNATTRIBUTED: Final = "an allocation failed and nothing recorded says why"
VOID: Final = "the function is void before 6.6"
ATTACHED: Final = "the VM was made before the recording began"
OPAQUE: Final = "a call before it did not show its arguments"
CAPABILITY: Final = "a KVM_ENABLE_CAP before it did not show its arguments: it may concern the dirty log"
PENDING: Final = "a call before it was not seen to return"
SKIPPED: Final = "can not happen under this profile"
LOST: Final = "lost: "
BUDGET_OUT: Final = "the budget for orders ran out"
NOT_MOVED: Final = "a call overlaps one from which something parts it past which calls are not moved"
DOUBTED: Final = "another order of overlapping calls may explain it"
DOUBTS: Final = frozenset({ATTACHED, OPAQUE, PENDING, BUDGET_OUT, NOT_MOVED, DOUBTED})
"""Reasons that leave open what the kernel did, as a loss does; under the others nothing recorded is unknown."""


def doubts(reason: str) -> bool:
    """Tell whether what could not be compared for a reason may have gone otherwise than the model says.

    >>> doubts("lost: perf samples"), doubts(BORROWED)
    (True, False)
    """
    return reason in DOUBTS or reason.startswith(LOST)


@attrs.define(eq=False, repr=False)
class Unknowns:
    """What is not known, by VM; None stands for every VM."""

    policy: Policy
    placed: dict[str, None] = attrs.field(factory=dict)
    """Losses that events speak of, so that their place is known."""
    _all: dict[int | None, str] = attrs.field(factory=dict)
    _shadow: dict[int | None, str] = attrs.field(factory=dict)
    _dirty: dict[int | None, str] = attrs.field(factory=dict)

    def note(self, event: Event) -> str:
        """Take one event; return the reason when it is itself a loss."""
        if isinstance(event, VmAttach):
            self._all.setdefault(event.vm, ATTACHED)
        elif isinstance(event, Opaque):
            self._opaque(event)
        elif isinstance(event, Lost):
            reason = f"{LOST}{event.what}"[:256]
            self.placed[event.what] = None
            (self._shadow if event.affects == "shadow_pages" else self._all).setdefault(event.vm, reason)
            return reason
        elif isinstance(event, (MemslotSet, NotifierRegister, ShadowRootAlloc)) and self._pending(event):
            self._all.setdefault(event.vm, PENDING)
        return ""

    def _pending(self, event: MemslotSet | NotifierRegister | ShadowRootAlloc) -> bool:
        return event.ret is None and not event.inferred and not self.void(event)

    def _opaque(self, event: Opaque) -> None:
        """Note a call whose arguments are not known: it may have changed whatever its kind can change."""
        if event.foreign_mm or (event.ret is not None and event.ret < 0):
            return
        if event.name == "KVM_ENABLE_CAP":
            # Of what is compared it can change the dirty log only: virt/kvm/kvm_main.c kvm_vm_ioctl_enable_cap_generic().
            self._dirty.setdefault(event.vm, CAPABILITY)
        else:
            self._all.setdefault(event.vm, OPAQUE)

    def void(self, event: Event) -> bool:
        """Tell whether the kernel function has no result: register before 6.6 (page_track.c [6.1])."""
        return isinstance(event, NotifierRegister) and not self.policy.register_checks_mm

    def unplaced(self, trailer: Trailer) -> int:
        """Return how much the trailer counts as lost or not understood of which nothing says where."""
        return sum(c.count for c in trailer.counters if c.severity != "ignored" and c.kind not in (*self.placed, *CUT_SHORT))

    def why(self, vm: int | None) -> str:
        """Return why nothing is known of a VM, "" when it is."""
        return self._all.get(vm) or self._all.get(None, "")

    def why_shadow(self, vm: int | None) -> str:
        """Return why nothing is known of a VM's shadow pages, "" when it is."""
        return self.why(vm) or self._shadow.get(vm) or self._shadow.get(None, "")

    def why_dirty(self, vm: int | None) -> str:
        """Return why nothing is known of a VM's dirty log, "" when it is."""
        return self.why(vm) or self._dirty.get(vm, "")
