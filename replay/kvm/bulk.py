"""Fold a long run at once: sort by counter, prefix sums, and the scalar rule's arithmetic for counters that hit a limit.

Equal to the scalar rule (`fold.fold_run`) in every respect. Why: within a run no structural event happens, so each row's effect
is a function of its own counter; on one counter c' = c + d, unless that leaves 0..65535, equals the prefix sums as long as no
prefix leaves the range, and the first one that does is seen in those same sums. A row that stays at a limit is a reflection:
with a floor only, c(k) = s(k) - min(0, s(1)..s(k)), and it warns where that minimum falls; with a ceiling too, it is walked.
Runs with something else that is unusual are left to the scalar rule whole: `fold_bulk()` says None and has changed nothing.
Source: replay.kvm.fold for the rule; arch/x86/kvm/mmu/page_track.c [6.1, 6.12] behind it.
"""

from typing import Any, Final

import attrs

from replay.kvm.bulk_rows import NONE, Rows, Sorted, reads_twice, rows_of, sort_rows
from replay.kvm.counters import LEAF_SHIFT, NODE_SHIFT, Table
from replay.kvm.fold import count_changes
from replay.kvm.kernel_log import BUG, DISABLED, NO_ARRAY, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.kvm.layout import GFN_BITS, Layout, joined, layout_of
from replay.kvm.machine import Machine
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Run
from replay.units import EINVAL, U16_MAX

_LEAF_MASK: Final = (1 << LEAF_SHIFT) - 1
_GFN_MASK: Final = (1 << GFN_BITS) - 1


def fold_bulk(machine: Machine, run: Run, first: int) -> RunOutcome | None:
    """Apply a run whose first row is event `first`; None, and nothing is changed, when it needs the scalar rule.

    Cost: 30 to 100 ns a row and 0.1 ms a run. Source: see the module.
    """
    if machine.policy.at_first_add:
        return None  # its arrays come within runs
    rows = rows_of(machine, run)
    order = None if rows is None else sort_rows(rows)
    if rows is None or order is None:
        return None
    machine.allocator.begin(first)
    machine.log.new = []
    layout = _layout(machine, rows)
    track = _count(order, layout, machine.allocator.counters)
    if rows.external:
        _count_external(rows, order, track, machine.allocator.driver_counts)
    if rows.pages:
        _count_pages(rows)
    outcome = RunOutcome()
    _report(rows, order, layout, track, outcome)
    for _row, reason in outcome.log:
        machine.log.counts[reason] = machine.log.counts.get(reason, 0) + 1
    return outcome


def _layout(machine: Machine, rows: Rows) -> Layout:
    """Return the slots of the run's spaces; counters that other lanes share are copied before."""
    table = machine.allocator.counters
    if not table.together:
        for _vm, space in rows.spaces:
            if layout_of(space, table).shared:
                for slot in space.by_base():
                    slot.arch.counts.own()
    return joined([(layout_of(space, table), kvm_page_track_write_tracking_enabled(vm)) for vm, space in rows.spaces])


@attrs.define(eq=False)
class _Track:
    """What became of the counters. found, live: a counter's slot is there; it counts. place: the slot's number in the layout.

    values: after each sorted row. warned: sorted rows that stayed at a limit; over: of those, the ones at the upper.
    start, end: of each counter.
    """

    place: Any
    found: Any
    live: Any
    all_live: bool
    values: Any
    start: Any
    end: Any
    warned: Any = None
    over: Any = None


def _count(order: Sorted, layout: Layout, table: Table) -> _Track:
    """Count all rows; level-1 pages and reads count nothing."""
    import numpy as np

    keys = order.keys
    place = np.searchsorted(layout.bases, keys, "right") - 1
    some = bool(len(layout.bases))
    found = (place >= 0) & (keys < layout.ends[place]) if some else np.zeros(len(keys), bool)
    live = found if layout.plain or not some else found & layout.enabled[place] & layout.array[place]
    all_live = bool(live.all())
    cells = _Cells(table, keys, layout.bias, place, None if all_live else np.flatnonzero(live))
    step = order.step if all_live else order.step * live[order.segment]
    values, start = _values(order.segment, order.starts, step, cells.read())
    track = _Track(place, found, live, all_live, values, start, start)
    if int(values.min()) < 0 or int(values.max()) > U16_MAX:
        _reflect(order, step, track)
    track.end = values[order.lasts]
    cells.write(start, track.end)
    return track


