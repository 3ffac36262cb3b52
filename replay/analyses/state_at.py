"""Replay lanes up to one event and show what they hold then."""

from collections.abc import Callable, Iterator, Sequence

from replay.analyses.uncertainty import Doubts
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, lockstep
from replay.errors import UsageError
from replay.header import Trailer
from replay.runs import Item, Run
from replay.stream import Stream

Visit = Callable[[int], None]
"""Told the number of the next event before each item, when all events before it have been replayed."""


def replay_to(
    stream: Stream,
    lanes: Sequence[Lane],
    event: int | None,
    *,
    first: int = 0,
    visit: Visit | None = None,
    doubts: Doubts | None = None,
) -> int:
    """Fold a stream into the lanes up to and with event number `event`, all of it for None; return the last event's number.

    first: number of the stream's first event; the lanes have seen all before it. doubts: is told of structural events.
    Raises UsageError when the recording has no event of that number. Cost: proportional to the events replayed.
    """
    last = first - 1
    for step in lockstep(visited(items_until(stream.items(), event, first), first, visit), lanes, first=first):
        if isinstance(step, RunStep):
            last += len(step.run)
            continue
        last += 1
        if doubts is not None:
            doubts.evident(step.event, step.number)
    if event is not None and last < event:
        raise no_event(event, last, stream.trailer())
    return last


def no_event(event: int, last: int, trailer: Trailer) -> UsageError:
    """Return the error for a number behind the last event; trailer: of the recording, which may have lost more of them."""
    expected = f"0 to {last}" if last >= 0 else "a recording with events"
    return UsageError(f"there is no event {event}", expected=expected, advice=loss_advice(trailer))


def loss_advice(trailer: Trailer) -> str:
    """Return what to say of losses where too few events are there, "" when nothing is lost."""
    lost = next((counter for counter in trailer.counters if counter.severity == "lost" and counter.count), None)
    return "" if lost is None else f"the recording has lost some: {lost.kind}; `kvm-replay info` says more"


def _length(item: Item) -> int:
    return len(item) if isinstance(item, Run) else 1


def items_until(items: Iterator[Item], event: int | None, number: int) -> Iterator[Item]:
    """Yield items, the first event being `number`, up to and with an event, cutting the run that it lies in.

    No item behind is asked for.
    """
    while event is None or number <= event:
        item = next(items, None)
        if item is None:
            return
        length = _length(item)
        cut = event is not None and number + length > event + 1
        yield item.select(range(event + 1 - number)) if cut and event is not None and isinstance(item, Run) else item
        number += length


def visited(items: Iterator[Item], number: int, visit: Visit | None) -> Iterator[Item]:
    """Yield the items, and tell before each that all before it have been replayed; `lockstep` asks for one after the other."""
    for item in items:
        if visit is not None:
            visit(number)
        yield item
        number += _length(item)
