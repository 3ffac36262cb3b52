"""Promises of replay.engine.lanes: how a lane is written, and which lane is the recorded kernel."""

import re

import pytest
from lane_samples import lane, machine

from replay.engine.lanes import DEFAULT_LANES, left_out, make_lanes
from replay.errors import ProfileError
from replay.header import Machine
from replay.kvm.release import Release


class TestGrammar:
    """A lane is a policy or a release, with changed facts behind an @."""

    @pytest.mark.parametrize(
        ("spec", "policy", "facts"),
        [
            ("eager", "eager-6.6", {}),
            ("eager-5.16", "eager-5.16", {}),
            ("eager-6.6", "eager-6.6", {}),
            ("on-demand", "on-demand", {}),
            ("always", "always", {}),
            ("v1", "v1", {}),
            ("v2", "v2", {}),
            ("ideal", "ideal", {}),
            ("5.10.200", "always", {"release": Release(5, 10, 200)}),
            ("6.5", "eager-5.16", {"release": Release(6, 5)}),
            ("6.8.12", "eager-6.6", {"release": Release(6, 8, 12)}),
            ("6.9", "on-demand", {"release": Release(6, 9)}),
            ("on-demand@tdp=0", "on-demand", {"tdp": False}),
            ("6.9@config=n+smm=0", "on-demand", {"config_external_write_tracking": False, "smm": False}),
            ("eager-6.6@release=6.1", "eager-6.6", {"release": Release(6, 1)}),
        ],
    )
    def test_spec(self, spec: str, policy: str, facts: dict[str, object]) -> None:
        """Policy, release and changed facts are those that are written; every other fact is the recording's."""
        found = lane(spec)
        assert found.policy.name == policy
        assert {name: getattr(found.profile, name) for name in facts} == facts
        assert found.profile.max_phys_bits == 46
        assert found.name == spec

    def test_eager_follows_the_release(self) -> None:
        """The word eager means the flavour that fits the release of the lane, also when an @ changes it."""
        assert lane("eager", machine("6.1.192")).policy.name == "eager-5.16"
        assert lane("eager@release=6.1").policy.name == "eager-5.16"

    def test_order_and_defaults(self) -> None:
        """Lanes come in the order written; the default ones are eager, then on-demand."""
        assert [one.name for one in make_lanes(["6.9", "eager", "6.1"], machine())] == ["6.9", "eager", "6.1"]
        assert DEFAULT_LANES == ("eager", "on-demand")

    @pytest.mark.parametrize(
        ("release", "eager", "other"), [("6.12.117", "eager-6.6", "eager-5.16"), ("6.1", "eager-5.16", "eager-6.6")]
    )
    def test_all(self, release: str, eager: str, other: str) -> None:
        """The word all stands for every policy, eager and on-demand first, with the same facts behind its @."""
        names = ["eager", "on-demand", "always", other, "v1", "v2", "ideal"]
        lanes = make_lanes(["all"], machine(release))
        assert [one.name for one in lanes] == names
        assert lanes[0].policy.name == eager
        assert len({one.policy.name for one in lanes}) == 7
        changed = make_lanes(["all@tdp=0"], machine(release))
        assert [one.name for one in changed] == [f"{name}@tdp=0" for name in names]
        assert [one.profile.tdp for one in changed] == [False] * 7
        both = make_lanes(["all@tdp=0+smm=0"], machine(release))
        assert [(one.profile.tdp, one.profile.smm) for one in both] == [(False, False)] * 7
        assert [one.name for one in make_lanes(["6.18", "all"], machine(release))] == ["6.18", *names]

    def test_what_can_not_be_built(self) -> None:
        """Without the option all leaves v2 out and says why; a lane that names it is refused with the same reason."""
        option_off = machine("6.12.117", config_external_write_tracking=False)
        assert len(make_lanes(["all"], option_off)) == 6
        (why,) = left_out(["all", "eager"], option_off)
        assert why.startswith("v2 does not link")
        assert left_out(["all", "eager"], machine("6.12.117")) == left_out(["eager"], option_off) == []
        for spec in ("v2", "v2@config=n"):
            with pytest.raises(ProfileError, match="v2 does not link") as error:
                make_lanes([spec], option_off)
            assert "v2@config=y" in str(error.value)
        assert make_lanes(["v2@config=y"], option_off)[0].policy.name == "v2"
        assert left_out(["all"], machine("6.12.117"), {"config_external_write_tracking": False}) == [why]

    @pytest.mark.parametrize(
        ("specs", "found"),
        [
            (["all", "ideal"], "named twice"),
            ([], "no lane is named"),
            (["eager", "eager"], "named twice"),
            (["eagre"], "'eagre' is not a policy"),
            (["6.x"], "'6.x' is not a kernel release"),
            (["eager@tdp"], "'tdp' is not a fact"),
            (["eager@speed=9"], "'speed=9' is not a fact"),
            (["eager@tdp=maybe"], "'maybe' is no value for tdp"),
            (["on-demand@max_phys_bits=64"], "'64' is no value for max_phys_bits"),
        ],
    )
    def test_what_is_no_lane(self, specs: list[str], found: str) -> None:
        """What can not be meant is refused with the word that is wrong."""
        with pytest.raises(ProfileError, match=re.escape(found)):
            make_lanes(specs, machine())


class TestFactual:
    """A lane is factual when policy and profile are the recorded kernel's own."""

    @pytest.mark.parametrize(
        ("spec", "release", "factual"),
        [
            ("eager", "6.8", True),
            ("on-demand", "6.8", False),
            ("eager", "6.9", False),
            ("on-demand", "6.12.117+deb13-amd64", True),
            ("6.8", "6.8.0-45-generic", True),
            ("6.8", "6.8.12", False),
            ("6.9", "6.8", False),
            ("eager-5.16", "6.8", False),
            ("eager-5.16", "6.1.192", True),
            ("eager@tdp=0", "6.8", False),
            ("eager@tdp=1", "6.8", True),
            ("eager", None, False),
        ],
    )
    def test_rule(self, spec: str, release: str | None, factual: bool) -> None:
        """Another policy, another release or another fact makes it counterfactual; an unknown release as well."""
        assert lane(spec, machine(release)).factual is factual

    def test_an_assumed_fact_is_no_other_fact(self) -> None:
        """What the header leaves open is assumed alike for the recorded kernel and for the lane."""
        assert lane("eager", Machine(kernel_release="6.8")).factual

    def test_what_the_user_adds_is_recorded_fact(self) -> None:
        """A fact that the header leaves open and the user gives is said of the recorded machine."""
        bare = Machine(kernel_release="6.8")
        assert lane("eager", bare, config_external_write_tracking=False).factual
        assert lane("eager", Machine(), release=Release(6, 8)).factual

    def test_what_the_user_changes_is_a_question(self) -> None:
        """A fact that stands against the header is another machine, and so is one behind an @."""
        assert not lane("eager", machine(), tdp=False).factual
        assert not lane("eager", machine("6.8"), release=Release(6, 9)).factual
        assert not lane("eager@smm=0", machine(smm=None)).factual
