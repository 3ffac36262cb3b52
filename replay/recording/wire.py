"""Pack and unpack MessagePack within limits; the only module that knows the library.

The library raises five unrelated exceptions for bad bytes and allocates what an array header claims, so every call names
its limits and every exception becomes an EventError. A decoder is used for one piece of bytes and thrown away: using one
again after an error is not supported by it.
"""

from itertools import islice
from typing import Any, Final

import msgpack

from replay.errors import EventError
from replay.recording.limits import ARRAY_ITEMS, NESTING, TEXT_BYTES, over
from replay.units import counted

_TROUBLE: Final = (
    ValueError,  # most of it: limits, ExtraData, UnicodeDecodeError, FormatError and StackError are subclasses
    TypeError,  # unhashable map key
    OverflowError,
    RecursionError,
    MemoryError,
    msgpack.UnpackException,  # OutOfData, BufferFull
)

_FEW_ITEMS: Final = 255
"""Longest array of the first attempt: 1024 nested claims of it (the library's own depth) are 2 MiB at most."""

_LIMITS: Final[dict[str, Any]] = {
    "use_list": False,
    "raw": False,
    "max_array_len": _FEW_ITEMS,
    "max_str_len": TEXT_BYTES.most,
    "max_map_len": 0,
    "max_bin_len": 0,
    "max_ext_len": 0,
}

_FIXED_BYTES: Final[dict[int, int]] = {
    0xC0: 1,
    0xC2: 1,
    0xC3: 1,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
}
_TEXT_LENGTH_BYTES: Final[dict[int, int]] = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_LENGTH_BYTES: Final[dict[int, int]] = {0xDC: 2, 0xDD: 4}


_PACKER: Final = msgpack.Packer(use_bin_type=True)
"""One for all: it keeps nothing from one value to the next, not even of one that it can not pack."""


def pack(value: object) -> bytes:
    """Return the canonical bytes of a value made of tuples, lists, ints, texts, booleans and None."""
    packed: bytes = _PACKER.pack(value)
    return packed


def unpack(data: bytes | memoryview, count: int) -> list[Any]:
    """Return the `count` values in the bytes, arrays as tuples; raise EventError for anything but canonical values.

    Memory is bounded by the bytes, not by what they claim: at most some 30 bytes a byte, for a million tiny arrays. Long
    arrays are rare: only when there is one are the bytes looked through before they are decoded.
    """
    raw = bytes(data)
    few = _few(raw, count)
    if few is not None:
        return few
    try:
        found, packed = _decode(raw, count, _FEW_ITEMS)
    except EventError:
        check_nesting(raw)
        found, packed = _decode(raw, count, ARRAY_ITEMS.most)
    if len(found) != count:
        raise EventError("more values" if len(found) > count else counted(len(found), "value"), expected=f"{count}")
    if packed != raw:
        raise EventError("bytes in another form than the shortest", expected="canonical MessagePack")
    return found


_ARRAY_OF_FEW: Final = 15
"""So many items an array may have whose head is one byte."""


def _few(raw: bytes, count: int) -> list[Any] | None:
    """Return a few values in which all is well, None otherwise: decoded and packed again at once, as an array of them."""
    if count > _ARRAY_OF_FEW:
        return None
    array = bytes((0x90 | count,)) + raw
    try:
        values = msgpack.unpackb(array, **_LIMITS)
        return list(values) if pack(values) == array else None
    except _TROUBLE:
        return None


def _decode(raw: bytes, count: int, items_max: int) -> tuple[list[Any], bytes]:
    """Return at most count + 1 values, and the bytes that they pack to."""
    decoder = msgpack.Unpacker(
        use_list=False,
        raw=False,
        max_buffer_size=max(len(raw), 1),
        max_array_len=items_max,
        max_str_len=TEXT_BYTES.most,
        max_map_len=0,
        max_bin_len=0,
        max_ext_len=0,
    )
    try:
        decoder.feed(raw)
        found = list(islice(decoder, count + 1))
        packed = b"".join(map(pack, found))
    except _TROUBLE as error:
        raise EventError(f"bytes that do not decode ({error or type(error).__name__})", expected="MessagePack arrays") from None
    return found, packed


def unpack_one(data: bytes | memoryview) -> Any:
    """Return the one value in the bytes; raise EventError when there is none, or more."""
    raw = bytes(data)
    try:
        value = msgpack.unpackb(raw, **_LIMITS)
        if pack(value) == raw:
            return value
    except _TROUBLE:
        pass  # what is wrong is said by the careful way
    return unpack(raw, 1)[0]


def _token(data: bytes, at: int) -> tuple[int, int]:
    """Return (bytes, items) of the token at a place: how long it is, and how many items it opens."""
    head = data[at]
    if head < 0x80 or head >= 0xE0:
        return 1, 0
    if 0x90 <= head < 0xA0:
        return 1, head & 15
    if 0xA0 <= head < 0xC0:
        return 1 + (head & 31), 0
    if head in _FIXED_BYTES:
        return _FIXED_BYTES[head], 0
    if head in _TEXT_LENGTH_BYTES:
        width = _TEXT_LENGTH_BYTES[head]
        return 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big"), 0
    if head in _ARRAY_LENGTH_BYTES:
        width = _ARRAY_LENGTH_BYTES[head]
        return 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big")
    raise EventError(f"byte 0x{head:02x}", expected="an integer, text, boolean, null or array")


def check_nesting(data: bytes) -> None:
    """Raise LimitError for arrays nested too deep, EventError for maps, floats and the like; decodes nothing.

    Time is linear in the bytes, about 0.2 us a token; memory is one list of at most NESTING numbers.
    """
    left: list[int] = []
    at = 0
    while at < len(data):
        size, items = _token(data, at)
        at += size
        if left:
            left[-1] -= 1
        if items:
            left.append(items)
            if len(left) > NESTING.most:
                raise over(NESTING, len(left), "")
        while left and not left[-1]:
            left.pop()
