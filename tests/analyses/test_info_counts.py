"""Promises of what info counts."""

import pytest

from replay.analyses.info import Info, info_of
from replay.analyses.memslot_log import CHANGES, MemslotLog
from replay.events import (
    Event,
    HotEvent,
    MemslotSet,
    ShadowPageAccount,
    ShadowPageUnaccount,
    Task,
    VmAttach,
    VmCreate,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackRemove,
)
from replay.header import Counter, Header, Trailer
from replay.runs import items_of
from replay.units import Gfn, Gpa


def slot(number: int = 0, gpa: int = 0, size: int = 4096, flags: int = 0, ret: int | None = 0, vm: int = 0) -> MemslotSet:
    """Return a memslot call."""
    return MemslotSet(vm=vm, slot=number, guest_phys_addr=Gpa(gpa), memory_size=size, flags=flags, ret=ret)


def info(*events: Event, trailer: Trailer | None = None) -> Info:
    """Return what the events hold."""
    return info_of(items_of(events), Header(), trailer or Trailer())


class TestMemslotLog:
    """What a memslot call did follows from the recorded results."""

    @pytest.mark.parametrize(
        ("calls", "changes"),
        [
            ([slot()], ["create"]),
            ([slot(), slot(size=0)], ["create", "delete"]),
            ([slot(), slot(gpa=0x1000)], ["create", "move"]),
            ([slot(), slot(gpa=0x1000, flags=1)], ["create", "move"]),
            ([slot(), slot(flags=1)], ["create", "flags_only"]),
            ([slot(), slot()], ["create", "unchanged"]),
            ([slot(), slot(ret=-22)], ["create", "failed"]),
            ([slot(ret=-12), slot()], ["failed", "create"]),
            ([slot(), slot(size=0, ret=-12), slot()], ["create", "failed", "unchanged"]),
            ([slot(), slot(ret=None)], ["create", "unknown"]),
            ([slot(), slot(size=0), slot(size=8192)], ["create", "delete", "create"]),
            ([slot(), slot(size=8192)], ["create", "create"]),
            ([slot(0), slot(0x10000)], ["create", "create"]),
            ([slot(0), slot(0, vm=1)], ["create", "create"]),
            ([slot(size=0)], ["delete"]),
        ],
    )
    def test_change(self, calls: list[MemslotSet], changes: list[str]) -> None:
        """Each call is what the kernel's order of decisions makes of it."""
        log = MemslotLog()
        assert [log.memslot_set(call) for call in calls] == changes
        assert set(changes) <= set(CHANGES)
        assert log.total.memslot_changes().calls == len(calls)

    def test_delete_of_unseen_is_counted(self) -> None:
        """A delete of a slot that was never created counts as one, and as unseen; live slots do not go below zero."""
        log = MemslotLog()
        log.memslot_set(slot(size=0))
        changes = log.total.memslot_changes()
        assert (changes.delete, changes.delete_unseen, log.total.slots.now) == (1, 1, 0)

    def test_slot_from_before_the_recording(self) -> None:
        """What a call did to a slot that may have been there before is unknown; from then on the slot is known."""
        log = MemslotLog()
        log.vm_attach(VmAttach(vm=0))
        calls = [slot(flags=1), slot(flags=0), slot(1, size=0), slot(1), slot(0, vm=1)]
        assert [log.memslot_set(call) for call in calls] == ["unknown", "flags_only", "delete", "create", "create"]
        assert (log.total.slots.peak, log.total.memslot_changes().delete_unseen) == (3, 1)


