"""Promises of the search for an order of calls that overlap in time, case by case."""

from typing import Any

import pytest
from comparisons import thread
from lane_samples import CREATE, lane, machine, slot

from replay.analyses.check import check
from replay.analyses.check_report import AGREES, CANNOT_TELL, CONTRADICTED, CheckReport
from replay.analyses.check_unknown import BUDGET_OUT, DOUBTED, NOT_MOVED
from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.order_report import CANNOT_TELL as UNDECIDED
from replay.analyses.order_report import NONE_FITS, RECORDED, REORDERED, OrderGroup
from replay.analyses.orders import Orders
from replay.engine.lanes import make_lanes
from replay.events import (
    AllocFail,
    DirtyLogGet,
    Event,
    Mark,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    Observe,
    ObservedArea,
    ObservedVm,
    Opaque,
    ShadowPageAccount,
    VmCreate,
)
from replay.header import Header
from replay.runs import events_of, items_of
from replay.stream import MemoryStream
from replay.units import EEXIST, EINVAL, ENOENT, ENOMEM, Gfn, Gpa

RELEASE = "6.12.117"
RECORDED_ON = machine(RELEASE)


def at(tid: int, enter: int, leave: int, **more: Any) -> dict[str, Any]:
    """Return the fields of a call of a thread that was under way from one time to another."""
    return {"task": thread(tid), "enter_time_ns": enter, "time_ns": leave, "ret": 0} | more


def stream(*events: Event) -> MemoryStream:
    """Return a recording of events behind the creation of VM 0."""
    return MemoryStream(Header(machine=RECORDED_ON), items_of([CREATE, *events]))


def checked(*events: Event, **more: Any) -> CheckReport:
    """Check such a recording."""
    return check(stream(*events), **more)


def compared(*events: Event, lanes: tuple[str, ...] = ("eager", "on-demand"), **more: Any) -> CompareReport:
    """Compare policies over such a recording; the recorded kernel is on-demand."""
    recording = stream(*events)
    return compare(recording, make_lanes(lanes, RECORDED_ON), **more)


def only(report: CheckReport | CompareReport) -> OrderGroup:
    """Return the only group that is listed."""
    assert report.orders is not None
    (group,) = report.orders.listed
    return group


RIVALS = (
    slot(0, base=0, **at(1, 100, 200)),
    slot(1, base=0, **at(2, 100, 190, ret=-EEXIST)),
)
"""Two threads create overlapping slots; the one that was told so must have come second."""


