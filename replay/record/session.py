"""Record one run from begin to end: the order of things, signals, what is written last, and cleaning up however it ends."""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, Protocol

import attrs

from replay.errors import CaptureError, EmptyError, SourceError
from replay.events import Lost, Mark
from replay.header import Counter, Trailer
from replay.record.captures import Capture, tracer_loss
from replay.record.processes import Children, children_of, exit_words, shell_status
from replay.record.tracefs import clock_pairs
from replay.runs import Item

POLL_SECONDS: Final = 0.05
FLUSH_SECONDS: Final = 0.5
"""How long events wait for a block to fill before it is written as it is."""
LINGER_SECONDS: Final = 0.25
"""How often it is looked whether the command left processes behind."""
GRACE_SECONDS: Final = 10
"""How long a command may take to end after it was asked to."""
NOTHING: Final = "no KVM call was seen: is it the VMM that was recorded? Nothing can be compared"
FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class BlockWriter(Protocol):
    """What is asked of a writer of recordings."""

    @property
    def events(self) -> int:
        """Number of events taken so far."""
        ...

    def write(self, item: Item) -> None:
        """Append one item."""
        ...

    def flush(self) -> None:
        """Hand on what was written."""
        ...

    def finish(self, trailer: Trailer) -> None:
        """End the recording."""
        ...


@attrs.frozen
class Outcome:
    """How a recording ended. status: of the command, as shells give it; 0 for a process that was only watched."""

    status: int
    ended: str
    events: int
    trailer: Trailer
    warnings: tuple[str, ...]


