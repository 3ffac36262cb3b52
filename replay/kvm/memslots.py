"""Hold the memslots of one address space: by id, by gfn, in both sets' orders, with the generation.

At rest both sets link the same slot objects, so the slots are kept once and only the order and the active index twice.
Source: struct kvm_memslots, virt/kvm/kvm_main.c kvm_swap_active_memslots() [6.1, 6.12].
"""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedDict

from replay.kvm.idhash import IdHash
from replay.kvm.memslot import Memslot

_LISTED_MOST: Final = 512
"""Spaces of more slots look gfns up in the sorted dictionary unless somebody has listed them: a change costs no list then."""


class Memslots:
    """All slots of one address space. Source: virt/kvm/kvm_main.c [6.1, 6.12]."""

    def __init__(self, as_id: int, nr_as_ids: int) -> None:
        self.as_id = as_id
        self.generation = as_id  # kvm_create_vm(): the generation starts at the address space's index
        self._nr_as_ids = nr_as_ids
        self._by_id: dict[int, Memslot] = {}
        self._by_base: Any = SortedDict()
        self._bases: list[int] = []
        self._listed: list[Memslot] | None = []
        """The slots by first gfn with `_bases`, for the lookups of hot events; None when a change has made them wrong."""
        self._orders = (IdHash(), IdHash())
        self._active = 0
        self.layout: Any = None
        """What bulk.py has worked out of the slots for its own use; see layout.py."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Memslot]:
        """Walk the active set as kvm_for_each_memslot() does."""
        return iter([self._by_id[slot_id] for slot_id in self._orders[self._active]])

    def inactive_order(self) -> list[int]:
        """Return the ids in the order of the set that is not active; later walks depend on it."""
        return list(self._inactive())

    def orders(self) -> tuple[list[int], list[int], int]:
        """Return the ids in the order of set 0, those of set 1, and which set is active."""
        return list(self._orders[0]), list(self._orders[1]), self._active

    def restore(self, slots: list[Memslot], orders: tuple[list[int], list[int], int], generation: int) -> None:
        """Take over what another one held, which has no slots yet: its slots, `orders()` and generation."""
        assert not self._by_id, "only an empty address space is restored"
        for slot in slots:
            self._by_id[slot.id] = slot
            self._by_base[slot.base_gfn] = slot
        self._listed = None
        for known, order in zip(self._orders, orders[:2], strict=True):
            for slot_id in reversed(order):
                known.link(slot_id)
        self._active, self.generation = orders[2], generation

    def by_base(self) -> list[Memslot]:
        """List the slots by first gfn. The list is the space's own and good until the slots change."""
        if self._listed is None:
            self._bases = list(self._by_base)
            self._listed = list(map(self._by_base.__getitem__, self._bases))
        return self._listed

    def by_id(self, slot_id: int) -> Memslot | None:
        """Return the slot with this id. Source: id_to_memslot()."""
        return self._by_id.get(slot_id)

    def by_gfn(self, gfn: int) -> Memslot | None:
        """Return the slot that holds a gfn. Source: __gfn_to_memslot()."""
        slots = self._listed
        if slots is None:
            if len(self._by_id) > _LISTED_MOST:
                return self._by_gfn_of_many(gfn)
            slots = self.by_base()
        index = bisect_right(self._bases, gfn) - 1
        if index < 0:
            return None
        slot = slots[index]
        return slot if gfn < slot.base_gfn + slot.npages else None

    def _by_gfn_of_many(self, gfn: int) -> Memslot | None:
        index = self._by_base.bisect_right(gfn) - 1
        if index < 0:
            return None
        slot: Memslot = self._by_base.peekitem(index)[1]
        return slot if gfn < slot.end_gfn else None

    def overlaps(self, base_gfn: int, end_gfn: int, but_id: int) -> bool:
        """Tell whether another slot lies in the range. Source: kvm_check_memslot_overlap()."""
        for slot in self._from(base_gfn):
            if slot.base_gfn >= end_gfn:
                return False
            if slot.id != but_id and slot.base_gfn + slot.npages > base_gfn:
                return True
        return False

    def _from(self, gfn: int) -> Iterator[Memslot]:
        """Walk the slots by first gfn, from the last one that begins at a gfn or before it."""
        if self._listed is None and len(self._by_id) > _LISTED_MOST:
            first = max(self._by_base.bisect_right(gfn) - 1, 0)
            return map(self._by_base.__getitem__, self._by_base.islice(first))
        slots = self.by_base()
        return islice(slots, max(bisect_right(self._bases, gfn) - 1, 0), None)

    def _swap(self) -> None:
        """Publish the other set. Source: kvm_swap_active_memslots()."""
        self._active ^= 1
        self.generation += self._nr_as_ids

    def _inactive(self) -> IdHash:
        return self._orders[self._active ^ 1]

    def invalidate(self, slot: Memslot) -> None:
        """Publish the INVALID copy of a slot. Source: kvm_invalidate_memslot()."""
        self._inactive().link(slot.id)
        self._swap()

    def revert(self, slot: Memslot) -> None:
        """Publish the old slot again after prepare failed. Source: kvm_activate_memslot(kvm, invalid_slot, old)."""
        self._swap()
        self._inactive().link(slot.id)

    def create(self, slot: Memslot) -> None:
        """Publish a new slot. Source: kvm_create_memslot()."""
        self._by_id[slot.id] = slot
        self._by_base[slot.base_gfn] = slot
        self._listed = None
        self._inactive().link(slot.id)
        self._swap()
        self._inactive().link(slot.id)

    def delete(self, slot: Memslot) -> None:
        """Publish the sets without a slot, after invalidate(). Source: kvm_delete_memslot()."""
        del self._by_id[slot.id]
        del self._by_base[slot.base_gfn]
        self._listed = None
        self._inactive().unlink(slot.id)
        self._swap()
        self._inactive().unlink(slot.id)

    def replace(self, old: Memslot, new: Memslot) -> None:
        """Publish a slot in place of another with the same id. Source: kvm_move_memslot(), kvm_update_flags_memslot()."""
        if new.base_gfn != old.base_gfn:
            del self._by_base[old.base_gfn]
        self._by_id[new.id] = new
        self._by_base[new.base_gfn] = new
        self._listed = None
        self._inactive().link(new.id)
        self._swap()
        self._inactive().link(new.id)

    def drop_all(self) -> list[Memslot]:
        """Empty both sets at VM destruction and return what was there, in the order of set 1. Source: kvm_free_memslots()."""
        slots = [self._by_id[slot_id] for slot_id in self._orders[1]]
        self._by_id.clear()
        self._by_base.clear()
        self._listed = None
        self._orders = (IdHash(), IdHash())
        return slots
