"""Keep memslots in the order of their gfns: lists while there are few, a sorted dictionary when there are thousands.

A list is looked up five times faster than a sorted dictionary, and changed faster too as long as it is short.
Source: the gfn tree of struct kvm_memslots, include/linux/kvm_host.h [6.1, 6.12].
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from replay.kvm.memslot import Memslot

LISTED_MOST: Final = 1024
"""With more slots than this a change costs less in the sorted dictionary."""


class SlotsByGfn:
    """The memslots of one address space by first gfn; no two of them begin at the same one. Source: see the module."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._slots: list[Memslot] | None = []
        """None when there are many and nobody has asked for the list since the last change."""
        self._many: Any = None

    def put(self, slot: Memslot) -> None:
        """Add a slot, or put it in the place of the one that begins at the same gfn."""
        base = slot.base_gfn
        if self._many is not None:
            self._many[base], self._slots = slot, None
            return
        assert self._slots is not None, "few slots are listed"
        index = bisect_left(self._bases, base)
        if index < len(self._bases) and self._bases[index] == base:
            self._slots[index] = slot
            return
        self.insert(index, slot)

    def room(self, base_gfn: int, end_gfn: int) -> int:
        """Return the place where a slot can be inserted, -1 when another one lies in its range."""
        slots = self._slots
        if slots is None:
            for slot in self.since(base_gfn):
                if slot.base_gfn >= end_gfn:
                    break
                if slot.base_gfn + slot.npages > base_gfn:
                    return -1
            return 0
        index = bisect_left(self._bases, base_gfn)
        if index < len(slots) and self._bases[index] < end_gfn:
            return -1
        before = slots[index - 1] if index else None
        return index if before is None or before.base_gfn + before.npages <= base_gfn else -1

    def insert(self, index: int, slot: Memslot) -> None:
        """Add a slot at a place that room() named."""
        if self._many is not None:
            self._many[slot.base_gfn], self._slots = slot, None
            return
        assert self._slots is not None, "few slots are listed"
        self._bases.insert(index, slot.base_gfn)
        self._slots.insert(index, slot)
        if len(self._bases) > LISTED_MOST:
            from sortedcontainers import SortedDict  # few recordings have so many slots

            self._many = SortedDict(zip(self._bases, self._slots, strict=True))

    def remove(self, base_gfn: int) -> None:
        """Take out the slot that begins at a gfn."""
        if self._many is not None:
            del self._many[base_gfn]
            self._slots = None
            return
        assert self._slots is not None, "few slots are listed"
        index = bisect_left(self._bases, base_gfn)
        del self._bases[index], self._slots[index]

    def at(self, gfn: int) -> Memslot | None:
        """Return the slot that holds a gfn."""
        slots = self._slots
        if slots is None:
            index = self._many.bisect_right(gfn) - 1
            slot: Memslot | None = self._many.peekitem(index)[1] if index >= 0 else None
        else:
            index = bisect_right(self._bases, gfn) - 1
            slot = slots[index] if index >= 0 else None
        return slot if slot is not None and gfn < slot.base_gfn + slot.npages else None

    def since(self, gfn: int) -> Iterator[Memslot]:
        """Walk the slots in order, from the last one that begins at a gfn or before it."""
        if self._slots is None:
            first = max(self._many.bisect_right(gfn) - 1, 0)
            return map(self._many.__getitem__, self._many.islice(first))
        return islice(self._slots, max(bisect_right(self._bases, gfn) - 1, 0), None)

    def listed(self) -> list[Memslot]:
        """Return all slots in order. The list is good until they change. Cost: none; 0.1 us a slot when there are many."""
        if self._slots is None:
            self._bases = list(self._many)
            self._slots = list(map(self._many.__getitem__, self._bases))
        return self._slots
