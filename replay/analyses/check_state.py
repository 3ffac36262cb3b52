"""Hold the model's state against what was read from a kernel, field by field.

Each comparison is a row with the kernel's own name and the place where the kernel keeps it. Source of the fields: struct kvm,
struct kvm_arch, struct kvm_memory_slot [6.1, 6.12].
"""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from replay.events import ObservedArea, ObservedSlot, ObservedVm
from replay.kvm.allocator import (
    SITE_DIRTY,
    SITE_LPAGE,
    SITE_RMAP,
    SITE_WT_CREATE,
    SITE_WT_REGISTER,
    SITE_WT_ROOT,
    Allocation,
)
from replay.kvm.memslot import Memslot
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.vm import Vm
from replay.units import counted

STATE: Final = "VM state"
ORDER: Final = "slots and their order"
GEOMETRY: Final = "slot geometry and flags"
ARRAYS: Final = "slot arrays"
COUNTS: Final = "gfn counters"
AREAS: Final = "allocations by site"

SITES: Final = frozenset({SITE_DIRTY, SITE_LPAGE, SITE_RMAP, SITE_WT_CREATE, SITE_WT_REGISTER, SITE_WT_ROOT})
"""Allocating functions that the model knows."""


@attrs.frozen(eq=False, repr=False)
class Compared:
    """One comparison. reason: why it can not be made; then expected and observed say nothing."""

    facet: str
    what: str
    expected: str
    observed: str
    source: str
    reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether model and kernel agree."""
        return self.expected == self.observed


def shadow_settled(vm: Vm) -> bool:
    """Tell whether a first shadow root would allocate nothing. Source: mmu.c mmu_first_shadow_root_alloc() [6.1, 6.12]."""
    return vm.have_rmaps() and kvm_page_track_write_tracking_enabled(vm)


def compare_state(vm: Vm, seen: ObservedVm, *, dark: str) -> Iterator[Compared]:
    """Yield the comparisons of a VM's state. dark: why nothing is known of its shadow pages, "" when it is."""
    yield from _compare_vm(vm, seen, dark=dark)
    if seen.slots is not None:
        yield from _compare_slots(vm, seen.slots, dark=dark)


def _compare_vm(vm: Vm, seen: ObservedVm, *, dark: str) -> Iterator[Compared]:
    compiled = vm.profile.config_external_write_tracking or not vm.policy.register_checks_mm
    notifier = bool(vm.nodes) or vm.policy.kvm_owns_node
    flag = vm.external_write_tracking_enabled
    rows: tuple[tuple[str, int | None, int, str, str], ...] = (
        ("nr_memslot_pages", seen.nr_memslot_pages, vm.nr_memslot_pages, "kvm_main.c kvm_commit_memory_region()", ""),
        ("vm_bugged", seen.vm_bugged, vm.vm_bugged, "kvm_host.h KVM_BUG_ON(), kvm_vm_bugged()", ""),
        (
            "external_write_tracking_enabled",
            seen.external_write_tracking_enabled,
            flag,
            "page_track.c kvm_enable_external_write_tracking() [6.12]",
            "",
        ),
        (
            "has_notifier",
            seen.has_notifier if compiled else None,
            notifier,
            "page_track.c kvm_page_track_register_notifier()",
            "",
        ),
        (
            "shadow_root_allocated",
            seen.shadow_root_allocated,
            vm.shadow_root_allocated,
            "mmu.c mmu_first_shadow_root_alloc()",
            dark,
        ),
        ("indirect_shadow_pages", seen.indirect_shadow_pages, vm.indirect_shadow_pages, "mmu.c account_shadowed()", dark),
    )
    for name, observed, expected, source, reason in rows:
        if observed is not None:
            yes_no = isinstance(observed, bool)
            ours, theirs = (_WORDS[bool(number)] if yes_no else str(number) for number in (expected, observed))
            yield Compared(STATE, name, ours, theirs, source, reason)


def _compare_slots(vm: Vm, seen: tuple[ObservedSlot, ...], *, dark: str) -> Iterator[Compared]:
    ours = {slot.key: slot for slot in vm.slots()}
    expected = " ".join(f"{as_id}:{slot_id}" for as_id, slot_id in ours)
    observed = " ".join(f"{slot.as_id}:{slot.id}" for slot in seen)
    yield Compared(ORDER, "slots in iteration order", expected, observed, "kvm_host.h kvm_for_each_memslot()")
    for slot in seen:
        mine = ours.get((slot.as_id, slot.id))
        if mine is not None:
            yield from _compare_slot(vm, mine, slot, dark=dark)


