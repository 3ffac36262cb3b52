"""Look at all lines of a block of tracefs text at once: their times, and what stands before and behind them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from replay.sources.tracefs_lexer import Block

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SECONDS_DIGITS_MAX: Final = 10
_NEWLINE: Final = 10


@attrs.frozen
class Layout:
    """Columns of a line: end of the thread id's padding, first digit of the seconds, the dot, the event."""

    task_end: int
    seconds: int
    dot: int
    body: int


@attrs.frozen(eq=False)
class BlockColumns:
    """The lines of a block, by row.

    ends: where they end in the text.
    timed: rows that have a time where the layout has it. time_ns: of the other rows it means nothing. heads: the first rows of
    lines that follow each other and begin alike, up to the time; alike: how many these are. bodies: what stands behind the time.
    """

    ends: "NDArray[Any]"
    timed: "NDArray[Any]"
    time_ns: "NDArray[Any]"
    heads: list[int]
    alike: "NDArray[Any]"
    bodies: list[bytes]


def columns_of(block: Block, layout: Layout) -> BlockColumns | None:
    """Return the columns of a block, None when it is too short for any. Cost: 0.2 us a line."""
    import numpy as np

    text = np.frombuffer(block.text, np.uint8)
    if len(text) < layout.body:
        return None
    ends = np.flatnonzero(text == _NEWLINE)
    starts = np.zeros(len(ends), np.int64)
    starts[1:] = ends[:-1] + 1
    # A row that is too short shows bytes of its neighbours, and is no timed one.
    windows = np.lib.stride_tricks.sliding_window_view(text, layout.body)
    fixed = windows[np.minimum(starts, len(text) - layout.body)]
    timed, time_ns = _times(fixed, layout)
    timed = timed & (starts + layout.body <= ends)
    changed = np.ones(len(ends), bool)
    changed[1:] = (fixed[1:, : layout.seconds] != fixed[:-1, : layout.seconds]).any(axis=1) | ~timed[:-1]
    heads = np.flatnonzero(changed)
    body = layout.body
    bodies = [line[body:] for line in block.lines]
    return BlockColumns(ends, timed, time_ns, heads.tolist(), np.diff(heads, append=len(ends)), bodies)


def _times(fixed: "NDArray[Any]", layout: Layout) -> "tuple[NDArray[Any], NDArray[Any]]":
    """Return which rows have a time in the layout's columns, spelled as the kernel does, and the times."""
    import numpy as np

    stop = layout.body - 2
    places = [*range(layout.seconds, layout.dot), *range(layout.dot + 1, stop)]
    digits = fixed[:, places] - np.uint8(ord("0"))
    timed = np.logical_and.reduce(digits <= 9, axis=1)
    for place, sign in ((layout.dot, b"."), (stop, b":"), (stop + 1, b" ")):
        timed &= fixed[:, place] == ord(sign)
    if layout.dot - layout.seconds == _SECONDS_DIGITS_MAX:  # beyond, it would not fit 63 bits of nanoseconds
        timed &= (digits[:, 0] >= 1) & (digits[:, 0] <= 8)
    time_us = np.zeros(len(fixed), np.int64)
    for column in np.ascontiguousarray(digits.T):
        time_us *= 10
        time_us += column
    return timed, time_us * 1000


@attrs.frozen(eq=False)
class PageColumns:
    """Accounted pages as columns of equal length: as a `PageRow` each, with a time."""

    kind: "NDArray[Any]"
    vm: "NDArray[Any]"
    gfn: "NDArray[Any]"
    place: "NDArray[Any]"
    task: "NDArray[Any]"
    time_ns: "NDArray[Any]"
    line: "NDArray[Any]"

    def __len__(self) -> int:
        return len(self.kind)

    def cut(self, start: int, stop: int) -> "PageColumns":
        """Return some rows of them, without a copy."""
        return PageColumns(*(column[start:stop] for column in _columns(self)))

    def rows(self) -> list[tuple[Any, ...]]:
        """Return them as rows."""
        return list(zip(*(column.tolist() for column in _columns(self)), strict=True))


def _columns(pages: PageColumns) -> "tuple[NDArray[Any], ...]":
    return (pages.kind, pages.vm, pages.gfn, pages.place, pages.task, pages.time_ns, pages.line)


TYPES: Final = ("u1", "u4", "u8", "u2", "u4", "i8", "u8")
"""Of the columns, in order."""


def columns_of_rows(rows: Sequence[tuple[Any, ...]]) -> PageColumns | None:
    """Return rows as columns; None when a row has no time."""
    import numpy as np

    columns = list(zip(*rows, strict=True))
    if None in columns[5]:
        return None
    return PageColumns(*(np.array(column, kind) for column, kind in zip(columns, TYPES, strict=True)))


def joined(parts: Sequence[PageColumns]) -> PageColumns:
    """Return columns one after the other."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    return PageColumns(*map(np.concatenate, zip(*map(_columns, parts), strict=True)))
