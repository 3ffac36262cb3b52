"""Note the places where one might expect the policies to differ and they do not: the other half of the catalogue."""

from collections.abc import Sequence
from typing import Final

from replay.analyses.catalogue import AGREEMENTS
from replay.analyses.findings import Agreement
from replay.analyses.hazards import CHANGES, CommonRaces
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.events import MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import CREATE, FLAGS_ONLY, MOVE
from replay.kvm.run_columns import differing
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY
from replay.runs import QUERY, REMOVE, Constant, Run
from replay.units import ESRCH

_WHOLE: Final = -1
_NOTED: Final = frozenset({CREATE, FLAGS_ONLY, MOVE})
"""What memslot calls do that can be worth a note."""
Slots = dict[tuple[int, int], None]  # (as_id, id)


def _alike(run: Run, one: RunOutcome, other: RunOutcome) -> bool:
    """Tell whether a run has the same warnings and results in two lanes."""
    rows = len(run)
    return not len(differing(one.warned(rows), other.warned(rows))) and one.rets == other.rets


def _tracks_always(lane: Lane) -> bool:
    """Tell whether the policy allocates without the option too, as kernels from before it."""
    return lane.policy.external_term(False, False, False)


class _VmStory:
    """What happened to one VM so far, as recorded. counted: memslots with counters that are not zero and no node to own them."""

    def __init__(self) -> None:
        self.nodes = 0
        self.registered = False
        self.rooted = False
        self.as_ids: dict[int, None] = {}
        self.counted: Slots = {}


class Agreements:
    """Watch a replay for the rows of AGREEMENTS."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = [lane for lane in lanes if lane.policy.kernel] or list(lanes)
        self._kernels = [index for index, lane in enumerate(lanes) if lane.policy.kernel]
        self._found: dict[str, list[int]] = {}
        self._stories: dict[int, _VmStory] = {}
        self._races = CommonRaces(lanes, self._note)

    def _note(self, row: str, event: int) -> None:
        self._found.setdefault(row, [0, event])[0] += 1

    def step(self, step: Step) -> None:
        """Take one structural event; where results differ there is no agreement."""
        outcomes = [one for index in self._kernels if (one := step.outcomes[index]) is not None]
        if not outcomes:
            return
        ret = outcomes[0].ret
        for outcome in outcomes:
            if outcome.ret != ret:
                return
        self._races.step(step)
        vm: int | None = getattr(step.event, "vm", None)
        number = _WHOLE if vm is None else vm
        story = self._stories.get(number)
        if story is None:
            story = self._stories[number] = _VmStory()
        if type(step.event) is MemslotSet:
            self._memslot(step.event, step.number, outcomes[0].change, story)
        elif isinstance(step.event, NotifierRegister):
            self._register(step.number, outcomes[0], story)
        elif isinstance(step.event, NotifierUnregister):
            story.nodes = max(0, story.nodes - 1)
            if not story.nodes:
                story.counted = self._counted(step.event.vm)
        elif isinstance(step.event, ShadowRootAlloc) and outcomes[0].ret == 0:
            if story.registered and not story.rooted:
                self._note("D6", step.number)
            story.rooted = True

    def memslot(self, step: Step, event: MemslotSet, change: str) -> None:
        """Do what `step()` does with a memslot call that all lanes answered alike."""
        if not self._kernels:
            return
        if change in CHANGES:
            self._races.step(step)
        if change in _NOTED:
            story = self._stories.get(event.vm)
            if story is None:
                story = self._stories[event.vm] = _VmStory()
            self._memslot(event, step.number, change, story)

    def _memslot(self, event: MemslotSet, number: int, change: str, story: _VmStory) -> None:
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
        elif change == MOVE and (event.slot >> 16, event.slot & 0xFFFF) in story.counted and not story.nodes:
            self._note("D15", number)

    def _counted(self, number: int) -> Slots:
        """Return the memslots with counters in every lane: after the last node left, nobody takes them back."""
        found: list[Slots] = []
        for lane in self._lanes:
            vm = lane.machine.vms.get(number)
            found.append({} if vm is None else {slot.key: None for slot in vm.slots() if slot.arch.counts})
        return {key: None for key in found[0] if all(key in slots for slots in found)}

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
        first, wanted = step.outcomes[0], self._wanted(step.run)
        if not wanted or any(outcome is not first and not _alike(step.run, outcome, first) for outcome in step.outcomes):
            return
        for kind in wanted:
            for row in [row for row, one in enumerate(step.run.kind) if one == kind]:
                story = self._stories.get(step.run.vm[row])
                if kind == QUERY:
                    self._query(step, row, story)
                elif story is not None and story.registered and not story.nodes:
                    self._note("D13", step.first + row)

    def _wanted(self, run: Run) -> list[int]:
        """Return the kinds of rows that can be worth a note. Cost: proportional to the VMs, as nearly no run has such rows."""
        kinds, found = run.kinds(), []
        if QUERY in kinds:
            tracked = [self._stories[vm].registered or self._stories[vm].rooted for vm in run.vms() if vm in self._stories]
            plain = isinstance(run.as_id, Constant) and not run.as_id.number
            found += [] if plain and len(tracked) == len(run.vms()) and all(tracked) else [QUERY]
        if REMOVE in kinds and any(story.registered and not story.nodes for story in self._stories.values()):
            found.append(REMOVE)
        return found

    def _query(self, step: RunStep, row: int, story: _VmStory | None) -> None:
        if step.run.as_id[row] and self._tracked_in_0(step.run.vm[row], step.run.gfn[row]):
            self._note("D35", step.first + row)
        elif story is None or not (story.registered or story.rooted):
            self._note("D22", step.first + row)

    def _tracked_in_0(self, number: int, gfn: int) -> bool:
        vm = self._lanes[0].machine.vms.get(number)
        slot = None if vm is None else vm.spaces[0].by_gfn(gfn)
        return slot is not None and slot.arch.counts.get(gfn - slot.base_gfn, 0) > 0

    def finish(self) -> tuple[Agreement, ...]:
        """Return what was noted, in catalogue order."""
        if all(not lane.profile.tdp for lane in self._lanes):
            self._found["D26"] = [1, _WHOLE]
        if all(not lane.profile.config_external_write_tracking and not _tracks_always(lane) for lane in self._lanes):
            self._found["D27"] = [1, _WHOLE]
        return tuple(
            Agreement(
                catalogue=row,
                count=self._found[row][0],
                first_event=None if self._found[row][1] == _WHOLE else self._found[row][1],
                title=rule.title,
                text=rule.explanation,
                source=rule.source,
            )
            for row, rule in AGREEMENTS.items()
            if row in self._found
        )
