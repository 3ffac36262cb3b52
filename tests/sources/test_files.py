"""Inputs are opened whatever they are kept in, can be read again, and fail only with this tool's errors."""

import gc
import gzip
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import DecompressionError, UnreadableError, UsageError
from replay.sources import files
from replay.sources.files import Input, inputs_of, text_blocks, text_lines

TEXT = b"".join(b"10 ioctl(3, KVM_RUN, 0) = %d\n" % n for n in range(5000))
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def kept(folder: Path, data: bytes, name: str = "trace") -> Input:
    """Return an input of these bytes."""
    path = folder / name
    path.write_bytes(data)
    return Input(path)


def whole(source: Input) -> bytes:
    """Return all of an input."""
    with source.open() as stream:
        return stream.read()


class TestCompression:
    """Compression is seen in the content and undone."""

    @pytest.mark.parametrize("name", COMPRESSIONS)
    def test_by_content(self, tmp_path: Path, name: str) -> None:
        """The name of the file says nothing; what it begins with does."""
        source = kept(tmp_path, COMPRESSIONS[name](TEXT), "trace.txt")
        assert source.compression == name
        assert whole(source) == TEXT
        assert source.head(100) == TEXT[:100]

    @pytest.mark.parametrize("name", COMPRESSIONS)
    def test_read_again(self, tmp_path: Path, name: str) -> None:
        """An input gives its bytes from the start as often as it is opened."""
        source = kept(tmp_path, COMPRESSIONS[name](TEXT))
        assert whole(source) == whole(source) == TEXT

    @pytest.mark.parametrize("name", ["gzip", "zstd"])
    def test_frames_in_a_row(self, tmp_path: Path, name: str) -> None:
        """Concatenated compressed files are one file, as for the tools that made them."""
        assert whole(kept(tmp_path, COMPRESSIONS[name](TEXT) * 3)) == TEXT * 3

    @pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
    @pytest.mark.parametrize("cut", [20, 100, -1])
    def test_cut(self, tmp_path: Path, name: str, cut: int) -> None:
        """A compressed file that stops too early is an error, never a silent end."""
        with pytest.raises(DecompressionError) as caught:
            whole(kept(tmp_path, COMPRESSIONS[name](TEXT)[:cut], "a.z"))
        assert caught.value.where == str(tmp_path / "a.z")

    @pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
    def test_damaged(self, tmp_path: Path, name: str) -> None:
        """Bytes that are not what the compressor wrote are an error."""
        data = bytearray(COMPRESSIONS[name](os.urandom(3000)))
        data[1500:1510] = bytes(10)
        data[-4:] = b"1234"
        with pytest.raises(DecompressionError):
            whole(kept(tmp_path, bytes(data)))

    def test_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a compressed file may grow to is limited."""
        monkeypatch.setattr(files, "EXPANDED_BYTES_MAX", 1000)
        with pytest.raises(DecompressionError, match="grows beyond"):
            whole(kept(tmp_path, gzip.compress(TEXT)))

    def test_window(self, tmp_path: Path) -> None:
        """A header that makes a decompressor take more memory than the limit is refused before it does."""
        wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
        zstd = zstandard.ZstdCompressor(compression_params=wide).compressobj()
        dictionary = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 30}]
        claims = {
            "zstd": zstd.compress(TEXT) + zstd.flush(),
            "xz": lzma.compress(TEXT, filters=dictionary),
        }
        for name, data in claims.items():
            with pytest.raises(DecompressionError) as caught:
                whole(kept(tmp_path, data, name))
            assert "emory" in str(caught.value)
        assert whole(kept(tmp_path, lzma.compress(TEXT, preset=9))) == TEXT

    def test_xz_streams(self, tmp_path: Path) -> None:
        """Streams of xz in a row, with padding between and behind, are one file; anything else behind is an error."""
        packed = lzma.compress(TEXT)
        assert whole(kept(tmp_path, packed + bytes(8) + packed * 2 + bytes(40000))) == TEXT * 3
        with pytest.raises(DecompressionError):
            whole(kept(tmp_path, packed + b"rubbish"))

    def test_no_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A decompressor that gets no memory is an error like any other."""

        def none(*_args: object) -> int:
            raise MemoryError

        monkeypatch.setattr(gzip.GzipFile, "read", none)
        with pytest.raises(DecompressionError, match="more memory than there is"):
            whole(kept(tmp_path, gzip.compress(TEXT)))

    def test_zstd_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the zstandard library the zstd command does it, when there is one."""
        monkeypatch.setitem(sys.modules, "zstandard", None)
        program = tmp_path / "zstd"
        program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write(b'ok' if '-dcq' in sys.argv else b'')\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert whole(kept(tmp_path, COMPRESSIONS["zstd"](TEXT))) == b"ok"
        program.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
        with pytest.raises(DecompressionError):
            whole(kept(tmp_path, COMPRESSIONS["zstd"](TEXT)))

    def test_neither(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With neither, the error names the extra to install."""
        monkeypatch.setitem(sys.modules, "zstandard", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DecompressionError, match=r"kvm-replay\[zstd\]"):
            whole(kept(tmp_path, COMPRESSIONS["zstd"](TEXT)))


