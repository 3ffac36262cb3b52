"""Read a recording to its end for the sake of its soundness alone, and count what lies behind the place where that ends.

Nothing behind the first damage is ever taken for true. But block headers have checksums of their own, so those that are whole
there still tell how many events there were: only for the report.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from replay.errors import DamagedError, EventError, KvmReplayError, LimitError, RecordingError, TornError
from replay.recording.blocks import END, LAYOUT, BlockHeader, own_header
from replay.recording.ends import Prefix
from replay.recording.files import Readable
from replay.recording.jsonl_reader import JsonlReader, parse_object
from replay.recording.jsonl_writer import END_KEY
from replay.recording.limits import LINE_BYTES
from replay.recording.named import EVENT_KEY
from replay.recording.open import open_kept
from replay.recording.reader import KvmrReader
from replay.runs import Item
from replay.soundness import AT_LEAST, DAMAGED, EXACT, REFUSED, SOUND, TEXT_MAX, TORN, UNKNOWN, Loss, Soundness

_CHUNK_BYTES: Final = 1 << 20
_HEADER_START: Final = re.compile(rb"(?=[\x01-\x03\x80-\xff][\x00\x01]\x00\x00)")
"""Where a block header may start: kind, flags, reserved."""

Reader = KvmrReader | JsonlReader


def verify(what: Readable) -> Soundness:
    """Return what becomes of reading a recording: every checksum, the chain, numbers, counts, each event, END.

    Never raises for what the input holds, nor for one that can not be read. Cost: that of reading it; behind a tear or damage
    once more what is there.
    """
    try:
        reader = open_kept(what)
    except KvmReplayError as error:
        return unopened(what, error)
    with reader:
        trouble = read_through(reader, lambda _item: None)
        return soundness(reader, what, trouble)


def read_through(reader: Reader, take: Callable[[Item], None]) -> KvmReplayError | None:
    """Hand over each item; return the error that ended the reading, None at its end. Errors of `take` are raised."""
    items = reader.items()
    while True:
        try:
            item = next(items, None)
        except KvmReplayError as error:
            error.__traceback__ = error.__context__ = None  # they hold all that was at hand, such as a long line
            return error
        if item is None:
            return None
        take(item)


def state_of(error: KvmReplayError | None, *, torn: bool) -> str:
    """Return the state of a recording whose reading ended with an error or without one.

    >>> state_of(None, torn=True), state_of(EventError("found"), torn=False), state_of(RecordingError("found"), torn=False)
    ('torn', 'damaged', 'refused')
    """
    if error is None:
        return TORN if torn else SOUND
    return DAMAGED if isinstance(error, DamagedError | EventError | LimitError) else REFUSED


def unopened(what: Readable, error: KvmReplayError) -> Soundness:
    """Return the answer for what is not even open: no header, no recording, not readable."""
    state = DAMAGED if isinstance(error, DamagedError) else REFUSED
    form = "kvmr" if isinstance(error, DamagedError) else ""
    return Soundness(name=_name(what), form=form, state=state, code=error.code, trouble=_cut(str(error)))


def soundness(reader: Reader, what: Readable, error: KvmReplayError | None) -> Soundness:
    """Return the answer for a reader that has been read through, as `read_through` says."""
    prefix, state, kvmr = reader.prefix, state_of(error, torn=reader.torn), isinstance(reader, KvmrReader)
    remarks = list(reader.warnings())
    if reader.torn:
        error = TornError(remarks.pop())
    return Soundness(
        name=_name(what),
        form="kvmr" if kvmr else "jsonl",
        state=state,
        schema_version=".".join(map(str, reader.schema_version)),
        checksums=kvmr,
        ended=prefix.trailer is not None,
        pieces=prefix.pieces,
        events=prefix.events,
        size_bytes=prefix.size_bytes,
        code="" if error is None else error.code,
        trouble="" if error is None else _cut(str(error)),
        loss=None if error is None else loss_behind(what, prefix, kvmr=kvmr),
        recorded_losses=0 if prefix.trailer is None else prefix.trailer.total("lost"),
        remarks=_cut("; ".join(remarks)),
    )


def loss_behind(what: Readable, prefix: Prefix, *, kvmr: bool) -> Loss:
    """Return what a file has behind its prefix; of an input that can be read only once, nothing is known."""
    if not isinstance(what, str | os.PathLike) or what == "-" or not Path(what).is_file():
        return Loss()
    try:
        with Path(what).open("rb") as stream:
            stream.seek(prefix.size_bytes)
            return _blocks_behind(stream, prefix) if kvmr else _lines_behind(stream, prefix)
    except OSError:
        return Loss()


@attrs.define
class _Behind:
    """What has been seen behind the prefix so far."""

    size_bytes: int = 0
    pieces: int = 0
    events: int = 0
    end_at: int = -1

    def loss(self, prefix: Prefix) -> Loss:
        """Return the loss. Behind a whole END stands nothing of this recording: what is there tells nothing of it."""
        exact = self.end_at == self.size_bytes
        known = (exact or self.events > prefix.events) and prefix.trailer is None
        return Loss(
            size_bytes=self.size_bytes,
            pieces=self.pieces,
            events=max(0, self.events - prefix.events) if known else None,
            counted=(EXACT if exact else AT_LEAST) if known else UNKNOWN,
        )


def _blocks_behind(stream: BinaryIO, prefix: Prefix) -> Loss:
    behind = _Behind()
    for at, header in _headers(stream, behind):
        behind.pieces += 1
        behind.events = max(behind.events, header.first_event + header.events)
        if header.kind == END:
            behind.end_at = at + LAYOUT.size + header.payload_bytes
    return behind.loss(prefix)


def _headers(stream: BinaryIO, behind: _Behind) -> Iterator[tuple[int, BlockHeader]]:
    """Yield (place, header) of each whole block header, wherever it stands; count the bytes in `behind`."""
    start, window = 0, b""
    while True:
        chunk = stream.read(_CHUNK_BYTES)
        behind.size_bytes += len(chunk)
        window += chunk
        last = len(window) - LAYOUT.size
        for match in _HEADER_START.finditer(window, 0, max(0, last + 4)):
            at = match.start()
            header = own_header(window[at : at + LAYOUT.size]) if at <= last else None
            if header is not None:
                yield start + at, header
        if not chunk:
            return
        kept = min(len(window), LAYOUT.size - 1)
        start += len(window) - kept
        window = window[len(window) - kept :]


def _lines_behind(stream: BinaryIO, prefix: Prefix) -> Loss:
    behind, events = _Behind(), 0
    while line := stream.readline(LINE_BYTES.most + 1):
        behind.size_bytes += len(line)
        behind.pieces += 1
        try:
            named = parse_object(line) if b"{" in line else {}
        except RecordingError:
            continue
        events += EVENT_KEY in named
        counts = named.get(END_KEY)
        if isinstance(counts, dict) and type(counts.get("events")) is int and counts["events"] >= prefix.events:
            behind.events, behind.end_at = counts["events"], behind.size_bytes
    if behind.end_at < 0:
        behind.events = prefix.events + events
    return behind.loss(prefix)


def _name(what: Readable) -> str:
    name = os.fspath(what) if isinstance(what, str | os.PathLike) else str(getattr(what, "name", "stream"))
    return _cut("standard input" if name == "-" else name)


def _cut(text: str) -> str:
    """Return text that fits a report and that any stream can take."""
    return text[:TEXT_MAX].encode(errors="backslashreplace").decode()[:TEXT_MAX]