class TestWhichOrder:
    """The order that is handed on."""

    def test_nothing_overlaps(self) -> None:
        """A recording whose calls follow one another, or touch, has no groups, and is handed on as it is."""
        calls = (slot(0, **at(1, 100, 200)), slot(1, **at(2, 200, 300)), slot(2, **at(1, 300, 400)))
        report = checked(*calls)
        assert (report.orders, report.checked, report.status()) == (None, 3, AGREES)

    def test_recorded_order_first(self) -> None:
        """The recorded order is kept where it gives the recorded results, and nothing is said of it."""
        report = checked(*RIVALS)
        assert report.orders is not None
        assert (report.orders.recorded, report.orders.listed, report.status()) == (1, (), AGREES)

    def test_another_order(self) -> None:
        """Written down by exit, the call that failed comes first: the other order is chosen, and named."""
        report = checked(*reversed(RIVALS))
        group = only(report)
        assert (report.status(), report.checked, report.agreed) == (AGREES, 2, 2)
        assert (group.fits, group.events, group.chosen, group.vm) == (REORDERED, (1, 2), (2, 1), 0)
        assert (group.matters, group.differing, group.open_end) == (False, (), False)

    def test_threads_keep_their_order(self) -> None:
        """Calls of one thread are never exchanged, whatever their times say."""
        first, second = reversed(RIVALS)
        report = checked(first, slot(0, base=0, **at(2, 150, 300)))
        assert (only(report).fits, only(report).tried, report.status()) == (NONE_FITS, 1, CONTRADICTED)
        assert checked(first, second).status() == AGREES

    def test_real_time_is_kept(self) -> None:
        """A call that returned before another was entered stays before it, also with a third one across both."""
        long = slot(5, **at(3, 0, 900))
        report = checked(slot(1, base=0, **at(2, 100, 200, ret=-EEXIST)), slot(0, base=0, **at(1, 300, 400)), long)
        group = only(report)
        assert (group.fits, group.events, report.status()) == (NONE_FITS, (1, 2, 3), CONTRADICTED)

    def test_a_late_exit(self) -> None:
        """A call that returns last may have come first, past calls that do not overlap each other."""
        first = slot(1, base=0, **at(1, 0, 900))
        report = checked(slot(2, base=0, **at(2, 100, 200, ret=-EEXIST)), slot(3, base=0, **at(2, 300, 400, ret=-EEXIST)), first)
        group = only(report)
        assert (report.status(), group.chosen) == (AGREES, (3, 1, 2))

    def test_calls_on_other_vms(self) -> None:
        """Calls on different VMs that overlap are no group."""
        other = slot(0, **at(2, 100, 190, vm=1))
        report = checked(VmCreate(vm=1, ret=11), slot(0, **at(1, 100, 200)), other)
        assert (report.orders, report.status()) == (None, AGREES)

    def test_shared_limits(self) -> None:
        """A limit of the memory cgroup is shared: whose allocation still fitted depends on the order across VMs."""
        limit = MemoryLimit(limit_pages=2)
        full, fitted = slot(0, npages=512, **at(1, 100, 190, ret=-ENOMEM)), slot(0, npages=512, **at(2, 100, 200, vm=1))
        report = checked(VmCreate(vm=1, ret=11), limit, full, fitted)
        group = only(report)
        assert (group.vm, group.fits, group.chosen, report.status()) == (None, REORDERED, (4, 3), AGREES)

    def test_injection_for_one_vm(self) -> None:
        """An injection for one VM leaves calls on the other alone."""
        fail = AllocFail(vm=0, site="slot", nth=1)
        first = slot(0, **at(1, 100, 190, ret=-ENOMEM))
        report = checked(VmCreate(vm=1, ret=11), fail, first, slot(0, **at(2, 100, 200, vm=1)))
        assert (report.orders, report.status()) == (None, AGREES)

    def test_numbers_are_the_recorded_ones(self) -> None:
        """Events keep the numbers that they have in the recording, in whatever order they are replayed."""
        recording = stream(*reversed(RIVALS), slot(7, **at(1, 300, 400)))
        one = lane(RELEASE, RECORDED_ON)
        handed = []
        for number, item in Orders([one]).numbered(recording.items()):
            (event,) = events_of([item])
            one.step(event, number)
            handed.append((number, getattr(event, "slot", None)))
        assert handed == [(0, None), (2, 0), (1, 1), (3, 7)]


