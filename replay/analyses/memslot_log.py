"""Follow memslots from the recorded results alone, without a model: what each call did, and how many slots were live.

A call that succeeded says what it was when the slots of its VM are known: no slot under that id means create, size 0 means
delete, another guest address means move, other flags mean a change of flags. Which is the same order in which the kernel
decides. Source: virt/kvm/kvm_main.c __kvm_set_memory_region().
"""

from typing import Final

import attrs

from replay.events import MemslotSet, VmAttach, VmDestroy
from replay.events.base import ByFields, uint

Key = tuple[int, int]
"""VM number and the slot argument (address space in bits 31:16, id in bits 15:0)."""

CHANGES: Final = ("create", "delete", "move", "flags_only", "unchanged", "failed", "unknown")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class MemslotChanges(ByFields):
    """How many memslot calls did what; their sum is the number of memslot.set events."""

    create: int = uint("slots created", default=0)
    delete: int = uint("slots deleted", default=0)
    move: int = uint("slots moved to another guest physical address", default=0)
    flags_only: int = uint("slots whose flags alone changed", default=0)
    unchanged: int = uint("calls that changed nothing and succeeded", default=0)
    failed: int = uint("calls that returned an error, those on an fd that is not a VM included", default=0)
    failed_not_a_vm: int = uint("of the failed: calls on an fd that is not a VM; they are no events", default=0)
    unknown: int = uint("calls whose result or slot from before the recording is not known", default=0)
    delete_unseen: int = uint("of the deletes: slots whose creation is not in the recording", default=0)

    @property
    def calls(self) -> int:
        """Number of memslot calls."""
        return sum(getattr(self, name) for name in CHANGES)


@attrs.define
class _Slot:
    guest_phys_addr: int
    memory_size: int
    flags: int


@attrs.define
class _Level:
    """How high something is, and how high it ever was."""

    now: int = 0
    peak: int = 0

    def add(self, delta: int) -> None:
        self.now += delta
        self.peak = max(self.peak, self.now)


@attrs.define
class SlotTally:
    """Counts of one VM, or of all VMs together."""

    changes: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys((*CHANGES, "delete_unseen"), 0))
    slots: _Level = attrs.field(factory=_Level)
    memory_bytes: _Level = attrs.field(factory=_Level)

    def memslot_changes(self) -> MemslotChanges:
        """Return the counts as a value."""
        return MemslotChanges(**self.changes)


@attrs.define
class MemslotLog:
    """Follow the slots of all VMs; memory grows with the number of live slots, not with the recording."""

    total: SlotTally = attrs.field(factory=SlotTally)
    by_vm: dict[int, SlotTally] = attrs.field(factory=dict)
    _seen: dict[int, dict[int, _Slot | None]] = attrs.field(factory=dict)
    """VM -> slot argument -> the slot, None once it was deleted."""
    _attached: set[int] = attrs.field(factory=set)

    def memslot_set(self, event: MemslotSet) -> str:
        """Take one memslot call and return what it did, one of CHANGES."""
        slots = self._seen.setdefault(event.vm, {})
        old = slots.get(event.slot)
        # A slot of a VM that was found alive may be there without having been seen.
        unseen = event.vm in self._attached and event.slot not in slots
        change = change_of(event, old, unseen=unseen)
        self._count(event.vm, change)
        if event.ret == 0:
            new = _Slot(event.guest_phys_addr, event.memory_size, event.flags) if event.memory_size else None
            if old is None and new is None:
                self._count(event.vm, "delete_unseen")
            slots[event.slot] = new
            self._levels(event.vm, old, new)
        return change

    def vm_attach(self, event: VmAttach) -> None:
        """Take a VM that was found alive: which slots it has is not known until they are seen."""
        self._attached.add(event.vm)

    def vm_destroy(self, event: VmDestroy) -> None:
        """Take the end of a VM: its slots are gone with it."""
        for slot in self._seen.pop(event.vm, {}).values():
            self._levels(event.vm, slot, None)

    def _tallies(self, vm: int) -> tuple[SlotTally, SlotTally]:
        return self.total, self.by_vm.setdefault(vm, SlotTally())

    def _count(self, vm: int, change: str) -> None:
        for tally in self._tallies(vm):
            tally.changes[change] += 1

    def _levels(self, vm: int, old: _Slot | None, new: _Slot | None) -> None:
        for tally in self._tallies(vm):
            tally.slots.add((new is not None) - (old is not None))
            tally.memory_bytes.add((new.memory_size if new else 0) - (old.memory_size if old else 0))


def change_of(event: MemslotSet, old: _Slot | None, *, unseen: bool = False) -> str:
    """Say what a memslot call did, given the slot that was there; one of CHANGES.

    unseen: whether there was one is not known.

    A success that the kernel would not give for the slot that is known (another size) means that the recording missed a
    delete: the call is a create.
    """
    if event.ret is None:
        return "unknown"
    if event.ret < 0:
        return "failed"
    if event.memory_size == 0:
        return "delete"
    if unseen:
        return "unknown"
    if old is None or old.memory_size != event.memory_size:
        return "create"
    if old.guest_phys_addr != event.guest_phys_addr:
        return "move"
    return "unchanged" if old.flags == event.flags else "flags_only"
