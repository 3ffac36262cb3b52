"""Take lines of strace that say what was said before, without reading them again: KVM_RUN is nearly all of a long recording."""

from typing import Final, Protocol

WORDS_MAX: Final = 1 << 14
"""Calls, and beginnings of lines, that are remembered."""
_IOCTL: Final = " ioctl("
_US_DIGITS: Final = 6


class Quiet(Protocol):
    """Who takes ioctls that succeeded and were read before."""

    def __call__(self, tid: int, args: str, count: int = 1, /) -> object:
        """Take so many, by thread and arguments; None: they need a look."""
        ...


class QuietLines:
    """Takes lines of ioctls that were read before, but for their times, without reading them again.

    quiet: who takes such a call. Only lines as -f, -o and -ttt make them are remembered: thread, time, call.
    """

    def __init__(self, quiet: Quiet) -> None:
        self._quiet = quiet
        self._begins: dict[str, int] = {}
        self._calls: dict[str, str] = {}

    def take(self, line: str) -> bool:
        """Take a line, False when it has to be read."""
        at = line.find(_IOCTL)
        args = self._calls.get(line[at:])
        if args is None:
            return False
        tid = self._begins.get(line[: at - _US_DIGITS])
        return tid is not None and line[at - _US_DIGITS : at].isdecimal() and self._quiet(tid, args) is not None

    def learn(self, line: str, tid: int, args: str) -> None:
        """Remember a line that has a time."""
        at = line.find(_IOCTL)
        for known in (self._begins, self._calls):
            if len(known) >= WORDS_MAX:
                known.clear()
        self._begins[line[: at - _US_DIGITS]] = tid
        self._calls[line[at:]] = args
