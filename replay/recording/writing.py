"""Hold what both writers have alike: an output that is complete only when it was finished, and nothing behind a failure."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from replay.recording.files import Output


class Writing(ABC):
    """A recording that is being written. A writer sets the output before anybody sees it."""

    _output: Output
    _failed: bool = False
    """Something was written in part: nothing may follow it."""
    finished: bool = False

    @property
    def name(self) -> str:
        """Name of the target, for messages."""
        return self._output.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.finished:
            return
        try:
            if not self._failed:
                self._save()
        finally:
            self._output.abandon()
        assert kind is not None, "a recording is finished by finish(trailer): what was lost on the way is part of it"

    @abstractmethod
    def _save(self) -> None:
        """Write what is pending, as an error ends the recording."""

    def _assert_open(self) -> None:
        """Hold that something may be written."""
        assert not self.finished, "the recording is finished"
        assert not self._failed, "the recording failed before: nothing may follow"
