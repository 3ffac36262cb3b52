"""Promises of replay.engine.lockstep: every lane sees every event, under the same numbers."""

import pytest
from lane_samples import CREATE, P, items, lane, machine, slot

from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, Step, lockstep
from replay.errors import EventError, InvariantError
from replay.events import AllocFail, Mark, NotifierRegister, ShadowRootAlloc, WriteTrackAdd, WriteTrackQuery
from replay.units import Gfn

ADDS = tuple(WriteTrackAdd(vm=0, gfn=Gfn(gfn)) for gfn in (1, 2, 2))
STORY = (CREATE, slot(), NotifierRegister(vm=0, ret=0), *ADDS, Mark(text="here"), WriteTrackQuery(vm=0, gfn=Gfn(2)))


def two_lanes() -> list[Lane]:
    """Return the two usual lanes."""
    return make_lanes(["eager", "on-demand"], machine())


class TestSteps:
    """One step an item, with an outcome a lane."""

    def test_numbers(self) -> None:
        """Events are numbered from 0, or from `first`, and runs count as many as they hold."""
        for first in (0, 100):
            steps = list(lockstep(iter(items(*STORY)), two_lanes(), first=first))
            numbers = [step.first if isinstance(step, RunStep) else step.number for step in steps]
            assert numbers == [first + number for number in (0, 1, 2, 3, 6, 7)]
            assert all(len(step.outcomes) == 2 for step in steps)

    def test_outcomes_are_the_lanes_own(self) -> None:
        """Each lane's outcome stands at its own place: on-demand allocates where eager does not."""
        steps = [step for step in lockstep(iter(items(*STORY)), two_lanes()) if isinstance(step, Step)]
        sizes = {
            step.number: [
                sum(made.cost.nominal_bytes for made in o.taken if made.array == "gfn_write_track") for o in step.outcomes if o
            ]
            for step in steps
        }
        assert (sizes[1], sizes[2]) == ([32, 0], [0, 32])

    def test_skipped_events_have_no_outcome(self) -> None:
        """What can not happen in a lane has None there."""
        lanes = make_lanes(["on-demand", "on-demand@tdp=1"], machine("6.12", tdp=False))
        last = list(lockstep(iter(items(CREATE, slot(), ShadowRootAlloc(vm=0, ret=0))), lanes))[-1]
        assert isinstance(last, Step)
        assert [outcome is None for outcome in last.outcomes] == [False, True]

    def test_bad_order(self) -> None:
        """An event on a VM that was never created ends the replay with its number."""
        with pytest.raises(EventError, match=r"event 1: VM 7 is not there"):
            list(lockstep(iter(items(CREATE, NotifierRegister(vm=7))), two_lanes()))

    def test_any_number_of_lanes(self) -> None:
        """Five lanes see the same stream."""
        lanes = make_lanes(["eager", "on-demand", "6.1", "6.12", "on-demand@config=n"], machine())
        steps = list(lockstep(iter(items(*STORY)), lanes))
        assert {len(step.outcomes) for step in steps} == {5}


class TestParanoid:
    """With paranoid every state is checked as it comes."""

    def test_sound_states_pass(self) -> None:
        """A sound replay yields the same steps with the checks as without."""
        plain = list(lockstep(iter(items(*STORY)), two_lanes()))
        checked = list(lockstep(iter(items(*STORY)), two_lanes(), paranoid=True))
        assert len(plain) == len(checked) == 6

    def test_who_does_not_ask_does_not_pay(self) -> None:
        """Unless it is asked for, states are not looked at."""
        one = lane()
        steps = lockstep(iter(items(*STORY)), [one])
        next(steps)
        one.machine.vm(0).nr_memslot_pages = P
        assert len(list(steps)) == 5

    def test_broken_state_is_named(self) -> None:
        """A state that breaks an invariant ends the replay with event, lane and invariant."""
        one = lane()
        steps = lockstep(iter(items(*STORY)), [one], paranoid=True)
        next(steps)
        one.machine.vm(0).nr_memslot_pages = P
        with pytest.raises(InvariantError, match=r"event 1, lane eager: I10: VM 0 nr_memslot_pages 4112, slots have 16"):
            next(steps)

    def test_a_wrong_counter_is_found(self) -> None:
        """The second count notices a counter that no event changed."""
        one = lane()
        steps = lockstep(iter(items(*STORY)), [one], paranoid=True)
        for _ in range(4):
            next(steps)
        next(one.machine.vm(0).slots()).arch.counts[5] = 1
        with pytest.raises(InvariantError, match=r"event 6, lane eager: I7"):
            next(steps)

    def test_the_last_event_of_a_run_is_named(self) -> None:
        """What a run breaks is said at its last event: which row it was is not known."""
        one = lane()
        steps = lockstep(iter(items(*STORY)), [one], paranoid=True, first=10)
        for _ in range(3):
            next(steps)
        one.machine.vm(0).nr_memslot_pages = P
        with pytest.raises(InvariantError, match=r"event 15, lane eager: I10"):
            next(steps)

    def test_a_fallen_flag_is_found(self) -> None:
        """What must never fall is remembered from step to step."""
        one = lane("on-demand", machine("6.12"))
        steps = lockstep(iter(items(*STORY)), [one], paranoid=True)
        for _ in range(3):
            next(steps)
        one.machine.vm(0).external_write_tracking_enabled = False
        with pytest.raises(InvariantError, match="I4"):
            next(steps)

    def test_what_a_failed_move_dropped(self) -> None:
        """Before 6.6 a MOVE that fails has dropped what drivers track already; the second count knows that."""
        story = (CREATE, slot(), NotifierRegister(vm=0, ret=0), *ADDS, AllocFail(nth=3), slot(base=0x50, ret=-12), *ADDS)
        one = lane("6.1", machine("6.1"))
        assert one.policy.flush_slot
        steps = list(lockstep(iter(items(*story)), [one], paranoid=True))
        failed = steps[-2]
        assert isinstance(failed, Step)
        assert [outcome and outcome.ret for outcome in failed.outcomes] == [-12]
        assert dict(next(one.machine.vm(0).slots()).arch.counts) == {1: 1, 2: 2}

    def test_skipped_rows_do_not_count(self) -> None:
        """Rows that a lane leaves out are not expected in its counters."""
        lanes = make_lanes(["on-demand@config=n"], machine())
        assert len(list(lockstep(iter(items(CREATE, slot(), *ADDS)), lanes, paranoid=True))) == 3