class TestStandardInput:
    """`-` is standard input; pipes are kept so that they can be read twice."""

    @pytest.mark.parametrize("name", COMPRESSIONS)
    def test_twice(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Standard input is compressed or not, and read twice."""
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(COMPRESSIONS[name](TEXT))))
        source = Input("-")
        assert (source.name, source.head(10)) == ("stdin", TEXT[:10])
        assert whole(source) == whole(source) == TEXT

    def test_reader_keeps_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A reader can be read to its end after its input is forgotten."""
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT)))
        stream = Input("-").open()
        gc.collect()
        with stream:
            assert stream.read() == TEXT

    def test_named_pipe(self, tmp_path: Path) -> None:
        """A named pipe can be read twice as well."""
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(TEXT,))
        writer.start()
        source = Input(path)
        assert whole(source) == whole(source) == TEXT
        writer.join()


class TestUnreadable:
    """What can not be opened."""

    def test_missing(self, tmp_path: Path) -> None:
        """A missing file is named, with the system's words."""
        with pytest.raises(UnreadableError, match=r"none\.txt: No such file") as caught:
            Input(tmp_path / "none.txt").head()
        assert caught.value.where == str(tmp_path / "none.txt")

    def test_folder(self, tmp_path: Path) -> None:
        """A folder is no file."""
        with pytest.raises(UnreadableError, match="is a directory"):
            Input(tmp_path).head()


class TestInputs:
    """Paths of a command become inputs."""

    def test_folder_stands_for_its_files(self, tmp_path: Path) -> None:
        """The files of a folder come by name."""
        for name in ("b.2", "a.1"):
            (tmp_path / name).write_text("x")
        (tmp_path / "deeper").mkdir()
        assert [source.name for source in inputs_of([str(tmp_path), "-"])] == ["a.1", "b.2", "stdin"]

    def test_none(self) -> None:
        """No path is bad usage."""
        with pytest.raises(UsageError):
            inputs_of([])

    def test_empty_folder(self, tmp_path: Path) -> None:
        """An empty folder is said to be one."""
        with pytest.raises(UnreadableError, match="empty folder"):
            inputs_of([str(tmp_path)])


class TestLines:
    """Text is read in blocks of whole lines, and as lines, in bounded memory."""

    @given(st.lists(st.sampled_from(["", "a", "bc" * 30, "\xff\x00"]), max_size=60), st.booleans(), st.integers(1, 70))
    def test_lines_are_the_lines(self, words: list[str], last_end: bool, block: int) -> None:
        """Whatever the size of the blocks, the lines are those of the text; any byte is a character."""
        text = "\n".join(words) + ("\n" if last_end else "")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "BLOCK_BYTES", block)
            assert (
                list(text_lines(io.BytesIO(text.encode("latin-1"))))
                == text.split("\n")[: -1 if text.endswith("\n") or not text else None]
            )
            blocks = list(text_blocks(io.BytesIO(text.encode("latin-1"))))
            assert "".join(blocks) == text
            assert all(part.endswith("\n") for part in blocks[:-1])

    def test_carriage_returns(self) -> None:
        """Lines of a file that went through a mail program are the same lines."""
        assert list(text_lines(io.BytesIO(b"a\r\nb\r\n"))) == ["a", "b"]

    def test_long_lines_are_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line without end does not fill the memory: it is cut, and the next one is whole."""
        monkeypatch.setattr(files, "LINE_CHARS_MAX", 100)
        monkeypatch.setattr(files, "BLOCK_BYTES", 64)
        got = list(text_lines(io.BytesIO(b"a\n" + b"x" * 5000 + b"\nb\n" + b"y" * 3000)))
        assert [line[:1] for line in got] == ["a", "x", "b", "y"]
        assert all(len(line) <= 200 for line in got)
