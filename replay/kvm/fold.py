"""Fold a run of hot events by the scalar rule, which is the specification of what a bulk rule must equal.

Within a run no structural event happens, so which slot a gfn lies in and whether tracking is enabled are constant, and each
event touches its own counter only. Source of each kind's effect: mmu.account_shadowed(), page_track.external_track(),
page_track.kvm_gfn_is_write_tracked() and the kernel functions that they model [6.1, 6.12].
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from replay.kvm.kernel_log import GONE, NO_SLOT
from replay.kvm.leaves import LEAF_MASK, LEAF_PAGES, NODE_SHIFT, Table
from replay.kvm.lpage_moves import REGION_SHIFT
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch
from replay.kvm.mmu import account_shadowed
from replay.kvm.near import OWN_SPACE, Near
from replay.kvm.page_track import external_track, kvm_gfn_is_write_tracked
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Constant, Run
from replay.units import U16_MAX

BULK_ROWS_LEAST: Final = 256
BULK_AFTER_ROWS: Final = 30_000
_STEPS: Final = {ADD: 1, REMOVE: -1, ACCOUNT: 1, UNACCOUNT: -1}
_Fold = Callable[[Machine, Run, int], RunOutcome | None]
_BULK: Final[list[_Fold]] = []
_COMPILED: Final[list[_Fold | None]] = []


def fold_run(machine: Machine, run: Run, first: int) -> RunOutcome:
    """Apply a run whose first row is event `first`. Raises EventError for a VM that is not there.

    Cost: half a microsecond a row, and some a memslot.
    """
    kinds = run.kinds()
    columns = (run.kind, run.vm, run.as_id, run.gfn, run.level)
    outcome = fold_rows(machine, columns, first, external=ADD in kinds or REMOVE in kinds)
    count_changes(run, outcome)
    return outcome


def fold_rows(machine: Machine, columns: Sequence[Sequence[int]], first: int, *, external: bool) -> RunOutcome:
    """Apply rows given as the columns kind, vm, as_id, gfn and level; whoever calls counts the changes that they ask for.

    external: there may be rows of external users. What is usual is done here, on the cells themselves; the rest by the functions
    that model the kernel's. Source: see the module.
    """
    outcome, near = RunOutcome(), Near(machine, len(columns[0]), external=external)
    machine.allocator.begin(first)
    machine.log.new = []
    table, driver, most = machine.allocator.counters, machine.allocator.driver_counts, U16_MAX
    cells, nodes, roots = table.cells, table.nodes, table.roots
    rows = zip(*map(_numbers, columns), strict=True)
    for row, (kind, number, as_id, gfn, level) in enumerate(rows):
        edges, places = near[number << 8 | as_id]
        place = places[bisect_right(edges, gfn)]
        if place is None:
            machine.allocator.event = first + row
            place = near.find(number, as_id, gfn)
            if place is None:
                outcome.log.append((row, GONE))
                continue
        vm, bias, tracks, reads, arch = place
        if reads:
            cell = nodes[roots[bias + (gfn >> 16)] | (gfn >> 7 & 511)] | (gfn & 127)
            count = cells[cell]
            if QUERY <= kind <= GUEST_WRITE:
                if count:
                    if kind == QUERY:
                        outcome.rets[row] = 1
                    else:
                        outcome.tracked_writes.append(row)
                    continue
                if reads is OWN_SPACE:
                    continue
            elif kind >= ACCOUNT or tracks:
                step = _STEPS[kind]
                pages = vm.indirect_shadow_pages + step
                if level < 2 and kind >= ACCOUNT:
                    if arch.lpage_moves.take(gfn >> REGION_SHIFT, step, warned=vm.lpage_warned):
                        vm.indirect_shadow_pages = max(0, pages)
                        continue
                elif 0 <= count + step <= most:
                    if kind < ACCOUNT:
                        _hold(driver, vm, gfn, step)
                    elif pages >= 0:
                        vm.indirect_shadow_pages = pages
                    if cell < LEAF_PAGES:
                        cell = table.link_leaf(bias + (gfn >> NODE_SHIFT), gfn) | (gfn & LEAF_MASK)
                    cells[cell] = count + step
                    continue
        machine.allocator.event = first + row
        ROWS[kind](vm, row, as_id, gfn, level, outcome)
        if machine.log.new or arch.lpage_moves.fallen:
            _note(machine, near, arch, (row, kind), outcome)
    outcome.taken = machine.allocator.taken
    return outcome


def _note(machine: Machine, near: Near, arch: Arch, row: tuple[int, int], outcome: RunOutcome) -> None:
    """Take the warnings of a row, given with its kind, and look places up anew where a slot may be unusual now.

    A slot whose moves fell below zero is; external users of another address space change a slot that is not the row's.
    """
    number, kind = row
    if arch.lpage_moves.fallen or kind < ACCOUNT:
        near.forget()
    outcome.log.extend((number, reason) for reason in machine.log.new)
    machine.log.new = []


def _numbers(column: Sequence[int]) -> Sequence[int]:
    """Return a column as what is walked fastest: of bytes no number is made."""
    if isinstance(column, memoryview) and column.itemsize == 1:
        return column.tobytes()
    return (column.number,) * len(column) if isinstance(column, Constant) else column


def fold(machine: Machine, run: Run, first: int) -> RunOutcome:
    """Apply a run by the rule that is fastest for it; all give the same. Raises EventError for a VM that is not there.

    The compiled loop comes first, where it was built: see compiled.py. The bulk rule needs numpy, which takes as long to import
    as the scalar rule takes for some ten thousand rows, so it waits for as many, unless it is there already; and it costs as much
    a run as the scalar rule for some 250 rows. Source: see the module.
    """
    machine.hot_rows += len(run)
    compiled = _compiled()
    if compiled is not None:
        outcome = compiled(machine, run, first)
        if outcome is not None:
            return outcome
    return fold_uncompiled(machine, run, first)


def fold_uncompiled(machine: Machine, run: Run, first: int) -> RunOutcome:
    """Apply a run by the bulk rule or the scalar one, whichever is faster for it. Raises EventError for a VM that is not there.

    Source: see the module.
    """
    if len(run) >= BULK_ROWS_LEAST and (_BULK or machine.hot_rows >= BULK_AFTER_ROWS):
        outcome = _bulk()(machine, run, first)
        if outcome is not None:
            return outcome
    return fold_run(machine, run, first)


def fold_some(machine: Machine, run: Run, first: int, vms: Sequence[int]) -> RunOutcome | None:
    """Apply the rows that a run has of some VMs, given in order; None, and nothing is changed, where they must be chosen first.

    Source: see the module.
    """
    if not _compiled():
        return None
    from replay.kvm.compiled import fold_compiled

    return fold_compiled(machine, run, first, vms)


def has_bulk() -> bool:
    """Tell whether the bulk rule is loaded, and numpy with it. Source: see the module."""
    return bool(_BULK)


def use_bulk() -> None:
    """Load the bulk rule now, for processes that fold so many recordings that numpy pays in any case.

    Source: see the module.
    """
    _bulk()


def _bulk() -> _Fold:
    """Return the bulk rule; numpy is imported when it is asked for the first time."""
    if not _BULK:
        from replay.kvm.bulk import fold_bulk

        _BULK.append(fold_bulk)
    return _BULK[0]


def _compiled() -> _Fold | None:
    """Return the compiled loop's rule, None where there is no such loop."""
    if not _COMPILED:
        from replay.kvm.compiled import LOOP, fold_compiled

        _COMPILED.append(None if LOOP[-1] is None else fold_compiled)
    return _COMPILED[0]


