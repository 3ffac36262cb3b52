"""Compare a few events under a few lanes in a line, for tests of the analyses."""

from collections.abc import Iterable, Sequence
from typing import Any

from lane_samples import machine

from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.findings import Finding
from replay.engine.lanes import make_lanes
from replay.events import Event, NotifierRegister, ShadowRootAlloc, Task
from replay.header import Header, Machine, SourceFile, Trailer
from replay.runs import items_of
from replay.stream import MemoryStream

BOTH = ("eager", "on-demand")
ROOT = ShadowRootAlloc(vm=0, ret=0, nested=True)
REGISTER = NotifierRegister(vm=0, ret=0)


def report_of(
    events: Iterable[Event],
    lanes: Sequence[str] = BOTH,
    *,
    recorded: Machine | None = None,
    trailer: Trailer | None = None,
    paranoid: bool = True,
) -> CompareReport:
    """Replay events through lanes and return what differs; the recorded machine is eager 6.8 unless said."""
    header = Header(machine=machine() if recorded is None else recorded, sources=(SourceFile(name="t.txt", format="strace"),))
    stream = MemoryStream(header, items_of(events), trailer or Trailer())
    return compare(stream, make_lanes(lanes, header.machine), paranoid=paranoid)


def findings_of(events: Iterable[Event], lanes: Sequence[str] = BOTH, **more: Any) -> list[Finding]:
    """Return the findings of the only pair of lanes."""
    (pair,) = report_of(events, lanes, **more).pairs
    return list(pair.findings)


def shape(findings: Iterable[Finding]) -> list[tuple[int, str, str]]:
    """Return event, class and row of findings."""
    return [(finding.event, finding.divergence, finding.catalogue) for finding in findings]


def agreements_of(events: Iterable[Event], lanes: Sequence[str] = BOTH, **more: Any) -> dict[str, tuple[int, int | None]]:
    """Return how often each agreement was noted, and where first."""
    return {found.catalogue: (found.count, found.first_event) for found in report_of(events, lanes, **more).agreements}


def thread(tid: int) -> Task:
    """Return a thread of the VMM."""
    return Task(100, tid)
