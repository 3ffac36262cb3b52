"""Write tracking under each policy: when it is enabled, who allocates, what counts, what is answered."""

import itertools
from typing import Any

import pytest
from hosts import REGISTER, sites
from lane import EAGER_NEW, EAGER_OLD, LAZY, NAMES, Lane, add, query, remove

from replay.events import NotifierRegister
from replay.kvm.kernel_log import BUG, DISABLED, LPAGE, NO_ARRAY, OVERFLOW, UNDERFLOW
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled, kvm_write_track_gfn
from replay.units import U16_MAX

BOOLS = (False, True)


class TestEnabled:
    """Whether write tracking is enabled: the policy's term, or a shadow root, or no tdp."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize(("config", "ext", "shadow", "tdp"), list(itertools.product(BOOLS, repeat=4)))
    def test_truth_table(self, policy: str, *, config: bool, ext: bool, shadow: bool, tdp: bool) -> None:
        """All 16 rows of each policy."""
        lane = Lane(policy, config_external_write_tracking=config, tdp=tdp)
        lane.vm.shadow_root_allocated, lane.vm.external_write_tracking_enabled = shadow, ext
        expected = (config and ext) or shadow or not tdp if policy == LAZY else config or not tdp or shadow
        assert kvm_page_track_write_tracking_enabled(lane.vm) is expected

    def test_rows_that_are_true(self) -> None:
        """Of the 16 rows 14 are true under an eager policy, 13 on demand."""
        for policy, count in ((EAGER_OLD, 14), (EAGER_NEW, 14), (LAZY, 13)):
            true = 0
            for config, ext, shadow, tdp in itertools.product(BOOLS, repeat=4):
                vm = Lane(policy, config_external_write_tracking=config, tdp=tdp).vm
                vm.shadow_root_allocated, vm.external_write_tracking_enabled = shadow, ext
                true += kvm_page_track_write_tracking_enabled(vm)
            assert true == count

    @pytest.mark.parametrize("tdp", BOOLS)
    @pytest.mark.parametrize("shadow", BOOLS)
    def test_option_off_makes_policies_equal(self, *, tdp: bool, shadow: bool) -> None:
        """Without the option all policies say "shadow root or no tdp"."""
        for policy in NAMES:
            lane = Lane(policy, config_external_write_tracking=False, tdp=tdp)
            lane.set(1)
            assert not shadow or lane.root() == 0
            assert kvm_page_track_write_tracking_enabled(lane.vm) is (shadow or not tdp)


class TestRegister:
    """A registration links a node; on demand the first one allocates for all slots."""

    def with_slots(self, policy: str = LAZY, **facts: Any) -> Lane:
        """Return a lane with slots 0 to 7 in address space 0 and 0 and 1 in address space 1."""
        lane = Lane(policy, **facts)
        for slot_id in range(8):
            lane.set(slot_id)
        lane.set(0, as_id=1)
        lane.set(1, as_id=1)
        return lane

    @pytest.mark.parametrize("policy", NAMES)
    def test_success(self, policy: str) -> None:
        """The node is linked first; from 6.6 on it holds a reference; the flag is the on-demand policy's."""
        lane = Lane(policy)
        assert (lane.register(4), lane.register(5)) == (0, 0)
        assert lane.vm.nodes == [5, 4]
        assert lane.vm.users_count == (1 if policy == EAGER_OLD else 3)
        assert lane.vm.external_write_tracking_enabled is (policy == LAZY)

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("how", ["null_kvm", "foreign_mm"])
    def test_esrch(self, policy: str, how: str) -> None:
        """No kvm or another mm is ESRCH from 6.6 on, before anything is allocated; older kernels do not ask."""
        lane = self.with_slots(policy)
        outcome = lane.do(NotifierRegister(vm=0, null_kvm=how == "null_kvm", foreign_mm=how == "foreign_mm"))
        assert outcome.ret == (0 if policy == EAGER_OLD else -3)
        assert outcome.taken == []
        assert len(lane.vm.nodes) == (policy == EAGER_OLD)
        assert not lane.vm.external_write_tracking_enabled

    def test_allocates_for_all_slots(self) -> None:
        """The first registration walks address space 0, then 1, in the order of the id hash; the second allocates nothing."""
        lane = self.with_slots()
        outcome = lane.do(NotifierRegister(vm=0))
        assert sites(outcome) == [REGISTER] * 10
        assert [(piece.as_id, piece.slot_id) for piece in outcome.taken] == [
            *((0, slot_id) for slot_id in (0, 3, 6, 1, 4, 7, 2, 5)),
            (1, 0),
            (1, 1),
        ]
        assert lane.do(NotifierRegister(vm=0, node=1)).taken == []

    @pytest.mark.parametrize("policy", [EAGER_OLD, EAGER_NEW])
    def test_eager_allocates_nothing(self, policy: str) -> None:
        """Under the eager policies all is there already."""
        lane = self.with_slots(policy)
        assert lane.do(NotifierRegister(vm=0)).taken == []

    def test_nothing_to_do_where_tracking_is_enabled(self) -> None:
        """Without tdp, or after a shadow root, the registration only sets the flag."""
        for lane in (self.with_slots(tdp=False), self.with_slots()):
            lane.root()
            assert lane.do(NotifierRegister(vm=0)).taken == []
            assert lane.vm.external_write_tracking_enabled

    @pytest.mark.parametrize("nth", range(1, 11))
    def test_partial_failure(self, nth: int) -> None:
        """What was allocated before the failure stays, in walk order; no node, no reference, no flag; the retry does the rest."""
        lane = self.with_slots()
        lane.fail(REGISTER, nth=nth)
        outcome = lane.do(NotifierRegister(vm=0))
        walk = [(0, slot_id) for slot_id in (0, 3, 6, 1, 4, 7, 2, 5)] + [(1, 0), (1, 1)]
        assert outcome.ret == -12
        assert [(piece.as_id, piece.slot_id) for piece in outcome.taken] == walk[: nth - 1]
        assert outcome.freed == []
        vm = lane.vm
        assert (vm.nodes, vm.users_count, vm.external_write_tracking_enabled) == ([], 1, False)
        assert not kvm_page_track_write_tracking_enabled(vm)
        retry = lane.do(NotifierRegister(vm=0))
        assert retry.ret == 0
        assert [(piece.as_id, piece.slot_id) for piece in retry.taken] == walk[nth - 1 :]

    def test_fails_for_ever(self) -> None:
        """While memory is short each retry fails at the same slot and nothing piles up."""
        lane = self.with_slots()
        lane.fail(REGISTER, nth=4, count=0)
        assert [lane.register() for _ in range(3)] == [-12, -12, -12]
        assert lane.tracked() == [0, 3, 6]
        lane.heal()
        assert lane.register() == 0
        assert len(lane.tracked()) == 8

    def test_slots_made_after_a_failure_wait(self) -> None:
        """After a failure tracking is not enabled: a new slot gets no array, the next registration covers it."""
        lane = self.with_slots()
        lane.fail(REGISTER, nth=2)
        assert lane.register() == -12
        lane.set(8)
        assert lane.tracked() == [0]
        assert lane.register() == 0
        assert len(lane.tracked()) == 9

    def test_kept_arrays_go_with_their_slot(self) -> None:
        """A kept array is freed when its slot is deleted, and not remade before the next registration."""
        lane = self.with_slots()
        lane.fail(REGISTER, nth=2)
        lane.register()
        assert [piece.array for piece in lane.delete(0).freed].count("gfn_write_track") == 1
        lane.set(0)
        assert lane.tracked() == []

    @pytest.mark.parametrize("policy", NAMES)
    def test_option_off(self, policy: str) -> None:
        """Without the option the function is not there from the 6.6 API on: nothing is linked and nothing allocated."""
        lane = self.with_slots(policy, config_external_write_tracking=False)
        outcome = lane.do(NotifierRegister(vm=0, null_kvm=True))
        assert (outcome.ret, len(lane.vm.nodes)) == ((0, 1) if policy == EAGER_OLD else (-95, 0))
        assert outcome.taken == []
        result = lane.hot(add(16))
        assert (result.rets, result.log) == (({}, [(0, DISABLED)]) if policy == EAGER_OLD else ({0: -95}, []))

    @pytest.mark.parametrize(("release", "ret"), [("6.15", 0), ("6.16", -95), ("6.18", -95)])
    def test_tdx(self, release: str, ret: int) -> None:
        """A TDX guest is refused from 6.16 on, after the check of the mm, and without an allocation."""
        lane = Lane(release=release, vm_type=5)
        lane.set(1)
        assert lane.register(foreign_mm=True) == -3
        outcome = lane.do(NotifierRegister(vm=0))
        assert (outcome.ret, len(outcome.taken)) == (ret, 1 if ret == 0 else 0)