def _hold(driver: Table, vm: Vm, gfn: int, step: int) -> None:
    """Count what external users hold of a gfn; it stays at zero."""
    root = vm.external_adds.roots.start + (gfn >> NODE_SHIFT)  # their range begins at gfn 0
    cell = driver.nodes[driver.roots[root] | (gfn >> 7 & 511)] | (gfn & 127)
    count = driver.cells[cell] + step
    if count >= 0:
        if cell < LEAF_PAGES:
            cell = driver.link_leaf(root, gfn) | (gfn & LEAF_MASK)
        driver.cells[cell] = count


def _account(vm: Vm, _row: int, as_id: int, gfn: int, level: int, _outcome: RunOutcome) -> None:
    account_shadowed(vm, as_id, gfn, level, 1)


def _unaccount(vm: Vm, _row: int, as_id: int, gfn: int, level: int, _outcome: RunOutcome) -> None:
    account_shadowed(vm, as_id, gfn, level, -1)


def _add(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    ret = external_track(vm, as_id, gfn, 1)
    if ret:
        outcome.rets[row] = ret


def _remove(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    ret = external_track(vm, as_id, gfn, -1)
    if ret:
        outcome.rets[row] = ret


def _query(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    if kvm_gfn_is_write_tracked(vm, as_id, gfn):
        outcome.rets[row] = 1


def _guest_write(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    if kvm_gfn_is_write_tracked(vm, as_id, gfn):
        outcome.tracked_writes.append(row)


ROWS: Final[dict[int, Callable[[Vm, int, int, int, int, RunOutcome], None]]] = {
    ADD: _add,
    REMOVE: _remove,
    QUERY: _query,
    GUEST_WRITE: _guest_write,
    ACCOUNT: _account,
    UNACCOUNT: _unaccount,
}


def count_changes(run: Run, outcome: RunOutcome, kept: Run | None = None) -> None:
    """Count the write-track changes that the run asks for: external ones, and shadow pages from level 2 on.

    kept: what a lane leaves of the run, by whose rows the outcome is numbered; None for all of it.
    Rows without a slot or on a VM that is gone ask nobody. Source: replay.kvm.mmu.account_shadowed().
    """
    outcome.adds, outcome.removes = (run if kept is None else kept).changes()
    for row, reason in outcome.log:
        if reason in (NO_SLOT, GONE):
            kind = run.kind[row]
            if kind < QUERY or (kind >= ACCOUNT and run.level[row] > 1):
                outcome.adds -= kind in (ADD, ACCOUNT)
                outcome.removes -= kind in (REMOVE, UNACCOUNT)
