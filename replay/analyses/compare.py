"""Replay one recording through several lanes and report every divergence: the main job.

The first lane is the reference; each other lane is held against it. Memory grows with what lives in the VMs and with the
findings, never with the recording.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from replay.analyses.agreements import Agreements
from replay.analyses.compare_report import (
    WITHOUT_ARGUMENTS,
    CompareReport,
    Count,
    Fact,
    HorizonReport,
    LaneReport,
    PairReport,
    VmBytes,
    bytes_of,
)
from replay.analyses.exposure import ExposureTally
from replay.analyses.findings import CLASSES, strength
from replay.analyses.hazards import Hazards
from replay.analyses.order_report import DEFAULT_BUDGET, REORDERED, OrderGroup
from replay.analyses.orders import Orders
from replay.analyses.pair import Pair
from replay.analyses.pair_runs import RunDifference
from replay.analyses.state_at import loss_advice
from replay.analyses.uncertainty import Doubts
from replay.analyses.usual_calls import UsualCalls
from replay.analyses.verdict import conclude
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step, lockstep_numbered
from replay.errors import EmptyError
from replay.events import Event, MemslotSet, NotifierRegister, Opaque, ShadowRootAlloc, TssSet, VcpuCreate, VmAttach, VmCreate
from replay.kvm.allocator import ARRAYS, GFN_WRITE_TRACK
from replay.kvm.tallies import Tally
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Item
from replay.stream import Stream


@attrs.define(eq=False, repr=False)
class _Census:
    """What was replayed, in at least one lane, of the things that matter for write tracking."""

    events: int = 0
    vms: int = 0
    registrations: int = 0
    shadow_roots: int = 0
    external_changes: int = 0
    shadow_pages: int = 0
    memslot_calls: int = 0
    internal_calls: int = 0
    opaque_calls: int = 0

    def usual(self, calls: UsualCalls) -> None:
        """Count the calls that were taken without a look at each."""
        self.events += calls.memslots + calls.quiet
        self.memslot_calls += calls.memslots

    def step(self, step: Step) -> None:
        """Count one structural event."""
        self.events += 1
        if type(step.event) is MemslotSet:
            self.memslot_calls += 1  # which can happen under any profile
            return
        if all(outcome is None for outcome in step.outcomes):
            return
        name = _COUNTED.get(type(step.event))
        if name is not None:
            setattr(self, name, getattr(self, name) + 1)

    def run(self, step: RunStep, *, nested_only: bool) -> None:
        """Count one run; nested_only: no lane replays other shadow pages."""
        run, kinds = step.run, step.run.kinds()
        self.events += len(run)
        self.external_changes += kinds.get(ADD, 0) + kinds.get(REMOVE, 0)
        pages = kinds.get(ACCOUNT, 0) + kinds.get(UNACCOUNT, 0)
        if pages and nested_only:
            pages = sum(kind >= ACCOUNT and nested for kind, nested in zip(run.kind, run.nested, strict=True))
        self.shadow_pages += pages

    def report(self) -> tuple[Count, ...]:
        """Return the counts with the words of the report."""
        opaque = (Count(name=WITHOUT_ARGUMENTS, count=self.opaque_calls),) if self.opaque_calls else ()
        return (
            Count(name="memslot calls", count=self.memslot_calls),
            Count(name="calls that may make internal memslots", count=self.internal_calls),
            Count(name="notifier registrations", count=self.registrations),
            Count(name="shadow roots", count=self.shadow_roots),
            Count(name="write-track changes by external users", count=self.external_changes),
            Count(name="shadow pages created or zapped", count=self.shadow_pages),
            *opaque,
        )


_COUNTED: Final[dict[type[Event], str]] = {
    VmCreate: "vms",
    VmAttach: "vms",
    NotifierRegister: "registrations",
    ShadowRootAlloc: "shadow_roots",
    TssSet: "internal_calls",
    VcpuCreate: "internal_calls",
    Opaque: "opaque_calls",
}
"""What the census counts of each kind of event."""


class Comparison:
    """One comparison under way: take every step of a lockstep, then `report()`."""

    def __init__(self, stream: Stream, lanes: Sequence[Lane], *, listed: bool = True) -> None:
        """Begin with lanes that have replayed nothing.

        listed: False for whoever reads the verdict, the counts of findings and the bytes of write tracking only; the rest of the
        report is left out then: findings, agreements but for those the verdict names, and what lanes did.
        """
        self._stream = stream
        self.lanes = list(lanes)
        header = stream.header
        self._replayed: dict[int, int] = {}  # see Ledger
        self._pairs = [Pair(lanes[0], other, header, replayed=self._replayed, listed=listed) for other in lanes[1:]]
        hazards = [Hazards((pair.reference, pair.other), header, pair.ledger.add) for pair in self._pairs]
        self._listed = listed
        self._watchers = list(zip(range(1, len(lanes)), self._pairs, hazards, strict=True))
        self._doubts = Doubts(lanes, header.machine, self._replayed)
        self._agreements = Agreements(lanes)
        self._exposures = [ExposureTally() for _ in lanes]
        exposures = self._exposures if listed else ()
        self._calls = UsualCalls(self._watchers, self._agreements if listed else None, exposures)
        self._checked = [0] * len(lanes)
        self._census = _Census()
        self._nested_only = all(lane.leaves_out_shadow_paging for lane in lanes)

    def step(self, step: Step | RunStep) -> None:
        """Take one step."""
        if isinstance(step, RunStep):
            self._run(step)
            return
        if self._calls.take(step):
            return
        self._census.step(step)
        self._doubts.step(step)
        for index, pair, hazards in self._watchers:
            pair.step(step, index)
            hazards.step(step, index)
        if self._listed:
            self._agreements.step(step)
            self._expose(step)

    def _expose(self, step: Step) -> None:
        """Count what can fail in each lane, and the recorded results that are held against it."""
        recorded, kind, checked = getattr(step.event, "ret", None) is not None, step.event.KIND, self._checked
        for index, outcome in enumerate(step.outcomes):
            if outcome is not None:
                self._exposures[index].step(kind, outcome)
                if recorded and outcome.ret is not None:
                    checked[index] += 1

    def order(self, group: OrderGroup) -> None:
        """Take what was found of calls that overlap in time."""
        self._doubts.order(group)
        if group.fits == REORDERED:
            self._replayed.update(zip(group.chosen, group.events, strict=True))

    def _run(self, step: RunStep) -> None:
        self._census.run(step, nested_only=self._nested_only)
        self._doubts.run(step)
        if self._listed:
            self._agreements.run(step)
        known = list[RunDifference]()
        for index, pair in enumerate(self._pairs, 1):
            pair.run(step, index, known)
        recorded, _results = step.run.recorded()
        if recorded:
            self._checked = [count + recorded for count in self._checked]

    def report(self, orders: Orders | None = None) -> CompareReport:
        """Return the findings and the verdict, once. Raises EmptyError when the recording has no event.

        orders: what chose the order of overlapping calls, None when the events were taken as they stand.
        """
        self._census.usual(self._calls)
        self._calls.finish()
        if not self._census.events:
            advice = loss_advice(self._stream.trailer()) or "check what the recorder was told to record"
            raise EmptyError("the recording has no events", expected="at least one", advice=advice)
        for pair in self._pairs:
            pair.finish()
        if not self._census.vms:
            self._doubts.nothing_recorded()
        draft = CompareReport(
            title=self._stream.header.title,
            events=self._census.events,
            vms=self._census.vms,
            verdict="same",
            sentence="",
            never=self._census.report(),
            lanes=tuple(self._lane(index) for index in range(len(self.lanes))),
            pairs=tuple(_pair_report(pair, listed=self._listed) for pair in self._pairs),
            agreements=self._agreements.finish(),
            uncertainties=self._doubts.finish(self._stream.trailer()),
            orders=None if orders is None else orders.report(),
        )
        return conclude(draft)

    def _lane(self, index: int) -> LaneReport:
        lane = self.lanes[index]
        tallies = lane.machine.allocator.tallies
        return LaneReport(
            name=lane.name,
            policy=lane.policy.name,
            kernel=lane.policy.kernel,
            factual=lane.factual,
            write_track=bytes_of(GFN_WRITE_TRACK, tallies[GFN_WRITE_TRACK]),
            **(self._details(index, lane, tallies) if self._listed else {}),
        )

    def _details(self, index: int, lane: Lane, tallies: Mapping[str, Tally]) -> dict[str, Any]:
        """Return what else is said of a lane, by field of its report."""
        assumed = {word.partition("=")[0] for word in lane.profile.assumed}
        horizon = lane.horizon
        return {
            "profile": tuple(
                Fact(name=name, value=value, assumed=name in assumed) for name, value in lane.profile.facts().items()
            ),
            "arrays": tuple(bytes_of(array, tallies[array]) for array in ARRAYS),
            "by_vm": tuple(
                VmBytes(vm=vm, write_track=bytes_of(GFN_WRITE_TRACK, tally))
                for vm, tally in sorted(lane.machine.allocator.write_track_by_vm.items())
            ),
            "exposure": self._exposures[index].report(),
            "warnings": tuple(Count(name=name, count=count) for name, count in sorted(lane.machine.log.counts.items())),
            "skipped": tuple(Count(name=name, count=count) for name, count in sorted(lane.skipped.items())),
            "checked": self._checked[index] + self._calls.memslots + self._calls.quiet,
            "horizon": None
            if horizon is None
            else HorizonReport(
                event=horizon.event,
                kind=horizon.kind,
                recorded=horizon.recorded,
                model=horizon.model,
                why=horizon.why,
                differing=lane.disagreement_count,
            ),
        }


def _pair_report(pair: Pair, *, listed: bool) -> PairReport:
    counts = pair.ledger.counts()
    found = [count.divergence for count in counts if count.count]
    strongest = max(found, key=strength, default="")
    above = [name for name in CLASSES if name not in found and (not strongest or strength(name) > strength(strongest))]
    return PairReport(
        reference=pair.reference.name,
        other=pair.other.name,
        bound=pair.bound,
        strongest=strongest,
        ruled_out=", ".join(above),
        classes=counts,
        findings=pair.ledger.findings() if listed else (),
        findings_omitted=pair.ledger.omitted if listed else sum(count.count + count.behind_horizon for count in counts),
    )


def compare(
    stream: Stream, lanes: Sequence[Lane], *, paranoid: bool = False, order_budget: int = DEFAULT_BUDGET, listed: bool = True
) -> CompareReport:
    """Replay a stream through lanes and return what differs. Raises RecordingError, SourceError, EmptyError for bad input.

    order_budget: calls that are tried for each group of calls that overlap in time. listed: see `Comparison`.
    """
    comparison = Comparison(stream, lanes, listed=listed)
    orders = Orders(lanes, budget=order_budget, noted=comparison.order)
    for step in lockstep_numbered(orders.numbered(stream.items()), lanes, paranoid=paranoid):
        comparison.step(step)
    return comparison.report(orders)


def watched(items: Iterator[Item], stream: Stream) -> Stream:
    """Return the stream with its items replaced, for progress displays that wrap them."""
    return _Watched(items, stream)


class _Watched:
    """A stream whose items pass through somebody else's hands."""

    def __init__(self, items: Iterator[Item], stream: Stream) -> None:
        self._items = items
        self._stream = stream
        self.header = stream.header
        self.trailer = stream.trailer
        self.warnings = stream.warnings

    def items(self) -> Iterator[Item]:
        """Yield the watched items."""
        return self._items
