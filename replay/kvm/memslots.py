"""Hold the memslots of one address space: by id, by gfn, in both sets' orders, with the generation.

At rest both sets link the same slot objects, so the slots are kept once and only the order and the active index twice.
Source: struct kvm_memslots, virt/kvm/kvm_main.c kvm_swap_active_memslots() [6.1, 6.12].
"""

from collections.abc import Iterator
from typing import Any

from replay.kvm.idhash import IdHash
from replay.kvm.memslot import Memslot
from replay.kvm.slots_by_gfn import SlotsByGfn


class Memslots:
    """All slots of one address space. Source: virt/kvm/kvm_main.c [6.1, 6.12]."""

    def __init__(self, as_id: int, nr_as_ids: int) -> None:
        self.as_id = as_id
        self.generation = as_id  # kvm_create_vm(): the generation starts at the address space's index
        self._nr_as_ids = nr_as_ids
        self._by_id: dict[int, Memslot] = {}
        self._by_gfn = SlotsByGfn()
        self._hashes = (IdHash(), IdHash())
        self._later: dict[int, bool] = {}
        """Ids that both sets link, or no longer do, in the order in which that came about; not done yet."""
        self._active = 0
        self.layout: Any = None
        """What bulk.py has worked out of the slots for its own use; see layout.py."""
        self.packed: Any = None
        """What the compiled loop knows of the slots; see compiled.py."""
        self.near: dict[int, Any] = {}
        """What the scalar rule knows of it between runs, by the as_id of rows; see near.py."""

    def forget_layout(self) -> None:
        """Forget what was worked out of the slots, as one got its array: nothing else of the space says so."""
        self.layout = self.packed = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Memslot]:
        """Walk the active set as kvm_for_each_memslot() does."""
        return iter([self._by_id[slot_id] for slot_id in self._orders[self._active]])

    @property
    def _orders(self) -> tuple[IdHash, IdHash]:
        """The orders of both sets. Few ask for them, so what changes both alike is done when somebody does."""
        if self._later:
            for slot_id, linked in self._later.items():
                for order in self._hashes:
                    if linked:
                        order.link(slot_id)
                    else:
                        order.discard(slot_id)
            self._later.clear()
        return self._hashes

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
            self._by_gfn.put(slot)
        for known, order in zip(self._orders, orders[:2], strict=True):
            for slot_id in reversed(order):
                known.link(slot_id)
        self._active, self.generation = orders[2], generation

    def by_base(self) -> list[Memslot]:
        """List the slots by first gfn. The list is the space's own and good until the slots change."""
        return self._by_gfn.listed()

    def by_id(self, slot_id: int) -> Memslot | None:
        """Return the slot with this id. Source: id_to_memslot()."""
        return self._by_id.get(slot_id)

    def by_gfn(self, gfn: int) -> Memslot | None:
        """Return the slot that holds a gfn. Source: __gfn_to_memslot()."""
        return self._by_gfn.at(gfn)

    def room(self, base_gfn: int, end_gfn: int) -> int:
        """Return the place by gfn of a new slot, for create_at_once(); -1 when another one lies in the range."""
        return self._by_gfn.room(base_gfn, end_gfn)

    def overlaps(self, base_gfn: int, end_gfn: int, but_id: int) -> bool:
        """Tell whether another slot lies in the range. Source: kvm_check_memslot_overlap()."""
        for slot in self._by_gfn.since(base_gfn):
            if slot.base_gfn >= end_gfn:
                return False
            if slot.id != but_id and slot.base_gfn + slot.npages > base_gfn:
                return True
        return False

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
        self._by_gfn.put(slot)
        self._inactive().link(slot.id)
        self._swap()
        self._inactive().link(slot.id)

    def delete(self, slot: Memslot) -> None:
        """Publish the sets without a slot, after invalidate(). Source: kvm_delete_memslot()."""
        del self._by_id[slot.id]
        self._by_gfn.remove(slot.base_gfn)
        self._inactive().unlink(slot.id)
        self._swap()
        self._inactive().unlink(slot.id)

    def replace(self, old: Memslot, new: Memslot) -> None:
        """Publish a slot in place of another with the same id. Source: kvm_move_memslot(), kvm_update_flags_memslot()."""
        if new.base_gfn != old.base_gfn:
            self._by_gfn.remove(old.base_gfn)
        slot_id = new.id
        self._by_id[slot_id] = new
        self._by_gfn.put(new)
        self._inactive().link(slot_id)
        self._swap()
        self._inactive().link(slot_id)

    # The same in one go, where nothing can fail: see at_once.py.

    def create_at_once(self, slot: Memslot, place: int) -> None:
        """Do what create() does, with a slot whose place by gfn is known."""
        self._by_gfn.insert(place, slot)
        self._put(slot, 1)

    def delete_at_once(self, slot: Memslot) -> None:
        """Do what invalidate() and delete() do."""
        slot_id = slot.id
        del self._by_id[slot_id]
        self._by_gfn.remove(slot.base_gfn)
        self._later[slot_id] = False
        self.generation += 2 * self._nr_as_ids

    def move_at_once(self, old: Memslot, new: Memslot) -> None:
        """Do what invalidate() and replace() do, with a slot that moves."""
        self._by_gfn.remove(old.base_gfn)
        self._by_gfn.put(new)
        self._put(new, 2)

    def change_at_once(self, new: Memslot) -> None:
        """Do what replace() does, with a slot that stays in its place."""
        self._by_gfn.put(new)
        self._put(new, 1)

    def _put(self, slot: Memslot, swaps: int) -> None:
        """Link a slot at the head in both sets, which are swapped so often."""
        slot_id, later = slot.id, self._later
        self._by_id[slot_id] = slot
        if slot_id in later:
            del later[slot_id]
        later[slot_id] = True
        self._active ^= swaps & 1
        self.generation += swaps * self._nr_as_ids

    def drop_all(self) -> list[Memslot]:
        """Empty both sets at VM destruction and return what was there, in the order of set 1. Source: kvm_free_memslots()."""
        slots = [self._by_id[slot_id] for slot_id in self._orders[1]]
        self._by_id.clear()
        self._by_gfn = SlotsByGfn()
        self._hashes = (IdHash(), IdHash())
        return slots
