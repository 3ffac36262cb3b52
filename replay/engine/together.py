"""Fold runs through several lanes at once: what lanes agree on is folded once.

For each VM the lanes fall into groups that agree; the first lane of a group folds for all of it, in counters that they share,
and the others take over what it found. A structural event on a VM makes its groups unknown; they are worked out anew when the
next run names it. Lanes that parted fold by themselves: exactly what each would do alone, in any case.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from replay.engine.agreement import agree, all_share, share_counters, share_slot, share_tables
from replay.engine.lane import Lane
from replay.engine.overlay import Piece, chosen, merged, reasons_elsewhere
from replay.engine.rows import rows_of_vms
from replay.events import Event, MemslotSet
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import CREATE, DELETE, MOVE, Newborn
from replay.kvm.requests import request_of
from replay.kvm.run_outcome import RunOutcome
from replay.runs import ADD, REMOVE, Constant, Run
from replay.units import PAGE_SIZE_BYTES

Leads = tuple[int, ...]
"""For each lane the lane that folds for it: itself, or one before it."""


_CHANGES_SLOTS: Final = frozenset({CREATE, DELETE, MOVE})
"""What a memslot call did when there are other counters after it than before."""


class Together:
    """Several lanes in lockstep."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = tuple(lanes)
        self._leads: dict[int, Leads] = {}
        self._one_lead = (0,) * len(self.lanes)
        """All lanes agree on a VM."""
        self._spaces_matter = len({lane.policy.register_checks_mm for lane in lanes}) < 2
        """Lanes with and without the API of 6.6 part for good when an external user names an address space other than 0."""
        if lanes:
            share_tables(lanes)
        tables = [lane.machine.allocator.counters for lane in lanes]
        self._share = len(tables) > 1 and tables.count(tables[0]) == len(tables)
        """All lanes count in one table, so that they can share what they count of a new memslot."""
        self._driver_tables = list(dict.fromkeys(lane.machine.allocator.driver_counts for lane in lanes))
        self._flushes = any(lane.policy.flush_slot for lane in lanes)

    def step(self, event: Event, number: int) -> list[Outcome | None]:
        """Apply one structural event to each lane."""
        if type(event) is MemslotSet:
            return self._memslot_call(event, number)
        self._leads.pop(getattr(event, "vm", -1), None)
        return [lane.step(event, number) for lane in self.lanes]

    def _memslot_call(self, event: MemslotSet, number: int) -> list[Outcome | None]:
        agreed = self._leads.pop(event.vm, None) == self._one_lead
        vm = self.lanes[0].machine.vms.get(event.vm) if self._share else None
        request = None if vm is None else request_of(event, vm)
        newborn: Newborn = [None, None]
        if request is not None:
            request.newborn = newborn
        tables = [table for table in self._driver_tables if table.ever_counted] if event.memory_size < PAGE_SIZE_BYTES else ()
        for table in tables:
            table.waiting = []
        try:
            outcomes = [lane.step(event, number) for lane in self.lanes]
        finally:
            if request is not None:
                request.newborn = None
            for table in tables:
                table.drop_what_waits()  # what several lanes drop of external users is dropped once
        if agreed and not self._flushes and self._still_agree(event, outcomes, newborn):
            self._leads[event.vm] = self._one_lead
        return outcomes

    def _still_agree(self, event: MemslotSet, outcomes: Sequence[Outcome | None], newborn: Newborn) -> bool:
        """Tell whether lanes that all agreed on a VM do so after a memslot call; they share the slot's counters then.

        False when it is not sure. Nothing but the one slot can have changed, unless external users dropped what they track.
        """
        first = outcomes[0]
        change = None if first is None else first.change
        for outcome in outcomes:
            if outcome is None or outcome.change != change:
                return False
        if change not in _CHANGES_SLOTS or all_share(newborn, len(outcomes)):
            return True
        vms = [lane.machine.vms[event.vm] for lane in self.lanes]
        if change == DELETE:  # which alone makes external users drop what they track
            roots = vms[0].external_adds.roots
            return [vm.external_adds.roots for vm in vms].count(roots) == len(vms)
        return share_slot([vm.spaces[event.slot >> 16].by_id(event.slot & 0xFFFF) for vm in vms])

    def fold(self, run: Run, first: int) -> list[RunOutcome]:
        """Apply a run to all lanes; outcomes may be one object for several lanes."""
        lanes = self.lanes
        if len(lanes) == 1:
            return [_all_alone(lanes[0], run, first)]
        if not self._spaces_matter:
            self._note_spaces(run)
        vms, known = run.vms(), self._leads
        leads = [known.get(number) or self._group(number) for number in vms]
        if leads.count(leads[0]) == len(leads):
            return self._in_groups(leads[0], run, first)
        outcomes: list[RunOutcome] = []
        seen: dict[Leads, int] = {}
        for index, heads in enumerate(zip(*leads, strict=True)):
            same = seen.setdefault(heads, index)
            if same != index:
                outcomes.append(lanes[index].follow(lanes[same], run, outcomes[same], first))
            elif heads.count(index) == len(heads):
                outcomes.append(_all_alone(lanes[index], run, first))
            else:
                outcomes.append(self._mixed(index, run, first, dict(zip(vms, heads, strict=True)), outcomes))
        return outcomes

    def _in_groups(self, leads: Leads, run: Run, first: int) -> list[RunOutcome]:
        """Apply a run to lanes that follow the same leads in all its VMs."""
        lanes, outcomes = self.lanes, list[RunOutcome]()
        for index, lead in enumerate(leads):
            if lead == index:
                outcomes.append(_all_alone(lanes[index], run, first))
            else:
                outcomes.append(lanes[index].follow(lanes[lead], run, outcomes[lead], first))
        return outcomes

    def _note_spaces(self, run: Run) -> None:
        if isinstance(run.as_id, Constant) and not run.as_id.number:
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

    def _mixed(self, index: int, run: Run, first: int, leads: dict[int, int], outcomes: Sequence[RunOutcome]) -> RunOutcome:
        """Fold the VMs that a lane has parted in, and take the others over from their leads. leads: by VM."""
        lane, theirs = self.lanes[index], dict[int, list[int]]()
        for number, lead in leads.items():
            theirs.setdefault(lead, []).append(number)
        mine = theirs.pop(index, [])
        pieces = [_alone(lane, run, first, mine)] if mine else []
        if not mine:
            lane.leave_out(run)
        base, *others = theirs
        for head in others:
            rows = rows_of_vms(run, theirs[head], None)
            piece = Piece(rows, chosen(outcomes[head], run, rows))
            lane.take_over(self.lanes[head], theirs[head], piece.outcome.reasons(), first)
            pieces.append(piece)
        reasons = reasons_elsewhere(outcomes[base], run, pieces)
        lane.take_over(self.lanes[base], theirs[base], reasons, first)
        outcome = merged(run, outcomes[base], pieces, lane.kept, _sums([reasons, *(piece.outcome.reasons() for piece in pieces)]))
        lane.compare_results(run, outcome, first)
        return outcome


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts up, by name."""
    found: dict[str, int] = {}
    for some in counts:
        for name, count in some.items():
            found[name] = found.get(name, 0) + count
    return found


def _all_alone(lane: Lane, run: Run, first: int) -> RunOutcome:
    """Fold a run for a lane and those that follow it."""
    allocator = lane.machine.allocator
    counters, driver_counts = allocator.counters, allocator.driver_counts
    counters.together = driver_counts.together = True  # groups share with nobody else: see share_counters()
    try:
        return lane.fold(run, first)
    finally:
        counters.together = driver_counts.together = False


def _alone(lane: Lane, run: Run, first: int, vms: Sequence[int]) -> Piece:
    """Fold the rows of some VMs for a lane and those that follow it in these."""
    allocator = lane.machine.allocator
    allocator.counters.together = allocator.driver_counts.together = True
    try:
        return lane.fold_vms(run, first, vms)
    finally:
        allocator.counters.together = allocator.driver_counts.together = False
