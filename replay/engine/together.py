"""Fold runs through several lanes at once: what lanes agree on is folded once.

For each VM the lanes fall into groups that agree; the first lane of a group folds for all of it, in counters that they share,
and the others take over what it found. A structural event on a VM makes its groups unknown; they are worked out anew when the
next run names it. Lanes that parted fold by themselves: exactly what each would do alone, in any case.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from replay.engine.agreement import agree, share_counters, share_slot, share_tables
from replay.engine.lane import Lane
from replay.events import Event, MemslotSet
from replay.kvm.fold import count_changes
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import CREATE, DELETE, MOVE
from replay.kvm.run_outcome import RunOutcome
from replay.runs import ADD, REMOVE, Constant, Run

Leads = tuple[int, ...]
"""For each lane the lane that folds for it: itself, or one before it."""


_CHANGES_SLOTS: Final = frozenset({CREATE, DELETE, MOVE})
"""What a memslot call did when there are other counters after it than before."""


class Together:
    """Several lanes in lockstep."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = tuple(lanes)
        self._leads: dict[int, Leads] = {}
        self._spaces_matter = len({lane.policy.register_checks_mm for lane in lanes}) < 2
        """Lanes with and without the API of 6.6 part for good when an external user names an address space other than 0."""
        if lanes:
            share_tables(lanes)
        self._driver_tables = list(dict.fromkeys(lane.machine.allocator.driver_counts for lane in lanes))
        self._flushes = any(lane.policy.flush_slot for lane in lanes)

    def step(self, event: Event, number: int) -> list[Outcome | None]:
        """Apply one structural event to each lane."""
        if type(event) is not MemslotSet:
            self._leads.pop(getattr(event, "vm", -1), None)
            return [lane.step(event, number) for lane in self.lanes]
        leads = self._leads.pop(event.vm, None)
        for table in self._driver_tables:
            table.waiting = []
        try:
            outcomes = [lane.step(event, number) for lane in self.lanes]
        finally:
            for table in self._driver_tables:
                if table.waiting:
                    table.drop_what_waits()
                table.waiting = None
        if leads is not None and not any(leads) and self._still_agree(event, outcomes):
            self._leads[event.vm] = leads
        return outcomes

    def _still_agree(self, event: MemslotSet, outcomes: Sequence[Outcome | None]) -> bool:
        """Tell whether lanes that all agreed on a VM do so after a memslot call; they share the slot's counters then.

        False when it is not sure. Nothing but the one slot can have changed, unless external users dropped what they track.
        """
        first = outcomes[0]
        if first is None or self._flushes:
            return False
        for outcome in outcomes:
            if outcome is None or outcome.change != first.change:
                return False
        if first.change not in _CHANGES_SLOTS:
            return True
        vms = [lane.machine.vms[event.vm] for lane in self.lanes]
        if first.change == DELETE:
            return all(vm.external_adds.roots is vms[0].external_adds.roots for vm in vms)
        return share_slot([vm.spaces[event.slot >> 16].by_id(event.slot & 0xFFFF) for vm in vms])

    def fold(self, run: Run, first: int) -> list[RunOutcome]:
        """Apply a run to all lanes; outcomes may be one object for several lanes."""
        if len(self.lanes) == 1:
            return [self._alone(self.lanes[0], run, first)]
        self._note_spaces(run)
        by_vm = {number: self._leads.get(number) or self._group(number) for number in run.vms()}
        patterns = list(dict.fromkeys(by_vm.values()))
        outcomes: list[RunOutcome] = []
        common = patterns[0] if len(patterns) == 1 else None
        for index, lane in enumerate(self.lanes):
            if common is not None and common[index] != index:
                lead = common[index]
                outcomes.append(lane.follow(self.lanes[lead], run, outcomes[lead], first))
            elif common is not None or all(leads[index] == index for leads in patterns):
                outcomes.append(self._alone(lane, run, first))
            else:
                outcomes.append(self._mixed(index, run, first, by_vm, outcomes))
        return outcomes

    def _note_spaces(self, run: Run) -> None:
        if self._spaces_matter or (isinstance(run.as_id, Constant) and not run.as_id.number):
            return
        kinds = run.kinds()
        if (ADD in kinds or REMOVE in kinds) and any(run.as_id):
            self._spaces_matter = True
            self._leads.clear()

    def _group(self, number: int) -> Leads:
        """Find out which lanes agree on a VM, and let them share its counters."""
        leads: list[int] = []
        for index, lane in enumerate(self.lanes):
            heads = [head for head, lead in enumerate(leads) if head == lead]
            agreeing = (head for head in heads if agree(self.lanes[head], lane, number, spaces_matter=self._spaces_matter))
            leads.append(next(agreeing, index))
        for head in dict.fromkeys(leads):
            share_counters([lane for lane, lead in zip(self.lanes, leads, strict=True) if lead == head], number)
        self._leads[number] = tuple(leads)
        return self._leads[number]

    def _alone(self, lane: Lane, run: Run, first: int, vms: Sequence[int] | None = None) -> RunOutcome:
        """Fold a run, or its rows of some VMs, for a lane and those that follow it."""
        tables = (lane.machine.allocator.counters, lane.machine.allocator.driver_counts)
        for table in tables:
            table.together = True  # groups share with nobody else: see share_counters()
        try:
            return lane.fold(run, first, vms)
        finally:
            for table in tables:
                table.together = False

    def _mixed(self, index: int, run: Run, first: int, by_vm: dict[int, Leads], outcomes: Sequence[RunOutcome]) -> RunOutcome:
        """Fold the VMs that a lane has parted in, and take the others over from their leads."""
        lane = self.lanes[index]
        mine = [number for number, leads in by_vm.items() if leads[index] == index]
        if mine:
            found = self._alone(lane, run, first, mine)
        else:
            lane.leave_out(run)
            found = RunOutcome()
        log, rets, writes = list(found.log), dict(found.rets), list(found.tracked_writes)
        for head in dict.fromkeys(leads[index] for leads in by_vm.values() if leads[index] != index):
            theirs = {number for number, leads in by_vm.items() if leads[index] == head}
            part = _of_vms(outcomes[head], run, theirs)
            lane.take_over(self.lanes[head], sorted(theirs), part, first)
            log += part.log
            rets |= part.rets
            writes += part.tracked_writes
        merged = RunOutcome(sorted(log, key=itemgetter(0)), {row: rets[row] for row in sorted(rets)}, sorted(writes))
        count_changes(run, merged, lane.kept(run))
        lane.compare_results(run, merged, first)
        return merged


def _of_vms(outcome: RunOutcome, run: Run, vms: set[int]) -> RunOutcome:
    """Return the rows of an outcome that belong to some VMs."""
    column = run.vm
    return RunOutcome(
        log=[(row, reason) for row, reason in outcome.log if column[row] in vms],
        rets={row: ret for row, ret in outcome.rets.items() if column[row] in vms},
        tracked_writes=[row for row in outcome.tracked_writes if column[row] in vms],
    )
