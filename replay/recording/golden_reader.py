"""Read a golden file as the recording that it lists, so that a case that people write by hand needs no other file.

What it says of answers (below `compare:` and `check:`) is passed over here; `replay.golden` holds those against the model.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from replay.errors import EventError, GoldenError, KvmReplayError, RecordingError, UnknownFormatError
from replay.events import Event
from replay.header import Header, Trailer
from replay.recording.ends import header_record, trailer_record
from replay.recording.event_lines import event_of_line
from replay.recording.files import Input, Readable
from replay.recording.golden_lines import (
    COUNTER,
    EVENTS,
    FIRST_LINE,
    NOT_LISTED,
    PREFIX,
    QUESTIONS,
    Head,
    Line,
    event_at,
    known_label,
    said,
)
from replay.recording.limits import LINE_BYTES, LINE_CONTAINERS, RECORDING_EVENTS, VM_NUMBER, keep, over
from replay.recording.opened import Opened
from replay.recording.upcast import UPCASTS, Dialect, dialect_of
from replay.runs import Item, items_of

SIGNATURE: Final = PREFIX.encode()


def is_golden(start: bytes) -> bool:
    """Say whether a file that starts so is a golden file."""
    return start.startswith(SIGNATURE)


class GoldenReader(Opened):
    """Read the events of a golden file from a path, "-" or an open binary stream; a `replay.stream.Stream`.

    All before the events is read at once: GoldenError, EventError or UnreadableError come from here. A text has no end that
    could be missing: it is never torn.
    """

    torn = False

    def __init__(self, what: Readable | Input) -> None:
        self._input = what if isinstance(what, Input) else Input(what)
        self._dialect: Dialect = dialect_of((1, 0), "", UPCASTS)
        self._head = Head()
        self._trailer: Trailer | None = None
        self._number = 0
        try:
            self._lines = said(self._texts())
            self._read_head()
            self._header: Header = self._head.header
            self._writable(lambda: header_record(self._header))
        except BaseException:
            self._input.close()
            raise

    def _texts(self) -> Iterator[str]:
        while raw := self._input.line(LINE_BYTES.most + 1):
            self._number += 1
            if len(raw) > LINE_BYTES.most:
                raise over(LINE_BYTES, len(raw), self._where(self._number))
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                raise GoldenError(
                    f"byte 0x{raw[error.start]:02x} at column {error.start + 1}",
                    where=self._where(self._number),
                    expected="UTF-8",
                ) from None

    def _where(self, number: int) -> str:
        return f"{self.name}:{number}"

    def _read_head(self) -> None:
        first = next(self._lines, None)
        if first is None or first.number != 1 or not first.text.startswith(PREFIX):
            raise UnknownFormatError("a first line of another kind", where=self.name, expected=FIRST_LINE)
        if first.text != FIRST_LINE:
            raise GoldenError(f"version {first.text.removeprefix(PREFIX)[:20]!r}", where=self._where(1), expected=FIRST_LINE)
        for line in self._lines:
            if self._take(line):
                return
        raise GoldenError("no events", where=self.name, expected="a line 'events:' and the events below it, behind two spaces")

    def _take(self, line: Line) -> bool:
        """Take a line of the head; say whether it is the one that the events stand below."""
        try:
            label, value = known_label(line)
            if line.indent or label in QUESTIONS:
                raise GoldenError(f"a line {line.text[:60]!r}", expected="the line 'events:' before it")
            if label == EVENTS and value.endswith(NOT_LISTED):
                advice = f"give {self._head.recording} itself" if self._head.recording else "list them"
                raise GoldenError(f"events that are {NOT_LISTED}", expected="the events", advice=advice)
            self._head.take(label, value)
        except RecordingError as error:
            raise error.at(self._where(line.number)) from None
        return label == EVENTS

    def items(self) -> Iterator[Item]:
        """Yield events, and runs of hot events, in order. Event 0 is the first."""
        try:
            yield from items_of(self._events())
        finally:
            self._input.close()

    def _events(self) -> Iterator[Event]:
        events = 0
        for line in self._lines:
            try:
                if not line.indent:
                    if self._counter(line):
                        continue
                    break
                keep(RECORDING_EVENTS, events + 1, "")
                keep(LINE_CONTAINERS, line.text.count("{") + line.text.count("["), "")
                event = event_at(event_of_line(line.text), events)
                keep(VM_NUMBER, getattr(event, "vm", None) or 0, "")
            except RecordingError as error:
                raise self._placed(error, line) from None
            events += 1
            yield event
        self._trailer = trailer = Trailer(events=events, counters=tuple(self._head.counters))
        self._writable(lambda: trailer_record(trailer, 0))

    def _writable(self, written: Callable[[], bytes]) -> None:
        """Raise for what no recording can hold: texts that are too long, too many of a kind."""
        try:
            written()
        except RecordingError as error:
            raise error.at(self.name) from None

    def _placed(self, error: RecordingError, line: Line) -> KvmReplayError:
        return error.at(self._where(line.number))

    def _counter(self, line: Line) -> bool:
        """Take a counter behind the events; say whether the line was one."""
        label, value = known_label(line)
        if label not in {COUNTER, *QUESTIONS}:
            raise EventError(f"a line {line.text[:60]!r}", expected="an event behind two spaces, or what comes after the events")
        if label == COUNTER:
            self._head.take(label, value)
        return label == COUNTER

    def warnings(self) -> Sequence[str]:
        """Return no warnings."""
        return ()