class TestUnregister:
    """The end of a registration takes back the node and the reference, nothing else."""

    def test_sticky(self) -> None:
        """Arrays, counters and the flag stay; a slot made later still gets its array; a removal is still counted."""
        lane = Lane()
        lane.set(1)
        lane.register()
        lane.hot(add(16))
        outcome = lane.unregister()
        assert (outcome.taken, outcome.freed, lane.vm.nodes, lane.vm.users_count) == ([], [], [], 1)
        lane.set(2)
        assert lane.tracked() == [1, 2]
        assert lane.slot(1).arch.counts == {0: 1}
        assert lane.hot(remove(16)).log == []
        assert lane.slot(1).arch.counts == {}

    @pytest.mark.parametrize("policy", NAMES)
    def test_unknown_node(self, policy: str) -> None:
        """A node that is not linked changes nothing."""
        lane = Lane(policy)
        lane.register(1)
        users = lane.vm.users_count
        lane.unregister(2)
        assert (lane.vm.nodes, lane.vm.users_count) == ([1], users)

    @pytest.mark.parametrize("policy", [EAGER_NEW, LAZY])
    def test_vm_lives_until_the_last_node(self, policy: str) -> None:
        """A VM whose fd is closed lives on with its memory as long as nodes hold it."""
        lane = Lane(policy)
        lane.set(1)
        lane.register(1)
        lane.register(2)
        assert lane.destroy().freed == []
        assert (lane.vm.destroyed, lane.vm.users_count) == (True, 2)
        assert lane.destroy().log == ["the VM is gone"], "said twice it drops no reference of a node"
        lane.unregister(1)
        assert lane.vm.users_count == 1
        outcome = lane.unregister(2)
        assert len(outcome.freed) == 4
        assert (lane.machine.vms, list(lane.machine.gone)) == ({}, [0])

    def test_before_6_6_nodes_hold_nothing(self) -> None:
        """With the old API the VM goes with its fd."""
        lane = Lane(EAGER_OLD)
        lane.register()
        lane.destroy()
        assert list(lane.machine.gone) == [0]
        assert lane.unregister().log == ["the VM is gone"]


