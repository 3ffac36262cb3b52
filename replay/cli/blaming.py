"""Collect the causes of a page's state: from the start, or of a recording with an index only from the parts that concern it.

With an index the recording is read through without being replayed; then the parts between checkpoints in which something may
concern the page are replayed, the last one first. Where what is known of the page on both sides of a gap differs, the gap is
replayed as well, so that the causes are those of a replay from the start.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from replay.analyses.blame import Facts, PageCause, PageWatch
from replay.analyses.blame_scan import concerned
from replay.analyses.state_at import items_until, no_event, visited
from replay.cli.index_store import IndexStore
from replay.cli.indexed import Taker, keys_of, save, start_at
from replay.cli.maker import maker
from replay.cli.seeking import seekable, trailer_behind
from replay.engine.lockstep import RunStep, Step, lockstep
from replay.header import Trailer

if TYPE_CHECKING:
    from replay.analyses.uncertainty import Doubts
    from replay.cli.console import Console
    from replay.engine.lane import Lane
    from replay.recording.block_map import BlockMap
    from replay.recording.index_file import Index
    from replay.stream import Stream

MakeLanes = Callable[[], "list[Lane]"]


@attrs.frozen
class Page:
    """What is asked for. last: so many causes, None for all."""

    gfn: int
    vm: int | None = None
    as_id: int | None = None
    at: int | None = None
    last: int | None = None


@attrs.frozen
class Blamed:
    """Causes, the last one first; what the lanes know of the page in the end, by VM; whether earlier causes were left out.

    trailer: what the end of the recording says. lanes: as they are after the event.
    """

    causes: tuple[PageCause, ...]
    facts: dict[int, Facts]
    event: int
    earlier: bool
    trailer: Trailer = attrs.field(factory=Trailer)


@attrs.frozen
class Asked:
    """Lanes that have seen nothing, which are at the event in the end, and what is told of all structural events up to it.

    make: makes more such lanes.
    """

    lanes: "Sequence[Lane]"
    doubts: "Doubts"
    make: MakeLanes


def blame(stream: "Stream", asked: Asked, page: Page, console: "Console", *, use: bool) -> Blamed:
    """Return the causes of a page's state. use: whether an index may be used. Raises as `replay_to()`."""
    found = seekable(stream) if use else None
    if found is None:
        return _straight(stream, asked, page, console, None)
    reader, blocks = found
    store = IndexStore(reader.name, blocks, console, maker())
    index = store.load()
    end = blocks.events - 1 if page.at is None else page.at
    usable = index is not None and index.holds(keys_of(asked.lanes)) and end < blocks.events
    if usable and index is not None and index.before(end) is not None:
        blamed = _Parts(reader.name, blocks, index, asked, attrs.evolve(page, at=end)).blame()
        return attrs.evolve(blamed, trailer=trailer_behind(stream, iter(()), end, console))
    taker = Taker(asked.lanes, blocks, store.code, asked.doubts, index)
    worth = taker.worth(min(end, blocks.events - 1), dropped=store.dropped)
    blamed = _straight(stream, asked, page, console, taker if worth else None)
    if worth:
        save(store, taker.finished(), console)
    return blamed


def _straight(stream: "Stream", asked: Asked, page: Page, console: "Console", taker: Taker | None) -> Blamed:
    watch, last = PageWatch(asked.lanes, page.gfn, page.vm, page.as_id), _Last(-1, asked.doubts)
    items = iter(console.progress("replaying").over(stream.items()))
    until = items_until(items, page.at, 0)
    steps = lockstep(visited(until, 0, taker.visit if taker is not None else None), asked.lanes)
    kept: deque[PageCause] = deque(watch.causes(last.of(steps)), None if page.last is None else page.last + 1)
    if page.at is not None and last.event < page.at:
        raise no_event(page.at, last.event, stream.trailer())
    blamed = _blamed(list(reversed(kept)), page, watch.facts, last.event)
    return attrs.evolve(blamed, trailer=stream.trailer() if page.at is None else trailer_behind(stream, items, page.at, console))


def _blamed(causes: list[PageCause], page: Page, facts: dict[int, Facts], event: int) -> Blamed:
    return Blamed(tuple(causes[: page.last]), facts, event, page.last is not None and len(causes) > page.last)


