"""Promises of `check`: what is compared, what is not and why, and what a contradiction looks like."""

from typing import Any

import attrs
import pytest

from replay.analyses.check import check
from replay.analyses.check_report import CheckReport
from replay.events import (
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IrqchipCreate,
    Lost,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    Observe,
    ObservedArea,
    ObservedCount,
    ObservedSlot,
    ObservedVm,
    Opaque,
    ShadowPageAccount,
    ShadowRootAlloc,
    VcpuCreate,
    VmAttach,
    VmCreate,
    VmEnableCap,
    WriteTrackAdd,
    WriteTrackQuery,
)
from replay.events.base import Source
from replay.header import Header, Machine
from replay.runs import items_of
from replay.stream import MemoryStream
from replay.units import Gfn, Gpa, Hva

MACHINE = Machine(kernel_release="6.12.117", config_external_write_tracking=True, tdp=True, tdp_mmu=True, smm=True)
MADE = ObservedSlot(0, 0, 0, 256, 0, gfn_write_track=False, rmap=(0, 0, 0), lpage_info=(1, 1), dirty_bitmap=False)
LPAGE = ObservedArea("kvm_arch_prepare_memory_region", 2, 2, 0, 0)
VM = VmCreate(vm=0, ret=3)


def slot(number: int = 0, *, ret: int | None = 0, gpa: int = 0, size: int = 1 << 20, **more: Any) -> MemslotSet:
    """Return a memslot call."""
    hva = Hva((1 << 32) + gpa)
    return MemslotSet(vm=0, slot=number, guest_phys_addr=Gpa(gpa), memory_size=size, userspace_addr=hva, ret=ret, **more)


def checked(*events: Event, machine: Machine = MACHINE, policy: str | None = None, **overrides: Any) -> CheckReport:
    """Check a recording of these events behind the creation of VM 0."""
    return check(MemoryStream(Header(machine=machine), items_of([VM, *events])), overrides, policy=policy)


def reasons(report: CheckReport) -> dict[str, int]:
    """Return the reasons beside that of the VM's own creation."""
    found = {reason.reason: reason.count for reason in report.reasons}
    found["the model takes this result from the recording"] -= 1
    return {reason: count for reason, count in found.items() if count}


def seen(*slots: ObservedSlot, areas: tuple[ObservedArea, ...] | None = None, **state: Any) -> Observe:
    """Return an observation of VM 0."""
    return Observe(vm=0, state=ObservedVm(slots=slots or None, **state), areas=areas, source=Source(0, 9))


class TestAgreement:
    """Recorded facts that the model gives too."""

    def test_results(self) -> None:
        """Each result that the model decides is one comparison."""
        report = checked(slot(), slot(1, ret=-17), slot(2, ret=None, gpa=2 << 20))
        assert (report.checked, report.agreed, report.mismatch_count, report.status()) == (2, 2, 0, 0)
        assert [(rule.rule, rule.checked) for rule in report.rules] == [("create", 1), ("overlaps another slot", 1)]

    def test_every_field(self) -> None:
        """A state is compared field by field, a slot array by array, allocations by site."""
        state = {"nr_memslot_pages": 256, "shadow_root_allocated": False, "external_write_tracking_enabled": False}
        report = checked(
            slot(), seen(MADE, areas=(LPAGE,), **state, indirect_shadow_pages=0, vm_bugged=False, has_notifier=False)
        )
        assert {facet.name: facet.checked for facet in report.facets} == {
            "VM state": 6,
            "allocations by site": 1,
            "results of calls": 1,
            "slot arrays": 4,
            "slot geometry and flags": 1,
            "slots and their order": 1,
        }
        assert report.agreed == report.checked

    def test_runs(self) -> None:
        """Adds and queries of a run are compared row by row."""
        events = [WriteTrackAdd(vm=0, gfn=Gfn(5), ret=0), WriteTrackAdd(vm=0, gfn=Gfn(500), ret=-22)]
        queries = [WriteTrackQuery(vm=0, gfn=Gfn(5), ret=1), WriteTrackQuery(vm=0, gfn=Gfn(6), ret=0)]
        report = checked(slot(), NotifierRegister(vm=0, ret=0), *events, *queries)
        assert {facet.name: facet.agreed for facet in report.facets}["results of adds, removes and queries"] == 4
        assert report.status() == 0

    def test_what_comes_and_goes_between_observations(self) -> None:
        """What was allocated and given back since the observation before is nothing."""
        nothing = Observe(areas=())
        assert checked(nothing, slot(), slot(size=0), nothing).mismatch_count == 0
        assert checked(slot(), nothing, slot(size=0), nothing).mismatch_count == 2


