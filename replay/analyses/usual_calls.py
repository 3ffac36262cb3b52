"""Take calls that all lanes carry out, and alike but for write tracking: nearly all calls of nearly all recordings.

Such a call parts no lane from another and leaves no doubt. What is left to say of a memslot call is the same whenever lanes do
the same again, so that it is worked out once for each shape and met again; how often is counted.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from replay.analyses.agreements import Agreements
from replay.analyses.deeds import ALIKE, Deed, Lists, deed_of
from replay.analyses.exposure import ExposureTally
from replay.analyses.hazards import CHANGES, Hazards
from replay.analyses.pair import Pair
from replay.engine.lockstep import Step
from replay.events import DirtyLogClear, DirtyLogGet, GuestMemfdCreate, IdentityMapSet, IrqchipCreate, MemslotSet, NrMmuPagesSet
from replay.kvm.machine import Outcome
from replay.kvm.tallies import Marking

_SHAPES_MOST: Final = 4096
Watcher = tuple[int, Pair, Hazards]
"""Place of the other lane among the outcomes, the pair, and its hazards."""


@attrs.define(eq=False, repr=False)
class _Shape:
    """What lanes do in a call: the marks of each, and what is unlike between the lanes of each pair, as far as it is one deed.

    times: how often it was met.
    """

    marks: tuple[tuple[Marking, ...], ...]
    deeds: tuple[Deed | None, ...]
    times: int = 0


_QUIET: Final = frozenset({DirtyLogGet, DirtyLogClear, IdentityMapSet, IrqchipCreate, NrMmuPagesSet, GuestMemfdCreate})
"""Calls of which nothing is to be said where lanes give one result and neither take nor free anything."""


class UsualCalls:
    """The calls that can be taken in this way."""

    def __init__(self, watchers: Sequence[Watcher], agreements: Agreements | None, exposures: Sequence[ExposureTally]) -> None:
        """agreements, exposures: None and () where nobody reads them."""
        self._pairs = [(index, pair, pair.states, pair.arrays) for index, pair, _hazards in watchers]
        self._hazards = [(index, hazards) for index, _pair, hazards in watchers if hazards.watches]
        self._agreements = agreements
        self._exposures = exposures
        self._shapes: dict[tuple[Marking | None, ...], _Shape] = {}
        self.quiet = 0
        """How many other calls than memslot calls were taken."""
        self.memslots = 0
        """How many memslot calls; all calls that are taken have a recorded result, which was held against each lane."""

    def take(self, step: Step) -> bool:
        """Take a call; False, and nothing is done, when the analyses are to look at it one by one."""
        event = step.event
        if type(event) is MemslotSet:
            return event.ret is not None and self._memslot(step, event)
        if type(event) not in _QUIET or getattr(event, "ret", None) is None:
            return False
        first = step.outcomes[0]
        ret = None if first is None else first.ret
        if ret is None or ret < 0:
            return False
        for outcome in step.outcomes:
            if outcome is None or outcome.ret != ret or outcome.why or outcome.log or outcome.marks:
                return False
        for index, pair, states, _arrays in self._pairs:
            if states.parted:
                pair.step(step, index)
        self.quiet += 1
        return True

    def _memslot(self, step: Step, event: MemslotSet) -> bool:
        did: list[Outcome] = []
        found: list[Marking | None] = []
        change = None
        for outcome in step.outcomes:
            if outcome is None or outcome.ret != 0 or outcome.why or outcome.log:
                return False
            if outcome.change != change:
                if change is not None:
                    return False
                change = outcome.change
            did.append(outcome)
            found += outcome.marks
            found.append(None)
        key = tuple(found)
        shape = self._shapes.get(key) or self._shape(key, did)
        shape.times += 1
        self.memslots += 1
        if self._agreements is not None:
            self._agreements.memslot(step, event, change or "")
        for (index, pair, states, arrays), deed in zip(self._pairs, shape.deeds, strict=True):
            if states.parted or deed is None:
                pair.step(step, index)
                continue
            told = deed is ALIKE or arrays.memslot(deed, step.number, event, did[0], did[index])
            if not told:
                pair.step(step, index)
        if change in CHANGES:
            for index, hazards in self._hazards:
                hazards.step(step, index)
        return True

    def _shape(self, key: tuple[Marking | None, ...], did: Sequence[Outcome]) -> _Shape:
        """Work a shape out, and remember it."""
        if len(self._shapes) >= _SHAPES_MOST:
            self._add_up()
        marks = tuple(tuple(outcome.marks) for outcome in did)
        deeds = tuple(
            ALIKE if marks[index] == marks[0] else deed_of((marks[0], marks[index]), _lists(did[0], did[index]))
            for index in range(1, len(did))
        )
        shape = self._shapes[key] = _Shape(marks, deeds)
        return shape

    def _add_up(self) -> None:
        """Tell the exposures what was counted by shape."""
        for shape in self._shapes.values() if self._exposures else ():
            for exposure, marks in zip(self._exposures, shape.marks, strict=True):
                exposure.take(MemslotSet.KIND, marks, shape.times)
        self._shapes.clear()

    def finish(self) -> None:
        """Tell the exposures what is left."""
        self._add_up()


def _lists(reference: Outcome, other: Outcome) -> Lists:
    return reference.taken, reference.freed, other.taken, other.freed
