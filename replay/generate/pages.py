"""Draw the hot events of one VM: page tables that are tracked and untracked in turn, without an object an event.

What is drawn is which page table is touched next; a touch tracks the gfn when it is not tracked, and untracks it when it is.
So every sequence of draws is one that a kernel can have done, and no count goes below zero.
"""

from typing import Any, Final

import attrs

from replay.generate.dice import Dice
from replay.generate.measured import Measured
from replay.runs import ADD, GUEST_WRITE, REMOVE

CELL_COLUMNS: Final = ("vm", "kind", "gfn", "level", "time_ns")


@attrs.frozen(kw_only=True)
class Habit:
    """How one kind of guest touches its page tables.

    up, down: codes of the two events. kept: page tables that are tracked first and stay, roots or a vGPU's long-lived ones.
    pairs_permille: draws that touch a page table twice at once. writes_permille: events that are guest writes to the kept.
    """

    up: int
    down: int
    kept: int
    pairs_permille: int
    gaps: Measured
    nested: bool = False
    writes_permille: int = 0

    @property
    def external(self) -> bool:
        """Whether an external user tracks, whose calls have results."""
        return self.up == ADD


class Pages:
    """The page tables of one VM; cells 0 to kept - 1 stay tracked between `keep` and `drop`."""

    def __init__(self, vm: int, dice: Dice, habit: Habit, gfns: Any, levels: Any) -> None:
        """gfns, levels: arrays, one entry a page table; a gfn that is there twice can be tracked twice."""
        import numpy as np

        self._vm = vm
        self._dice = dice
        self.habit = habit
        self._gfns, self._levels = gfns, levels
        self._tracked = np.zeros(len(gfns), np.uint8)
        self._gaps = np.array(habit.gaps.quantiles, np.int64)

    def keep(self) -> dict[str, Any]:
        """Track the page tables that stay, as columns."""
        import numpy as np

        return self._flip(np.arange(self.habit.kept))

    def drop(self) -> dict[str, Any]:
        """Untrack whatever is tracked, as columns; no rows when nothing is."""
        import numpy as np

        return self._flip(np.flatnonzero(self._tracked))

    def touch(self, count: int) -> dict[str, Any]:
        """Draw some events, as columns of that many rows."""
        import numpy as np

        habit = self.habit
        draws = self._dice.many(count, len(self._gfns) - habit.kept).astype(np.int64) + habit.kept
        twice = self._dice.many(count, 1000) < np.uint64(habit.pairs_permille)
        cells = np.repeat(draws, twice.astype(np.int64) + 1)[:count]
        if not habit.writes_permille:
            return self._flip(cells)
        writes = self._dice.many(count, 1000) < np.uint64(habit.writes_permille)
        columns = self._flip(cells[: count - int(writes.sum())])
        at = np.where(writes, 0, np.cumsum(~writes) - 1)
        written = self._dice.many(count, habit.kept).astype(np.int64)
        kind = np.where(writes, GUEST_WRITE, columns["kind"][at] if len(columns["kind"]) else GUEST_WRITE).astype(np.uint8)
        gfn = np.where(writes, self._gfns[written], columns["gfn"][at] if len(columns["gfn"]) else 0)
        return self._columns(kind, gfn, np.zeros(count, np.uint8))

    def _flip(self, cells: Any) -> dict[str, Any]:
        """Touch cells in order: which way each goes depends on how often it was touched before."""
        import numpy as np

        order = np.argsort(cells, kind="stable")
        ordered = cells[order]
        first = np.searchsorted(ordered, ordered, side="left")
        odd = np.empty(len(cells), np.uint8)
        odd[order] = (np.arange(len(cells)) - first + self._tracked[ordered]) & 1
        self._tracked ^= (np.bincount(cells, minlength=len(self._tracked)) & 1).astype(np.uint8)
        kind = np.where(odd, self.habit.down, self.habit.up).astype(np.uint8)
        return self._columns(kind, self._gfns[cells], self._levels[cells])

    def _columns(self, kind: Any, gfn: Any, level: Any) -> dict[str, Any]:
        """Return columns with the VM and the time since the event before."""
        import numpy as np

        gaps = self._gaps[self._dice.many(len(kind), len(self._gaps)).astype(np.int64)]
        return {"vm": np.full(len(kind), self._vm), "kind": kind, "gfn": gfn, "level": level, "time_ns": np.cumsum(gaps)}


def has_result(kind: Any) -> Any:
    """Tell of an array of kinds which have a result: adds and removes of external users."""
    return (kind == ADD) | (kind == REMOVE)
