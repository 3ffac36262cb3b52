"""Fold a long run at once: sort by counter, prefix sums, and the scalar rule's arithmetic for counters that hit a limit.

Equal to the scalar rule (`fold.fold_run`) in every respect. Why: within a run no structural event happens, so each row's effect
is a function of its own counter; on one counter c' = c + d, unless that leaves 0..65535, equals the prefix sums as long as no
prefix leaves the range, and one that does is seen in those same sums: that counter is then walked row by row. What external
users hold of a gfn is at least zero and otherwise moves alike; its sums ride in the upper half of the same numbers.
Runs with something else that is unusual are left to the scalar rule whole: `fold_bulk()` says None and has changed nothing.
Source: replay.kvm.fold for the rule; arch/x86/kvm/mmu/page_track.c [6.1, 6.12] behind it.
"""

from typing import Any, Final

from replay.kvm.bulk_pairs import SCALAR_MOST, below_limit, fold_left, most_of_pairs, most_of_slot, pairs_of, rows_left
from replay.kvm.bulk_rows import KIND_BITS, KIND_MASK, LEVEL_ONE, Rows, Sorted, as_array, rows_of, sort_rows, sortable
from replay.kvm.cells import counts_at, mixed, places_of, write_counts
from replay.kvm.kernel_log import BUG, DISABLED, NO_ARRAY, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.kvm.layout import GAP, NO_COUNTERS, OFF, Layout, joined, layout_of
from replay.kvm.machine import Machine
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Run
from replay.units import EINVAL, U16_MAX, U64_MAX

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
_ADD, _REMOVE, _QUERY, _GUEST_WRITE, _ACCOUNT, _UNACCOUNT = (
    code & KIND_MASK for code in (ADD, REMOVE, QUERY, GUEST_WRITE, ACCOUNT, UNACCOUNT)
)


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
    return count.report(machine)


def _layout(machine: Machine, rows: Rows) -> Layout:
    """Return the slots of the run's spaces; counters that other lanes share are copied before."""
    table = machine.allocator.counters
    if not table.together:
        for _vm, space in rows.spaces:
            for counts in layout_of(space, table).counters:
                if counts.roots.owners > 1:
                    counts.own()
    enabled = {vm.number: kvm_page_track_write_tracking_enabled(vm) for vm in rows.vms}
    spaces = [(layout_of(space, table), enabled[vm.number]) for vm, space in rows.spaces]
    shift = rows.shift if rows.space is not None else 0
    if machine.layout is None or not machine.layout.made_of(spaces, shift):
        machine.layout = joined(spaces, shift)
    layout: Layout = machine.layout
    return layout


