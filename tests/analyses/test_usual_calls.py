"""Promises of the short way for calls that lanes carry out alike: it says what the long way says, of each event."""

import random
from collections.abc import Sequence

import attrs
import pytest
from comparisons import BOTH, REGISTER, ROOT, thread
from lane_samples import CREATE, lane, machine, slot
from test_compare_properties import WITH_OPTION, stream

from replay.analyses import usual_calls
from replay.analyses.arrays import ArrayTracker
from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.deeds import ALIKE, deed_of, tracking_alone
from replay.analyses.hazards import Hazards
from replay.analyses.pair import Pair
from replay.analyses.usual_calls import UsualCalls
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import Step
from replay.events import DirtyLogGet, Event, MemslotSet, NotifierUnregister, VmDestroy
from replay.events.base import VmCall
from replay.header import Header
from replay.kvm.allocator import GFN_WRITE_TRACK, Allocation
from replay.kvm.vmalloc import vcalloc_cost
from replay.runs import Run, items_of
from replay.stream import MemoryStream

SEEDS = 12
LANES = (BOTH, ("on-demand", "eager", "v1", "v2", "ideal"), ("on-demand", "on-demand@tdp=0"))


def recorded(seed: int) -> tuple[Header, list[Event]]:
    """Return a stream of one machine with the results and times that it has under one policy."""
    rng = random.Random(seed)
    found, events = stream(seed, facts=WITH_OPTION)
    one, timed, now = lane("eager", found), list[Event](), 0
    for item in items_of(events):
        if isinstance(item, Run):
            one.fold(item, len(timed))
            timed += item.events()
            continue
        outcome = one.step(item, len(timed))
        now += rng.randrange(1, 400)
        if isinstance(item, VmCall) and outcome is not None and outcome.ret is not None:
            entered, task = max(1, now - rng.choice((50, 300))), thread(rng.randrange(3))
            timed.append(attrs.evolve(item, ret=outcome.ret, time_ns=now, enter_time_ns=entered, task=task))
        else:
            timed.append(item)
    return Header(machine=found), timed


def report(header: Header, events: Sequence[Event], names: Sequence[str]) -> CompareReport:
    """Compare some events."""
    return compare(MemoryStream(header, items_of(events)), make_lanes(names, header.machine))