class TestLaterEvidence:
    """What is recorded behind a group tells which of its orders it was."""

    LOGS = slot(0, flags=1, **at(1, 200, 290))
    PLAIN = slot(0, flags=0, **at(2, 200, 280))

    def race(self, *behind: Event) -> CheckReport:
        """Check a race that turns dirty logging off and on, written down in that order, with something behind it."""
        before = (slot(0, flags=0, **at(1, 100, 110)), slot(0, flags=1, **at(1, 120, 130)))
        return checked(*before, self.PLAIN, self.LOGS, *behind)

    @pytest.mark.parametrize(("ret", "fits"), [(0, RECORDED), (-ENOENT, REORDERED)])
    def test_later_call(self, ret: int, fits: str) -> None:
        """A later result that only one order leads to decides."""
        report = self.race(DirtyLogGet(vm=0, slot=0, **at(1, 400, 500, ret=ret)))
        assert report.orders is not None
        listed = [group.fits for group in report.orders.listed]
        assert report.status() == AGREES
        assert listed == ([] if fits == RECORDED else [fits])

    def test_later_observation(self) -> None:
        """An observed state decides as a result does."""
        state = ObservedVm(nr_memslot_pages=16, slots=())
        report = self.race(Observe(vm=0, state=state))
        assert report.status() == CONTRADICTED  # no order deletes the slot

    @pytest.mark.parametrize(
        ("site", "chosen"), [("kvm_page_track_create_memslot", [(1, 2)]), ("kvm_page_track_register_notifier", [(2, 1)])]
    )
    def test_allocations_by_site(self, site: str, chosen: list[tuple[int, ...]]) -> None:
        """Who allocated decides, where that was observed: the memslot call, or the registration behind it."""
        register = NotifierRegister(vm=0, **at(2, 200, 280))
        create = slot(0, npages=1024, **at(1, 200, 290))
        areas = (ObservedArea("kvm_arch_prepare_memory_region", 2, 2, 0, 0), ObservedArea(site, 1, 1, 0, 0))
        report = checked(register, create, Observe(vm=0, areas=areas))
        assert report.orders is not None
        assert (report.checked, report.status(), report.orders.reordered) == (3, AGREES, int(chosen == [(2, 1)]))
        assert [group.chosen for group in report.orders.listed if group.fits == REORDERED] == [c for c in chosen if c == (2, 1)]

    def test_nothing_tells(self) -> None:
        """Where nothing does, the recorded order is kept, and the open end is reported."""
        group = only(self.race())
        assert (group.fits, group.open_end, group.matters) == (RECORDED, True, False)

    def test_past_what_says_nothing(self) -> None:
        """Remarks and hot events between are passed over, for a call that tells."""
        page = ShadowPageAccount(vm=0, gfn=Gfn(1), level=1)
        report = self.race(Mark(text="x"), page, DirtyLogGet(vm=0, slot=0, **at(1, 400, 500, ret=-ENOENT)))
        assert report.status() == AGREES
        assert only(report).chosen == (4, 3)

    def test_an_opaque_call(self) -> None:
        """Behind a call that shows nothing, nothing tells; what contradicts is not held against the model."""
        opaque = Opaque(vm=0, cmd=1, name="KVM_ENABLE_CAP", ret=0, time_ns=350)
        wrong = MemslotSet(vm=0, slot=4, memory_size=0, guest_phys_addr=Gpa(0), ret=0, time_ns=600)
        report = self.race(opaque, wrong)
        assert report.orders is not None
        assert (report.mismatch_count, report.orders.doubted, report.status()) == (0, 1, CANNOT_TELL)
        assert DOUBTED in {reason.reason for reason in report.reasons}

    def test_contradiction_under_every_order(self) -> None:
        """A result that no order of the group explains is a mismatch, open end or not."""
        report = self.race(MemslotSet(vm=0, slot=4, memory_size=0, guest_phys_addr=Gpa(0), **at(1, 400, 500)))
        assert (report.mismatch_count, report.status()) == (1, CONTRADICTED)


class TestNoOrder:
    """Groups of which no order fits, or none can be found."""

    BOTH = (slot(0, base=0, **at(1, 100, 200)), slot(1, base=0, **at(2, 100, 190)))

    def test_mismatch(self) -> None:
        """Two creations of overlapping slots that both succeed contradict the model: exit status 1, the calls named."""
        report = checked(*self.BOTH)
        group = only(report)
        assert (report.status(), report.mismatch_count, group.fits, group.events) == (CONTRADICTED, 1, NONE_FITS, (1, 2))
        assert group.tried == 4

    def test_budget(self) -> None:
        """Without the steps to try them all it can not be told: exit status 3, and no mismatch is claimed."""
        report = checked(*self.BOTH, order_budget=3)
        group = only(report)
        assert (report.status(), report.mismatch_count, group.fits, group.why) == (CANNOT_TELL, 0, UNDECIDED, BUDGET_OUT)
        assert group.tried == 3
        assert checked(*self.BOTH, order_budget=4).status() == CONTRADICTED

    def test_budget_after_an_order(self) -> None:
        """An order that was found stands, though others are left untried."""
        report = checked(*RIVALS, order_budget=2)
        group = only(report)
        assert (report.status(), group.fits, group.complete) == (AGREES, RECORDED, False)

    def test_hot_events_between(self) -> None:
        """A call is not moved past hot events of its VM; what that leaves untried is no mismatch."""
        first, second = reversed(RIVALS)
        page = ShadowPageAccount(vm=0, gfn=Gfn(1), level=1, time_ns=195)
        report = checked(first, page, second)
        assert (report.status(), report.mismatch_count) == (CANNOT_TELL, 0)
        assert NOT_MOVED in {reason.reason for reason in report.reasons}
        other = ShadowPageAccount(vm=1, gfn=Gfn(1), level=1, time_ns=195)
        assert checked(VmCreate(vm=1, ret=11), first, other, second).status() == AGREES

    def test_without_times(self) -> None:
        """A call without its times or thread keeps its place: the recorded order is all that there is."""
        first, second = reversed(RIVALS)
        for lost in ({"enter_time_ns": None}, {"time_ns": None}, {"task": None}, {"enter_time_ns": 500}):
            report = checked(first, slot(0, base=0, **(at(1, 100, 200) | lost)))
            assert (report.orders, report.status()) == (None, CONTRADICTED), lost
        assert checked(first, second).status() == AGREES


