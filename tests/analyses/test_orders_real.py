"""Promises of the search for an order on a capture of six threads that create and delete memslots at once."""

import random
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from replay.analyses.check import check
from replay.analyses.check_report import AGREES, CONTRADICTED, CheckReport
from replay.analyses.compare import compare
from replay.analyses.order_report import NONE_FITS, REORDERED
from replay.engine.lanes import make_lanes
from replay.events import Event, MemslotSet, Task
from replay.header import Header
from replay.runs import events_of, items_of
from replay.sources import open_stream
from replay.stream import MemoryStream
from replay.units import EINVAL

CAPTURE = Path(__file__).resolve().parent.parent.parent / "recordings" / "real" / "fd-threads.kvmr"


@pytest.fixture(scope="module")
def capture() -> tuple[Header, list[Event]]:
    """Return the header and the events."""
    stream = open_stream([str(CAPTURE)])
    return stream.header, list(events_of(stream.items()))


def checked(header: Header, events: Sequence[Event]) -> CheckReport:
    """Check events as a recording."""
    return check(MemoryStream(header, items_of(events)))


class TestCapture:
    """The capture as it is."""

    def test_check(self, capture: tuple[Header, list[Event]]) -> None:
        """Each thread has a memslot of its own, so that every order fits: none is changed, and none matters."""
        report = checked(*capture)
        assert report.orders is not None
        assert (report.checked, report.status()) == (480, AGREES)
        counts = attrs.evolve(report.orders, listed=())
        assert (counts.groups, counts.calls, counts.largest, counts.recorded) == (68, 304, 21, 68)
        assert (counts.order_matters, counts.undecided, counts.unjudged, counts.tried) == (0, 0, 0, 3811)

    def test_compare(self, capture: tuple[Header, list[Event]]) -> None:
        """Neither does any order matter to what parts the policies; all lanes replay the same one."""
        header, events = capture
        report = compare(MemoryStream(header, items_of(events)), make_lanes(["eager", "on-demand"], header.machine))
        assert report.orders is not None
        assert (report.verdict, report.orders.recorded, report.orders.tried) == ("same", 68, 3811)

    def test_a_wrong_result(self, capture: tuple[Header, list[Event]]) -> None:
        """A result that can not have been is found in its group, and the group is named."""
        header, events = capture
        call = events[203]
        assert isinstance(call, MemslotSet)
        report = checked(header, [*events[:203], attrs.evolve(call, ret=-EINVAL), *events[204:]])
        assert report.orders is not None
        (group,) = report.orders.listed
        assert (report.status(), group.fits) == (CONTRADICTED, NONE_FITS)
        assert 203 in group.events
        assert report.mismatches[0].event == 203


class TestBlurred:
    """The same calls with their threads forgotten and coarser times: nothing but the results tells their order."""

    def test_an_order_is_found(self, capture: tuple[Header, list[Event]]) -> None:
        """Shuffled within their time spans, creations and deletions of one slot come back into an order that fits."""
        header, events = capture
        calls = [
            attrs.evolve(call, task=Task(1, tid), enter_time_ns=call.enter_time_ns - 100_000, time_ns=call.time_ns + 100_000)
            for tid, call in enumerate(events, 1)
            if isinstance(call, MemslotSet) and call.enter_time_ns is not None and call.time_ns is not None
        ]
        report = checked(header, [events[0], *shuffled(calls), events[-1]])
        assert report.orders is not None
        assert (report.checked, report.status()) == (480, AGREES)
        assert (report.orders.groups, report.orders.largest, report.orders.reordered) == (24, 102, 2)
        assert [group.fits for group in report.orders.listed] == [REORDERED, REORDERED]


def shuffled(calls: Sequence[MemslotSet]) -> list[MemslotSet]:
    """Return calls in some order in which none comes behind one that was entered after it had returned."""
    rng, left, order = random.Random(0), list(calls), list[MemslotSet]()
    while left:
        ready = [call for place, call in enumerate(left[:40]) if not any(_before(one, call) for one in left[:place])]
        order.append(rng.choice(ready))
        left.remove(order[-1])
    return order


def _before(first: MemslotSet, second: MemslotSet) -> bool:
    assert first.time_ns is not None
    assert second.enter_time_ns is not None
    return first.time_ns <= second.enter_time_ns
