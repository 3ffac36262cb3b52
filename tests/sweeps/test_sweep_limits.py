"""Hostile input costs what its size allows: memory under a limit of the system, work and reads counted."""

import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from bombs import BOMBS
from hostile import ARCHIVES, GROWING, LINES
from sweep import ROOT, Figures, blocks_file, files, share

from replay.errors import KvmReplayError
from replay.recording import open_recording
from replay.recording.verify import verify
from replay.sources import open_stream

CHILD = Path(__file__).resolve().parent / "child_limits.py"


def _archives() -> dict[str, bytes]:
    import gzip
    import lzma

    import zstandard

    text = GROWING["strace calls"](3)
    return {"gzip": gzip.compress(text), "xz": lzma.compress(text), "zstd": zstandard.ZstdCompressor().compress(text)}


ARCHIVES_SMALL: dict[str, bytes] = _archives()
WARM: dict[str, Callable[[], bytes]] = {
    "warm-kvmr": blocks_file,
    "warm-zipped": lambda: blocks_file(compression="zlib"),
    "warm-real": lambda: files("region2.kvmr", small=True)[0].read_bytes()[:-1],
    "warm-gzip": lambda: ARCHIVES_SMALL["gzip"],
    "warm-xz": lambda: ARCHIVES_SMALL["xz"],
    "warm-zstd": lambda: ARCHIVES_SMALL["zstd"],
    **{f"warm-{name}": partial(make, 20) for name, make in GROWING.items()},
}


def written(folder: Path, inputs: Mapping[str, Callable[[], bytes]]) -> list[str]:
    """Write inputs as files, and return their paths."""
    paths = []
    for number, (name, make) in enumerate(inputs.items()):
        path = folder / f"{number}-{name.replace(' ', '-')}"
        path.write_bytes(make())
        paths.append(str(path))
    return paths


def child(folder: Path, inputs: Mapping[str, Callable[[], bytes]], allowance_mib: int) -> dict[str, int]:
    """Read inputs in a child under limits; return the MiB that each took."""
    (folder / "warm").mkdir()
    warm, paths = written(folder / "warm", WARM), written(folder, inputs)
    command = [sys.executable, str(CHILD), str(allowance_mib), str(len(warm)), *warm, *paths]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [line for line in lines if line[0] != "0"] == [], done.stderr
    assert (done.returncode, done.stderr, len(lines)) == (0, "", len(paths))
    return {Path(path).name: int(mib) for _, mib, path in lines}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of address space are tried on Linux only")
class TestMemory:
    """Nothing is refused by the system: our own limits are met before its."""

    def test_headers_and_bombs(self, tmp_path: Path, figures: Figures) -> None:
        """Claims of GiB in headers, long lines and deep ones, in 64 MiB and four times the file."""
        found = child(tmp_path, {**BOMBS, **LINES}, 64)
        assert len(found) == len(BOMBS) + len(LINES) >= 28
        figures("bombs under a limit of 64 MiB + 4 x file", len(found), most_MiB=max(found.values()))

    def test_growing(self, tmp_path: Path, figures: Figures) -> None:
        """Many tasks, VMs, calls, kinds and pages, in the same."""
        found = child(tmp_path, {name: partial(make, share(40_000, 15_000)) for name, make in GROWING.items()}, 64)
        figures("large traces under a limit of 64 MiB + 4 x file", len(found), most_MiB=max(found.values()))

    def test_archives(self, tmp_path: Path, figures: Figures) -> None:
        """Compressed files that grow a thousand times, in 96 MiB: 64 of them may be the window of xz or zstd."""
        found = child(tmp_path, ARCHIVES, 96)
        figures("archives under a limit of 96 MiB + 4 x file", len(found), most_MiB=max(found.values()))


class Counting(io.BytesIO):
    """A file that counts how often and how much it is asked for."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads = self.bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads, self.bytes = self.reads + 1, self.bytes + len(data)
        return data

    def readline(self, size: int | None = -1, /) -> bytes:
        data = super().readline(size)
        self.reads, self.bytes = self.reads + 1, self.bytes + len(data)
        return data


def calls_of(work: Callable[[], object]) -> int:
    """Return how many functions some work calls, those written in C included."""
    count = 0

    def seen(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def read(path: Path) -> None:
    """Read a file as any verb does."""
    try:
        stream = open_stream([str(path)])
        for _ in stream.items():
            pass
        stream.trailer()
    except KvmReplayError:
        pass


class TestWork:
    """Twice the input is twice the work."""

    @pytest.mark.parametrize("name", GROWING)
    def test_calls(self, name: str, tmp_path: Path, figures: Figures) -> None:
        """The functions called for an input of twice the size are at most 2.3 times as many."""
        path = tmp_path / "input"
        counts = []
        for count in (20, 1500, 3000):  # the first one loads what is loaded once
            path.write_bytes(GROWING[name](count))
            counts.append(calls_of(lambda: read(path)))
        assert counts[2] < 2.3 * counts[1]
        figures(f"calls, {name}", counts[1], for_twice_as_much=counts[2])

    def test_bytes(self) -> None:
        """A recording is read once, front to back: each byte once, and a few reads a block or line."""
        for data, pieces in ((blocks_file(), 10), (GROWING["jsonl marks"](500), 502)):
            stream = Counting(data)
            list(open_recording(stream).items())
            assert stream.bytes == len(data)
            assert stream.reads <= 3 * pieces + 5

    def test_verify_behind_damage(self, tmp_path: Path) -> None:
        """What looks like block headers behind damage is looked at once each, and takes no more than a look."""
        counts, path = [], tmp_path / "a.kvmr"
        for size in (1 << 14, 1 << 15):
            path.write_bytes(blocks_file()[:-1] + b"\x01\x00\x00\x00" * size)
            counts.append(calls_of(lambda: verify(path)))
        assert 1.8 < counts[1] / counts[0] < 2.3

    def test_counting(self) -> None:
        """Work that is not linear would be seen."""
        assert calls_of(lambda: [len("") for _ in range(400)]) > 2.3 * calls_of(lambda: [len("") for _ in range(100)])