class _Count:
    """What becomes of the counters of a run. Arrays of one number a sorted row, unless said otherwise.

    state: of each counter's place in the layout; dead: rows of counters that do not count. values: after each row, what
    external users hold in the upper half. warned: rows that stayed at a limit; over: of those, the ones at the upper.
    """

    def __init__(self, rows: Rows, order: Sorted, layout: Layout) -> None:
        self.rows, self.order, self.layout = rows, order, layout
        self.place = layout.edges.searchsorted(order.keys, "right")
        self.state = layout.state.take(self.place)
        self.dead: Any = None
        self.warned: Any = None
        self.over: Any = None
        self.values: Any = None

    def count(self, machine: Machine) -> None:
        """Count all rows; level-1 pages and reads count nothing."""
        import numpy as np

        order = self.order
        step = self._steps()
        table = machine.allocator.counters
        roots, cells = places_of(table, self.layout.bias.take(self.place), order.keys)
        start = counts_at(table, cells)
        held = self._held(machine) if self.rows.has(ADD, REMOVE) else None
        values = step.cumsum()
        ends = values.take(order.lasts)
        change = start.astype(np.int64)
        if held is not None:
            change[held.chosen] += held.start.astype(np.int64) << _HELD_SHIFT
        change[1:] -= ends[:-1]
        values += change.take(order.segment)
        self.values = values
        outside = _outside()
        if int(np.bitwise_or.reduce(values)) & outside:
            self._walk(step, values & outside, change, ends)
            ends = values.take(order.lasts)
        else:
            ends += change
        end = ends.astype(start.dtype)
        changed = (end != start).nonzero()[0]
        write_counts(table, roots, cells, order.keys, end, changed)
        if table.digesting and len(changed):
            self._roll(changed, end.take(changed).astype(np.int64) - start.take(changed))
        if held is not None:
            held.write(ends)

    def _roll(self, changed: Any, delta: Any) -> None:
        """Take what changed into the digests of the slots; delta: by how much."""
        import numpy as np

        shift = self.rows.shift
        gfn = self.order.keys.take(changed)
        added = mixed(gfn if self.rows.space is None else gfn & ((1 << shift) - 1))
        added *= delta.view(np.uint64)
        place = self.place.take(changed)
        first = np.concatenate([[0], (place[1:] != place[:-1]).nonzero()[0] + 1])
        slots = [counters for layout, _enabled in self.layout.spaces for counters in layout.by_slot]
        for slot, more in zip((place[first] >> 1).tolist(), np.add.reduceat(added, first).tolist(), strict=True):
            roots = slots[slot].roots
            roots.digest = roots.digest + more & U64_MAX

    def _steps(self) -> Any:
        """Return what each row adds, nothing for the ones that do not count."""
        import numpy as np

        step = np.array(_STEPS).take(self.order.kind)
        if int(self.state.max()):
            self.dead = self.state.take(self.order.segment).nonzero()[0]
            state = self.state.take(self.order.segment.take(self.dead))
            step[self.dead] = np.where(state == GAP, 0, np.array(_STEPS_DEAD).take(self.order.kind.take(self.dead)))
        return step

    def _held(self, machine: Machine) -> "_Held":
        """Look up what external users hold of the gfns that they change, where there is a slot."""
        import numpy as np

        order = self.order
        changed = order.segment.take((order.kind <= _REMOVE).nonzero()[0])
        first = np.empty(len(changed), bool)
        first[:1] = True
        np.not_equal(changed[1:], changed[:-1], out=first[1:])
        chosen = changed[first]
        if self.dead is not None:
            chosen = chosen[self.state.take(chosen) != GAP]
        return _Held(machine, self.rows, order.keys.take(chosen), chosen)

    def _walk(self, step: Any, outside: Any, change: Any, ends: Any) -> None:
        """Walk the counters that leave their range row by row, and note the rows that warn."""
        import numpy as np

        order = self.order
        walked = np.zeros(len(order.keys), bool)
        walked[order.segment[outside != 0]] = True
        at = walked.take(order.segment).nonzero()[0]
        start = change
        start[1:] += ends[:-1]
        segment = order.segment.take(at)
        found, warned, over = _walk(segment.tolist(), start.take(segment).tolist(), step.take(at).tolist())
        self.values[at] = found
        self.warned, self.over = at[warned], over

    def report(self, machine: Machine) -> RunOutcome:
        """Note the rows that are worth a word, in their order."""
        order, outcome = self.order, RunOutcome()
        log: list[tuple[int, str]] = []
        outcome.adds, outcome.removes = self.rows.changes()
        if self.warned is not None and len(self.warned):
            numbers = order.number.take(self.warned).tolist()
            log += [(row, OVERFLOW if over else UNDERFLOW) for row, over in zip(numbers, self.over, strict=True)]
        if self.dead is not None:
            self._report_dead(machine, log, outcome)
        if self.rows.has(QUERY, GUEST_WRITE):
            self._report_reads(outcome)
        log.sort()
        outcome.log = log
        counts = machine.log.counts
        for _row, reason in log:
            counts[reason] = counts.get(reason, 0) + 1
        return outcome

    def _report_dead(self, machine: Machine, log: list[tuple[int, str]], outcome: RunOutcome) -> None:
        """Note the rows of counters that are not there: no slot, tracking not enabled, or no array."""
        import numpy as np

        number, kind = self.order.number.take(self.dead), self.order.kind.take(self.dead)
        state = self.state.take(self.order.segment.take(self.dead))
        away = state == GAP
        log += [(row, NO_SLOT) for row in number[away & (kind >= _ACCOUNT)].tolist()]
        outcome.adds -= int(np.count_nonzero(away & (kind == _ACCOUNT)))
        outcome.removes -= int(np.count_nonzero(away & (kind == _UNACCOUNT)))
        refused = number[away & (kind <= _REMOVE)].tolist()
        outcome.rets = dict.fromkeys(sorted(refused), -EINVAL)
        if int(state.max()) == GAP == int(state.min()):
            return
        changes = (kind <= _REMOVE) | (kind == _ACCOUNT) | (kind == _UNACCOUNT)
        log += [(row, NO_ARRAY) for row in number[changes & (state == NO_COUNTERS)].tolist()]
        off = changes & (state == OFF)
        if np.count_nonzero(off):
            bug = machine.policy.bug_when_disabled
            log += [(row, BUG if bug else DISABLED) for row in number[off].tolist()]
            for vm in self._vms_of(self.dead[off]) if bug else ():
                vm.vm_bugged = True

    def _vms_of(self, at: Any) -> list[Vm]:
        """Return the VMs that some rows name."""
        if self.rows.space is None:
            return self.rows.vms
        spaces = self.order.keys.take(self.order.segment.take(at)) >> self.rows.shift
        return [self.rows.spaces[number][0] for number in sorted(set(spaces.tolist()))]

    def _report_reads(self, outcome: RunOutcome) -> None:
        """Note the reads that were true: queries as results, guest writes as rows."""
        import numpy as np

        order, rows = self.order, self.rows
        hits = self.values.astype(np.uint32) != 0
        hits &= (order.kind == _QUERY) | (order.kind == _GUEST_WRITE) if QUERY in rows.kinds else order.kind == _GUEST_WRITE
        found = np.zeros(len(rows.run), bool)
        found[order.number[hits]] = True
        if rows.twice and self.dead is not None:
            # Either address space is enough, but the own one must have the slot.
            own = (order.keys >> rows.shift << rows.shift).take(order.segment.take(self.dead))
            number = order.number.take(self.dead)
            away = self.state.take(order.segment.take(self.dead)) == GAP
            found[number[away & (own == rows.space[number])]] = False
        if QUERY in rows.kinds:
            true = found & (rows.kind == _QUERY)
            found &= ~true
            outcome.rets |= dict.fromkeys(true.nonzero()[0].tolist(), 1)
            outcome.rets = {row: outcome.rets[row] for row in sorted(outcome.rets)}
        outcome.tracked_writes = found.nonzero()[0].tolist()


