"""Find stretches of strace lines that are equal but for their times: KVM_RUN is nearly all of a long recording.

The lines of a block are compared in columns, and only the first of a stretch is read by the grammar that single lines are read
by. A stretch is offered to who can take it as a whole; else its lines are given like all others.
"""

import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import attrs

from replay.sources.files import whole_lines
from replay.sources.ioctls import KVM_RUN
from replay.sources.strace_args import ioctl_args
from replay.sources.syscalls import BOTH, Syscall

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINES_MIN: Final = 16
"""Shortest stretch that is worth it."""
LINES_BEFORE: Final = 1 << 15
"""Lines that are read one by one before numpy is imported for the others."""
FIRST_LINES: Final = 2
"""Lines of a stretch that are given like others, so that what they say is known when the rest is offered."""
_NEWLINE: Final = 10
_STAMPED: Final = re.compile(r"(\d{1,7}) +([1-8]\d{9}\.\d{6}) ioctl\((.*)\) += (\d{1,18})\n")
"""An ioctl that succeeded, as -f, -o and -ttt make its line, in 63 bits of nanoseconds."""
_STAMP_CHARS: Final = 17
_DOT: Final = 10


@attrs.define(eq=False)
class LineRun:
    """Lines that follow each other and say the same ioctl of one thread, but for its times.

    line: number of the first one. args, ret: as a `Syscall` has them. stamps_ns: of each, as an array. taken: how many were
    taken from its beginning.
    """

    tid: int
    args: str
    ret: int
    line: int
    file: int
    stamps_ns: "NDArray[Any]"
    taken: int = 0

    def __len__(self) -> int:
        return len(self.stamps_ns) - self.taken

    def next(self) -> Syscall:
        """Take the next line as a record."""
        line, at_ns = self.line + self.taken, int(self.stamps_ns[self.taken])
        self.taken += 1
        return Syscall(self.tid, "ioctl", self.args, line, BOTH, self.ret, enter_ns=at_ns, exit_line=line, file=self.file)

    def ahead_ns(self, most: int) -> list[int]:
        """Return the stamps of the next lines, of so many of them."""
        stamps: list[int] = self.stamps_ns[self.taken : self.taken + most].tolist()
        return stamps

    def skip(self, count: int) -> list[int]:
        """Take so many lines together; return the last two stamps of them."""
        self.taken += count
        stamps: list[int] = self.stamps_ns[max(self.taken - 2, self.taken - count) : self.taken].tolist()
        return stamps


def runs_vcpu(args: str) -> bool:
    """Say whether the arguments of an ioctl are those of a KVM_RUN."""
    found = ioctl_args(args)
    return found is not None and found.cmd == KVM_RUN


Take = Callable[[LineRun], bool]
"""Take a stretch; False: its lines are to be given."""


class RunLines:
    """Lines of strace text with their numbers, except for stretches that were taken.

    take: who is offered stretches.
    """

    def __init__(self, stream: BinaryIO, take: Take, *, file: int = 0) -> None:
        self._stream, self._take, self._file = stream, take, file

    def __iter__(self) -> Iterator[tuple[int, str]]:
        number = 1
        for text in whole_lines(self._stream):
            at = 0
            many = number > LINES_BEFORE or "numpy" in sys.modules
            for start, stop, line, run in stretches(text, number) if many else ():
                run.line, run.file = line, self._file
                yield from enumerate(_lines(text[at:start]), number)
                number, at = line, start
                if self._take(run):
                    number, at = line + len(run.stamps_ns), stop
            rest = _lines(text[at:])
            yield from enumerate(rest, number)
            number += len(rest)


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def stretches(text: str, number: int) -> Iterator[tuple[int, int, int, LineRun]]:
    """Yield stretches of whole lines: where they begin and end in the text, the number of their first line, and what they say.

    number: of the text's first line. The first and the last lines of what is alike are left out: see FIRST_LINES; and who
    reads lines wants to see that a damaged one before them was not the last. Cost: 0.1 us a line.
    """
    import numpy as np

    data = np.frombuffer(text.encode("latin-1"), np.uint8)
    starts = np.flatnonzero(data == _NEWLINE) + 1
    if len(starts) < LINES_MIN:
        return
    starts = np.concatenate(([0], starts))
    lengths = np.diff(starts)
    for first, behind in _alike(lengths[1:] == lengths[:-1]):
        block = data[starts[first] : starts[behind]].reshape(behind - first, -1)
        middle = int(starts[(first + behind) // 2])
        head = _STAMPED.match(text, middle)
        if head is None:
            continue
        column = head.start(2) - middle
        alike = (block[1:, :column] == block[:-1, :column]).all(axis=1)
        alike &= (block[1:, column + _STAMP_CHARS :] == block[:-1, column + _STAMP_CHARS :]).all(axis=1)
        for start, stop in _alike(alike):
            begin, end = start + FIRST_LINES, stop - 1
            at, after = int(starts[first + begin]), int(starts[first + end])
            found = _run(text[at : at + block.shape[1]], block[begin:end], column)
            if found is not None:
                yield at, after, number + first + begin, found


def _run(line: str, block: "NDArray[Any]", column: int) -> LineRun | None:
    """Return what lines say of which the first one is this; None for lines of another kind."""
    import numpy as np

    head = _STAMPED.fullmatch(line)
    if head is None or head.start(2) != column:
        return None
    digits = block[:, column : column + _STAMP_CHARS] - np.uint8(ord("0"))
    seconds, us = digits[:, :_DOT], digits[:, _DOT + 1 :]
    good = (seconds <= 9).all() and (us <= 9).all() and (seconds[:, 0] >= 1).all() and (seconds[:, 0] <= 8).all()
    if not good or not (block[:, column + _DOT] == ord(".")).all():
        return None
    stamps = np.zeros(len(block), np.int64)
    for places in (seconds, us):
        for place in np.ascontiguousarray(places.T):
            stamps *= 10
            stamps += place
    return LineRun(int(head[1]), head[3], int(head[4]), 0, 0, stamps * 1000)


def _alike(pairs: "NDArray[Any]") -> list[tuple[int, int]]:
    """Return the rows, as (first, behind), of which each is like the next one, where they are enough; pairs: which are."""
    import numpy as np

    edges = np.flatnonzero(np.diff(np.concatenate(([False], pairs, [False])))).reshape(-1, 2)
    edges[:, 1] += 1
    rows: list[tuple[int, int]] = edges[edges[:, 1] - edges[:, 0] >= LINES_MIN].tolist()
    return rows
