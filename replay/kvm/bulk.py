"""Fold a long run at once: sort by counter, prefix sums, and the scalar rule's arithmetic for counters that hit a limit.

Equal to the scalar rule (`fold.fold_run`) in every respect. Why: within a run no structural event happens, so each row's effect
is a function of its own counter only; on one counter c' = c + d, unless that leaves 0..65535, equals the prefix sums as long as
no prefix leaves the range, and one that does is seen in those same sums: that counter is then walked row by row. What external
users hold of a gfn is at least zero and otherwise moves alike; its sums ride in the upper half of the same numbers.
Runs with something else that is unusual are left to the scalar rule whole: `fold_bulk()` says None and has changed nothing.
Source: replay.kvm.fold for the rule; arch/x86/kvm/mmu/page_track.c [6.1, 6.12] behind it.
"""

from functools import cache
from itertools import pairwise
from typing import Any, Final

from replay.kvm.bulk_lpages import lpage_log, move_level_ones, move_refused, slots_of
from replay.kvm.bulk_pairs import SCALAR_MOST, below_limit, fold_left, most_of_pairs, most_of_slot, pairs_of, rows_left
from replay.kvm.bulk_report import Report
from replay.kvm.bulk_rows import KIND_MASK, LEVEL_ONE, Rows, Sorted, rows_of, sort_rows, sortable
from replay.kvm.cells import Parts, mixed, parts_of, places_of
from replay.kvm.layout import GAP, Layout, joined, layout_of
from replay.kvm.leaves import NODE_SHIFT
from replay.kvm.machine import Machine
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Run
from replay.units import U16_MAX, U64_MAX

HELD: Final = 1 << 32
"""One more held by an external user; below it is the counter itself."""
_HELD_SHIFT: Final = 32
_STEP_OF: Final = {ADD: 1 + HELD, REMOVE: -1 - HELD, ACCOUNT: 1, UNACCOUNT: -1}
_STEPS: Final = [_STEP_OF.get(code, 0) for code in range(ADD, ADD + 8)]
"""What a row adds to its counter, by the low bits of its kind."""
_PAGES: Final = [0, 0, 0, 0, 1, -1, 1, -1]
"""What it adds to the VM's shadow pages."""
_STEPS_DEAD: Final = [HELD, -HELD, *[0] * 6]
"""What it adds where the slot does not count: external users hold what they add all the same."""
_PARTS: Final = {
    0: (0, 0),
    1: (1, 0),
    -1: (-1, 0),
    HELD: (0, 1),
    -HELD: (0, -1),
    1 + HELD: (1, 1),
    -1 - HELD: (-1, -1),
}
_ADD, _REMOVE, _ACCOUNT, _UNACCOUNT = (code & KIND_MASK for code in (ADD, REMOVE, ACCOUNT, UNACCOUNT))


def fold_bulk(machine: Machine, run: Run, first: int) -> RunOutcome | None:
    """Apply a run whose first row is event `first`; None, and nothing is changed, when it needs the scalar rule.

    Cost: 20 to 50 ns a row and 40 us a run. Source: see the module.
    """
    if machine.policy.at_first_add:
        return None  # its arrays come within runs
    rows = rows_of(machine, run)
    if rows is None or not sortable(rows):
        return None
    pairs = pairs_of(rows)
    left = None if pairs is None else rows_left(pairs)
    if left is not None and len(left) <= SCALAR_MOST and below_limit(most_of_slot(machine, rows), left):
        return fold_left(machine, rows, left, first)
    machine.allocator.begin(first)
    machine.log.new = []
    layout, table = _layout(machine, rows), machine.allocator.counters
    if left is not None and not (len(left) and below_limit(most_of_pairs(rows, layout, table, pairs), left)):
        left = None
    if rows.has(ACCOUNT, UNACCOUNT):
        _count_pages(rows, left)
    count = _Count(rows, sort_rows(rows, left), layout)
    count.count(machine)
    lpages = lpage_log(rows, layout, table)
    return Report(rows, count.order, count.dead, count.counted, count.warned, lpages).outcome(machine)


def _layout(machine: Machine, rows: Rows) -> Layout:
    """Return the slots of the run's spaces; counters that other lanes share are copied before."""
    table, known = machine.allocator.counters, rows.known
    if not table.together:
        for _vm, space in rows.spaces:
            for counts in layout_of(space, table).counters:
                if counts.roots.owners > 1:
                    counts.own()
    enabled = {vm.number: kvm_page_track_write_tracking_enabled(vm) for vm in rows.vms}
    spaces = [(layout_of(space, table), enabled[vm.number]) for vm, space in rows.spaces]
    known.layout = joined(spaces, rows.shift if rows.space is not None else 0, known.layout)
    return known.layout


