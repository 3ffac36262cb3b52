"""Promises of replay.engine.lane: what a lane leaves out, where its horizon is, failures that nobody attributed."""

from collections.abc import Sequence

import attrs
import pytest
from lane_samples import CREATE, lane, machine, replay, slot

from replay.engine.lane import SKIPPED_EXTERNAL, SKIPPED_SHADOW, Disagreement, results_agree
from replay.events import (
    AllocFail,
    MemoryLimit,
    NotifierRegister,
    NotifierUnregister,
    ShadowPageAccount,
    ShadowPageUnaccount,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmCreate,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.runs import Constant, run_of
from replay.units import Gfn, Gpa

TRACKED = (
    ShadowPageAccount(vm=0, gfn=Gfn(1), level=2),
    ShadowPageAccount(vm=0, gfn=Gfn(2), level=2, nested=True),
    WriteTrackAdd(vm=0, gfn=Gfn(3), ret=0),
    WriteTrackQuery(vm=0, gfn=Gfn(2)),
    ShadowPageUnaccount(vm=0, gfn=Gfn(1), level=2),
    WriteTrackRemove(vm=0, gfn=Gfn(3), ret=0),
)


class TestSkipped:
    """Events that can not happen under a lane's profile are counted and left out."""

    def test_shadow_paging_of_a_tdp_less_machine(self) -> None:
        """Shadow roots and pages recorded with tdp=0 are not replayed with tdp=1, those of nested guests are."""
        one = lane("on-demand@tdp=1", machine("6.12", tdp=False))
        replay(one, [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0), ShadowRootAlloc(vm=0, ret=0, nested=True), *TRACKED])
        assert one.skipped == {SKIPPED_SHADOW: 3}
        assert one.leaves_out_shadow_paging
        (only,) = one.machine.live_vms()
        assert only.shadow_root_allocated
        assert only.indirect_shadow_pages == 1
        assert [found.arch.counts for found in only.slots()] == [{2: 1}]

    @pytest.mark.parametrize("recorded", [True, None])
    def test_shadow_paging_of_other_machines_is_replayed(self, recorded: bool | None) -> None:
        """When tdp was on, or nobody says, all of it is replayed."""
        one = lane("on-demand", machine("6.12", tdp=recorded))
        replay(one, [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0), *TRACKED[:1]])
        assert one.skipped == {}
        assert one.leaves_out_shadow_paging is False
        assert one.machine.vm(0).indirect_shadow_pages == 1

    def test_tdp_less_lane_replays_it(self) -> None:
        """A lane with tdp=0 replays what a machine with tdp=0 did."""
        one = replay(lane("eager", machine(tdp=False)), [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0), *TRACKED[:2]])
        assert one.skipped == {}
        assert one.machine.vm(0).indirect_shadow_pages == 2

    @pytest.mark.parametrize("policy", ["eager", "on-demand"])
    def test_external_users_without_the_option(self, policy: str) -> None:
        """Without CONFIG_KVM_EXTERNAL_WRITE_TRACKING registrations, adds and removes are left out from the 6.6 API on."""
        one = lane(f"{policy}@config=n", machine())
        events = [CREATE, slot(), NotifierRegister(vm=0, ret=0), *TRACKED[2:4], *TRACKED[5:], NotifierUnregister(vm=0)]
        replay(one, events)
        assert one.skipped == {SKIPPED_EXTERNAL: 4}
        assert one.machine.vm(0).nodes == []
        assert one.disagreements == []

    def test_old_api_has_no_option(self) -> None:
        """Up to 6.5 the functions are there whatever the option says."""
        one = replay(lane("eager@config=n", machine("6.1")), [CREATE, slot(), NotifierRegister(vm=0)])
        assert one.skipped == {}
        assert one.machine.vm(0).nodes == [0]

    def test_rows_keep_their_numbers(self) -> None:
        """What a shortened run reports is numbered as in the recording."""
        one = lane("on-demand@tdp=1", machine("6.12", tdp=False))
        replay(one, [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0, nested=True)])
        outcome = one.fold(run_of(TRACKED), 3)
        assert outcome.rets == {3: 1}
        assert one.folded is not None
        assert len(one.folded[0]) == 4
        late = one.fold(run_of([TRACKED[0], WriteTrackRemove(vm=0, gfn=Gfn(9), ret=0)]), 9)
        assert late.log == [(1, "WARN: write-track count below 0")]

    def test_rows_are_counted(self) -> None:
        """What is left out of runs is counted by its reason, row by row."""
        one = lane("on-demand@tdp=1,config=n", machine("6.12", tdp=False))
        replay(one, [CREATE, slot(), *TRACKED])
        assert one.skipped == {SKIPPED_EXTERNAL: 2, SKIPPED_SHADOW: 2}
        replay(one, TRACKED[:3])
        assert one.skipped == {SKIPPED_EXTERNAL: 3, SKIPPED_SHADOW: 3}

    @pytest.mark.parametrize("nested", [Constant(0, 4), [0, 1, 0, 1]])
    def test_what_is_not_left_out_is_replayed(self, nested: Sequence[int]) -> None:
        """A run in which one kind is left out keeps its rows of every other kind."""
        one = replay(lane("on-demand@config=n", machine("6.12")), [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0)])
        pages = [ShadowPageAccount(vm=0, gfn=Gfn(1), level=2), WriteTrackAdd(vm=0, gfn=Gfn(1))]
        run = run_of([*pages, WriteTrackQuery(vm=0, gfn=Gfn(1)), WriteTrackAdd(vm=0, gfn=Gfn(2))])
        assert one.fold(attrs.evolve(run, nested=nested), 3).rets == {2: 1}
        assert one.skipped == {SKIPPED_EXTERNAL: 2}

    def test_as_many_kinds_as_can_be_left_out(self) -> None:
        """A run of adds and queries keeps its queries."""
        one = replay(lane("on-demand@config=n", machine("6.12")), [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0)])
        replay(one, [ShadowPageAccount(vm=0, gfn=Gfn(1), level=2)])
        run = run_of([WriteTrackAdd(vm=0, gfn=Gfn(2)), WriteTrackQuery(vm=0, gfn=Gfn(1))])
        assert one.fold(attrs.evolve(run, nested=Constant(0, 2)), 4).rets == {1: 1}

    def test_rows_of_some_vms(self) -> None:
        """A run is folded for the VMs that are asked for, without what the lane leaves out; results keep their rows."""
        one = replay(lane("on-demand@config=n", machine("6.12")), [CREATE, slot(), ShadowRootAlloc(vm=0, ret=0)])
        replay(one, [VmCreate(vm=1, ret=0), slot(vm=1), ShadowRootAlloc(vm=1, ret=0)])
        kept = [ShadowPageAccount(vm=vm, gfn=Gfn(1), level=2) for vm in (0, 1)]
        run = run_of([WriteTrackAdd(vm=1, gfn=Gfn(1)), *kept, *(WriteTrackQuery(vm=vm, gfn=Gfn(1)) for vm in (1, 0, 1))])
        piece = one.fold_vms(run, 6, [1])
        assert [list(piece.rows or ()), piece.outcome.rets] == [[2, 3, 5], {1: 1, 2: 1}]
        assert [one.machine.vm(vm).indirect_shadow_pages for vm in (0, 1)] == [0, 1]

    def test_a_run_that_can_not_happen(self) -> None:
        """A run of which nothing is left does nothing."""
        one = lane("on-demand@tdp=1", machine("6.12", tdp=False))
        replay(one, [CREATE, slot()])
        outcome = one.fold(run_of(TRACKED[:1]), 2)
        assert (outcome.log, outcome.rets, one.folded) == ([], {}, None)