def _values(segment: Any, starts: Any, step: Any, start: Any) -> tuple[Any, Any]:
    """Return the prefix sums of each counter from its start value, and the start values as wide as they."""
    import numpy as np

    sums: Any = np.cumsum(step, dtype=np.int32 if start.itemsize < 4 else np.int64)
    start = start.astype(sums.dtype)
    before: Any = start - sums[starts]
    before += step[starts]
    sums += before[segment]
    return sums, start


class _Cells:
    """The cells of a run's counters in the leaves of a table."""

    def __init__(self, table: Table, keys: Any, bias: Any, place: Any, chosen: Any) -> None:
        """bias: by place, what to add to a key >> 18 for its root; chosen: which of the keys have cells, None for all."""
        self._table = table
        self._chosen = chosen
        self._length = len(keys)
        self._keys = keys if chosen is None else keys[chosen]
        self._root = bias[place if chosen is None else place[chosen]] + (self._keys >> NODE_SHIFT)
        self._slot = self._keys >> LEAF_SHIFT & _LEAF_MASK
        self._cell = self._keys[:0]

    def _places(self, some: Any = None) -> tuple[Any, Any]:
        """Return (home, cell) of the keys, or of some of them; a cell below 512 stands for one that is not there."""
        import numpy as np

        root, slot, keys = self._root, self._slot, self._keys
        if some is not None:
            root, slot, keys = root[some], slot[some], keys[some]
        home = np.frombuffer(self._table.roots, np.int32)[root].astype(np.int64) << LEAF_SHIFT | slot
        leaf = np.frombuffer(self._table.nodes, np.int32)[home].astype(np.int64)
        return home, leaf << LEAF_SHIFT | (keys & _LEAF_MASK)

    def read(self) -> Any:
        """Return the counters, zero for keys without a cell."""
        import numpy as np

        cells = np.frombuffer(self._table.cells, f"u{self._table.cells.itemsize}")
        if len(self._keys):
            self._cell = self._places()[1]
        if self._chosen is None:
            return cells[self._cell]
        found = np.zeros(self._length, cells.dtype)
        found[self._chosen] = cells[self._cell]
        return found

    def write(self, start: Any, end: Any) -> None:
        """Write the counters that changed, making leaves where there are none; call it after read()."""
        import numpy as np

        if self._chosen is not None:
            start, end = start[self._chosen], end[self._chosen]
        changed = np.flatnonzero(start != end)
        if not len(changed):
            return
        cell = self._cell[changed]
        missing = np.flatnonzero(cell <= _LEAF_MASK)
        if len(missing):
            if self._link(changed[missing]):
                cell[missing] = self._places(changed[missing])[1]
            else:
                self._table.make_room(len(changed))  # takes back leaves that are zero: they may be among these
                self._link(changed[self._places(changed)[1] <= _LEAF_MASK])
                cell = self._places(changed)[1]
        np.frombuffer(self._table.cells, f"u{self._table.cells.itemsize}")[cell] = end[changed]

    def _link(self, some: Any) -> bool:
        """Make the nodes and leaves that some counters lack; False when there are not enough leaves."""
        import numpy as np

        table, roots = self._table, self._root[some]
        for root in roots[np.frombuffer(table.roots, np.int32)[roots] == 0].tolist():
            table.link_node(root)
        homes = self._places(some)[0]
        homes = homes[np.append(True, homes[1:] != homes[:-1])]  # they ascend with the keys within each slot
        if not table.has_room(len(homes)):
            return False
        leaves = np.array(table.take_leaves(len(homes)), np.int32)
        np.frombuffer(table.nodes, np.int32)[homes] = leaves
        np.frombuffer(table.homes, np.int32)[leaves] = homes
        return True