class TestExternal:
    """An external user's adds and removes."""

    @pytest.mark.parametrize("policy", NAMES)
    def test_counts(self, policy: str) -> None:
        """Each add counts up, each remove down; the answer is 0."""
        lane = Lane(policy)
        lane.set(1)
        lane.register()
        result = lane.hot(add(16), add(16), add(19), remove(16))
        assert (result.rets, result.log, result.adds, result.removes) == ({}, [], 3, 1)
        assert lane.slot(1).arch.counts == {0: 1, 3: 1}
        assert lane.vm.external_adds == {16: 1, 19: 1}

    @pytest.mark.parametrize("policy", NAMES)
    def test_no_slot(self, policy: str) -> None:
        """A gfn without a slot is EINVAL, add or remove."""
        lane = Lane(policy)
        assert lane.hot(add(16), remove(16)).rets == {0: -22, 1: -22}
        assert lane.vm.external_adds == {}

    @pytest.mark.parametrize("policy", NAMES)
    def test_address_space(self, policy: str) -> None:
        """From 6.6 on only address space 0 is looked in; before, the caller chooses."""
        lane = Lane(policy)
        lane.set(1, as_id=1)
        lane.register()
        assert lane.hot(add(16, as_id=1)).rets == ({} if policy == EAGER_OLD else {0: -22})
        lane.set(1)
        lane.hot(add(16, as_id=1))
        counts = [lane.slot(1, as_id).arch.counts for as_id in (0, 1)]
        assert counts == ([{}, {0: 2}] if policy == EAGER_OLD else [{0: 1}, {}])

    @pytest.mark.parametrize("call", [add, remove])
    def test_before_any_registration(self, call: type) -> None:
        """On demand an add without a registration kills the VM, and still answers 0; later ioctls are EIO."""
        lane = Lane()
        lane.set(1)
        result = lane.hot(call(16))
        assert (result.rets, result.log, lane.vm.vm_bugged) == ({}, [(0, BUG)], True)
        assert lane.slot(1).arch.counts == {}
        assert lane.set(2).ret == -5
        assert lane.root() == -5
        assert lane.register() == 0, "the registration is no ioctl"

    def test_old_kernels_warn_only(self) -> None:
        """Before 6.6 an add while tracking is off warns, each time, and nothing happens."""
        lane = Lane(EAGER_OLD, config_external_write_tracking=False)
        lane.set(1)
        assert lane.hot(add(16), add(16)).log == [(0, DISABLED), (1, DISABLED)]
        assert (lane.vm.vm_bugged, lane.set(2).ret) == (False, 0)

    @pytest.mark.parametrize("policy", NAMES)
    def test_underflow(self, policy: str) -> None:
        """A remove too many warns, the counter stays at 0, the answer is 0."""
        lane = Lane(policy)
        lane.set(1)
        lane.register()
        result = lane.hot(remove(16), add(16), remove(16), remove(16))
        assert (result.rets, result.log) == ({}, [(0, UNDERFLOW), (3, UNDERFLOW), (3, LPAGE)])
        assert lane.slot(1).arch.counts == {}

    @pytest.mark.parametrize("policy", NAMES)
    def test_overflow(self, policy: str) -> None:
        """The add after 65535 warns and the counter stays."""
        lane = Lane(policy)
        lane.set(1)
        lane.register()
        result = lane.hot(*[add(16)] * (U16_MAX + 2))
        assert result.log == [(U16_MAX, OVERFLOW), (U16_MAX + 1, OVERFLOW)]
        assert lane.slot(1).arch.counts == {0: U16_MAX}
        assert lane.hot(query(16)).rets == {0: 1}

    def test_missing_array_is_said(self) -> None:
        """Enabled without an array is what no sequence of calls makes: the model says it rather than fall over."""
        lane = Lane()
        lane.set(1)
        lane.vm.external_write_tracking_enabled = True
        kvm_write_track_gfn(lane.vm, lane.slot(1), 16, 1)
        assert lane.machine.log.new == [NO_ARRAY]
