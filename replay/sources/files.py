"""Open any input: a path or stdin, plain or compressed, as a stream that can be read again from its start.

Importers read twice (who made whom, then the events), so what can not be read again is kept in a temporary file. Compression
is recognised by its first bytes, never by a name.
"""

import gzip
import io
import lzma
import os
import shutil
import stat
import sys
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from replay.errors import DecompressionError, UnreadableError, UsageError

BLOCK_BYTES: Final = 1 << 20
LINE_CHARS_MAX: Final = 1 << 20
"""Longest line that is looked at; a longer one is cut to this length and its rest passed over."""
HEAD_BYTES: Final = 1 << 16
"""How much of an input its format is recognised by."""
EXPANDED_BYTES_MAX: Final = 1 << 42
"""Most that a compressed file may give: 4 TiB, more than any recorder fills in a week."""
_SPOOL_BYTES_MAX: Final = 1 << 23
WINDOW_BYTES_MAX: Final = 1 << 26
"""How far back a compressed file may refer, for which its header makes a decompressor take memory: what xz -9 needs."""
_XZ_MEMORY_BYTES: Final = WINDOW_BYTES_MAX + (1 << 21)
_ZSTD_PIECE_BYTES: Final = 256
"""How much zstd is given at once: four bytes of it may stand for 128 KiB, so this for 8 MiB."""

_MAGIC: Final = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\x00", "xz"))
_DECOMPRESSION_FAILURES: Final = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class Input:
    """One input of a command: a path, or "-" for stdin.

    name: base name, for headers and for places in it. label: the path as it was given, for what is wrong with the file itself.
    jobs: processes that may read it. `open` gives the decompressed bytes from the start, as often as it is asked.
    Raises UnreadableError for what can not be opened or read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.is_stdin = self.path == "-"
        self.jobs = 1
        self.name = "stdin" if self.is_stdin else Path(self.path).name
        self.label = "standard input" if self.is_stdin else self.path
        self._spool: IO[bytes] | None = None
        self._compression: str | None = None
        self._last: BinaryIO | None = None
        self._place = 0

    @property
    def size_bytes(self) -> int | None:
        """How many bytes are stored; None for what has no size, or none that is known before it is read."""
        if self.is_stdin:
            return None
        try:
            found = Path(self.path).stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    @property
    def place_bytes(self) -> int:
        """How many of the stored bytes were read by who opened it last."""
        if self._last is not None and not self._last.closed:
            self._place = self._last.tell()
        return self._place

    def read_beside(self, place_bytes: int) -> None:
        """Note how far another process is that reads it."""
        self._last, self._place = None, place_bytes

    def open(self) -> BinaryIO:
        """Return the decompressed content from its start; the caller closes it. Reading raises DecompressionError."""
        compression, raw = self.compression, self.open_raw()
        self._last, self._place = raw, 0
        if compression == "":
            return raw
        opener = {"zstd": _open_zstd, "gzip": _open_gzip, "xz": _open_xz}[compression]
        try:
            inner = opener(raw, self.label)
        except BaseException:
            raw.close()
            raise
        return cast("BinaryIO", io.BufferedReader(_Guarded(inner, raw, self.label), BLOCK_BYTES))

    @property
    def compression(self) -> str:
        """The compression found by the first bytes: "zstd", "gzip", "xz" or ""."""
        if self._compression is None:
            with self.open_raw() as raw:
                start = raw.read(6)
            self._compression = next((name for magic, name in _MAGIC if start.startswith(magic)), "")
        return self._compression

    def head(self, size_bytes: int = HEAD_BYTES) -> bytes:
        """Return the first decompressed bytes."""
        with self.open() as stream:
            return stream.read(size_bytes)

    def open_raw(self) -> BinaryIO:
        """Return the bytes as they are stored, from the start."""
        try:
            return self._open_raw()
        except OSError as error:
            raise UnreadableError(error.strerror or str(error), where=self.label, expected="a readable file") from error

    def _open_raw(self) -> BinaryIO:
        if self._spool is None:
            if not self.is_stdin:
                mode = Path(self.path).stat().st_mode
                if stat.S_ISREG(mode):
                    return Path(self.path).open("rb")
                if stat.S_ISDIR(mode):
                    raise UnreadableError("is a directory", where=self.label, expected="a file")
            self._spool = self._spooled()
        return cast("BinaryIO", io.BufferedReader(_Again(self._spool, self), BLOCK_BYTES))

    def _spooled(self) -> IO[bytes]:
        """Keep a pipe's bytes, in memory while they are few."""
        import tempfile  # a file by its name needs it not, and it takes a while to load

        spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES_MAX)  # noqa: SIM115 - lives as long as the input
        if self.is_stdin:
            shutil.copyfileobj(sys.stdin.buffer, spool, BLOCK_BYTES)
        else:
            with Path(self.path).open("rb") as pipe:
                shutil.copyfileobj(pipe, spool, BLOCK_BYTES)
        weakref.finalize(self, spool.close)
        return cast("IO[bytes]", spool)