def _compare_slot(vm: Vm, mine: Memslot, seen: ObservedSlot, *, dark: str) -> Iterator[Compared]:
    name = f"slot {seen.as_id}:{seen.id}"
    unsettled = "" if shadow_settled(vm) else dark
    yield Compared(
        GEOMETRY,
        name,
        f"gfn {mine.base_gfn:#x} pages {mine.npages} flags {mine.flags}",
        f"gfn {seen.base_gfn:#x} pages {seen.npages} flags {seen.flags}",
        "kvm_main.c __kvm_set_memory_region()",
    )
    arch = mine.arch
    rows = (
        (
            "gfn_write_track",
            (arch.gfn_write_track,),
            (seen.gfn_write_track,),
            "page_track.c kvm_page_track_create_memslot()",
            unsettled,
        ),
        ("rmap", tuple(arch.rmap), seen.rmap, "x86.c memslot_rmap_alloc()", unsettled),
        ("lpage_info", tuple(arch.lpage_info), seen.lpage_info, "x86.c kvm_alloc_memslot_metadata()", ""),
        ("dirty_bitmap", (mine.dirty_bitmap,), (seen.dirty_bitmap,), "kvm_main.c kvm_prepare_memory_region()", ""),
    )
    for array, pointers, flags, source, reason in rows:
        there = tuple(pointer is not None for pointer in pointers)
        yield Compared(ARRAYS, f"{name} {array}", _pointers(there), _pointers(flags), source, reason)
    if seen.counts is not None:
        counts = {mine.base_gfn + index: count for index, count in sorted(arch.counts.items())}
        observed = " ".join(f"{row.gfn:#x}:{row.count}" for row in seen.counts)
        expected = " ".join(f"{gfn:#x}:{count}" for gfn, count in counts.items())
        yield Compared(COUNTS, f"{name} counters", expected, observed, "page_track.c update_gfn_write_track()", dark)


_WORDS: Final = ("no", "yes")


def _pointers(there: Sequence[int]) -> str:
    """Say which arrays of a kind are there, one a level."""
    return ", ".join("allocated" if one else "NULL" for one in there)


@attrs.define(eq=False, repr=False)
class Window:
    """What the model allocated and freed since the observation before. Each allocation is an object, so identity decides."""

    taken: dict[int, Allocation] = attrs.field(factory=dict)
    freed: list[Allocation] = attrs.field(factory=list)
    events: int = 0

    def add(self, taken: list[Allocation], freed: list[Allocation]) -> None:
        """Add what one event did; what is taken and freed in one window leaves no trace in it."""
        self.events += 1
        for allocation in taken:
            self.taken[allocation.number] = allocation
        for allocation in freed:
            if self.taken.pop(allocation.number, None) is None:
                self.freed.append(allocation)

    def sites(self) -> dict[str, list[int]]:
        """Return areas and pages, added and freed, by site; sites without areas (slab) are left out."""
        found: dict[str, list[int]] = {}
        for place, allocations in ((0, list(self.taken.values())), (2, self.freed)):
            for allocation in allocations:
                if allocation.cost.areas:
                    row = found.setdefault(allocation.site, [0, 0, 0, 0])
                    row[place] += allocation.cost.areas
                    row[place + 1] += allocation.cost.area_pages
        return found


def compare_areas(window: Window, seen: tuple[ObservedArea, ...]) -> Compared | None:
    """Return the comparison of a window's allocations; None when there is nothing to compare."""
    ours = window.sites()
    known = {
        area.site: [area.areas_added, area.pages_added, area.areas_freed, area.pages_freed] for area in seen if area.site in SITES
    }
    if not window.events and not known and not ours:
        return None
    return Compared(AREAS, "areas", _rows(ours), _rows(known), "the caller column of /proc/vmallocinfo")


def _rows(sites: dict[str, list[int]]) -> str:
    return "; ".join(f"{site} {', '.join(_changes(row))}" for site, row in sorted(sites.items()))


def _changes(row: list[int]) -> Iterator[str]:
    """Say areas and pages, taken and given back, of one function.

    >>> list(_changes([2, 3, 1, 1]))
    ['+2 areas of 3 pages', '-1 area of 1 page']
    """
    for sign, (areas, pages) in (("+", row[:2]), ("-", row[2:])):
        if areas or pages:
            yield f"{sign}{counted(areas, 'area')} of {counted(pages, 'page')}"
