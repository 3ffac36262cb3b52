"""Promises of replay.analyses.hazards: which recorded calls overlap, and what is said of them."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from comparisons import BOTH, agreements_of, findings_of, thread
from lane_samples import CREATE, machine, slot

from replay.events import Event, MemslotSet, NotifierRegister, ShadowRootAlloc, VmCreate, VmEnableCap
from replay.events.base import VmCall

NEW_KERNEL = machine("6.12")


def timed(event: VmCall, tid: int, enter: int, leave: int) -> VmCall:
    """Return a call with its thread, entered and left at these times."""
    return attrs.evolve(event, task=thread(tid), enter_time_ns=enter, time_ns=leave)


def register(tid: int, enter: int, leave: int, node: int = 0, ret: int = 0) -> VmCall:
    """Return a timed registration."""
    return timed(NotifierRegister(vm=0, node=node, ret=ret), tid, enter, leave)


def root(tid: int, enter: int, leave: int) -> VmCall:
    """Return a timed nested shadow root."""
    return timed(ShadowRootAlloc(vm=0, nested=True, ret=0), tid, enter, leave)


def flags(tid: int, enter: int, leave: int) -> VmCall:
    """Return a timed change of flags of slot 0."""
    return timed(slot(flags=1, ret=0), tid, enter, leave)


def delete(tid: int, enter: int, leave: int) -> VmCall:
    """Return a timed DELETE of slot 0."""
    return timed(MemslotSet(vm=0, slot=0, ret=0), tid, enter, leave)


def move(tid: int, enter: int, leave: int) -> VmCall:
    """Return a timed MOVE of slot 0."""
    return timed(slot(base=0x900, ret=0), tid, enter, leave)


def races(events: Sequence[Event], lanes: Sequence[str] = BOTH) -> list[str]:
    """Return the rows of the races that are found."""
    return [finding.catalogue for finding in findings_of([CREATE, slot(), *events], lanes) if finding.divergence == "race-only"]


class TestOverlap:
    """Two calls overlap when both were under way at one moment, in different threads."""

    @pytest.mark.parametrize(
        ("span", "count"),
        [
            ((0, 10), 0),  # before
            ((0, 20), 0),  # touching its entry
            ((0, 21), 1),
            ((25, 26), 1),  # inside
            ((10, 90), 1),  # around
            ((29, 50), 1),
            ((30, 50), 0),  # touching its return
            ((31, 50), 0),  # after
        ],
    )
    def test_spans(self, span: tuple[int, int], count: int) -> None:
        """A shared moment counts, a shared end does not; the order in the recording does not matter."""
        calls = [register(7, 20, 30), flags(8, *span)]
        assert races(calls) == races(calls[::-1]) == ["D36"] * count

    def test_one_thread(self) -> None:
        """A thread does one thing at a time: overlapping times of one are a fault of the clock."""
        assert races([register(7, 20, 30), flags(7, 25, 40)]) == []

    def test_short_calls_in_between(self) -> None:
        """A long call is found beside a short one that ended long before the long one did."""
        between = [timed(slot(2 + place, ret=0), 9, 20 + place, 21 + place) for place in range(5)]
        assert races([flags(8, 0, 10), *between, register(7, 5, 100)]) == ["D36"]

    @pytest.mark.parametrize("missing", ["task", "time_ns", "enter_time_ns"])
    def test_without_times(self, missing: str) -> None:
        """Nothing is said of calls whose thread or times are not known."""
        change: Any = flags(8, 25, 40)
        assert races([register(7, 20, 30), change]) == ["D36"]
        assert races([register(7, 20, 30), attrs.evolve(change, **{missing: None})]) == []

    def test_other_vm(self) -> None:
        """Calls on two VMs do not meet."""
        other = attrs.evolve(register(7, 20, 30), vm=1)
        assert races([VmCreate(vm=1, ret=11), other, flags(8, 25, 40)]) == []


class TestStaleCopy:
    """D36: a change of a memslot beside the call that enables write tracking."""

    @pytest.mark.parametrize("change", [flags, delete, move])
    @pytest.mark.parametrize("enabler", [register, root])
    def test_kinds(self, change: Callable[..., VmCall], enabler: Callable[..., VmCall]) -> None:
        """Flags changes, DELETE and MOVE beside a first registration or a first shadow root are candidates."""
        assert "D36" in races([change(8, 0, 25), enabler(7, 20, 30)])

    def test_create_is_safe(self) -> None:
        """A new memslot is published with its array or before the walk: no candidate."""
        assert races([timed(slot(1, ret=0), 8, 0, 25), register(7, 20, 30)]) == []

    def test_only_the_first_enables(self) -> None:
        """Once something enabled write tracking, or when the registration failed, there is no window."""
        assert races([root(7, 0, 5), flags(8, 10, 25), register(7, 20, 30)]) == []
        failing = NotifierRegister(vm=0, ret=-3, foreign_mm=True)
        assert races([flags(8, 10, 25), timed(failing, 7, 20, 30)]) == []

    def test_needs_exactly_one_late_lane(self) -> None:
        """It is a difference only where one lane allocates late; the order of the lanes does not matter."""
        calls = [flags(8, 10, 25), register(7, 20, 30)]
        assert races(calls, ["on-demand", "eager"]) == ["D36"]
        assert races(calls, ["eager", "eager-5.16"]) == []
        assert races(calls, ["on-demand", "6.9"]) == []
        assert races(calls, ["eager@tdp=0", "on-demand@tdp=0"]) == []
        assert races(calls, ["eager@config=n", "on-demand@config=n"]) == []

    def test_finding(self) -> None:
        """It names both calls, how long they overlap, and which lane is in danger."""
        (found,) = [f for f in findings_of([CREATE, slot(), flags(8, 10, 25), register(7, 20, 30)]) if f.catalogue == "D36"]
        assert (found.event, found.root_cause_event, found.vm) == (3, 2, 0)
        assert "memslot.set of thread 8 and notifier.register of thread 7 overlap by 5 ns" in found.root_cause
        assert [side.lane for side in found.sides] == ["eager", "on-demand"]
        assert "no schedule is dangerous" in found.sides[0].did
        assert "NULL array" in found.sides[1].did


class TestMove:
    """H3: a MOVE beside a registration."""

    def test_first_registration(self) -> None:
        """Beside the first one the lanes differ: on-demand waits."""
        assert sorted(races([move(8, 0, 25), register(7, 20, 30)])) == ["D36", "H3"]

    def test_later_registration(self) -> None:
        """Beside a later one every lane has the same candidate."""
        calls = [CREATE, slot(), root(6, 0, 5), move(8, 10, 25), register(7, 20, 30)]
        assert agreements_of(calls)["H3"] == (1, 4)
        assert [finding for finding in findings_of(calls) if finding.divergence == "race-only"] == []

    def test_old_api(self) -> None:
        """Up to 6.5 a MOVE tells the notifiers, so there is nothing to miss."""
        assert races([move(8, 0, 25), register(7, 20, 30)], ["eager-5.16", "on-demand"]) == ["D36"]


class TestAlike:
    """Overlaps that every lane has are agreements."""

    def test_two_registrations(self) -> None:
        """Two first registrations overlap (D25); of two nodes they are two vGPUs (H4)."""
        two = [CREATE, slot(), register(7, 20, 30), register(8, 25, 35, node=1)]
        assert agreements_of(two) == {"D25": (1, 3), "H4": (1, 3)}
        assert "H4" not in agreements_of([*two[:3], register(8, 25, 35)])
        assert agreements_of([CREATE, slot(), root(6, 0, 5), *two[2:]]) == {"H4": (1, 4)}
        assert agreements_of([*two[:3], register(8, 31, 35, node=1)]) == {}

    def test_stale_copy(self) -> None:
        """Where no lane has arrays before the enabling call, H1 is in all: without the option beside the first shadow root."""
        bare, change = ["eager@config=n", "on-demand@config=n"], [CREATE, slot(), flags(8, 10, 25)]
        assert agreements_of([*change, root(7, 20, 30)], bare)["D36"] == (1, 3)
        assert agreements_of([*change, root(7, 20, 30)], [*bare, "ideal@config=n"])["D36"] == (1, 3)
        assert agreements_of([*change, register(7, 20, 30)], ["on-demand", "6.9"])["D36"] == (1, 3)
        assert "D36" not in agreements_of([*change, register(7, 20, 30)], ["eager-5.16@config=n", "6.1@config=n"])
        assert "D36" not in agreements_of([*change, root(7, 26, 30)], bare)
        assert "D36" not in agreements_of([*change, root(7, 20, 30)])
        assert "D36" not in agreements_of([*change, root(7, 20, 30)], ["always@config=n", "on-demand@config=n"])
        assert "D36" not in agreements_of([*change, root(7, 20, 30)], ["eager@config=n+tdp=0", "on-demand@config=n+tdp=0"])
        later = [CREATE, slot(), root(6, 0, 5), flags(8, 10, 25), root(7, 20, 30)]
        assert "D36" not in agreements_of(later, bare)

    def test_rmap_twin(self) -> None:
        """A first shadow root beside a DELETE, where memslot changes do not zap all shadow pages (H1')."""
        quirk = VmEnableCap(vm=0, cap=213, args=(128,), ret=0)
        race = [delete(8, 10, 25), root(7, 20, 30)]
        assert agreements_of([CREATE, quirk, slot(), *race], recorded=NEW_KERNEL) == {"H1'": (1, 4)}
        typed = VmCreate(vm=0, ret=10, type=1)
        assert agreements_of([typed, slot(), *race], recorded=NEW_KERNEL) == {"H1'": (1, 3)}
        assert agreements_of([CREATE, slot(), *race], recorded=NEW_KERNEL) == {}
        assert agreements_of([CREATE, attrs.evolve(quirk, ret=-22), slot(), *race], recorded=NEW_KERNEL) == {}
        assert agreements_of([CREATE, attrs.evolve(quirk, args=(64,)), slot(), *race], recorded=NEW_KERNEL) == {}
        assert agreements_of([CREATE, quirk, slot(), *race]) == {}
        assert agreements_of([CREATE, quirk, slot(), *race], recorded=machine("6.12", tdp_mmu=False)) == {}

    def test_rmap_twin_after_a_registration(self) -> None:
        """A registration before does not close that window, as it makes no rmaps."""
        calls = [VmCreate(vm=0, ret=10, type=1), slot(), register(6, 0, 5), delete(8, 10, 25), root(7, 20, 30)]
        assert agreements_of(calls, recorded=NEW_KERNEL)["H1'"] == (1, 4)
