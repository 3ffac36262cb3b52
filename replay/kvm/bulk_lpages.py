"""Move disallow_lpage by a whole run, for the bulk rule: what no counter shows, and the rows that warn.

A count is a sum without limits, so that of shadow pages of level 1 only the sum by region matters. It can be below 0 only around
regions where `LpageMoves` are: there, and only there, each row's count is worked out, from the last one backwards.
Source: replay.kvm.lpages for the rule.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from replay.kvm.bulk_rows import KIND_BITS, KIND_MASK, LEVEL_ONE, Rows, Sorted
from replay.kvm.cells import mixed, sum_between
from replay.kvm.kernel_log import LPAGE
from replay.kvm.layout import LIVE, Layout
from replay.kvm.leaves import Table
from replay.kvm.lpage_moves import CHUNK_MASK, CHUNK_SHIFT, NAMED, REGION_SHIFT, LpageMoves
from replay.kvm.lpages import SHIFTS, first_disallow, moved_in, own_moves
from replay.kvm.memslot import Memslot
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT
from replay.units import U64_MAX

_LOW: Final = ACCOUNT & KIND_MASK | LEVEL_ONE
"""Kinds from here on are shadow pages of level 1."""
_STEPS: Final = [1, -1, 0, 0, 1, -1, 1, -1]
"""What a row adds to disallow_lpage, by the low bits of its kind."""
_STEPS_OFF: Final = [0, 0, 0, 0, 0, 0, 1, -1]
"""What it adds where the slot does not count."""

_NUMBER_BITS: Final = 31
"""Bits of the number of a row in its run."""


def slots_of(layout: Layout) -> list[Memslot]:
    """Return the slots of a run's spaces; the place of one is twice its number and one. Source: see the module."""
    return [slot for space, _enabled in layout.spaces for slot in space.slots]


def move_level_ones(rows: Rows, order: Sorted, place: Any, layout: Layout, table: Table) -> None:
    """Take the shadow pages of level 1 into the moves of their regions. place: of each counter of `order` in the layout.

    Cost: some 10 ns a page, and 10 us for 8 GiB that they touch. Source: see the module.
    """
    import numpy as np

    at = (order.kind >= _LOW).nonzero()[0]
    if not len(at):
        return
    down = (order.kind.take(at) & 1).astype(np.int32)
    region = order.rows.take(at) >> order.number_mask.bit_length() + KIND_BITS + REGION_SHIFT
    first = _firsts(region)
    starts = first.nonzero()[0]
    where = place.take(order.counters_of(at.take(starts)))
    if (where != place.take(order.counters_of(at.take(_ends(starts, len(at)) - 1)))).any():
        where = place.take(order.counters_of(at))  # memslots meet within a region
        first |= _firsts(where)
        starts = first.nonzero()[0]
        where = where.take(starts)
    downs = np.add.reduceat(down, starts)
    change = (_ends(starts, len(at)) - starts).astype(np.int32)
    change -= 2 * downs
    region = region.take(starts).astype(np.int64)
    if rows.space is not None:
        region &= (1 << rows.shift - REGION_SHIFT) - 1
    parts = list(_parts(slots_of(layout), where, region, table))
    cells, before = region & CHUNK_MASK, downs.copy()  # what lies in no slot is never doubtful
    for _moves, chunk, part in parts:
        before[part] = chunk.take(cells[part])
    doubtful = (before < downs).nonzero()[0]
    if len(doubtful) and not all(vm.lpage_warned for vm in rows.vms):
        lowest = _lowest(first.cumsum() - 1, order.numbers(at), down, doubtful)
        _note_fallen(parts, region, doubtful[before.take(doubtful) + lowest < 0], table)
    before += change
    for moves, chunk, part in parts:
        chunk[cells[part]] = before[part]
        if table.digesting:
            added = mixed(region[part] | NAMED)
            added *= change[part].astype(np.int64).view(np.uint64)
            moves.digest = moves.digest + int(added.sum()) & U64_MAX


def _ends(starts: Any, length: int) -> Any:
    """Return what is behind the last row of each group."""
    import numpy as np

    ends = np.empty_like(starts)
    ends[:-1] = starts[1:]
    ends[-1] = length
    return ends


def _firsts(column: Any) -> Any:
    """Tell which rows hold another number than the one before."""
    import numpy as np

    first = np.empty(len(column), bool)
    first[:1] = True
    np.not_equal(column[1:], column[:-1], out=first[1:])
    return first


def _parts(slots: list[Memslot], where: Any, region: Any, table: Table) -> Iterator[tuple[LpageMoves, Any, slice]]:
    """Yield the moves, one chunk of them and the groups that lie in it, for the groups that lie in a slot."""
    import numpy as np

    firsts = _firsts(region >> CHUNK_SHIFT)
    firsts |= _firsts(where)
    starts = firsts.nonzero()[0]
    columns = (where.take(starts), region.take(starts) >> CHUNK_SHIFT, starts, _ends(starts, len(region)))
    for slot, number, low, high in zip(*(column.tolist() for column in columns), strict=True):
        if slot & 1:
            moves = own_moves(slots[slot >> 1].arch, table)
            yield moves, np.frombuffer(moves.chunk(number), np.int32), slice(low, high)


