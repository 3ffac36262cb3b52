"""Promises of taking tracefs text by whole blocks: it changes nothing but the time that an import takes."""

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.header import Trailer
from replay.runs import COLUMNS, RUN_EVENTS_MAX, Item, Run
from replay.sources import open_stream, tracefs_bulk, tracefs_lexer
from replay.sources.tracefs import TracefsImport
from replay.sources.tracefs_bulk import BulkFold
from replay.sources.tracefs_pages import PageFold

TRACES = sorted((Path(__file__).parent.parent / "data" / "tracefs").glob("*.ftrace.txt"))
SECOND = 1_795_341_351


def line(number: int, comm: str, tid: int, body: str, flags: str = "...1.") -> bytes:
    """Return a line in the usual columns."""
    return f"{comm:>16}-{tid:<7} [{number % 2:03}] {flags} {SECOND + number // 100}.{number % 100:06}: {body}\n".encode()


def vm(comm: str, tid: int) -> list[tuple[str, int, str]]:
    """Return the lines of a thread that makes a VM with a vCPU, and runs it."""
    calls = [("3, cmd: 0xae01", 4), ("4, cmd: 0xae41", 5), ("5, cmd: 0xae80", 0), ("5, cmd: 0xae80", 0)]
    return [(comm, tid, body) for words, ret in calls for body in (f"sys_ioctl(fd: {words}, arg: 0)", f"sys_ioctl -> 0x{ret:x}")]


def page(dice: random.Random) -> str:
    """Return the body of a shadow-page event: mostly of few pages, so that some are made twice and some zapped unseen."""
    gfn, level = dice.choice([1, 2, 3, 0x8B0, dice.getrandbits(dice.choice([8, 40, 64]))]), dice.choice([1, 2, 2, 2, 4, 5])
    direct = " direct" if dice.random() < 0.1 else ""
    words = f"sp gen {dice.randrange(2)} gfn {gfn:x} l{level} 8-byte q0{direct} wux nxe ad root 0 sync"
    made = dice.choice([" new", " new", " new", " existing"])
    return f"kvm_mmu_get_page: {words}{made}" if dice.random() < 0.5 else f"kvm_mmu_prepare_zap_page: {words}"


def mixture(seed: int) -> bytes:
    """Return a made-up trace: stretches of pages and of calls by several threads, and all that may stand between."""
    dice = random.Random(seed)
    threads = [("vmm", 100), ("CPU 0/KVM", 101), ("other", 200)][: 1 + seed % 3]
    rows = [row for thread in threads for row in vm(*thread)]
    odd = [
        "sys_close(fd: 5)",
        "sys_close -> 0x0",
        "sys_ioctl(fd: 5, cmd: 0xae80, arg: 0)",
        "kvm_exit: reason x",
        "sys_ioctl -> 0x6",
    ]
    while len(rows) < 400:
        thread = dice.choice(threads)
        for _ in range(dice.choice([1, 5, 60])):
            thread = dice.choice(threads) if dice.random() < 0.1 else thread
            if dice.random() < 0.9:
                rows.append((*thread, page(dice)))
            else:
                rows += [(*thread, "sys_ioctl(fd: 5, cmd: 0xae80, arg: 0)"), (*thread, "sys_ioctl -> 0x0")]
        rows.append((*thread, dice.choice(odd)))
    lines = [line(number, *row, flags=dice.choice(["...1.", "....."])) for number, row in enumerate(rows)]
    for _ in range(dice.randrange(4)):
        lines.insert(dice.randrange(len(lines)), dice.choice([b"\n", b"# comment\n", b"CPU:1 [LOST 3 EVENTS]\n", b"stray)\n"]))
    return b"".join(lines)


