"""Show how far a long job is, on one line that rewrites itself; the only place of the project that looks at the clock.

Plain carriage returns and one erase sequence: a progress library would cost more to import than most recordings to read.
"""

import time
from collections.abc import Iterable, Iterator, Sized
from typing import Final, TextIO, TypeVar

_Item = TypeVar("_Item")
INTERVAL_SECONDS: Final = 0.2
ERASE_LINE: Final = "\r\x1b[K"


class Progress:
    """Count events as they go by; draws nothing before the first interval, so short jobs stay silent."""

    def __init__(self, what: str, stream: TextIO | None) -> None:
        self._what = what
        self._stream = stream
        self._started = time.monotonic()
        self._drawn = self._started
        self._dirty = False
        self.events = 0

    @property
    def live(self) -> bool:
        """Whether a line is shown at all."""
        return self._stream is not None

    def over(self, items: Iterable[_Item], *, total_events: int | None = None) -> Iterator[_Item]:
        """Yield the items and count the events in them: a run counts its length, anything else one."""
        try:
            for item in items:
                yield item
                self.events += len(item) if isinstance(item, Sized) else 1
                if self._stream is not None:
                    self._tick(total_events)
        finally:
            self._erase()

    def _tick(self, total_events: int | None) -> None:
        now = time.monotonic()
        if now - self._drawn < INTERVAL_SECONDS or self._stream is None:
            return
        self._drawn, self._dirty = now, True
        self._stream.write(ERASE_LINE + progress_line(self._what, self.events, total_events, now - self._started))
        self._stream.flush()

    def _erase(self) -> None:
        if self._dirty and self._stream is not None:
            self._stream.write(ERASE_LINE)
            self._stream.flush()
            self._dirty = False


def progress_line(what: str, events: int, total_events: int | None, seconds: float) -> str:
    """Say how far a job is.

    >>> progress_line("reading", 1_200_000, 2_400_000, 2.0)
    'reading: 1,200,000 events, 50 %, 600,000 events/s'
    """
    share = f", {100 * events // total_events} %" if total_events else ""
    rate = f", {int(events / seconds):,} events/s" if seconds > 0 else ""
    return f"{what}: {events:,} events{share}{rate}"
