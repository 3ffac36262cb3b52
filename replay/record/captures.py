"""Run the tools of each source: start them before the command, start the command, say when all is read, clean up.

A capture writes its tools' text into the folder of traces and reads it from there as it grows. The files stay behind when the
recorder is killed, so nothing that was printed is lost.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from replay.header import Counter, Tool
from replay.record.abilities import Machine
from replay.record.processes import Children, exit_words
from replay.record.tail import Tail
from replay.stream import Stream

STOP_SECONDS: Final = 10
SETTLE_SECONDS: Final = 0.3
"""How long after the end of the command the kernel's last events are waited for."""

Tick = Callable[[bool], None]


@attrs.define
class Job:
    """What is to be recorded: a command, or a process that runs already; folder: for the texts.

    stacks: with the vmalloc areas of KVM, where the source can see them.
    """

    folder: Path
    command: Sequence[str] = ()
    pid: int | None = None
    stacks: bool = False


@attrs.define
class Capture(ABC):
    """One source at work. root: the process whose end is the command's, None when it was there before."""

    job: Job
    machine: Machine
    children: Children
    root: int | None = None
    clock: str = "none"
    hold: int | None = None
    stopped_at: float | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Start what has to run before the command. Raises CaptureError; `close` then removes what was started."""

    @abstractmethod
    def launch(self) -> None:
        """Let the command run."""

    @abstractmethod
    def tools(self) -> tuple[Tool, ...]:
        """List the tools that take part."""

    @abstractmethod
    def texts(self) -> tuple[tuple[str, str], ...]:
        """Return the names and formats of the texts, in the order of the header's sources."""

    @abstractmethod
    def stream(self, tick: Tick) -> Stream:
        """Return what the texts say, read as they grow."""

    @abstractmethod
    def tracers(self) -> dict[int, str]:
        """Return the processes whose end is the end of a text, with their names."""

    def notes(self) -> list[str]:
        """Say what it sees, or does not, that depends on the machine; known when the tools have started."""
        return []

    @abstractmethod
    def stop(self) -> None:
        """Let the tools end in good order; called again and again once the command is over."""

    def losses(self) -> list[Counter]:
        """Return what the tools lost, as far as the texts do not say it."""
        return []

    def cut(self) -> list[str]:
        """Say which text lacks its end, as far as the text itself shows it."""
        return []

    def close(self) -> None:
        """Switch off and remove all that was made outside of the folder; a command that still waits never runs."""
        if self.hold is not None:
            os.close(self.hold)
            self.hold = None

    def hold_command(self) -> None:
        """Start the command's process, which waits; so its number is known before it runs."""
        reader, self.hold = os.pipe()
        self.root = self.children.start(self.job.command, hold=reader)
        os.close(reader)

    def release(self) -> None:
        """Let a command go on that waits."""
        if self.hold is not None:
            with suppress(OSError):
                os.write(self.hold, b"!")
            os.close(self.hold)
            self.hold = None

    def spool(self, name: str) -> int:
        """Return a descriptor to write a text of that name to."""
        return os.open(self.job.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def started(
        self, words: Sequence[str], out: str, *, errors: str, helper: bool = True, environ: Mapping[str, str] | None = None
    ) -> int:
        """Start a tool whose standard output is a text, and what it says beside it another file; environ: stands below ours."""
        files = [os.open(os.devnull, os.O_RDONLY), self.spool(out), self.spool(errors)]
        try:
            return self.children.start(words, files=files, helper=helper, environ=environ)
        finally:
            for file in files:
                os.close(file)

    def said(self, name: str) -> str:
        """Return the last thing that a tool said beside its text."""
        with suppress(OSError):
            lines = (self.job.folder / name).read_text(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ""

    def tail(self, name: str, pid: int, tick: Tick) -> Iterable[bytes]:
        """Return a text as it grows, up to the end of the process that writes it."""
        return Tail(self.job.folder / name, lambda: pid in self.children.ended, tick)

    def over_for(self, seconds: float) -> bool:
        """Say whether the tools were asked to stop so long ago; the first time that is asked, the time begins."""
        now = time.monotonic()
        if self.stopped_at is None:
            self.stopped_at = now
        return now - self.stopped_at >= seconds


def tracer_loss(name: str, status: int | None) -> str:
    """Say what a recording lacks whose tracer ended before the run did."""
    how = "ended" if status is None else exit_words(status)
    return f"all that happened after the recorder's {name} was gone ({how})"
