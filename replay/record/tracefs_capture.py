"""Record by a private tracefs instance, beside strace or alone."""

import os
import signal
from typing import Final

import attrs

from replay.errors import CaptureError
from replay.header import Counter, Tool
from replay.record.captures import SETTLE_SECONDS, Tick, tracer_loss
from replay.record.processes import sleeps
from replay.record.strace_capture import StraceCapture
from replay.record.tracefs import WATCHDOG, Instance, mount_point, remove_stale
from replay.sources.files import Input
from replay.stream import Stream

DRAIN_SECONDS: Final = 30
"""How long the reader of an instance may go on after the end of the command."""
UNREAD: Final = "events in the ring buffers when the recording was ended"
IDLE_LOOKS: Final = 3
"""How often in a row, 50 ms apart, the reader of an instance has to have nothing to do."""


@attrs.define
class TracefsCapture(StraceCapture):
    """A private tracefs instance, beside strace or alone."""

    beside_strace: bool = True
    instance: Instance | None = None
    reader: int = 0
    _asked: bool = False
    _idle: int = 0
    _unread: int = 0
    _watched: int | None = None
    _stats: list[tuple[int, dict[str, int]]] = attrs.field(factory=list)

    PIPE = "ftrace.txt"

    def prepare(self) -> None:
        """Make the instance, with a shell that removes it should we be killed, and start to read it."""
        super().prepare()
        root = mount_point()
        if root is None:
            raise CaptureError("tracefs is not mounted", where="tracefs")
        remove_stale(root)
        self.instance = Instance.make(root)
        self.clock = self.instance.clock
        watch, self._watched = os.pipe()
        os.set_inheritable(self._watched, False)
        words = ["sh", "-c", WATCHDOG, "sh", str(self.instance.path)]
        self.children.start(words, files=(watch, None, None), helper=True, outlives=True)
        os.close(watch)
        pipe = str(self.instance.path / "trace_pipe")
        self.reader = self.started(["cat", pipe], self.PIPE, errors="ftrace.err")
        if self.job.pid is None and not self.beside_strace:
            self.hold_command()

    def launch(self) -> None:
        """Start strace with the command, or let the command run."""
        if self.beside_strace:
            super().launch()
        else:
            self.release()

    def tools(self) -> tuple[Tool, ...]:
        """Return strace when it takes part, and tracefs."""
        return (*(super().tools() if self.beside_strace else ()), Tool(name="tracefs"))

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return strace's when it takes part, and the instance's."""
        return (*(super().texts() if self.beside_strace else ()), (self.PIPE, "tracefs"))

    def stream(self, tick: Tick) -> Stream:
        """Return the merge of both, or what the instance shows."""
        assert self.instance is not None
        pieces = self.tail(self.PIPE, self.reader, tick)
        if not self.beside_strace:
            from replay.sources.tracefs import TracefsImport

            return TracefsImport(pieces, name=self.PIPE, tgids=self.instance.tells_processes)
        from replay.sources.merge_growing import GrowingMerge

        strace = self.strace(tick)
        trace = Input(self.job.folder / self.PIPE)
        return GrowingMerge(strace, pieces, trace, clock=self.clock, offset_ns=self.instance.offset_ns)

    def tracers(self) -> dict[int, str]:
        """Return strace when it takes part, and the reader of the instance."""
        return {**(super().tracers() if self.beside_strace else {}), self.reader: "reader of tracefs"}

    def stop(self) -> None:
        """Stop strace, then the instance, then its reader when that has read all: it may wait for more for ever."""
        if self.beside_strace and self.tracer not in self.children.ended:
            super().stop()
            return
        if self.instance is None or not self.over_for(SETTLE_SECONDS):
            return
        self._asked = True
        self.instance.stop()
        unread = sum(stats.get("entries", 0) for _, stats in self.instance.stats())
        self._idle = self._idle + 1 if not unread and sleeps(self.reader) else 0
        if self._idle >= IDLE_LOOKS or self.over_for(DRAIN_SECONDS):
            self._unread = unread
            self.children.send(self.reader, signal.SIGKILL)

    def cut(self) -> list[str]:
        """Look at strace's text, and notice a reader that ended before it was asked to."""
        found = super().cut() if self.beside_strace else []
        early = self.reader in self.children.ended and not self._asked
        return [*found, tracer_loss("reader of tracefs", self.children.ended[self.reader])] if early else found

    def losses(self) -> list[Counter]:
        """Return what the kernel counted as lost, by CPU."""
        found = []
        for cpu, stats in self._stats or (list(self.instance.stats()) if self.instance else []):
            count = sum(stats.get(name, 0) for name in ("overrun", "commit overrun", "dropped events"))
            if count:
                found.append(Counter(kind=f"ring buffer of CPU {cpu} overran", count=count, first=self.PIPE, severity="lost"))
        if self._unread:
            found.append(Counter(kind=UNREAD, count=self._unread, first=self.PIPE, severity="lost"))
        return found

    def close(self) -> None:
        """Remove the instance."""
        super().close()
        if self.instance is not None:
            self._stats = list(self.instance.stats())
            self.instance.stop()
            self.children.send(self.reader, signal.SIGKILL)
            self.instance.remove()
            self.instance = None
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None
