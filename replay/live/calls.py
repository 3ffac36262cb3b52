"""Make up the other calls on a VM: dirty log, guest_memfd, vCPUs, interrupt controller, addresses, limits, capabilities."""

from collections.abc import Callable
from typing import Final

from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    NrMmuPagesSet,
    TssSet,
    VcpuCreate,
    VmEnableCap,
)
from replay.events.base import VmCall
from replay.live.book import LiveSlot, LiveVm
from replay.live.dice import Dice
from replay.live.uapi import (
    CAP_DIRTY_LOG_RING,
    CAP_MANUAL_DIRTY_LOG_PROTECT2,
    CAP_SPLIT_IRQCHIP,
    LOG_DIRTY_PAGES,
    USER_SLOTS,
)
from replay.units import PAGE_SHIFT, Gpa

VCPUS_MAX: Final = 3
"""Most vCPUs of a VM: each takes kernel memory of its own; none ever runs."""
GUEST_MEMFDS_MAX: Final = 3


def _some_slot(dice: Dice, vm: LiveVm) -> tuple[int, LiveSlot | None]:
    """Return the slot field of a slot, mostly one whose writes are logged, sometimes one that is not there."""
    logged = [slot for slot in vm.slots.values() if slot.flags & LOG_DIRTY_PAGES]
    slots = logged if logged and dice.chance(75) else list(vm.slots.values())
    if slots and dice.chance(85):
        slot = dice.pick(slots)
        return slot.slot, slot
    return dice.pick((0, 5000, USER_SLOTS, 65535, vm.nas << 16, 1 << 16, 0xFFFF << 16)), None


def _dirty_log_get(dice: Dice, vm: LiveVm) -> VmCall:
    slot, _there = _some_slot(dice, vm)
    return DirtyLogGet(vm=vm.number, slot=slot, fault=dice.chance(8))


def _dirty_log_clear(dice: Dice, vm: LiveVm) -> VmCall:
    slot, there = _some_slot(dice, vm)
    npages = there.npages if there else 64
    first = dice.pick((0, 0, 64, npages & ~63, dice.below(npages + 1), npages + 64, npages + 1))
    count = dice.pick((0, 64, max(0, npages - first), max(0, npages - first) & ~63, dice.below(npages + 2)))
    return DirtyLogClear(vm=vm.number, slot=slot, first_page=first, num_pages=count, fault=dice.chance(8))


def _guest_memfd(dice: Dice, vm: LiveVm) -> VmCall:
    size = dice.pick((0, 1, 4095)) if dice.chance(15) else dice.between(1, 64) << PAGE_SHIFT
    return GuestMemfdCreate(vm=vm.number, size_bytes=size, flags=1 << 63 if dice.chance(10) else 0)


def _tss(dice: Dice, vm: LiveVm) -> VmCall:
    """Return a TSS address: below 2 GiB, or past the last one that there is; see `uapi.by_value`."""
    gpa = dice.pick((0xFFFF_E000, 0xFFFF_F000)) if dice.chance(30) else dice.below(1 << 19) << PAGE_SHIFT
    return TssSet(vm=vm.number, guest_phys_addr=Gpa(gpa))


def _identity_map(dice: Dice, vm: LiveVm) -> VmCall:
    if dice.chance(15):
        return IdentityMapSet(vm=vm.number, fault=True)
    return IdentityMapSet(vm=vm.number, guest_phys_addr=Gpa(dice.pick((0, 0xFFFBC000, 0xFEFF_C000))))


def _nr_mmu_pages(dice: Dice, vm: LiveVm) -> VmCall:
    return NrMmuPagesSet(vm=vm.number, nr_mmu_pages=dice.pick((0, 1, 63, 64, 65, 1000, 1 << 20)))


def _vcpu(dice: Dice, vm: LiveVm) -> VmCall:
    return VcpuCreate(vm=vm.number, vcpu_id=dice.pick((0, 1, 2, 100_000)))


def _enable_cap(dice: Dice, vm: LiveVm) -> VmCall:
    cap, args = dice.weighted(
        (
            (10, (CAP_MANUAL_DIRTY_LOG_PROTECT2, (0, 1, 2, 3, 4, 5))),
            (2, (CAP_DIRTY_LOG_RING, (0, 1000, 4096))),
            (1, (CAP_SPLIT_IRQCHIP, (24,))),
            (1, (9999, (0,))),
        )
    )
    return VmEnableCap(vm=vm.number, cap=cap, flags=int(dice.chance(5)), args=(dice.pick(args), 0, 0, 0))


Maker = Callable[[Dice, LiveVm], VmCall]
CALLS: Final[tuple[tuple[int, Maker], ...]] = (
    (10, _dirty_log_get),
    (10, _dirty_log_clear),
    (4, _guest_memfd),
    (3, _enable_cap),
    (3, _nr_mmu_pages),
    (3, _tss),
    (3, _identity_map),
    (2, _vcpu),
    (1, lambda _dice, vm: IrqchipCreate(vm=vm.number)),
)
"""Weight and maker of each call."""


def other_call(dice: Dice, vm: LiveVm) -> VmCall | None:
    """Return a call that is no memslot request; None when the VM has enough of what it would make."""
    call = dice.weighted(CALLS)(dice, vm)
    if isinstance(call, VcpuCreate) and len(vm.vcpus) >= VCPUS_MAX:
        return None
    if isinstance(call, GuestMemfdCreate) and len(vm.guest_memfds) >= GUEST_MEMFDS_MAX:
        return None
    return call
