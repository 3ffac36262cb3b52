"""Carry out a memslot request that succeeds in one go: the calls of VMMs, nearly all of them.

`kvm_set_memory_region()` and what it calls are the specification: step by step, so that each can fail and be undone. Where no
allocation can fail and no check refuses, the order of the steps shows in nothing but the order of allocations, which is kept
here; whatever is unusual is left to the specification. A test runs both over the same calls.
Source: that of the functions that it stands for, in set_memslot.py, mmu.py and page_track.py.
"""

from functools import partial
from typing import Final

import attrs

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
    UNNAMED,
    Allocation,
    Batch,
    Parts,
    batch_of,
    delta_of,
)
from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.lpage_moves import LpageMoves
from replay.kvm.memory_region import CREATE, DELETE, FAILED, FLAGS_ONLY, MOVE, Request, refused_by_arguments
from replay.kvm.memslot import KVM_NR_PAGE_SIZES, Arch, Memslot, lpages
from replay.kvm.memslots import Memslots
from replay.kvm.mmu import kvm_mmu_max_gfn
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.set_memslot import kvm_free_memslot, kvm_set_memory_region
from replay.kvm.tallies import Delta
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import Cost, vcalloc_cost
from replay.units import U64_MAX

Answer = tuple[int, str, str]
"""What kvm_set_memory_region() returns: result, change, and the name of the check that refused."""

_OBJECT, _INVALID, _BITMAP, _RMAPS, _LPAGE_INFO, _TRACKED = 1, 2, 4, 8, 16, 32
"""Bits that say which pieces of memory come or go together, in the order in which they are allocated."""
_ARRAYS: Final = _RMAPS | _LPAGE_INFO | _TRACKED
_FIXED: Final = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD
"""Flags that no request changes."""
_CREATED: Final = (0, CREATE, "")
_DELETED: Final = (0, DELETE, "")
_MOVED: Final = (0, MOVE, "")
_CHANGED: Final = (0, FLAGS_ONLY, "")


def set_memory_region(request: Request) -> Answer:
    """Carry out one memslot request, in one go where that is the same. Source: as for kvm_set_memory_region()."""
    return set_at_once(request) or kvm_set_memory_region(request)


def set_at_once(request: Request) -> Answer | None:
    """Carry out a request, or refuse it for its arguments; None, and nothing is done, when it needs the specification.

    Source: virt/kvm/kvm_main.c __kvm_set_memory_region() [6.1, 6.12], by way of the functions that it stands for.
    """
    vm = request.vm
    allocator = vm.allocator
    if allocator.limit_pages is not None or allocator.injections or allocator.forced is not None:
        return None
    facts, answers = vm.check_facts << 1 | vm.vm_bugged, request.answers
    row = answers[facts] if facts in answers else refused_by_arguments(request)
    if row is not None:
        return -row.errno, FAILED, row.name
    flags = request.flags
    if flags & KVM_MEM_GUEST_MEMFD or (vm.nodes and vm.policy.flush_slot):
        return None
    space = vm.spaces[request.as_id]
    old = space.by_id(request.id)
    if not request.npages:
        return None if old is None or vm.nr_memslot_pages < old.npages else _delete(request, space, old)
    if old is None:
        return _create(request, space)
    if request.userspace_addr != old.userspace_addr or request.npages != old.npages or (flags ^ old.flags) & _FIXED:
        return None
    if request.base_gfn != old.base_gfn:
        return _move(request, space, old)
    return None if flags == old.flags else _change_flags(request, space, old)


def _create(request: Request, space: Memslots) -> Answer | None:
    vm, base_gfn, npages = request.vm, request.base_gfn, request.npages
    arrays, end_gfn = _facts_of(vm)
    place = space.room(base_gfn, base_gfn + npages)
    if place < 0 or base_gfn + npages > end_gfn or vm.nr_memslot_pages + npages > U64_MAX:
        return None
    what = _OBJECT | arrays
    if request.flags & KVM_MEM_LOG_DIRTY_PAGES and vm.bitmap_mode():
        what |= _BITMAP
    made = _memory(request, what, 0, None)
    if made is None:
        return None
    space.create_at_once(_slot(request, made, vm.allocator.event, _arch(request, made, what), what), place)
    vm.nr_memslot_pages += npages
    return _CREATED


def _delete(request: Request, space: Memslots, old: Memslot) -> Answer | None:
    vm, held = request.vm, _held(old)
    if not held or _memory(request, _INVALID, held | _OBJECT | _INVALID, old) is None:
        return None
    space.delete_at_once(old)
    vm.nr_memslot_pages -= old.npages
    if vm.allocator.driver_counts.ever_counted:
        vm.external_adds.drop(old.base_gfn, old.base_gfn + old.npages)
    old.arch.drop_counters()
    return _DELETED


