"""Hold what both readers have alike: an open input, its header, and the end of the two."""

from types import TracebackType
from typing import Self

from replay.header import Header
from replay.recording.files import Input
from replay.recording.upcast import Dialect


class Opened:
    """A recording that is open for reading. A reader sets the three fields before anybody sees it."""

    _input: Input
    _header: Header
    _dialect: Dialect

    @property
    def name(self) -> str:
        """Name of the file, as it was given."""
        return self._input.name

    @property
    def is_file(self) -> bool:
        """Whether it was opened by the name of a file, which can be opened again."""
        return self._input.is_file

    @property
    def header(self) -> Header:
        """The header, brought up to the present schema version."""
        return self._header

    @property
    def schema_version(self) -> tuple[int, int]:
        """Schema version of the file itself."""
        return self._dialect.version

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; items() does so at its end."""
        self._input.close()
