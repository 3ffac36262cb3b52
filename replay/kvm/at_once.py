"""Carry out a memslot request that succeeds in one go: the calls of VMMs, nearly all of them.

`kvm_set_memory_region()` and what it calls are the specification: step by step, so that each can fail and be undone. Where no
allocation can fail and no check refuses, the order of the steps shows in nothing but the order of allocations, which is kept
here; whatever is unusual is left to the specification. A test runs both over the same calls.
Source: that of the functions that it stands for, in set_memslot.py, mmu.py and page_track.py.
"""

from typing import Final

from replay.kvm.allocator import (
    DIRTY_BITMAP,
    GFN_WRITE_TRACK,
    LPAGE_INFO,
    RMAP,
    SITE_DIRTY,
    SITE_INVALID,
    SITE_LPAGE,
    SITE_RMAP,
    SITE_SLOT,
    SITE_WT_CREATE,
    SLOT,
    Allocation,
    Allocator,
    Parts,
)
from replay.kvm.counters import Counters
from replay.kvm.memory_region import CREATE, DELETE, FAILED, FLAGS_ONLY, MOVE, Request, refused_by_arguments
from replay.kvm.memslot import KVM_NR_PAGE_SIZES, Arch, Memslot, lpages
from replay.kvm.memslots import Memslots
from replay.kvm.mmu import kvm_mmu_max_gfn
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import Cost, vcalloc_cost
from replay.units import U64_MAX

Answer = tuple[int, str, str]
"""What kvm_set_memory_region() returns: result, change, and the name of the check that refused."""

_OBJECT, _INVALID, _BITMAP, _RMAPS, _LPAGE_INFO, _TRACKED = 1, 2, 4, 8, 16, 32
"""Bits that say which pieces of memory come or go together, in the order in which they are allocated."""
_FIXED: Final = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD
"""Flags that no request changes."""


def set_at_once(request: Request) -> Answer | None:
    """Carry out a request, or refuse it for its arguments; None, and nothing is done, when it needs the specification.

    Source: virt/kvm/kvm_main.c __kvm_set_memory_region() [6.1, 6.12], by way of the functions that it stands for.
    """
    vm, allocator = request.vm, request.vm.allocator
    if allocator.limit_pages is not None or allocator.injections or allocator.forced is not None:
        return None
    row = refused_by_arguments(request)
    if row is not None:
        return -row.errno, FAILED, row.name
    if request.flags & KVM_MEM_GUEST_MEMFD or (vm.policy.flush_slot and vm.nodes):
        return None
    space = vm.spaces[request.as_id]
    old = space.by_id(request.id)
    if not request.npages:
        return None if old is None or vm.nr_memslot_pages < old.npages else _delete(vm, space, old)
    if old is None:
        return _create(request, space)
    if request.userspace_addr != old.userspace_addr or request.npages != old.npages or (request.flags ^ old.flags) & _FIXED:
        return None
    if request.base_gfn != old.base_gfn:
        return _move(request, space, old)
    return None if request.flags == old.flags else _change_flags(request, space, old)


def _create(request: Request, space: Memslots) -> Answer | None:
    vm = request.vm
    if not _fits(request, space) or vm.nr_memslot_pages + request.npages > U64_MAX:
        return None
    what = _OBJECT | _arrays_of(vm)
    if request.flags & KVM_MEM_LOG_DIRTY_PAGES and vm.bitmap_mode():
        what |= _BITMAP
    slot = _made(request, what, vm.allocator.event)
    if slot is None:
        return None
    space.create(slot)
    vm.nr_memslot_pages += request.npages
    return 0, CREATE, ""


def _delete(vm: Vm, space: Memslots, old: Memslot) -> Answer | None:
    allocator = vm.allocator
    held, pieces = _held(old)
    if not held:
        return None
    invalid = allocator.take_all(_parts_of(allocator, _INVALID, 0, 0), vm.number, old.key)
    space.invalidate(old)
    space.delete(old)
    vm.nr_memslot_pages -= old.npages
    vm.external_adds.drop(old.base_gfn, old.base_gfn + old.npages)
    parts = _parts_of(allocator, held | _OBJECT | _INVALID, old.base_gfn, old.npages)
    allocator.free_all([*invalid, *pieces, old.object], parts, vm.number)
    old.arch.drop_counters()
    return 0, DELETE, ""


def _move(request: Request, space: Memslots, old: Memslot) -> Answer | None:
    vm = request.vm
    held, pieces = _held(old)
    if vm.nodes or not held or not _fits(request, space):
        return None
    what = _OBJECT | _INVALID | _arrays_of(vm)
    bitmap, logs = old.dirty_bitmap, request.flags & KVM_MEM_LOG_DIRTY_PAGES
    if logs and bitmap is None and vm.bitmap_mode():
        what |= _BITMAP
    slot = _made(request, what, old.born)
    if slot is None:
        return None
    if logs and bitmap is not None:
        slot.dirty_bitmap = bitmap
        held, pieces = held & ~_BITMAP, pieces[1:]
    elif bitmap is not None:
        pieces = [*pieces[1:], bitmap]
    space.invalidate(old)
    space.replace(old, slot)
    parts = _parts_of(vm.allocator, held | _OBJECT | _INVALID, old.base_gfn, old.npages)
    vm.allocator.free_all([vm.allocator.taken[1], *pieces, old.object], parts, vm.number)
    old.arch.drop_counters()
    return 0, MOVE, ""


