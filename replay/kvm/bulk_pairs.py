"""Leave out of a run what takes itself back at once, before the bulk rule sorts: a page made and zapped, an add and a remove.

Nearly all that a guest kernel does to its page tables under shadow paging is of this kind. A row that counts one more and the
next row of the run, which counts one less of the same counter, leave everything as it was: between them the counter and what
external users hold are one higher, and nobody looks. Two conditions: the slot counts, and the counter is not at its limit.
Source: replay.kvm.fold for the rule.
"""

from collections.abc import Sequence
from typing import Any, Final

from replay.kvm.bulk_rows import Rows
from replay.kvm.cells import most_between, parts_of, places_of
from replay.kvm.fold import fold_rows
from replay.kvm.layout import LIVE, Layout
from replay.kvm.leaves import LEAF_SHIFT, Table
from replay.kvm.machine import Machine
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.run_outcome import RunOutcome
from replay.runs import ADD, GUEST_WRITE, QUERY, REMOVE, Constant
from replay.units import U16_MAX

SCALAR_MOST: Final = 24
"""So many rows that are left are folded by the scalar rule."""
_WORTH: Final = 4
"""Pairs are left out when at least one row in this many is followed by one of the same gfn."""
_PAGES_A_LEAF: Final = 16
"""The counters of whole leaves are looked at when there are so many rows a leaf."""


def pairs_of(rows: Rows) -> Any:
    """Return for each row but the last whether the next one takes it back; None where that is rare.

    Cost: 1 ns a row. Source: see the module.
    """
    import numpy as np

    same = rows.gfn[1:] == rows.gfn[:-1]
    if np.count_nonzero(same) * _WORTH < len(rows.run):
        return None
    kind = rows.kind
    same &= (kind[1:] ^ kind[:-1]) == 1
    same &= (kind[1:] & 1).view(bool)
    if rows.has(QUERY, GUEST_WRITE):
        same &= kind[1:] != GUEST_WRITE & 7
    if rows.space is not None:
        same &= rows.space[1:] == rows.space[:-1]
    return same


def rows_left(pairs: Any) -> Any:
    """Return the rows that are in no pair, in order. Source: see the module."""
    import numpy as np

    left = np.ones(len(pairs) + 1, bool)
    left[:-1] ^= pairs
    left[1:] ^= pairs
    return left.nonzero()[0]


def most_of_slot(machine: Machine, rows: Rows) -> int | None:
    """Return a number that no counter is above, where all rows lie in one slot that counts; None where it is not so simple.

    Source: see the module.
    """
    if rows.space is not None:
        return None
    vm, space = rows.spaces[0]
    low, high = int(rows.gfn.min()), rows.high
    slot = space.by_gfn(low)
    if slot is None or high >= slot.end_gfn or slot.arch.raw_write_track is None:
        return None
    leaves = (high >> LEAF_SHIFT) - (low >> LEAF_SHIFT) + 1
    if leaves * _PAGES_A_LEAF > len(rows.run) or not kvm_page_track_write_tracking_enabled(vm):
        return None
    return most_between(machine.allocator.counters, slot.arch.counts.bias, low, high)


def most_of_pairs(rows: Rows, layout: Layout, table: Table, pairs: Any) -> int | None:
    """Return the largest counter of all pairs; None where one is in a slot that does not count. Source: see the module."""
    import numpy as np

    at = pairs.nonzero()[0]
    keys = rows.gfn.take(at).astype(np.int64)
    if rows.space is not None:
        keys |= rows.space.take(at)
    places = layout.edges.searchsorted(keys, "right")
    if not len(at) or int(layout.state.take(places).max()) != LIVE:
        return None
    return int(places_of(table, layout.bias.take(places), parts_of(keys)).counts().max())


def below_limit(most: int | None, left: Any) -> bool:
    """Tell whether all pairs stay below the limit, whatever the rows that are left do. Source: see the module."""
    return most is not None and most + len(left) + 1 <= U16_MAX


def fold_left(machine: Machine, rows: Rows, left: Any, first: int) -> RunOutcome:
    """Apply the few rows that are left, in a slot that counts, by the scalar rule and return what the whole run did.

    Source: see the module.
    """
    outcome, numbers = RunOutcome(), left.tolist()
    if numbers:
        run = rows.run
        columns = [_chosen(column, numbers) for column in (run.kind, run.vm, run.as_id, run.gfn, run.level)]
        part = fold_rows(machine, columns, first, external=rows.has(ADD, REMOVE))
        outcome.log = [(numbers[row], reason) for row, reason in part.log]
        outcome.rets = {numbers[row]: ret for row, ret in part.rets.items()}
        outcome.tracked_writes = [numbers[row] for row in part.tracked_writes]
    else:
        machine.allocator.begin(first)
        machine.log.new = []
    outcome.adds, outcome.removes = rows.changes()
    return outcome


def _chosen(column: Sequence[int], numbers: Sequence[int]) -> Sequence[int]:
    if isinstance(column, Constant):
        return (column.number,) * len(numbers)
    return [column[row] for row in numbers]
