"""Record by strace: it starts the command, or is attached to a process."""

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import attrs

from replay.errors import CaptureError
from replay.header import Tool
from replay.record.captures import STOP_SECONDS, Capture, Tick, tracer_loss
from replay.record.processes import made_by, threads_of
from replay.record.scripts import quoted, strace_words
from replay.sources.files import Input
from replay.stream import Stream

if TYPE_CHECKING:
    from replay.sources.strace_growing import GrowingStrace

ATTACH_SECONDS: Final = 60
"""How long strace may take to attach to a process."""
_KEEP_DEAD: Final = ["setpriv", "--pdeathsig", "KILL", "--"]


@attrs.define
class StraceCapture(Capture):
    """strace alone: it starts the command, or is attached to a process."""

    tracer: int = 0
    attached: list[int] = attrs.field(factory=list)

    TEXT = "strace.txt"
    ERRORS = "strace.err"

    def prepare(self) -> None:
        """Do nothing: strace starts the command by itself."""
        self.clock = "realtime"
        os.close(self.spool(self.TEXT))

    def launch(self) -> None:
        """Start strace with the command, or attach it and wait until it is."""
        words = self.words(str(self.job.folder / self.TEXT))
        if self.job.pid is None:
            self.tracer = self.root = self.children.start(words)
            return
        self.attached = threads_of(self.job.pid)
        self.tracer = self.started(words, self.TEXT, errors=self.ERRORS)
        until = time.monotonic() + ATTACH_SECONDS
        while " attached" not in self.said(self.ERRORS):
            self.children.reap()
            if self.tracer in self.children.ended or time.monotonic() > until:
                raise CaptureError(self.said(self.ERRORS) or "strace does not attach", where="strace")
            time.sleep(0.02)

    def words(self, output: str) -> list[str]:
        """Return the whole command line; without setpriv a killed strace leaves its command running."""
        from shutil import which

        keep_dead = _KEEP_DEAD if which(_KEEP_DEAD[0]) else []
        command = ["--", *keep_dead, *self.job.command] if self.job.pid is None else []
        return [*strace_words(output, seccomp=self.machine.ability("strace").seccomp, pid=self.job.pid), *command]

    def tools(self) -> tuple[Tool, ...]:
        """Return strace."""
        command = quoted(self.words(self.TEXT))[:4096]
        return (Tool(name="strace", version=self.machine.ability("strace").version[:64], command=command),)

    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return strace's."""
        return ((self.TEXT, "strace"),)

    def strace(self, tick: Tick) -> "GrowingStrace":
        """Return what strace writes."""
        from replay.sources.strace_growing import GrowingStrace

        source = Input(self.job.folder / self.TEXT)
        pieces = self.tail(self.TEXT, self.tracer, tick)
        return GrowingStrace(pieces, source, attached=self.attached, is_task=made_by)

    def stream(self, tick: Tick) -> Stream:
        """Return what strace writes."""
        return self.strace(tick)

    def tracers(self) -> dict[int, str]:
        """Return strace."""
        return {self.tracer: "strace"}

    def cut(self) -> list[str]:
        """Look for the line by which strace says that its command's last process ended: killed, it can not say it."""
        if self.job.pid is not None or not self.tracer:
            return []
        with (self.job.folder / self.TEXT).open("rb") as text:
            text.seek(max(0, text.seek(0, os.SEEK_END) - 4096))
            end = text.read().rstrip()
        whole = not end or end.endswith(b"+++")
        return [] if whole else [tracer_loss("strace", self.children.ended.get(self.tracer))]

    def stop(self) -> None:
        """Detach; strace that started the command ends with it."""
        if self.job.pid is not None:
            self.children.send(self.tracer, signal.SIGINT)
        if self.over_for(STOP_SECONDS):
            self.children.send(self.tracer, signal.SIGKILL)
