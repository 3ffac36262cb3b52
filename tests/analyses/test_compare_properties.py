"""Properties of the comparison over random streams: nothing is overlooked, nothing is made up."""

import random
from collections.abc import Sequence
from typing import Any, Final

import attrs
import pytest
from comparisons import report_of
from slow_model import SlowWorld
from streams import Generator, facts_of

from replay.analyses.compare import Comparison
from replay.analyses.compare_report import CompareReport
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, lockstep
from replay.events import Event
from replay.header import Header, Machine
from replay.kvm.allocator import GFN_WRITE_TRACK
from replay.kvm.state import state_of, structure_of
from replay.runs import items_of
from replay.stream import MemoryStream

SEEDS: Final = 90
WITH_OPTION: Final = {"config_external_write_tracking": True}
"""Without it the lanes of both APIs do not replay the same events: there are no external users from 6.6 on."""
EVENTS: Final = 60


def stream(seed: int, *, facts: dict[str, Any] | None = None, vms: int = 2) -> tuple[Machine, list[Event]]:
    """Return a machine and a stream of events that fit it, decided by the seed alone; failures are not recorded."""
    rng = random.Random(seed)
    drawn = facts_of(rng) | (facts or {})
    world = SlowWorld("eager-6.6", drawn)
    generator = Generator(rng, vms, patient=rng.random() < 0.7)
    events: list[Event] = []
    queue = generator.start()
    while len(events) < EVENTS:
        event = queue.pop(0) if queue else generator.next(world)
        world.apply(event)
        events.append(event)
    major, minor, patch = drawn.pop("release")
    return Machine(kernel_release=f"{major}.{minor}.{patch}", **drawn), events


def lanes_of(recorded: Machine, policies: Sequence[str]) -> list[Lane]:
    """Return lanes of one machine."""
    return make_lanes(policies, recorded)


def compared(recorded: Machine, events: Sequence[Event], lanes: Sequence[Lane]) -> tuple[CompareReport, bool]:
    """Return the report, and whether the lanes ever differed in a result, a warning or the structure beside write tracking."""
    whole = MemoryStream(Header(machine=recorded), items_of(events))
    comparison = Comparison(whole, lanes)
    differed = False
    for step in lockstep(whole.items(), lanes, paranoid=True):
        comparison.step(step)
        if isinstance(step, RunStep):
            rows = [(outcome.log, outcome.rets, outcome.tracked_writes) for outcome in step.outcomes]
            differed |= rows[0] != rows[1]
        else:
            results = [None if outcome is None else (outcome.ret, outcome.log) for outcome in step.outcomes]
            differed |= results[0] != results[1]
        differed |= bare(lanes[0]) != bare(lanes[1])
    return comparison.report(), differed


def bare(lane: Lane) -> list[Any]:
    """Return the structure of a lane without its arrays and the flag that only one policy has."""
    found = []
    for number, shadow, _external, bugged, pages, nodes, spaces in structure_of(lane.machine):
        slots = [[space[0], *(slot[:-1] for slot in space[1:])] for space in spaces]
        found.append([number, shadow, bugged, pages, nodes, slots])
    return found


def arrays(lane: Lane) -> set[tuple[Any, ...]]:
    """Return the arrays that a lane holds: VM, address space, id, kind."""
    return {
        (vm.number, slot.as_id, slot.id, array.array)
        for vm in lane.machine.live_vms()
        for slot in vm.slots()
        for array in (*slot.arch.arrays(), *([] if slot.dirty_bitmap is None else [slot.dirty_bitmap]))
    }


