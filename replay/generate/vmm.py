"""Make the calls of one VMM on one VM, with its tasks and its memslots; all of them succeed."""

from collections.abc import Iterator
from typing import Final

import attrs

from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    Event,
    IdentityMapSet,
    IrqchipCreate,
    MemslotSet,
    Task,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.generate.dice import Dice
from replay.units import PAGE_SHIFT, Gpa, Hva

LOG: Final = 1
READONLY: Final = 2
MIB: Final = 1 << 20
GIB: Final = 1 << 30
_FIRST_PID: Final = 1000
_MANUAL_DIRTY_LOG: Final = 168  # KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, include/uapi/linux/kvm.h
_TSS: Final = Gpa(0xFEFFD000)
_IDENTITY_MAP: Final = Gpa(0xFEFFC000)


@attrs.frozen
class Slot:
    """One memslot that is there."""

    slot: int
    flags: int
    gpa: int
    size: int
    hva: int


class Vmm:
    """One VM from outside: its number, its dice, its threads and memslots. Every method returns one call."""

    def __init__(self, vm: int, dice: Dice) -> None:
        self.vm = vm
        self.dice = dice
        self.main = Task(_FIRST_PID + 16 * vm, _FIRST_PID + 16 * vm)
        self.vcpu = Task(self.main.pid, self.main.pid + 1)
        self.slots: dict[int, Slot] = {}
        self.events = 0
        self.least_events = 0
        self.address_bits = 39
        self.ram_base = 0x7F0000000000 + (vm << 24 & 0x3F_0000_0000) + (dice.below(1 << 12) << 21)

    @property
    def worn(self) -> bool:
        """Whether the VM has had as many events as it must have before it may end."""
        return self.events >= self.least_events

    def create(self) -> Event:
        """Create the VM."""
        return VmCreate(vm=self.vm, ret=5, task=self.main)

    def destroy(self) -> Event:
        """End it, as a VMM does that exits."""
        self.slots.clear()
        return VmDestroy(vm=self.vm, reason="exit", foreign_mm=True, task=self.main)

    def add_vcpu(self, number: int) -> Event:
        """Create a vCPU."""
        return VcpuCreate(vm=self.vm, vcpu_id=number, ret=8 + number, task=self.vcpu)

    def prologue(self) -> Iterator[Event]:
        """Yield what QEMU does between the VM and its memory."""
        yield VmEnableCap(vm=self.vm, cap=_MANUAL_DIRTY_LOG, args=(1, 0, 0, 0), ret=0, task=self.main)
        yield IdentityMapSet(vm=self.vm, guest_phys_addr=_IDENTITY_MAP, ret=0, task=self.main)
        yield TssSet(vm=self.vm, guest_phys_addr=_TSS, ret=0, task=self.main)
        yield IrqchipCreate(vm=self.vm, ret=0, task=self.main)
        yield self.add_vcpu(0)

    def set_slot(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0, *, task: Task | None = None) -> MemslotSet:
        """Create a memslot, or give one other flags."""
        self.slots[slot] = Slot(slot, flags, gpa, size, hva)
        return self._call(slot, gpa, size, hva, flags, task)

    def delete_slot(self, slot: int, *, task: Task | None = None) -> MemslotSet:
        """Delete a memslot."""
        old = self.slots.pop(slot)
        return self._call(slot, old.gpa, 0, old.hva, 0, task)

    def log_slot(self, slot: int, *, on: bool) -> MemslotSet:
        """Switch a memslot's dirty logging."""
        old = self.slots[slot]
        return self.set_slot(slot, old.gpa, old.size, old.hva, old.flags | LOG if on else old.flags & ~LOG)

    def get_dirty_log(self, slot: int) -> Event:
        """Read a memslot's dirty log."""
        return DirtyLogGet(vm=self.vm, slot=slot, ret=0, task=self.main)

    def clear_dirty_log(self, slot: int) -> Event:
        """Clear a memslot's dirty log, all of it."""
        pages = self.slots[slot].size >> PAGE_SHIFT
        return DirtyLogClear(vm=self.vm, slot=slot, first_page=0, num_pages=pages, ret=0, task=self.main)

    def _call(self, slot: int, gpa: int, size: int, hva: int, flags: int, task: Task | None) -> MemslotSet:
        return MemslotSet(
            vm=self.vm,
            slot=slot,
            flags=flags,
            guest_phys_addr=Gpa(gpa),
            memory_size=size,
            userspace_addr=Hva(hva),
            ret=0,
            task=task or self.main,
        )