class TestPeaks:
    """Peaks are of slots that lived at the same time."""

    def test_all_vms_together_and_each_alone(self) -> None:
        """Two VMs that live together add up; each has its own peak."""
        found = info(slot(0), slot(1), slot(0, vm=1), slot(0, size=0), slot(1, vm=1), slot(2, vm=1), slot(1, size=0))
        assert (found.slots_peak, [vm.slots_peak for vm in found.by_vm]) == (4, [2, 3])
        assert found.memory_peak_bytes == 4 * 4096

    def test_vm_after_vm_does_not_add_up(self) -> None:
        """Slots of a VM that was destroyed are gone."""
        found = info(VmCreate(vm=0, ret=3), slot(0), slot(1), VmDestroy(vm=0), slot(0, vm=1))
        assert found.slots_peak == 2
        assert [vm.destroyed for vm in found.by_vm] == [True, False]

    def test_a_replaced_slot_does_not_count_twice(self) -> None:
        """A create over a slot whose delete was missed replaces it."""
        found = info(slot(0), slot(0, size=8192))
        assert (found.slots_peak, found.memory_peak_bytes) == (1, 8192)


class TestTracking:
    """Write tracking counts level 2 and up, and external users."""

    def test_counts(self) -> None:
        """Level 1 shadow pages are shadow pages but track nothing; failed external calls stand apart."""
        found = info(
            ShadowPageAccount(vm=0, gfn=Gfn(1), level=4),
            ShadowPageAccount(vm=0, gfn=Gfn(2), level=2),
            ShadowPageAccount(vm=0, gfn=Gfn(3), level=1),
            ShadowPageUnaccount(vm=0, gfn=Gfn(2), level=2),
            WriteTrackAdd(vm=0, gfn=Gfn(4), ret=0),
            WriteTrackAdd(vm=1, gfn=Gfn(4)),
            WriteTrackAdd(vm=1, gfn=Gfn(4), ret=-22),
            WriteTrackRemove(vm=1, gfn=Gfn(4)),
        ).tracking
        assert (found.adds, found.removes, found.external_adds, found.external_removes) == (4, 2, 2, 1)
        assert (found.external_failed, found.shadow_pages_created, found.shadow_pages_zapped) == (1, 3, 1)

    def test_by_vm(self) -> None:
        """Each VM has its own counts."""
        found = info(WriteTrackAdd(vm=0, gfn=Gfn(4)), WriteTrackAdd(vm=2, gfn=Gfn(4)), WriteTrackAdd(vm=2, gfn=Gfn(5)))
        assert [(vm.vm, vm.tracking.adds) for vm in found.by_vm] == [(0, 1), (2, 2)]


class TestFacts:
    """Counts, tasks, times and losses are those of the events."""

    def test_columns_and_objects_agree(self) -> None:
        """A run counts as its events one by one would: kinds, VMs, tasks, times."""
        hot: list[HotEvent] = [
            WriteTrackAdd(vm=number % 3, gfn=Gfn(number), time_ns=1000 - number, task=Task(7, 7 + number % 2))
            for number in range(40)
        ]
        one = info_of(items_of(hot), Header(), Trailer())
        other = info_of((item for event in hot for item in items_of([event])), Header(), Trailer())
        assert one == other
        assert (one.events, one.vms, one.tasks, one.processes) == (40, 3, 2, 1)
        assert (one.first_time_ns, one.last_time_ns) == (961, 1000)

    def test_empty(self) -> None:
        """Nothing holds nothing; no time is invented."""
        found = info()
        assert (found.events, found.vms, found.tasks, found.kinds, found.first_time_ns) == (0, 0, 0, (), None)

    def test_attached_vm(self) -> None:
        """A VM that was found alive is marked."""
        assert [vm.attached for vm in info(VmAttach(vm=3), VmCreate(vm=4, ret=1)).by_vm] == [True, False]

    def test_losses_come_from_the_trailer(self) -> None:
        """Each severity is summed by itself."""
        counters = tuple(
            Counter(kind=f"k{n}", count=n, severity=severity)
            for n, severity in ((1, "lost"), (2, "unknown"), (4, "ignored"), (8, "lost"))
        )
        found = info(trailer=Trailer(counters=counters))
        assert (found.lost, found.unknown, found.ignored) == (9, 2, 4)