def _reflect(order: Sorted, step: Any, track: _Track) -> None:
    """Correct the counters whose prefix sums leave the range, and note the rows that warn."""
    import numpy as np

    values, segment = track.values, order.segment
    bad = np.zeros(len(order.keys), bool)
    bad[segment[(values < 0) | (values > U16_MAX)]] = True
    at = np.flatnonzero(bad[segment])
    right, warns = reflected(values[at], segment[at])
    high = right > U16_MAX
    over = np.zeros(len(at), bool)
    if high.any():
        bad[:] = False
        bad[segment[at][high]] = True
        some = np.flatnonzero(bad[segment[at]])
        start, steps = track.start[segment[at[some]]].tolist(), step[at[some]].tolist()
        walked = _walk(segment[at[some]].tolist(), start, steps)
        right[some], warns[some], over[some] = (np.array(column) for column in walked)
    values[at] = right
    track.warned, track.over = at[warns], over[warns]


def reflected(sums: Any, segment: Any) -> tuple[Any, Any]:
    """Return prefix sums reflected at zero, and which rows were: segments are together and ascend. Source: see the module."""
    import numpy as np

    span = np.int64(1 << 33)
    lift = segment.astype(np.int64) * span
    least = np.minimum.accumulate(np.minimum(sums, 0) - lift) + lift
    falls = np.empty(len(sums), bool)
    falls[0] = least[0] < 0
    np.less(least[1:], np.where(segment[1:] == segment[:-1], least[:-1], 0), out=falls[1:])
    return sums - least, falls


def _walk(segments: list[int], starts: list[int], steps: list[int]) -> tuple[list[int], list[bool], list[bool]]:
    """Return values, warnings and overflows of rows by the scalar rule, row by row."""
    values, warns, over = [], [], []
    last, count = -1, 0
    for segment, start, step in zip(segments, starts, steps, strict=True):
        if segment != last:
            last, count = segment, start
        value = count + step
        legal = 0 <= value <= U16_MAX
        if legal:
            count = value
        values.append(count)
        warns.append(not legal)
        over.append(value > U16_MAX)
    return values, warns, over


def _count_external(rows: Rows, order: Sorted, track: _Track, table: Table) -> None:
    """Count what external users hold: at least zero, whatever became of the slot's counter, but only where there is a slot."""
    import numpy as np

    mine = order.op != NONE
    if rows.pages:
        mine &= rows.kind[order.number] <= REMOVE
    if not track.found.all():
        mine &= track.found[order.segment]
    at = np.flatnonzero(mine)
    if not len(at):
        return
    segment = order.segment[at]
    first = np.append(True, segment[1:] != segment[:-1])
    starts = np.flatnonzero(first)
    chosen = segment[starts]
    space, gfn = order.keys[chosen] >> GFN_BITS, order.keys[chosen] & _GFN_MASK
    for number in np.unique(space).tolist():
        adds = rows.spaces[number][0].external_adds
        adds.own()
        adds.cover(int(gfn.max()))
    bias = np.array([vm.external_adds.bias for vm, _space in rows.spaces], np.int64)
    cells = _Cells(table, gfn, bias, space, None)
    held = np.cumsum(first, dtype=np.int32) - 1
    values, start = _values(held, starts, order.step[at], cells.read().astype(np.int64))
    if int(values.min()) < 0:
        values, _falls = reflected(values, held)
    cells.write(start, values[np.append(starts[1:], len(at)) - 1])