@attrs.define
class Session:
    """A recording under way. say: tells people, on standard error."""

    capture: Capture
    children: Children
    writer: BlockWriter
    say: Callable[[str], None]
    _asked: list[int] = attrs.field(factory=list)
    _asked_at: float = 0.0
    _flushed: float = 0.0
    _flushed_events: int = 0
    _looked: float = 0.0
    _over: bool = False
    _saw: bool = False
    _lost: list[str] = attrs.field(factory=list)
    _cut: list[str] = attrs.field(factory=list)
    _watched: int | None = None
    _old: dict[int, object] = attrs.field(factory=dict)

    def run(self) -> Outcome:
        """Let the command run, record it to its end, and finish the recording. What is wrong is raised after cleaning up."""
        try:
            self._catch_signals()
            if self.capture.job.pid is not None:
                self._watched = os.pidfd_open(self.capture.job.pid)
            self.capture.launch()
            stream = self.capture.stream(self.tick)
            try:
                with suppress(EmptyError):  # a run that asks nothing of KVM is recorded as one
                    for item in stream.items():
                        self._saw = self._saw or not isinstance(item, (Lost, Mark))
                        self.writer.write(item)
            except SourceError as error:  # what was understood before is kept
                self._cut.append(str(error))
            return self._finish(stream.trailer(), (*stream.warnings(), *([] if self._saw else [NOTHING])))
        finally:
            self.capture.close()
            self.children.kill_all()
            self._give_signals_back()
            if self._watched is not None:
                os.close(self._watched)

    def tick(self, idle: bool) -> None:
        """Do what time asks for: reap, forward signals, stop the tools when the run is over, write a block that has waited."""
        self.children.reap()
        self._forward()
        if not self._over:
            self._over = self._is_over()
            self._miss_tracers()
        if self._over:
            self.capture.stop()
        now = time.monotonic()
        if now - self._flushed >= FLUSH_SECONDS and self.writer.events != self._flushed_events:
            self.writer.flush()
            self._flushed, self._flushed_events = now, self.writer.events
        if idle:
            time.sleep(POLL_SECONDS)

    def _is_over(self) -> bool:
        if self._watched is not None:
            return bool(self._asked) or bool(select.select([self._watched], [], [], 0)[0])
        if self.capture.root not in self.children.ended:
            return False
        now = time.monotonic()
        if now - self._looked < LINGER_SECONDS:
            return False
        self._looked = now
        return not self.children.others()

    def _miss_tracers(self) -> None:
        """Notice a tool that ended before the run did."""
        for pid, name in self.capture.tracers().items():
            if pid in self.children.ended and pid != self.capture.root and name not in self._lost and not self._over:
                self._lost.append(name)
                status = self.children.ended[pid]
                self.say(f"{name} is gone ({exit_words(status)}): what happens from here on is not recorded")

    def _forward(self) -> None:
        """Hand a signal on to the command; one that does not end by it is killed after a while, or when asked again."""
        root = self._command()
        while self._asked and root is not None and self.capture.job.pid is None:
            number = self._asked.pop(0)
            again = self._asked_at and time.monotonic() - self._asked_at > 1
            self._asked_at = self._asked_at or time.monotonic()
            self.children.send(root, signal.SIGKILL if again else number)
        if self._asked_at and time.monotonic() - self._asked_at > GRACE_SECONDS:
            for pid in [*([root] if root else []), *self.children.others()]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _command(self) -> int | None:
        """Return the process of the command: strace's child where strace started it."""
        root = self.capture.root
        if root is None or root in self.children.ended:
            return None
        if root in self.capture.tracers():
            return next(iter(children_of(root)), None)
        return root

    def _catch_signals(self) -> None:
        """Take signals over, but for those that we were told to ignore (nohup).

        A shell without job control starts background jobs with SIGINT ignored; with --pid it asks for the end all the same.
        """
        watching = self.capture.job.pid is not None
        for number in FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN or (watching and number == signal.SIGINT):
                self._old[number] = signal.signal(number, self._caught)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        interactive = number in {signal.SIGINT, signal.SIGQUIT} and has_terminal()
        if interactive and self.capture.job.pid is None:
            return  # the terminal sent it to the command as well
        self._asked.append(number)

    def _give_signals_back(self) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() returned before

    def _finish(self, trailer: Trailer, warnings: tuple[str, ...]) -> Outcome:
        """Write what only the end knows: what was lost, how the command ended, the clocks."""
        root = self.capture.root
        status = self.children.ended.get(root) if root is not None else None
        lost = [Counter(kind=text[:128], count=1, severity="lost") for text in self._losses()]
        for counter in lost:
            self.writer.write(Lost(what=counter.kind[:256]))
        counted = {(counter.severity, counter.kind) for counter in trailer.counters}
        lost += [counter for counter in self.capture.losses() if (counter.severity, counter.kind) not in counted]
        ended = exit_words(status) if status is not None else "still running" if self._asked else "ended"
        self.writer.write(Mark(text=f"end of the recording; command: {ended}; clocks: {clock_pairs()}"))
        full = attrs.evolve(trailer, counters=(*lost, *trailer.counters)[:4096])
        self.writer.finish(full)
        said = tuple(f"lost: {counter.kind}" for counter in lost)
        code = shell_status(status) if status is not None else 0
        return Outcome(code, ended, self.writer.events, full, (*said, *warnings))

    def _losses(self) -> list[str]:
        """Say what ended before the run did."""
        gone = [tracer_loss(name, self._status_of(name)) for name in self._lost]
        return list(dict.fromkeys([*gone, *self.capture.cut(), *self._cut]))

    def _status_of(self, name: str) -> int | None:
        pid = next(pid for pid, known in self.capture.tracers().items() if known == name)
        return self.children.ended.get(pid)


def has_terminal() -> bool:
    """Say whether we are in the foreground of a terminal: it sends its signals to the command by itself."""
    for descriptor in (0, 2):
        with suppress(OSError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False


def prepared(names: Sequence[str], make: Callable[[str], Capture], say: Callable[[str], None]) -> tuple[str, Capture]:
    """Return the first source whose capture begins, and that; each that is refused is said. Raises CaptureError."""
    last: CaptureError | None = None
    for name in names:
        capture = make(name)
        try:
            capture.prepare()
        except CaptureError as error:
            last = error
            say(f"{name} can not be used: {error}")
            _undo(capture)
        except BaseException:
            _undo(capture)
            raise
        else:
            return name, capture
    raise last or CaptureError("no source can be used here")


def _undo(capture: Capture) -> None:
    capture.close()
    capture.children.kill_all()
