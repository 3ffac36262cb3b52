"""Fold one stream through N lanes, item by item, and show each step to whoever asks.

The loop knows nothing of divergences: it hands every item to every lane and yields what came out. Memory does not grow with
the stream.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import attrs

from replay.engine.lane import Lane
from replay.engine.together import Together
from replay.events import Event
from replay.kvm.machine import Outcome
from replay.kvm.run_outcome import RunOutcome
from replay.runs import Item, Run


@attrs.define
class Step:
    """One structural event and what it did in each lane (None: it can not happen under that lane's profile)."""

    number: int
    event: Event
    outcomes: list[Outcome | None]


@attrs.define
class RunStep:
    """One run, numbered from `first`, and what it did in each lane."""

    first: int
    run: Run
    outcomes: list[RunOutcome]


def lockstep(items: Iterator[Item], lanes: Sequence[Lane], *, first: int = 0, paranoid: bool = False) -> Iterator[Step | RunStep]:
    """Yield each item with its outcomes, in order, events numbered from `first`.

    Raises EventError for an event that does not fit the ones before it; with paranoid=True InvariantError as soon as a state
    breaks an invariant (cost: proportional to the state, at every step).
    """
    return lockstep_numbered(numbered(items, first), lanes, paranoid=paranoid)


def numbered(items: Iterator[Item], first: int = 0) -> Iterator[tuple[int, Item]]:
    """Yield each item with the number of its first event."""
    for item in items:
        yield first, item
        first += len(item) if isinstance(item, Run) else 1


def lockstep_numbered(
    items: Iterable[tuple[int, Item]], lanes: Sequence[Lane], *, paranoid: bool = False
) -> Iterator[Step | RunStep]:
    """Do what `lockstep()` does with items that bring their numbers, because they may come in another order than recorded."""
    together = Together(lanes)
    guards = _guards(lanes) if paranoid else ()
    for number, item in items:
        step: Step | RunStep
        if isinstance(item, Run):
            step, last = RunStep(number, item, together.fold(item, number)), number + len(item) - 1
        else:
            step, last = Step(number, item, together.step(item, number)), number
        for index, guard in enumerate(guards):
            if isinstance(step, RunStep) or step.outcomes[index] is not None:
                guard.check(step, last)
        yield step


class Guard(Protocol):
    """Watches one lane for broken invariants."""

    def check(self, step: Step | RunStep, number: int) -> None:
        """Raise InvariantError when the state after a step breaks an invariant."""


def _guards(lanes: Sequence[Lane]) -> Sequence[Guard]:
    from replay.engine.paranoid import LaneGuard  # only --paranoid pays for it

    return [LaneGuard(lane) for lane in lanes]