def damaged(text: bytes, seed: int) -> bytes:
    """Return a text with some bytes changed, some lines doubled or swapped, and perhaps without its end."""
    dice = random.Random(seed)
    lines = text.splitlines(keepends=True)
    for _ in range(dice.randrange(1, 30)):
        at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
        way = dice.random()
        if way < 0.6:
            cut = dice.randrange(len(lines[at]))
            lines[at] = lines[at][:cut] + dice.choice([b"", b"x", b" ", b"0", b"9", b"\r", b"\0", b"\xff"]) + lines[at][cut + 1 :]
        elif way < 0.8:
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines.insert(at, lines[other])
    whole = b"".join(lines)
    return whole if seed % 3 else whole[: dice.randrange(len(whole) // 2, len(whole))]


def imported(text: bytes) -> tuple[list[str], Trailer | None]:
    """Return all that an import of a text gives; of one that is refused the error, after what came before it."""
    stream = TracefsImport([text])
    found: list[str] = []
    try:
        found += map(shown, stream.items())
    except Exception as error:  # noqa: BLE001 - both ways are to fail alike
        return [*found, repr(error)], None
    return found, stream.trailer()


def shown(item: Item) -> str:
    """Return all that an item says, in words that tell ints from other numbers."""
    if not isinstance(item, Run):
        return repr(item)
    return repr([item.tasks, *(list(getattr(item, name)) for name in COLUMNS)])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take every block at once, however short its stretches; give minus the number of lines that were not taken one by one."""
    looked = [0]
    for name, value in (("LINES_MIN", 2), ("LINES_BEFORE", 0), ("BLOCKS_PASSED", 0), ("TRIES", 1 << 20)):
        monkeypatch.setattr(tracefs_bulk, name, value)
    monkeypatch.setattr(tracefs_lexer, "BLOCK_BYTES", 1 << 13)
    take = BulkFold.take

    def counted(self: BulkFold, block: tracefs_lexer.Block, exact: tracefs_bulk.Exact) -> None:
        def count(start: int, stop: int) -> None:
            looked[0] += stop - start
            exact(start, stop)

        looked[0] -= len(block.lines)
        take(self, block, count)

    monkeypatch.setattr(BulkFold, "take", counted)
    return looked


class TestBulkFold:
    """Blocks are taken at once, and give what single lines give."""

    def test_random_mixtures(self, eager: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Of made-up traces, whole and damaged: the same items, runs cut alike, the same counts, the same errors."""
        texts = [text for seed in range(25) for text in (mixture(seed), damaged(mixture(seed), seed))]
        found = [imported(text) for text in texts]
        assert -eager[0] > 5_000
        monkeypatch.setattr(BulkFold, "wants", lambda *_: False)
        assert found == [imported(text) for text in texts]

    def test_captured_traces(self, eager: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Of every captured trace, whole and damaged, the same."""
        assert len(TRACES) >= 9
        texts = [path.read_bytes()[: 1 << 17] for path in TRACES]
        texts += [damaged(text, seed) for seed, text in enumerate(texts * 8)]
        found = [imported(text) for text in texts]
        assert -eager[0] > 1_000
        monkeypatch.setattr(BulkFold, "wants", lambda *_: False)
        assert found == [imported(text) for text in texts]

    def test_merged(self, eager: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Together with the strace of the run, the same."""
        runs = [[str(path.with_name(path.name.replace(".ftrace.", ".strace."))), str(path)] for path in TRACES]
        found = [[shown(item) for item in open_stream(paths).items()] for paths in runs]
        assert -eager[0] > 200
        monkeypatch.setattr(BulkFold, "wants", lambda *_: False)
        assert found == [[shown(item) for item in open_stream(paths).items()] for paths in runs]

    def test_long_stretches(self, eager: list[int]) -> None:
        """Runs are full before they end, and nearly no line is looked at by itself."""
        dice = random.Random(1)
        rows = [*vm("vmm", 100), *(("vmm", 100, page(dice)) for _ in range(2 * RUN_EVENTS_MAX))]
        stream = TracefsImport([b"".join(line(number, *row) for number, row in enumerate(rows))])
        sizes = [len(item) for item in stream.items() if isinstance(item, Run)]
        pages = sum(bool(re.search("zap|new", body)) and " direct" not in body for _, _, body in rows)
        assert sum(sizes) == pages
        assert sizes[:-1] == [RUN_EVENTS_MAX] * (len(sizes) - 1)
        assert -eager[0] > len(rows) * 3 // 4

    def test_small_traces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trace of few lines is taken line by line: numpy is not loaded for it."""
        monkeypatch.delitem(sys.modules, "numpy", raising=False)
        folded = []
        fold = PageFold.fold

        def counted(self: PageFold, lines: Iterator[bytes]) -> bytes | None:
            folded.append(1)
            return fold(self, lines)

        monkeypatch.setattr(PageFold, "fold", counted)
        monkeypatch.setattr(BulkFold, "take", lambda *_: pytest.fail("taken by blocks"))
        imported(mixture(0))
        assert folded
