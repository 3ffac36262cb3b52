"""Promises of pairing KVM_RUNs by runs: it changes nothing but the time that a merge takes."""

import random
from pathlib import Path

import pytest

from replay.header import Trailer
from replay.runs import COLUMNS, Item, Run
from replay.sources import open_stream, strace_runs, tracefs_bulk, tracefs_lexer
from replay.sources.merge_calls import PairedCalls
from replay.sources.tracefs_bulk import BulkFold
from replay.sources.tracefs_calls import CallRun

SECOND = 1_795_341_351
APART_US = {"one clock": 20, "tai": 37_000_000, "clocks of their own": -1_700_000_000_000_000}
REGION = "{slot=0, flags=0, guest_phys_addr=0, memory_size=%d, userspace_addr=0x7f041b600000}"


class Texts:
    """The strace text and the trace of one made-up run, line by line as it happens; apart_us: between the two clocks."""

    def __init__(self, dice: random.Random, apart_us: int) -> None:
        self.dice, self.apart_us, self.now_us = dice, apart_us, 1000
        self.strace = [f'15412 {stamp(0)} openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>']
        self.trace: list[str] = []

    def line(self, tid: int, body: str) -> None:
        """Write a line of the trace."""
        self.trace.append(f" qemu-system-x86-{tid:<7} [001] ..... {stamp(self.now_us + self.apart_us)}: {body}")
        self.now_us += self.dice.choice([1, 3, 40])

    def call(self, tid: int, call: tuple[str, int, int], ret: str, shown: int, text: str = "0") -> None:
        """Write a call on one line in strace; shown: its result in the trace. Sometimes one of the two does not have it."""
        name, fd, cmd = call
        lost = self.dice.random()
        if lost > 0.003:
            self.strace.append(f"{tid} {stamp(self.now_us)} ioctl({fd}, {name}, {text}) = {ret}")
        self.now_us += self.dice.choice([2, 30, 30, 30, 15_000]) if self.dice.random() < 0.02 else 25
        if not 0.003 < lost < 0.006:
            self.line(tid, f"sys_ioctl(fd: {fd:x}, cmd: 0x{cmd:x}, arg: 0)")
            if not 0.006 < lost < 0.008:
                self.line(tid, f"sys_ioctl -> 0x{shown & (1 << 64) - 1:x}")
        self.now_us += self.dice.choice([1, 5, 200])


def stamp(us: int) -> str:
    """Return a time as both tools print it."""
    return f"{SECOND + us // 1_000_000}.{us % 1_000_000:06}"


def write(folder: Path, seed: int, clocks: str) -> list[str]:
    """Write a run that is nearly all KVM_RUN; return the paths of its texts."""
    dice = random.Random(seed)
    texts = Texts(dice, APART_US[clocks])
    texts.call(15412, ("KVM_CREATE_VM", 3, 0xAE01), "4<anon_inode:kvm-vm>", 4)
    for fd in (5, 6)[: 1 + seed % 2]:
        texts.call(15412, ("KVM_CREATE_VCPU", 4, 0xAE41), f"{fd}<anon_inode:kvm-vcpu:{fd - 5}>", fd, str(fd - 5))
    size = 0
    while len(texts.trace) < 800:
        tid, fd = dice.choice([(15412, 5), (15412, 5), (15413, 6)][: 2 + seed % 2])
        differs = dice.random() < 0.05
        for _ in range(dice.choice([1, 2, 5, 30, 60])):
            other = dice.random()
            ret = "-1 EINTR (Interrupted system call)" if other < 0.008 else "0"
            shown = 7 if other < 0.002 else -4 if other < 0.008 or differs else 0
            texts.call(tid, ("KVM_RUN", fd, 0xAE80), ret, shown)
            if other > 0.97:
                texts.line(tid, f"kvm_mmu_get_page: sp gen 0 gfn {dice.randrange(9):x} l2 8-byte q0 wux nxe ad root 0 sync new")
        way = dice.randrange(4)
        if way == 0:
            size = 0 if size else 1 << 21
            texts.call(15412, ("KVM_SET_USER_MEMORY_REGION", 4, 0x4020AE46), "0", 0, REGION % size)
        elif way == 1:
            texts.call(15412, ("KVM_IRQ_LINE_STATUS", 4, 0xC008AE67), "0", 0, "0x7ffe")
        elif way == 2:
            texts.strace.append(f"15412 {stamp(texts.now_us)} close(9) = 0")
    return [str(spoilt(folder / name, lines, dice)) for name, lines in (("s.txt", texts.strace), ("f.txt", texts.trace))]


