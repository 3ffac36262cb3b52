"""Read the numbers of slotprobe's scripts: suffixes, sums, named RAM, slots with an address space."""

import re
from typing import Final

import attrs

from replay.errors import TraceSyntaxError
from replay.units import U32_MAX, U64_MAX

_SUFFIXES: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 12}
"""P is pages."""
_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|\d{1,20})([KMGTP]?)(?:([+-])(.+))?")
_NAME: Final = re.compile(r"([A-Za-z_]\w{0,15})(?:\+(.+))?")
_FIRST_HVA: Final = 0x7E00_0000_0000
_LAST_HVA: Final = 0x7F00_0000_0000


@attrs.define
class Rams:
    """Memory that the script names. Its address is not recorded, so each gets a stand-in: aligned user memory, none shared.

    used: how often a stand-in was asked for.
    """

    _bases: dict[str, int] = attrs.field(factory=dict)
    _next: int = _FIRST_HVA
    used: int = 0

    def reserve(self, name: str, size_bytes: int, align_bytes: int) -> None:
        """Name a piece of memory, as `ram NAME size [align]` does; the first one of a name stays."""
        align = max(4096, align_bytes)
        base = -(-self._next // align) * align
        end = base + -(-size_bytes // 4096) * 4096
        if name not in self._bases and end < _LAST_HVA:
            self._bases[name] = base
            self._next = end

    def address(self, name: str, where: str) -> int:
        """Return the stand-in for a named piece. Raises TraceSyntaxError for a name that was not given."""
        if name not in self._bases:
            raise TraceSyntaxError(f"no memory is called {name!r}", where=where, expected="a name of a `ram` line before it")
        self.used += 1
        return self._bases[name]


def number_of(word: str, rams: Rams, where: str) -> int:
    """Return a number as slotprobe reads it, modulo 2^64. Raises TraceSyntaxError.

    >>> number_of("1M", Rams(), ""), number_of("511P", Rams(), ""), number_of("2M-0x1000", Rams(), "")
    (1048576, 2093056, 2093056)
    """
    if len(word) > 200:
        raise TraceSyntaxError("a number of more than 200 characters", where=where)
    name = _NAME.fullmatch(word)
    if name is not None:
        rest = number_of(name[2], rams, where) if name[2] else 0
        return (rams.address(name[1], where) + rest) & U64_MAX
    found = _NUMBER.fullmatch(word)
    if found is None:
        raise TraceSyntaxError(f"{word!r} is not a number", where=where, expected="digits with K, M, G, T or P (pages)")
    digits = found[1]
    base = 16 if digits[:2] in {"0x", "0X"} else 8 if digits[0] == "0" and digits.isdecimal() and max(digits) < "8" else 10
    value = int(digits, base) << _SUFFIXES[found[2]]
    if found[3]:
        rest = number_of(found[4], rams, where)
        value += rest if found[3] == "+" else -rest
    return value & U64_MAX


def slot_of(word: str, rams: Rams, where: str) -> int:
    """Return the slot field of `id` or `as:id`: bits 15:0 id, bits 31:16 address space.

    >>> slot_of("7", Rams(), ""), hex(slot_of("1:7", Rams(), ""))
    (7, '0x10007')
    """
    space, colon, slot_id = word.rpartition(":")
    high = number_of(space, rams, where) << 16 if colon else 0
    return (number_of(slot_id, rams, where) | high) & U32_MAX
