"""Promises of the short way for calls that need no look: it changes nothing but the time that an import takes."""

import random
from collections.abc import Iterator

import pytest

from replay.events import Event
from replay.header import Trailer
from replay.runs import events_of
from replay.sources.tracefs import TracefsImport
from replay.sources.tracefs_bulk import BulkFold
from replay.sources.tracefs_calls import AloneCalls

START = [
    ("vmm", 100, "sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)"),
    ("vmm", 100, "sys_ioctl -> 0x4"),
    ("vmm", 100, "sys_ioctl(fd: 4, cmd: 0xae41, arg: 0)"),
    ("vmm", 100, "sys_ioctl -> 0x5"),
]
RUN = "sys_ioctl(fd: 5, cmd: 0xae80, arg: 0)"
BODIES = [
    *[RUN] * 8,
    *["sys_ioctl -> 0x0"] * 8,
    "sys_ioctl(fd: 6, cmd: 0xae80, arg: 0)",
    "sys_ioctl(fd: 5, cmd: 0x8090ae81, arg: 0x7ffe92ed8d40)",
    "sys_ioctl(fd: 7, cmd: 0x5401, arg: 0x7ffe92ed8d40)",
    "sys_ioctl(fd: 4, cmd: 0x4020ae46, arg: 0x7ffe92ed8d40)",
    "sys_ioctl(fd: 4, cmd: 0xae41, arg: 0x1)",
    "sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)",
    "sys_ioctl -> 0x6",
    "sys_ioctl -> 0xfffffffffffffffc",
    "sys_ioctl -> 0xfffffffffffffff7",
    "sys_close(fd: 5)",
    "sys_close -> 0x0",
    "sys_dup2(oldfd: 4, newfd: 5)",
    "sys_dup2 -> 0x5",
    "sys_exit_group(error_code: 0)",
    "kvm_mmu_get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new",
    "kvm_mmu_prepare_zap_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync",
    "kvm_mmu_zap_all_fast: kvm-mmu-valid-gen 1 used_pages 4",
    "sys_ioctl(fd: 5, cmd: 0xae80, arg: 0",
]


def line(number: int, comm: str, tid: int, body: str, tgid: str = "") -> bytes:
    """Return a line in the usual columns."""
    return f"{comm:>16}-{tid:<7} {tgid}[{number % 2:03}] ..... 1795341351.{number:06}: {body}\n".encode()


def texts() -> Iterator[bytes]:
    """Yield made-up traces: a VM, then calls of three threads in any order, whole ones and torn ones."""
    for seed in range(120):
        dice = random.Random(seed)
        tgids = ["", "", "(    100) ", "(-------) "] if seed % 3 == 0 else [""]
        lines = [line(number, *row) for number, row in enumerate(START)]
        while len(lines) < 150:
            comm, tid = dice.choice([("vmm", 100), ("vmm", 100), ("CPU 0/KVM", 101), ("other", 200)])
            tgid = dice.choice(tgids)
            if dice.random() < 0.6:
                for body in (RUN, dice.choice(["sys_ioctl -> 0x0", "sys_ioctl -> 0xfffffffffffffffc", "sys_ioctl -> 0x1"])):
                    lines.append(line(len(lines), comm, tid, body, tgid))
            elif dice.random() < 0.05:
                lines.append(dice.choice([b"\n", b"# comment\n", b"CPU:1 [LOST 3 EVENTS]\n", b"stray)\n"]))
            else:
                lines.append(line(len(lines), comm, tid, dice.choice(BODIES), tgid))
        whole = b"".join(lines)
        yield whole if seed % 4 else whole[: -dice.randrange(1, 90)]


def imported(text: bytes) -> tuple[list[Event], Trailer, int]:
    """Return what an import of a text gives, and how many calls took the short way."""
    stream = TracefsImport([text])
    calls, short = AloneCalls.quiet, 0

    def counted(self: AloneCalls, lines: tuple[bytes, bytes], number: int) -> bool:
        nonlocal short
        taken = calls(self, lines, number)
        short += taken
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AloneCalls, "quiet", counted)
        patch.setattr(BulkFold, "wants", lambda *_: False)  # it takes calls together, see test_tracefs_bulk.py
        events = list(events_of(stream.items()))
    return events, stream.trailer(), short


class TestQuietCalls:
    """A call whose entry and result are neighbours is taken at once when it is known."""

    def test_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Events, times, places and counts are those of an import that looks at every line."""
        found = [imported(text) for text in texts()]
        monkeypatch.setattr(AloneCalls, "quiet", lambda *_arguments: False)
        looked = [imported(text) for text in texts()]
        assert sum(short for _events, _trailer, short in found) > 1000
        assert [row[:2] for row in found] == [row[:2] for row in looked]
        assert all(short == 0 for _events, _trailer, short in looked)

    def test_is_taken(self) -> None:
        """Of a thousand equal calls all but the first take the short way, and all are counted."""
        rows = [*START, *[("CPU 0/KVM", 101, body) for _ in range(1000) for body in (RUN, "sys_ioctl -> 0x0")]]
        _events, trailer, short = imported(b"".join(line(number, *row) for number, row in enumerate(rows)))
        assert short == 999
        assert [(counter.kind, counter.count) for counter in trailer.counters if counter.kind == "KVM_RUN"] == [("KVM_RUN", 1000)]
