"""Find every event that made a page's write tracking what it is, lane by lane.

An event is a cause when it changes what a lane knows of the page (`page_facts`), or when it was about the page and warned or
failed. Nothing is guessed from the kind of an event: the facts before and after it decide.
"""

from collections.abc import Iterable, Iterator, Sequence

import attrs

from replay.analyses.page_facts import PageFacts, changes, counts, page_facts
from replay.analyses.page_rows import Did, Follower, rows_of_page
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.events import Event, MemslotSet
from replay.kvm.machine import Outcome

Facts = tuple[PageFacts | None, ...]
"""Of each lane."""


@attrs.frozen
class LaneEffect:
    """What an event did in one lane."""

    lane: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    changes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    ret: int | None = None
    why: str = ""


@attrs.frozen
class PageCause:
    """One event and what it did to the page."""

    number: int
    vm: int
    event: Event
    effects: tuple[LaneEffect, ...]


class PageWatch:
    """Watch one page of one VM, or of every VM, while lanes are replayed. as_id: only causes in this address space count."""

    def __init__(self, lanes: Sequence[Lane], gfn: int, vm: int | None = None, as_id: int | None = None) -> None:
        self._lanes, self._gfn, self._vm, self._as_id = lanes, gfn, vm, as_id
        numbers = sorted({number for lane in lanes for number in lane.machine.vms})
        self.facts: dict[int, Facts] = {number: self._now(number) for number in numbers if vm is None or number == vm}
        """What the lanes know of the page now, by VM."""

    def causes(self, steps: Iterable[Step | RunStep]) -> Iterator[PageCause]:
        """Yield the causes among steps, in order."""
        for step in steps:
            yield from self._run(step) if isinstance(step, RunStep) else self._step(step)

    def _now(self, vm: int) -> Facts:
        return tuple(page_facts(lane, vm, self._gfn) for lane in self._lanes)

    def _step(self, step: Step) -> Iterator[PageCause]:
        vm: int | None = getattr(step.event, "vm", None)
        if vm is None or (self._vm is not None and vm != self._vm):
            return
        before, after = self.facts.get(vm, (None,) * len(self._lanes)), self._now(vm)
        found = []
        for index, outcome in enumerate(step.outcomes):
            asked = outcome is not None and _asks(step.event, outcome, before[index], self._gfn)
            if before[index] != after[index] or asked:
                ret, why = (outcome.ret, outcome.why) if outcome is not None and asked else (None, "")
                found.append(self._effect(index, before[index], after[index], (), ret, why))
        self.facts[vm] = after
        yield from self._cause(step.number, vm, step.event, found)

    def _run(self, step: RunStep) -> Iterator[PageCause]:
        run, rows = step.run, rows_of_page(step.run, self._gfn, self._vm)
        found: dict[tuple[int, int], list[LaneEffect]] = {}
        for vm in run.vms():
            known = self.facts.get(vm)
            if known is None:
                continue
            for index, did in self._followed(step, vm, known, rows):
                effect = self._effect(index, did.before, did.after, did.warnings, did.ret)
                found.setdefault((did.row, vm), []).append(effect)
            self.facts[vm] = self._now(vm)
        for row, vm in sorted(found):
            yield from self._cause(step.first + row, vm, run.event_at(row), found[row, vm])

    def _followed(self, step: RunStep, vm: int, known: Facts, rows: Sequence[int]) -> Iterator[tuple[int, Did]]:
        """Yield (lane, what a row did in it), and hold where it leads against what the lane knows."""
        for index, lane in enumerate(self._lanes):
            follower = Follower(lane, vm, self._gfn, known[index])
            for did in follower.follow(step.run, step.outcomes[index], step.first, rows):
                yield index, did
            now = page_facts(lane, vm, self._gfn)
            assert follower.facts == now, f"rows up to event {step.first + len(step.run) - 1} do not add up"

    def _effect(
        self,
        lane: int,
        before: PageFacts | None,
        after: PageFacts | None,
        warnings: tuple[str, ...],
        ret: int | None = None,
        why: str = "",
    ) -> LaneEffect:
        before, after = self._only(before), self._only(after)
        return LaneEffect(lane, counts(before), counts(after), tuple(changes(before, after)), warnings, ret, why)

    def _only(self, facts: PageFacts | None) -> PageFacts | None:
        """Return the facts without the other address spaces."""
        if facts is None or self._as_id is None:
            return facts
        return attrs.evolve(facts, slots=tuple(slot if i == self._as_id else None for i, slot in enumerate(facts.slots)))

    def _cause(self, number: int, vm: int, event: Event, found: Sequence[LaneEffect]) -> Iterator[PageCause]:
        effects = tuple(one for one in found if one.changes or one.before != one.after or one.warnings or one.ret is not None)
        if effects:
            yield PageCause(number, vm, event, effects)


def _asks(event: Event, outcome: Outcome, facts: PageFacts | None, gfn: int) -> bool:
    """Tell whether a call failed that was about the page: a memslot request for it, or one that allocates for all memslots."""
    if outcome.ret is None or outcome.ret >= 0 or facts is None:
        return False
    if not isinstance(event, MemslotSet):
        return bool(outcome.refused)
    as_id, slot_id = (event.slot or 0) >> 16, (event.slot or 0) & 0xFFFF
    held = facts.slots[as_id] if as_id < len(facts.slots) else None
    first = event.guest_phys_addr >> 12
    return (held is not None and held.id == slot_id) or first <= gfn < first + (event.memory_size >> 12)
