"""Move addresses to places that tell nothing of the host, with every relation between them kept.

Two looks at a recording: `AddressMap.see()` each range, then `AddressMap.place()` each address. What a kernel asks of an address
is where it lies in its large page (of 4 KiB, 2 MiB or 1 GiB), how it compares with others, and on which side of certain ends it
lies; so whole GiBs move, in order, between two ends, and those at an end stay.
"""

from bisect import bisect_right
from typing import Final

import attrs

from replay.units import U64_MAX

GIB_SHIFT: Final = 30
"""Addresses move by whole GiB: what is below bit 30 stays, as lpage_info depends on it (x86.c kvm_alloc_memslot_metadata())."""

HVA_ENDS: Final = (0, 1 << 47, 1 << 56, 1 << 63, U64_MAX + 1)
"""Ends of host address spaces: x86-64 user space of four and five levels, the sign bit (access_ok()), and the last address."""

GPA_ENDS: Final = (*(1 << bits for bits in range(40, 64)), U64_MAX + 1)
"""Ends of guest physical address spaces: any MAXPHYADDR from 40 bits on. What is below the first one stays: it is the layout of a
machine. Above it are guests, such as gVisor's, that use host addresses as guest addresses."""


@attrs.define
class _Stretch:
    """GiBs that touch one another, first and last, and where the first one goes."""

    first: int
    last: int
    to: int = 0


class AddressMap:
    """Where each used GiB of an address space goes; memory is that of the separate stretches in use.

    ends: addresses on whose side the others must stay, ascending; what lies below the first one is left alone.
    """

    def __init__(self, ends: tuple[int, ...]) -> None:
        self._ends = tuple(end >> GIB_SHIFT for end in ends)
        self._seen: list[tuple[int, int]] = []
        self._stretches: list[_Stretch] = []
        self._firsts: list[int] = []

    def moves(self, address: int) -> bool:
        """Tell whether an address lies where addresses are moved at all."""
        return self._ends[0] <= address >> GIB_SHIFT < self._ends[-1]

    def see(self, address: int, size_bytes: int = 1) -> None:
        """Take note of a range; one that runs beyond the last address ends there."""
        last = min(address + max(size_bytes, 1) - 1, U64_MAX)
        if address <= U64_MAX and self.moves(last):
            self._seen.append((address >> GIB_SHIFT, last >> GIB_SHIFT))
        if len(self._seen) > 4096:
            self._seen = _merged(self._seen)

    def settle(self) -> None:
        """Decide where everything goes; call it between the two looks."""
        self._seen = _merged(self._seen)
        self._stretches = [_Stretch(first, last) for first, last in self._seen]
        free = 0
        for stretch in self._stretches:
            floor = max((end for end in self._ends if end <= stretch.first), default=0)
            free = max(free, floor + 1)
            stretch.to = stretch.first if self._at_an_end(stretch) else free
            free = stretch.to + stretch.last - stretch.first + 2
        self._firsts = [stretch.first for stretch in self._stretches]

    def place(self, address: int) -> int:
        """Return where an address goes that was seen.

        >>> found = AddressMap(HVA_ENDS)
        >>> for hva in (0x7F12_3456_7000, 0x7F13_3456_7000, 0x1000):
        ...     found.see(hva, 0x1000)
        >>> found.settle()
        >>> [hex(found.place(hva)) for hva in (0x7F12_3456_7000, 0x7F13_3456_7000, 0x1000)]
        ['0xb4567000', '0x134567000', '0x1000']
        """
        if not self.moves(address):
            return address
        gib = address >> GIB_SHIFT
        stretch = self._stretches[bisect_right(self._firsts, gib) - 1]
        assert stretch.first <= gib <= stretch.last, "place() of an address that was not seen"
        return address + ((stretch.to - stretch.first) << GIB_SHIFT)

    def _at_an_end(self, stretch: _Stretch) -> bool:
        """Tell whether a stretch touches an end, from either side."""
        return any(stretch.first <= end <= stretch.last + 1 for end in self._ends)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that overlap or touch as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
