"""Frame the blocks of a recording: magic, block headers, checksums, compression.

A file is MAGIC and then blocks. Each block is a header of 36 bytes and a payload. The header has its own checksum, so that a
damaged length is damage and never "the rest is missing"; it carries the checksum of the header before it, so that blocks
that are swapped, repeated, left out or taken from another file are found; and it numbers the first event. The header of the
END block is thus a checksum over everything before it. Integers are little-endian. docs/format.md shows it byte by byte.
"""

import struct
import zlib
from typing import Final

import attrs

from replay.errors import DamagedError, HeaderError, VersionError
from replay.recording.limits import BLOCK_EVENTS, BLOCK_RAW_BYTES, RECORDING_EVENTS
from replay.units import counted

# The first byte is not ASCII, the line ends are of two kinds: a transfer in text mode shows at once.
SIGNATURE: Final = b"\x89KVMR\r\n\x1a"
CONTAINER_MAJOR: Final = 1  # raise it when old readers must refuse
CONTAINER_MINOR: Final = 0  # raise it for additions that old readers may pass over: block kinds from 0x80
MAGIC_LAYOUT: Final = struct.Struct("<8sHH")
MAGIC: Final = MAGIC_LAYOUT.pack(SIGNATURE, CONTAINER_MAJOR, CONTAINER_MINOR)

HEADER: Final = 1
EVENTS: Final = 2
END: Final = 3
SKIPPABLE: Final = 0x80
"""Block kinds from here on may be passed over by a reader that does not know them."""

COMPRESSED: Final = 1
KIND_NAMES: Final[dict[int, str]] = {HEADER: "HEADER", EVENTS: "EVENTS", END: "END"}

LAYOUT: Final = struct.Struct("<BBHIIIQIII")
_BEFORE_CHECKSUM: Final = LAYOUT.size - 4
ZLIB_LEVEL: Final = 1  # half of the time of level 6 for 2 % more bytes: narrow columns have done the work


@attrs.frozen
class BlockHeader:
    """The fixed header of a block. checksum is that of the header's other bytes; previous is the one before's."""

    kind: int
    flags: int
    payload_bytes: int
    raw_bytes: int
    events: int
    first_event: int
    previous: int
    payload_checksum: int
    checksum: int


def chain_start(magic: bytes) -> int:
    """Return what the first block names as the checksum before it: that of the magic and version."""
    return zlib.crc32(magic)


def encode_block(kind: int, raw: bytes, events: int, first_event: int, previous: int, *, compress: bool) -> tuple[bytes, int]:
    """Return (bytes of a block, its header's checksum); compressed only when asked for and smaller."""
    packed = zlib.compress(raw, ZLIB_LEVEL) if compress else raw
    smaller = len(packed) < len(raw)
    payload = packed if smaller else raw
    flags = COMPRESSED if smaller else 0
    head = LAYOUT.pack(kind, flags, 0, len(payload), len(raw), events, first_event, previous, zlib.crc32(payload), 0)
    checksum = zlib.crc32(head[:_BEFORE_CHECKSUM])
    return head[:_BEFORE_CHECKSUM] + checksum.to_bytes(4, "little") + payload, checksum


def parse_magic(data: bytes, where: str) -> int:
    """Return the container's minor version; raise HeaderError or VersionError for what is not a container of ours."""
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)] or not data:
        raise HeaderError(f"bytes {data[:8].hex(' ') or 'none'}", where=where, expected="the magic of a .kvmr recording")
    if len(data) < MAGIC_LAYOUT.size:
        raise HeaderError(
            "the file stops inside its magic", where=where, expected="a header", advice="there is nothing to recover"
        )
    _, major, minor = MAGIC_LAYOUT.unpack(data)
    if major != CONTAINER_MAJOR:
        advice = "update kvm-replay" if major > CONTAINER_MAJOR else "the file is damaged, or no recording"
        raise VersionError(f"container version {major}.{minor}", where=where, expected=f"{CONTAINER_MAJOR}.x", advice=advice)
    return int(minor)


def _fields(data: bytes) -> tuple[int, BlockHeader]:
    fields = LAYOUT.unpack(data)
    return fields[2], BlockHeader(*fields[:2], *fields[3:])


