"""Promises of number 236: the opt-out of v1, all its checks in order, and what other kernels make of it."""

from itertools import product

import pytest
from lane import FIRST, LAZY, ZOO, Lane, account, add, query

from replay.events import VmEnableCap
from replay.kvm.kernel_log import BUG, NO_ARRAY
from replay.kvm.policies import policy_named
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.write_tracking_cap import OPT_OUT_CHECKS, check_page_write_tracking, why_refused

OPTION_OFF = {"config_external_write_tracking": False}


def expected(value: int, *, flags: bool, config: bool, tdp: bool, root: bool, slot: bool, node: bool) -> int:
    """Return the result as the patch has it, one test after the other."""
    if flags or value not in {0, 1}:
        return -22
    if value == 0 and (not tdp or root):
        return -16
    if config and (slot or node):
        return -22
    return 0


class TestOrder:
    """The errno of a call that is wrong in several ways."""

    def test_all_inputs(self) -> None:
        """Every combination of argument, flags, option, tdp, shadow root, memslots of both address spaces, and notifier."""
        seen: dict[int, int] = {}
        for value, row in product((0, 1, 2, 1 << 63), product((False, True), repeat=7)):
            flags, config, tdp, root, slot, other_slot, node = row
            lane = Lane(FIRST, release="6.8", config_external_write_tracking=config, tdp=tdp)
            if slot:
                lane.set(1)
            if other_slot:
                lane.set(1, as_id=1)
            if root:
                assert lane.root() == 0
            if node and lane.register() != 0:
                assert not config
                continue
            ret = lane.opt(value, flags=int(flags))
            assert ret == expected(value, flags=flags, config=config, tdp=tdp, root=root, slot=slot, node=node)
            assert lane.vm.page_write_tracking_disabled == (ret == 0 and config and value == 0)
            seen[ret or 0] = seen.get(ret or 0, 0) + 1
        assert seen == {-22: 318, -16: 36, 0: 30}

    def test_dead_and_unreadable_first(self) -> None:
        """Another mm or a dead VM is -EIO, an argument that can not be read -EFAULT, before anything else."""
        lane = Lane(FIRST)
        lane.set(0)
        assert lane.opt(2, foreign_mm=True) == -5
        assert lane.opt(ret=-14) == -14
        lane.vm.vm_bugged = True
        assert lane.opt(1) == -5

    def test_argument_that_is_not_there(self) -> None:
        """A call without arguments is one with 0."""
        lane = Lane(FIRST)
        assert (lane.opt(), lane.vm.page_write_tracking_disabled) == (0, True)

    def test_internal_slot_counts(self) -> None:
        """KVM's own memslots are memslots: after KVM_SET_TSS_ADDR nothing can be changed."""
        lane = Lane(FIRST, vendor="intel", unrestricted_guest=False)
        assert lane.tss().ret == 0
        assert (lane.opt(0), lane.opt(1)) == (-22, -22)

    def test_refusals_are_named(self) -> None:
        """Each check says which one it is."""
        lane = Lane(FIRST)
        assert why_refused(lane.vm, VmEnableCap(vm=0, cap=236, args=(0,))) == ""
        lane.set(0)
        assert why_refused(lane.vm, VmEnableCap(vm=0, cap=236, args=(0,))) == "a memslot is there"
        assert lane.do(VmEnableCap(vm=0, cap=236, args=(7,))).why == "an argument other than 0 and 1"
        assert len({row.name for row in OPT_OUT_CHECKS}) == len(OPT_OUT_CHECKS) == 6