class TestHorizon:
    """The horizon is the first result that parts from the recorded one."""

    @pytest.mark.parametrize(
        ("recorded", "model", "same"),
        [(0, 0, True), (7, 0, True), (0, 12, True), (-12, -12, True), (-12, 0, False), (0, -22, False), (-12, -22, False)],
    )
    def test_agreement(self, recorded: int, model: int, same: bool) -> None:
        """Two successes agree whatever the file descriptor, two failures only with one errno."""
        assert results_agree(recorded, model) is same

    def test_none_while_all_agree(self) -> None:
        """A lane that gives every recorded result has none; results that were not recorded do not count."""
        one = replay(lane(), [CREATE, slot(ret=0), slot(1), VcpuCreate(vm=0, vcpu_id=0, ret=13), slot(2, base=64, ret=7)])
        assert one.horizon is None

    def test_first_one(self) -> None:
        """It is the first differing result, with both sides and the reason; all of them are counted."""
        one = replay(lane(), [CREATE, slot(ret=0), slot(7, base=0, ret=0), slot(8, base=0, ret=0), slot(ret=-17, npages=3)])
        assert one.horizon == Disagreement(2, "memslot.set", 0, -17, "overlaps another slot")
        assert one.disagreement_count == len(one.disagreements) == 3
        assert one.horizon.sentence() == "event 2 memslot.set: recorded 0, this lane -EEXIST (overlaps another slot)"

    def test_answers_of_queries(self) -> None:
        """A query that was answered yes and is no here is a difference, and so is an add that failed."""
        one = replay(lane(), [CREATE, slot(), NotifierRegister(vm=0, ret=0)])
        one.fold(run_of([WriteTrackQuery(vm=0, gfn=Gfn(1), ret=1), WriteTrackAdd(vm=0, gfn=Gfn(99), ret=0)]), 3)
        assert [(found.event, found.recorded, found.model) for found in one.disagreements] == [(3, 1, 0), (4, 0, -22)]

    def test_void_registration(self) -> None:
        """Up to 6.5 registering returns nothing, so what was recorded for it is not held against the lane."""
        assert replay(lane("eager", machine("6.1")), [CREATE, NotifierRegister(vm=0, ret=-3)]).horizon is None
        assert replay(lane(), [CREATE, NotifierRegister(vm=0, ret=-3)]).horizon is not None