class TestUsualCalls:
    """Calls that all lanes carry out alike but for write tracking."""

    @pytest.mark.parametrize("first", range(0, SEEDS, 6))
    def test_short_way_is_the_long_way(self, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A report is the same when each event is looked at for itself."""
        cases = [(*recorded(seed), names) for seed in range(first, first + 6) for names in LANES]
        short = [report(*case) for case in cases]
        monkeypatch.setattr(UsualCalls, "take", lambda *_: False)
        monkeypatch.setattr(ArrayTracker, "_tracking", lambda *_: False)
        assert [report(*case) for case in cases] == short
        assert any(pair.findings for one in short for pair in one.pairs)

    def test_vm_that_lives_on_in_one_lane(self) -> None:
        """Calls on all VMs that overlap in time are tried though a VM is gone in the first lane, and not in the others."""
        found = report(*recorded(62), LANES[1])
        assert found.orders is not None
        assert found.orders.groups > 0

    def test_most_calls_go_the_short_way(self) -> None:
        """Of the calls of an ordinary VMM all but the first are taken: creates, deletes, moves, flags and reads of dirty logs."""
        calls = [slot(1), slot(2), slot(2, base=64), slot(1, flags=1), DirtyLogGet(vm=0, slot=1, ret=0), slot(1, 0)]
        lanes, events = make_lanes(BOTH, machine()), [CREATE, *(attrs.evolve(call, ret=0) for call in calls)]
        taken = usual(lanes)
        assert [taken.take(step) for step in steps(events, lanes)] == [False, *[True] * len(calls)]
        assert (taken.memslots, taken.quiet) == (len(calls) - 1, 1)

    def test_refused_and_unfinished_calls_are_looked_at(self) -> None:
        """Not so a call that is refused, or that was not seen to return."""
        lanes = make_lanes(BOTH, machine())
        events = [CREATE, attrs.evolve(slot(1), ret=0), attrs.evolve(slot(1, 0), ret=None), attrs.evolve(slot(1, 0), ret=-2)]
        taken = usual(lanes)
        assert [taken.take(step) for step in steps(events, lanes)] == [False, True, False, False]

    def test_shapes_that_are_forgotten_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What lanes allocate is counted though few shapes are remembered."""
        events = [CREATE, *(attrs.evolve(slot(n, n + 1), ret=0) for n in range(6)), ROOT]
        before = report(Header(machine=machine()), events, BOTH)
        monkeypatch.setattr(usual_calls, "_SHAPES_MOST", 2)
        assert report(Header(machine=machine()), events, BOTH) == before
        assert [one.calls for one in before.lanes[0].exposure if one.call == MemslotSet.KIND] == [6]


class TestCounting:
    """Comparisons whose findings are counted only."""

    def test_counts_are_those_of_the_findings(self) -> None:
        """Verdict, classes and bytes of write tracking are the same as with all that can be read."""
        for seed in range(6):
            header, events = recorded(seed)
            listed = report(header, events, BOTH)
            counted = compare(MemoryStream(header, items_of(events)), make_lanes(BOTH, header.machine), listed=False)
            assert [pair.classes for pair in counted.pairs] == [pair.classes for pair in listed.pairs]
            assert [one.write_track for one in counted.lanes] == [one.write_track for one in listed.lanes]
            assert (counted.verdict, counted.events, counted.vms) == (listed.verdict, listed.events, listed.vms)
            assert [pair.findings for pair in counted.pairs] == [()]


def steps(events: Sequence[Event], lanes: Sequence[Lane]) -> list[Step]:
    """Replay structural events."""
    return [Step(number, event, [one.step(event, number) for one in lanes]) for number, event in enumerate(events)]


def usual(lanes: Sequence[Lane]) -> UsualCalls:
    """Return the short way of two lanes."""
    pair = Pair(lanes[0], lanes[1], Header())
    return UsualCalls([(1, pair, Hazards((lanes[0], lanes[1]), Header(), pair.ledger.add))], None, ())


def array(name: str, slot_id: int = 0, npages: int = 16) -> Allocation:
    """Return an array of a memslot."""
    return Allocation(1, "somewhere", name, vcalloc_cost(2 * npages), 0, 0, slot_id, 0)


TRACKED, RMAP = array(GFN_WRITE_TRACK), array("rmap")


class TestTrackingAlone:
    """Events in which lanes differ in write tracking alone."""

    def test_what_one_lane_has_is_found_between_what_both_have(self) -> None:
        """Arrays of one lane are named with the list that they are in."""
        other = array(GFN_WRITE_TRACK, 1)
        found = tracking_alone(([RMAP, TRACKED, RMAP], [], [RMAP, RMAP, other], []))
        assert found is not None
        assert found[0] == []
        assert [(key[2], at) for key, at, _one in found[1]] == [(0, 0), (1, 2)]

    def test_what_both_have_is_named(self) -> None:
        """Write tracking that both free is told apart."""
        assert tracking_alone(([], [RMAP, TRACKED], [], [RMAP, TRACKED])) == ([(0, 0, 0, GFN_WRITE_TRACK)], [])

    @pytest.mark.parametrize(
        "lists",
        [
            ([RMAP], [], [], []),
            ([], [], [RMAP], []),
            ([RMAP], [], [array("rmap", 1)], []),
            ([TRACKED], [TRACKED], [], []),
            ([TRACKED, RMAP], [], [RMAP, TRACKED], []),
        ],
        ids=["other array", "in the other lane", "of another memslot", "one that comes twice", "in another order"],
    )
    def test_more_than_that_is_left_to_the_long_way(self, lists: tuple[list[Allocation], ...]) -> None:
        """None says that there is more to it."""
        assert tracking_alone((lists[0], lists[1], lists[2], lists[3])) is None


class TestEnds:
    """Events that end what other events began."""

    def test_last_of_a_vm(self) -> None:
        """A VM that dies with its notifier ends the episodes of its memslots: each is told once."""
        events = [CREATE, *(attrs.evolve(slot(n), ret=0) for n in range(3)), REGISTER, NotifierUnregister(vm=0), VmDestroy(vm=0)]
        (pair,) = report(Header(machine=machine()), events, BOTH).pairs
        assert [(found.slot, found.converged_event) for found in pair.findings] == [(0, 4), (1, 4), (2, 4)]

    def test_deed_of_nothing(self) -> None:
        """Lanes that do the same have no deed of their own."""
        assert deed_of(((), ()), ([], [], [], [])) is None
        assert not ALIKE.changes