class TestOptedOut:
    """What a VM without external write tracking does."""

    def test_no_arrays_and_no_registration(self) -> None:
        """Memslots come without arrays, a registration is -EINVAL and leaves no trace; another mm is -ESRCH all the same."""
        lane = Lane(FIRST)
        assert lane.opt(0) == 0
        lane.set(0)
        assert lane.tracked() == []
        assert [lane.register(foreign_mm=True), lane.register(null_kvm=True), lane.register()] == [-3, -3, -22]
        assert (lane.vm.nodes, lane.vm.users_count) == ([], 1)

    def test_in_again(self) -> None:
        """Without memslots it can opt in again, and is eager then."""
        lane = Lane(FIRST)
        assert [lane.opt(0), lane.opt(0), lane.opt(1)] == [0, 0, 0]
        lane.set(0)
        assert lane.tracked() == [0]
        assert lane.register() == 0

    def test_add_is_a_bug(self) -> None:
        """A driver that tracks without having registered kills the VM."""
        lane = Lane(FIRST)
        lane.opt(0)
        lane.set(0)
        assert lane.hot(add(0)).log == [(0, BUG)]
        assert lane.vm.vm_bugged

    def test_shadow_paging_still_works(self) -> None:
        """A first shadow root allocates for all slots; registrations stay refused."""
        lane = Lane(FIRST)
        lane.opt(0)
        lane.set(0)
        assert (lane.root(), lane.tracked()) == (0, [0])
        lane.hot(account(0))
        assert lane.hot(query(0)).rets == {0: 1}
        assert (lane.register(), lane.opt(0), lane.opt(1)) == (-22, -16, -22)

    def test_address_space_1_slips_through(self) -> None:
        """Only address space 0 is looked at: a slot of the other one stays without its array after opting in again.

        The kernel would dereference NULL there: counted, as no NULL test is in its code.
        """
        lane = Lane(FIRST)
        assert lane.opt(0) == 0
        lane.set(5, as_id=1)
        assert lane.opt(1) == 0
        assert lane.tracked(1) == []
        assert lane.hot(account(80, as_id=1)).log == [(0, NO_ARRAY)]

    def test_address_space_1_keeps_its_array(self) -> None:
        """The other way round its array stays though nothing is enabled."""
        lane = Lane(FIRST)
        lane.set(5, as_id=1)
        assert lane.opt(0) == 0
        assert lane.tracked(1) == [5]


class TestOtherKernels:
    """The number alone says nothing."""

    @pytest.mark.parametrize("policy", [name for name in ZOO if name != FIRST])
    @pytest.mark.parametrize("release", ["6.1", "6.8", "6.12.117"])
    def test_can_not_be_enabled(self, policy: str, release: str) -> None:
        """Other policies refuse every argument, before and after the number got another meaning, and whatever was recorded."""
        lane = Lane(policy, release=release)
        assert [lane.opt(value, ret=0) for value in (0, 1, 2)] == [-22, -22, -22]
        assert not lane.vm.page_write_tracking_disabled

    @pytest.mark.parametrize("tdp", [False, True])
    @pytest.mark.parametrize("config", [False, True])
    @pytest.mark.parametrize(("release", "known"), [("6.8", False), ("6.10.9", False), ("6.11", True), ("6.18.44", True)])
    def test_check_extension(self, release: str, *, known: bool, config: bool, tdp: bool) -> None:
        """v1 has the capability whatever the option; elsewhere it is KVM_CAP_PRE_FAULT_MEMORY from 6.11 on, which needs tdp."""
        profile = Profile(release=Release.parse(release), config_external_write_tracking=config, tdp=tdp)
        for name in ZOO:
            policy = policy_named(name, profile.release)
            assert check_page_write_tracking(policy, profile) == (1 if name == FIRST else int(known and tdp))

    def test_without_the_option(self) -> None:
        """With the option off v1 answers with success and changes nothing."""
        lane = Lane(FIRST, **OPTION_OFF)
        lane.set(0)
        assert (lane.opt(0), lane.opt(1), lane.opt(2)) == (0, 0, -22)
        lazy = Lane(LAZY, **OPTION_OFF)
        lazy.set(0)
        assert lane.tracked() == lazy.tracked() == []
