"""Read and write files, pipes and open streams alike; every trouble of the system becomes an error of ours."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from replay.errors import UnreadableError, UnwritableError

PART_SUFFIX: Final = ".part"
Readable = str | os.PathLike[str] | BinaryIO
Writable = str | os.PathLike[str] | BinaryIO
Announce = Callable[[int], None]
"""Told by a writer how many events are safe by now."""


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


class Input:
    """Bytes read from front to back, with the place reached; what was peeked at is read again.

    what: a path, "-" for standard input, or an open binary stream, which is not closed. Raises UnreadableError.
    """

    def __init__(self, what: Readable) -> None:
        self.position = 0
        self._ahead = b""
        self._owned = False
        if isinstance(what, str) and what == "-":
            self.name = "standard input"
            self._stream: BinaryIO = sys.stdin.buffer
        elif isinstance(what, str | os.PathLike):
            self.name = os.fspath(what)
            self._stream = self._open(self.name)
            self._owned = True
        else:
            self.name = str(getattr(what, "name", "stream"))
            self._stream = what

    @property
    def is_file(self) -> bool:
        """Whether `name` is that of a regular file, which can be opened again."""
        return self._owned and Path(self.name).is_file()

    @staticmethod
    def _open(name: str) -> BinaryIO:
        try:
            return Path(name).open("rb")
        except (OSError, ValueError) as error:
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            raise UnreadableError(reason, where=name, expected="a readable file") from None

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes without taking them; fewer only at the end."""
        self._ahead += self._fill(size - len(self._ahead))
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        taken += self._fill(size - len(taken))
        self.position += len(taken)
        return taken

    def read_into(self, room: memoryview) -> int:
        """Fill the room with the next bytes; return how many, fewer than it takes only at the end."""
        taken = len(self._ahead[: len(room)])
        room[:taken], self._ahead = self._ahead[:taken], self._ahead[taken:]
        readinto: Callable[[memoryview], int | None] | None = getattr(self._stream, "readinto", None)
        if readinto is None:
            rest = self._fill(len(room) - taken)
            room[taken : taken + len(rest)] = rest
            taken += len(rest)
        while readinto is not None and taken < len(room):
            try:
                more = readinto(room[taken:])
            except OSError as error:
                raise self._trouble(error) from None
            if not more:
                break
            taken += more
        self.position += taken
        return taken

    def seek(self, position: int) -> None:
        """Go on at another byte of the file."""
        try:
            self._stream.seek(position)
        except OSError as error:
            raise self._trouble(error) from None
        self._ahead, self.position = b"", position

    def line(self, size_max: int) -> bytes:
        """Return the next line with its line end, at most `size_max` bytes of it; b"" at the end."""
        ahead = self._ahead[:size_max]
        end = ahead.find(b"\n") + 1
        if end or len(ahead) == size_max:
            return self.read(end or size_max)
        self._ahead = b""
        try:
            taken = ahead + self._stream.readline(size_max - len(ahead))
        except OSError as error:
            raise self._trouble(error) from None
        self.position += len(taken)
        return taken

    def _fill(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            try:
                piece = self._stream.read(size)
            except OSError as error:
                raise self._trouble(error) from None
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _trouble(self, error: OSError) -> UnreadableError:
        return UnreadableError(_reason(error), where=f"{self.name}, byte {self.position}", expected="readable bytes")

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._owned:
            self._stream.close()


class Room:
    """Memory for one block after another: what nobody looks into any more is used again, which spares the system's fresh pages.

    A few pieces at most; when all of them are looked into, the next block gets memory of its own.
    """

    def __init__(self) -> None:
        self._pieces: list[bytearray] = []

    def take(self, size: int) -> memoryview:
        """Return room of that size; its bytes are any."""
        place = next((place for place, piece in enumerate(self._pieces) if _is_free(piece)), len(self._pieces))
        if place == len(self._pieces) or len(self._pieces[place]) < size:
            piece = bytearray(_rounded(size))
            self._pieces[place : place + 1] = [piece] if place < _PIECES_MOST else []
            return memoryview(piece)[:size]
        return memoryview(self._pieces[place])[:size]


_PIECES_MOST: Final = 3
_PIECE_BYTES: Final = 1 << 16


def _rounded(size: int) -> int:
    """Return the size of a piece that the next blocks, which are often a little larger, fit as well."""
    return max(1, size + -size % _PIECE_BYTES)


def _is_free(piece: bytearray) -> bool:
    """Tell whether nobody looks into a piece: while somebody does, CPython lets nobody change its length."""
    if sys.implementation.name != "cpython":
        return False
    try:
        piece.pop()
    except BufferError:
        return False
    piece.append(0)
    return True


class Output:
    """Bytes written to NAME.part, which becomes NAME only by `commit`; or to an open stream as they come.

    Every piece goes to the system at once: a block that was written survives the end of the process. durable: survives the
    end of the machine as well (fsync of each piece, of the file and of its directory). A device or a pipe has no .part and
    is written as it is. what: a path, "-" for standard output, or an open binary stream, which is not closed.
    part_suffix: what stands for `.part`. Raises UnwritableError.
    """

    def __init__(self, what: Writable, *, overwrite: bool = False, durable: bool = False, part_suffix: str = PART_SUFFIX) -> None:
        self._durable = durable
        self._part_suffix = part_suffix
        self._target: Path | None = None
        self._in_place = False
        if isinstance(what, str) and what == "-":
            self.name = "standard output"
            self._stream: BinaryIO = sys.stdout.buffer
        elif isinstance(what, str | os.PathLike):
            self._target = Path(what)
            self.name = os.fspath(what)
            self._stream = self._open(overwrite=overwrite)
        else:
            self.name = str(getattr(what, "name", "stream"))
            self._stream = what

    @property
    def part(self) -> Path:
        """Where the bytes are until `commit`."""
        assert self._target is not None, "an open stream has no .part"
        return self._target if self._in_place else self._target.with_name(self._target.name + self._part_suffix)

    def _open(self, *, overwrite: bool) -> BinaryIO:
        assert self._target is not None
        self._in_place = self._target.exists() and not self._target.is_file() and not self._target.is_dir()
        if not overwrite and not self._in_place and self._target.exists():
            raise UnwritableError("exists", where=self.name, expected="a new file", advice="remove it, or choose another name")
        try:
            stream = cast("BinaryIO", self.part.open("wb" if overwrite or self._in_place else "xb", buffering=0))
            if self._durable and not self._in_place:
                self._sync_directory(self._target.parent)  # else the blocks would be on the disk, and their name not
        except FileExistsError:
            advice = "a recording in progress or cut short; recover or remove it first"
            raise UnwritableError("exists", where=str(self.part), expected="a new file", advice=advice) from None
        except (OSError, ValueError) as error:
            reason = _reason(error) if isinstance(error, OSError) else str(error)
            raise UnwritableError(reason, where=str(self.part), expected="a file that can be written") from None
        return stream

    def write(self, data: bytes) -> None:
        """Write all bytes."""
        if not data:
            return
        try:
            left = memoryview(data)
            while left:
                taken: int | None = self._stream.write(left)  # a raw stream may take a part, or None when it would block
                if taken is None:
                    raise BlockingIOError("would block")
                left = left[taken:]
            if self._durable:
                self._sync()
        except OSError as error:
            raise self._trouble(error) from None

    def _sync(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _trouble(self, error: OSError) -> UnwritableError:
        return UnwritableError(_reason(error), where=self.name, expected="room and permission to write")

    def commit(self) -> None:
        """Close and give the file its name; an open stream is flushed and left open."""
        try:
            self._stream.flush()
            if self._target is None:
                return
            self._stream.close()
            if not self._in_place:
                self.part.replace(self._target)
            if self._durable:
                self._sync_directory(self._target.parent)
        except OSError as error:
            raise self._trouble(error) from None

    @staticmethod
    def _sync_directory(directory: Path) -> None:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def abandon(self) -> None:
        """Close and leave NAME.part as it is."""
        if self._target is not None:
            self._stream.close()

    def discard(self) -> None:
        """Close and remove NAME.part: there is nothing in it yet that could be recovered."""
        self.abandon()
        if self._target is not None and not self._in_place:
            with suppress(OSError):
                self.part.unlink()
