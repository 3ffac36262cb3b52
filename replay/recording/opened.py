"""Hold what the readers have alike: an open input, its header, its trailer, and the end of them all."""

from types import TracebackType
from typing import Self

from replay.header import Header, Trailer
from replay.recording.files import Input
from replay.recording.upcast import Dialect


class Opened:
    """A recording that is open for reading. A reader sets the fields before anybody sees it, the trailer at its end."""

    _input: Input
    _header: Header
    _dialect: Dialect
    _trailer: Trailer | None

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

    def trailer(self) -> Trailer:
        """Return what the end says; of a torn recording, that events are lost."""
        assert self._trailer is not None, "the trailer is known when items() is exhausted"
        return self._trailer

    def _newer(self) -> list[str]:
        """Return the warning about a file of a newer release, none for any other."""
        dialect = self._dialect.newer
        return [f"{self.name}: written in {dialect}, which is newer: what is new in it was passed over"] if dialect else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; items() does so at its end."""
        self._input.close()
