"""Compare one VM between two lanes in what every policy has: slots, counters, notifiers, whether it lives.

Arrays are left out (replay.analyses.arrays follows them), and so is what only one policy has (the sticky flag).
`state_difference()` says what is compared; a `Difference` gives the same answer after each event for what the event can have
changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Final

from replay.events import Event, MemslotSet
from replay.kvm.counters import Counters
from replay.kvm.lpage_moves import REGION_SHIFT
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.vm import Vm
from replay.runs import Run
from replay.units import counted

Cell = tuple[int, int]
"""Address space and gfn of a counter."""
Page = tuple[int, int, Sequence[int]]
"""Address space, first gfn, and the counters from there on."""


def state_difference(a: Vm, b: Vm) -> dict[str, tuple[str, str]]:
    """Return the fields that differ, in a fixed order, with both lanes' values in words; empty when nothing does.

    Cost: proportional to the number of slots and of counters that are not zero.
    """
    return {name: words_of(a, b, name) for name, view in _VIEWS.items() if view(a) != view(b)}


def words_of(a: Vm, b: Vm, field: str) -> tuple[str, str]:
    """Return what two lanes have in a field that differs, in words. Cost: as for state_difference()."""
    mine, theirs = _VIEWS[field](a), _VIEWS[field](b)
    return _words(mine, theirs), _words(theirs, mine)


def _slots(vm: Vm) -> list[str]:
    slots = sorted(vm.slots(), key=lambda slot: slot.key)
    return [f"slot {s.id} as {s.as_id} at gfn {s.base_gfn:#x}, {counted(s.npages, 'page')}, flags {s.flags:#x}" for s in slots]


def _counts(vm: Vm) -> list[str]:
    return [f"as {as_id} gfn {gfn:#x} = {count}" for as_id, gfn, count in _cells(vm)]


def _cells(vm: Vm) -> Iterator[tuple[int, int, int]]:
    """Yield address space, gfn and count of each counter that is not zero, slot by slot."""
    return _cells_of(_pages(vm))


def _pages(vm: Vm) -> Iterator[Page]:
    """Yield the counters of each 128 gfns of which one is not zero, slot by slot."""
    for slot in sorted(vm.slots(), key=lambda slot: slot.key):
        yield from ((slot.as_id, slot.base_gfn + first, counts) for first, counts in slot.arch.counts.pages())


def _cells_of(pages: Iterable[Page]) -> Iterator[tuple[int, int, int]]:
    for as_id, first, counts in pages:
        yield from ((as_id, gfn, count) for gfn, count in enumerate(counts, first) if count)


def _lpage_moves(vm: Vm) -> list[str]:
    """Say what of disallow_lpage does not follow from the counters, which are a field of their own."""
    return [f"as {as_id} gfn {gfn:#x} {moves:+d} beside the counters" for as_id, gfn, moves in _moves(vm)]


def _moves(vm: Vm) -> Iterator[tuple[int, int, int]]:
    """Yield address space, first gfn and moves of each 2 MiB region that has any, slot by slot."""
    for slot in sorted(vm.slots(), key=lambda slot: slot.key):
        yield from ((slot.as_id, region << REGION_SHIFT, moves) for region, moves in slot.arch.lpage_moves.items())


def _moves_at(vm: Vm, cell: Cell) -> list[int]:
    """Return the moves of a region, given by a gfn of it, in each slot that has any."""
    as_id, gfn = cell
    slots = vm.spaces[as_id].by_base() if as_id < vm.nas else ()
    return [moves for slot in slots if (moves := slot.arch.lpage_moves.at(gfn >> REGION_SHIFT))]


_VIEWS: Final[dict[str, Callable[[Vm], list[str]]]] = {
    "shadow_root_allocated": lambda vm: ["set" if vm.shadow_root_allocated else "not set"],
    "vm_bugged": lambda vm: ["dead (vm_bugged)" if vm.vm_bugged else "alive"],
    "slots": _slots,
    "counts": _counts,
    "disallow_lpage": _lpage_moves,
    "notifiers": lambda vm: [f"node {node}" for node in sorted(vm.nodes)],
    "indirect_shadow_pages": lambda vm: [str(vm.indirect_shadow_pages)],
}


def _words(mine: list[str], theirs: list[str]) -> str:
    """Say what one side has that the other has not, shortly."""
    extra = list((Counter(mine) - Counter(theirs)).elements())
    if not extra:
        return "less" if mine else "none"
    return ", ".join(extra[:3]) + (f" and {len(extra) - 3:,} more" if len(extra) > 3 else "")


class Difference:
    """Which fields of one VM differ between two lanes, after events that named it.

    A counter that differs is remembered: as long as it does, nobody looks at the others. Regions of 2 MiB likewise.
    """

    def __init__(self) -> None:
        self._slots: bool | None = None  # None: not compared yet
        self._cell: Cell | None = None
        self._region: Cell | None = None

    def after(self, a: Vm, b: Vm, what: Event | Run) -> list[str]:
        """Return the fields that differ after an event or a run on the VM, in the order of state_difference().

        Cost: some microseconds; proportional to slots and to what is touched of counters when something began or ceased to
        differ, or when counters are equal that are not shared.
        """
        if self._slots is None:
            self._slots = _slots_differ(a, b)
        elif not isinstance(what, Run):
            self._slots = self._slots_after(a, b, what)
        differing = {
            "shadow_root_allocated": a.shadow_root_allocated != b.shadow_root_allocated,
            "vm_bugged": a.vm_bugged != b.vm_bugged,
            "slots": self._slots,
            "counts": self._counts_differ(a, b),
            "disallow_lpage": self._moves_differ(a, b),
            "notifiers": sorted(a.nodes) != sorted(b.nodes),
            "indirect_shadow_pages": a.indirect_shadow_pages != b.indirect_shadow_pages,
        }
        return [field for field, differs in differing.items() if differs]

    def _slots_after(self, a: Vm, b: Vm, event: Event) -> bool:
        """Tell whether slots differ after an event: a memslot call changes one, if any."""
        if self._slots or not isinstance(event, MemslotSet):
            return _slots_differ(a, b)
        as_id, slot_id = event.slot >> 16, event.slot & 0xFFFF
        one, other = (vm.spaces[as_id].by_id(slot_id) if as_id < vm.nas else None for vm in (a, b))
        return one is not other and (one is None or other is None or _place(one) != _place(other))

    def _counts_differ(self, a: Vm, b: Vm) -> bool:
        if self._cell is not None and _count_at(a, self._cell) != _count_at(b, self._cell):
            return True
        self._cell = None
        if self._slots:
            return self._cells_differ(a, b)
        for mine, theirs in zip(a.spaces, b.spaces, strict=False):  # a space that one lane has not is empty, as slots are equal
            for one, other in _slot_pairs(mine, theirs):
                index = _first_difference(one.arch.counts, other.arch.counts)
                if index is not None:
                    self._cell = (one.as_id, one.base_gfn + index)
                    return True
        return False

    def _moves_differ(self, a: Vm, b: Vm) -> bool:
        if self._slots:
            return self._regions_differ(a, b)
        pairs = (pair for mine, theirs in zip(a.spaces, b.spaces, strict=False) for pair in _slot_pairs(mine, theirs))
        return any(not one.arch.lpage_moves.equal(other.arch.lpage_moves) for one, other in pairs)

    def _regions_differ(self, a: Vm, b: Vm) -> bool:
        """Compare the moves of VMs whose slots differ, and remember a region that does."""
        if self._region is not None and sorted(_moves_at(a, self._region)) != sorted(_moves_at(b, self._region)):
            return True
        for pair in zip_longest(_moves(a), _moves(b)):
            if pair[0] != pair[1]:
                regions = [(moved[0], moved[1]) for moved in pair if moved is not None]
                self._region = next((one for one in regions if sorted(_moves_at(a, one)) != sorted(_moves_at(b, one))), None)
                return True
        return False

    def _cells_differ(self, a: Vm, b: Vm) -> bool:
        """Compare the counters of VMs whose slots differ, and remember one that does."""
        mine, theirs = _pages(a), _pages(b)
        for one, other in zip_longest(mine, theirs):
            if one != other:
                rest = [_cells_of(chain([page] if page else [], pages)) for page, pages in ((one, mine), (other, theirs))]
                return self._rest_differs(a, b, zip_longest(*rest))
        return False

    def _rest_differs(self, a: Vm, b: Vm, pairs: Iterable[tuple[tuple[int, int, int] | None, ...]]) -> bool:
        """Compare counters one by one, slot by slot, of which pages are not the same."""
        for pair in pairs:
            if pair[0] != pair[1]:
                cells = [(cell[0], cell[1]) for cell in pair if cell is not None]
                self._cell = next((cell for cell in cells if _count_at(a, cell) != _count_at(b, cell)), None)
                return True
        return False


def _slot_pairs(mine: Memslots, theirs: Memslots) -> Iterator[tuple[Memslot, Memslot]]:
    return zip(mine.by_base(), theirs.by_base(), strict=True)


def _place(slot: Memslot) -> tuple[int, ...]:
    return (slot.as_id, slot.id, slot.base_gfn, slot.npages, slot.flags)


def _slots_differ(a: Vm, b: Vm) -> bool:
    mine, theirs = ([_place(slot) for space in vm.spaces for slot in space.by_base()] for vm in (a, b))
    return mine != theirs


def _count_at(vm: Vm, cell: Cell) -> int:
    as_id, gfn = cell
    slot = vm.spaces[as_id].by_gfn(gfn) if as_id < vm.nas else None
    return 0 if slot is None else slot.arch.counts.get(gfn - slot.base_gfn, 0)


def _first_difference(mine: Counters, theirs: Counters) -> int | None:
    """Return the index of a counter that differs, None when all are equal."""
    if mine.roots is theirs.roots:
        return None
    for pages in zip_longest(mine.pages(), theirs.pages()):
        if pages[0] != pages[1]:
            first = min(page[0] for page in pages if page is not None)
            counts = (page[1] if page is not None and page[0] == first else () for page in pages)
            apart = [abs(one - other) for one, other in zip_longest(*counts, fillvalue=0)]
            return first + apart.index(max(apart))  # the one that will be apart for longest, as far as one can tell
    return None
