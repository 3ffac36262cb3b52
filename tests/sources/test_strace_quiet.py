"""Promises of the short way for lines of strace that say what was said before: it changes nothing but the time it takes."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.sources.files import Input
from replay.sources.strace_import import StraceImport
from replay.sources.strace_quiet import QuietLines
from replay.sources.strace_scan import Scanner

CAPTURES = sorted((Path(__file__).parent.parent / "data" / "strace").glob("*.txt"))
START = [
    'openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3</dev/kvm>',
    "ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>",
    "ioctl(4<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 0) = 5<anon_inode:kvm-vcpu:0>",
]
RUN = "ioctl(5<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0"
REGION = "slot=0, flags=0, guest_phys_addr=0, memory_size={}, userspace_addr=0x7f041b600000"
BODIES = [
    *[RUN] * 12,
    "ioctl(5<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = -1 EINTR (Interrupted system call)",
    "ioctl(5<anon_inode:kvm-vcpu:0>, KVM_RUN, 0 <unfinished ...>",
    "<... ioctl resumed>) = 0",
    "ioctl(5, KVM_RUN, 0) = 0",
    "ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {" + REGION.format(4096) + "}) = 0",
    "ioctl(4<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {" + REGION.format(0) + "}) = 0",
    'write(1, " ioctl(5<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0", 9) = 9',
    "close(5<anon_inode:kvm-vcpu:0>) = 0",
    "dup2(4<anon_inode:kvm-vm>, 5) = 5<anon_inode:kvm-vm>",
    "ioctl(4<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 1) = 5<anon_inode:kvm-vcpu:1>",
    "clone(child_stack=NULL, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD) = 101",
    "+++ exited with 0 +++",
]


def stamped(number: int, tid: int, body: str) -> str:
    """Return a line with thread and time."""
    return f"{tid} {1_795_341_351 + number // 50}.{number * 20000 % 1_000_000:06} {body}\n"


def texts() -> Iterator[str]:
    """Yield made-up recordings, whole and damaged, and captured ones."""
    for seed in range(60):
        dice = random.Random(seed)
        rows = [(100, body) for body in START]
        while len(rows) < 200:
            rows.append((dice.choice([100, 100, 100, 101]), dice.choice(BODIES)))
        whole = "".join(stamped(number, *row) for number, row in enumerate(rows))
        yield whole
        chars = list(whole)
        for _ in range(dice.randrange(1, 25)):
            chars[dice.randrange(len(chars))] = dice.choice(" x09.\r\n²<")
        yield "".join(chars)
    for path in CAPTURES:
        yield path.read_text("latin-1")


def imported(path: Path) -> list[str]:
    """Return all that an import of a text gives."""
    stream = StraceImport([Input(path)])
    try:
        found = [*map(repr, stream.items()), repr(stream.trailer()), repr(stream.warnings()), repr(stream.header)]
    except Exception as error:  # noqa: BLE001 - both ways are to fail alike
        return [repr(error)]
    return found


class TestQuietLines:
    """Lines that were read before are taken at once."""

    def test_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Events, counts, headers and errors are those of an import that reads every line."""
        paths = []
        for number, text in enumerate(texts()):
            paths.append(tmp_path / f"{number}.txt")
            paths[-1].write_text(text, "latin-1", newline="")
        take, taken = QuietLines.take, [0]

        def counted(self: QuietLines, line: str) -> bool:
            found = take(self, line)
            taken[0] += found
            return found

        monkeypatch.setattr(QuietLines, "take", counted)
        found = [imported(path) for path in paths]
        assert taken[0] > 1000
        monkeypatch.setattr(QuietLines, "take", lambda *_: False)
        assert found == [imported(path) for path in paths]

    def test_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a thousand equal calls in one second all but the first are taken so, and all are counted."""
        path = tmp_path / "strace.txt"
        path.write_text("".join(f"100 1795341351.{number:06} {body}\n" for number, body in enumerate([*START, *[RUN] * 1000])))
        looked: list[str] = []
        learn = QuietLines.learn

        def learned(self: QuietLines, line: str, tid: int, args: str) -> None:
            looked.append(line)
            learn(self, line, tid, args)

        monkeypatch.setattr(QuietLines, "learn", learned)
        stream = StraceImport([Input(path)])
        assert len(list(stream.items())) == 2
        assert len(looked) == 1, "the notes of the results make the other lines rare ones"
        assert [counter.count for counter in stream.trailer().counters if counter.kind == "KVM_RUN"] == [1000]


class TestScannerThreads:
    """The first pass finds the first line of each thread, however its blocks are looked at."""

    def test_new_threads(self) -> None:
        """A thread that comes late is found at its line, also when its number begins as another's does."""
        lines = [f"{tid} 1795341351.000000 {RUN}\n" for tid in [7] * 50 + [70] + [7] * 3 + [8]]
        scanner = Scanner()
        scanner.scan(["".join(lines[:40]), "".join(lines[40:50]), "".join(lines[50:])])
        assert scanner.finish().lineage.first == {7: (1, 0), 70: (51, 0), 8: (55, 0)}
