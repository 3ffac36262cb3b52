"""Gather what many recordings say: distribution of bytes saved, classes, groups by header facts, what to look at first.

Rows may come in any order: everything is counted or sorted by what the rows hold. Memory grows by some words a recording.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from replay.analyses.compare_report import CANNOT_TELL, DIVERGENCE, SAME, CompareReport
from replay.analyses.findings import CLASSES, ClassCount, strength
from replay.analyses.fleet_report import (
    TROUBLE,
    FleetClass,
    FleetPair,
    FleetRecording,
    FleetReport,
    Group,
    Look,
    Saved,
    Trouble,
)
from replay.analyses.verdict import judged_pairs
from replay.errors import KvmReplayError
from replay.header import Header
from replay.kvm.policies import policy_for
from replay.kvm.release import Release

FACTS: Final = ("release", "policy", "tdp", "tool")
NOT_KNOWN: Final = "not known"
_LISTED_GROUPS: Final = 1024
"""Groups of one fact that are listed, the largest first."""


def quantile(ordered: Sequence[int], percent: int) -> int:
    """Return a percentile of sorted numbers by nearest rank, 0 of none.

    >>> quantile([1, 2, 3, 4], 50), quantile([1, 2, 3, 4], 99)
    (2, 4)
    """
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)] if ordered else 0


def header_facts(header: Header) -> dict[str, str]:
    """Return what recordings are grouped by, "" for what the header does not say."""
    machine = header.machine
    policy = ""
    if machine.kernel_release is not None:
        try:
            policy = policy_for(Release.parse(machine.kernel_release)).name
        except KvmReplayError:
            policy = ""
    return {
        "release": machine.kernel_release or "",
        "policy": policy,
        "tdp": "" if machine.tdp is None else "y" if machine.tdp else "n",
        "tool": "+".join(tool.name for tool in header.tools)[:1024],
    }


def recording_of(name: str, digest: str, size_bytes: int, header: Header, report: CompareReport) -> FleetRecording:
    """Return the row of a recording that was compared."""
    judged = [pair.strongest for pair in judged_pairs(report) if pair.strongest]
    peaks = {lane.name: lane.write_track.charged_peak_bytes for lane in report.lanes}
    pairs = []
    for pair in report.pairs:
        found = next((count for count in pair.classes if count.divergence == pair.strongest), None)
        reference, other = peaks[pair.reference], peaks[pair.other]
        pairs.append(
            FleetPair(
                other=pair.other,
                strongest=pair.strongest,
                first_event=None if found is None else found.first_event,
                findings=sum(count.count for count in pair.classes),
                behind_horizon=sum(count.behind_horizon for count in pair.classes),
                reference_peak_bytes=reference,
                other_peak_bytes=other,
                saved_bytes=reference - other,
                classes=tuple(count for count in pair.classes if count.count or count.behind_horizon),
            )
        )
    return FleetRecording(
        name=name,
        digest=digest,
        size_bytes=size_bytes,
        status=report.verdict,
        title=report.title,
        sentence=report.sentence,
        events=report.events,
        vms=report.vms,
        doubts=sum(doubt.matters for doubt in report.uncertainties),
        strongest=max(judged, key=strength, default=""),
        pairs=tuple(pairs),
        **header_facts(header),
    )


@attrs.define(eq=False, repr=False)
class _Group:
    """Counts of one group."""

    counts: dict[str, int] = attrs.field(factory=dict)
    saved: list[int] = attrs.field(factory=list)

    def add(self, row: FleetRecording) -> None:
        self.counts[row.status] = self.counts.get(row.status, 0) + 1
        self.saved.append(most_saved(row))

    def report(self, fact: str, value: str) -> Group:
        ordered = sorted(self.saved)
        return Group(
            fact=fact,
            value=value,
            recordings=len(ordered),
            same=self.counts.get(SAME, 0),
            divergence=self.counts.get(DIVERGENCE, 0),
            cannot_tell=self.counts.get(CANNOT_TELL, 0),
            saved_p50_bytes=quantile(ordered, 50),
            saved_max_bytes=ordered[-1],
        )


def most_saved(row: FleetRecording) -> int:
    """Return the bytes that the best lane saves, 0 when there is none."""
    return max((pair.saved_bytes for pair in row.pairs), default=0)


def rank(row: FleetRecording) -> tuple[int, int, int, str]:
    """Return what orders the recordings to look at first, the first one least: RANKING in words."""
    findings = sum(pair.findings for pair in row.pairs)
    return (-strength(row.strongest) if row.strongest else 1, -most_saved(row), -findings, row.name)


class FleetSummary:
    """Take rows in any order; `report()` returns what they say together."""

    def __init__(self, lanes: str, profile: str, engine: str, *, top: int = 10) -> None:
        self._question = {"lanes": lanes, "profile": profile, "engine": engine}
        self._top = top
        self._counts = dict.fromkeys((SAME, DIVERGENCE, CANNOT_TELL, TROUBLE), 0)
        self._events = 0
        self._saved: dict[str, list[int]] = {}
        self._strongest: dict[str, int] = {}
        self._found: dict[str, list[int]] = {}
        self._groups: dict[tuple[str, str], _Group] = {}
        self._troubles: dict[str, tuple[int, tuple[str, str]]] = {}
        self._looks: list[FleetRecording] = []

    def add(self, row: FleetRecording) -> None:
        """Take one row."""
        self._counts[row.status] += 1
        self._events += row.events
        if row.status == TROUBLE:
            count, first = self._troubles.get(row.code, (0, (row.name, row.trouble)))
            self._troubles[row.code] = (count + 1, min(first, (row.name, row.trouble)))
            return
        for fact in FACTS:
            self._groups.setdefault((fact, getattr(row, fact) or NOT_KNOWN), _Group()).add(row)
        if row.strongest:
            self._strongest[row.strongest] = self._strongest.get(row.strongest, 0) + 1
            self._looks.append(row)
            if len(self._looks) > 2 * self._top + 100:
                self._looks = heapq.nsmallest(self._top, self._looks, key=rank)
        for pair in row.pairs:
            self._saved.setdefault(pair.other, []).append(pair.saved_bytes)
        for name, count in _by_class([found for pair in row.pairs for found in pair.classes]).items():
            cells = self._found.setdefault(name, [0, 0])
            cells[0] += 1
            cells[1] += count

    @property
    def counts(self) -> dict[str, int]:
        """How many recordings there are of each status."""
        return dict(self._counts)

    def report(self) -> FleetReport:
        """Return the summary of all rows so far."""
        return FleetReport(
            **self._question,
            recordings=sum(self._counts.values()),
            same=self._counts[SAME],
            divergence=self._counts[DIVERGENCE],
            cannot_tell=self._counts[CANNOT_TELL],
            trouble=self._counts[TROUBLE],
            events=self._events,
            saved=tuple(_saved(other, sorted(numbers)) for other, numbers in sorted(self._saved.items())),
            classes=tuple(self._class(name) for name in CLASSES if name in self._found),
            look_first=tuple(_look(row) for row in heapq.nsmallest(self._top, self._looks, key=rank)),
            groups=tuple(group for fact in FACTS for group in self._groups_of(fact)),
            troubles=tuple(
                Trouble(code=code, recordings=count, name=name, trouble=trouble)
                for code, (count, (name, trouble)) in sorted(self._troubles.items())
            ),
        )

    def _class(self, name: str) -> FleetClass:
        recordings, findings = self._found[name]
        return FleetClass(divergence=name, strongest_of=self._strongest.get(name, 0), recordings=recordings, findings=findings)

    def _groups_of(self, fact: str) -> list[Group]:
        found = [group.report(fact, value) for (of_fact, value), group in self._groups.items() if of_fact == fact]
        return sorted(found, key=lambda group: (-group.recordings, group.value))[:_LISTED_GROUPS]


def _by_class(counts: Iterable[ClassCount]) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in counts:
        if count.count:
            found[count.divergence] = found.get(count.divergence, 0) + count.count
    return found


def _saved(other: str, ordered: Sequence[int]) -> Saved:
    return Saved(
        other=other,
        recordings=len(ordered),
        p50_bytes=quantile(ordered, 50),
        p90_bytes=quantile(ordered, 90),
        p99_bytes=quantile(ordered, 99),
        max_bytes=ordered[-1],
        total_bytes=sum(ordered),
    )


def _look(row: FleetRecording) -> Look:
    found = [pair.first_event for pair in row.pairs if pair.strongest == row.strongest and pair.first_event is not None]
    return Look(
        name=row.name,
        status=row.status,
        strongest=row.strongest,
        first_event=min(found, default=None),
        saved_bytes=most_saved(row),
        findings=sum(pair.findings for pair in row.pairs),
        title=row.title,
    )
