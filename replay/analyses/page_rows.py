"""Find the rows of a run that concern a page, and follow what each of them did to it in a lane.

A run is folded as a whole. What each row did is told from the outcome, which names every row that warned or failed: any other row
that adds or removes changes the counter by one, and so does one that warned of large pages only; nothing else changes it. Where
that leads is held against the lane's own.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from replay.analyses.page_facts import PageFacts
from replay.engine.lane import Lane
from replay.kvm.allocator import Allocation
from replay.kvm.kernel_log import BUG, LPAGE
from replay.kvm.run_outcome import RunOutcome
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Constant, Run

DELTAS: Final = {ADD: 1, REMOVE: -1, ACCOUNT: 1, UNACCOUNT: -1}
LONG_ROWS: Final = 128


def rows_of_page(run: Run, gfn: int, vm: int | None) -> list[int]:
    """Return the rows that ask for a change of a page's tracking, of one VM or of any. Cost: 1 ns a row of a long run."""
    column = run.gfn
    if isinstance(column, Constant):
        rows: Sequence[int] = range(len(run)) if column.number == gfn else ()
    elif isinstance(column, memoryview) and len(run) >= LONG_ROWS:
        import numpy as np  # the run is long

        rows = np.flatnonzero(np.frombuffer(column, f"u{column.itemsize}") == gfn).tolist()
    else:
        rows = [row for row, number in enumerate(column) if number == gfn]
    return [row for row in rows if run.kind[row] in DELTAS and (vm is None or run.vm[row] == vm)]


@attrs.frozen
class Did:
    """What one row of a run did in one lane."""

    row: int
    before: PageFacts | None
    after: PageFacts | None
    warnings: tuple[str, ...] = ()
    ret: int | None = None
    """Result of one that failed."""


class Follower:
    """What a run did to one page in one lane."""

    def __init__(self, lane: Lane, vm: int, gfn: int, facts: PageFacts | None) -> None:
        self._lane, self._vm, self._gfn = lane, vm, gfn
        self.facts = facts

    def follow(self, run: Run, outcome: RunOutcome, first: int, rows: Sequence[int]) -> Iterator[Did]:
        """Yield what rows did, in order: those of the page, the one that killed the VM, those that made its array."""
        log: dict[int, list[str]] = {}
        for row, reason in outcome.log:
            log.setdefault(row, []).append(reason)
        killers = [row for row, reason in outcome.log if reason == BUG and run.vm[row] == self._vm][:1]
        made = {array.event - first: array for array in outcome.taken if array.vm == self._vm}
        mine = dict.fromkeys(row for row in rows if run.vm[row] == self._vm and self._replays(run, row))
        for row in sorted(mine | dict.fromkeys(killers) | dict.fromkeys(made)):
            before = self.facts
            self._note_array(made.get(row))
            if row in killers and self.facts is not None:
                self.facts = attrs.evolve(self.facts, bugged=True)
            warnings = tuple(log.get(row, ())) if row in mine else ()
            if row in mine:
                self._count(run, row, changed={*warnings} <= {LPAGE}, failed=row in outcome.rets)
            ret = outcome.rets.get(row) if row in mine else None
            if before != self.facts or warnings or ret:
                yield Did(row, before, self.facts, warnings, ret)

    def _replays(self, run: Run, row: int) -> bool:
        """Tell whether a row can happen under the lane's profile; see `Lane.fold()`."""
        no_shadow, no_external = self._lane.left_out
        if run.kind[row] >= ACCOUNT:
            return not no_shadow or bool(run.nested[row])
        return not no_external

    def _count(self, run: Run, row: int, *, changed: bool, failed: bool) -> None:
        facts, kind = self.facts, run.kind[row]
        if facts is None or failed:
            return
        delta, external = DELTAS[kind], kind < ACCOUNT
        if external:
            facts = attrs.evolve(facts, held=max(facts.held + delta, 0))
        as_id = 0 if external and self._lane.policy.register_checks_mm else min(run.as_id[row], len(facts.slots) - 1)
        slot = facts.slots[as_id]
        if changed and slot is not None and slot.array is not None and (external or run.level[row] > 1):
            slots = list(facts.slots)
            slots[as_id] = attrs.evolve(slot, count=slot.count + delta)
            facts = attrs.evolve(facts, slots=tuple(slots))
        self.facts = facts

    def _note_array(self, array: Allocation | None) -> None:
        facts = self.facts
        if array is None or facts is None:
            return
        slot = facts.slots[array.as_id]
        if slot is not None and slot.id == array.slot_id:
            slots = list(facts.slots)
            slots[array.as_id] = attrs.evolve(slot, array=array.number, site=array.site)
            self.facts = attrs.evolve(facts, slots=tuple(slots))
