"""Read tracefs text in a second process: it decompresses, splits lines and reads blocks, while this one takes what they say.

Blocks come through a pipe, in order, so that the other process is never more than a few blocks ahead. A block that comes when the
pipe is empty is handed over as it is, for this process to read: whoever has time reads. What can not be decompressed or split is
said with the same error, at the same place among the blocks. The other process ends when its pipe is closed, which also happens
when this one dies, whatever the reason.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

from replay.errors import KvmReplayError, WorkerError
from replay.sources import tracefs_lexer
from replay.sources.files import Input, chunks
from replay.sources.tracefs_lexer import Block, TracefsLexer
from replay.sources.tracefs_reader import BlockReader, Known, known_of
from replay.sources.tracefs_words import Bodies

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

PIPE_BYTES: Final = 1 << 20
"""What the pipe holds where that can be chosen: some blocks."""
_JOIN_SECONDS: Final = 10
_F_SETPIPE_SZ: Final = 1031
"""Source: include/uapi/linux/fcntl.h F_SETPIPE_SZ."""
_BLOCK: Final = "block"
_TYPES: Final = ("uint32", "int64", "uint32", "uint8", "int32")
"""How ends, time_ns, number, kind and start of a block's lines travel."""

Said = tuple[str, Any, bytes]
"""What the other process says: "block", its parts and its text; "end" and whether the last line is cut; "error" and its parts."""


class Hearing:
    """Turns what the other process says into blocks. `cut`, `line`: as a lexer has them."""

    def __init__(self, source: Input) -> None:
        self.cut = False
        self.line = 1
        self._source = source
        self._bodies = Bodies()

    def blocks(self, heard: Iterator[Said]) -> Iterator[Block]:
        """Yield blocks with what their lines say; raises what the other process met."""
        for what, said, text in heard:
            if what == "end":
                self.cut = said
                return
            if what == "error":
                kind, found, where, expected, advice = said
                raise kind(found, where=where, expected=expected, advice=advice)
            block = self._block(text, *said)
            self.line += len(block)
            yield block

    def _block(self, text: bytes, first_line: int, place_bytes: int, parts: tuple[Any, ...] | None) -> Block:
        self._source.read_beside(place_bytes)
        if parts is None:
            return Block(first_line, None, text)
        known = self._known(*parts)
        return Block(first_line, None, text, known.ends, known)

    def _known(self, layout: Any, columns: tuple[bytes, ...], forgotten: int, words: tuple[Any, ...]) -> Known:
        import numpy as np

        if forgotten != self._bodies.forgotten:
            self._bodies = Bodies(forgotten=forgotten)  # blocks that wait keep what their numbers meant
        self._bodies.extend(*words)
        ends, time_ns, number, kind, start = (np.frombuffer(column, kind) for column, kind in zip(columns, _TYPES, strict=True))
        return known_of(
            layout, self._bodies, ends.astype(np.int64), time_ns, number.astype(np.int64), kind, start.astype(np.int64)
        )


class BlocksBeside:
    """Iterate over the blocks of a trace, as `TracefsLexer` does, with what their lines say. `close` ends the other process."""

    def __init__(self, source: Input) -> None:
        """Start the other process."""
        self._source = source
        self._hearing = Hearing(source)
        context = multiprocessing.get_context("spawn")  # this process may have threads, of numpy for one: never a mere fork
        self._pipe, theirs = context.Pipe(duplex=False)
        arguments = (theirs, source.path, tracefs_lexer.BLOCK_BYTES)
        self._process: BaseProcess | None = context.Process(target=_main, args=arguments, daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()

    @property
    def cut(self) -> bool:
        """Whether the text ended without a newline."""
        return self._hearing.cut

    @property
    def line(self) -> int:
        """Number of the next line."""
        return self._hearing.line

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks; raises what the other process met, and WorkerError when it died."""
        try:
            yield from self._hearing.blocks(self._heard())
        finally:
            self.close()

    def _heard(self) -> Iterator[Said]:
        while True:
            try:
                what, said = self._pipe.recv()
                text = self._pipe.recv_bytes() if what == _BLOCK else b""
            except (EOFError, OSError):
                where, expected = self._source.name, "the blocks of a trace"
                raise WorkerError(
                    "the process that reads it died", where=where, expected=expected, advice="give --jobs 1"
                ) from None
            yield what, said, text

    def close(self) -> None:
        """End the other process."""
        process, self._process = self._process, None
        if process is None:
            return
        self._pipe.close()
        process.terminate()
        process.join(_JOIN_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _main(pipe: Connection, path: str, block_bytes: int) -> None:
    """Say the blocks of a trace; the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the first one's business
    with contextlib.suppress(OSError, ImportError):
        import fcntl  # there on Unix only

        fcntl.fcntl(pipe.fileno(), _F_SETPIPE_SZ, PIPE_BYTES)
    try:
        with contextlib.suppress(BrokenPipeError):
            for what, said, text in spoken(Input(path), block_bytes, lambda: _is_empty(pipe)):
                pipe.send((what, said))
                if what == _BLOCK:
                    pipe.send_bytes(text)  # by itself: as a part of what is pickled it would be copied once more on each side
    finally:
        pipe.close()


def _is_empty(pipe: Connection) -> bool:
    """Say whether all that was said has been heard. Source: fs/pipe.c pipe_ioctl() answers FIONREAD at both ends."""
    count = bytearray(4)
    try:
        import fcntl
        import termios

        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, count)
    except (OSError, ImportError):
        return False
    return not any(count)


def spoken(source: Input, block_bytes: int, hungry: Callable[[], bool]) -> Iterator[Said]:
    """Yield what is to be said of a trace. hungry: says whether the next block is wanted at once, read or not."""
    lexer = TracefsLexer(chunks(source), block_bytes)
    reader, told = BlockReader(), (0, 1)
    try:
        for block in lexer:
            known = None if hungry() else reader.known(block, pairs=True)
            parts = None if known is None else _parts(known, told)
            told = told if known is None else (known.bodies.forgotten, len(known.bodies.kind))
            yield _BLOCK, (block.first_line, source.place_bytes, parts), block.text
    except KvmReplayError as error:
        yield "error", (type(error), error.found, error.where, error.expected, error.advice), b""
    else:
        yield "end", lexer.cut, b""


def _parts(known: Known, told: tuple[int, int]) -> tuple[Any, ...]:
    """Return what is to be said of a block's lines; told: how often words were forgotten, and how many are known there."""
    bodies = known.bodies
    first = told[1] if told[0] == bodies.forgotten else 1
    columns = zip((known.ends, known.time_ns, known.number, known.kind, known.start), _TYPES, strict=True)
    return known.layout, tuple(column.astype(kind).tobytes() for column, kind in columns), bodies.forgotten, bodies.since(first)
