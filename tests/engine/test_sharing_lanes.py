"""Promises of what lanes share: who agrees shares its counters, who parts is told so, and nobody is written to by another."""

from typing import Any

import attrs
import pytest
from lane_samples import CREATE, lane, machine, replay, slot

from replay.engine.agreement import agree, share_counters, share_slot, share_tables
from replay.engine.checkpoint import checkpoint_of, identity_of, key_of, restore
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, lockstep
from replay.events import NotifierRegister, NotifierUnregister, VmDestroy, WriteTrackAdd, WriteTrackQuery
from replay.kvm import fold
from replay.kvm.memslot import Memslot
from replay.runs import items_of, run_of
from replay.units import Gfn

BEGIN = (CREATE, slot(), NotifierRegister(vm=0, ret=0))


def alike(count: int = 2, spec: str = "eager") -> list[Lane]:
    """Return lanes that have replayed the same in one table, each with counters of its own."""
    lanes = [lane(spec) for _ in range(count)]
    share_tables(lanes)
    for one in lanes:
        replay(one, BEGIN)
    return lanes


def first_slot(one: Lane) -> Memslot:
    """Return the only slot of a lane."""
    (found,) = one.machine.vm(0).slots()
    return found


class TestShareSlot:
    """A new slot of lanes that agree otherwise."""

    def test_shares(self) -> None:
        """What one counts then, all count, as one owner for each."""
        slots = [first_slot(one) for one in alike(3)]
        assert share_slot(slots)
        assert {id(one.arch.counts.roots) for one in slots} == {id(slots[0].arch.counts.roots)}
        assert slots[0].arch.counts.roots.owners == 3

    def test_who_stays_behind(self) -> None:
        """Who goes over to others leaves one owner fewer where it was."""
        slots = [first_slot(one) for one in alike(3)]
        assert share_slot(slots[:2])
        assert share_slot([slots[2], slots[1]])
        assert [one.arch.counts.roots.owners for one in slots] == [1, 2, 2]
        assert [one.arch.lpage_moves.owners for one in slots] == [1, 2, 2]

    def test_without_arrays(self) -> None:
        """Slots that all have no array agree, and share nothing."""
        slots = [first_slot(replay(lane("on-demand"), BEGIN[:2])) for _ in range(2)]
        assert share_slot(slots)
        assert [one.arch.gfn_write_track for one in slots] == [None, None]

    def test_parts(self) -> None:
        """False when only some have the array, or the slot, and nothing is shared."""
        tracked, bare = first_slot(alike()[0]), first_slot(replay(lane("on-demand"), BEGIN[:2]))
        for slots in ([tracked, bare], [bare, tracked], [tracked, None]):
            assert not share_slot(slots)
        assert tracked.arch.counts.roots.owners == 1


class TestAgree:
    """Whether a VM is the same in two lanes."""

    def test_large_pages(self) -> None:
        """Lanes that count alike and differ in a disallow_lpage do not agree, on whichever side it is."""
        one, other = alike()
        assert agree(one, other, 0, spaces_matter=False)
        first_slot(one).arch.lpage_moves.bump(0, 1)
        assert not agree(one, other, 0, spaces_matter=False)
        assert not agree(other, one, 0, spaces_matter=False)

    def test_same(self) -> None:
        """Lanes that replayed the same agree; so they do on a VM that neither has seen, or both have seen end."""
        one, other = alike()
        assert agree(one, other, 0, spaces_matter=True)
        assert agree(one, other, 5, spaces_matter=True)
        for each in (one, other):
            replay(each, [VmDestroy(vm=0)])
        assert agree(one, other, 0, spaces_matter=True)

    def test_vm_of_one(self) -> None:
        """A VM that only one has, or only one has seen end, is not the same."""
        one, other = lane(), lane()
        share_tables([one, other])
        replay(one, [CREATE])
        assert not agree(one, other, 0, spaces_matter=True)
        replay(one, [VmDestroy(vm=0)])
        assert not agree(one, other, 0, spaces_matter=True)
        assert not agree(other, one, 0, spaces_matter=True)

    @pytest.mark.parametrize(
        "events",
        [
            [slot(3)],
            [slot(0, 0), slot(0, base=0x10)],
            [slot(0), slot(3)],
            [slot(0, 0), slot(0, 8)],
            [NotifierUnregister(vm=0), VmDestroy(vm=0)],
            [WriteTrackAdd(vm=0, gfn=Gfn(2), ret=0)],
        ],
        ids=["slot", "place", "same slot", "size", "gone", "count"],
    )
    def test_one_event_more(self, events: list[object]) -> None:
        """A slot, a place or a count that one lane has and the other has not parts them."""
        one, other = alike()
        replay(one, events)  # type: ignore[arg-type]  # one list of mixed events
        assert not agree(one, other, 0, spaces_matter=True)
        assert not agree(other, one, 0, spaces_matter=True)

    def test_tables(self) -> None:
        """Counters in tables of their own are not compared."""
        one, other = (replay(lane(), BEGIN) for _ in range(2))
        assert not agree(one, other, 0, spaces_matter=True)

    def test_a_lane_that_has_begun_keeps_its_table(self) -> None:
        """Tables are shared before the first event or not at all."""
        one, other = lane(), replay(lane(), BEGIN)
        share_tables([one, other])
        assert one.machine.allocator.counters is not other.machine.allocator.counters


