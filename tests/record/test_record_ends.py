"""How bpftrace and the reader of tracefs are brought to their ends: not before they have given all that there is."""

import signal
import time
from pathlib import Path

import attrs
import pytest

from replay.record import bpftrace_capture, tracefs_capture
from replay.record.abilities import Machine
from replay.record.bpftrace_capture import DETACH_SECONDS, DRAIN_SECONDS, IDLE_LOOKS, UNPRINTED, BpftraceCapture
from replay.record.captures import Job
from replay.record.processes import Children
from replay.record.tracefs import Instance
from replay.record.tracefs_capture import UNREAD, TracefsCapture


@attrs.define
class Sent(Children):
    """Children that are only sent signals on paper."""

    signals: list[tuple[int, int]] = attrs.field(factory=list)

    def send(self, pid: int, number: int) -> None:
        """Note a signal."""
        self.signals.append((pid, number))


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Give the list of what is seen of the tool, one look after the other: True when it waits for something."""
    found: list[bool] = []
    for module in (bpftrace_capture, tracefs_capture):
        monkeypatch.setattr(module, "sleeps", lambda _pid: found.pop(0))
    return found


def bpftrace(folder: Path, *, pid: int | None = None) -> tuple[BpftraceCapture, Sent]:
    """Return a capture whose command has ended a while ago."""
    children = Sent()
    capture = BpftraceCapture(Job(folder, pid=pid), Machine(), children)
    capture.tracer, capture.stopped_at = 7, time.monotonic() - 1
    return capture, children


class TestBpftrace:
    """From SIGINT on bpftrace throws away what its buffers hold."""

    def test_waited_for(self, tmp_path: Path, states: list[bool]) -> None:
        """It is asked when it was found waiting so often in a row, and no sooner; once."""
        capture, children = bpftrace(tmp_path)
        states += [True] * (IDLE_LOOKS - 1) + [False] + [True] * IDLE_LOOKS
        while states:
            assert children.signals == []
            capture.stop()
        capture.stop()
        assert children.signals == [(7, signal.SIGINT)]
        assert capture.cut() == []

    def test_settles(self, tmp_path: Path, states: list[bool]) -> None:
        """Right behind the end of the command the kernel's last events are waited for."""
        capture, children = bpftrace(tmp_path)
        capture.stopped_at = None
        states += [True] * IDLE_LOOKS
        while states:
            capture.stop()
        assert children.signals == []

    def test_never_done(self, tmp_path: Path, states: list[bool]) -> None:
        """One that always has something to print is asked at last, and that is a loss; a process that goes on has no end."""
        for pid, seconds, lost in ((None, DRAIN_SECONDS, [UNPRINTED]), (3, 1, [])):
            capture, children = bpftrace(tmp_path, pid=pid)
            capture.stopped_at = time.monotonic() - seconds
            states += [False]
            capture.stop()
            assert children.signals == [(7, signal.SIGINT)]
            assert capture.cut() == lost

    def test_killed_at_last(self, tmp_path: Path, states: list[bool]) -> None:
        """One that does not end is killed."""
        capture, children = bpftrace(tmp_path)
        capture._asked_at = time.monotonic() - DETACH_SECONDS - 1
        capture.stop()
        assert children.signals == [(7, signal.SIGKILL)]
        assert states == []


class TestTracefs:
    """The reader of an instance may wait for more for ever, so it is killed."""

    def capture(self, folder: Path, unread: int) -> tuple[TracefsCapture, Sent]:
        """Return a capture whose command has ended, and whose instance has so many events to be read."""
        (folder / "per_cpu" / "cpu0").mkdir(parents=True)
        (folder / "per_cpu" / "cpu0" / "stats").write_text(f"entries: {unread}\noverrun: 0\n")
        children = Sent()
        capture = TracefsCapture(Job(folder), Machine(), children, beside_strace=False, instance=Instance(folder))
        capture.reader = 7
        return capture, children

    def test_all_was_read(self, tmp_path: Path, states: list[bool]) -> None:
        """It goes when nothing is left to be read, and it waits."""
        capture, children = self.capture(tmp_path, 0)
        capture.stopped_at = time.monotonic() - 1
        states += [True, False, True, True, True]
        while states:
            assert children.signals == []
            capture.stop()
        assert children.signals == [(7, signal.SIGKILL)]
        assert capture.losses() == []

    def test_not_all(self, tmp_path: Path, states: list[bool]) -> None:
        """One that does not come to an end leaves events unread: they are lost, and counted."""
        capture, children = self.capture(tmp_path, 12)
        capture.stopped_at = time.monotonic() - tracefs_capture.DRAIN_SECONDS
        capture.stop()
        assert children.signals == [(7, signal.SIGKILL)]
        assert [(counter.kind, counter.count, counter.severity) for counter in capture.losses()] == [(UNREAD, 12, "lost")]
        assert states == []
