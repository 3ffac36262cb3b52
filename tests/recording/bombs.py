"""Recordings of few bytes that claim many: every checksum right, so that only limits stand between them and the memory."""

import zlib
from collections.abc import Callable

from kvmrwriter import END, EVENTS, Block, Kvmr, columns, header, recording, segment, zlib_header

MIB = 1 << 20


def claims(*sizes: int) -> bytes:
    """Return array headers, one inside the other, that claim these sizes."""
    return b"".join(b"\xdd" + size.to_bytes(4, "big") for size in sizes)


def row_of(content: bytes) -> bytes:
    """Return a file whose only row is made of these bytes."""
    return recording((segment(1, 1, content), 1))


BOMBS: dict[str, Callable[[], bytes]] = {
    "array of 2^32-1": lambda: row_of(claims((1 << 32) - 1)),
    "arrays of 65536 in each other": lambda: row_of(claims(*[65536] * 500)),
    "arrays of 255 in each other": lambda: row_of(b"\xdc\x00\xff" * 300000),
    "a million arrays": lambda: row_of(b"\x91" * 1000000),
    "a million empty arrays": lambda: row_of(b"\xdc\xff\xff" + b"\x90" * 65535 + b"\x90" * 900000),
    "pairs": lambda: row_of(b"\xdc\xff\xff" + b"\x92\x01\x02" * 65535),
    "text of 2^32-1": lambda: row_of(b"\xdb\xff\xff\xff\xff"),
    "binary of 2^32-1": lambda: row_of(b"\xc6\xff\xff\xff\xff"),
    "map of 2^32-1": lambda: row_of(b"\xdf\xff\xff\xff\xff"),
    "extension of 2^32-1": lambda: row_of(b"\xc9\xff\xff\xff\xff\x00"),
    "header of arrays": lambda: Kvmr([Block(1, claims(*[65536] * 500))]).data(),
    "trailer of arrays": lambda: Kvmr([header()], end=Block(END, claims(*[65536] * 500))).data(),
    "frame of arrays": lambda: recording((segment(2, 1, claims(*[65536] * 500), head_bytes=2500), 1)),
    "events without bytes": lambda: recording((columns((1 << 32) - 1, ()), 16384)),
    "frame of 16385": lambda: recording(
        (columns(16385, (), 64, 0, 0, 0, 0, 0, None, None, [None, None], None, [None, None], 0), 16384)
    ),
    "segment of 4 GiB": lambda: recording((segment(1, 1, b"\x92\x03\x00", size=(1 << 32) - 1), 1)),
    "head of 4 GiB": lambda: recording((segment(2, 1, b"\x90", head_bytes=(1 << 32) - 1), 1)),
    "payload of 4 GiB": lambda: Kvmr([header(), Block(EVENTS, b"", 1, payload_bytes=(1 << 32) - 1)]).data(),
    "payload of 4 GiB, raw 8": lambda: Kvmr(
        [zlib_header(), Block(EVENTS, b"", 1, flags=1, payload_bytes=(1 << 32) - 1, raw_bytes=8)]
    ).data(),
    "raw of 4 GiB": lambda: Kvmr(
        [zlib_header(), Block(EVENTS, zlib.compress(bytes(1000)), 1, flags=1, raw_bytes=(1 << 32) - 1)]
    ).data(),
    "zlib bomb": lambda: Kvmr(
        [zlib_header(), Block(EVENTS, zlib.compress(bytes(512 * MIB), 1), 1, flags=1, raw_bytes=MIB)]
    ).data(),
    "zlib bomb in a small claim": lambda: Kvmr(
        [zlib_header(), Block(EVENTS, zlib.compress(bytes(64 * MIB)), 1, flags=1, raw_bytes=66000)]
    ).data(),
}
