"""Make up memslot requests: right ones of every kind, and each wrong in one way or two, so that the order of checks shows."""

from collections.abc import Callable
from typing import Final

import attrs

from replay.events import MemslotSet
from replay.live.book import SLOT_PAGES_MAX, LiveSlot, LiveVm
from replay.live.dice import Dice
from replay.live.uapi import GUEST_MEMFD, LOG_DIRTY_PAGES, READONLY, USER_SLOTS
from replay.units import PAGE_SHIFT, PAGE_SIZE_BYTES, U32_MAX, U64_MAX, Gpa, Hva

HVA_BASE: Final = 0x1000_0000_0000
"""Guest memory is never touched, as no vCPU runs: hvas need no mapping, and a fixed place makes runs repeatable."""
_IDS: Final = (*range(12), 127, 128, 4095, USER_SLOTS - 2, USER_SLOTS - 1)
_BIG_PAGES: Final = (512, 513, 4096, 1 << 18, (1 << 18) + 1, 1 << 20, SLOT_PAGES_MAX)
_HVA_ENDS: Final = ((1 << 47) - PAGE_SIZE_BYTES, (1 << 56) - PAGE_SIZE_BYTES)
_MOST_PAGES: Final = (1 << 31) - 1


def _npages(dice: Dice) -> int:
    if dice.chance(6):
        return dice.pick(_BIG_PAGES)
    return dice.between(1, 8) if dice.chance(40) else dice.between(1, 3000)


def _base_gfn(dice: Dice, vm: LiveVm) -> int:
    """Return a place that is probably free: low memory, anywhere below 2^36 pages, or touching another slot."""
    slots = list(vm.slots.values())
    if slots and dice.chance(25):
        slot = dice.pick(slots)
        return slot.base_gfn + slot.npages
    return dice.below(1 << 12) if dice.chance(10) else dice.below(1 << dice.between(16, 26))


def _request(vm: LiveVm, slot: int, base_gfn: int, npages: int, hva: int, flags: int) -> MemslotSet:
    return MemslotSet(
        vm=vm.number,
        slot=slot,
        flags=flags,
        guest_phys_addr=Gpa(base_gfn << PAGE_SHIFT),
        memory_size=npages << PAGE_SHIFT,
        userspace_addr=Hva(hva),
    )


