"""Read a recording block by block; every byte is held against a checksum, a chain, a number and the one canonical form.

Three verdicts, never mixed: whole (END was reached and counts what was read), torn (the file stops before END, on or inside
a block: what was yielded is a true prefix, `torn` says so and the trailer counts the loss), damaged (DamagedError or
EventError: bytes are not what the writer wrote; what was yielded before is a true prefix as well).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from replay.errors import DamagedError, HeaderError, KvmReplayError, RecordingError
from replay.header import Header, Trailer
from replay.recording.block_map import BlockPlace
from replay.recording.blocks import (
    END,
    EVENTS,
    HEADER,
    KIND_NAMES,
    LAYOUT,
    MAGIC_LAYOUT,
    BlockHeader,
    chain_start,
    check_kind,
    check_payload,
    decode_payload,
    parse_block_header,
    parse_magic,
)
from replay.recording.ends import Prefix, header_of_record, torn_trailer, trailer_of_record
from replay.recording.files import Input, Readable, Room
from replay.recording.opened import Opened
from replay.recording.segments import ROWS, rows_of, run_of_columns, segments_of, structural
from replay.recording.upcast import UPCASTS, Dialect, Upcasts
from replay.runs import Item
from replay.units import counted

Raw = bytes | memoryview

_LARGE_BYTES: Final = 1 << 14
"""Smaller payloads are not worth the care for memory that is used again."""


class KvmrReader(Opened):
    """Read a .kvmr recording from a path, "-" or an open binary stream; a `replay.stream.Stream`.

    The header is read at once: HeaderError, VersionError, DamagedError or UnreadableError come from here. items() may be
    called once; memory is one block at a time. upcasts: the table for older versions; another one only in tests.
    """

    def __init__(self, what: Readable | Input, *, upcasts: Upcasts = UPCASTS) -> None:
        self._input = what if isinstance(what, Input) else Input(what)
        self.torn = False
        self._block = 0
        self._block_at = 0
        self._events = 0
        self._skipped: list[int] = []
        self._may_compress = False
        self._room = Room()
        self._trailer: Trailer | None = None
        self._end_seen: Trailer | None = None
        self._started = False
        try:
            self._previous = self._read_magic()
            self._header, self._dialect = self._read_header(upcasts)
        except BaseException:
            self._input.close()
            raise
        self._may_compress = self._header.compression == "zlib"

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order. Event 0 is the first."""
        assert not self._started, "a recording is read once"
        self._started = True
        try:
            while self._trailer is None:
                yield from self._next_block()
        finally:
            self._input.close()

    def skip_to(self, place: BlockPlace) -> None:
        """Let items() begin with a block of this file's `BlockMap`: its header, chain and payload are checked as ever."""
        assert not self._started, "a recording is read once"
        self._input.seek(place.at)
        self._block, self._events, self._previous = place.number, place.first_event, place.previous

    @property
    def prefix(self) -> Prefix:
        """What is whole from the front, once items() has ended or raised: blocks, events, bytes, and the trailer if it is."""
        return Prefix(self._block, self._events, self._block_at, self._end_seen)

    def warnings(self) -> Sequence[str]:
        """Return what the user should know about the file, beside its events."""
        kinds = ", ".join(f"0x{kind:02x}" for kind in self._skipped)
        found = [f"{self.name}: blocks of kind {kinds} were passed over: a newer release wrote them"] if kinds else []
        found += self._newer()
        if self.torn:
            place = f"stops at byte {self._input.position}, before its END"
            found.append(f"{self.name}: torn recording: {place}; {counted(self._events, 'event is', 'events are')} there")
        return found

    # One block at a time.

    def _where(self) -> str:
        return f"{self.name}, block {self._block} at byte {self._block_at}"

    def _damaged(self, error: RecordingError) -> KvmReplayError:
        """Return the error with its place, and with advice to save what is whole."""
        placed = error.at(self._where())
        if not placed.advice and self._block:
            placed = type(placed)(placed.found, where=placed.where, expected=placed.expected, advice=self._advice())
        return placed

    def _advice(self) -> str:
        if not self._events:
            return "no event before it is whole"
        return f"`kvm-replay recover {self.name}` saves what is whole before it, {self._events} event{'s' * (self._events != 1)}"

    def _read_magic(self) -> int:
        magic = self._input.read(MAGIC_LAYOUT.size)
        parse_magic(magic, self.name)
        return chain_start(magic)

    def _read_header(self, upcasts: Upcasts) -> tuple[Header, Dialect]:
        found = self._read_block()
        if found is None:
            raise HeaderError(
                "the file stops inside its header", where=self.name, expected="a header", advice="there is nothing to recover"
            )
        block, raw = found
        if block.kind != HEADER:
            raise HeaderError(f"a block of kind {block.kind}", where=self._where(), expected="HEADER first")
        header = header_of_record(raw, self._where(), upcasts)
        self._block += 1
        return header

    def _read_block(self) -> tuple[BlockHeader, Raw] | None:
        """Return the next block and its raw bytes; None where the file stops before its end."""
        self._block_at = self._input.position
        head = self._input.read(LAYOUT.size)
        if len(head) < LAYOUT.size:
            return None
        try:
            block = parse_block_header(head, self._previous, self._events)
            known = check_kind(block)
            payload = self._payload(block.payload_bytes)
            if len(payload) < block.payload_bytes:
                return None
            check_payload(block, payload)
            raw = decode_payload(block, payload, may_compress=self._may_compress and block.kind == EVENTS) if known else b""
        except RecordingError as error:
            raise self._damaged(error) from None
        self._previous = block.checksum
        return block, raw

    def _payload(self, size: int) -> Raw:
        """Return the payload of a block, less of it where the file stops."""
        if size < _LARGE_BYTES:
            return self._input.read(size)
        room = self._room.take(size)
        return room[: self._input.read_into(room)].toreadonly()

    def _next_block(self) -> Sequence[Item]:
        """Return the items of the next block; none of one without events, and at the end, where the trailer is known."""
        found = self._read_block()
        if found is None:
            self.torn = True
            self._trailer = torn_trailer(self._events, f"{Path(self.name).name}, block {self._block} at byte {self._block_at}")
            return ()
        block, raw = found
        if block.kind == END:
            self._end(raw)
            return ()
        if block.kind == HEADER:
            raise self._damaged(DamagedError("a second HEADER", expected="one"))
        items: Sequence[Item] = ()
        if block.kind not in KIND_NAMES:
            self._skipped += [] if block.kind in self._skipped else [block.kind]
        else:
            items = self._events_of(block, raw)
        self._block += 1
        return items

    def _end(self, raw: Raw) -> None:
        try:
            trailer = trailer_of_record(raw, self._block, self._events, newer=bool(self._dialect.newer))
        except RecordingError as error:
            raise self._damaged(error) from None
        self._block += 1
        self._block_at = self._input.position
        self._end_seen = trailer
        if self._input.read(1):
            raise self._damaged(DamagedError("bytes after the END block", expected="the end of the file"))
        self._trailer = trailer

    def _events_of(self, block: BlockHeader, raw: Raw) -> list[Item]:
        """Return the items of a block, all of them checked before the first is yielded."""
        items: list[Item] = []
        number, event_of = self._events, self._dialect.reader()
        try:
            for tag, count, head_bytes, content in segments_of(raw, block.events):
                try:
                    if tag != ROWS:
                        items.append(run_of_columns(content, head_bytes, count))
                        number += count
                        continue
                    for row in rows_of(content, head_bytes, count):
                        items.append(structural(event_of(row)))
                        number += 1
                except RecordingError as error:
                    raise error.at(f"event {number}") from None
        except RecordingError as error:
            raise self._damaged(error) from None
        self._events += block.events
        return items
