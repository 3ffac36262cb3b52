"""Show how far a long job is, on one line that rewrites itself.

rich draws it, and is imported when the first line is due: a job that ends before that never pays for it.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Final, Protocol, TextIO, TypeVar

from replay.units import counted

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_Item = TypeVar("_Item")
INTERVAL_SECONDS: Final = 0.2
_MIB: Final = 1 << 20


class Meter(Protocol):
    """Who tells how far the reading of inputs is."""

    @property
    def total_bytes(self) -> int | None:
        """How many bytes there are to read, None when that is not known."""
        ...

    @property
    def read_bytes(self) -> int:
        """How many of them were read."""
        ...


class Progress:
    """Count events as they go by; draws nothing before the first interval, so short jobs stay silent."""

    def __init__(self, what: str, stream: TextIO | None, unit: str = "events") -> None:
        self._what = what
        self._unit = unit
        self._stream = stream
        self._started = time.monotonic()
        self._drawn = self._started
        self._line: tuple[RichProgress, TaskID] | None = None
        self.events = 0

    @property
    def live(self) -> bool:
        """Whether a line is shown at all."""
        return self._stream is not None

    def over(self, items: Iterable[_Item], *, total_events: int | None = None, meter: Meter | None = None) -> Iterator[_Item]:
        """Yield the items and count the events in them: a run counts its length, anything else one.

        total_events: how many there will be; where that is not known, meter says how much of the inputs was read.
        """
        try:
            for item in items:
                yield item
                self.events += len(item) if isinstance(item, Sized) else 1
                if self._stream is not None:
                    self._tick(total_events, meter)
        finally:
            self._erase()

    def _tick(self, total_events: int | None, meter: Meter | None) -> None:
        now = time.monotonic()
        if now - self._drawn < INTERVAL_SECONDS or self._stream is None:
            return
        self._drawn = now
        done, total = self.events, total_events
        text = progress_line(self._what, self.events, total_events, now - self._started, self._unit)
        if meter is not None and meter.read_bytes:  # recordings are not read through it
            done, total = meter.read_bytes, meter.total_bytes
            text = reading_line(self._what, self.events, done, total, now - self._started)
        if self._line is None:
            self._line = _started_line(self._stream, total)
        progress, task = self._line
        progress.update(task, completed=done, description=text)
        progress.refresh()

    def _erase(self) -> None:
        if self._line is not None:
            self._line[0].stop()
            self._line = None


def _started_line(stream: TextIO, total: int | None) -> "tuple[RichProgress, TaskID]":
    """Return a line of rich that is on the terminal until it is stopped; with a bar when the end is known."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    end = BarColumn() if total else SpinnerColumn()
    console = Console(file=stream, force_terminal=True)
    # Not redirecting: standard output carries the result, and nothing of it may pass through the terminal's console.
    progress = RichProgress(
        TextColumn("{task.description}", markup=False),
        end,
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    progress.start()
    return progress, progress.add_task("", total=total)


def progress_line(what: str, events: int, total_events: int | None, seconds: float, unit: str = "events") -> str:
    """Say how far a job is.

    >>> progress_line("reading", 1_200_000, 2_400_000, 2.0)
    'reading: 1,200,000 events, 50 %, 600,000 events/s'
    """
    share = f", {100 * events // total_events} %" if total_events else ""
    rate = f", {int(events / seconds):,} {unit}/s" if seconds > 0 else ""
    return f"{what}: {events:,} {unit}{share}{rate}"


def reading_line(what: str, events: int, read_bytes: int, total_bytes: int | None, seconds: float) -> str:
    """Say how far the reading of inputs is: bytes as they are stored.

    >>> reading_line("importing", 1_200_000, 50 << 20, 200 << 20, 2.0)
    'importing: 1,200,000 events, 50.0 MiB, 25 %, 25.0 MiB/s'
    """
    share = f", {min(100 * read_bytes // total_bytes, 100)} %" if total_bytes else ""
    rate = f", {read_bytes / seconds / _MIB:,.1f} MiB/s" if seconds > 0 else ""
    return f"{what}: {counted(events, 'event')}, {read_bytes / _MIB:,.1f} MiB{share}{rate}"