class TestContradiction:
    """Each recorded fact that is not the model's is found, with both sides and the rule."""

    def test_result(self) -> None:
        """A result tells the check that the model answers with, and where the kernel has it."""
        report = checked(slot(), slot(1, ret=0))
        (mismatch,) = report.mismatches
        assert (mismatch.event, mismatch.vm, mismatch.what) == (2, 0, "memslot.set")
        assert (mismatch.expected, mismatch.observed, mismatch.rule) == ("-EEXIST", "0", "overlaps another slot")
        assert "kvm_check_memslot_overlap()" in mismatch.source
        assert report.status() == 1

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"id": 1}, "slots in iteration order"),
            ({"npages": 255}, "slot 0:0"),
            ({"flags": 2}, "slot 0:0"),
            ({"gfn_write_track": True}, "slot 0:0 gfn_write_track"),
            ({"rmap": (1, 1, 1)}, "slot 0:0 rmap"),
            ({"lpage_info": (1, 0)}, "slot 0:0 lpage_info"),
            ({"dirty_bitmap": True}, "slot 0:0 dirty_bitmap"),
            ({"counts": (ObservedCount(3, 1),)}, "slot 0:0 counters"),
        ],
    )
    def test_slot(self, change: dict[str, Any], what: str) -> None:
        """Any field of a slot."""
        report = checked(slot(), seen(attrs.evolve(MADE, **change)))
        assert [(mismatch.what, mismatch.line) for mismatch in report.mismatches] == [(what, 9)]

    @pytest.mark.parametrize(
        "state",
        [
            {"nr_memslot_pages": 255},
            {"shadow_root_allocated": True},
            {"external_write_tracking_enabled": True},
            {"indirect_shadow_pages": 1},
            {"vm_bugged": True},
            {"has_notifier": True},
        ],
        ids=str,
    )
    def test_vm(self, state: dict[str, Any]) -> None:
        """Any field of a VM."""
        report = checked(slot(), seen(**state))
        assert [mismatch.what for mismatch in report.mismatches] == list(state)
        said = [mismatch.observed for mismatch in report.mismatches]
        assert said == ["yes" if seen is True else "no" if seen is False else str(seen) for seen in state.values()]

    @pytest.mark.parametrize(
        "areas",
        [
            (),
            (attrs.evolve(LPAGE, pages_added=3),),
            (attrs.evolve(LPAGE, areas_freed=1),),
            (LPAGE, ObservedArea("memslot_rmap_alloc", 3, 3, 0, 0)),
        ],
        ids=len,
    )
    def test_allocations(self, areas: tuple[ObservedArea, ...]) -> None:
        """Areas or pages that are missing, too many, or of another site."""
        report = checked(slot(), seen(areas=areas))
        assert [mismatch.what for mismatch in report.mismatches] == ["areas"]

    def test_run(self) -> None:
        """A row of a run has its own event number."""
        adds = [WriteTrackAdd(vm=0, gfn=Gfn(5), ret=0), WriteTrackAdd(vm=0, gfn=Gfn(500), ret=0)]
        (mismatch,) = checked(slot(), NotifierRegister(vm=0, ret=0), *adds).mismatches
        assert (mismatch.event, mismatch.expected, mismatch.observed) == (4, "-EINVAL", "0")


