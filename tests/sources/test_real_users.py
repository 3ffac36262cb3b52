"""Promises of the probes on KVM's functions, held against what they printed on Debian's 6.1 and 6.12; no text was altered.

A module of a test took the place of KVMGT: it registered notifiers and tracked gfns as it was told. bpftrace ran with stacks on
two CPUs, so that lines stand in the wrong order.
"""

from pathlib import Path

import attrs
import pytest

from replay.analyses.check import check
from replay.analyses.check_report import CheckReport
from replay.analyses.check_state import AREAS
from replay.events import NotifierRegister, NotifierUnregister, Observe, WriteTrackAdd, WriteTrackRemove
from replay.kvm.profile import parse_facts
from replay.runs import events_of
from replay.sources.bpftrace_lines import BPFTRACE
from replay.sources.kernel_users import OWN, UNSEEN_GFNS
from replay.sources.word_walk import WordImport

DATA = Path(__file__).resolve().parent.parent / "data" / "formats"
USERS, NESTED, OLDER = "users-6.12.bpftrace.txt", "nested-6.12.bpftrace.txt", "users-6.1.bpftrace.txt"
FACTS = "release=6.12,config=y,tdp=1,vendor=amd,max_phys_bits=40"


def stream_of(name: str, text: bytes | None = None) -> WordImport:
    """Return the import of a file."""
    return WordImport([(DATA / name).read_bytes() if text is None else text], BPFTRACE, name=name)


def checked(name: str, text: bytes | None = None) -> CheckReport:
    """Hold the model of the recorded kernel against a file."""
    return check(stream_of(name, text), parse_facts(FACTS))


class TestUsers:
    """Two VMs, three registrations, gfns that come and go."""

    def test_events(self) -> None:
        """Each call is there, in its order, with its VM, its node and its result; nothing is lost or not understood."""
        stream = stream_of(USERS)
        events = list(events_of(stream.items()))
        notifiers = [event for event in events if isinstance(event, (NotifierRegister, NotifierUnregister))]
        found = [(type(event) is NotifierRegister, event.vm, event.node, event.ret or 0) for event in notifiers]
        assert found == [
            *((made, 0, 0, 0) for made in (True, False)),
            *((True, vm, vm + 1, 0) for vm in (0, 1)),
            *((False, vm, vm + 1, 0) for vm in (0, 1)),
        ]
        gfns = [
            (event.KIND[12:], event.vm, event.gfn, event.ret)
            for event in events
            if isinstance(event, WriteTrackAdd | WriteTrackRemove)
        ]
        assert gfns == [
            *(("add", 0, gfn, 0) for gfn in (5, 5, 4095)),
            ("add", 0, 4096, -22),
            ("add", 0, 6, 0),
            *(("remove", 0, gfn, 0) for gfn in (5, 5, 4095, 6)),
            ("remove", 0, 4096, -22),
            ("add", 1, 7, 0),
        ]
        assert stream.trailer().total("lost") == stream.trailer().total("unknown") == 0

    def test_model_agrees(self) -> None:
        """The model of 6.12 gives every result, and the arrays of every call: those of the first registrations among them."""
        report = checked(USERS)
        areas = next(facet for facet in report.facets if facet.name == AREAS)
        assert (areas.checked, areas.agreed) == (9, 9)
        assert (report.checked, report.mismatch_count, report.doubtful) == (28, 0, 0)
        observed = [event for event in events_of(stream_of(USERS).items()) if isinstance(event, Observe)]
        assert (
            sum(any("register_notifier" in area.site for area in event.areas or ()) for event in observed) == 5
        )  # taken twice, given back thrice

    def test_order_matters(self) -> None:
        """As the lines stand the same text gives another run: that is why they are put in order."""
        assert not BPFTRACE.ordered
        unsorted = WordImport([(DATA / USERS).read_bytes()], attrs.evolve(BPFTRACE, ordered=True))
        list(unsorted.items())
        assert unsorted.trailer().total("unknown") == 2


class TestOlder:
    """6.1: a registration has no result, KVM has a notifier of its own, and what others track is not seen, which is said."""

    def test_events(self) -> None:
        """The registrations of others are there, KVM's own are counted; the model of 6.1 gives every result."""
        stream = stream_of(OLDER)
        found = [event for event in events_of(stream.items()) if isinstance(event, (NotifierRegister, NotifierUnregister))]
        assert [(event.vm, event.ret) for event in found if isinstance(event, NotifierRegister)] == [
            (0, None),
            (0, None),
            (1, None),
        ]
        assert len(found) == 6
        counts = {counter.kind: counter.count for counter in stream.trailer().counters if counter.severity != "ignored"}
        own = [counter.count for counter in stream.trailer().counters if counter.kind == OWN]
        assert (counts, own) == ({UNSEEN_GFNS: 2}, [6])
        report = check(stream_of(OLDER), parse_facts(FACTS.replace("6.12", "6.1")))
        assert (report.checked, report.mismatch_count, report.doubtful) == (5, 0, 2)


class TestNested:
    """A guest that runs a guest with nested paging, where tdp is on: arrays are taken by the first shadow root."""

    def test_model_agrees(self) -> None:
        """They are observed with the shadow page, as much as the model says."""
        report = checked(NESTED)
        areas = next(facet for facet in report.facets if facet.name == AREAS)
        assert (areas.checked, areas.agreed, report.mismatch_count, report.doubtful) == (6, 6, 0, 0)
        observed = [event for event in events_of(stream_of(NESTED).items()) if isinstance(event, Observe)]
        sites = {area.site: (area.areas_added, area.pages_added) for event in observed[3:4] for area in event.areas or ()}
        assert sites == {"kvm_page_track_write_tracking_alloc": (3, 11), "memslot_rmap_alloc": (9, 47)}


class TestDamaged:
    """The same text with lines missing."""

    @pytest.mark.parametrize("kind", [b" VM kvm=", b" REGISTER ", b" VMAP ", b" ENTER "])
    def test_line_missing(self, kind: bytes) -> None:
        """Without one kind of line the answer is not the whole one: less is checked, or something is said to be missing."""
        lines = (DATA / USERS).read_bytes().split(b"\n")
        report = checked(USERS, b"\n".join(line for line in lines if kind not in line))
        assert report.checked < 28 or report.doubtful or report.losses or report.mismatch_count
