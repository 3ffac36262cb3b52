"""Make lanes from what the recording's header and the user say.

A lane is written as a policy name (`eager`, `on-demand`), or as a kernel release (`6.8`: the policy is looked up from release
and CONFIG), either with changed facts behind an @: `on-demand@tdp=0`, `6.9@config=n+smm=0`. The word `all` stands for every
policy that can exist under the profile, `eager` of the fitting API and `on-demand` first. A policy of the user's own stands in
for a name when the caller hands it over: `./my_policy.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from replay.engine.lane import Lane
from replay.errors import ProfileError
from replay.header import Machine
from replay.kvm.policies import ON_DEMAND, POLICIES, Policy, policy_for, policy_named, unbuildable
from replay.kvm.profile import parse_facts, profile_of
from replay.kvm.release import Release

DEFAULT_LANES: Final = ("eager", "on-demand")
ALL: Final = "all"


def make_lanes(
    specs: Sequence[str],
    machine: Machine,
    overrides: Mapping[str, Any] | None = None,
    *,
    own: Mapping[str, Policy] | None = None,
) -> list[Lane]:
    """Return the lanes that are written in `specs`, in order, names unique. Raises ProfileError for a spec that is wrong.

    own: policies of the user's, by the names that stand for them in `specs`.

    >>> [lane.name for lane in make_lanes(["eager", "6.9"], Machine())]
    ['eager', '6.9']
    """
    overrides = overrides or {}
    specs = [lane for spec in specs for lane in _expand(spec, machine, overrides)]
    if len(set(specs)) != len(specs):
        raise ProfileError(f"a lane is named twice in {','.join(specs)}", expected="each lane once")
    if not specs:
        raise ProfileError("no lane is named", expected="at least one policy or release")
    return [_make_lane(spec, machine, overrides, own or {}) for spec in specs]


def left_out(specs: Sequence[str], machine: Machine, overrides: Mapping[str, Any] | None = None) -> list[str]:
    """Return why `all` does not stand for some policy, a sentence for each that no kernel can have under the profile."""
    wholes = [spec for spec in specs if spec.partition("@")[0] == ALL]
    return [why for spec in wholes for _name, why in _of_all(spec, machine, overrides or {}) if why]


def _expand(spec: str, machine: Machine, overrides: Mapping[str, Any]) -> list[str]:
    """Return the lanes that a spec stands for: itself, or those of `all`."""
    word, at, changes = spec.partition("@")
    if word != ALL:
        return [spec]
    return [f"{name}{at}{changes}" for name, why in _of_all(spec, machine, overrides) if not why]


def _of_all(spec: str, machine: Machine, overrides: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the name of each policy as a lane, and why it is left out, "" when it is not."""
    _word, _, changes = spec.partition("@")
    profile = profile_of(machine, dict(overrides) | parse_facts(changes.replace("+", ",")))
    eager = policy_named("eager", profile.release)
    others = sorted((policy for policy in POLICIES if policy is not eager), key=lambda policy: policy is not ON_DEMAND)
    named = [("eager", eager), *((policy.name, policy) for policy in others)]
    return [(name, unbuildable(policy, config=profile.config_external_write_tracking)) for name, policy in named]


def _make_lane(spec: str, machine: Machine, overrides: Mapping[str, Any], own: Mapping[str, Policy]) -> Lane:
    word, _, changes = spec.partition("@")
    facts = dict(overrides) | parse_facts(changes.replace("+", ","))
    is_release = word[:1].isdigit() and word not in own
    if is_release:
        facts["release"] = Release.parse(word)
    profile = profile_of(machine, facts)
    policy = own.get(word) or (policy_for(profile.release) if is_release else policy_named(word, profile.release))
    stated = {name: value for name, value in overrides.items() if _unknown(machine, name)}
    recorded = profile_of(machine, stated)
    known = machine.kernel_release is not None or "release" in stated
    factual = (
        known
        and policy is policy_for(recorded.release)
        and attrs.evolve(profile, assumed=()) == attrs.evolve(recorded, assumed=())
    )
    return Lane(spec, policy, profile, factual=factual, recorded_tdp=machine.tdp)


def _unknown(machine: Machine, name: str) -> bool:
    """Tell whether the header leaves a fact open: what the user says of it is then said of the recorded machine itself."""
    return getattr(machine, "kernel_release" if name == "release" else name) is None