@cache
def _steps() -> tuple[Any, Any]:
    """Return what a row adds by the low bits of its kind, to a counter and where the slot does not count."""
    import numpy as np

    return np.array(_STEPS), np.array(_STEPS_DEAD)


class _Count:
    """What becomes of the counters of a run. Arrays of one number a counter, unless said otherwise.

    place: in the layout. dead: the sorted rows of counters that do not count, and the state of each one's place.
    counted: after the last row and after each inner row, with what external users hold in the upper half. warned: the sorted
    rows that stayed at a limit, and whether that was the upper one.
    """

    def __init__(self, rows: Rows, order: Sorted, layout: Layout) -> None:
        self.rows, self.order, self.layout = rows, order, layout
        self.place = layout.places(order.keys)
        self.dead: Any = None
        self.counted: Any = None
        self.warned: list[tuple[int, bool]] = []

    def count(self, machine: Machine) -> None:
        """Count all rows; level-1 pages and reads count nothing."""
        import numpy as np

        order, table = self.order, machine.allocator.counters
        step = self._steps()
        parts = parts_of(order.keys)
        places = places_of(table, self.layout.bias.take(self.place), parts)
        start = places.counts()
        change = start.astype(np.int64)
        held = _Held(machine, self.rows, order, self.layout, parts) if self.rows.has(ADD, REMOVE) else None
        if held is not None:
            held.add_to(change)
        sums = step.cumsum()
        ends = sums.take(order.lasts)
        change[1:] -= ends[:-1]
        ends += change
        inner = sums.take(order.inner)
        within = order.inner_counters()
        inner += change.take(within)
        self.counted = ends, inner
        if (int(np.bitwise_or.reduce(ends)) | int(np.bitwise_or.reduce(inner))) & _outside():
            self._walk(step, sums, change, within)
        end = ends.astype(start.dtype)
        changed = (end != start).nonzero()[0]
        places.write(end, changed)
        if table.digesting and len(changed):
            self._roll(changed, end.take(changed).astype(np.int64) - start.take(changed))
        if held is not None:
            held.write(ends)
        if self.rows.level_ones:
            move_level_ones(self.rows, order, self.place, self.layout, table)
        if self.warned:
            move_refused(self.rows, order, self.place, self.layout, table, self.warned)

    def _roll(self, changed: Any, delta: Any) -> None:
        """Take what changed into the digests of the slots; delta: by how much."""
        import numpy as np

        shift = self.rows.shift
        gfn = self.order.keys.take(changed)
        added = mixed(gfn if self.rows.space is None else gfn & ((1 << shift) - 1))
        added *= delta.view(np.uint64)
        place = self.place.take(changed)
        first = np.concatenate([[0], (place[1:] != place[:-1]).nonzero()[0] + 1])
        slots = slots_of(self.layout)
        for slot, more in zip((place[first] >> 1).tolist(), np.add.reduceat(added, first).tolist(), strict=True):
            roots = slots[slot].arch.counts.roots
            roots.digest = roots.digest + more & U64_MAX

    def _steps(self) -> Any:
        """Return what each sorted row adds, nothing for the ones that do not count."""
        step, kind = _steps()[0].take(self.order.kind), self.order.kind
        at = self.layout.state.take(self.place).nonzero()[0]
        if len(at):
            at = self.order.rows_of(at)
            state = self.layout.state.take(self.place.take(self.order.counters_of(at)))
            self.dead = at, state
            step[at] = _steps()[1].take(kind.take(at)) * (state != GAP)
        return step

    def _walk(self, step: Any, sums: Any, change: Any, within: Any) -> None:
        """Walk the counters that leave their range row by row, and note the rows that warn. within: counters of inner rows."""
        import numpy as np

        order, (ends, inner), outside = self.order, self.counted, _outside()
        leave = np.concatenate([(ends & outside).nonzero()[0], within.take((inner & outside).nonzero()[0])])
        firsts = order.firsts_of(leave)
        starts = (sums.take(firsts) - step.take(firsts) + change.take(leave)).tolist()
        counters = zip(leave.tolist(), firsts.tolist(), (order.lasts.take(leave) + 1).tolist(), starts, strict=True)
        for counter, first, end, start in dict.fromkeys(counters):
            values = _walk(start, step[first:end].tolist(), first, self.warned)
            ends[counter] = values.pop()
            if values:
                inner[first - counter : end - 1 - counter] = values


