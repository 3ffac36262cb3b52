"""Import strace text in tests: excerpts of real recordings, and lines written on the spot; count what became of memslots."""

from collections import Counter
from pathlib import Path
from typing import TypeVar

import attrs
import pytest

from replay.events import Event, MemslotSet, VmCall
from replay.sources.files import Input
from replay.sources.strace_import import StraceImport

EXCERPTS = Path(__file__).resolve().parent.parent / "data" / "strace"
E = TypeVar("E", bound=Event)


@attrs.define
class Imported:
    """What an import gave: its stream, its events, and how they can be asked."""

    stream: StraceImport
    events: list[Event]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def kinds(self) -> list[str]:
        """Return the wire names of all events."""
        return [event.KIND for event in self.events]

    def times(self) -> list[int]:
        """Return the times of all events; each must have one."""
        return [event.time_ns for event in self.events if event.time_ns is not None or pytest.fail(f"no time: {event}")]

    def tids(self) -> list[int]:
        """Return the threads of all events; each must have one."""
        return [event.task.tid for event in self.events if event.task is not None or pytest.fail(f"no task: {event}")]

    def places(self) -> list[str]:
        """Return where all events were read, as FILE:LINE."""
        names = [source.name for source in self.stream.header.sources]
        return [f"{names[event.source.file]}:{event.source.line}" for event in self.events if event.source is not None]

    def counted(self, kind: str) -> int:
        """Return how often something was counted in the trailer."""
        return sum(counter.count for counter in self.stream.trailer().counters if counter.kind == kind)

    def not_understood(self) -> list[str]:
        """Return what the trailer counts as lost or unknown."""
        return [counter.kind for counter in self.stream.trailer().counters if counter.severity != "ignored"]


def imported(*paths: Path) -> Imported:
    """Import files as one run."""
    stream = StraceImport([Input(path) for path in paths])
    return Imported(stream, [event for event in stream.items() if isinstance(event, Event)])


def excerpt(name: str) -> Imported:
    """Import an excerpt of a real recording."""
    return imported(EXCERPTS / f"{name}.txt")


def lines(folder: Path, *text: str, end: str = "\n") -> Imported:
    """Import lines; each begins with a tid unless it is to look like a recording without -f."""
    path = folder / "strace.txt"
    path.write_bytes(("\n".join(text) + end).encode("latin-1"))
    return imported(path)


def bare(events: list[Event]) -> list[Event]:
    """Return events without what options add or leave out: times, places, tasks."""
    plain = []
    for event in events:
        unplaced = attrs.evolve(event, time_ns=None, source=None, task=None)
        plain.append(attrs.evolve(unplaced, enter_time_ns=None) if isinstance(unplaced, VmCall) else unplaced)
    return plain


def slot_changes(events: list[Event]) -> Counter[str]:
    """Count what memslot calls did, by following slots of each VM: create, delete, move, flags, same, failed, unknown, peak."""
    slots: dict[tuple[int, int], tuple[int, int]] = {}
    counts: Counter[str] = Counter()
    for event in events:
        if not isinstance(event, MemslotSet):
            continue
        key, now = (event.vm, event.slot), (event.guest_phys_addr, event.flags)
        if event.ret is None or event.ret < 0:
            counts["unknown" if event.ret is None else "failed"] += 1
        elif event.memory_size == 0:
            counts["delete" if key in slots else "delete of unseen"] += 1
            slots.pop(key, None)
        else:
            old = slots.get(key)
            counts["create" if old is None else "same" if old == now else "move" if old[0] != now[0] else "flags"] += 1
            slots[key] = now
        counts["peak"] = max(counts["peak"], sum(1 for vm, _ in slots if vm == event.vm))
    return +counts
