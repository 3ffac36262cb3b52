"""Note the places where one might expect the policies to differ and they do not: the other half of the catalogue."""

from collections.abc import Sequence
from typing import Final

from replay.analyses.catalogue import AGREEMENTS
from replay.analyses.findings import Agreement
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.events import MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import CREATE, FLAGS_ONLY, MOVE
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY
from replay.runs import QUERY, REMOVE
from replay.units import ESRCH

_UNKNOWN: Final = -1


class _VmStory:
    """What happened to one VM so far, as recorded."""

    def __init__(self) -> None:
        self.nodes = 0
        self.registered = False
        self.rooted = False
        self.as_ids: dict[int, None] = {}


class Agreements:
    """Watch a replay for the rows of AGREEMENTS."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._found: dict[str, list[int]] = {}
        self._stories: dict[int, _VmStory] = {}

    def _note(self, row: str, event: int) -> None:
        self._found.setdefault(row, [0, event])[0] += 1

    def step(self, step: Step) -> None:
        """Take one structural event that all lanes answered alike."""
        outcomes = [outcome for outcome in step.outcomes if outcome is not None]
        if not outcomes or any(outcome.ret != outcomes[0].ret for outcome in outcomes):
            return
        vm = getattr(step.event, "vm", None)
        story = self._stories.setdefault(_UNKNOWN if vm is None else vm, _VmStory())
        if isinstance(step.event, MemslotSet):
            self._memslot(step.event, step.number, outcomes, story)
        elif isinstance(step.event, NotifierRegister):
            self._register(step.number, outcomes[0], story)
        elif isinstance(step.event, NotifierUnregister):
            story.nodes = max(0, story.nodes - 1)
        elif isinstance(step.event, ShadowRootAlloc) and outcomes[0].ret == 0:
            if story.registered and not story.rooted:
                self._note("D6", step.number)
            story.rooted = True

    def _memslot(self, event: MemslotSet, number: int, outcomes: list[Outcome], story: _VmStory) -> None:
        change = outcomes[0].change
        if change == CREATE:
            story.as_ids[event.slot >> 16] = None
            if event.flags & (KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD):
                self._note("D21", number)
            if story.registered:
                self._note("D3" if story.nodes else "D4", number)
            elif story.rooted:
                self._note("D34", number)
        elif change == FLAGS_ONLY:
            self._note("D20", number)
        elif change == MOVE and all(self._counts_lost(event, lane) for lane in self._lanes):
            self._note("D15", number)

    def _counts_lost(self, event: MemslotSet, lane: Lane) -> bool:
        """Tell whether the last MOVE dropped counters: the driver's own table still holds gfns that the new array has not."""
        vm = lane.machine.vms.get(event.vm)
        return vm is not None and bool(vm.external_adds) and not vm.nodes

    def _register(self, number: int, outcome: Outcome, story: _VmStory) -> None:
        if outcome.ret == -ESRCH:
            self._note("D23", number)
        if outcome.ret == 0:
            story.nodes += 1
            if len(story.as_ids) > 1 and not story.registered:
                self._note("D18", number)
            story.registered = True

    def run(self, step: RunStep) -> None:
        """Take one run."""
        first = step.outcomes[0]
        if any((outcome.log, outcome.rets) != (first.log, first.rets) for outcome in step.outcomes):
            return
        for row, kind in enumerate(step.run.kind):
            story = self._stories.get(step.run.vm[row])
            if kind == QUERY:
                self._query(step, row, story)
            elif kind == REMOVE and story is not None and story.registered and not story.nodes:
                self._note("D13", step.first + row)

    def _query(self, step: RunStep, row: int, story: _VmStory | None) -> None:
        if step.run.as_id[row]:
            self._note("D35", step.first + row)
        elif story is None or not (story.registered or story.rooted):
            self._note("D22", step.first + row)

    def finish(self) -> tuple[Agreement, ...]:
        """Return what was noted, in catalogue order."""
        if all(not lane.profile.tdp for lane in self._lanes):
            self._found["D26"] = [1, _UNKNOWN]
        if all(not lane.profile.config_external_write_tracking for lane in self._lanes):
            self._found["D27"] = [1, _UNKNOWN]
        return tuple(
            Agreement(
                catalogue=row,
                count=self._found[row][0],
                first_event=None if self._found[row][1] == _UNKNOWN else self._found[row][1],
                text=f"{rule.title}: {rule.explanation}",
            )
            for row, rule in AGREEMENTS.items()
            if row in self._found
        )