class TestUnattributed:
    """A recorded -ENOMEM that nothing in the recording explains."""

    def test_factual_lane_fails_too(self) -> None:
        """The recorded kernel's lane fails there, and notes that nobody said why."""
        one = replay(lane(), [CREATE, slot(ret=-12), slot(1, ret=0)])
        assert one.horizon is None
        assert one.unattributed == [1]
        assert [found.id for found in one.machine.vm(0).slots()] == [1]

    def test_registration_keeps_nothing_for_certain(self) -> None:
        """On-demand fails at the first array of the registration, and the one after it succeeds."""
        events = [CREATE, slot(ret=0), NotifierRegister(vm=0, ret=-12), NotifierRegister(vm=0, ret=0)]
        one = replay(lane("on-demand", machine("6.12")), events)
        assert (one.horizon, one.unattributed) == (None, [2])
        assert one.machine.vm(0).nodes == [0]

    def test_other_lanes_do_not_fail(self) -> None:
        """A counterfactual lane has its own result."""
        one = replay(lane("on-demand"), [CREATE, slot(ret=-12)])
        assert one.horizon is not None
        assert one.unattributed == []

    @pytest.mark.parametrize("told", [AllocFail(site="kvm_page_track_create_memslot"), MemoryLimit(limit_pages=2)])
    def test_what_is_told_is_attributed(self, told: AllocFail | MemoryLimit) -> None:
        """An injection or a limit in the recording explains it."""
        one = replay(lane(), [CREATE, told, slot(ret=-12)])
        assert (one.horizon, one.unattributed) == (None, [])

    def test_a_natural_failure_is_attributed(self) -> None:
        """An array larger than all memory fails by itself: the recording says enough."""
        one = replay(lane("eager", machine(total_ram_pages=1000)), [CREATE, slot(npages=1 << 22, ret=-12)])
        assert (one.horizon, one.unattributed) == (None, [])

    def test_internal_memslots(self) -> None:
        """A vCPU or a TSS address that failed where KVM makes memslots of its own may have failed in one of them."""
        old = machine(unrestricted_guest=False)
        vcpu, tss = VcpuCreate(vm=0, vcpu_id=0, ret=-12), TssSet(vm=0, guest_phys_addr=Gpa(0xFEFFD000), ret=-12)
        one = replay(lane("eager", old), [CREATE, vcpu, tss])
        assert (one.horizon, one.unattributed) == (None, [1, 2])
        one = replay(lane("eager", machine()), [CREATE, vcpu])
        assert (one.horizon, one.unattributed) == (None, [])

    def test_nothing_is_left_for_the_next_call(self) -> None:
        """A call that had nothing to allocate agrees with nobody, and the next one is not made to fail for it."""
        one = replay(lane(), [CREATE, slot(ret=0), slot(ret=-12), slot(1, ret=0)])
        assert one.unattributed == []
        assert one.horizon is not None
        assert one.disagreement_count == 1
