"""Promises of `blame`: every event that did something to a page, and no other, by whichever road."""

import random
from collections import Counter

import pytest
from bulk_worlds import World, profile_of
from lane_samples import CREATE, items, machine, slot

from replay.analyses.blame import PageCause, PageWatch
from replay.analyses.blame_scan import concerned
from replay.analyses.page_facts import page_facts
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import lockstep
from replay.events import (
    MemslotSet,
    NotifierRegister,
    ShadowPageAccount,
    ShadowRootAlloc,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackRemove,
)
from replay.kvm.policies import POLICIES, unbuildable
from replay.runs import Item, Run, events_of, run_of
from replay.units import Gfn

GFN = Gfn(3)
ADD, REMOVE = WriteTrackAdd(vm=0, gfn=GFN), WriteTrackRemove(vm=0, gfn=GFN)


def causes(lanes: list[Lane], stream: list[Item], gfn: int, **more: int) -> list[PageCause]:
    """Return the causes in order."""
    return list(PageWatch(lanes, gfn, **more).causes(lockstep(iter(stream), lanes)))


def said(stream: list[Item], *specs: str) -> list[tuple[int, list[tuple[int, ...]], list[tuple[str, ...]]]]:
    """Return (event, counters after, what changed and was warned) of each cause."""
    lanes = make_lanes(specs or ("eager", "on-demand"), machine())
    found = causes(lanes, stream, GFN)
    return [(one.number, [e.after for e in one.effects], [(*e.changes, *e.warnings) for e in one.effects]) for one in found]


class TestStory:
    """What is listed, and in which words."""

    def test_life_of_a_page(self) -> None:
        """From the VM's birth on: slot, array by policy, counts, underflow, deletion; a notifier keeps the VM to the end."""
        gone = MemslotSet(vm=0, slot=0, memory_size=0)
        stream = items(CREATE, slot(), slot(1), NotifierRegister(vm=0, ret=0), ADD, REMOVE, REMOVE, gone, VmDestroy(vm=0))
        found = said(list(stream))
        assert [number for number, _after, _words in found] == [0, 1, 3, 4, 5, 6, 7]
        words = {number: what for number, _after, what in found}
        site = "gfn_write_track allocated by kvm_page_track"
        assert words[1] == [
            ("memslot 0 holds the page, gfns 0x0 to 0xf", f"{site}_create_memslot()"),
            ("memslot 0 holds the page, gfns 0x0 to 0xf",),
        ]
        assert words[3] == [("write tracking enabled", f"{site}_register_notifier()")]
        assert words[4] == [("external users hold 1, before 0",)] * 2
        assert words[6] == [("WARN: write-track count below 0",)] * 2
        assert words[7][0] == ("memslot 0 does not hold the page any more, its array freed",)
        assert [after for number, after, _words in found if number in {4, 5}] == [[(1, 0)] * 2, [(0, 0)] * 2]

    def test_bug(self) -> None:
        """An add while tracking is disabled kills the VM: KVM_BUG_ON, in the lane where it is disabled."""
        found = said(list(items(CREATE, slot(), WriteTrackAdd(vm=0, gfn=Gfn(9)), ADD)))
        assert found[2] == (2, [(0, 0)], [("the VM is dead",)])
        assert found[3][2][-1][-1] == "KVM_BUG_ON: write tracking is not enabled"

    def test_failed(self) -> None:
        """A refused request for the page is listed with its reason; one for another page is not."""
        stream = list(items(CREATE, slot(), slot(0, npages=32), slot(1), slot(1, npages=32)))
        lanes = make_lanes(["eager"], machine())
        found = causes(lanes, stream, GFN)
        assert [(one.number, one.effects[0].ret) for one in found] == [(0, None), (1, None), (2, -22)]
        assert found[2].effects[0].why

    def test_address_space(self) -> None:
        """With as_id only that address space counts; without, both do, by name."""
        account = ShadowPageAccount(vm=0, gfn=GFN, as_id=1, level=2, nested=True)  # type: ignore[arg-type]
        stream = list(items(CREATE, slot(), slot(as_id=1), ShadowRootAlloc(vm=0, nested=True, ret=0), account))
        lanes = make_lanes(["eager"], machine())
        assert [one.number for one in causes(lanes, stream, GFN)] == [0, 1, 2, 4]
        for as_id, numbers in ((0, [0, 1]), (1, [0, 2, 4])):
            lanes = make_lanes(["eager"], machine())
            assert [one.number for one in causes(lanes, stream, GFN, as_id=as_id)] == numbers
        assert next(one for one in said(stream, "on-demand") if one[0] == 3)[2][0][0] == "write tracking enabled"


