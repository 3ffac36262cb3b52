"""Find the blocks of a recording by their headers alone, so that a reader can start at any event.

A header is 36 bytes, has its own checksum and carries that of the header before it and of its payload. So walking the headers
without the payloads (4 us a block of up to 16384 events) gives the place of every event, and shows that no block is missing,
repeated, swapped or from another file, that END is there, and that nothing follows it. What it does not show is damage inside a
payload that is passed over; a payload that is read is checked as ever. A side table of offsets would save little and could lie.
"""

import hashlib
from bisect import bisect_right
from pathlib import Path
from typing import BinaryIO, Final

import attrs

from replay.errors import RecordingError
from replay.recording.blocks import (
    END,
    EVENTS,
    LAYOUT,
    MAGIC_LAYOUT,
    chain_start,
    check_payload,
    parse_block_header,
    parse_magic,
)

DIGEST_BYTES: Final = 16


@attrs.frozen
class BlockPlace:
    """Where a block of events, or END, is: its number, first byte, number of its first event, checksum of the header before."""

    number: int
    at: int
    first_event: int
    previous: int


@attrs.frozen
class BlockMap:
    """The blocks of events of a whole recording.

    digest: of the magic and all block headers, which hold the checksums of all payloads: what the recording is. end: the place
    of END, behind the last event.
    """

    digest: str
    events: int
    size_bytes: int
    end: BlockPlace = attrs.field(repr=False)
    places: tuple[BlockPlace, ...] = attrs.field(repr=False)
    _firsts: tuple[int, ...] = attrs.field(repr=False)

    def place_of(self, event: int) -> BlockPlace:
        """Return the place of the block that holds an event, of the last one for a number behind the end."""
        return self.places[bisect_right(self._firsts, event) - 1]


def map_file(path: str) -> BlockMap | None:
    """Return the blocks of a .kvmr file; None unless it is a regular file whose headers are all whole, to its END.

    What is wrong with another one is for a reader to say, at its place.
    """
    try:
        with Path(path).open("rb", buffering=0) as file:
            return _map_blocks(file, path) if file.seekable() else None
    except (OSError, ValueError, RecordingError):
        return None


def _map_blocks(file: BinaryIO, where: str) -> BlockMap | None:
    magic = file.read(MAGIC_LAYOUT.size)
    parse_magic(magic, where)
    digest = hashlib.blake2b(magic, digest_size=DIGEST_BYTES)
    at, number, events, previous = len(magic), 0, 0, chain_start(magic)
    places = []
    while True:
        file.seek(at)
        head = file.read(LAYOUT.size)
        if len(head) < LAYOUT.size:
            return None
        block = parse_block_header(head, previous, events)
        digest.update(head)
        place = BlockPlace(number, at, events, previous)
        if block.kind == EVENTS:
            places.append(place)
        at, number, events, previous = at + len(head) + block.payload_bytes, number + 1, events + block.events, block.checksum
        if block.kind == END:
            payload = file.read(block.payload_bytes + 1)
            check_payload(block, payload)
            firsts = tuple(place.first_event for place in places)
            return BlockMap(digest.hexdigest(), events, at, place, tuple(places), firsts) if places else None
