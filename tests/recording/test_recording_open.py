"""Recordings are known by what they hold, not by name; pipes will do."""

import io
import os
from pathlib import Path

import pytest

from recordings import jsonl, kvmr, small_events
from replay.errors import EmptyError, HeaderError, UnknownFormatError, UnreadableError
from replay.recording import JsonlReader, KvmrReader, open_recording
from replay.recording.files import Input
from replay.runs import events_of


class TestOpen:
    """open_recording gives the reader that fits."""

    @pytest.mark.parametrize(
        ("data", "cls"),
        [
            (kvmr(small_events()), KvmrReader),
            (jsonl(small_events()), JsonlReader),
            (b"# by hand\n\n" + jsonl(small_events()), JsonlReader),
        ],
    )
    def test_content(self, data: bytes, cls: type[KvmrReader | JsonlReader], tmp_path: Path) -> None:
        """A path of any name, an open stream and a pipe give the same events."""
        path = tmp_path / "recording.txt"
        path.write_bytes(data)
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        with path.open("rb") as file, os.fdopen(reading, "rb") as pipe:
            for what in (path, str(path), file, pipe, io.BytesIO(data)):
                stream = open_recording(what)
                assert isinstance(stream, cls)
                assert list(events_of(stream.items())) == small_events()
                assert stream.trailer().events == len(small_events())
                assert not stream.warnings()

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (b"", EmptyError),
            (b"\n", UnknownFormatError),
            (b"1234 ioctl(3, KVM_CREATE_VM, 0) = 4\n", UnknownFormatError),
            (b"\x1f\x8b\x08", UnknownFormatError),
            (b"\x89KVMR\r\n\x1a", HeaderError),
            (b"\x89KVMR\n\x1a\x01\x00\x00\x00", UnknownFormatError),
            (b'{"events": []}', UnknownFormatError),
        ],
    )
    def test_others(self, data: bytes, error: type[Exception], tmp_path: Path) -> None:
        """Other content is refused, and the file is closed again."""
        path = tmp_path / "other"
        path.write_bytes(data)
        with pytest.raises(error):
            open_recording(path)

    def test_missing(self, tmp_path: Path) -> None:
        """So is a file that is not there."""
        with pytest.raises(UnreadableError, match="no such file"):
            open_recording(tmp_path / "missing.kvmr")

    def test_failing(self) -> None:
        """So is a disk that fails at once."""

        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise OSError(5, "Input/output error")

        with pytest.raises(UnreadableError, match="input/output error"):
            open_recording(Failing())


class TestInput:
    """Bytes that are peeked at are read again, by size and by line."""

    @pytest.mark.parametrize("ahead", range(12))
    def test_lines(self, ahead: int) -> None:
        """Lines are the same however much was peeked at."""
        source = Input(io.BytesIO(b"ab\n\ncdefg\nh"))
        assert source.peek(ahead) == b"ab\n\ncdefg\nh"[:ahead]
        assert [source.line(4) for _ in range(6)] == [b"ab\n", b"\n", b"cdef", b"g\n", b"h", b""]
        assert source.position == 11

    @pytest.mark.parametrize("ahead", range(12))
    def test_reads(self, ahead: int) -> None:
        """So are reads, and peeking twice."""
        source = Input(io.BytesIO(b"ab\n\ncdefg\nh"))
        source.peek(2)
        source.peek(ahead)
        assert (source.read(3), source.line(9), source.read(9), source.read(1)) == (b"ab\n", b"\n", b"cdefg\nh", b"")
