"""Gather what keeps an answer from being certain: losses, opaque calls, unknown pasts, results that the model does not share.

"Cannot tell" is a verdict of its own: a recording that lacks what the answer needs must not say "no divergence".
"""

from collections.abc import Sequence
from typing import Final

from replay.analyses.findings import Uncertainty
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.events import Event, Lost, MemslotSet, NotifierRegister, Opaque, ShadowRootAlloc, VmAttach
from replay.header import Trailer
from replay.kvm.kernel_log import GONE, NO_SLOT

_CAP_EFFECT: Final = "it can change dirty bitmaps and KVM's internal memslots, no result and no other array"
_RECORDER: Final = "record with the bpftrace recorder, which reads the arguments in the kernel"


class Doubts:
    """Collect uncertainties while a recording is replayed; the same doubt of the same VM is counted, not repeated."""

    def __init__(self, lanes: Sequence[Lane], recorded_tdp: bool | None) -> None:
        """recorded_tdp: the header's fact; without it the cause of shadow roots is not known."""
        self._tdp_unknown = recorded_tdp is None and any(lane.profile.tdp for lane in lanes)
        self._found: dict[tuple[str, int | None], list[int]] = {}
        self._advice: dict[tuple[str, int | None], str] = {}
        self._harmless: dict[tuple[str, int | None], None] = {}

    def add(self, what: str, vm: int | None, event: int, advice: str = "", count: int = 1, *, matters: bool = True) -> None:
        """Note one doubt; one that does not matter is said and leaves the verdict alone."""
        if not matters:
            self._harmless[what, vm] = None
        entry = self._found.setdefault((what, vm), [0, event])
        entry[0] += count
        self._advice[what, vm] = advice

    def step(self, step: Step) -> None:
        """Take one structural event."""
        event = step.event
        if isinstance(event, Opaque):
            self._opaque(event, step.number)
        elif isinstance(event, VmAttach):
            what = "the VM was alive before the recording began: its earlier memslots are not known"
            self.add(what, event.vm, step.number, "start the recorder before the VMM")
        elif isinstance(event, Lost):
            count = 1 if event.count is None else event.count
            self.add(f"events are lost: {event.what}", event.vm, step.number, "record again with larger buffers", count)
        elif isinstance(event, ShadowRootAlloc) and self._tdp_unknown and event.inferred and not event.nested:
            what = "shadow roots were seen, but not whether tdp was off: they are taken for nested guests' where tdp is on"
            self.add(what, event.vm, step.number, "import with --machine tdp=0 or tdp=1")
        elif _killed(event):
            what = f"{event.KIND} was not seen to return: it may or may not have taken effect"
            self.add(what, getattr(event, "vm", None), step.number, "the model assumes that it took effect")
        elif any(outcome is not None and outcome.why == GONE for outcome in step.outcomes):
            self.add("events on a VM that is gone", getattr(event, "vm", None), step.number)

    def _opaque(self, event: Opaque, number: int) -> None:
        if event.foreign_mm or (event.ret is not None and event.ret < 0):
            return
        if event.name == "KVM_ENABLE_CAP":
            # What it can change of the model: dirty bitmaps (ring mode) and, by a split irqchip, one internal memslot.
            self.add(f"{event.name} with arguments that the recorder did not show", event.vm, number, _CAP_EFFECT, matters=False)
            return
        self.add(f"{event.name} with arguments that the recorder did not show", event.vm, number, _RECORDER)

    def run(self, step: RunStep) -> None:
        """Take one run."""
        for outcome in step.outcomes:
            for row, reason in outcome.log:
                if reason in {NO_SLOT, GONE}:
                    what = "write tracking of gfns without a memslot" if reason == NO_SLOT else "events on a VM that is gone"
                    self.add(
                        what, step.run.vm[row], step.first + row, "the recording lacks a memslot call, or its order is wrong"
                    )
            if outcome.log:
                return  # one lane is enough: the recording is the same for all

    def finish(self, lanes: Sequence[Lane], trailer: Trailer, warnings: Sequence[str]) -> tuple[Uncertainty, ...]:
        """Return all doubts, by first event."""
        for counter in trailer.counters:
            if counter.severity != "ignored" and counter.count:
                word = "lost" if counter.severity == "lost" else "not understood"
                self.add(f"{word}: {counter.kind}", None, -1, f"first at {counter.first}" if counter.first else "", counter.count)
        for lane in lanes:
            self._lane(lane)
        del warnings  # said on stderr by the caller; what matters of them is counted in the trailer
        return tuple(
            Uncertainty(
                what=what,
                count=count,
                first_event=None if first < 0 else first,
                vm=vm,
                advice=self._advice[what, vm],
                matters=(what, vm) not in self._harmless,
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


def _order(entry: tuple[tuple[str, int | None], list[int]]) -> tuple[int, str, int]:
    (what, vm), (_count, first) = entry
    return (first, what, -1 if vm is None else vm)


def _killed(event: Event) -> bool:
    """Tell whether a call that changes the state was entered and never seen to return; times show that it was recorded."""
    changes = isinstance(event, (MemslotSet, NotifierRegister, ShadowRootAlloc))
    return changes and getattr(event, "ret", None) is None and event.source is not None and not event.inferred
