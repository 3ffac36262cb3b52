"""Traces that are read while they grow give what they give when they are whole."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.runs import Run, events_of
from replay.sources.files import Input
from replay.sources.merge import MergedImport
from replay.sources.merge_growing import GrowingMerge
from replay.sources.strace_growing import PATIENCE_ROUNDS, GrowingStrace
from replay.sources.strace_import import StraceImport
from replay.sources.tracefs_lexer import TracefsLexer

DATA = Path(__file__).resolve().parent.parent / "data"
WITH_TIMES = ("fd-dup", "fd-errors", "fd-fork", "fd-reuse", "fd-scm", "fd-sigkill_fdheld", "fd-threads", "kill-qemu-0.25")
WHOLE = [DATA / "strace" / f"{name}.txt" for name in (*WITH_TIMES, "kill-strace", "qemu-savevm", "runsc-echo", "two-shadow-vms")]
PAIRS = ("fd-dup", "fd-reuse", "fd-scm", "fd-sigkill", "fd-threads", "lm-mode3", "pd-delete", "two-shadow-vms", "um-mode1")


def pieces(data: bytes, seed: int) -> Iterator[bytes]:
    """Cut bytes anywhere, with pauses between."""
    dice = random.Random(seed)
    place = 0
    while place < len(data):
        size = dice.choice((0, 1, 60, 700, 5000))
        yield data[place : place + size]
        place += size


def tasks_in(path: Path) -> set[int]:
    """Return the threads that have lines in a recording: those that its machine knew."""
    return {int(line.split()[0]) for line in path.read_text().splitlines() if line.split()[0].isdecimal()}


def growing(path: Path, seed: int) -> GrowingStrace:
    """Return the import of a file that is cut into pieces."""
    known = tasks_in(path)
    stream = GrowingStrace(pieces(path.read_bytes(), seed), Input(path), is_task=lambda tid, _parent: tid in known)
    stream.scan().fd_calls = StraceImport([Input(path)]).scan().fd_calls  # of excerpts; a recorder asks for those calls
    return stream


def nobody(_tid: int, _parent: int) -> bool:
    """Know no task."""
    return False


class TestGrowingStrace:
    """strace text in pieces."""

    @pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
    def test_same_as_whole(self, path: Path) -> None:
        """Real recordings give the same events, places and counts, wherever they are cut."""
        whole = StraceImport([Input(path)])
        events = list(whole.items())
        assert len(events) > 3
        for seed in range(3):
            stream = growing(path, seed)
            assert list(stream.items()) == events
            assert stream.trailer() == whole.trailer()

    def test_task_before_its_maker_returns(self) -> None:
        """A thread's lines that come before the call that made it returned wait for it."""
        lines = [
            b'9 1.000001 openat(AT_FDCWD, "/dev/kvm", O_RDWR) = 3</dev/kvm>\n',
            b"9 1.000002 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4\n",
            b"9 1.000003 clone3({flags=CLONE_VM|CLONE_FILES|CLONE_THREAD}, 88 <unfinished ...>\n",
            b"12 1.000004 ioctl(4, KVM_CREATE_VCPU, 0) = 5\n",
            b"9 1.000005 <... clone3 resumed>) = 12\n",
        ]
        text = b"".join(line.replace(b" 1.0", b" 1795341862.0") for line in lines)
        stream = GrowingStrace(iter([text[:300], b"", text[300:]]), Input("strace.txt"), is_task=nobody)
        events = [item for item in stream.items() if not isinstance(item, Run)]
        assert [(event.KIND, event.task and event.task.pid) for event in events] == [("vm.create", 9), ("vcpu.create", 9)]

    def test_sleeping_task_is_not_waited_for(self) -> None:
        """A task that shows nothing does not hold back what others do for longer than patience."""
        text = b"9 1795341862.000001 clone(flags=SIGCHLD) = 12\n9 1795341862.000002 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4\n"
        given = []

        def endless() -> Iterator[bytes]:
            yield text
            for number in range(2 * PATIENCE_ROUNDS):
                given.append(number)
                yield b""

        stream = GrowingStrace(endless(), Input("strace.txt"), is_task=lambda tid, parent: (tid, parent) == (12, 9))
        first = next(iter(stream.items()))
        assert not isinstance(first, Run)
        assert first.KIND == "vm.create"
        assert len(given) == PATIENCE_ROUNDS
        assert stream.scan().lineage.child_of(0, 1) == 12

    def test_attached_tasks_have_no_maker(self) -> None:
        """Threads that were there before are of the one process that strace was attached to."""
        text = b"31 1795341862.000001 ioctl(7<anon_inode:kvm-vm>, KVM_CREATE_VCPU, 1) = 9<anon_inode:kvm-vcpu:1>\n"
        stream = GrowingStrace(iter([text]), Input("strace.txt"), attached=[30, 31], is_task=nobody)
        events = [item for item in stream.items() if not isinstance(item, Run)]
        assert [event.KIND for event in events] == ["vm.attach", "vcpu.create"]
        assert events[0].task is not None
        assert (events[0].task.pid, events[0].task.tid) == (30, 31)
        assert not stream.header.complete_start

    def test_endless_line(self) -> None:
        """A line without an end takes bounded memory and is passed over."""
        calls = (b"ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4", b"ioctl(4, KVM_CREATE_VCPU, 0) = 5")
        text = b"x" * (5 << 20) + b"".join(b"\n9 1795341862.000002 " + call for call in calls)
        cut = [text[place : place + 100_000] for place in range(0, len(text), 100_000)]
        stream = GrowingStrace(iter(cut), Input("strace.txt"), is_task=nobody)
        assert [item.KIND for item in stream.items() if not isinstance(item, Run)] == ["vm.create", "vcpu.create"]


class TestGrowingMerge:
    """strace and tracefs text, both in pieces."""

    @pytest.mark.parametrize("name", PAIRS)
    def test_same_as_whole(self, name: str) -> None:
        """The merge of two growing recordings is that of the whole ones."""
        strace, trace = (DATA / "tracefs" / f"{name}.{kind}.txt" for kind in ("strace", "ftrace"))
        whole = MergedImport([Input(strace)], Input(trace))
        expected = list(events_of(whole.items()))
        assert len(expected) > 3
        for seed in range(2):
            parts = pieces(trace.read_bytes(), seed + 10)
            stream = GrowingMerge(growing(strace, seed), parts, Input(trace), clock="tai", offset_ns=0)
            assert list(events_of(stream.items())) == expected
            assert lost_or_unknown(stream) == lost_or_unknown(whole)


def lost_or_unknown(stream: MergedImport) -> list[tuple[str, int]]:
    """Return what a merge counted and did not merely pass over."""
    return [(counter.kind, counter.count) for counter in stream.trailer().counters if counter.severity != "ignored"]


class TestLexer:
    """Blocks of text that grows."""

    def test_empty_piece_gives_whole_lines(self) -> None:
        """What is whole is given when there is nothing more for now; the rest waits."""
        blocks = TracefsLexer(iter([b"one\ntw", b"", b"o\n", b"", b"", b"three"]))
        assert [(block.first_line, block.lines) for block in blocks] == [(1, [b"one"]), (2, [b"two"]), (3, [b"three"])]
