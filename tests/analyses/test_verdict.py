"""Promises of replay.analyses.verdict and findings: the ladder of classes, the verdict, its sentence."""

import attrs
import pytest
from comparisons import REGISTER, report_of
from lane_samples import CREATE, machine, slot

from replay.analyses.compare import compare
from replay.analyses.compare_report import WITHOUT_ARGUMENTS
from replay.analyses.findings import CLASSES, MEANINGS, strength
from replay.engine.lanes import make_lanes
from replay.errors import EmptyError
from replay.events import AllocFail, Event, Mark, MemoryLimit, Opaque, WriteTrackAdd
from replay.header import Counter, Header, Machine, Trailer
from replay.stream import MemoryStream
from replay.units import Gfn

FAIL = AllocFail(site="kvm_page_track_register_notifier")


class TestLadder:
    """Classes are ordered, and each says what it means."""

    def test_order(self) -> None:
        """From bytes to broken invariants; a new failure and one that is gone are equally strong."""
        assert [strength(name) for name in CLASSES] == [0, 1, 2, 2, 4, 5, 6, 7, 8]
        assert CLASSES[0] == "bytes-only"
        assert CLASSES[-1] == "invariant-broken"
        assert all(meaning and meaning[0].islower() for meaning in MEANINGS.values())


class TestVerdict:
    """The verdict says the strongest class found and what is thereby ruled out."""

    def test_same(self) -> None:
        """No finding and no doubt: the lanes are the same, and the sentence says why when there is a reason."""
        report = report_of([CREATE, REGISTER, slot()])
        assert (report.verdict, report.sentence) == ("same", "No divergence between eager and on-demand.")
        assert report_of([CREATE]).sentence.endswith("on-demand: no memslot needed write tracking.")
        assert "tdp is off" in report_of([CREATE, slot()], recorded=machine(tdp=False)).sentence
        assert "WRITE_TRACKING=n" in report_of([CREATE, slot()], recorded=machine(config_external_write_tracking=False)).sentence

    def test_same_of_many(self) -> None:
        """Of more than two lanes it counts them."""
        assert "between all 3 lanes" in report_of([CREATE], ["eager", "on-demand", "6.1"]).sentence

    def test_bytes_only(self) -> None:
        """Bytes alone: how many, and that nobody is told."""
        report = report_of([CREATE, slot(npages=4096)])
        assert report.verdict == "divergence"
        assert report.sentence == (
            "eager and on-demand differ in bytes only: write tracking takes at most 8 KiB under eager and 0 B under on-demand; "
            "nothing that userspace or a guest is told differs."
        )
        assert report.pairs[0].ruled_out.split(", ") == list(CLASSES[1:])

    def test_stronger(self) -> None:
        """A stronger class: its meaning, its first event, and the classes above it of which none was found."""
        report = report_of([CREATE, slot(), FAIL, attrs.evolve(REGISTER, ret=-12)], recorded=machine("6.12"))
        assert (
            "enomem-new (a call fails with -ENOMEM that does not fail in the reference lane), first at event 3" in report.sentence
        )
        assert "first at event 3; -ENOMEM from notifier.register at event 3 under on-demand only; none of" in report.sentence
        assert "none of result-differs, state-differs, lifetime-differs, race-only, invariant-broken;" in report.sentence
        assert report.pairs[0].strongest == "enomem-new"
        assert "enomem-gone" not in report.pairs[0].ruled_out

    def test_enomem_moves(self) -> None:
        """A failure that moves is said with both its places, whichever lane is the reference."""
        events = [CREATE, slot(), MemoryLimit(limit_pages=3), slot(1, npages=4096), attrs.evolve(REGISTER, ret=-12)]
        places = "memslot.set at event 3 under eager", "notifier.register at event 4 under on-demand"
        for names, said in ((["eager", "on-demand"], places), (["on-demand", "eager"], places[::-1])):
            report = report_of(events, names, recorded=machine("6.12"))
            assert report.pairs[0].strongest == "enomem-moved"
            assert f"; -ENOMEM moves from {said[0]} to {said[1]}; none of" in report.sentence

    def test_behind_the_horizon(self) -> None:
        """What lies behind the horizon does not make the strongest class."""
        events: list[Event] = [CREATE, slot(), FAIL, attrs.evolve(REGISTER, ret=-12), WriteTrackAdd(vm=0, gfn=Gfn(1))]
        (pair,) = report_of(events, recorded=machine("6.12")).pairs
        (dead,) = [finding for finding in pair.findings if finding.divergence == "state-differs"]
        assert dead.behind_horizon
        assert dead.event == 4
        assert pair.strongest == "enomem-new"
        (counted,) = [count for count in pair.classes if count.divergence == "state-differs"]
        assert (counted.count, counted.behind_horizon, counted.first_event) == (0, 1, 4)

    def test_each_pair_has_its_sentence(self) -> None:
        """With three lanes the reference is held against each of the others."""
        report = report_of([CREATE, slot()], ["eager", "on-demand", "eager-5.16"])
        assert [(pair.reference, pair.other, pair.strongest) for pair in report.pairs] == [
            ("eager", "on-demand", "bytes-only"),
            ("eager", "eager-5.16", ""),
        ]
        assert report.sentence.startswith("eager and on-demand differ in bytes only")
        assert "eager-5.16" not in report.sentence


class TestNothing:
    """Nothing to judge is no verdict."""

    def test_no_events(self) -> None:
        """A recording without events is refused; one that lost them says so."""
        with pytest.raises(EmptyError, match=r"no events.*Check what the recorder was told"):
            compare(MemoryStream(Header(), ()), make_lanes(["eager", "on-demand"], Machine()))
        torn = Trailer(counters=(Counter(kind="torn recording", count=1, severity="lost"),))
        with pytest.raises(EmptyError, match=r"no events.*The recording has lost some: torn recording; `kvm-replay info`"):
            compare(MemoryStream(Header(), (), torn), make_lanes(["eager", "on-demand"], Machine()))

    def test_one_lane(self) -> None:
        """One lane alone has nobody to differ from; it is checked against the recording all the same."""
        report = report_of([CREATE, slot(ret=0)], ["eager"])
        assert (report.verdict, report.pairs, report.lanes[0].checked) == ("same", (), 2)

    def test_counts_of_what_could_be_seen(self) -> None:
        """The report says what the recording has none of, so that silence is no proof."""
        counts = {count.name: count.count for count in report_of([CREATE, slot(), Mark(text="x")]).never}
        assert counts["memslot calls"] == 1
        assert counts["notifier registrations"] == counts["shadow roots"] == 0
        assert WITHOUT_ARGUMENTS not in counts

    def test_calls_without_arguments(self) -> None:
        """Calls that may have been any of these are counted beside them."""
        opaque = Opaque(vm=0, name="KVM_SET_USER_MEMORY_REGION2", cmd=0x40A0AE49, ret=0)
        counts = {count.name: count.count for count in report_of([CREATE, opaque, opaque]).never}
        assert (counts["memslot calls"], counts[WITHOUT_ARGUMENTS]) == (0, 2)
