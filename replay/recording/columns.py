"""Keep one column of a run in few bytes: a constant, or unsigned integers as narrow as the largest of them.

The encoding does the work that a compressor would do, in less time: 28 bytes an event become about 8. Columns are written
little-endian and aligned to their own width, so that a reader only casts the bytes (`memoryview.cast`), and numpy may
look at the same bytes without a copy.

A column is described by one of three things in the frame's head:
    value          every row holds this value (an integer, or nil for None)
    [form]         rows follow as unsigned integers, form says how
    [first, rest]  first row's value, then the differences of the other rows, described as one of the two above
form = width (1, 2, 4 or 8 bytes) + NULLS where some rows hold None: then each number is the value + 1, and 0 is None.
form = 8 + NULLS + MASK where that would not fit 64 bits: one byte a row (1 value, 0 None), then the values themselves.
Signed values and differences (modulo 2^64) are zigzag coded: 0, -1, 1, -2 become 0, 1, 2, 3.

Each column has exactly one encoding: the reader refuses a wider form than needed, a constant that is spelled out, a NULLS
without None. So equal runs have equal bytes, and no bit of a frame is without meaning.
"""

import sys
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import attrs

from replay.runs import Constant
from replay.units import U64_MAX

NULLS: Final = 0x10
MASK: Final = 0x20
TYPECODES: Final[dict[int, str]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
BIG_ENDIAN: Final = sys.byteorder == "big"
_SIGN: Final = 1 << 63


def zigzag(value: int) -> int:
    """Return the unsigned code of a signed 64-bit value.

    >>> [zigzag(value) for value in (0, -1, 1, -2)]
    [0, 1, 2, 3]
    """
    return (value << 1) ^ (value >> 63)


def unzigzag(code: int) -> int:
    """Return the signed value of a code."""
    return (code >> 1) ^ -(code & 1)


def wrap_signed(number: int) -> int:
    """Return the signed 64-bit value that a number is modulo 2^64."""
    return ((number + _SIGN) & U64_MAX) - _SIGN


def wrap_unsigned(number: int) -> int:
    """Return the unsigned 64-bit value that a number is modulo 2^64."""
    return number & U64_MAX


@attrs.frozen
class Shape:
    """How one column of a run is kept: its largest value, and whether it is signed, may hold None, or is kept as differences."""

    name: str
    most: int = U64_MAX
    signed: bool = False
    nullable: bool = False
    differences: bool = False
    allowed: bytes = b""

    def holds(self, value: object) -> bool:
        """Say whether a row may hold the value."""
        if value is None:
            return self.nullable
        if type(value) is not int:
            return False
        if self.signed:
            return -_SIGN <= value < _SIGN
        return 0 <= value <= self.most and (not self.allowed or value in self.allowed)

    @property
    def expected(self) -> str:
        """Say what a row may hold, for messages."""
        span = "signed 64-bit" if self.signed else f"0 to {self.most}"
        return span + (" or null" if self.nullable else "")


def narrow(codes: Sequence[int]) -> tuple[int, bytes]:
    """Return (width, little-endian bytes) of unsigned numbers, as narrow as the largest allows."""
    top = max(codes)
    width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4 if top < 1 << 32 else 8
    numbers = array(TYPECODES[width], codes)
    if BIG_ENDIAN:
        numbers.byteswap()
    return width, numbers.tobytes()


def is_constant(values: Sequence[Any]) -> bool:
    """Say whether all rows hold the same; an empty column counts as constant."""
    if isinstance(values, Constant) or not values:
        return True
    return values[0] == values[-1] and values.count(values[0]) == len(values)


def encode_codes(values: Sequence[int | None]) -> tuple[Any, bytes]:
    """Return (description, bytes) of a column of unsigned numbers and None."""
    if is_constant(values):
        return (values[0] if values else 0), b""
    if None not in values:
        width, data = narrow(values)  # type: ignore[arg-type]  # no None among them
        return (width,), data
    codes = [0 if value is None else value + 1 for value in values]
    if max(codes) <= U64_MAX:
        width, data = narrow(codes)
        return (width | NULLS,), data
    mask = bytes(value is not None for value in values)
    numbers = array("Q", [value or 0 for value in values])
    if BIG_ENDIAN:
        numbers.byteswap()
    return (8 | NULLS | MASK,), mask.ljust(-len(mask) % 8 + len(mask), b"\0") + numbers.tobytes()


def differences_of(values: Sequence[int | None]) -> list[int | None]:
    """Return the zigzag codes of each row's difference, modulo 2^64, to the last row before it that is not None."""
    if None not in values:
        steps = [later - earlier for earlier, later in pairwise(values)]  # type: ignore[operator]  # no None among them
        if steps and min(steps) >= 0 and max(steps) < _SIGN:
            return [step << 1 for step in steps]
        return [zigzag(wrap_signed(step)) for step in steps]
    previous = values[0] or 0
    codes: list[int | None] = []
    for value in values[1:]:
        codes.append(None if value is None else zigzag(wrap_signed(value - previous)))
        previous = previous if value is None else value
    return codes


def encode_column(shape: Shape, values: Sequence[int | None]) -> tuple[Any, bytes]:
    """Return (description, bytes) of a column whose values are known to be legal."""
    if shape.differences:
        description, data = encode_codes(differences_of(values))
        return (values[0], description), data
    if shape.signed and not is_constant(values):
        return encode_codes([None if value is None else zigzag(value) for value in values])
    return encode_codes(values)