class TestNotCheckable:
    """What can not be compared is counted with its reason, and is neither agreement nor contradiction."""

    @pytest.mark.parametrize(
        "event",
        [
            VcpuCreate(vm=0, vcpu_id=0, ret=-22),
            IrqchipCreate(vm=0, ret=0),
            GuestMemfdCreate(vm=0, ret=9),
            VmEnableCap(vm=0, cap=999, ret=-22),
            DirtyLogGet(vm=0, slot=None, ret=-2),
        ],
        ids=lambda event: event.KIND,
    )
    def test_borrowed(self, event: Event) -> None:
        """A result that the model takes from the recording is no comparison."""
        report = checked(event)
        assert report.checked == 0
        assert reasons(report) == {"the model takes this result from the recording": 1}

    def test_a_dead_vm_is_no_excuse(self) -> None:
        """On a bugged VM, or from another mm, even those calls have a result of the model's own."""
        assert checked(IrqchipCreate(vm=0, ret=-5, foreign_mm=True)).agreed == 1
        assert checked(IrqchipCreate(vm=0, ret=0, foreign_mm=True)).mismatch_count == 1

    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (Lost(vm=0, what="ring overrun"), "lost: ring overrun"),
            (Lost(what="ring overrun"), "lost: ring overrun"),
            (Opaque(vm=0, cmd=1, name="X", ret=0), "a call before it did not show its arguments"),
        ],
    )
    def test_behind_a_loss(self, event: Event, reason: str) -> None:
        """Results, states and allocations behind a loss say nothing."""
        report = checked(event, slot(ret=-17), seen(MADE, areas=(), nr_memslot_pages=7))
        assert report.checked == 0
        assert reasons(report)[reason] >= 8

    def test_capability(self) -> None:
        """KVM_ENABLE_CAP without arguments leaves doubt about the dirty log, and about nothing else."""
        cap = Opaque(vm=0, cmd=0x4068AEA3, name="KVM_ENABLE_CAP", ret=0)
        log = DirtyLogGet(vm=0, slot=0, ret=-6)
        areas = (LPAGE, ObservedArea("kvm_set_memslot", 1, 1, 0, 0))
        report = checked(cap, slot(), log, seen(attrs.evolve(MADE, dirty_bitmap=True), areas=areas))
        reason = "a KVM_ENABLE_CAP before it did not show its arguments: it may concern the dirty log"
        assert reasons(report) == {reason: 3}
        assert (report.checked, report.mismatch_count) == (6, 0)
        failed = attrs.evolve(cap, ret=-22)
        assert checked(failed, slot(), log, seen(areas=areas)).mismatch_count == 2

    def test_a_call_that_did_not_return(self) -> None:
        """Behind a call that was not seen to return the VM's slots are not known; a void one returns nothing."""
        assert reasons(checked(slot(ret=None), slot(ret=-17))) == {"a call before it was not seen to return": 1}
        old = attrs.evolve(MACHINE, kernel_release="6.1.192")
        assert checked(NotifierRegister(vm=0), slot(), machine=old).agreed == 1

    def test_attached_vm(self) -> None:
        """A VM that was alive before the recording began."""
        events = (VmAttach(vm=1), attrs.evolve(slot(ret=-17), vm=1))
        assert reasons(checked(*events)) == {"the VM was made before the recording began": 1}

    def test_another_vms_loss(self) -> None:
        """A loss of one VM does not touch another one."""
        report = checked(VmCreate(vm=1, ret=4), Lost(vm=1, what="gone"), slot())
        assert (report.checked, report.agreed) == (1, 1)

    def test_lost_shadow_pages(self) -> None:
        """Without tracepoints counters and roots say nothing, slots and results do."""
        dark = Lost(vm=0, what="no tracepoints", affects="shadow_pages")
        state = {"nr_memslot_pages": 256, "shadow_root_allocated": True, "indirect_shadow_pages": 9}
        tracked = attrs.evolve(MADE, gfn_write_track=True, rmap=(1, 1, 1), counts=(ObservedCount(1, 1),))
        report = checked(dark, slot(), seen(tracked, areas=(), **state))
        assert report.mismatch_count == 0
        assert {facet.name: facet.checked for facet in report.facets} == {
            "VM state": 1,
            "results of calls": 1,
            "slot arrays": 2,
            "slot geometry and flags": 1,
            "slots and their order": 1,
        }

    def test_lost_shadow_pages_without_tdp(self) -> None:
        """Where a shadow root allocates nothing, arrays and allocations are compared all the same."""
        dark = Lost(vm=0, what="no tracepoints", affects="shadow_pages")
        report = checked(dark, slot(), seen(MADE, areas=(LPAGE,)), tdp=False)
        said = {mismatch.what: (mismatch.expected, mismatch.observed) for mismatch in report.mismatches}
        lpage = "kvm_arch_prepare_memory_region +2 areas of 2 pages"
        track, rmap = "kvm_page_track_create_memslot +1 area of 1 page", "memslot_rmap_alloc +3 areas of 3 pages"
        assert said == {
            "areas": (f"{lpage}; {track}; {rmap}", lpage),
            "slot 0:0 gfn_write_track": ("allocated", "NULL"),
            "slot 0:0 rmap": ("allocated, allocated, allocated", "NULL, NULL, NULL"),
        }

    def test_unknown_site(self) -> None:
        """Areas of functions that are not modelled are counted, the others compared."""
        report = checked(slot(), seen(areas=(LPAGE, ObservedArea("kvm_dev_ioctl", 1, 2, 0, 0))))
        assert report.mismatch_count == 0
        assert reasons(report) == {"allocations of kvm_dev_ioctl are not modelled": 1}

    def test_void_register(self) -> None:
        """Before 6.6 the register function has no result to compare."""
        report = checked(slot(), NotifierRegister(vm=0, ret=-3), machine=attrs.evolve(MACHINE, kernel_release="6.1.192"))
        assert report.mismatch_count == 0
        assert reasons(report) == {"the function is void before 6.6": 1}


