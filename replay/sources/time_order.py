"""Put the lines of bpftrace into the order of their times.

The kernel fills a buffer for each CPU; bpftrace empties one after the other, each to its end, so that what a thread did on two
CPUs is printed in the wrong order whenever it moved while bpftrace was busy. Within a CPU's lines the order holds. So lines are
held back, sorted, and given when nothing earlier can come any more: bpftrace printed nothing for a while, or many came since.
Source: bpftrace src/bpftrace.cpp poll_perf_events(); bcc src/cc/perf_reader.c perf_reader_event_read().
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from replay.sources.tally import Tally
from replay.sources.tracefs_lexer import Block, WholeLines

HELD_BYTES_MAX: Final = 8 << 20
"""Text that is held back: some 120,000 lines, or 10,000 areas with their stacks."""
PIECE_LINES: Final = 4096
"""Lines that are sorted and given together once an order had to be made."""
DAMAGED_NS: Final = 60_000_000_000
"""A time that is so far from its neighbours is a damaged number, or of another clock: the line stays where it is."""
QUIET_ROUNDS: Final = 2
"""Empty pieces, 50 ms apart, after which lines are given that are TRAILING_NS older than the newest."""
TRAILING_NS: Final = 1_000_000_000
SILENT_ROUNDS: Final = 20
"""Empty pieces after which all lines are given: bpftrace prints whatever it has within much less."""
LATE: Final = "line that came too late for its time: what lies between may be in the wrong order"
_JSON: Final = b'{"type": "printf", "data": "'
_TIMES: Final = re.compile(rb'^(?:\{"type": "printf", "data": ")?(\d{1,19}) \d', re.MULTILINE)

Row = tuple[int, int, bytes]
"""Time, number of the line, line."""


@attrs.define
class Piece:
    """Lines that are held: a block as it was read, or rows that were sorted. before_ns: time of the line before the block."""

    before_ns: int
    last_ns: int
    nbytes: int
    block: Block | None = None
    rows: list[Row] = attrs.field(factory=list)


class TimeOrder(WholeLines):
    """Iterate over blocks in order of time; each block's lines are consecutive in the text, and keep their numbers.

    A line without a time (a frame, a loss) stays behind the one before it. Memory: HELD_BYTES_MAX of text. Cost: 0.2 us a line
    that is in order. tally, name: where a line is counted that came too late to be put in its place.
    """

    TELLS_IDLE = True

    def __init__(self, chunks: Iterable[bytes], tally: Tally, name: str) -> None:
        super().__init__(chunks)
        self._tally, self._name = tally, name
        self._held: deque[Piece] = deque()
        self._nbytes = 0
        self._before_ns = 0
        self._given_ns = 0
        self._rounds = 0

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks."""
        for block in super().__iter__():
            if not block.lines:
                yield from self._idle()
                continue
            self._rounds = 0
            self._take(block)
            while self._nbytes > HELD_BYTES_MAX:
                yield from self._give()
        while self._held:
            yield from self._give()

    def _idle(self) -> Iterator[Block]:
        """Give what nothing can come before any more, now that there was nothing to read."""
        self._rounds += 1
        if self._rounds < QUIET_ROUNDS:
            return
        newest_ns = self._held[-1].last_ns if self._held else 0
        until_ns = newest_ns - (TRAILING_NS if self._rounds < SILENT_ROUNDS else 0)
        while self._held and self._held[0].last_ns <= until_ns:
            yield from self._give()

    def _take(self, block: Block) -> None:
        """Hold a block; sort it, with what is held and reaches into its time, when it is not in order."""
        times = column_of(block.lines) or [int(time) for time in _TIMES.findall(block.text)] or [self._before_ns]
        newest_ns = self._held[-1].last_ns if self._held else self._given_ns
        if times[0] >= newest_ns and list(times) == sorted(times):
            self._hold(Piece(self._before_ns, times[-1], len(block.text), block))
            self._before_ns = times[-1]
        else:
            self._sort(block)

    def _hold(self, piece: Piece) -> None:
        self._held.append(piece)
        self._nbytes += piece.nbytes

    def _sort(self, block: Block) -> None:
        """Put a block's lines where they belong among those that are held."""
        rows = rows_of(block, self._before_ns)
        self._before_ns = rows[-1][0]
        self._count_late(rows)
        first_ns = min(row[0] for row in rows)
        while self._held and self._held[-1].last_ns > first_ns:
            piece = self._held.pop()
            self._nbytes -= piece.nbytes
            rows += piece.rows if piece.block is None else rows_of(piece.block, piece.before_ns)
        rows.sort()
        for start in range(0, len(rows), PIECE_LINES):
            part = rows[start : start + PIECE_LINES]
            self._hold(Piece(0, part[-1][0], sum(len(row[2]) + 1 for row in part), rows=part))

    def _count_late(self, rows: list[Row]) -> None:
        late = [number for time_ns, number, _ in rows if time_ns < self._given_ns]
        if late:
            self._tally.add(f"{self._name}:{min(late)}", LATE, count=len(late))

    def _give(self) -> Iterator[Block]:
        """Give the oldest piece."""
        piece = self._held.popleft()
        self._nbytes -= piece.nbytes
        self._given_ns = max(self._given_ns, piece.last_ns)
        if piece.block is not None:
            yield piece.block
            return
        start = 0
        for place in range(1, len(piece.rows) + 1):
            if place == len(piece.rows) or piece.rows[place][1] != piece.rows[place - 1][1] + 1:
                lines = [row[2] for row in piece.rows[start:place]]
                yield Block(piece.rows[start][1], lines)
                start = place


def column_of(lines: list[bytes]) -> tuple[int, int] | None:
    """Return the first and the last time of lines that all have one, of the same width, in order; None for any others.

    >>> column_of([b"17 1 1 a X", b"19 1 1 a X"]), column_of([b"19 1 1 a X", b"17 1 1 a X"]), column_of([b"9 X", b"10 X"])
    ((17, 19), None, None)
    """
    start = len(_JSON) if lines[0].startswith(_JSON) else 0
    end = lines[0].find(b" ", start) + 1
    width = end - start
    found = [line[start:end] for line in lines]
    text = b"".join(found)
    digits = text.replace(b" ", b"")
    even = width > 1 and len(text) == width * len(lines) and text[width - 1 :: width].isspace() and digits.isdigit()
    if not even or len(digits) != len(text) - len(lines) or found != sorted(found):
        return None
    return int(found[0]), int(found[-1])


def rows_of(block: Block, before_ns: int) -> list[Row]:
    """Return a block's lines with the times that they are sorted by; before_ns: that of the line before.

    >>> [row[0] for row in rows_of(Block(1, [b"7 1 1 a X", b"  frame", b"9 1 1 a X"]), 0)]
    [7, 7, 9]
    """
    found = [_TIMES.match(line) for line in block.lines]
    times = [None if match is None else int(match[1]) for match in found]
    later = [*times[1:], None]
    rows, key_ns = [], before_ns
    for number, (line, time_ns, next_ns) in enumerate(zip(block.lines, times, later, strict=True), block.first_line):
        damaged = time_ns is None or (next_ns is not None and time_ns - next_ns > DAMAGED_NS)
        if time_ns is not None and not damaged and (not key_ns or key_ns - time_ns <= DAMAGED_NS):
            key_ns = time_ns
        rows.append((key_ns, number, line))
    return rows
