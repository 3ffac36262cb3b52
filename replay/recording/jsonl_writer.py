"""Write JSON Lines: the same recording for people, editors and line tools; one event a line.

    {"kvm-replay": "recording/1", ...header}
    {"event": "vm.create", "vm": 0, ...}
    {"end": {"events": 1, ...trailer}}

Only fields that do not hold their default are written, in the order of docs/events.md; numbers are decimal integers.
"""

import json
from typing import Any, Final

from replay.errors import EventError
from replay.header import Header, Trailer
from replay.recording.ends import as_header_error, check_schema, with_events
from replay.recording.files import PART_SUFFIX, Announce, Output, Writable
from replay.recording.limits import LINE_BYTES, LINE_CONTAINERS, RECORDING_EVENTS, keep
from replay.recording.named import Named, event_to_named, value_to_named
from replay.recording.writing import Writing
from replay.runs import Item, Run

FORMAT_KEY: Final = "kvm-replay"
FORMAT_PREFIX: Final = "recording/"
HAND_WRITTEN_KEY: Final = "hand_written"
END_KEY: Final = "end"
_FLUSH_BYTES: Final = 1 << 16


def header_to_named(header: Header) -> Named:
    """Return the object of the first line.

    >>> header_to_named(Header(title="boot"))
    {'kvm-replay': 'recording/1', 'title': 'boot'}
    """
    check_schema(header)
    named = as_header_error(lambda: value_to_named(Header, header, "header"), "")
    return {FORMAT_KEY: f"{FORMAT_PREFIX}{header.schema_major}", **named}


def line_of(named: Any) -> bytes:
    """Return an object as one line of JSON: ASCII, no line end inside, keys in their order."""
    return json.dumps(named, ensure_ascii=True, allow_nan=False).encode() + b"\n"


class JsonlWriter(Writing):
    """Write one recording as JSON Lines; the interface of `Writer`, for a path or an open binary stream.

    While it is written the file is NAME.part; without its last line a recording counts as torn. hand_written: say in the
    first line that people will edit the file, so that the last line is no longer needed.
    """

    def __init__(
        self,
        target: Writable,
        header: Header,
        *,
        overwrite: bool = False,
        durable: bool = False,
        announce: Announce | None = None,
        part_suffix: str = PART_SUFFIX,
        hand_written: bool = False,
    ) -> None:
        first = header_to_named(header)
        if hand_written:
            first[HAND_WRITTEN_KEY] = True
        self.events = 0
        self.written_events = 0
        self._announce = announce
        self._pending = bytearray(line_of(first))
        self._output = Output(target, overwrite=overwrite, durable=durable, part_suffix=part_suffix)

    def _save(self) -> None:
        self._flush()

    def write(self, item: Item) -> None:
        """Append one structural event, or each event of a run."""
        self._assert_open()
        for event in item.events() if isinstance(item, Run) else (item,):
            try:
                line = line_of(event_to_named(event))
            except EventError as error:
                raise error.at(f"event {self.events}") from None
            keep(LINE_BYTES, len(line), f"event {self.events}, {event.KIND}", "split it into several events")
            keep(LINE_CONTAINERS, line.count(b"{") + line.count(b"["), f"event {self.events}, {event.KIND}")
            keep(RECORDING_EVENTS, self.events + 1, self.name)
            self._pending += line
            self.events += 1
            if len(self._pending) >= _FLUSH_BYTES:
                self._flush()

    def flush(self) -> None:
        """Hand all lines so far to the system; with durable wait for the disk. The price is one write: no byte changes."""
        self._assert_open()
        self._flush()

    def finish(self, trailer: Trailer) -> None:
        """Write the last line and give the file its name; the trailer's count of events is set here."""
        self._assert_open()
        named = value_to_named(Trailer, with_events(trailer, self.events), "trailer")
        self._pending += line_of({END_KEY: named})
        self._flush()
        self._output.commit()
        self.finished = True

    def _flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        self._failed = True  # until all of it is written: after half a line nothing may follow
        self._output.write(data)
        self._failed = False
        if self._announce is not None and self.events > self.written_events:
            self._announce(self.events)
        self.written_events = self.events