def own_header(data: bytes) -> BlockHeader | None:
    """Return the header in these bytes if its own checksum says that it is one, wherever it stands in a file."""
    if zlib.crc32(data[:_BEFORE_CHECKSUM]).to_bytes(4, "little") != data[_BEFORE_CHECKSUM:]:
        return None
    header = _fields(data)[1]
    return header if header.first_event + header.events <= RECORDING_EVENTS.most else None


def parse_block_header(data: bytes, previous: int, first_event: int) -> BlockHeader:
    """Return the header of a block; raise DamagedError unless checksum, chain, number and lengths fit.

    previous: checksum of the header before; first_event: number of events before. Callers add file and position.
    """
    reserved, header = _fields(data)
    computed = zlib.crc32(data[:_BEFORE_CHECKSUM])
    if header.checksum != computed:
        found = "zeros" if not any(data) else f"block header with checksum 0x{header.checksum:08x}"
        raise DamagedError(found, expected=f"0x{computed:08x}")
    if header.previous != previous:
        found = f"a block that follows header 0x{header.previous:08x}"
        raise DamagedError(found, expected=f"one after 0x{previous:08x}: blocks are missing, repeated or from another file")
    if reserved or header.flags & ~COMPRESSED:
        raise DamagedError(f"flags 0x{header.flags:02x}, reserved 0x{reserved:04x}", expected="known flags only")
    if header.first_event != first_event:
        raise DamagedError(f"a block that starts with event {header.first_event}", expected=f"event {first_event}")
    _check_sizes(header)
    return header


def _check_sizes(header: BlockHeader) -> None:
    if not header.flags and header.payload_bytes != header.raw_bytes:
        raise DamagedError(
            f"{counted(header.payload_bytes, 'byte')} of payload", expected=f"{header.raw_bytes}: it is not compressed"
        )
    if header.flags and header.payload_bytes >= header.raw_bytes:
        raise DamagedError(f"{header.payload_bytes} compressed bytes", expected=f"fewer than {header.raw_bytes}")
    if header.raw_bytes > BLOCK_RAW_BYTES.most:
        raise DamagedError(f"a block of {header.raw_bytes} bytes", expected=f"at most {BLOCK_RAW_BYTES.most}")
    least = 1 if header.kind == EVENTS else 0
    most = BLOCK_EVENTS.most if header.kind == EVENTS else 0
    if not least <= header.events <= most:
        raise DamagedError(f"{counted(header.events, 'event')} in a block of kind {header.kind}", expected=f"{least} to {most}")
    if header.first_event + header.events > RECORDING_EVENTS.most:
        raise DamagedError(f"event number {header.first_event}", expected=f"at most {RECORDING_EVENTS.most}")


def check_kind(header: BlockHeader) -> bool:
    """Say whether a block is to be read; raise VersionError for an unknown kind that must not be passed over."""
    if header.kind in KIND_NAMES:
        return True
    if header.kind >= SKIPPABLE:
        return False
    raise VersionError(f"a block of kind {header.kind}", expected="HEADER, EVENTS or END", advice="update kvm-replay")


def check_payload(header: BlockHeader, payload: bytes | memoryview) -> None:
    """Raise DamagedError unless the payload is the one that the header was written for."""
    computed = zlib.crc32(payload)
    if computed != header.payload_checksum:
        raise DamagedError(f"payload with checksum 0x{computed:08x}", expected=f"0x{header.payload_checksum:08x}")


def decode_payload(header: BlockHeader, payload: bytes | memoryview, *, may_compress: bool) -> bytes | memoryview:
    """Return the raw bytes of a checked payload, never more than raw_bytes; raise DamagedError unless the length fits."""
    if not header.flags:
        return payload
    if not may_compress:
        raise DamagedError("a compressed block", expected="none: the header says compression none")
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(payload, header.raw_bytes + 1)
    except zlib.error as error:
        raise DamagedError(f"a block that does not decompress ({error})", expected="zlib data") from None
    if not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail or len(raw) != header.raw_bytes:
        raise DamagedError("a compressed block of another length", expected=f"{counted(header.raw_bytes, 'byte')}")
    return raw