def _move(request: Request, space: Memslots, old: Memslot) -> Answer | None:
    vm, held, end_gfn = request.vm, _held(old), request.base_gfn + request.npages
    arrays, last_gfn = _facts_of(vm)
    if vm.nodes or not held or end_gfn > last_gfn or space.overlaps(request.base_gfn, end_gfn, request.id):
        return None
    what, kept = _OBJECT | _INVALID | arrays, None
    if request.flags & KVM_MEM_LOG_DIRTY_PAGES:
        if old.dirty_bitmap is not None:
            kept, held = old.dirty_bitmap, held & ~_BITMAP
        elif vm.bitmap_mode():
            what |= _BITMAP
    made = _memory(request, what, held | _OBJECT | _INVALID, old)
    if made is None:
        return None
    slot = _slot(request, made, old.born, _arch(request, made, what), what)
    if kept is not None:
        slot.dirty_bitmap = kept
    space.move_at_once(old, slot)
    old.arch.drop_counters()
    return _MOVED


def _change_flags(request: Request, space: Memslots, old: Memslot) -> Answer | None:
    """Begin or end dirty logging: no other flag of a slot may change."""
    what, freed = _OBJECT, _OBJECT
    if request.flags & KVM_MEM_LOG_DIRTY_PAGES:
        what |= _BITMAP if request.vm.bitmap_mode() else 0
    elif old.raw_bitmap is not None:
        freed |= _BITMAP
    made = _memory(request, what, freed, old)
    if made is None:
        return None
    space.change_at_once(_slot(request, made, old.born, old.arch, what))
    return _CHANGED


def free_memslot(vm: Vm, slot: Memslot) -> None:
    """Free a slot with its bitmap and arrays, in one go where that is the same. Source: as for kvm_free_memslot()."""
    allocator, held = vm.allocator, _held(slot)
    if allocator.limit_pages is not None or not held:
        kvm_free_memslot(vm, slot)
        return
    slot_object = allocator.slot_object
    key = (0, held | _OBJECT, 0, slot.base_gfn & _WITHIN_GIB, slot.npages, slot_object.nominal_bytes)
    deed = _DEEDS.get(key) or _deed_of(key, slot_object)
    allocator.books.note(deed.delta, vm.number)
    allocator.effects.marks += deed.delta.marks
    allocator.effects.freed += deed.freed(None, slot)
    slot.arch.drop_counters()


def _facts_of(vm: Vm) -> tuple[int, int]:
    """Return which arrays a new or moved slot gets, and behind which gfn it may not end; worked out once for some flags."""
    flags = (vm.shadow_root_allocated, vm.external_write_tracking_enabled, vm.page_write_tracking_disabled)
    known = vm.known.get(flags)
    if known is None:
        what = _LPAGE_INFO | _RMAPS if vm.have_rmaps() else _LPAGE_INFO
        if not vm.policy.at_first_add and kvm_page_track_write_tracking_enabled(vm):
            what |= _TRACKED
        known = vm.known[flags] = what, kvm_mmu_max_gfn(vm) + 1
    return known


def _held(slot: Memslot) -> int:
    """Return which arrays a slot has, and whether a bitmap.

    0 when it has some of a kind and lacks others, which nothing that can not fail leaves behind.
    """
    arch = slot.arch
    what = _LPAGE_INFO if arch.raw_write_track is None else _LPAGE_INFO | _TRACKED
    if arch.made is not None:
        if RMAP in arch.made.parts.first:
            what |= _RMAPS
    else:
        if arch.raw_rmap[0] is not None:
            what |= _RMAPS
        if len(arch.arrays()) != _COUNTS[what]:
            return 0
    return what if slot.raw_bitmap is None else what | _BITMAP


_COUNTS: Final = {
    _LPAGE_INFO | rmaps | tracked: KVM_NR_PAGE_SIZES - 1 + bool(rmaps) * KVM_NR_PAGE_SIZES + bool(tracked)
    for rmaps in (0, _RMAPS)
    for tracked in (0, _TRACKED)
}
"""How many arrays there are of each choice."""


@attrs.frozen(eq=False)
class _Deed(Parts):
    """What a call does to memory: first the parts come, then what is freed goes. gone: bits of the latter."""

    gone: int
    count: int
    delta: Delta

    def freed(self, made: Batch | None, old: Memslot | None) -> list[Allocation]:
        """Return what was freed, in order: a MOVE frees the arrays before the bitmap, as they are the arch's to free."""
        if old is None:
            return []
        moved, gone = self.kinds & _INVALID and self.kinds & _OBJECT, self.gone
        found = [] if made is None or not gone & _INVALID else [made.piece(SLOT, 1 if moved else 0)]
        if old.made is not None and old.made is old.arch.made and old.made.parts.kinds == gone & ~_INVALID and not moved:
            first, *others = old.made.pieces()
            return [*found, *others, first]
        arrays = old.arch.arrays() if gone & _ARRAYS else []
        bitmap = [] if old.dirty_bitmap is None or not gone & _BITMAP else [old.dirty_bitmap]
        return [*found, *arrays, *bitmap, old.object] if moved else [*found, *bitmap, *arrays, old.object]


