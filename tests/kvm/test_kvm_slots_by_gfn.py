"""Promises of memslots kept by gfn: few or many, they are found as a plain walk finds them."""

import random
from typing import Any

import pytest
from lane import LAZY, Lane, P

from replay.events import MemslotSet
from replay.kvm import slots_by_gfn
from replay.kvm.memslot import Memslot
from replay.kvm.slots_by_gfn import SlotsByGfn
from replay.units import Gpa, Hva


@pytest.fixture(params=[0, 3, 1 << 10], ids=["sorted", "both", "listed"])
def _most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_by_gfn, "LISTED_MOST", request.param)


def slots_of(lane: Lane, count: int) -> list[Memslot]:
    """Return memslots with gaps between them, in any order."""
    for number in range(count):
        fields: dict[str, Any] = {
            "guest_phys_addr": Gpa(number * 8 * P),
            "memory_size": (1 + number % 8) * P,
            "userspace_addr": Hva(P),
        }
        assert lane.do(MemslotSet(vm=0, slot=number, **fields)).ret == 0
    found = list(lane.vm.spaces[0])
    random.Random(count).shuffle(found)
    return found


@pytest.mark.usefixtures("_most")
class TestSlotsByGfn:
    """The order of the gfns."""

    def test_equals_a_walk(self) -> None:
        """After each change: the slot of any gfn, the slots from any gfn on, and all of them in order."""
        rng, kept, there = random.Random(4), SlotsByGfn(), dict[int, Memslot]()
        slots = slots_of(Lane(LAZY), 40)
        for _ in range(400):
            slot = rng.choice(slots)
            if slot.base_gfn in there and rng.random() < 0.6:
                kept.remove(slot.base_gfn)
                del there[slot.base_gfn]
            else:
                kept.put(slot)
                there[slot.base_gfn] = slot
            expected = [there[base] for base in sorted(there)]
            gfn = rng.randrange(330)
            holds = [one for one in expected if one.base_gfn <= gfn < one.end_gfn]
            assert kept.at(gfn) is (holds[0] if holds else None)
            before = [one for one in expected if one.base_gfn <= gfn][-1:]
            assert list(kept.since(gfn)) == before + [one for one in expected if one.base_gfn > gfn]
            if rng.random() < 0.5:
                assert kept.listed() == expected

    def test_in_place_of_another(self) -> None:
        """A slot that begins where one begins already takes its place."""
        kept, slots = SlotsByGfn(), slots_of(Lane(LAZY), 5)
        twins = slots_of(Lane(LAZY), 5)
        for slot in (*slots, *twins):
            kept.put(slot)
        assert kept.listed() == sorted(twins, key=lambda slot: slot.base_gfn)