class TestWrites:
    """Sharers stay what they are when one of them goes on alone."""

    @pytest.mark.parametrize("rows_least", [1, 1 << 20], ids=["bulk", "scalar"])
    def test_alone(self, rows_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lane that folds by itself counts in a copy."""
        monkeypatch.setattr(fold, "BULK_ROWS_LEAST", rows_least)
        monkeypatch.setattr(fold, "BULK_AFTER_ROWS", 0)
        one, other = alike()
        share_counters([one, other], 0)
        assert first_slot(one).arch.counts.roots is first_slot(other).arch.counts.roots
        one.fold(run_of([WriteTrackAdd(vm=0, gfn=Gfn(gfn), ret=0) for gfn in (1, 2, 2)]), 3)
        assert [dict(first_slot(each).arch.counts) for each in (one, other)] == [{1: 1, 2: 2}, {}]

    def test_a_deleted_slot(self) -> None:
        """What external users held in a slot that is deleted is held no more, in any of the lanes that shared it."""
        lanes = [lane(), lane(), lane("on-demand@config=n")]
        adds = [WriteTrackAdd(vm=0, gfn=Gfn(gfn), ret=0) for gfn in (1, 2, 2)]
        for _step in lockstep(items_of([*BEGIN, slot(1, base=0x1000), *adds, slot(0, 0)]), lanes):
            pass
        assert [dict(one.machine.vm(0).external_adds) for one in lanes] == [{}] * 3
        assert lanes[0].machine.vm(0).external_adds.roots is lanes[1].machine.vm(0).external_adds.roots

    def test_nothing_to_share(self) -> None:
        """A VM that no lane has has nothing to share."""
        lanes = alike()
        share_counters(lanes, 5)
        assert first_slot(lanes[0]).arch.counts.roots.owners == 1


class TestLanes:
    """What a lane is, and what it keeps."""

    def test_no_lanes(self) -> None:
        """A stream runs through no lanes at all, and every step says so."""
        steps = list(lockstep(items_of([*BEGIN, WriteTrackQuery(vm=0, gfn=Gfn(1))]), []))
        assert [step.outcomes for step in steps] == [[]] * 4
        assert isinstance(steps[-1], RunStep)

    def test_share_again_behind_a_checkpoint(self) -> None:
        """Lanes that are made again from a checkpoint count in one table, as they would from the start."""
        written = checkpoint_of(alike())
        lanes = [lane(), lane()]
        restore(lanes, written)
        assert lanes[0].machine.allocator.counters is lanes[1].machine.allocator.counters
        assert agree(lanes[0], lanes[1], 0, spaces_matter=True)

    def test_nothing_folded(self) -> None:
        """A lane that has replayed no run has no last one."""
        assert replay(lane(), BEGIN).folded is None

    def test_disagreements_are_bounded(self) -> None:
        """All are counted, the first hundred kept."""
        one = replay(lane(), [CREATE, *(slot(0, ret=-22) for _ in range(150))])
        assert one.disagreement_count == 150
        assert [found.event for found in one.disagreements] == list(range(1, 101))

    def test_key(self) -> None:
        """The key of a lane is that of what it is, not of what it is called."""
        name = make_lanes(["6.8"], machine())[0]
        assert name.name != lane().name
        assert key_of(name) == key_of(lane())
        assert identity_of(name) == identity_of(lane())
        others = [lane("on-demand"), lane("eager@tdp=n"), lane(recorded=machine("6.9")), lane("eager@config=n")]
        assert len({key_of(one) for one in [lane(), *others]}) == 5

    @pytest.mark.parametrize(
        "change", [{"flush_slot": True}, {"external_term": lambda config, _ext, disabled: config and not disabled}]
    )
    def test_key_of_changed_rules(self, change: dict[str, Any]) -> None:
        """A policy that keeps its name and answers otherwise, as a user's file that was changed does, has another key."""
        rules = lane("eager-6.6").policy
        policies = (attrs.evolve(rules), attrs.evolve(rules), attrs.evolve(rules, **change))
        keys = [key_of(make_lanes(["own"], machine(), own={"own": policy})[0]) for policy in policies]
        assert keys[0] == keys[1] != keys[2]
