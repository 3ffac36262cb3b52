"""Turn strace's time stamps into integer nanoseconds, without rounding, whatever option made them."""

from typing import Final

NS_PER_SECOND: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * NS_PER_SECOND
_EPOCH_SECONDS_MIN: Final = 100_000_000
_SCALE: Final[tuple[int, ...]] = (1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1)
_SECONDS_DIGITS_MAX: Final = 11
TIME_NS_MAX: Final = (1 << 63) - 1


def decimal_ns(text: str) -> int:
    """Return seconds with up to nine decimals as nanoseconds; more decimals are cut off, no time is beyond 63 bits.

    >>> decimal_ns("1795343273.565176002"), decimal_ns("0.000326"), decimal_ns("3")
    (1795343273565176002, 326000, 3000000000)
    """
    whole, _, part = text.partition(".")
    part = part[:9]
    time_ns = int(whole[:_SECONDS_DIGITS_MAX]) * NS_PER_SECOND + (int(part) * _SCALE[len(part)] if part else 0)
    return min(time_ns, TIME_NS_MAX)


class Stamps:
    """Convert the stamps of one file; the first one tells which clock they are.

    clock: "none" until the first stamp; then "realtime" (-ttt), "time of day" (-t, -tt: from midnight of the first day, days
    are counted on) or "relative" (-r: from the first line). eager: `advance` wants the stamp of every line.
    """

    def __init__(self) -> None:
        self.clock = "none"
        self.relative = False
        self.eager = True
        self._day_ns = 0
        self._last_ns = 0

    def ns(self, text: str) -> int | None:
        """Return the time of a stamp that `advance` had first, while `eager`; of a relative one, the time come to.

        None for a stamp of another clock than the first one's.
        """
        if (":" in text) != (self.clock == "time of day"):
            return None
        if self.clock == "realtime":
            return decimal_ns(text)
        return self._last_ns if self.relative else self._of_day(text)

    def advance(self, text: str) -> None:
        """Add the stamp of -r, of every line: it counts from the line before; the first one tells the clock only."""
        if self.clock == "none":
            self._begin(text)
            self.eager = self.relative
        elif ":" not in text:
            self._last_ns = min(self._last_ns + decimal_ns(text), TIME_NS_MAX)

    @staticmethod
    def duration_ns(text: str) -> int:
        """Return the duration of -T."""
        return decimal_ns(text)

    def _begin(self, text: str) -> None:
        if ":" in text:
            self.clock = "time of day"
        elif decimal_ns(text) >= _EPOCH_SECONDS_MIN * NS_PER_SECOND:
            self.clock = "realtime"
        else:
            self.clock, self.relative = "relative", True

    def _of_day(self, text: str) -> int:
        hours, minutes, seconds = text.split(":")
        time_ns = self._day_ns + (int(hours) * 60 + int(minutes)) * 60 * NS_PER_SECOND + decimal_ns(seconds)
        if time_ns < self._last_ns - _DAY_NS // 2:  # midnight passed
            self._day_ns += _DAY_NS
            time_ns += _DAY_NS
        self._last_ns = time_ns
        return time_ns
