"""Keep the order in which the kernel walks memslots: buckets of the id hash, newest first within a bucket.

The order decides which slots got their arrays before an -ENOMEM. Each address space has two sets of slots, and the order
inside a bucket can differ between them, so it is kept for each set.
Source: include/linux/hashtable.h hash_add(), virt/kvm/kvm_main.c kvm_replace_memslot(), kvm_for_each_memslot() [6.1, 6.12];
confirmed on real kernels: of ids 0 to 7 the walk is 0, 3, 6, 1, 4, 7, 2, 5.
"""

from collections.abc import Iterator
from typing import Final

GOLDEN_RATIO_32: Final = 0x61C88647
ID_HASH_BITS: Final = 7


def bucket_of(slot_id: int) -> int:
    """Return the bucket of a slot id, 0..127. Source: include/linux/hash.h hash_32() [6.1, 6.12].

    >>> [bucket_of(i) for i in range(4)]
    [0, 48, 97, 18]
    """
    return ((slot_id * GOLDEN_RATIO_32) & 0xFFFFFFFF) >> (32 - ID_HASH_BITS)


_BUCKETS: Final[dict[int, int]] = {}
"""Slot id -> its bucket, of ids that were met."""


class IdHash:
    """The id hash of one memslot set. Source: struct kvm_memslots.id_hash [6.1, 6.12]."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[int]] = {}

    def link(self, slot_id: int) -> None:
        """Put a slot at the head of its bucket; one that is there moves to the head. Source: kvm_replace_memslot()."""
        number = _BUCKETS.get(slot_id)
        if number is None:
            number = _BUCKETS[slot_id] = bucket_of(slot_id)
        bucket = self._buckets.get(number)
        if not bucket:
            self._buckets[number] = [slot_id]
        elif bucket[0] != slot_id:
            if slot_id in bucket:
                bucket.remove(slot_id)
            bucket.insert(0, slot_id)

    def unlink(self, slot_id: int) -> None:
        """Take a slot out. Source: kvm_replace_memslot() with new == NULL."""
        self._buckets[bucket_of(slot_id)].remove(slot_id)

    def discard(self, slot_id: int) -> None:
        """Take a slot out if it is there. Source: kvm_replace_memslot() with new == NULL."""
        bucket = self._buckets.get(bucket_of(slot_id))
        if bucket and slot_id in bucket:
            bucket.remove(slot_id)

    def __iter__(self) -> Iterator[int]:
        for bucket in sorted(self._buckets):
            yield from self._buckets[bucket]
