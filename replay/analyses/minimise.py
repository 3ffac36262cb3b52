"""Cut a recording down to few events that still show the same: a divergence with its cause, or what `check` contradicts.

Delta debugging: parts are left out, large ones first, and stay out while what is sought is still shown. What is shown must be the
same finding in the same words, no stronger class beside it, the same verdict, and no doubt that the whole recording leaves no
room for. Only whole events are left out, none is changed. Source of the method: A. Zeller, R. Hildebrandt, "Simplifying and
isolating failure-inducing input", IEEE TSE 28(2), 2002.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

import attrs

from replay.analyses.check_report import CHECK_WORDS, CheckReport
from replay.analyses.compare_report import CANNOT_TELL, CompareReport
from replay.analyses.findings import Finding, strength
from replay.analyses.state_at import items_until
from replay.analyses.verdict import judged_pairs
from replay.errors import KvmReplayError
from replay.events.base import specs
from replay.header import LEFT_OUT, Counter, Header, Tool, Trailer
from replay.runs import Item, Run
from replay.stream import MemoryStream, Stream
from replay.units import counted
from replay.version import VERSION

BUDGET_EVENTS: Final = 20_000_000
"""Most events that a search replays, unless it is told otherwise: some seconds of memslot calls, more of overlapping ones."""
_NUMBERS: Final = re.compile(r"\bevents? \d+")


@attrs.frozen
class Cause:
    """One thing that a recording shows. words: what it is, without numbers of events; event: the last one that it names."""

    words: tuple[str, ...]
    event: int


@attrs.frozen
class Shown:
    """What a recording shows. causes: of the strongest class; doubts: what keeps its verdict from being certain."""

    verdict: str
    causes: tuple[Cause, ...]
    doubts: frozenset[str] = frozenset()

    @property
    def certain(self) -> bool:
        """Whether the verdict is one."""
        return self.verdict != CANNOT_TELL


Look = Callable[[Stream], Shown]
"""Replay a stream and say what it shows. Raises what the stream raises."""


def divergences(ask: Callable[[Stream], CompareReport]) -> Look:
    """Return how to look for the strongest class of divergence; ask: compares lanes that have seen nothing."""

    def look(stream: Stream) -> Shown:
        report = ask(stream)
        pairs = judged_pairs(report)
        strongest = max((pair.strongest for pair in pairs if pair.strongest), key=strength, default="")
        found = ((pair.reference, pair.other, one) for pair in pairs for one in pair.findings)
        causes = [
            Cause(_words(reference, other, one.divergence, one.catalogue, one.kind, one.title, one.root_cause), _last(one))
            for reference, other, one in found
            if one.divergence == strongest and not one.behind_horizon
        ]
        doubts = frozenset(word for doubt in report.uncertainties if doubt.matters for word in _words(doubt.what))
        return Shown(report.verdict, tuple(causes), doubts)

    return look


def contradictions(ask: Callable[[Stream], CheckReport]) -> Look:
    """Return how to look for what the recorded kernel contradicts; ask: checks a stream."""

    def look(stream: Stream) -> Shown:
        report = ask(stream)
        causes = (
            Cause(_words(one.facet, one.what, one.rule, one.expected, one.observed), one.event) for one in report.mismatches
        )
        return Shown(CHECK_WORDS[report.status()], tuple(causes))

    return look


def _words(*texts: str) -> tuple[str, ...]:
    return tuple(_NUMBERS.sub("event", text) for text in texts)


def _last(finding: Finding) -> int:
    """Return the last event that a finding needs to be seen; where lanes agree again is none."""
    sides = [side.event for side in finding.sides]
    return max(event for event in (finding.event, finding.root_cause_event, finding.visible_event, *sides) if event is not None)


class Search:
    """Leave out what is not needed for what a recording shows first of the strongest. budget: most events to replay."""

    def __init__(self, stream: Stream, look: Look, budget: int = BUDGET_EVENTS) -> None:
        """Read the stream to its end and look at it once; `sought` is None when it shows nothing."""
        self.items: list[Item] = list(stream.items())
        """What is left."""
        self.events_before = self.events
        self._header: Header = stream.header
        self._trailer: Trailer = stream.trailer()
        self._look, self._budget = look, budget
        self.tries = self.replayed = 0
        self.minimal = False
        """Whether each single event that is left has been tried, and is needed."""
        self.whole = look(self._stream(self.items))
        self.sought: Cause | None = next(iter(self.whole.causes), None)

    @property
    def events(self) -> int:
        """How many events are left."""
        return sum(map(_length, self.items))

    def run(self) -> None:
        """Leave out all that can be: what follows, VMs, kinds of events, then ever smaller stretches down to single events."""
        assert self.sought is not None, "there is something to keep"
        self._keep_if(list(items_until(iter(self.items), self.sought.event, 0)))
        for vm in sorted({number for item in self.items for number in _vms(item)}, reverse=True):
            self._keep_if(list(_without(self.items, _vms_by_row, vm)))
        for kind in sorted({kind for item in self.items for kind in _kinds(item)}, reverse=True):
            self._keep_if(list(_without(self.items, _kinds_by_row, kind)))
        size = max(1, self.events // 2)
        while self._budget > self.replayed:
            dropped = self._pass(size)
            if size == 1 and not dropped:
                self.minimal = self._budget > self.replayed
                return
            size = max(1, size // 2)

    def _pass(self, size: int) -> bool:
        """Try to leave out each stretch of so many events, from the back; tell whether any could be."""
        items, kept = self.items, range(self.events)
        starts = [0, *accumulate(map(_length, items))]
        numbers, end = list(kept), len(kept)
        while end > 0 and self._budget > self.replayed:
            start = max(0, end - size)
            trial = numbers[:start] + numbers[end:]
            if self._keep_if(list(_chosen(items, starts, trial))):
                numbers = trial
            end = start
        return len(numbers) < len(kept)

    def _keep_if(self, items: list[Item]) -> bool:
        """Leave only some items if they still show it; tell whether they do."""
        length = sum(map(_length, items))
        if not length or length == self.events:
            return False
        self.tries += 1
        self.replayed += length
        try:
            shown = self._look(self._stream(items))
        except KvmReplayError:
            return False  # it is no recording of anything any more
        words = {cause.words for cause in shown.causes}
        same = shown.verdict == self.whole.verdict and shown.doubts <= self.whole.doubts
        if not same or self.sought is None or self.sought.words not in words:
            return False
        self.items = items
        return True

    def _stream(self, items: Sequence[Item]) -> Stream:
        return MemoryStream(self._header, items, self._trailer)


def cut_down(header: Header, trailer: Trailer, name: str, search: Search) -> tuple[Header, Trailer]:
    """Return the ends of the recording of what is left: they say what it was, and that the rest was left out knowingly.

    What the old one lacks, the new one lacks; what its importer passed over is not said again.
    """
    before = search.events_before
    note = f"minimised from {name}: {search.events} of {counted(before, 'event')}; results are those of the whole recording"
    provenance = f"{note}. {header.provenance}".strip()[: specs(Header)["provenance"].length_max]
    tools = (*header.tools, Tool(name="kvm-replay minimise", version=VERSION))[: specs(Header)["tools"].length_max]
    left_out = Counter(kind=LEFT_OUT, count=before - search.events, severity="ignored")
    lacking = [counter for counter in trailer.counters if counter.severity != "ignored"]
    counters = (left_out, *lacking)[: specs(Trailer)["counters"].length_max]
    return attrs.evolve(header, provenance=provenance, tools=tools), Trailer(events=search.events, counters=counters)


def _length(item: Item) -> int:
    return len(item) if isinstance(item, Run) else 1


def _vms(item: Item) -> tuple[int, ...]:
    if isinstance(item, Run):
        return item.vms()
    vm = getattr(item, "vm", None)
    return () if vm is None else (vm,)


def _vms_by_row(item: Item) -> Sequence[int]:
    return item.vm if isinstance(item, Run) else _vms(item)


def _kinds(item: Item) -> Sequence[int]:
    return tuple(item.kinds()) if isinstance(item, Run) else (item.CODE,)


def _kinds_by_row(item: Item) -> Sequence[int]:
    return item.kind if isinstance(item, Run) else (item.CODE,)


def _without(items: Sequence[Item], by_row: Callable[[Item], Sequence[int]], number: int) -> Iterator[Item]:
    """Yield the items without events of a number; by_row: what number each row of an item has."""
    for item in items:
        numbers = by_row(item)
        if number not in numbers:
            yield item
        elif isinstance(item, Run):
            rows = [row for row, found in enumerate(numbers) if found != number]
            if rows:
                yield item.select(rows)


def _chosen(items: Sequence[Item], starts: Sequence[int], numbers: Sequence[int]) -> Iterator[Item]:
    """Yield the events of some numbers; starts: number of the first event of each item, and of none behind the last."""
    place = 0
    for start, end, item in zip(starts, starts[1:], items, strict=False):
        stop = bisect_left(numbers, end, lo=place)
        if stop - place == end - start:
            yield item
        elif stop > place and isinstance(item, Run):
            yield item.select([number - start for number in numbers[place:stop]])
        place = stop
