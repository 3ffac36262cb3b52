"""Gather what keeps an answer from being certain: losses, opaque calls, unknown pasts, results that the model does not share.

"Cannot tell" is a verdict of its own: a recording that lacks what the answer needs must not say "no divergence".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from replay.analyses.findings import Uncertainty
from replay.analyses.order_report import CANNOT_TELL, NONE_FITS, OrderGroup
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.events import Event, Lost, MemslotSet, NotifierRegister, Opaque, ShadowRootAlloc, VmAttach
from replay.header import Machine, Trailer
from replay.kvm.kernel_log import GONE, NO_SLOT
from replay.kvm.machine import Outcome
from replay.kvm.run_outcome import RunOutcome

_CAP_EFFECT: Final = "it can change dirty bitmaps and KVM's internal memslots, no result and no other array"
_ORDER: Final = "the recording lacks a call, or its order is wrong"
_TDP_UNKNOWN: Final = "shadow roots were seen, but not whether tdp was off: they are taken for nested guests' where tdp is on"
EVERYTHING: Final = "everything"
SHADOW_PAGES: Final = "shadow_pages"
_RECORDER: Final = "record with the bpftrace recorder, which reads the arguments in the kernel"


_LACKING: Final = {NO_SLOT: "write tracking of gfns without a memslot", GONE: "events on a VM that is gone"}
"""Warnings that say that the recording lacks something."""


class Doubts:
    """Collect uncertainties while a recording is replayed; the same doubt of the same VM is counted, not repeated."""

    def __init__(self, lanes: Sequence[Lane], machine: Machine, replayed: Mapping[int, int] | None = None) -> None:
        """machine: the recorded one; what is not known of it matters where the model must guess. replayed: see `Ledger`."""
        self._replayed = {} if replayed is None else replayed
        self._lanes = lanes
        self._machine = machine
        self._tdp_unknown = machine.tdp is None and any(lane.profile.tdp for lane in lanes)
        self._found: dict[tuple[str, int | None], list[int]] = {}
        self._advice: dict[tuple[str, int | None], str] = {}
        self._places: dict[str, str] = {}
        self._harmless: dict[tuple[str, int | None], None] = {}
        self._affects: dict[tuple[str, int | None], str] = {}
        self._said: dict[str, None] = {}  # losses that events speak of

    def add(
        self,
        what: str,
        vm: int | None,
        event: int,
        advice: str = "",
        count: int = 1,
        *,
        matters: bool = True,
        affects: str = EVERYTHING,
    ) -> None:
        """Note one doubt; one that does not matter is said and leaves the verdict alone."""
        if not matters:
            self._harmless[what, vm] = None
        self._affects[what, vm] = affects if self._affects.get((what, vm), affects) == affects else EVERYTHING
        entry = self._found.setdefault((what, vm), [0, event])
        entry[0] += count
        self._advice[what, vm] = advice

    def step(self, step: Step) -> None:
        """Take one structural event."""
        event = step.event
        if type(event) is MemslotSet and event.ret is not None:
            if _none_refuses(step.outcomes):
                return
        elif self.evident(event, step.number):
            return
        for index, outcome in enumerate(step.outcomes):
            if outcome is not None and outcome.why == GONE and self._speaks(index, step.number):
                self.add("events on a VM that is gone", getattr(event, "vm", None), step.number, _ORDER)
                return

    def evident(self, event: Event, number: int) -> bool:
        """Take an event that says by itself, whatever it does in a lane, that something is not known; tell whether it does."""
        if _killed(event):
            what = f"{event.KIND} was not seen to return: it may or may not have taken effect"
            self.add(what, getattr(event, "vm", None), number, "the model assumes that it took effect")
        elif isinstance(event, Opaque):
            self._opaque(event, number)
        elif isinstance(event, VmAttach):
            what = "the VM was alive before the recording began: its earlier memslots are not known"
            self.add(what, event.vm, number, "start the recorder before the VMM")
        elif isinstance(event, Lost):
            self._lost(event, number)
        elif isinstance(event, ShadowRootAlloc) and self._tdp_unknown and event.inferred and not event.nested:
            self.add(_TDP_UNKNOWN, event.vm, number, "import with --machine tdp=0 or tdp=1")
        else:
            return False
        return True

    def _speaks(self, index: int, event: int) -> bool:
        """Tell whether what a lane lacks at an event is lacking in the recording: behind its horizon it is not."""
        lane = self._lanes[index]
        if lane.factual or lane.horizon is None:
            return True
        horizon = lane.horizon.event
        return self._replayed.get(event, event) <= self._replayed.get(horizon, horizon)

    def _lost(self, event: Lost, number: int) -> None:
        count = 1 if event.count is None else event.count
        advice = "record again with larger buffers" if event.affects == EVERYTHING else ""
        self.add(f"events are lost: {event.what}", event.vm, number, advice, count, affects=event.affects)
        self._said[event.what] = None

    def _opaque(self, event: Opaque, number: int) -> None:
        if event.foreign_mm or (event.ret is not None and event.ret < 0):
            return
        if event.name == "KVM_ENABLE_CAP":
            # What it can change of the model: dirty bitmaps (ring mode) and, by a split irqchip, one internal memslot.
            self.add(f"{event.name} with arguments that the recorder did not show", event.vm, number, _CAP_EFFECT, matters=False)
            return
        self.add(f"{event.name} with arguments that the recorder did not show", event.vm, number, _RECORDER)

    def order(self, group: OrderGroup) -> None:
        """Take a group of calls that overlap in time, of which there is something to say."""
        for what, advice in _order_doubts(group):
            self.add(what, group.vm, group.events[0], advice)

    def kept(self) -> bytes:
        """Return what events have said so far, for `resume()`; b"" for nothing."""
        rows = [
            [what, vm, *entry, self._advice[what, vm], (what, vm) not in self._harmless, self._affects[what, vm]]
            for (what, vm), entry in self._found.items()
        ]
        return json.dumps([rows, list(self._said)]).encode() if rows else b""

    def resume(self, kept: bytes) -> None:
        """Take what events before this replay have said. Raises ValueError for what `kept()` did not return."""
        try:
            rows, said = json.loads(kept or b"[[], []]")
            for what, vm, count, first, advice, matters, affects in rows:
                if what != _TDP_UNKNOWN or self._tdp_unknown:
                    self.add(what, vm, int(first), advice, int(count), matters=matters, affects=affects)
            self._said.update(dict.fromkeys(said))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None

    def lacking(self) -> None:
        """Note what a lane's kernel log says to be lacking, for those who did not see its rows: `run()` says where."""
        for lane in self._lanes:
            if lane.factual or lane.horizon is None:
                for reason, what in _LACKING.items():
                    count = lane.machine.log.counts.get(reason, 0)
                    if count and (what, None) not in self._found:
                        self.add(what, None, -1, _ORDER, count)

    def nothing_recorded(self) -> None:
        """Note that there is no VM: that lanes agree about nothing would be taken for an answer, in a CI job most of all."""
        self.add("no VM is in the recording: nothing was compared", None, -1, "check that it is the VMM that was recorded")

    def run(self, step: RunStep) -> None:
        """Take one run."""
        for index, outcome in enumerate(step.outcomes):
            reasons = outcome.reasons()
            if (NO_SLOT in reasons or GONE in reasons) and self._lacking(step, index, outcome):
                return  # one lane is enough: the recording is the same for all

    def _lacking(self, step: RunStep, index: int, outcome: RunOutcome) -> bool:
        """Note what a lane says that the recording lacks, by VM; tell whether there is any."""
        column, some = step.run.vm, False
        for reason, what in _LACKING.items():
            rows = outcome.rows_of(reason)
            if rows and self._lanes[index].horizon is not None:
                rows = [row for row in rows if self._speaks(index, step.first + row)]
            vms = [column[row] for row in rows]
            for number in dict.fromkeys(vms):
                self.add(what, number, step.first + rows[vms.index(number)], _ORDER, vms.count(number))
                some = True
        return some

    def finish(self, trailer: Trailer) -> tuple[Uncertainty, ...]:
        """Return all doubts, by first event."""
        for counter in trailer.counters:
            if counter.severity != "ignored" and counter.count and counter.kind not in self._said:
                word = "lost" if counter.severity == "lost" else "not understood"
                what = f"{word}: {counter.kind}"
                self.add(what, None, -1, count=counter.count)
                self._places[what] = counter.first
        for lane in self._lanes:
            self._lane(lane)
        self._unknown_kernel()
        return tuple(
            Uncertainty(
                what=what,
                count=count,
                first_event=None if first < 0 else first,
                place=self._places.get(what, ""),
                vm=vm,
                advice=self._advice[what, vm],
                matters=(what, vm) not in self._harmless,
                affects=self._affects[what, vm],
            )
            for (what, vm), (count, first) in sorted(self._found.items(), key=_order)
        )

    def _lane(self, lane: Lane) -> None:
        if lane.factual and lane.disagreement_count:
            first = lane.disagreements[0]
            what = f"the model of the recorded kernel disagrees with it: {first.sentence()}"
            self.add(
                what, None, first.event, "check the profile; if it is right, please report the recording", lane.disagreement_count
            )
        for number in lane.unattributed:
            what = "a recorded -ENOMEM whose failing allocation is not recorded: other lanes may fail there as well"
            self.add(what, None, number, "record with vmalloc:alloc_vmap_area to see which allocation failed")

    def _unknown_kernel(self) -> None:
        """Note that no lane gives the recorded results, when nothing says which of them should."""
        horizons = [lane.horizon for lane in self._lanes]
        if self._machine.kernel_release is not None or any(horizon is None for horizon in horizons):
            return
        last = max((horizon for horizon in horizons if horizon is not None), key=lambda horizon: horizon.event)
        what = f"no lane gives the recorded results; the last one that does fails at {last.sentence()}"
        self.add(what, None, last.event, "say which kernel was recorded: --profile release=6.8,config=y,tdp=1")


