"""Promises of reading tracefs text in a second process: nothing but the time changes, and no process is left behind."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from test_tracefs_bulk import damaged, line, mixture, shown, vm

from replay.errors import KvmReplayError, WorkerError
from replay.header import Trailer
from replay.sources import open_stream, tracefs_bulk, tracefs_lexer, tracefs_words
from replay.sources.files import Input, chunks
from replay.sources.tracefs import TracefsImport
from replay.sources.tracefs_beside import BlocksBeside, Hearing, spoken
from replay.sources.tracefs_lexer import Block, Blocks, TracefsLexer

ROOT = Path(__file__).parent.parent.parent
VERB = """
import sys
from replay.sources import tracefs_lexer
tracefs_lexer.BESIDE_BYTES_MIN = 1
from replay.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Retold:
    """The blocks of a trace as the other process says them, without another process; hungry: the share that is not read."""

    def __init__(self, path: Path, block_bytes: int, hungry: float = 0) -> None:
        dice = random.Random(block_bytes)
        told = spoken(Input(path), block_bytes, lambda: dice.random() < hungry)
        self._said = (pickle.loads(pickle.dumps(said)) for said in told)
        self._hearing = Hearing(Input(path))

    @property
    def cut(self) -> bool:
        return self._hearing.cut

    @property
    def line(self) -> int:
        return self._hearing.line

    def __iter__(self) -> Iterator[Block]:
        return self._hearing.blocks(self._said)

    def close(self) -> None:
        """Hold nothing."""


def imported(blocks: Blocks) -> tuple[list[str], Trailer | None]:
    """Return all that an import of blocks gives; of one that is refused the error, after what came before it."""
    found: list[str] = []
    try:
        stream = TracefsImport(blocks)
        found += map(shown, stream.items())
    except KvmReplayError as error:
        return [*found, f"{error.code} {error}"], None
    return found, stream.trailer()


def both(path: Path, block_bytes: int) -> None:
    """Hold what the other process says against what this one reads."""
    here = imported(TracefsLexer(chunks(Input(path)), block_bytes))
    assert imported(Retold(path, block_bytes)) == here
    assert imported(Retold(path, block_bytes, hungry=0.4)) == here


class TestSame:
    """What is told is what would have been read."""

    @pytest.fixture(autouse=True)
    def _eager(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("LINES_MIN", 2), ("LINES_BEFORE", 0), ("BLOCKS_PASSED", 0), ("TRIES", 1 << 20)):
            monkeypatch.setattr(tracefs_bulk, name, value)

    @pytest.mark.parametrize("block_bytes", [1 << 10, 1 << 13, 1 << 18])
    @pytest.mark.parametrize("seed", range(6))
    def test_equal(self, seed: int, block_bytes: int, tmp_path: Path) -> None:
        """Whole and damaged texts, with line ends of both kinds, in blocks of any size."""
        path = tmp_path / "f.txt"
        for text in (mixture(seed), damaged(mixture(seed), seed), mixture(seed).replace(b"\n", b"\r\n")):
            path.write_bytes(text)
            both(path, block_bytes)

    def test_words_forgotten(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Words may be forgotten and learned anew while blocks wait."""
        monkeypatch.setattr(tracefs_words, "WORDS_MAX", 30)
        path = tmp_path / "f.txt"
        path.write_bytes(mixture(7))
        waiting = [block.known for block in Retold(path, 1 << 11)]
        assert len({id(known.bodies) for known in waiting if known is not None}) > 2
        both(path, 1 << 11)

    @pytest.mark.parametrize("kept", [0.2, 0.99, 1])
    def test_compressed(self, kept: float, tmp_path: Path) -> None:
        """A compressed trace that stops too early fails alike, at the same place."""
        data = zstandard.ZstdCompressor().compress(mixture(3) * 20)
        path = tmp_path / "f.zst"
        path.write_bytes(data[: int(kept * len(data))])
        both(path, 1 << 12)

    def test_no_lines(self, tmp_path: Path) -> None:
        """Text without line ends, of any length, is refused alike."""
        path = tmp_path / "f.txt"
        for text in (b"x" * 100, b"x" * (3 << 20), mixture(1) + b"y" * (2 << 20)):
            path.write_bytes(text)
            both(path, 1 << 18)


def long_text(lines: int) -> bytes:
    """Return a trace of one VM's pages."""
    page = "sp gen 0 gfn {:x} l2 8-byte q0 wux nxe ad root 0 sync"
    rows = vm("vmm", 100) + [
        ("vmm", 100, f"kvm_mmu_get_page: {page.format(n)} new" if n % 3 else f"kvm_mmu_prepare_zap_page: {page.format(n - 1)}")
        for n in range(1, lines)
    ]
    return b"".join(line(number, *row) for number, row in enumerate(rows))


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Return a trace of some blocks."""
    path = tmp_path / "f.txt"
    path.write_bytes(long_text(30_000))
    return path


def gone(pid: int) -> bool:
    """Say whether a process has ended, after giving it some time."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def children(pid: int) -> list[int]:
    """List the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class TestProcess:
    """The other process is one, and is gone afterwards."""

    def test_threshold(self, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only what is long, can be opened again and may be read by two is read by two."""
        source = Input(trace)
        source.jobs = 2
        assert isinstance(tracefs_lexer.blocks_of(source), TracefsLexer)
        monkeypatch.setattr(tracefs_lexer, "BESIDE_BYTES_MIN", trace.stat().st_size)
        source.jobs = 1
        assert isinstance(tracefs_lexer.blocks_of(source), TracefsLexer)
        pipe = Input("-")
        pipe.jobs = 2
        assert isinstance(tracefs_lexer.blocks_of(pipe), TracefsLexer)

    def test_killed(self, trace: Path) -> None:
        """One that is killed is an error that names the trace."""
        blocks = BlocksBeside(Input(trace))
        assert blocks._process is not None
        pid = blocks._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"f\.txt: the process that reads it died"):
            list(blocks)
        assert gone(pid)

    def test_given_up(self, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stream that is closed early ends it."""
        monkeypatch.setattr(tracefs_lexer, "BESIDE_BYTES_MIN", 1)
        stream = open_stream([str(trace)], jobs=2)
        assert isinstance(stream, TracefsImport)
        lexer = stream._lexer
        assert isinstance(lexer, BlocksBeside)
        assert lexer._process is not None
        pid = lexer._process.pid
        assert next(iter(stream.items()))
        stream.close()
        assert pid is not None
        assert gone(pid)


class TestVerb:
    """`import --jobs`."""

    def test_same_bytes(self, trace: Path, tmp_path: Path) -> None:
        """One process and two write the same bytes."""
        written = []
        for jobs in ("1", "2"):
            path = tmp_path / f"{jobs}.kvmr"
            subprocess.run([sys.executable, "-c", VERB, "import", trace, "-o", path, "--jobs", jobs], cwd=ROOT, check=True)
            written.append(path.read_bytes())
        assert written[0] == written[1]

    @pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(), reason="no list of children here")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
    def test_stopped(self, number: signal.Signals, trace: Path) -> None:
        """Whatever ends the program ends the other process."""
        command = [sys.executable, "-c", VERB, "import", str(trace), "-o", "-", "--jobs", "2"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as verb:
            assert verb.stdout is not None
            assert verb.stdout.read(1)  # nobody reads on: it waits for us
            others = children(verb.pid)
            verb.send_signal(number)
            verb.stdout.close()
            verb.wait()
        assert others
        assert all(map(gone, others))