def same(vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    """Return the request that changes nothing of a slot."""
    return _request(vm, slot.slot, slot.base_gfn, slot.npages, slot.userspace_addr, slot.flags)


def _free_slot(dice: Dice, vm: LiveVm) -> int:
    found = 0
    for _ in range(20):
        found = dice.below(vm.nas) << 16 | (dice.pick(_IDS) if dice.chance(80) else dice.below(USER_SLOTS))
        if found not in vm.slots:
            break
    return found


def create(dice: Dice, vm: LiveVm) -> MemslotSet:
    """Return a new slot, of 1 page to a little over 4 GiB."""
    hva = HVA_BASE + (dice.below(1 << 26) << PAGE_SHIFT)
    flags = dice.weighted(((6, 0), (3, LOG_DIRTY_PAGES), (1, READONLY), (1, LOG_DIRTY_PAGES | READONLY)))
    return _request(vm, _free_slot(dice, vm), _base_gfn(dice, vm), _npages(dice), hva, flags)


def _overlap(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    """Return a new slot that shares a page with one that is there, at its start, its end, or around it."""
    npages = dice.between(1, 600)
    first = max(0, dice.pick((slot.base_gfn - npages + 1, slot.base_gfn + slot.npages - 1, slot.base_gfn - 1)))
    asked = attrs.evolve(create(dice, vm), guest_phys_addr=Gpa(first << PAGE_SHIFT), memory_size=npages << PAGE_SHIFT)
    return attrs.evolve(asked, slot=asked.slot & 0xFFFF | slot.as_id << 16)


def _guest_memfd(dice: Dice, vm: LiveVm) -> MemslotSet:
    """Return a new slot over a guest_memfd of this VM, sometimes past its end or over another slot's range of it."""
    fd = dice.pick(vm.guest_memfds) if vm.guest_memfds and dice.chance(90) else U32_MAX
    offset = dice.below(64) << PAGE_SHIFT
    asked = attrs.evolve(create(dice, vm), region2=True, flags=GUEST_MEMFD, guest_memfd=fd, guest_memfd_offset=offset)
    return attrs.evolve(asked, memory_size=dice.between(1, 40) << PAGE_SHIFT)


def _delete(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    """Return a delete; place, hva and LOG_DIRTY in it mean nothing, as long as they are aligned."""
    asked = attrs.evolve(same(vm, slot), memory_size=0, flags=0)
    if dice.chance(30):
        gpa = Gpa(dice.below(1 << 30) << PAGE_SHIFT)
        asked = attrs.evolve(asked, guest_phys_addr=gpa, flags=dice.pick((LOG_DIRTY_PAGES, READONLY)))
    return asked


def _move(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    """Return a move: elsewhere, by a page onto itself, or onto another slot; sometimes with other flags."""
    others = [other for other in vm.slots.values() if other is not slot]
    first = dice.pick((_base_gfn(dice, vm), slot.base_gfn + 1, max(0, slot.base_gfn - 1)))
    if others and dice.chance(15):
        first = dice.pick(others).base_gfn
    flags = slot.flags ^ LOG_DIRTY_PAGES if dice.chance(25) else slot.flags
    return attrs.evolve(same(vm, slot), guest_phys_addr=Gpa(first << PAGE_SHIFT), flags=flags)


def _flags(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    changed = dice.weighted(((8, LOG_DIRTY_PAGES), (1, READONLY), (1, LOG_DIRTY_PAGES | READONLY)))
    return attrs.evolve(same(vm, slot), flags=slot.flags ^ changed)


def _toggle_guest_memfd(_dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    return attrs.evolve(same(vm, slot), region2=True, flags=(slot.flags ^ GUEST_MEMFD) & ~LOG_DIRTY_PAGES)


def _resize(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    return attrs.evolve(same(vm, slot), memory_size=(slot.npages + dice.between(1, 9)) << PAGE_SHIFT)


def _rehost(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    hva = Hva(slot.userspace_addr + (dice.between(1, 9) << PAGE_SHIFT))
    return attrs.evolve(same(vm, slot), userspace_addr=hva)


def _too_many_pages(dice: Dice, vm: LiveVm, slot: LiveSlot) -> MemslotSet:
    """Return a live slot with more pages than any can have: refused by two checks, so that it is never carried out."""
    pages = _MOST_PAGES + dice.between(1, 3)
    return attrs.evolve(same(vm, slot), memory_size=pages << PAGE_SHIFT, guest_phys_addr=Gpa(slot.base_gfn << PAGE_SHIFT))


OnSlot = Callable[[Dice, LiveVm, LiveSlot], MemslotSet]
ON_SLOT: Final[tuple[tuple[int, OnSlot], ...]] = (
    (20, _delete),
    (16, _move),
    (16, _flags),
    (8, _overlap),
    (6, lambda _dice, vm, slot: same(vm, slot)),
    (4, _resize),
    (3, _rehost),
    (2, _too_many_pages),
    (2, _toggle_guest_memfd),
)
"""Weight and maker of requests that concern a slot that is there."""

ANEW: Final[tuple[tuple[int, Callable[[Dice, LiveVm], MemslotSet]], ...]] = (
    (20, create),
    (4, _guest_memfd),
    (2, lambda dice, vm: attrs.evolve(create(dice, vm), memory_size=0)),
)
"""Weight and maker of requests that concern none."""


def _unalign(field: str) -> "Mutation":
    def mutate(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
        off = dice.pick((1, 8, 512, PAGE_SIZE_BYTES - 1))
        return attrs.evolve(asked, **{field: getattr(asked, field) & ~(PAGE_SIZE_BYTES - 1) | off})

    return mutate


def _hva_edge(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    """Put the hva at the end of user memory, a page before or past it."""
    start = dice.pick(_HVA_ENDS) - (asked.memory_size & ~(PAGE_SIZE_BYTES - 1)) + dice.between(-1, 1) * PAGE_SIZE_BYTES
    return attrs.evolve(asked, userspace_addr=Hva(start & U64_MAX))


def _hva_kernel(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    """Put the hva where only the kernel's memory is, or nothing, or where it wraps."""
    hva = dice.pick((1 << 63, 0xFFFF_8000_0000_0000, 1 << 47, 1 << 56, 1 << 62, U64_MAX - PAGE_SIZE_BYTES + 1))
    return attrs.evolve(asked, userspace_addr=Hva(hva))


def _gpa_wraps(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    """Put the slot where its end is at 2^64 or past it, or one page before."""
    end = (1 << 64) + dice.between(-1, 1) * PAGE_SIZE_BYTES
    gpa = (end - (asked.memory_size & ~(PAGE_SIZE_BYTES - 1))) & U64_MAX
    return attrs.evolve(asked, guest_phys_addr=Gpa(gpa & ~(PAGE_SIZE_BYTES - 1)))


def _gpa_high(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    """Put the slot at the end of physical addresses, a page before or past it."""
    end = (1 << dice.between(36, 52)) + dice.between(-1, 1) * PAGE_SIZE_BYTES
    gpa = (end - (asked.memory_size & ~(PAGE_SIZE_BYTES - 1))) & U64_MAX
    return attrs.evolve(asked, guest_phys_addr=Gpa(gpa))


def _bad_id(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    bad = dice.pick((USER_SLOTS, USER_SLOTS + 1, USER_SLOTS + 2, 32767, 32768, 65535))
    return attrs.evolve(asked, slot=asked.slot & ~0xFFFF | bad)


def _bad_as_id(dice: Dice, vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    return attrs.evolve(asked, slot=asked.slot & 0xFFFF | dice.pick((vm.nas, vm.nas + 1, 0xFFFF)) << 16)


def _bad_flag(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    return attrs.evolve(asked, flags=asked.flags | 1 << dice.pick((2, 3, 4, 15, 16, 31)))


def _offset_edge(dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    """Give the guest_memfd an offset that is not aligned or wraps; without the flag it means nothing."""
    offset = dice.pick((1, 4095, U64_MAX & ~(PAGE_SIZE_BYTES - 1), 1 << 63))
    fd = U32_MAX if asked.guest_memfd is None else asked.guest_memfd
    flags = asked.flags | GUEST_MEMFD if dice.chance(50) else asked.flags
    return attrs.evolve(asked, region2=True, guest_memfd=fd, guest_memfd_offset=offset, flags=flags)


def _unreadable(_dice: Dice, _vm: LiveVm, asked: MemslotSet) -> MemslotSet:
    return MemslotSet(vm=asked.vm, region2=asked.region2, fault=True)


Mutation = Callable[[Dice, LiveVm, MemslotSet], MemslotSet]
MUTATIONS: Final[tuple[tuple[int, Mutation], ...]] = (
    (3, _unalign("memory_size")),
    (3, _unalign("guest_phys_addr")),
    (3, _unalign("userspace_addr")),
    (4, _hva_edge),
    (3, _hva_kernel),
    (3, _gpa_wraps),
    (6, _gpa_high),
    (3, _bad_id),
    (3, _bad_as_id),
    (4, _bad_flag),
    (2, _offset_edge),
    (1, _unreadable),
)
"""Weight and maker of one thing wrong, or at the edge of it."""


def memslot_request(dice: Dice, vm: LiveVm) -> MemslotSet:
    """Return a request, six of ten right, the others with one or two things wrong with them."""
    slots = list(vm.slots.values())
    # Few slots ask for more of them, many for fewer.
    if slots and dice.chance(min(85, 40 + 3 * len(slots))):
        asked = dice.weighted(ON_SLOT)(dice, vm, dice.pick(slots))
    else:
        asked = dice.weighted(ANEW)(dice, vm)
    if dice.chance(25):
        asked = attrs.evolve(asked, region2=True)
    for _ in range(dice.weighted(((60, 0), (28, 1), (12, 2)))):
        if not asked.fault:
            asked = dice.weighted(MUTATIONS)(dice, vm, asked)
    if asked.region2 and asked.guest_memfd is None and not asked.fault:
        asked = attrs.evolve(asked, guest_memfd=U32_MAX)
    # A kernel that makes slots where none can be would lead its neighbours beyond the width of the fields.
    gpa, hva = Gpa(asked.guest_phys_addr & U64_MAX), Hva(asked.userspace_addr & U64_MAX)
    return attrs.evolve(asked, guest_phys_addr=gpa, userspace_addr=hva)
