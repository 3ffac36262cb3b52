"""Promises of replay.analyses.uncertainty: what the recording lacks costs the answer its certainty, and nothing else does."""

from collections.abc import Sequence

import attrs
import pytest
from comparisons import REGISTER, report_of
from lane_samples import CREATE, machine, slot

from replay.analyses.findings import Uncertainty
from replay.events import (
    Event,
    GuestMemfdCreate,
    Lost,
    Mark,
    NotifierRegister,
    Opaque,
    ShadowPageAccount,
    ShadowRootAlloc,
    Source,
    VmAttach,
    VmDestroy,
)
from replay.header import Counter, Machine, Trailer
from replay.units import Gfn

HERE = Source(0, 7)
SOUND = [CREATE, slot(ret=0), REGISTER]


def doubts_of(events: Sequence[Event], *, trailer: Trailer | None = None, recorded: Machine | None = None) -> list[Uncertainty]:
    """Return the doubts that matter; there must be some exactly when the verdict is that nobody can tell."""
    report = report_of(events, trailer=trailer, recorded=recorded)
    found = [doubt for doubt in report.uncertainties if doubt.matters]
    assert (report.verdict == "cannot tell") == bool(found)
    assert report.sentence.startswith("Cannot tell for certain: ") == bool(found)
    return found


class TestNothing:
    """A recording of some other program."""

    def test_no_vm(self) -> None:
        """Without a VM nothing was compared, whatever else is in it; that is no "same"."""
        (doubt,) = doubts_of([Mark(text="recording ends")])
        assert doubt.what == "no VM is in the recording: nothing was compared"
        assert doubts_of([CREATE]) == []


class TestDoubtful:
    """Each kind of doubt turns the verdict."""

    @pytest.mark.parametrize(
        ("more", "what", "vm"),
        [
            (Lost(what="ring buffer of CPU 1 overran", count=12), "events are lost: ring buffer", None),
            (Lost(vm=0, what="a gap"), "events are lost: a gap", 0),
            (Opaque(vm=0, cmd=0x40A0AE49, name="KVM_SET_USER_MEMORY_REGION2", ret=0), "KVM_SET_USER_MEMORY_REGION2 with arg", 0),
            (Opaque(vm=0, cmd=0x40A0AE49, name="KVM_SET_USER_MEMORY_REGION2"), "KVM_SET_USER_MEMORY_REGION2 with arg", 0),
            (VmAttach(vm=1), "the VM was alive before the recording began", 1),
            (slot(1, source=HERE), "memslot.set was not seen to return", 0),
            (NotifierRegister(vm=0, source=HERE), "notifier.register was not seen to return", 0),
            (ShadowRootAlloc(vm=0, nested=True, source=HERE), "shadow_root.alloc was not seen to return", 0),
            (slot(9, base=0, ret=0), "the model of the recorded kernel disagrees with it: event 3 memslot.set", None),
            (slot(1, ret=-12), "a recorded -ENOMEM whose failing allocation is not recorded", None),
            (ShadowPageAccount(vm=0, gfn=Gfn(0x900), level=2), "write tracking of gfns without a memslot", 0),
        ],
    )
    def test_event(self, more: Event, what: str, vm: int | None) -> None:
        """One such event is enough; the doubt says which event and which VM."""
        assert doubts_of(SOUND) == []
        (found,) = doubts_of([*SOUND, more])
        assert found.what.startswith(what)
        assert (found.vm, found.first_event) == (vm, 3)

    @pytest.mark.parametrize(
        "more",
        [
            Opaque(vm=0, cmd=0x40A0AE49, name="KVM_SET_USER_MEMORY_REGION2", ret=-22),
            Opaque(vm=0, cmd=0x40A0AE49, name="KVM_SET_USER_MEMORY_REGION2", ret=0, foreign_mm=True),
            Opaque(vm=0, cmd=0x4068AEA3, name="KVM_ENABLE_CAP", ret=0),
            Mark(text="a remark"),
            slot(1),  # written by hand: nobody saw it enter either
            slot(1, source=HERE, inferred=True),
            GuestMemfdCreate(vm=0, source=HERE),  # changes nothing that is compared
        ],
    )
    def test_harmless(self, more: Event) -> None:
        """A call that failed, one from another mm, a remark, an event without trace: the verdict stands."""
        assert doubts_of([*SOUND, more]) == []

    def test_same_doubt_is_counted(self) -> None:
        """Losses of one kind are one doubt with their sum; of another kind or VM another."""
        lost = Lost(vm=0, what="a gap", count=5)
        found = doubts_of([*SOUND, lost, lost, attrs.evolve(lost, vm=None), attrs.evolve(lost, what="a hole", count=None)])
        assert [(doubt.count, doubt.vm, doubt.first_event) for doubt in found] == [(10, 0, 3), (5, None, 5), (1, 0, 6)]

    def test_on_a_dead_vm(self) -> None:
        """A call on a VM that is gone says that the recording is out of order."""
        (found,) = doubts_of([CREATE, slot(ret=0), VmDestroy(vm=0), slot(1, ret=0)])
        assert (found.what, found.vm, found.first_event) == ("events on a VM that is gone", 0, 3)
        (found,) = doubts_of([CREATE, slot(ret=0), VmDestroy(vm=0), ShadowPageAccount(vm=0, gfn=Gfn(1), level=2)])
        assert (found.what, found.first_event) == ("events on a VM that is gone", 3)

    def test_what_one_lane_alone_lacks_is_no_doubt(self) -> None:
        """Behind its horizon a lane lacks memslots because the call failed in it, not because the recording does."""
        large = slot(1, base=0x1000, npages=2048 * 4096, ret=0)
        recorded = machine("6.12", total_ram_pages=4000)
        page = ShadowPageAccount(vm=0, gfn=Gfn(0x1000), level=2, nested=True)
        assert doubts_of([CREATE, large, page], recorded=recorded) == []
        warned = report_of([CREATE, large, page], recorded=recorded).lanes[0].warnings
        assert [count.name for count in warned] == ["no memslot for the gfn"]


