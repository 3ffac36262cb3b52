"""Split tracefs text into blocks of lines, with one compiled expression over each: import time is mostly spent here."""

from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from replay.errors import TraceSyntaxError
from replay.sources.tracefs_grammar import LATENCY_PAGE_LINES, PAGE_LINES, Row

BLOCK_BYTES: Final = 1 << 18
"""Text that is matched at once: large enough that the cost of a call vanishes, small enough that its rows stay in cache."""
LINE_BYTES_MAX: Final = 1 << 20
"""Longest line that is believed to be text."""


@attrs.frozen
class Block:
    """Some consecutive lines: the number of the first one, from 1, and one row for each."""

    first_line: int
    rows: list[Row]


class TracefsLexer:
    """Iterate over the blocks of a trace.

    chunks: the bytes of the trace in pieces of any size. Memory is a few blocks, whatever the length.
    `cut` says after the last block whether the text ended without a newline.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.latency = False
        self.cut = False

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks; raises TraceSyntaxError for text without line ends."""
        line = 1
        pattern = PAGE_LINES
        for text in self._texts():
            if line == 1:
                self.latency = _is_latency(text)
                pattern = LATENCY_PAGE_LINES if self.latency else PAGE_LINES
            rows = pattern.findall(text)
            yield Block(line, rows)
            line += len(rows)

    def _texts(self) -> Iterator[bytes]:
        """Yield whole lines, BLOCK_BYTES or more at a time."""
        parts: list[bytes] = []
        held = 0
        for chunk in self._chunks:
            parts.append(chunk)
            held += len(chunk)
            if held < BLOCK_BYTES:
                continue
            text = b"".join(parts)
            end = text.rfind(b"\n") + 1
            if not end and held > LINE_BYTES_MAX:
                raise TraceSyntaxError(f"{held} bytes without a line end", expected="lines of tracefs text")
            if end:
                yield from _cut(text[:end])
            parts, held = [text[end:]], held - end
        yield from self._rest(b"".join(parts))

    def _rest(self, text: bytes) -> Iterator[bytes]:
        if text:
            self.cut = not text.endswith(b"\n")
            yield from _cut(text + b"\n" if self.cut else text)


def _cut(text: bytes) -> Iterator[bytes]:
    """Yield whole lines of about BLOCK_BYTES from text that ends with a newline."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", min(start + BLOCK_BYTES, len(text) - 1)) + 1
        yield text[start:end]
        start = end


def _is_latency(text: bytes) -> bool:
    """Say whether a trace is in the latency format: its header says so, or more of its first lines read that way."""
    head = text[: 1 << 14]
    if b"# latency trace" in head:
        return True
    latency = sum(1 for row in LATENCY_PAGE_LINES.findall(head) if not row[9])
    return latency > sum(1 for row in PAGE_LINES.findall(head) if not row[9])
