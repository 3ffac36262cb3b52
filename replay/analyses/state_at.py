"""Replay lanes up to one event and show what they hold then."""

from collections.abc import Iterator, Sequence

from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, lockstep
from replay.errors import UsageError
from replay.runs import Item, Run
from replay.stream import Stream


def replay_to(stream: Stream, lanes: Sequence[Lane], event: int | None) -> int:
    """Fold a stream into the lanes up to and with event number `event`, all of it for None; return the last event's number.

    Raises UsageError when the recording has no event of that number. Cost: proportional to the events replayed.
    """
    last = -1
    for step in lockstep(_until(stream.items(), event), lanes):
        last += len(step.run) if isinstance(step, RunStep) else 1
    if event is not None and last < event:
        raise UsageError(f"there is no event {event}", expected=f"0 to {last}" if last >= 0 else "a recording with events")
    return last


def _until(items: Iterator[Item], event: int | None) -> Iterator[Item]:
    """Yield items up to and with an event, cutting the run that it lies in."""
    number = 0
    for item in items:
        length = len(item) if isinstance(item, Run) else 1
        if event is None or number + length <= event:
            yield item
        else:
            yield item.select(range(event + 1 - number)) if isinstance(item, Run) else item
            return
        number += length
