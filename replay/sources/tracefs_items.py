"""Gather what an import of tracefs text gives: structural events one by one, shadow pages as columns."""

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from replay.events import Event, HotEvent, Task
from replay.runs import RUN_EVENTS_MAX, Constant, Item, Run, run_of
from replay.sources.tracefs_columns import PageColumns, columns_of_rows, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    _pieces: list[list[PageRow] | PageColumns] = attrs.field(factory=list)
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
        if self.rows or self._pieces or len(self._hot) >= RUN_EVENTS_MAX:
            self.close()
        self._hot.append(event)

    def pages(self, columns: PageColumns) -> None:
        """Write pages that are columns already."""
        if self.rows:
            self._pieces.append(self.rows[:])
            self.rows.clear()
        self._pieces.append(columns)

    def _end_hot(self) -> None:
        if self._hot:
            hot, self._hot = self._hot, []
            self._out.append(run_of(hot))

    def spill(self) -> None:
        """Write the full runs that have been gathered."""
        self._end_hot()
        while self._pieces and sum(map(len, self._pieces)) + len(self.rows) >= RUN_EVENTS_MAX:
            self._out.append(self._cut(RUN_EVENTS_MAX))
        while len(self.rows) >= RUN_EVENTS_MAX:
            self._out.append(self._run(self.rows[:RUN_EVENTS_MAX]))
            del self.rows[:RUN_EVENTS_MAX]

    def close(self) -> None:
        """End the run that is being gathered."""
        self.spill()
        if self._pieces:
            self._out.append(self._cut(RUN_EVENTS_MAX))
        if self.rows:
            self._out.append(self._run(self.rows))
            self.rows.clear()

    def _cut(self, most: int) -> Run:
        """Return the first rows, at most so many, as a run; some of them are columns."""
        if self.rows:
            self._pieces.append(self.rows[:])
            self.rows.clear()
        taken: list[list[PageRow] | PageColumns] = []
        while self._pieces and most:
            piece = self._pieces.pop(0)
            if len(piece) > most:
                first, rest = _parted(piece, most)
                self._pieces.insert(0, rest)
                piece = first
            taken.append(piece)
            most -= len(piece)
        parts = [piece if isinstance(piece, PageColumns) else columns_of_rows(piece) for piece in taken]
        if None not in parts:
            return self._run_of_columns(joined([part for part in parts if part is not None]))
        return self._run([row for piece in taken for row in (piece.rows() if isinstance(piece, PageColumns) else piece)])

    def drain(self) -> list[Item]:
        """Return what is ready and forget it."""
        out, self._out = self._out, []
        return out

    def _run_of_columns(self, pages: PageColumns) -> Run:
        """Return columns as a run whose columns are views of bytes."""
        import numpy as np

        length = len(pages)
        plain = int(pages.place.max()) <= _LEVEL_MASK
        known = list(self._tasks)
        used = np.unique(pages.task)
        zeros = Constant(0, length)
        return Run(
            kind=_view(pages.kind, "B"),
            vm=_view_of(pages.vm, "I"),
            as_id=zeros if plain else _view_of(pages.place >> 3 & 0xFF, "B"),
            gfn=_view(pages.gfn, "Q"),
            level=_view_of(pages.place & _LEVEL_MASK, "B"),
            nested=_view_of(pages.place >> 11, "B") if not (plain or self.nested) else Constant(int(self.nested), length),
            ret=Constant(None, length),
            task=zeros if len(used) == 1 else _view(np.searchsorted(used, pages.task), "I"),
            tasks=tuple(Task(*known[index]) for index in used.tolist()),
            time_ns=_view(pages.time_ns, "Q"),
            file=Constant(self.file, length),
            line=_view(pages.line, "Q"),
            inferred=zeros,
        )

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


def _parted(piece: list[PageRow] | PageColumns, rows: int) -> tuple[list[PageRow] | PageColumns, list[PageRow] | PageColumns]:
    """Return the first rows of a piece, and the others."""
    if isinstance(piece, PageColumns):
        return piece.cut(0, rows), piece.cut(rows, len(piece))
    return piece[:rows], piece[rows:]


def _view(column: "NDArray[Any]", code: str) -> memoryview:
    """Return a column of an array as the columns of a recording are: bytes that are looked at as unsigned numbers."""
    return memoryview(array(code, column.astype(code).tobytes()))


def _view_of(column: "NDArray[Any]", code: str) -> Sequence[int]:
    """Return a column of an array as a constant when it is one."""
    first = int(column[0])
    return Constant(first, len(column)) if bool((column == first).all()) else _view(column, code)