def _outside() -> int:
    """Return the bits that are set in a value when the counter, or what is held, is out of its range."""
    return (~U16_MAX & HELD - 1) - (1 << 63)


def _walk(segments: list[int], starts: list[int], steps: list[int]) -> tuple[list[int], list[int], list[bool]]:
    """Return values after each row by the scalar rule, the places of rows that warn, and which of them overflow."""
    values, warned, over = [], [], []
    last, count, held = -1, 0, 0
    for place, (segment, start, step) in enumerate(zip(segments, starts, steps, strict=True)):
        if segment != last:
            last, count, held = segment, start & HELD - 1, start >> _HELD_SHIFT
        change, more = _PARTS[step]
        if 0 <= count + change <= U16_MAX:
            count += change
        else:
            warned.append(place)
            over.append(change > 0)
        held = max(0, held + more)
        values.append(held << _HELD_SHIFT | count)
    return values, warned, over


def _count_pages(rows: Rows, left: Any) -> None:
    """Count shadow pages with guest PTEs, whatever their level; the count stays at zero. Source: mmu.account_shadowed().

    left: the rows that are left without pairs that take themselves back, None for all.
    """
    import numpy as np

    kind = rows.kind if left is None else rows.kind.take(left)
    if len(rows.vms) == 1:
        deep = kind | LEVEL_ONE
        made, gone = (int(np.count_nonzero(deep == (code | LEVEL_ONE))) for code in (_ACCOUNT, _UNACCOUNT))
        _count_pages_of(rows.vms[0], made, gone, kind)
        return
    number = as_array(rows.run.vm, len(rows.run))
    number = (number if left is None else number.take(left)).astype(np.intp)
    deep = kind | LEVEL_ONE
    tally = np.bincount(number << KIND_BITS | deep, minlength=(rows.vms[-1].number + 1) << KIND_BITS).tolist()
    for vm in rows.vms:
        made, gone = (tally[vm.number << KIND_BITS | code | LEVEL_ONE] for code in (_ACCOUNT, _UNACCOUNT))
        _count_pages_of(vm, made, gone, kind if vm.indirect_shadow_pages >= gone else kind[number == vm.number])


def _count_pages_of(vm: Vm, made: int, gone: int, kind: Any) -> None:
    """Count the shadow pages of one VM. kind: of its rows; made, gone: how many of them account and unaccount."""
    import numpy as np

    if vm.indirect_shadow_pages >= gone:
        vm.indirect_shadow_pages += made - gone
        return
    sums = np.array(_PAGES).take(kind).cumsum()
    sums += vm.indirect_shadow_pages
    vm.indirect_shadow_pages = int(sums[-1]) - min(0, int(sums.min()))


class _Held:
    """What external users hold of some gfns, one a counter. chosen: which of the run's counters; start: before the run."""

    def __init__(self, machine: Machine, rows: Rows, keys: Any, chosen: Any) -> None:
        import numpy as np

        self._table = machine.allocator.driver_counts
        self.chosen = chosen
        self._keys, bias = keys, 0
        for vm in rows.vms:
            vm.external_adds.own()
        if rows.space is None:
            top = int(keys[-1]) if len(keys) else 0
        else:
            space = keys >> rows.shift
            self._keys = keys & ((1 << rows.shift) - 1)
            top = int(self._keys.max()) if len(keys) else 0
        for vm in rows.vms:
            vm.external_adds.cover(top)
        if rows.space is None:
            bias = rows.vms[0].external_adds.bias
        else:
            bias = np.array([vm.external_adds.bias for vm, _space in rows.spaces]).take(space)
        self._roots, self._cells = places_of(self._table, bias, self._keys)
        self.start = counts_at(self._table, self._cells)

    def write(self, ends: Any) -> None:
        """Write what is held after the run; ends: the values at the end of each of the run's counters."""
        end = (ends.take(self.chosen) >> _HELD_SHIFT).astype(self.start.dtype)
        changed = (end != self.start).nonzero()[0]
        write_counts(self._table, self._roots, self._cells, self._keys, end, changed)