class TestCompare:
    """What `compare` says of overlapping calls."""

    def test_matters_to_an_event(self) -> None:
        """Which of two registrations allocates depends on the order: the events are named, the verdict stands."""
        registers = (NotifierRegister(vm=0, node=tid, **at(tid, 100, 190 + tid)) for tid in (1, 2))
        report = compared(slot(0, npages=4096, **at(1, 10, 20)), *registers)
        group = only(report)
        assert (report.verdict, group.fits, group.differing, group.matters) == ("divergence", RECORDED, (2, 3), False)

    def test_matters_to_a_verdict(self) -> None:
        """A registration before the memslot leaves nothing to part the lanes, one behind it does: that can not be told."""
        race = NotifierRegister(vm=0, node=0, **at(1, 100, 200)), slot(0, npages=4096, **at(2, 100, 190))
        for events in (race, race[::-1]):
            report = compared(*events)
            assert (only(report).differing, only(report).matters, report.verdict) == ((1, 2), True, "cannot tell")

    def test_matters_to_a_result(self) -> None:
        """Where a lane's result depends on the order, the verdict can not be told."""
        limit = AllocFail(vm=0, site="gfn_write_track", nth=1, count=0)
        report = compared(
            limit, NotifierRegister(vm=0, node=0, **at(1, 100, 200, ret=None)), slot(0, **at(2, 100, 190, ret=None))
        )
        assert only(report).matters
        assert report.verdict == "cannot tell"

    def test_no_order(self) -> None:
        """No order is a doubt that the verdict can not pass over."""
        report = compared(*TestNoOrder.BOTH)
        assert report.verdict == "cannot tell"
        assert any("no order of calls" in doubt.what for doubt in report.uncertainties)

    def test_budget(self) -> None:
        """Neither can it when the budget ran out."""
        report = compared(*RIVALS, order_budget=1)
        assert report.verdict == "cannot tell"
        assert any("--order-budget" in doubt.advice for doubt in report.uncertainties)

    def test_without_the_recorded_kernel(self) -> None:
        """Without a lane of the recorded kernel nothing tells what fits: the recorded order is kept, and that is said."""
        report = compared(*reversed(RIVALS), lanes=("6.8", "v2"))
        assert report.orders is not None
        assert (report.orders.unjudged, report.orders.reordered) == (1, 0)

    def test_horizon_in_a_group(self) -> None:
        """What comes behind the horizon in the order that is replayed stands behind it, though its number is smaller."""
        fails = AllocFail(vm=0, site="gfn_write_track", count=0)
        plain, moved = compared(fails, *RIVALS), compared(fails, *reversed(RIVALS))
        assert only(moved).chosen == (3, 2)
        for report, first, second in ((plain, 2, 3), (moved, 3, 2)):
            horizon = report.lanes[0].horizon
            assert horizon is not None
            assert horizon.event == first
            found = {(one.event, one.divergence, one.behind_horizon) for one in report.pairs[0].findings}
            assert found == {(first, "bytes-only", True), (first, "enomem-gone", False), (second, "result-differs", True)}

    def test_findings_name_recorded_events(self) -> None:
        """Findings carry the numbers of the recording, not the places of the order that was chosen."""
        behind = slot(5, npages=4096, **at(1, 300, 400))
        plain, moved = compared(*RIVALS, behind), compared(*reversed(RIVALS), behind)
        assert [found.event for found in plain.pairs[0].findings] == [1, 3]
        assert [found.event for found in moved.pairs[0].findings] == [2, 3]


class TestOtherCalls:
    """Rules that tie calls of different kinds."""

    @pytest.mark.parametrize(("ret", "fits"), [(0, REORDERED), (-EINVAL, RECORDED)])
    def test_move_beside_registration(self, ret: int, fits: str) -> None:
        """A MOVE that succeeded came before the registration that overlaps it: behind it, it is refused."""
        register = NotifierRegister(vm=0, node=0, **at(2, 100, 200))
        moved = slot(0, base=0x1000, **at(1, 100, 210, ret=ret))
        report = checked(slot(0, **at(1, 10, 20)), register, moved)
        assert report.orders is not None
        assert (report.status(), report.orders.reordered, report.orders.recorded) == (AGREES, fits == REORDERED, fits == RECORDED)
