"""Drive one lane by hand in tests: short calls for events, with the invariants checked after each of them."""

from typing import Any

from replay.events import (
    AllocFail,
    Event,
    GuestWrite,
    IrqchipCreate,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    ShadowPageAccount,
    ShadowPageUnaccount,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.events.write_track import HotEvent
from replay.kvm.fold import fold_run
from replay.kvm.invariants import check_invariants
from replay.kvm.machine import Machine, Outcome
from replay.kvm.memslot import Memslot
from replay.kvm.past import Ledger, remember
from replay.kvm.policies import POLICIES, Policy
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import run_of
from replay.units import AsId, Gfn, Gpa, Hva

P = 4096
EAGER_OLD, EAGER_NEW, LAZY = "eager-5.16", "eager-6.6", "on-demand"
NAMES = (EAGER_OLD, EAGER_NEW, LAZY)
ALWAYS, FIRST, SECOND, IDEAL = "always", "v1", "v2", "ideal"
ZOO = (ALWAYS, EAGER_OLD, EAGER_NEW, FIRST, SECOND, LAZY, IDEAL)
BY_NAME: dict[str, Policy] = {policy.name: policy for policy in POLICIES}


def hva_of(slot_id: int) -> Hva:
    """Return where a test slot's memory lies."""
    return Hva(0x7000_0000_0000 + (slot_id << 32))


def gfn_of(slot_id: int) -> Gfn:
    """Return where a test slot starts, unless said: 16 pages apart."""
    return Gfn(16 * slot_id)


class Lane:
    """A machine with one VM, number 0; facts are those of `Profile`, the release as text."""

    def __init__(self, policy: str = LAZY, *, vm_type: int = 0, **facts: Any) -> None:
        release = Release.parse(facts.pop("release", "6.12.117"))
        self.machine = Machine(BY_NAME[policy], Profile(release=release, **facts))
        self.number = 0
        self.past, self.ledger = remember(self.machine), Ledger()
        self.do(VmCreate(vm=0, ret=0, type=vm_type))

    @property
    def vm(self) -> Vm:
        """The VM, alive."""
        return self.machine.vm(0)

    def do(self, event: Event) -> Outcome:
        """Apply a structural event."""
        outcome = self.machine.step(event, self.number)
        self.number += 1
        self.ledger.note_event(self.machine, event)
        self._check()
        return outcome

    def hot(self, *events: HotEvent) -> RunOutcome:
        """Apply hot events as one run."""
        run = run_of(events)
        outcome = fold_run(self.machine, run, self.number)
        self.number += len(events)
        self.ledger.note_run(self.machine, run, outcome)
        self._check()
        return outcome

    def _check(self) -> None:
        assert check_invariants(self.machine, self.past, self.ledger) == []
        self.past = remember(self.machine, self.past)

    # --- memslots

    def set(self, slot_id: int, npages: int = 4, base: int | None = None, as_id: int = 0, **more: Any) -> Outcome:
        """Set a slot: create, move or re-flag it."""
        fields: dict[str, Any] = {
            "slot": as_id << 16 | slot_id,
            "guest_phys_addr": Gpa((gfn_of(slot_id) if base is None else base) * P),
            "memory_size": npages * P,
            "userspace_addr": hva_of(slot_id),
        }
        return self.do(MemslotSet(vm=0, **(fields | more)))

    def delete(self, slot_id: int, as_id: int = 0) -> Outcome:
        """Delete a slot."""
        return self.do(MemslotSet(vm=0, slot=as_id << 16 | slot_id))

    def slot(self, slot_id: int, as_id: int = 0) -> Memslot:
        """Return a slot that is there."""
        slot = self.vm.spaces[as_id].by_id(slot_id)
        assert slot is not None
        return slot

    def order(self, as_id: int = 0) -> list[int]:
        """Return the ids in the kernel's order."""
        return [slot.id for slot in self.vm.spaces[as_id]]

    def tracked(self, as_id: int = 0) -> list[int]:
        """Return the ids of slots that have gfn_write_track, in the kernel's order."""
        return [slot.id for slot in self.vm.spaces[as_id] if slot.arch.gfn_write_track is not None]

    def generations(self) -> list[int]:
        """Return the generation of each address space."""
        return [space.generation for space in self.vm.spaces]

    # --- everything else

    def fail(self, site: str = "", nth: int = 1, count: int = 1) -> None:
        """Inject a failure."""
        self.do(AllocFail(site=site, nth=nth, count=count))

    def heal(self) -> None:
        """Stop all injections."""
        self.do(AllocFail(off=True))

    def limit(self, pages: int | None) -> None:
        """Limit what may still be charged."""
        self.do(MemoryLimit(limit_pages=pages))

    def register(self, node: int = 0, **more: Any) -> int | None:
        """Register a notifier node."""
        return self.do(NotifierRegister(vm=0, node=node, **more)).ret

    def unregister(self, node: int = 0, **more: Any) -> Outcome:
        """Unregister a notifier node."""
        return self.do(NotifierUnregister(vm=0, node=node, **more))

    def root(self) -> int | None:
        """Load a shadow root."""
        return self.do(ShadowRootAlloc(vm=0)).ret

    def opt(self, *args: int, flags: int = 0, **more: Any) -> int | None:
        """Set the opt-out of write tracking, number 236: 0 out, 1 in."""
        return self.do(VmEnableCap(vm=0, cap=236, args=args, flags=flags, **more)).ret

    def vcpu(self) -> int | None:
        """Create a vCPU."""
        return self.do(VcpuCreate(vm=0, ret=0, vcpu_id=0)).ret

    def irqchip(self) -> int | None:
        """Create the irqchip."""
        return self.do(IrqchipCreate(vm=0, ret=0)).ret

    def tss(self, gpa: int = 0xFFFBD000) -> Outcome:
        """Set the TSS address."""
        return self.do(TssSet(vm=0, guest_phys_addr=Gpa(gpa)))

    def destroy(self, *, foreign_mm: bool = False) -> Outcome:
        """Close the VM."""
        return self.do(VmDestroy(vm=0, foreign_mm=foreign_mm))


def add(gfn: int, as_id: int = 0) -> WriteTrackAdd:
    """Return an external add."""
    return WriteTrackAdd(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn))


def remove(gfn: int, as_id: int = 0) -> WriteTrackRemove:
    """Return an external remove."""
    return WriteTrackRemove(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn))


def query(gfn: int, as_id: int = 0) -> WriteTrackQuery:
    """Return a read."""
    return WriteTrackQuery(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn))


def write(gfn: int, as_id: int = 0) -> GuestWrite:
    """Return a guest write."""
    return GuestWrite(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn))


def account(gfn: int, level: int = 2, as_id: int = 0) -> ShadowPageAccount:
    """Return a new shadow page."""
    return ShadowPageAccount(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn), level=level)


def unaccount(gfn: int, level: int = 2, as_id: int = 0) -> ShadowPageUnaccount:
    """Return the end of a shadow page."""
    return ShadowPageUnaccount(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn), level=level)