def _memory(request: Request, come: int, gone: int, old: Memslot | None) -> Batch | None:
    """Allocate what a slot gets, and free what the old one had; return what was made.

    None, and nothing is done, when an array is larger than all memory.
    """
    vm = request.vm
    allocator, number = vm.allocator, vm.number
    slot_object, base_gfn = allocator.slot_object, request.base_gfn & _WITHIN_GIB
    if old is None:
        key = (come, 0, base_gfn, 0, request.npages, slot_object.nominal_bytes)
    else:
        key = (come, gone, base_gfn, old.base_gfn & _WITHIN_GIB, old.npages, slot_object.nominal_bytes)
    deed = _DEEDS.get(key) or _deed_of(key, slot_object)
    if allocator.total_ram_pages and deed.pages > allocator.total_ram_pages:
        return None
    made = batch_of((deed, allocator.number + 1, number, request.as_id, request.id, allocator.event))
    allocator.number += deed.count
    allocator.books.note(deed.delta, number)
    effects = allocator.effects
    if request.internal:  # one of several calls in an event
        effects.taken += made.pieces()
        effects.freed += deed.freed(made, old)
        effects.marks += deed.delta.marks
    else:
        effects.made, effects.old, effects.marks = made, old, deed.delta.marks
    return made


_Key = tuple[int, int, int, int, int, int]
_DEEDS: Final[dict[_Key, _Deed]] = {}
_DEEDS_MOST: Final = 4096
_WITHIN_GIB: Final = (1 << 9 * (KVM_NR_PAGE_SIZES - 1)) - 1
"""What of the first gfn decides how many large pages a slot touches."""


def _deed_of(key: _Key, slot_object: Cost) -> _Deed:
    """Work out what a call does to memory, and remember it for others of the same places and size."""
    come, gone, base_gfn, old_base_gfn, npages, _nominal_bytes = key
    pieces = [(site, array, cost) for bit, site, array, cost in _pieces(slot_object, base_gfn, npages) if come & bit]
    others = [(array, cost) for bit, _site, array, cost in _pieces(slot_object, old_base_gfn, npages) if gone & bit]
    if len(_DEEDS) >= _DEEDS_MOST:
        _DEEDS.clear()
    delta = delta_of([(array, cost) for _site, array, cost in pieces], others)
    made = _DEEDS[key] = _Deed(tuple(pieces), come, gone, len(pieces), delta)
    return made


def _pieces(slot_object: Cost, base_gfn: int, npages: int) -> list[tuple[int, str, str, Cost]]:
    """Return (bit, site, array, cost) of all that a slot can have, in the order of allocation."""
    counts = [lpages(base_gfn, npages, level) for level in range(1, KVM_NR_PAGE_SIZES + 1)]
    return [
        (_OBJECT, SITE_SLOT, SLOT, slot_object),
        (_INVALID, SITE_INVALID, SLOT, slot_object),
        (_BITMAP, SITE_DIRTY, DIRTY_BITMAP, vcalloc_cost(2 * 8 * -(-npages // 64))),
        *((_RMAPS, SITE_RMAP, RMAP, vcalloc_cost(8 * count)) for count in counts),
        *((_LPAGE_INFO, SITE_LPAGE, LPAGE_INFO, vcalloc_cost(4 * count)) for count in counts[1:]),
        (_TRACKED, SITE_WT_CREATE, GFN_WRITE_TRACK, vcalloc_cost(2 * npages)),
    ]


_bare_slot: Final = partial(object.__new__, Memslot)


def _slot(request: Request, made: Batch, born: int, arch: Arch, what: int) -> Memslot:
    """Return a new slot with what was made for it; object and bitmap get their names when somebody asks."""
    slot = _bare_slot()
    slot.as_id, slot.id = request.as_id, request.id
    slot.base_gfn, slot.npages = request.base_gfn, request.npages
    slot.flags, slot.userspace_addr = request.flags, request.userspace_addr
    slot.born, slot.arch, slot.made = born, arch, made
    slot.raw_object, slot.raw_bitmap = UNNAMED, UNNAMED if what & _BITMAP else None
    return slot


def _arch(request: Request, made: Batch, what: int) -> Arch:
    """Return what hangs on a new slot; several lanes share what they count from the beginning, as long as they do."""
    tracked = bool(what & _TRACKED)
    arch = Arch.of(made, tracked=tracked)
    newborn = request.newborn
    lead = None if newborn is None else newborn[tracked]
    if lead is not None:
        arch.counts = lead.counts.twin() if tracked else NO_COUNTERS
        arch.lpage_moves = lead.lpage_moves
        arch.lpage_moves.owners += 1
        return arch
    arch.counts = Counters(request.vm.allocator.counters, request.base_gfn, request.npages) if tracked else NO_COUNTERS
    arch.lpage_moves = LpageMoves()
    if newborn is not None:
        newborn[tracked] = arch
    return arch