class _Last:
    """Remember the number of the last event that went by, and tell doubts of it."""

    def __init__(self, event: int, doubts: "Doubts") -> None:
        self.event, self._doubts = event, doubts

    def of(self, steps: "Iterable[Step | RunStep]") -> "Iterator[Step | RunStep]":
        """Yield the steps."""
        for step in steps:
            if isinstance(step, RunStep):
                self.event = step.first + len(step.run) - 1
            else:
                self.event = step.number
                self._doubts.evident(step.event, step.number)
            yield step


class _Parts:
    """A recording in parts, each from a checkpoint to the next."""

    def __init__(self, name: str, blocks: "BlockMap", index: "Index", asked: Asked, page: Page) -> None:
        assert page.at is not None, "the end is known"
        self._name, self._blocks, self._index, self._asked, self._page = name, blocks, index, asked, page
        self._end = page.at
        firsts = [checkpoint.event for checkpoint in index.checkpoints if checkpoint.event <= page.at]
        self._firsts = [0, *firsts]
        self.facts: dict[int, Facts] = {}

    def blame(self) -> Blamed:
        """Return the causes: of the last part, and of those before it that concern the page, as far as they are asked for."""
        newest = len(self._firsts) - 1
        before, found, self.facts = self._replay(newest, self._end, self._asked)
        causes, known = found[::-1], _there(before)
        if not self._enough(causes):
            concerned_last = self._concerned()
            if self._page.last is None and 2 * len(concerned_last) > len(self._firsts):
                return self._at_once(min(concerned_last))
            causes += self._parts_before(newest, known, concerned_last, len(causes))
        return _blamed(causes, self._page, self.facts, self._end)

    def _enough(self, causes: list[PageCause], more: int = 0) -> bool:
        return self._page.last is not None and len(causes) + more > self._page.last

    def _at_once(self, part: int) -> Blamed:
        """Return the causes of everything from a part on: most parts concern the page, and one after the other costs less so."""
        before, found, self.facts = self._replay(part, self._end)
        if part and _there(before):
            return self._at_once(0)
        return _blamed(found[::-1], self._page, self.facts, self._end)

    def _parts_before(self, newer: int, known: dict[int, Facts], concerned_last: dict[int, int], count: int) -> list[PageCause]:
        """Return the causes in the parts before one, the last first; known: the facts where it begins; count: causes in it."""
        causes: list[PageCause] = []
        for part in range(newer - 1, -1, -1):
            if part and part not in concerned_last:
                continue
            before, found, after = self._replay(part, concerned_last.get(part, self._firsts[part]))
            if _there(after) != known:
                before, found, after = self._replay(part, self._firsts[newer] - 1)
            causes += found[::-1]
            newer, known = part, _there(before)
            if self._enough(causes, count):
                break
        return causes

    def _concerned(self) -> dict[int, int]:
        """Return the parts in which an event may concern the page, with the last such event."""
        from bisect import bisect_right

        from replay.recording import KvmrReader

        found: dict[int, int] = {}
        with KvmrReader(self._name) as reader:
            for event in concerned(items_until(reader.items(), self._end, 0), self._page.gfn, self._page.vm):
                found[bisect_right(self._firsts, event) - 1] = event
        return found

    def _replay(
        self, part: int, end: int, asked: Asked | None = None
    ) -> tuple[dict[int, Facts], list[PageCause], dict[int, Facts]]:
        """Replay a part up to and with an event; return what is known before, the causes in order, what is known then.

        asked: None for lanes and doubts of its own, which nobody looks at.
        """
        from replay.analyses.uncertainty import Doubts
        from replay.recording import KvmrReader

        first = self._firsts[part]
        with KvmrReader(self._name) as reader:
            lanes = self._asked.make() if asked is None else asked.lanes
            doubts = Doubts(lanes, reader.header.machine) if asked is None else asked.doubts
            checkpoint = self._index.before(first) if first else None
            start_at(reader, lanes, checkpoint, self._blocks, end, doubts)
            watch = PageWatch(lanes, self._page.gfn, self._page.vm, self._page.as_id)
            before = dict(watch.facts)
            steps = lockstep(items_until(reader.items(), end, first), lanes, first=first)
            causes = list(watch.causes(_Last(first, doubts).of(steps)))
        return before, causes, watch.facts


def _there(facts: dict[int, Facts]) -> dict[int, Facts]:
    """Return the facts of VMs that are there in any lane."""
    return {vm: known for vm, known in facts.items() if any(one is not None for one in known)}
