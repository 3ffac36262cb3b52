"""Lay out the payload of an EVENTS block: rows of structural events and frames of hot ones, in order, never mixed.

A segment is a header of 16 bytes (tag, events, bytes of the head, bytes in all), its content, and zeros up to a multiple
of 8. ROWS: the arrays of structural events one after the other. COLUMNS: one frame. Two neighbours never have the same tag.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from replay.errors import EventError
from replay.events import Event, HotEvent
from replay.recording.codec import Wire
from replay.recording.fields import misfit
from replay.recording.frames import decode_frame, encode_frame
from replay.recording.wire import unpack
from replay.runs import Run
from replay.units import counted

ROWS: Final = 1
COLUMNS: Final = 2
LAYOUT: Final = struct.Struct("<B3sIII")
_ZEROS: Final = b"\0\0\0"


def padded(size: int) -> int:
    """Return the size rounded up to a multiple of 8."""
    return size + -size % 8


def _segment(tag: int, events: int, head_bytes: int, content: bytes) -> bytes:
    whole = LAYOUT.pack(tag, _ZEROS, events, head_bytes, len(content)) + content
    return whole.ljust(padded(len(whole)), b"\0")


def rows_segment(rows: Sequence[bytes]) -> bytes:
    """Return the segment of packed structural events."""
    return _segment(ROWS, len(rows), 0, b"".join(rows))


def columns_segment(runs: Sequence[Run], first_event: int) -> bytes:
    """Return the segment of adjacent runs as one frame."""
    head, body = encode_frame(runs, first_event, LAYOUT.size)
    return _segment(COLUMNS, sum(map(len, runs)), len(head), head + body)


def segments_of(raw: bytes | memoryview, events: int) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield (tag, events, bytes of the head, content) of each segment; raise EventError unless they fill the block.

    events: how many the block's header promises.
    """
    view, at, last, total = memoryview(raw), 0, 0, 0
    while at < len(raw):
        if len(raw) - at < LAYOUT.size:
            raise EventError(counted(len(raw) - at, "byte"), where=f"byte {at} of the block", expected="a segment")
        tag, zeros, count, head_bytes, size = LAYOUT.unpack_from(raw, at)
        start, end = at + LAYOUT.size, at + LAYOUT.size + size
        behind = padded(end)
        total += count
        if tag not in {ROWS, COLUMNS} or zeros != _ZEROS or tag == last:
            raise EventError(
                f"a segment with tag {tag} after {last}", where=f"byte {at} of the block", expected="rows or columns in turn"
            )
        if not count or total > events or head_bytes > size or behind > len(raw) or (end != behind and any(view[end:behind])):
            raise EventError(
                f"a segment of {counted(count, 'event')} in {counted(size, 'byte')}",
                where=f"byte {at} of the block",
                expected="one that fits",
            )
        yield tag, count, head_bytes, view[start:end]
        at, last = behind, tag
    if total != events:
        raise EventError(counted(total, "event"), where="block", expected=f"{events}")


def rows_of(content: memoryview, head_bytes: int, count: int) -> list[Wire]:
    """Return the arrays of a ROWS segment."""
    if head_bytes:
        raise EventError(f"a head of {counted(head_bytes, 'byte')}", where="rows", expected="none")
    return unpack(content, count)


def run_of_columns(content: memoryview, head_bytes: int, count: int) -> Run:
    """Return the run of a COLUMNS segment."""
    return decode_frame(content, head_bytes, count, LAYOUT.size)


def structural(event: Event) -> Event:
    """Return the event of a row; raise EventError for a hot one, which belongs in columns."""
    if isinstance(event, HotEvent):
        raise misfit(event.KIND, "a row", "hot events in columns")
    return event