def spoilt(path: Path, lines: list[str], dice: random.Random) -> Path:
    """Write lines, in half of all cases with some of them damaged, doubled or out of place."""
    for _ in range(dice.choice([0, 0, 1, 6])):
        at, way = dice.randrange(20, len(lines)), dice.randrange(4)
        if way == 0:
            place = dice.randrange(len(lines[at]))
            lines[at] = lines[at][:place] + dice.choice("x0 9") + lines[at][place + 1 :]
        elif way == 1:
            lines[at - 1], lines[at] = lines[at], lines[at - 1]
        elif way == 2:
            lines.insert(at, lines[at - 3])
        else:
            del lines[at : at + dice.choice([1, 2, 40])]
    path.write_text(dice.choice(["\n", "\n", "\n", "\r\n"]).join([*lines, ""]))
    return path


def imported(paths: list[str]) -> tuple[list[str], Trailer | None]:
    """Return all that a merge gives; of one that is refused the error, after what came before it."""
    found: list[str] = []
    stream = open_stream(paths)
    try:
        found += map(shown, stream.items())
    except Exception as error:  # noqa: BLE001 - both ways are to fail alike
        return [*found, repr(error)], None
    return found, stream.trailer()


def shown(item: Item) -> str:
    """Return all that an item says."""
    return repr(item) if not isinstance(item, Run) else repr([item.tasks, *(list(getattr(item, name)) for name in COLUMNS)])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Take runs however short they are; give how many calls were taken by runs."""
    for name, value in (("LINES_MIN", 2), ("LINES_BEFORE", 0), ("BLOCKS_PASSED", 0), ("TRIES", 1 << 20), ("CALLS_MIN", 2)):
        monkeypatch.setattr(tracefs_bulk, name, value)
    monkeypatch.setattr(tracefs_bulk, "CALLS_LOOKED", 3)
    monkeypatch.setattr(tracefs_lexer, "BLOCK_BYTES", 1 << 13)
    monkeypatch.setattr(strace_runs, "LINES_MIN", 5)
    monkeypatch.setattr(strace_runs, "LINES_BEFORE", 0)
    counted = [0]
    take_run = PairedCalls.take_run

    def count(self: PairedCalls, run: CallRun) -> int:
        found = take_run(self, run)
        counted[0] += found
        return found

    monkeypatch.setattr(PairedCalls, "take_run", count)
    return counted


class TestPairedRuns:
    """What a merge gives is the same, pair by pair and by runs."""

    @pytest.mark.parametrize("clocks", APART_US)
    @pytest.mark.parametrize("seed", range(5))
    def test_equal(self, seed: int, clocks: str, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Runs, losses, results that differ, damaged lines and clocks of any kind give the same items and counts."""
        paths = write(tmp_path, seed, clocks)
        by_runs = imported(paths)
        calls = taken[0]
        monkeypatch.setattr(BulkFold, "wants", lambda _self, _block: False)
        assert imported(paths) == by_runs
        assert taken[0] == calls

    def test_taken(self, taken: list[int], tmp_path: Path) -> None:
        """Of the calls of such texts a quarter is taken by runs, short as they are."""
        asked = sum(write_and_import(tmp_path, seed) for seed in range(4))
        assert taken[0] > asked // 4


def write_and_import(folder: Path, seed: int) -> int:
    """Import a made-up run; return how many KVM_RUNs its trace has."""
    paths = write(folder, seed, "one clock")
    imported(paths)
    return Path(paths[1]).read_text().count("cmd: 0xae80")


class Taker:
    """Takes all runs."""

    def __init__(self) -> None:
        self.runs: list[strace_runs.LineRun] = []

    def take(self, run: strace_runs.LineRun) -> bool:
        """Take a run."""
        self.runs.append(run)
        return True


class TestStraceRuns:
    """What strace text gives is the same, line by line and by runs."""

    @pytest.mark.parametrize("seed", range(5))
    def test_alone(self, seed: int, taken: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Strace without a trace gives the same events and counts."""
        path = write(tmp_path, seed, "one clock")[:1]
        by_runs = imported(path)
        monkeypatch.setattr(strace_runs, "stretches", lambda _text, _number: ())
        assert imported(path) == by_runs

    def test_lines(self, taken: list[int], tmp_path: Path) -> None:
        """Lines and runs together are the lines of the text, each with its number."""
        for seed in range(4):
            path = Path(write(tmp_path, seed, "one clock")[0])
            taker = Taker()
            with path.open("rb") as stream:
                found = dict(strace_runs.RunLines(stream, taker.take))
            for run in taker.runs:
                for number in range(run.line, run.line + len(run)):
                    record = run.next()
                    stamped = stamp(((record.enter_ns or 0) - SECOND * 1_000_000_000) // 1000)
                    found[number] = f"{record.tid} {stamped} ioctl({record.args}) = {record.ret}"
            assert [found[number] for number in sorted(found)] == path.read_text().splitlines()
            assert sorted(found) == list(range(1, len(found) + 1))
            assert taker.runs