def inputs_of(paths: Sequence[str]) -> list[Input]:
    """Return the inputs that paths name; a folder stands for the files in it, by name. Raises UsageError for none."""
    inputs: list[Input] = []
    for path in paths:
        if path != "-" and Path(path).is_dir():
            files = sorted(entry for entry in Path(path).iterdir() if entry.is_file())
            if not files:
                raise UnreadableError("is an empty folder", where=path, expected="the files of one strace -ff")
            inputs += [Input(entry) for entry in files]
        else:
            inputs.append(Input(path))
    if not inputs:
        raise UsageError("no input", expected="a file, or - for standard input")
    return inputs


class _Again(io.RawIOBase):
    """A reader with a position of its own over a shared spool, which lives as long as its owner does."""

    def __init__(self, spool: IO[bytes], owner: Input) -> None:
        self._spool, self._owner, self._place = spool, owner, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._spool.seek(self._place)
        data = self._spool.read(len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


class _Guarded(io.RawIOBase):
    """A decompressor whose failures are this tool's errors, and whose output is bounded."""

    def __init__(self, inner: IO[bytes], raw: BinaryIO, name: str) -> None:
        self._inner, self._raw, self._name, self._given = inner, raw, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(min(len(buffer), BLOCK_BYTES))
        except _DECOMPRESSION_FAILURES as error:
            raise DecompressionError(str(error), where=self._name, expected="an intact compressed file") from error
        except MemoryError as error:
            raise DecompressionError("needs more memory than there is", where=self._name) from error
        except OSError as error:
            raise UnreadableError(str(error), where=self._name) from error
        buffer[: len(data)] = data
        self._given += len(data)
        if self._given > EXPANDED_BYTES_MAX:
            raise DecompressionError("grows beyond 4 TiB", where=self._name, expected="a recording of this world")
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            self._raw.close()
        super().close()


def _open_gzip(raw: BinaryIO, _name: str) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))


def _open_xz(raw: BinaryIO, name: str) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_XzStreams(raw, name)))


class _Stepwise(io.RawIOBase):
    """A decompressor that works in steps: `_step()` puts what it got into `_ready`."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        self._raw, self._name = raw, name
        self._input, self._ready = b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._step():
            pass
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _step(self) -> bool:
        """Decompress a little more; False at the end of the file."""
        raise NotImplementedError


class _XzStreams(_Stepwise):
    """Streams of xz one after the other, with a limit of memory (the library's own reader of files has none)."""

    def __init__(self, raw: BinaryIO, name: str) -> None:
        super().__init__(raw, name)
        self._stream: lzma.LZMADecompressor | None = None

    def _step(self) -> bool:
        if not self._input and (self._stream is None or self._stream.needs_input):
            self._input = self._raw.read(1 << 14)
            if not self._input:
                if self._stream is not None:
                    raise DecompressionError("stops in the middle of an xz stream", where=self._name, expected="an intact file")
                return False
        if self._stream is None:
            self._input = self._input.lstrip(b"\0")  # padding between streams
            self._stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY_BYTES) if self._input else None
        if self._stream is not None:
            self._ready = self._stream.decompress(self._input, BLOCK_BYTES)
            self._input = b""
            if self._stream.eof:
                self._input, self._stream = self._stream.unused_data, None
        return True