class TestShortage:
    """-ENOMEM is compared where something recorded explains it."""

    def test_unexplained(self) -> None:
        """A shortage that nothing recorded explains can not be predicted; the model takes it over."""
        report = checked(slot(ret=-12), slot())
        assert (report.checked, report.mismatch_count) == (1, 0)
        assert reasons(report) == {"an allocation failed and nothing recorded says why": 1}

    def test_explained_by_a_limit(self) -> None:
        """Under a recorded limit the model says by itself which call fails."""
        limit = MemoryLimit(limit_pages=1)
        assert checked(limit, slot(ret=-12)).agreed == 1
        assert checked(limit, slot(ret=0)).mismatch_count == 1

    def test_explained_by_the_machine(self) -> None:
        """An array larger than memory fails by itself."""
        big = slot(size=1 << 40, ret=-12)
        assert checked(big, tdp=False, total_ram_pages=1 << 10).agreed == 1

    def test_failed_root(self) -> None:
        """A first shadow root has a result as well."""
        assert checked(slot(), ShadowRootAlloc(vm=0, nested=True, ret=0)).agreed == 2


class TestStatus:
    """Exit meaning: 0 agreement, 1 contradiction, 3 nothing can be said."""

    def test_zero_checks_is_no_pass(self) -> None:
        """A recording without anything to compare can not pass."""
        report = checked()
        assert (report.checked, report.status()) == (0, 3)

    def test_unknown_release(self) -> None:
        """Without the kernel's release neither agreement nor contradiction means anything."""
        machine = attrs.evolve(MACHINE, kernel_release=None)
        assert checked(slot(), machine=machine).status() == 3
        assert checked(slot(ret=-17), machine=machine).status() == 3

    def test_policy_by_name(self) -> None:
        """A kernel whose release does not tell its policy is checked under the one that is named."""
        tracked = attrs.evolve(MADE, gfn_write_track=True)
        assert checked(slot(), seen(tracked)).status() == 1
        report = checked(slot(), seen(tracked), policy="eager")
        assert (report.status(), report.policy) == (0, "eager-6.6")

    def test_assumed_facts_are_said(self) -> None:
        """The report says which facts of the machine were assumed."""
        report = checked(slot())
        assumed = [fact.name for fact in report.profile if fact.assumed]
        assert "la57" in assumed
        assert "tdp" not in assumed

    def test_shadow_pages_are_counted(self) -> None:
        """Counters come from shadow pages, and a wrong one is found."""
        root = ShadowRootAlloc(vm=0, nested=True, ret=0)
        pages = [ShadowPageAccount(vm=0, gfn=Gfn(3), level=2), ShadowPageAccount(vm=0, gfn=Gfn(3), level=1)]
        tracked = attrs.evolve(MADE, gfn_write_track=True, rmap=(1, 1, 1))
        right = attrs.evolve(tracked, counts=(ObservedCount(3, 1),))
        wrong = attrs.evolve(tracked, counts=(ObservedCount(3, 2),))
        assert checked(slot(), root, *pages, seen(right, indirect_shadow_pages=2)).mismatch_count == 0
        assert checked(slot(), root, *pages, seen(wrong)).mismatch_count == 1
