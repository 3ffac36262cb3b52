"""Read and write the two ends of a recording: the header record at the front, the trailer record in the END block.

The header record is `[schema_major, schema_minor, [the other fields of the header]]`: the version always stands first and is
never left out, for it says how the rest is to be read. The trailer record is `[blocks before this one, trailer]`.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from replay.errors import DamagedError, EventError, HeaderError, RecordingError
from replay.events import specs
from replay.header import TORN, Counter, Header, Trailer
from replay.recording.codec import value_of_wire, value_to_wire
from replay.recording.fields import misfit
from replay.recording.limits import RECORD_BYTES, keep
from replay.recording.upcast import CURRENT, UPCASTS, Dialect, Upcasts, dialect_of, version_text
from replay.recording.wire import pack, unpack_one
from replay.units import counted

_T = TypeVar("_T")

COUNTERS_MAX: Final = specs(Trailer)["counters"].length_max


@attrs.frozen
class Prefix:
    """What of a file is whole from the front: blocks or lines, the events in them, their bytes; its trailer, if it is whole."""

    pieces: int
    events: int
    size_bytes: int
    trailer: Trailer | None


def as_header_error(work: Callable[[], _T], where: str) -> _T:
    """Return what the work returns; an EventError in it becomes a HeaderError at that place, others get the place."""
    try:
        return work()
    except EventError as error:
        place = f"{where}, {error.where}" if where and error.where else where or error.where
        raise HeaderError(error.found, where=place, expected=error.expected, advice=error.advice) from None
    except RecordingError as error:
        raise (error.at(where) if where else error) from None


def check_schema(header: Header) -> None:
    """Raise HeaderError for a header of another version than the one that is written."""
    found = (header.schema_major, header.schema_minor)
    if found != CURRENT:
        raise HeaderError(version_text(found), where="header", expected=f"{version_text(CURRENT)}: only that is written")


def header_record(header: Header) -> bytes:
    """Return the bytes of the header record; raise HeaderError or LimitError for one that can not be written."""
    check_schema(header)
    raw = pack((*CURRENT, as_header_error(lambda: value_to_wire(Header, header, "header"), "")[2:]))
    keep(RECORD_BYTES, len(raw), "header")
    return raw


def header_of_record(raw: bytes | memoryview, where: str, upcasts: Upcasts = UPCASTS) -> tuple[Header, Dialect]:
    """Return the header, as one of today's, and how to read the events; raise HeaderError or VersionError."""
    record: Any = as_header_error(lambda: unpack_one(raw), where)
    legal = type(record) is tuple and len(record) == 3 and type(record[0]) is type(record[1]) is int and type(record[2]) is tuple
    if not legal:
        raise HeaderError("a header record of another form", where=where, expected="[schema_major, schema_minor, fields]")
    dialect = dialect_of((record[0], record[1]), where, upcasts)
    return as_header_error(lambda: dialect.header_of_wire(record[2]), where), dialect


def trailer_record(trailer: Trailer, blocks: int) -> bytes:
    """Return the bytes of the trailer record; blocks: how many stand before it."""
    raw = pack((blocks, value_to_wire(Trailer, trailer, "trailer")))
    keep(RECORD_BYTES, len(raw), "trailer")
    return raw


def trailer_of_record(raw: bytes | memoryview, blocks: int, events: int, *, newer: bool) -> Trailer:
    """Return the trailer; raise DamagedError unless it counts the blocks and events that were read."""
    record: Any = unpack_one(raw)
    if type(record) is not tuple or len(record) != 2 or type(record[0]) is not int:
        raise misfit("trailer", record, "[blocks, trailer]")
    trailer = value_of_wire(Trailer, record[1], "trailer", newer=newer)
    if (record[0], trailer.events) != (blocks, events):
        raise DamagedError(
            f"an END for {counted(record[0], 'block')} and {counted(trailer.events, 'event')}", expected=f"{blocks} and {events}"
        )
    return trailer


def lossy_trailer(events: int, kind: str, first: str, counters: tuple[Counter, ...] = ()) -> Trailer:
    """Return the trailer of the true prefix of a file: what came after the last whole piece is lost.

    kind: one of CUT_SHORT; first: the place. counters: what a whole END counted, if there is one.
    """
    lost = Counter(kind=kind, count=1, first=first[-300:], severity="lost")
    return Trailer(events=events, counters=(lost, *counters)[:COUNTERS_MAX])


def torn_trailer(events: int, first: str) -> Trailer:
    """Return the trailer of a recording that lacks its end."""
    return lossy_trailer(events, TORN, first)


def with_events(trailer: Trailer, events: int) -> Trailer:
    """Return the trailer with its number of events."""
    return attrs.evolve(trailer, events=events)