class TestSamePolicy:
    """A policy against itself differs in nothing."""

    @pytest.mark.parametrize("policy", ["eager-5.16", "eager-6.6", "on-demand"])
    def test_no_findings(self, policy: str) -> None:
        """Two lanes of one policy and machine have no finding, whatever the stream, and end in one state."""
        met = 0
        for seed in range(SEEDS // 2):
            recorded, events = stream(seed)
            lanes = lanes_of(recorded, [policy, f"{policy}@la57={int(bool(recorded.la57))}"])
            report, differed = compared(recorded, events, lanes)
            assert (report.pairs[0].classes, report.pairs[0].findings, differed) == ((), (), False), seed
            assert state_of(lanes[0].machine) == state_of(lanes[1].machine)
            met += lanes[0].machine.allocator.tallies[GFN_WRITE_TRACK].count
        assert met > SEEDS


class TestTwoPolicies:
    """Eager against on-demand: the report says exactly what differs."""

    @pytest.mark.parametrize("lanes", [("eager-6.6", "on-demand"), ("on-demand", "eager-6.6"), ("eager-5.16", "on-demand")])
    def test_bytes_only_means_bytes_only(self, lanes: tuple[str, str]) -> None:
        """With nothing stronger than bytes no result, no warning and no structure but arrays ever differed; else it did."""
        kinds = {"none": 0, "bytes-only": 0, "stronger": 0}
        for seed in range(SEEDS):
            recorded, events = stream(seed, facts=WITH_OPTION)
            pair_lanes = lanes_of(recorded, lanes)
            report, differed = compared(recorded, events, pair_lanes)
            classes = {count.divergence for count in report.pairs[0].classes} - {"race-only"}
            kinds["stronger" if classes - {"bytes-only"} else "bytes-only" if classes else "none"] += 1
            assert differed == bool(classes - {"bytes-only"}), (seed, classes)
            if not classes:
                assert arrays(pair_lanes[0]) == arrays(pair_lanes[1]), seed
        assert min(kinds.values()) >= 5, kinds

    def test_bytes_add_up(self) -> None:
        """The stretches that are open at the end are the arrays that the lanes do not share, as long as results agree."""
        met = 0
        for seed in range(SEEDS):
            recorded, events = stream(seed, facts=WITH_OPTION)
            pair_lanes = lanes_of(recorded, ["eager-6.6", "on-demand"])
            report, differed = compared(recorded, events, pair_lanes)
            if differed:
                continue
            still_open = [found for found in report.pairs[0].findings if found.array and found.converged_event is None]
            missing = {(found.vm, found.as_id, found.slot, found.array) for found in still_open}
            eager, lazy = (arrays(lane) for lane in pair_lanes)
            assert eager ^ lazy == missing, seed
            met += len(missing)
        assert met >= 20

    def test_convergence(self) -> None:
        """From a successful registration or shadow root on, both have the same arrays, while their results agree."""
        met = 0
        for seed in range(SEEDS):
            recorded, events = stream(seed, vms=1, facts=WITH_OPTION)
            pair_lanes = lanes_of(recorded, ["eager-6.6", "on-demand"])
            _report, differed = compared(recorded, events, pair_lanes)
            vms = [lane.machine.vms.get(0) for lane in pair_lanes]
            if differed or vms[0] is None or vms[1] is None:
                continue
            if recorded.tdp and (vms[1].external_write_tracking_enabled or vms[1].shadow_root_allocated):
                assert arrays(pair_lanes[0]) == arrays(pair_lanes[1]), seed
                met += 1
        assert met >= 5


class TestRecordedResults:
    """A stream that was recorded on one of the kernels."""

    def test_factual_lane_agrees(self) -> None:
        """When the results of a lane are recorded, that lane is factual, agrees with all of them, and has no horizon."""
        met = 0
        for seed in range(SEEDS // 2):
            recorded, events = stream(seed)
            policy = "on-demand" if seed % 2 else "eager-6.6"
            recorded = attrs.evolve(recorded, kernel_release="6.12" if seed % 2 else "6.8")
            (source,) = make_lanes([policy], recorded)
            noted: list[Event] = []
            for step in lockstep(items_of(events), [source]):
                if isinstance(step, RunStep):
                    noted.extend(step.run.events())
                    continue
                (outcome,) = step.outcomes
                has_ret = hasattr(step.event, "ret") and outcome is not None and outcome.ret is not None
                noted.append(attrs.evolve(step.event, ret=outcome.ret) if has_ret and outcome is not None else step.event)  # type: ignore[call-arg]
            report = report_of(noted, ["eager-6.6", "on-demand"], recorded=recorded)
            factual = [lane for lane in report.lanes if lane.factual]
            assert [lane.policy for lane in factual] == [policy]
            assert factual[0].horizon is None, seed
            met += factual[0].checked
        assert met > 10 * SEEDS