class _Held:
    """What external users hold of the gfns of a run, one a counter of the address spaces in which they change anything.

    first, end: which of the run's counters those are, with all between.
    """

    def __init__(self, machine: Machine, rows: Rows, order: Sorted, layout: Layout, parts: Parts) -> None:
        import numpy as np

        spaces = self._spaces(rows)
        if rows.space is None:
            bounds = [0, len(order.keys)]
        else:
            bounds = order.keys.searchsorted([number << rows.shift for number in (*spaces, spaces[-1] + 1)]).tolist()
        self.first, self.end = bounds[0], bounds[-1]
        bias = []
        for number, (first, end) in zip(spaces, pairwise(bounds), strict=True):
            vm, space = rows.spaces[number]
            if end > first and space is vm.spaces[0]:
                _cover(vm, int(order.keys[end - 1]) - (number << rows.shift), layout.spaces[number][0].end_gfn)
            bias.append(vm.external_adds.bias - (number << rows.shift >> NODE_SHIFT))
        lengths = [end - first for first, end in pairwise(bounds)]
        parts = parts.between(self.first, self.end)
        self._places = places_of(machine.allocator.driver_counts, np.array(bias).repeat(lengths), parts)
        self._start = self._places.counts()

    def _spaces(self, rows: Rows) -> range:
        """Return the numbers of the address spaces from the first to the last one in which external users change anything."""
        if len(rows.vms) == 1:
            return range(1)
        active = {vm.number for vm, of in zip(rows.vms, rows.by_vm(), strict=True) if of[_ADD] or of[_REMOVE]}
        numbers = [number for number, (vm, space) in enumerate(rows.spaces) if vm.number in active and space is vm.spaces[0]]
        return range(numbers[0], numbers[-1] + 1)

    def add_to(self, change: Any) -> None:
        """Add what is held before the run to one number a counter of the run."""
        change[self.first : self.end] += self._start.astype(change.dtype) << _HELD_SHIFT

    def write(self, ends: Any) -> None:
        """Write what is held after the run; ends: the values at the end of each of the run's counters."""
        end = (ends[self.first : self.end] >> _HELD_SHIFT).astype(self._start.dtype)
        self._places.write(end, (end != self._start).nonzero()[0])


def _cover(vm: Vm, gfn: int, end_gfn: int) -> None:
    """Make room for what external users of a VM hold up to a gfn, as far as there are memslots."""
    vm.external_adds.own()
    vm.external_adds.cover(max(min(gfn, end_gfn - 1), 0))


def _outside() -> int:
    """Return the bits that are set in a value when the counter, or what is held, is out of its range."""
    return (~U16_MAX & HELD - 1) - (1 << 63)


def _walk(start: int, steps: list[int], first: int, warned: list[tuple[int, bool]]) -> list[int]:
    """Return the values of a counter after each of its rows, of which `first` is the first, by the scalar rule.

    warned: gets the rows that warn, and whether they overflow.
    """
    count, held, values = start & HELD - 1, start >> _HELD_SHIFT, []
    for row, step in enumerate(steps, first):
        change, more = _PARTS[step]
        if 0 <= count + change <= U16_MAX:
            count += change
        else:
            warned.append((row, change > 0))
        held = max(0, held + more)
        values.append(held << _HELD_SHIFT | count)
    return values


def _count_pages(rows: Rows, left: Any) -> None:
    """Count shadow pages with guest PTEs, whatever their level; the count stays at zero. Source: mmu.account_shadowed().

    left: the rows that are left without pairs that take themselves back, None for all.
    """
    for vm, counts in zip(rows.vms, rows.by_vm(left), strict=True):
        made = counts[_ACCOUNT] + counts[_ACCOUNT | LEVEL_ONE]
        gone = counts[_UNACCOUNT] + counts[_UNACCOUNT | LEVEL_ONE]
        if vm.indirect_shadow_pages >= gone:
            vm.indirect_shadow_pages += made - gone
        else:
            _walk_pages(vm, rows, left)


def _walk_pages(vm: Vm, rows: Rows, left: Any) -> None:
    """Count the shadow pages of one VM, row by row."""
    import numpy as np

    kind = rows.kind if left is None else rows.kind.take(left)
    if len(rows.vms) > 1:
        kind = kind[rows.numbers(left) == vm.number]
    sums = np.array(_PAGES).take(kind).cumsum()
    sums += vm.indirect_shadow_pages
    vm.indirect_shadow_pages = int(sums[-1]) - min(0, int(sums.min()))
