"""Write any recording in a line: whole, torn, flipped, hostile. The other side of `replay.recording`, for tests only.

A `Kvmr` is magic and blocks; `data()` computes checksums, chain and numbers as the format wants them, except where a block
says otherwise. It shares no code with the writer under test but the numbers of the format.
"""

import struct
import zlib
from collections.abc import Sequence

import attrs
import msgpack

MAGIC = b"\x89KVMR\r\n\x1a" + struct.pack("<HH", 1, 0)
HEADER, EVENTS, END = 1, 2, 3
BLOCK = struct.Struct("<BBHIIIQIII")
SEGMENT = struct.Struct("<B3sIII")


def pack(value: object) -> bytes:
    """Return MessagePack bytes."""
    data: bytes = msgpack.packb(value)
    return data


@attrs.define
class Block:
    """One block; every field left None is what it should be."""

    kind: int
    payload: bytes
    events: int = 0
    flags: int = 0
    reserved: int = 0
    payload_bytes: int | None = None
    raw_bytes: int | None = None
    first_event: int | None = None
    previous: int | None = None
    payload_checksum: int | None = None
    checksum: int | None = None

    def data(self, previous: int, first_event: int) -> tuple[bytes, int]:
        """Return (bytes, checksum of the header)."""

        def said(value: int | None, right: int) -> int:
            return right if value is None else value

        size = said(self.payload_bytes, len(self.payload))
        head = BLOCK.pack(
            self.kind,
            self.flags,
            self.reserved,
            size,
            said(self.raw_bytes, size),
            self.events,
            said(self.first_event, first_event),
            said(self.previous, previous),
            said(self.payload_checksum, zlib.crc32(self.payload)),
            0,
        )[:-4]
        checksum = said(self.checksum, zlib.crc32(head))
        return head + struct.pack("<I", checksum) + self.payload, checksum


def header(*fields: object, major: int = 1, minor: int = 0) -> Block:
    """Return a HEADER block of the fields after the version."""
    return Block(HEADER, pack([major, minor, list(fields)]))


def zlib_header() -> Block:
    """Return a HEADER block that says compression zlib: title, machine, clock, tools, sources, provenance, compression."""
    return header("", [], "none", [], [], "", "zlib")


def segment(tag: int, events: int, content: bytes, *, head_bytes: int = 0, size: int | None = None) -> bytes:
    """Return a segment of a block, padded."""
    data = SEGMENT.pack(tag, b"\0\0\0", events, head_bytes, len(content) if size is None else size) + content
    return data + bytes(-len(data) % 8)


def rows(*wires: object) -> bytes:
    """Return a ROWS segment of arrays."""
    return segment(1, len(wires), b"".join(map(pack, wires)))


def columns(events: int, tasks: Sequence[object], *descriptions: object, data: bytes = b"") -> bytes:
    """Return a COLUMNS segment: the 12 descriptions in order, and the bytes behind the head, padding included."""
    head = pack([list(tasks), *descriptions])
    return segment(2, events, head + data, head_bytes=len(head))


def events_block(raw: bytes, events: int, *, compress: bool = False) -> Block:
    """Return an EVENTS block of segments."""
    if not compress:
        return Block(EVENTS, raw, events)
    return Block(EVENTS, zlib.compress(raw), events, flags=1, raw_bytes=len(raw))


@attrs.define
class Kvmr:
    """A file: magic, a header, blocks, an END unless `torn`."""

    blocks: list[Block]
    magic: bytes = MAGIC
    torn: bool = False
    end: Block | None = None

    def data(self) -> bytes:
        """Return the bytes of the file."""
        blocks = list(self.blocks)
        total = sum(block.events for block in blocks)
        if not self.torn:
            blocks.append(self.end or Block(END, pack([len(blocks), [total] if total else []])))
        out, previous, first_event = self.magic, zlib.crc32(self.magic), 0
        for block in blocks:
            data, previous = block.data(previous, first_event)
            out += data
            first_event += block.events
        return out


def recording(*raws: tuple[bytes, int], first: Block | None = None, torn: bool = False) -> bytes:
    """Return a file of EVENTS blocks, each (segments, number of events), with every checksum right."""
    return Kvmr([first or header(), *(events_block(raw, count) for raw, count in raws)], torn=torn).data()


def one_row(*wire: object) -> bytes:
    """Return a file with one row."""
    return recording((rows(wire), 1))


def split(data: bytes) -> list[bytes]:
    """Cut a whole file into its magic and its blocks."""
    parts, at = [data[: len(MAGIC)]], len(MAGIC)
    while at < len(data):
        size = BLOCK.size + BLOCK.unpack_from(data, at)[3]
        parts.append(data[at : at + size])
        at += size
    return parts


def payloads(data: bytes) -> list[Block]:
    """Return the blocks of a whole file as they are, to be changed and put together again with right checksums."""
    found = []
    for part in split(data)[1:]:
        kind, flags, reserved, _, raw_bytes, events, *_ = BLOCK.unpack_from(part)
        found.append(Block(kind, part[BLOCK.size :], events, flags, reserved, raw_bytes=raw_bytes))
    return found


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