def _count_pages(rows: Rows) -> None:
    """Count shadow pages with guest PTEs, whatever their level; the count stays at zero. Source: mmu.account_shadowed()."""
    import numpy as np

    if rows.vm_number is None:
        _count_pages_of(rows.vms[0], rows.kind, rows.kinds.get(ACCOUNT, 0), rows.kinds.get(UNACCOUNT, 0))
        return
    up, down = (np.bincount(rows.vm_number[rows.kind == kind]).tolist() for kind in (ACCOUNT, UNACCOUNT))
    for vm in rows.vms:
        made = up[vm.number] if vm.number < len(up) else 0
        gone = down[vm.number] if vm.number < len(down) else 0
        kind = rows.kind if vm.indirect_shadow_pages >= gone else rows.kind[rows.vm_number == vm.number]
        _count_pages_of(vm, kind, made, gone)


def _count_pages_of(vm: Vm, kind: Any, made: int, gone: int) -> None:
    import numpy as np

    if vm.indirect_shadow_pages >= gone:
        vm.indirect_shadow_pages += made - gone
        return
    step = (kind == ACCOUNT).astype(np.int64) - (kind == UNACCOUNT)
    sums = vm.indirect_shadow_pages + np.cumsum(step)
    vm.indirect_shadow_pages = int(sums[-1]) - min(0, int(sums.min()))


def _report(rows: Rows, order: Sorted, layout: Layout, track: _Track, outcome: RunOutcome) -> None:
    """Note the rows that are worth a word, in their order."""
    log: list[tuple[int, str]] = []
    rets: dict[int, int] = {}
    if track.warned is not None:
        numbers = order.number[track.warned].tolist()
        log += [(row, OVERFLOW if over else UNDERFLOW) for row, over in zip(numbers, track.over.tolist(), strict=True)]
    if not track.all_live:
        _report_dead(rows, order, layout, track, log, rets)
    if rows.reads:
        _report_reads(rows, order, track, rets, outcome)
    log.sort()
    outcome.log, outcome.rets = log, {row: rets[row] for row in sorted(rets)}
    count_changes(rows.run, outcome)


def _report_dead(
    rows: Rows, order: Sorted, layout: Layout, track: _Track, log: list[tuple[int, str]], rets: dict[int, int]
) -> None:
    """Note the rows of counters that are not there: no slot, tracking not enabled, or no array."""
    import numpy as np

    number = order.number
    away = number[~track.found[order.segment]]
    kinds = rows.kind[away]
    log += [(row, NO_SLOT) for row in away[kinds >= ACCOUNT].tolist()]
    rets |= dict.fromkeys(away[kinds <= REMOVE].tolist(), -EINVAL)
    dead = np.flatnonzero(((track.found & ~track.live)[order.segment]) & (order.op != NONE))
    place = track.place[order.segment[dead]]
    space = (order.keys >> GFN_BITS)[order.segment[dead]].tolist()
    enabled = layout.enabled[place].tolist() if len(dead) else []
    for row, on, space_number in zip(number[dead].tolist(), enabled, space, strict=True):
        vm = rows.spaces[space_number][0]
        if on:
            log.append((row, NO_ARRAY))
        elif vm.policy.bug_when_disabled:
            log.append((row, BUG))
            vm.vm_bugged = True
        else:
            log.append((row, DISABLED))


def _report_reads(rows: Rows, order: Sorted, track: _Track, rets: dict[int, int], outcome: RunOutcome) -> None:
    """Note the reads that were true: queries as results, guest writes as rows."""
    import numpy as np

    hit = order.number[(track.values > 0) & (order.op == NONE)]
    if reads_twice(rows):
        hit = np.unique(hit)  # either address space is enough, but the own one must have the slot
        away = order.number[~track.found[order.segment]]
        own = rows.space[away] == (order.keys >> GFN_BITS)[order.segment[~track.found[order.segment]]]
        hit = np.setdiff1d(hit, away[own])
    else:
        hit = np.sort(hit)
    kind = rows.kind[hit] if rows.level_one or QUERY in rows.kinds else None
    if kind is None:
        outcome.tracked_writes = hit.tolist()
        return
    outcome.tracked_writes = hit[kind == GUEST_WRITE].tolist()
    rets |= dict.fromkeys(hit[kind == QUERY].tolist(), 1)