def worlds(seed: int, count: int = 30) -> tuple[list[Item], int]:
    """Return a random stream and a gfn that it often names."""
    rng = random.Random(seed)
    world = World(rng)
    stream: list[Item] = [*world.start(), *(world.run() if rng.random() < 0.6 else world.structural() for _ in range(count))]
    named = Counter(gfn for item in stream if isinstance(item, Run) for gfn in item.gfn)
    return stream, rng.choice([gfn for gfn, _often in named.most_common(6)] or [0])


def lanes_of(seed: int) -> list[Lane]:
    """Return two or three lanes under random policies."""
    rng = random.Random(seed)
    profile = profile_of(random.Random(seed), seed)
    buildable = [policy for policy in POLICIES if not unbuildable(policy, config=profile.config_external_write_tracking)]
    tdp = rng.choice((None, True, False))
    return [Lane(f"{i}", rng.choice(buildable), profile, factual=False, recorded_tdp=tdp) for i in range(rng.choice((2, 3)))]


class TestRoads:
    """The same causes by every road."""

    @pytest.mark.parametrize("seed", range(24))
    def test_runs_and_single_events(self, seed: int) -> None:
        """A run as a whole gives the causes of its events one by one, in each lane, warnings included."""
        stream, gfn = worlds(seed)
        short = [item if not isinstance(item, Run) else item.select(range(min(len(item), 150))) for item in stream]
        single = [run_of([event]) if event.HOT else event for event in events_of(iter(short))]  # type: ignore[list-item]
        whole = causes(lanes_of(seed), short, gfn)
        assert whole == causes(lanes_of(seed), single, gfn)
        assert whole

    def test_enough_happens(self) -> None:
        """The random pages see counts, warnings, memslots that come and go, and arrays."""
        met: Counter[str] = Counter()
        for seed in range(8):
            stream, gfn = worlds(seed)
            for cause in causes(lanes_of(seed), stream, gfn):
                met.update(warning for effect in cause.effects for warning in effect.warnings)
                met.update(change.split("()")[0].rstrip("0123456789") for effect in cause.effects for change in effect.changes)
                met["counted"] += any(effect.before != effect.after for effect in cause.effects)
        assert met["counted"] > 200
        assert met["WARN: write-track count below 0"] > 20
        assert sum(1 for what in met if "holds the page" in what or "allocated" in what or "hold the page" in what) >= 4

    @pytest.mark.parametrize("seed", range(24))
    def test_scan(self, seed: int) -> None:
        """Every cause is within what the scan finds, but for what other pages do."""
        stream, gfn = worlds(seed)
        found = set(concerned(iter(stream), gfn, None))
        lowest: dict[int, int] = {}
        first = 0
        for item in stream:
            length = len(item) if isinstance(item, Run) else 1
            lowest |= dict.fromkeys(range(first, first + length), first)
            first += length
        runs_found = {lowest[number] for number in found}
        all_causes = causes(lanes_of(seed), stream, gfn)
        assert len(all_causes) >= 3
        for cause in all_causes:
            others = any("dead" in change or "allocated" in change for effect in cause.effects for change in effect.changes)
            assert lowest[cause.number] in runs_found or others

    def test_facts_of_a_vm_that_is_not_there(self) -> None:
        """There are none."""
        assert page_facts(lanes_of(1)[0], 7, 0) is None
