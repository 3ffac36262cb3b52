"""Choose rows of a run for the engine: only the columns that a fold looks at."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from replay.kvm.fold import BULK_ROWS_LEAST, has_bulk
from replay.runs import COLUMNS, Constant, Run

_FOLDED: Final = ("kind", "vm", "as_id", "gfn", "level")


def rows_of_vms(run: Run, vms: Sequence[int], kept: Sequence[int] | None) -> Sequence[int]:
    """Return the rows of some VMs, of those that are kept."""
    wanted = frozenset(vms)
    if kept is not None:
        return [row for row in kept if run.vm[row] in wanted]
    if isinstance(run.vm, memoryview) and len(run) >= BULK_ROWS_LEAST and has_bulk():
        import numpy as np  # the run is long, and numpy is there

        flags = np.zeros(run.vms()[-1] + 1, bool)
        flags[list(vms)] = True
        numbers = np.frombuffer(run.vm, f"u{run.vm.itemsize}")
        found: memoryview = (flags[numbers] if len(vms) > 1 else numbers == vms[0]).nonzero()[0].data
        return found
    return [row for row, number in enumerate(run.vm) if number in wanted]


def chosen_rows(run: Run, rows: Sequence[int]) -> Run:
    """Return a run with only some rows, and of those only what a fold looks at."""
    columns: dict[str, Any] = dict.fromkeys(COLUMNS, Constant(None, len(rows)))
    columns |= {name: chosen_column(getattr(run, name), rows) for name in _FOLDED}
    return Run(tasks=(), **columns)


def chosen_column(column: Sequence[int], rows: Sequence[int]) -> Sequence[int]:
    """Return some rows of a column."""
    if isinstance(column, Constant):
        return Constant(column.number, len(rows))
    if isinstance(rows, memoryview) and isinstance(column, memoryview):
        import numpy as np

        found: memoryview = np.frombuffer(column, f"u{column.itemsize}")[np.asarray(rows)].data
        return found
    return itemgetter(*rows)(column) if len(rows) > 1 else [column[row] for row in rows]