def _open_zstd(raw: BinaryIO, name: str) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        return _open_zstd_command(raw, name)
    return cast("IO[bytes]", io.BufferedReader(_ZstdFrames(raw, zstandard, name)))


class _ZstdFrames(_Stepwise):
    """Frames of zstd one after the other; a frame that stops too early is an error (zstandard's own reader is silent)."""

    def __init__(self, raw: BinaryIO, zstandard: Any, name: str) -> None:
        super().__init__(raw, name)
        self._zstandard = zstandard
        self._frame: Any = None

    def _step(self) -> bool:
        self._input = self._input or self._raw.read(_ZSTD_PIECE_BYTES)
        if not self._input:
            if self._frame is not None:
                raise DecompressionError("stops in the middle of a zstd frame", where=self._name, expected="an intact file")
            return False
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()
        try:
            self._ready = self._frame.decompress(self._input)
        except self._zstandard.ZstdError as error:
            raise DecompressionError(str(error), where=self._name, expected="an intact zstd file") from error
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return True


def _open_zstd_command(raw: BinaryIO, name: str) -> IO[bytes]:
    """Decompress with the zstd command, for installations without the zstd extra."""
    program = shutil.which("zstd")
    if program is None:
        advice = "install kvm-replay[zstd], or the zstd command, or decompress it first"
        raise DecompressionError("nothing here reads zstd", where=name, expected="zstandard or zstd", advice=advice)
    return cast("IO[bytes]", _ZstdCommand(program, raw, name))


class _ZstdCommand:
    """The output of `zstd -dc`, fed from a file that the command can read by itself or through a spool."""

    def __init__(self, program: str, raw: BinaryIO, name: str) -> None:
        import subprocess
        import tempfile

        self._name = name
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed below; the command needs a real file
        shutil.copyfileobj(raw, self._spool, BLOCK_BYTES)
        self._spool.seek(0)
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command, the data only on its stdin
            [program, "-dcq"], stdin=self._spool, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if not data and self._process.wait() != 0:
            raise DecompressionError("zstd can not read it", where=self._name, expected="an intact zstd file")
        return data

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._spool.close()


def text_blocks(stream: BinaryIO) -> Iterator[str]:
    """Yield text in blocks that end with a line end, except perhaps the last; lines beyond LINE_CHARS_MAX are cut.

    Bytes become characters one to one (latin-1): no byte is an error, and offsets stay offsets.
    """
    carry = ""
    cutting = False
    while data := stream.read(BLOCK_BYTES):
        text = carry + data.decode("latin-1")
        end = text.rfind("\n") + 1
        carry, block = text[end:], text[:end]
        if cutting and block:
            block, cutting = block[block.index("\n") :], False
        if block:
            yield block
        if len(carry) > LINE_CHARS_MAX:
            if not cutting:
                yield carry[:LINE_CHARS_MAX]
            carry, cutting = "", True
    if carry and not cutting:
        yield carry


def chunks(source: Input) -> Iterator[bytes]:
    """Yield the decompressed bytes of an input in pieces."""
    with source.open() as stream:
        while data := stream.read(BLOCK_BYTES):
            yield data


def whole_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield text in pieces of whole lines whose ends are one character, except perhaps the last piece."""
    head = ""
    for block in text_blocks(stream):
        if not block.endswith("\n"):
            head += block
            continue
        text = head + block if head else block
        head = ""
        if "\r" in block:
            text = "\n".join([line.rstrip("\r") for line in text.split("\n")])
        yield text
    if head:
        yield head


def text_lines(stream: BinaryIO) -> Iterator[str]:
    """Yield lines without their ends."""
    for text in whole_lines(stream):
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        yield from lines


def lines_of(source: Input) -> Iterator[str]:
    """Yield the lines of an input, which is open only while they are read."""
    with source.open() as stream:
        yield from text_lines(stream)
