"""Promises of a pair of lanes: root cause, visibility, convergence, matching of failures, what stands behind the horizon."""

from typing import Any

import attrs
import pytest
from comparisons import REGISTER, ROOT, findings_of, report_of, shape, thread
from lane_samples import CREATE, machine, slot

from replay.analyses.context import task_text
from replay.analyses.findings import Finding
from replay.analyses.ledger import Ledger
from replay.analyses.parted import state_difference
from replay.engine.lanes import make_lanes
from replay.events import (
    AllocFail,
    Event,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    Source,
    Task,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.units import Gfn

DELETE = MemslotSet(vm=0, slot=0)
NEW = machine("6.12")
REGISTER_FAILS = AllocFail(site="kvm_page_track_register_notifier", nth=2)
REFUSED = attrs.evolve(REGISTER, ret=-12)


class TestArrays:
    """A stretch of an array that one lane has begins, lasts and ends."""

    def test_moved(self) -> None:
        """The finding says where each lane allocates, by which function, in which task, and that they are alike from there."""
        events = [CREATE, slot(task=thread(100)), attrs.evolve(REGISTER, task=thread(107))]
        (found,) = findings_of(events)
        eager, lazy = found.sides
        assert (eager.event, eager.kind, eager.site) == (1, "memslot.set", "kvm_page_track_create_memslot")
        assert (lazy.event, lazy.kind, lazy.site) == (2, "notifier.register", "kvm_page_track_register_notifier")
        assert (eager.task, lazy.task) == (Task(100, 100), Task(100, 107))
        assert (found.base_gfn, found.npages, found.nominal_bytes, found.charged_bytes) == (0, 16, -32, -4096)
        assert (found.converged_event, found.root_cause_event, found.visible_event) == (2, 1, None)
        assert [aspect.catalogue for aspect in found.aspects] == ["D28", "D29", "D30"]

    @pytest.mark.parametrize(
        ("tasks", "rows"),
        [((100, 100), ["D29", "D30"]), ((100, 107), ["D28", "D29", "D30"]), ((None, 107), ["D29", "D30"])],
    )
    def test_who_is_charged(self, tasks: tuple[int | None, int | None], rows: list[str]) -> None:
        """Another task is charged only when both are known and differ."""
        made, opened = (None if tid is None else thread(tid) for tid in tasks)
        (found,) = findings_of([CREATE, slot(task=made), attrs.evolve(REGISTER, task=opened)])
        assert [aspect.catalogue for aspect in found.aspects] == rows

    def test_recorded_length(self) -> None:
        """Only the recorded kernel's own call has a length: what the other one would have taken nobody knows."""
        opened = attrs.evolve(REGISTER, enter_time_ns=1000, time_ns=1700)
        made = slot(enter_time_ns=100, time_ns=130)
        (eager_ran,) = findings_of([CREATE, made, opened])
        (lazy_ran,) = findings_of([CREATE, made, opened], recorded=NEW)
        assert [side.took_ns for side in eager_ran.sides] == [30, None]
        assert [side.took_ns for side in lazy_ran.sides] == [None, 700]
        assert "took 700 ns" in lazy_ran.aspects[0].text

    @pytest.mark.parametrize(
        ("events", "expected"),
        [
            ([slot()], [(1, "D1", None)]),
            ([slot(), DELETE], [(1, "D1", 2)]),
            ([slot(), DELETE, slot()], [(1, "D1", 2), (3, "D31", None)]),
            ([slot(), slot(base=0x900)], [(1, "D16", None)]),
            ([slot(), slot(base=0x900), REGISTER], [(1, "D2", 3)]),
            ([slot(), ROOT], [(1, "D5", 2)]),
            ([slot(), slot(1), REGISTER], [(1, "D2", 3), (2, "D2", 3)]),
            ([slot(), VmDestroy(vm=0)], [(1, "D1", 2)]),
            ([REGISTER, slot()], []),
        ],
    )
    def test_rows(self, events: list[Event], expected: list[tuple[int, str, int | None]]) -> None:
        """The row follows from how the stretch ends."""
        found = findings_of([CREATE, *events])
        assert [(one.event, one.catalogue, one.converged_event) for one in found] == expected

    def test_move_in_between(self) -> None:
        """A MOVE before the arrays are alike is said beside the row, with the peak of both copies."""
        (found,) = findings_of([CREATE, slot(), slot(base=0x900), REGISTER])
        assert [aspect.catalogue for aspect in found.aspects] == ["D16", "D29", "D30"]
        assert found.nominal_bytes == -64

    def test_either_order_of_lanes(self) -> None:
        """With the lanes swapped the same is said with the other sign."""
        one, other = findings_of([CREATE, slot()]), findings_of([CREATE, slot()], ["on-demand", "eager"])
        assert shape(one) == shape(other) == [(1, "bytes-only", "D1")]
        assert [found.nominal_bytes for found in (*one, *other)] == [-32, 32]
        assert one[0].sides == other[0].sides[::-1]

    def test_failed_on_the_way(self) -> None:
        """A registration that fails keeps arrays (D8), what is made after it has none (D10), and only -ENOMEM counts as that."""
        events = [CREATE, slot(), slot(1), REGISTER_FAILS, REFUSED, slot(2), REGISTER]
        found = [(one.event, one.catalogue) for one in findings_of(events, recorded=NEW) if one.divergence == "bytes-only"]
        assert found == [(1, "D8"), (2, "D2"), (5, "D10")]
        foreign = NotifierRegister(vm=0, foreign_mm=True, ret=-3)
        assert shape(findings_of([CREATE, foreign, slot(), REGISTER])) == [(2, "bytes-only", "D2")]


class TestFailures:
    """A shortage of memory that fails one lane may fail the other one later."""

    def test_moved(self) -> None:
        """A failure of each lane in one VM is one finding, at the first of them."""
        shortage = AllocFail(vm=0, site="gfn_write_track")
        found = findings_of([CREATE, shortage, slot(ret=0), REFUSED], recorded=NEW)
        (moved,) = [one for one in found if one.divergence.startswith("enomem")]
        assert (moved.event, moved.divergence, moved.catalogue) == (2, "enomem-moved", "D7")
        assert [(side.event, side.kind, side.ret) for side in moved.sides] == [
            (2, "memslot.set", -12),
            (3, "notifier.register", -12),
        ]
        assert moved.root_cause == "eager allocates gfn_write_track there, on-demand in notifier.register"

    def test_not_of_another_vm(self) -> None:
        """Failures of two VMs have nothing to do with each other."""
        fail_0, fail_1 = AllocFail(vm=0, site="gfn_write_track"), AllocFail(vm=1, site="kvm_page_track_register_notifier")
        second = [attrs.evolve(CREATE, vm=1, ret=11), attrs.evolve(slot(ret=0), vm=1), attrs.evolve(REFUSED, vm=1)]
        found = findings_of([CREATE, fail_0, slot(ret=0), fail_1, *second], recorded=NEW)
        classes = [(one.vm, one.divergence, one.catalogue) for one in found if one.divergence.startswith("enomem")]
        assert classes == [(0, "enomem-gone", "D7"), (1, "enomem-new", "D8")]

    def test_memory_limit(self) -> None:
        """A limit of the memory cgroup fails each lane where it allocates."""
        events = [CREATE, MemoryLimit(limit_pages=7), slot(ret=0), slot(1, ret=0), slot(2, ret=0), REFUSED]
        found = findings_of(events, recorded=NEW)
        assert ("enomem-moved", "D7") in [(one.divergence, one.catalogue) for one in found]

    def test_root_cause_of_a_late_failure(self) -> None:
        """A registration that fails has its cause where the other lane made the arrays."""
        found = findings_of([CREATE, slot(), slot(1), REGISTER_FAILS, REFUSED], recorded=NEW)
        (failure,) = [one for one in found if one.divergence == "enomem-new"]
        assert (failure.event, failure.root_cause_event, failure.visible_event) == (4, 1, 4)
        assert failure.sides[1].did == (
            "-ENOMEM: gfn_write_track in kvm_page_track_register_notifier(), 1 array made before it is kept"
        )

    def test_both_fail(self) -> None:
        """The same errno in both lanes is no finding, another one is a result."""
        assert shape(findings_of([CREATE, AllocFail(nth=1), slot(ret=-12)])) == []
        events = [CREATE, slot(), REGISTER, AllocFail(site="kvm_page_track_create_memslot"), slot(base=0x900, ret=-12)]
        found = findings_of(events, ["eager-5.16", "on-demand"], recorded=machine("6.1"))
        assert shape(found) == [(1, "bytes-only", "D2"), (4, "result-differs", "D14")]
        assert found[-1].converged_event == 4


class TestDeadVm:
    """A VM that only one lane lets die."""

    EVENTS = (CREATE, slot(), slot(1), WriteTrackAdd(vm=0, gfn=Gfn(0x101), ret=0))

    def test_chain(self) -> None:
        """Root cause: where the memslot got its array in one lane. Visible: the first ioctl after it. End: the VM's end."""
        found = findings_of([*self.EVENTS, slot(2, ret=0), VmDestroy(vm=0)])
        (dead,) = [one for one in found if one.divergence == "state-differs"]
        assert (dead.catalogue, dead.event, dead.gfn) == ("D11", 3, 0x101)
        assert (dead.root_cause_event, dead.visible_event, dead.converged_event) == (2, 4, 5)
        assert dead.converged == "the VM is gone in both"
        (eio,) = [one for one in found if one.divergence == "result-differs"]
        assert (eio.event, eio.root_cause_event, eio.catalogue) == (4, 3, "D11")
        assert eio.sides[1].ret == -5

    def test_nobody_notices(self) -> None:
        """Without a call after it only the kernel log shows it."""
        (dead,) = [one for one in findings_of(self.EVENTS) if one.divergence == "state-differs"]
        assert (dead.visible_event, dead.visible, dead.converged_event) == (None, "in the kernel log", None)

    def test_once(self) -> None:
        """A hundred such calls are one finding that counts them; the counters that part are part of it."""
        many = [WriteTrackAdd(vm=0, gfn=Gfn(gfn % 16), ret=0) for gfn in range(100)]
        (dead,) = [one for one in findings_of([CREATE, slot(), *many]) if one.divergence == "state-differs"]
        assert dead.sides[1].did == "KVM_BUG_ON: write tracking is not enabled (100 times in this run)"

    def test_removal(self) -> None:
        """A removal is D12: a warning in one lane, a dead VM in the other."""
        found = findings_of([CREATE, slot(), WriteTrackRemove(vm=0, gfn=Gfn(1), ret=0)])
        (dead,) = [one for one in found if one.divergence == "state-differs"]
        assert dead.catalogue == "D12"
        assert [side.did for side in dead.sides] == [
            "WARN: write-track count below 0",
            "KVM_BUG_ON: write tracking is not enabled",
        ]

    def test_answers_after_it(self) -> None:
        """A query that one lane answers otherwise is a difference of state, told in words."""
        found = findings_of([*self.EVENTS, WriteTrackQuery(vm=0, gfn=Gfn(0x101))])
        answers = [[side.did for side in one.sides] for one in found if one.kind == "write_track.query"]
        assert answers == [["tracked", "not tracked"]]


class TestHorizon:
    """Behind the first differing result userspace would have acted otherwise."""

    def test_marks(self) -> None:
        """What begins at the horizon stands before it, what begins later behind it."""
        events = [CREATE, slot(), slot(1), REGISTER_FAILS, REFUSED, slot(2)]
        found = findings_of(events, recorded=NEW)
        assert [(one.event, one.behind_horizon) for one in found] == [(1, False), (2, False), (4, False), (5, True)]

    def test_without_recorded_results(self) -> None:
        """Where no result is recorded, the first one that parts the lanes is the horizon."""
        events = [CREATE, slot(), slot(1), REGISTER_FAILS, attrs.evolve(REGISTER, ret=None), slot(2)]
        assert [one.behind_horizon for one in findings_of(events, recorded=NEW)] == [False, False, False, True]

    def test_memslot_of_one_lane(self) -> None:
        """A memslot that a differing result left in one lane only is one stretch with all its arrays, behind the horizon."""
        events = [CREATE, AllocFail(vm=0, site="gfn_write_track"), slot(ret=0), DELETE]
        whole = [one for one in findings_of(events, recorded=NEW) if one.title == "memslot that only one lane has"]
        (found,) = whole
        assert (found.event, found.behind_horizon, found.converged_event, found.aspects) == (2, True, 3, ())

    def test_lifetime(self) -> None:
        """Up to 6.5 a VM does not wait for its notifiers: its memory lives longer from 6.6 on."""
        events = [CREATE, slot(), REGISTER, VmDestroy(vm=0), NotifierUnregister(vm=0)]
        found = findings_of(events, ["eager-5.16", "eager-6.6"], recorded=machine("6.1"))
        (longer,) = [one for one in found if one.divergence == "lifetime-differs"]
        assert (longer.event, longer.title) == (3, "notifier that outlives the VM's file descriptors")
        assert [side.did for side in longer.sides] == ["the VM is freed", "the VM stays: a notifier holds a reference"]
        (memory,) = [one for one in found if one.divergence == "bytes-only"]
        assert (memory.event, memory.behind_horizon, memory.converged_event) == (3, False, 4)
        assert [side.did for side in memory.sides][1].startswith("keeps slot 0 as 0")


class TestOtherMachines:
    """Lanes whose machines differ have another explanation than the policy."""

    @pytest.mark.parametrize(
        ("lanes", "words"),
        [
            (["on-demand", "on-demand@tdp=0"], "tdp=y against tdp=n"),
            (["eager", "eager@config=n"], "config_external_write_tracking=y against config_external_write_tracking=n"),
            (["on-demand@tdp=0", "eager@config=n"], "tdp=n against tdp=y"),
        ],
    )
    def test_no_row(self, lanes: list[str], words: str) -> None:
        """The finding names the facts and no row of the catalogue."""
        found = findings_of([CREATE, slot(npages=512)], lanes)
        assert found
        assert {(one.catalogue, one.title) for one in found} == {("", "the lanes' machines differ")}
        assert all(words in one.explanation for one in found)

    def test_release_alone_keeps_the_rows(self) -> None:
        """Two releases differ by their policy where write tracking is concerned."""
        assert shape(findings_of([CREATE, slot()], ["6.8", "6.12"])) == [(1, "bytes-only", "D1")]

    def test_check_of_another_release(self) -> None:
        """A result that the releases decide says which check refused it."""
        call = slot(region2=True)
        (found,) = [one for one in findings_of([CREATE, call], ["6.1", "6.8"]) if one.divergence == "result-differs"]
        assert found.root_cause == "6.1 refuses it: REGION2 is not there before 6.8"
        assert found.title == "the lanes' machines differ"


class TestManyLanes:
    """Each lane is held against the first one."""

    def test_pairs(self) -> None:
        """N lanes give N - 1 pairs, in order, each as if it were alone."""
        names = ["eager", "on-demand", "6.1", "on-demand@config=n", "6.12"]
        events = [CREATE, slot(), slot(1), REGISTER, DELETE]
        report = report_of(events, names)
        assert [pair.other for pair in report.pairs] == names[1:]
        for pair in report.pairs:
            (alone,) = report_of(events, ["eager", pair.other]).pairs
            assert pair == alone

    def test_places(self) -> None:
        """A finding says in which trace, at which line, its event stands."""
        (found,) = findings_of([CREATE, slot(source=Source(0, 42))])
        assert found.place == "t.txt:42"


def finding(event: int, divergence: str = "bytes-only", **more: Any) -> Finding:
    """Return a finding of which only event and class matter."""
    fields: dict[str, Any] = {"kind": "mark", "title": "t", "root_cause": "r", "visible": "v", "explanation": "e", "source": "s"}
    return Finding(event=event, divergence=divergence, root_cause_event=event, **(fields | more))


class TestLedger:
    """Findings are kept up to a limit a class, and all are counted."""

    def test_limit_is_by_class(self) -> None:
        """Many weak findings do not push out a strong one."""
        ledger = Ledger(lambda: None, kept=3)
        for event in range(10):
            ledger.add(finding(event))
        ledger.add(finding(4, "race-only"))
        assert [found.event for found in ledger.findings()] == [0, 1, 2, 4]
        assert ledger.omitted == 7
        assert [(count.divergence, count.count, count.first_event) for count in ledger.counts()] == [
            ("bytes-only", 10, 0),
            ("race-only", 1, 4),
        ]

    def test_counted_only(self) -> None:
        """A class of which nothing is kept is counted all the same."""
        ledger = Ledger(lambda: None, kept=0)
        ledger.add(finding(7, "state-differs"))
        assert ledger.findings() == ()
        assert [(count.divergence, count.count, count.first_event) for count in ledger.counts()] == [("state-differs", 1, 7)]

    def test_horizon(self) -> None:
        """A finding that begins after the horizon is marked; the first event is that of those before it, if there are."""
        limit: list[int | None] = [None]
        ledger = Ledger(lambda: limit[0])
        ledger.add(finding(9))
        limit[0] = 5
        for event in (6, 3, 5, 2):
            ledger.add(finding(event))
        assert [(found.event, found.behind_horizon) for found in ledger.findings()] == [
            (2, False),
            (3, False),
            (5, False),
            (6, True),
            (9, False),
        ]
        (count,) = ledger.counts()
        assert (count.count, count.behind_horizon, count.first_event) == (4, 1, 2)

    def test_completed_later(self) -> None:
        """An entry that is changed, in its class too, is counted as what it became."""
        ledger = Ledger(lambda: None)
        ledger.add(finding(1, "enomem-gone")).change(divergence="enomem-moved")
        assert [count.divergence for count in ledger.counts()] == ["enomem-moved"]

    def test_limit_of_a_comparison(self) -> None:
        """A comparison with more findings than it keeps says how many are not listed."""
        many = [one for number in range(300) for one in (slot(number % 7), MemslotSet(vm=0, slot=number % 7))]
        (pair,) = report_of([CREATE, *many], paranoid=False).pairs
        assert len(pair.findings) == 300
        assert (pair.findings_omitted, pair.classes[0].count) == (0, 300)


class TestWords:
    """What differs is said shortly."""

    def test_state_difference(self) -> None:
        """Fields of the kernel's own names, with what one side has more than the other."""
        lanes = make_lanes(["eager", "on-demand"], machine())
        for number, event in enumerate((CREATE, slot(), slot(1))):
            for one in lanes:
                one.step(event, number)
        lanes[1].step(attrs.evolve(DELETE), 3)
        lanes[0].step(NotifierRegister(vm=0, node=3), 3)
        found = state_difference(lanes[0].machine.vm(0), lanes[1].machine.vm(0))
        assert found == {
            "slots": ("slot 0 as 0 at gfn 0x0, 16 pages, flags 0x0", "less"),
            "notifiers": ("node 3", "none"),
        }

    def test_tasks(self) -> None:
        """A process, or a thread of one."""
        assert (task_text(Task(7, 7)), task_text(Task(7, 8))) == ("process 7", "thread 8 of process 7")
