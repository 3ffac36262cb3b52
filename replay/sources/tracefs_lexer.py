"""Split tracefs text into blocks of lines."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

import attrs

from replay.errors import TraceSyntaxError
from replay.sources.files import Input, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replay.sources.tracefs_reader import Known

BLOCK_BYTES: Final = 1 << 18
"""Text that is split at once: large enough that the cost of a call vanishes, small enough that its lines stay in cache."""
LINE_BYTES_MAX: Final = 1 << 20
"""Longest line that is believed to be text."""
BESIDE_BYTES_MIN: Final = 1 << 26
"""Shortest text that is worth a second process, which takes its time to start."""
PACKED: Final = 8
"""How many times shorter than its text a compressed trace is at least."""


@attrs.define(eq=False)
class Block:
    """Some consecutive lines without their ends; first_line: the number of the first one, from 1; text: with their ends.

    ends: where the lines end in the text, for one that another process has looked at; it is split when all lines are asked for.
    known: what its lines say, as `replay.sources.tracefs_reader` found out there.
    """

    first_line: int
    _lines: list[bytes] | None
    text: bytes = b""
    ends: "NDArray[Any] | None" = None
    known: "Known | None" = None

    @property
    def lines(self) -> list[bytes]:
        """All lines."""
        if self._lines is None:
            self._lines = self.text.split(b"\n")
            self._lines.pop()
        return self._lines

    def __len__(self) -> int:
        return len(self.lines) if self.ends is None else len(self.ends)

    def line(self, row: int) -> bytes:
        """Return one line."""
        if self._lines is not None or self.ends is None:
            return self.lines[row]
        return self.text[self.ends[row - 1] + 1 if row else 0 : self.ends[row]]


@runtime_checkable
class Blocks(Protocol):
    """The blocks of a trace, whoever splits it."""

    @property
    def cut(self) -> bool:
        """Whether the text ended without a newline; after the last block."""
        ...

    @property
    def line(self) -> int:
        """Number of the next line."""
        ...

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks in order."""
        ...

    def close(self) -> None:
        """Let go of what is held for reading."""
        ...


def blocks_of(source: Input) -> Blocks:
    """Return who splits an input: another process when it may (`Input.jobs`), can, and when that is worth it.

    What other processes can not open is read here: standard input and pipes.
    """
    size_bytes = source.size_bytes
    if source.jobs > 1 and size_bytes is not None and size_bytes * (PACKED if source.compression else 1) >= BESIDE_BYTES_MIN:
        from replay.sources.tracefs_beside import BlocksBeside

        return BlocksBeside(source)
    return TracefsLexer(chunks(source))


class TracefsLexer:
    """Iterate over the blocks of a trace.

    chunks: the bytes of the trace in pieces of any size. Memory is a few blocks, whatever the length. An empty piece says that
    there is nothing more for now: what is whole of the text so far is given at once.
    `cut` says after the last block whether the text ended without a newline; `line` is the number of the next line. block_bytes:
    as BLOCK_BYTES.
    """

    TELLS_IDLE: ClassVar[bool] = False
    """Whether an empty piece gives a block without lines, when there is no other."""

    def __init__(self, chunks: Iterable[bytes], block_bytes: int | None = None) -> None:
        self._chunks = chunks
        self._block_bytes = BLOCK_BYTES if block_bytes is None else block_bytes
        self.cut = False
        self.line = 1

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks; raises TraceSyntaxError for text without line ends."""
        for text in self._texts():
            lines = text.split(b"\n")
            lines.pop()
            first, self.line = self.line, self.line + len(lines)
            yield Block(first, lines, text)

    def close(self) -> None:
        """Hold nothing."""

    def _texts(self) -> Iterator[bytes]:
        """Yield whole lines, a block or more at a time."""
        parts: list[bytes] = []
        held = 0
        for chunk in self._chunks:
            parts.append(chunk)
            held += len(chunk)
            if chunk and held < self._block_bytes:
                continue
            text = b"".join(parts)
            end = text.rfind(b"\n") + 1
            if not end and held > LINE_BYTES_MAX:
                raise TraceSyntaxError(f"{held} bytes without a line end", expected="lines of tracefs text")
            if end:
                yield from _cut(text[:end], self._block_bytes)
            elif self.TELLS_IDLE and not chunk:
                yield b""
            parts, held = [text[end:]], held - end
        yield from self._rest(b"".join(parts))

    def _rest(self, text: bytes) -> Iterator[bytes]:
        if text:
            self.cut = not text.endswith(b"\n")
            yield from _cut(text + b"\n" if self.cut else text, self._block_bytes)


class WholeLines(TracefsLexer):
    """Blocks of lines that end: a last line without an end may lack digits of its last number, so it is left out."""

    def _rest(self, text: bytes) -> Iterator[bytes]:
        end = text.rfind(b"\n") + 1
        yield from super()._rest(text[:end])
        self.cut = end < len(text)


def _cut(text: bytes, block_bytes: int) -> Iterator[bytes]:
    """Yield whole lines of about so many bytes from text that ends with a newline."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", min(start + block_bytes, len(text) - 1)) + 1
        yield text[start:end]
        start = end