def _note_fallen(parts: list[tuple[LpageMoves, Any, slice]], region: Any, fell: Any, table: Table) -> None:
    """Note the groups whose moves were below zero within the run."""
    for group, name in zip(fell.tolist(), region.take(fell).tolist(), strict=True):
        moves = next(moves for moves, _chunk, part in parts if part.start <= group < part.stop)
        if name not in moves.fallen:
            moves.fallen |= {name}
            table.epoch += 1


def _lowest(group: Any, number: Any, down: Any, wanted: Any) -> Any:
    """Return the lowest sums of some groups of rows, in the order of their numbers. group, number, down: of each row."""
    import numpy as np

    chosen = np.zeros(int(group[-1]) + 1, bool)
    chosen[wanted] = True
    at = chosen.take(group).nonzero()[0]
    key = group.take(at)
    key <<= _NUMBER_BITS
    key |= number.take(at)
    key <<= 1
    key |= down.take(at)
    key.sort()
    sums = (1 - 2 * (key & 1)).cumsum()
    key >>= _NUMBER_BITS + 1
    starts = np.searchsorted(key, wanted)
    before = np.zeros(len(starts), np.int64)
    before[1:] = sums.take(starts[1:] - 1)
    return np.minimum.reduceat(sums, starts) - before


def move_refused(
    rows: Rows, order: Sorted, place: Any, layout: Layout, table: Table, refused: Sequence[tuple[int, bool]]
) -> None:
    """Take the rows that a counter refused at its limit into the moves of their regions.

    refused: sorted rows, and whether at the upper limit. Source: see the module.
    """
    import numpy as np

    counters, slots = order.counters_of(np.array([row for row, _over in refused], np.intp)), slots_of(layout)
    mask = (1 << rows.shift) - 1 if rows.space is not None else -1
    gfns = (order.keys.take(counters) & mask).tolist()
    for slot, gfn, (_row, over) in zip((place.take(counters) >> 1).tolist(), gfns, refused, strict=True):
        moves, region = own_moves(slots[slot].arch, table), gfn >> REGION_SHIFT
        moves.bump(region, 1 if over else -1, digesting=table.digesting)
        if not over and region not in moves.fallen:
            moves.fallen |= {region}  # it may have been below 0 in between
            table.epoch += 1


def lpage_log(rows: Rows, layout: Layout, table: Table) -> list[tuple[int, str]]:
    """Return the row of a run, just folded, at which a VM has a disallow_lpage below 0 for the first time, for each such VM.

    Cost: nothing as long as no moves are below zero, or once it is said; else 20 ns a row, and more a region.
    Source: see the module.
    """
    log = list[tuple[int, str]]()
    if all(vm.lpage_warned for vm in rows.vms):
        return log
    first: dict[int, int] = {}
    for vm, place, slot in _risky(rows, layout):
        own_moves(slot.arch, table).known.clear()  # counters moved since
        row = _first_below(rows, layout, table, place, slot)
        if row is not None:
            first[vm.number] = min(row, first.get(vm.number, row))
    for vm in rows.vms:
        if vm.number in first:
            vm.lpage_warned = True
            log.append((first[vm.number], LPAGE))
    return log


def _risky(rows: Rows, layout: Layout) -> Iterator[tuple[Vm, int, Memslot]]:
    """Yield the slots with moves that fell below zero, with VM and place, of VMs that were not warned of yet."""
    place = 1
    for (vm, _space), (space, _enabled) in zip(rows.spaces, layout.spaces, strict=True):
        for slot in space.slots:
            if not vm.lpage_warned and slot.arch.lpage_moves.fallen:
                yield vm, place, slot
            place += 2


def _first_below(rows: Rows, layout: Layout, table: Table, place: int, slot: Memslot) -> int | None:
    """Return the first row after which a count of a slot, at a place of the layout, is below 0."""
    import numpy as np

    low, end = int(layout.edges[place - 1]), int(layout.edges[place])
    keys = rows.gfn.astype(np.int64)
    if rows.space is not None:
        keys |= rows.space
    at = ((keys >= low) & (keys < end)).nonzero()[0]
    step = np.array(_STEPS if layout.state[place] == LIVE else _STEPS_OFF).take(rows.kind.take(at))
    gfn, found = rows.gfn.take(at), list[int]()
    for shift in SHIFTS:
        region = gfn >> shift
        for name in sorted({one >> shift - REGION_SHIFT for one in slot.arch.lpage_moves.fallen}):
            mine = (region == name).nonzero()[0]
            counts = step.take(mine).cumsum()
            if len(mine):
                counts += _now(slot, shift, name, table) - int(counts[-1])
                found += at.take(mine[counts < 0][:1]).tolist()
    return min(found, default=None)


def _now(slot: Memslot, shift: int, region: int, table: Table) -> int:
    """Return the disallow_lpage of a region."""
    low, high = max(region << shift, slot.base_gfn), min(region + 1 << shift, slot.end_gfn) - 1
    counted = sum_between(table, slot.arch.counts.bias, low, high) if slot.arch.raw_write_track is not None else 0
    return first_disallow(slot, shift, region) + counted + moved_in(slot.arch.lpage_moves, shift, region)