def _none_refuses(outcomes: Sequence[Outcome | None]) -> bool:
    return not any(outcome.why for outcome in outcomes if outcome is not None)


def _order_doubts(group: OrderGroup) -> Iterator[tuple[str, str]]:
    """Yield what is not known because calls overlap in time and can change the answer, and what to do about it."""
    if group.fits == NONE_FITS:
        yield "no order of calls that overlap in time gives the recorded results", "`kvm-replay check` names the calls"
    elif group.fits == CANNOT_TELL:
        yield f"whether calls that overlap in time fit in some order: {group.why}", _MORE if not group.complete else ""
    elif not group.complete:
        yield f"whether another order of calls that overlap in time gives other findings: {group.why}", _MORE
    elif group.matters:
        yield "calls overlap in time, and another order that fits as well leads to other results", ""


_MORE: Final = "try more orders: --order-budget"


def _order(entry: tuple[tuple[str, int | None], list[int]]) -> tuple[int, str, int]:
    (what, vm), (_count, first) = entry
    return (first, what, -1 if vm is None else vm)


def _killed(event: Event) -> bool:
    """Tell whether a call that changes the state was entered and never seen to return; times show that it was recorded."""
    if getattr(event, "ret", None) is not None:
        return False
    return isinstance(event, (MemslotSet, NotifierRegister, ShadowRootAlloc)) and event.source is not None and not event.inferred