def _change_flags(request: Request, space: Memslots, old: Memslot) -> Answer | None:
    """Begin or end dirty logging: no other flag of a slot may change."""
    vm, allocator, bitmap = request.vm, request.vm.allocator, old.dirty_bitmap
    logs = bool(request.flags & KVM_MEM_LOG_DIRTY_PAGES)
    slot = _made(request, _OBJECT | _BITMAP if logs and vm.bitmap_mode() else _OBJECT, old.born, old.arch)
    if slot is None:
        return None
    freed, pieces = _OBJECT, [old.object]
    if bitmap is not None:
        freed, pieces = _OBJECT | _BITMAP, [bitmap, old.object]
    space.replace(old, slot)
    allocator.free_all(pieces, _parts_of(allocator, freed, old.base_gfn, old.npages), vm.number)
    return 0, FLAGS_ONLY, ""


def _fits(request: Request, space: Memslots) -> bool:
    """Tell whether no other slot lies in the range, and no gfn of it is too large."""
    end_gfn = request.base_gfn + request.npages
    return end_gfn - 1 <= kvm_mmu_max_gfn(request.vm) and not space.overlaps(request.base_gfn, end_gfn, request.id)


def _arrays_of(vm: Vm) -> int:
    """Return which arrays a new or moved slot gets."""
    what = _LPAGE_INFO | _RMAPS if vm.have_rmaps() else _LPAGE_INFO
    return what | _TRACKED if not vm.policy.at_first_add and kvm_page_track_write_tracking_enabled(vm) else what


def _held(slot: Memslot) -> tuple[int, list[Allocation]]:
    """Return which arrays a slot has, and all of them with its bitmap, in the order in which they are freed at a DELETE.

    0 when it has some of a kind and lacks others, which nothing that can not fail leaves behind.
    """
    arch, what = slot.arch, _LPAGE_INFO
    pieces = arch.arrays()
    if arch.rmap[0] is not None:
        what |= _RMAPS
    if arch.gfn_write_track is not None:
        what |= _TRACKED
    if len(pieces) != _COUNTS[what]:
        return 0, pieces
    if slot.dirty_bitmap is not None:
        return what | _BITMAP, [slot.dirty_bitmap, *pieces]
    return what, pieces


_COUNTS: Final = {
    _LPAGE_INFO | rmaps | tracked: KVM_NR_PAGE_SIZES - 1 + bool(rmaps) * KVM_NR_PAGE_SIZES + bool(tracked)
    for rmaps in (0, _RMAPS)
    for tracked in (0, _TRACKED)
}
"""How many arrays there are of each choice."""


def _made(request: Request, what: int, born: int, arch: Arch | None = None) -> Memslot | None:
    """Return a new slot with what is allocated for it; None when an array is larger than all memory.

    arch: the arrays that it takes over, None to give it some of its own.
    """
    vm, allocator = request.vm, request.vm.allocator
    parts = _parts_of(allocator, what, request.base_gfn, request.npages)
    if allocator.total_ram_pages and parts.pages > allocator.total_ram_pages:
        return None
    made = allocator.take_all(parts, vm.number, (request.as_id, request.id))
    if arch is None:
        arch = Arch([None] * KVM_NR_PAGE_SIZES, [], None)
        if what & _TRACKED:
            arch.gfn_write_track = made[-1]
            arch.counts = Counters(allocator.counters, request.base_gfn, request.npages)
            vm.spaces[request.as_id].forget_layout()
        end = len(made) - bool(what & _TRACKED)
        first = end - KVM_NR_PAGE_SIZES + 1
        arch.lpage_info = list[Allocation | None](made[first:end])
        if what & _RMAPS:
            arch.rmap = list[Allocation | None](made[first - KVM_NR_PAGE_SIZES : first])
    slot = Memslot(
        request.as_id, request.id, request.base_gfn, request.npages, request.flags, request.userspace_addr, born, made[0], arch
    )
    if what & _BITMAP:
        slot.dirty_bitmap = made[2 if what & _INVALID else 1]
    return slot


def _parts_of(allocator: Allocator, what: int, base_gfn: int, npages: int) -> Parts:
    """Return pieces of memory that come or go together, for a slot of some place and size; worked out once for each."""
    key = (what, base_gfn & _WITHIN_GIB, npages, allocator.slot_object.nominal_bytes)
    known = _PARTS.get(key)
    if known is None:
        if len(_PARTS) >= _PARTS_MOST:
            _PARTS.clear()
        found = _pieces(allocator.slot_object, base_gfn, npages)
        known = _PARTS[key] = Parts(tuple((site, array, cost) for bit, site, array, cost in found if what & bit))
    return known


_PARTS: Final[dict[tuple[int, int, int, int], Parts]] = {}
_PARTS_MOST: Final = 4096
_WITHIN_GIB: Final = (1 << 9 * (KVM_NR_PAGE_SIZES - 1)) - 1
"""What of the first gfn decides how many large pages a slot touches."""


def _pieces(slot_object: Cost, base_gfn: int, npages: int) -> list[tuple[int, str, str, Cost]]:
    """Return (bit, site, array, cost) of all that a slot can have, in the order of allocation."""
    found = [(_OBJECT, SITE_SLOT, SLOT, slot_object), (_INVALID, SITE_INVALID, SLOT, slot_object)]
    if not npages:
        return found
    counts = [lpages(base_gfn, npages, level) for level in range(1, KVM_NR_PAGE_SIZES + 1)]
    found.append((_BITMAP, SITE_DIRTY, DIRTY_BITMAP, vcalloc_cost(2 * 8 * -(-npages // 64))))
    found += [(_RMAPS, SITE_RMAP, RMAP, vcalloc_cost(8 * count)) for count in counts]
    found += [(_LPAGE_INFO, SITE_LPAGE, LPAGE_INFO, vcalloc_cost(4 * count)) for count in counts[1:]]
    return [*found, (_TRACKED, SITE_WT_CREATE, GFN_WRITE_TRACK, vcalloc_cost(2 * npages))]
