"""Read JSON Lines recordings, written by machines or by hand.

Blank lines and lines that start with # are skipped. A machine's file ends with its "end" line: without it the recording is
torn. A file whose first line says "hand_written": true needs none: whoever writes by hand does not count events.
There are no checksums here; what makes a line wrong is said with file, line and the nearest right spelling.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from replay.errors import EventError, HeaderError, KvmReplayError, RecordingError, UnknownFormatError
from replay.events import Event
from replay.header import Header, Trailer
from replay.recording.ends import Prefix, as_header_error, torn_trailer
from replay.recording.fields import shown, shown_bytes
from replay.recording.files import Input, Readable
from replay.recording.jsonl_writer import END_KEY, FORMAT_KEY, FORMAT_PREFIX, HAND_WRITTEN_KEY
from replay.recording.limits import LINE_BYTES, LINE_CONTAINERS, RECORDING_EVENTS, keep, over
from replay.recording.named import EVENT_KEY, Named, value_of_named
from replay.recording.opened import Opened
from replay.recording.upcast import UPCASTS, Dialect, Upcasts, dialect_of
from replay.runs import Item, items_of
from replay.units import counted

_EXAMPLE: Final = f'{{"{FORMAT_KEY}": "{FORMAT_PREFIX}1"}}'


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Named:
    named = dict(pairs)
    if len(named) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise EventError(f"key {shown(twice)} twice in one object", expected="each key once")
    return named


def _no_float(text: str) -> Any:
    raise EventError(f"number {shown(text)}", expected="an integer")


DECODER: Final = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_float=_no_float, parse_constant=_no_float)


def parse_object(line: bytes) -> Named:
    """Return the object on a line; raise EventError for anything else, and for duplicate keys and numbers with a point.

    >>> parse_object(b'{"event": "mark", "text": "here"}')
    {'event': 'mark', 'text': 'here'}
    """
    keep(LINE_CONTAINERS, line.count(b"{") + line.count(b"["), "")
    try:
        found = DECODER.decode(line.decode())
    except json.JSONDecodeError as error:
        raise EventError(f"no JSON: {error.msg} at column {error.colno}", expected="an object on one line") from None
    except UnicodeDecodeError as error:
        raise EventError(f"byte 0x{line[error.start]:02x} at column {error.start + 1}", expected="UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise EventError(f"no JSON that can be read ({type(error).__name__})", expected="an object on one line") from None
    if type(found) is not dict:
        raise EventError(shown(found), expected="an object")
    return found


class JsonlReader(Opened):
    """Read a .jsonl recording from a path, "-" or an open binary stream; a `replay.stream.Stream`.

    The first line is read at once: HeaderError, VersionError, UnknownFormatError or UnreadableError come from here.
    upcasts: the table for older versions; another one only in tests.
    """

    def __init__(self, what: Readable | Input, *, upcasts: Upcasts = UPCASTS) -> None:
        self._input = what if isinstance(what, Input) else Input(what)
        self.torn = False
        self._line = 0
        self._events = 0
        self.hand_written = True  # until the first line says otherwise: a first line that is cut is an error
        self._trailer: Trailer | None = None
        self._end_seen: Trailer | None = None
        self._trouble: KvmReplayError | None = None
        self._whole_lines, self._whole_bytes = 0, 0
        self._started = False
        try:
            self._header, self._dialect, self.hand_written = self._read_header(upcasts)
        except BaseException:
            self._input.close()
            raise

    def items(self) -> Iterator[Item]:
        """Yield events, and runs of hot events, in order. Event 0 is the first. All before an error are yielded."""
        assert not self._started, "a recording is read once"
        self._started = True
        try:
            yield from items_of(self._events_before_trouble())
            if self._trouble is not None:
                raise self._trouble
        finally:
            self._trouble = None  # else reader and error would hold each other, and a line, until the next collection
            self._input.close()

    def _events_before_trouble(self) -> Iterator[Event]:
        """Yield events up to an error, which is kept: what waits to become a run must not be lost to it."""
        try:
            yield from self._events_in_order()
        except KvmReplayError as error:
            self._trouble = error

    @property
    def prefix(self) -> Prefix:
        """What is whole from the front, once items() has ended or raised: lines, events, bytes, and the trailer if it is."""
        return Prefix(self._whole_lines, self._events, self._whole_bytes, self._end_seen)

    def warnings(self) -> Sequence[str]:
        """Return what the user should know about the file, beside its events."""
        found = self._newer()
        if self.torn:
            place = f'stops at line {self._line}, before its "{END_KEY}" line'
            found.append(f"{self.name}: torn recording: {place}; {counted(self._events, 'event is', 'events are')} there")
        return found

    # One line at a time.

    def _where(self) -> str:
        return f"{self.name}:{self._line}"

    def _whole(self) -> None:
        """Note that all lines so far are whole."""
        self._whole_lines, self._whole_bytes = self._line, self._input.position

    def _next_line(self) -> bytes:
        """Return the next line that says something, with its line end if it has one; b"" at the end of the file."""
        while True:
            line = self._input.line(LINE_BYTES.most + 1)
            if not line:
                return b""
            self._line += 1
            if len(line) > LINE_BYTES.most:
                raise over(LINE_BYTES, len(line), self._where())
            text = line.strip(b" \t\r\n")
            if text and not text.startswith(b"#"):
                return text if line.endswith(b"\n") or not self._cut(text) else b""

    def _cut(self, text: bytes) -> bool:
        """Say whether a last line without line end is only a part of one, as a recorder that was stopped leaves it."""
        if self.hand_written:
            return False
        try:
            parse_object(text)
        except RecordingError:
            return True
        return False

    def _read_header(self, upcasts: Upcasts) -> tuple[Header, Dialect, bool]:
        text = self._next_line()
        if not text.startswith(b"{"):
            found = f"first line {shown_bytes(text)}" if text else "no first line"
            raise UnknownFormatError(found, where=self.name, expected=f"{_EXAMPLE} in JSON Lines, or a .kvmr")
        named = as_header_error(lambda: parse_object(text), self._where())
        version, hand_written = self._version(named), named.pop(HAND_WRITTEN_KEY, False)
        if type(hand_written) is not bool:
            raise HeaderError(shown(hand_written), where=f"{self._where()}, {HAND_WRITTEN_KEY}", expected="true or false")
        dialect = dialect_of(version, self._where(), upcasts)
        header = as_header_error(lambda: dialect.header_of_named(named), self._where())
        self._whole()
        return header, dialect, hand_written

    def _version(self, named: Named) -> tuple[int, int]:
        said, minor = named.pop(FORMAT_KEY, None), named.pop("schema_minor", 0)
        if type(said) is not str or not said.startswith(FORMAT_PREFIX):
            found = f"no {FORMAT_KEY!r}" if said is None else f"{FORMAT_KEY}: {shown(said)}"
            raise UnknownFormatError(found, where=self._where(), expected=f"{_EXAMPLE} first")
        number = said.removeprefix(FORMAT_PREFIX)
        if not (number.isascii() and number.isdigit() and len(number) < 6 and type(minor) is int and 0 <= minor < 1 << 16):
            raise HeaderError(f"version {shown(said)}, schema_minor {shown(minor)}", where=self._where(), expected=_EXAMPLE)
        if "schema_major" in named:
            raise HeaderError("schema_major", where=self._where(), expected=f"it in {_EXAMPLE} only")
        return int(number), minor

    def _events_in_order(self) -> Iterator[Event]:
        while True:
            text = self._next_line()
            if not text:
                self._stop()
                return
            try:
                named = parse_object(text)
                if END_KEY in named and EVENT_KEY not in named:
                    self._end(named)
                    return
                keep(RECORDING_EVENTS, self._events + 1, "")
                event = self._dialect.event_of_named(named)
            except RecordingError as error:
                raise self._placed(error) from None
            self._events += 1
            self._whole()
            yield event

    def _placed(self, error: RecordingError) -> KvmReplayError:
        return error.at(self._where())

    def _stop(self) -> None:
        """Note the end of a file without an end line: as it should be when people wrote it, torn otherwise."""
        self.torn = not self.hand_written
        if not self.torn:
            self._whole()
        self._trailer = (
            torn_trailer(self._events, f"{Path(self.name).name}:{self._line}") if self.torn else Trailer(events=self._events)
        )

    def _end(self, named: Named) -> None:
        if len(named) != 1:
            raise EventError(f"keys {shown(list(named))}", expected=f"{END_KEY!r} alone on its line")
        trailer = value_of_named(Trailer, named[END_KEY], END_KEY, newer=bool(self._dialect.newer))
        if trailer.events != self._events:
            raise EventError(
                counted(trailer.events, "event"), where=f"{END_KEY}.events", expected=f"{self._events}, as many as there are"
            )
        self._end_seen = trailer
        self._whole()
        if self._next_line():
            raise EventError("a line after the end line", expected="none")
        self._whole()
        self._trailer = trailer
