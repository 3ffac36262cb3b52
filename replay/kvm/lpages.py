"""Model disallow_lpage: how many reasons there are not to map a region of 2 MiB or 1 GiB of a memslot by one large page.

The counts are not kept but follow from the counters of gfn_write_track and from `LpageMoves`, so that nothing is to be done where
the two move alike. KVM maps a region large only while its count is 0; a negative one forbids it too.
From 6.8 on bit 31 says that private and shared pages are mixed (KVM_LPAGE_MIXED_FLAG); memory attributes are not modelled, and
a count is what the bits below say.
Source: arch/x86/kvm/mmu/mmu.c update_gfn_disallow_lpage_count(), kvm_lpage_info_max_mapping_level(), arch/x86/kvm/x86.c
kvm_alloc_memslot_metadata() [6.1.192, 6.12.117].
"""

from typing import Final

from replay.kvm.kernel_log import LPAGE
from replay.kvm.leaves import Table
from replay.kvm.lpage_moves import REGION_SHIFT, LpageMoves
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.vm import Vm
from replay.units import PAGE_SHIFT

GIB_SHIFT: Final = 18
"""From a gfn to its region of 1 GiB."""
SHIFTS: Final = (REGION_SHIFT, GIB_SHIFT)


def first_disallow(slot: Memslot, shift: int, region: int) -> int:
    """Return the first count of a region: 1 where the slot begins or ends inside it, or where hva and gfn do not match.

    shift: 9 for 2 MiB, 18 for 1 GiB; region: gfn >> shift. Source: x86.c kvm_alloc_memslot_metadata() [6.1, 6.12].
    """
    mask = (1 << shift) - 1
    if (slot.base_gfn ^ slot.userspace_addr >> PAGE_SHIFT) & mask:
        return 1
    head = region == slot.base_gfn >> shift and slot.base_gfn & mask
    tail = region == slot.end_gfn - 1 >> shift and slot.end_gfn & mask
    return int(bool(head or tail))


def disallow_lpage(slot: Memslot, shift: int, region: int) -> int:
    """Return the disallow_lpage of one region, by shift and gfn >> shift. Cost: what is touched of its counters.

    Source: struct kvm_lpage_info [6.1, 6.12]; see the module.
    """
    counted = slot.arch.counts.total(region << shift, region + 1 << shift)
    return first_disallow(slot, shift, region) + counted + moved_in(slot.arch.lpage_moves, shift, region)


def moved_in(moves: LpageMoves, shift: int, region: int) -> int:
    """Return what moved a count beside the counters. Source: see the module."""
    return moves.at(region) if shift == REGION_SHIFT else moves.gib(region)


def moved_lpages(slot: Memslot, shift: int) -> dict[int, int]:
    """Return by how much the counts of a slot's regions are not their first values, those that are, in order.

    Cost: proportional to what is counted. Source: see the module.
    """
    found: dict[int, int] = {}
    for index, count in slot.arch.counts.items():
        region = slot.base_gfn + index >> shift
        found[region] = found.get(region, 0) + count
    for one, count in slot.arch.lpage_moves.items():
        region = one >> shift - REGION_SHIFT
        found[region] = found.get(region, 0) + count
    return {region: count for region, count in sorted(found.items()) if count}


def disallowed_lpages(slot: Memslot, shift: int) -> int:
    """Return how many regions of a slot KVM does not map large: those whose count is not 0. Cost: as for moved_lpages().

    Source: mmu.c kvm_lpage_info_max_mapping_level() [6.1, 6.12].
    """
    low, high = slot.base_gfn >> shift, slot.end_gfn - 1 >> shift
    if (slot.base_gfn ^ slot.userspace_addr >> PAGE_SHIFT) & (1 << shift) - 1:
        found = high - low + 1
    else:
        found = sum(first_disallow(slot, shift, region) for region in {low, high})
    for region, count in moved_lpages(slot, shift).items():
        first = first_disallow(slot, shift, region)
        found += (first + count != 0) - first
    return found


def may_warn(vm: Vm, slot: Memslot) -> bool:
    """Tell whether a count of a slot may be below 0 and is to be warned of then. Source: see the module."""
    return not vm.lpage_warned and bool(slot.arch.lpage_moves.fallen)


def own_moves(arch: Arch, table: Table) -> LpageMoves:
    """Return the moves of a slot for a write: a copy first when lanes share them that do not write together. Source: none."""
    moves = arch.lpage_moves
    if moves.owners > 1 and not table.together:
        arch.lpage_moves = moves = moves.copy()
    return moves


def update_gfn_disallow_lpage_count(vm: Vm, slot: Memslot, gfn: int, delta: int, *, counted: bool) -> None:
    """Move the counts of the regions that hold a gfn; they have no limit. The first one below 0 of a VM is warned of.

    counted: its counter in gfn_write_track moved as well. The kernel tests the sign [6.1 WARN_ON, 6.6 WARN_ON_ONCE], from 6.8 on
    ("Disallow hugepages when memory attributes are mixed") whether bit 31 changes: the first time is the same.
    Source: arch/x86/kvm/mmu/mmu.c update_gfn_disallow_lpage_count() [6.1, 6.12], by kvm_mmu_gfn_disallow_lpage() and
    kvm_mmu_gfn_allow_lpage().
    """
    if counted and (vm.lpage_warned or not slot.arch.lpage_moves.fallen):
        return
    table = vm.allocator.counters
    moves = own_moves(slot.arch, table)
    if not counted:
        fallen = moves.fallen
        moves.bump(gfn >> REGION_SHIFT, delta, digesting=table.digesting)
        if moves.fallen is not fallen:
            table.epoch += 1
    if vm.lpage_warned or not moves.fallen:
        return
    for shift in SHIFTS:
        key = (shift, gfn >> shift)
        if not any(region >> shift - REGION_SHIFT == key[1] for region in moves.fallen):
            continue  # it can not be below 0, and is worked out when it may be
        before = moves.known.get(key)
        now = disallow_lpage(slot, *key) if before is None else before + delta
        moves.known[key] = now
        if now < 0 and not vm.lpage_warned:
            vm.lpage_warned = True
            vm.log.add(LPAGE)
