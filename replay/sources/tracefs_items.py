"""Gather what an import of tracefs text gives: structural events one by one, shadow pages as columns."""

from collections.abc import Sequence
from typing import Final

import attrs

from replay.events import Event, HotEvent, Task
from replay.runs import RUN_EVENTS_MAX, Constant, Item, Run, run_of

PageRow = tuple[int, int, int, int, int, int | None, int]
"""kind, vm, gfn, place (`place_of`), index of the task, time in ns, line."""
_LEVEL_MASK: Final = 7
_NESTED: Final = 1 << 11


def place_of(level: int, as_id: int = 0, *, nested: bool = False) -> int:
    """Return where a page stands in one number: level in bits 0 to 2, address space in 3 to 10, guest mode in bit 11.

    >>> place_of(4), place_of(2, 1, nested=True)
    (4, 2058)
    """
    return level | as_id << 3 | nested << 11


@attrs.define
class ItemWriter:
    """Puts events and pages in order: a structural event closes the run before it.

    file: index of the trace among the sources. nested: the pages shadow an L2 guest's tables. `rows` may be appended to directly.
    """

    file: int = 0
    nested: bool = False
    rows: list[PageRow] = attrs.field(factory=list)
    _tasks: dict[tuple[int, int], int] = attrs.field(factory=dict)
    _out: list[Item] = attrs.field(factory=list)
    _hot: list[HotEvent] = attrs.field(factory=list)

    def task_index(self, task: tuple[int, int]) -> int:
        """Return the index of a (pid, tid) in the rows."""
        return self._tasks.setdefault(task, len(self._tasks))

    def event(self, event: Event) -> None:
        """Write one structural event."""
        self.close()
        self._out.append(event)

    def hot(self, event: HotEvent) -> None:
        """Write a hot event that is no page; what was gathered of pages comes before it, what follows after."""
        if self.rows or len(self._hot) >= RUN_EVENTS_MAX:
            self.close()
        self._hot.append(event)

    def _end_hot(self) -> None:
        if self._hot:
            hot, self._hot = self._hot, []
            self._out.append(run_of(hot))

    def spill(self) -> None:
        """Write the full runs that have been gathered."""
        self._end_hot()
        while len(self.rows) >= RUN_EVENTS_MAX:
            self._out.append(self._run(self.rows[:RUN_EVENTS_MAX]))
            del self.rows[:RUN_EVENTS_MAX]

    def close(self) -> None:
        """End the run that is being gathered."""
        self.spill()
        if self.rows:
            self._out.append(self._run(self.rows))
            self.rows.clear()

    def drain(self) -> list[Item]:
        """Return what is ready and forget it."""
        out, self._out = self._out, []
        return out

    def _run(self, rows: list[PageRow]) -> Run:
        """Return rows as a run; columns of one value cost nothing."""
        kinds, vms, gfns, places, tasks, times, lines = zip(*rows, strict=True)
        length = len(rows)
        plain = max(places) <= _LEVEL_MASK
        known = list(self._tasks)
        used = sorted(set(tasks))
        renumbered = {index: place for place, index in enumerate(used)}
        return Run(
            kind=kinds,
            vm=_column(vms),
            as_id=Constant(0, length) if plain else _column([place >> 3 & 0xFF for place in places]),
            gfn=gfns,
            level=_column(places if plain else [place & _LEVEL_MASK for place in places]),
            nested=_column([int(place >= _NESTED) for place in places])
            if not (plain or self.nested)
            else Constant(int(self.nested), length),
            ret=Constant(None, length),
            task=Constant(0, length) if len(used) == 1 else [renumbered[index] for index in tasks],
            tasks=tuple(Task(*known[index]) for index in used),
            time_ns=times,
            file=Constant(self.file, length),
            line=lines,
            inferred=Constant(0, length),
        )


def _column(values: Sequence[int]) -> Sequence[int]:
    """Return a column as a constant when it is one."""
    return Constant(values[0], len(values)) if len(set(values)) == 1 else values
