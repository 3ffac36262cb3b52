"""Promises of the policy table, exhaustively: when write tracking is enabled, and in what the rows differ."""

from itertools import product

import attrs
import pytest
from lane import ALWAYS, BY_NAME, EAGER_NEW, EAGER_OLD, FIRST, IDEAL, LAZY, SECOND, ZOO, Lane

from replay.errors import ProfileError
from replay.kvm.machine import Machine
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.policies import POLICIES, Policy, policy_for, unbuildable
from replay.kvm.profile import Profile
from replay.kvm.release import Release

# Policy -> its external term for (option, flag, opt-out) = 000, 001, 010, 011, 100, 101, 110, 111.
EXTERNAL = {
    ALWAYS: "11111111",
    EAGER_OLD: "00001111",
    EAGER_NEW: "00001111",
    FIRST: "00001010",
    SECOND: "00110011",
    LAZY: "00000011",
    IDEAL: "00000011",
}
FLAGS = {
    "register_checks_mm": (EAGER_NEW, FIRST, SECOND, LAZY, IDEAL),
    "has_ext_flag": (SECOND, LAZY, IDEAL),
    "flush_slot": (ALWAYS, EAGER_OLD),
    "bug_when_disabled": (EAGER_NEW, FIRST, SECOND, LAZY, IDEAL),
    "opt_out": (FIRST,),
    "root_enables": (SECOND,),
    "reference_first": (SECOND,),
    "needs_config": (SECOND,),
    "at_first_add": (IDEAL,),
    "kernel": (ALWAYS, EAGER_OLD, EAGER_NEW, FIRST, SECOND, LAZY),
}
"""Attribute -> the policies that have it."""
CASES = list(product((False, True), repeat=5))


def expected(policy: str, *, config: bool, tdp: bool, shadow: bool, flag: bool, opted_out: bool) -> bool:
    """Return whether write tracking is enabled, as the patches and kernels have it."""
    if policy == ALWAYS:
        return True
    if policy in {EAGER_OLD, EAGER_NEW}:
        return config or not tdp or shadow
    if policy == FIRST:
        return (config and not opted_out) or not tdp or shadow
    if policy == SECOND:
        return flag or not tdp
    return (config and flag) or not tdp or shadow


class TestTable:
    """The rows are these."""

    def test_names(self) -> None:
        """Seven policies, oldest first, the yardstick last; names are unique."""
        assert [policy.name for policy in POLICIES] == list(ZOO)
        assert len(set(ZOO)) == 7

    def test_flags(self) -> None:
        """Every flag of every row is that of the table here."""
        flags = {field.name for field in attrs.fields(Policy) if field.type is bool}
        assert flags == set(FLAGS)
        for name, who in FLAGS.items():
            assert tuple(policy.name for policy in POLICIES if getattr(policy, name)) == who, name

    def test_what_follows_from_flags(self) -> None:
        """A registration allocates where it sets a flag, but not in a yardstick; KVM is a notifier itself before 6.6."""
        assert [policy.name for policy in POLICIES if policy.register_allocates] == [SECOND, LAZY]
        assert [policy.name for policy in POLICIES if policy.kvm_owns_node] == [ALWAYS, EAGER_OLD]

    @pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
    def test_words(self, policy: Policy) -> None:
        """Each row says which kernels have it, what the option changes, and where the kernel does it."""
        assert policy.title.startswith(policy.name.partition("-")[0])
        assert policy.kernels
        assert policy.config
        assert "page_track.c" in policy.source or not policy.kernel
        assert ("no kernel" in policy.kernels) == (not policy.kernel)

    @pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
    def test_external_term(self, policy: Policy) -> None:
        """All eight inputs are answered as the table here says."""
        answers = [policy.external_term(*each) for each in product((False, True), repeat=3)]
        assert "".join("01"[answer] for answer in answers) == EXTERNAL[policy.name]


class TestEnabled:
    """kvm_page_track_write_tracking_enabled() for each policy and every input."""

    @pytest.mark.parametrize("policy", ZOO)
    def test_all_inputs(self, policy: str) -> None:
        """Thirty-two inputs; without the option v2 is no kernel, and under v2 a shadow root has set the flag or tdp is off."""
        seen = 0
        for config, tdp, shadow, flag, opted_out in CASES:
            if policy == SECOND and (not config or (shadow and tdp and not flag)):
                continue
            vm = Lane(policy, config_external_write_tracking=config, tdp=tdp).vm
            vm.shadow_root_allocated, vm.external_write_tracking_enabled = shadow, flag
            vm.page_write_tracking_disabled = opted_out
            answer = expected(policy, config=config, tdp=tdp, shadow=shadow, flag=flag, opted_out=opted_out)
            assert kvm_page_track_write_tracking_enabled(vm) is answer, (config, tdp, shadow, flag, opted_out)
            seen += 1
        assert seen == (14 if policy == SECOND else 32)

    def test_config_n_is_one_policy(self) -> None:
        """Without the option all that were built with it are alike: shadow paging alone decides."""
        alike = [name for name in ZOO if name not in {ALWAYS, SECOND}]
        for tdp, shadow, flag, opted_out in product((False, True), repeat=4):
            answers = {expected(name, config=False, tdp=tdp, shadow=shadow, flag=flag, opted_out=opted_out) for name in alike}
            assert answers == {not tdp or shadow}


class TestLookup:
    """From a release to its policy."""

    def test_whatever_the_option(self) -> None:
        """Before 5.16 the option does not matter: a slot gets its array in either case."""
        assert policy_for(Release(5, 15, 190)).name == ALWAYS
        for config in (False, True):
            lane = Lane(ALWAYS, release="5.10.200", config_external_write_tracking=config)
            lane.set(0)
            assert lane.tracked() == [0]

    @pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
    @pytest.mark.parametrize("config", [False, True])
    def test_buildable(self, policy: Policy, *, config: bool) -> None:
        """Only v2 needs the option; without it no machine of its policy is made, and the error says why."""
        fails = policy.name == SECOND and not config
        assert bool(unbuildable(policy, config=config)) == fails
        profile = Profile(config_external_write_tracking=config)
        if not fails:
            assert Machine(policy, profile).policy is policy
            return
        with pytest.raises(ProfileError, match=r"v2 does not link .* expected config=y"):
            Machine(BY_NAME[SECOND], profile)