class TestTrailer:
    """What only the end knows counts as well."""

    @pytest.mark.parametrize(("severity", "word"), [("lost", "lost"), ("unknown", "not understood")])
    def test_counted(self, severity: str, word: str) -> None:
        """Things that were lost or not understood are doubts, with the place of the first one."""
        counter = Counter(kind="odd line", count=3, first="t.txt:9", severity=severity)
        (found,) = doubts_of(SOUND, trailer=Trailer(counters=(counter,)))
        assert (found.what, found.count, found.first_event, found.place) == (f"{word}: odd line", 3, None, "t.txt:9")
        assert found.advice == ""

    def test_ignored(self) -> None:
        """Things that were understood and have no effect are none, nor is a kind that never happened."""
        counters = (Counter(kind="KVM_RUN", count=99, severity="ignored"), Counter(kind="odd line", count=0))
        assert doubts_of(SOUND, trailer=Trailer(counters=counters)) == []

    def test_said_once(self) -> None:
        """A loss that an event speaks of and the trailer counts is one doubt."""
        trailer = Trailer(counters=(Counter(kind="a gap", count=1, severity="lost"),))
        (found,) = doubts_of([*SOUND, Lost(vm=0, what="a gap")], trailer=trailer)
        assert found.first_event == 3


class TestShadowPagesOnly:
    """A loss that concerns shadow pages alone leaves the memslots certain, and the sentence says so."""

    def test_sentence(self) -> None:
        """Nobody can tell, but results and bytes of memslot calls hold."""
        report = report_of([*SOUND, Lost(vm=0, what="pages of a run", affects="shadow_pages")])
        assert report.verdict == "cannot tell"
        assert report.uncertainties[0].affects == "shadow_pages"
        assert "results of memslot calls and bytes of their arrays hold." in report.sentence

    def test_with_another_loss(self) -> None:
        """Beside a loss of anything nothing of the kind is said."""
        events = [*SOUND, Lost(vm=0, what="pages", affects="shadow_pages"), Lost(vm=0, what="a gap")]
        report = report_of(events)
        assert [doubt.affects for doubt in report.uncertainties] == ["shadow_pages", "everything"]
        assert "hold." not in report.sentence
        assert "and 1 more doubt." in report.sentence

    def test_of_one_name(self) -> None:
        """One name for both kinds of loss is a loss of everything."""
        events = [*SOUND, Lost(vm=0, what="pages", affects="shadow_pages"), Lost(vm=0, what="pages")]
        assert [doubt.affects for doubt in report_of(events).uncertainties] == ["everything"]


class TestUnknownKernel:
    """Without a recorded kernel no lane is factual, and all of them may be wrong."""

    def test_no_lane_gives_the_results(self) -> None:
        """When each lane parts from the recording somewhere, the recorded kernel is none of them."""
        events = [CREATE, slot(ret=0), slot(1, base=0, ret=0)]
        (found,) = doubts_of(events, recorded=machine(None))
        assert found.what.startswith("no lane gives the recorded results")
        assert found.first_event == 2

    def test_one_lane_does(self) -> None:
        """One lane that gives all of them is answer enough."""
        recorded = machine(None, total_ram_pages=600)
        events = [CREATE, slot(npages=2048 * 4096 // 4, base=0x1000, ret=0)]
        report = report_of(events, recorded=recorded)
        assert [lane.horizon is not None for lane in report.lanes] == [True, False]
        assert report.uncertainties == ()

    def test_shadow_roots_of_unknown_cause(self) -> None:
        """Shadow roots that an importer concluded, on a machine whose tdp nobody noted."""
        root = ShadowRootAlloc(vm=0, inferred=True, ret=0)
        (found,) = doubts_of([*SOUND, root], recorded=machine(tdp=None))
        assert "not whether tdp was off" in found.what
        assert doubts_of([*SOUND, root], recorded=machine(tdp=True)) == []
        assert doubts_of([*SOUND, attrs.evolve(root, nested=True)], recorded=machine(tdp=None)) == []
