"""End in good order when the system asks for it: SIGTERM and SIGHUP unwind the verb like an interruption does.

Without this the program would end at once, and whatever it was writing would stay half written without a word. SIGKILL can not
be met by anyone: after it a NAME.part stays.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

NAMES: Final = ("SIGTERM", "SIGHUP")


class StoppedError(BaseException):
    """A signal asked the program to end; like KeyboardInterrupt no error that anything but the frame may catch."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status, as shells give it to a process that a signal ended."""
        return 128 + self.number


def _numbers() -> list[int]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _stop(number: int, _frame: FrameType | None) -> None:
    for other in _numbers():
        signal.signal(other, signal.SIG_IGN)  # whoever asks twice must not stop the cleaning up
    raise StoppedError(number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise StoppedError for the signals inside, where they would end the program; those ignored (nohup) stay ignored."""
    before: dict[int, signal.Handlers] = {}
    with contextlib.suppress(ValueError):  # not the main thread: its owner decides
        for number in _numbers():
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _stop)
                before[number] = signal.SIG_DFL
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
