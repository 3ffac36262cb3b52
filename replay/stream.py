"""Say what a readable recording is, whatever it is kept in: a header, items in order, and a trailer at the end.

The container reader, the JSON Lines reader and every importer give the same shape, so that each verb takes any of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import attrs

from replay.header import Header, Trailer
from replay.runs import Item


class Stream(Protocol):
    """A recording that is read once, from front to back, in memory that does not grow with it."""

    @property
    def header(self) -> Header:
        """What is known before the first event."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order; may be called once. Raises RecordingError or SourceError for bad input."""
        ...

    def trailer(self) -> Trailer:
        """Return what only the end knows; call it after items() is exhausted."""
        ...

    def warnings(self) -> Sequence[str]:
        """Return sentences for stderr about what was met so far (a torn end, a lossy option); none for a clean one."""
        ...


@attrs.define
class MemoryStream:
    """A stream over items that are in memory: for tests, generated recordings and the API."""

    header: Header
    _items: Iterable[Item]
    _trailer: Trailer = attrs.field(factory=Trailer)

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        return iter(self._items)

    def trailer(self) -> Trailer:
        """Return the trailer given at the start."""
        return self._trailer

    def warnings(self) -> Sequence[str]:
        """Return no warnings."""
        return ()
