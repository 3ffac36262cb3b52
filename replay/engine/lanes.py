"""Make lanes from what the recording's header and the user say.

A lane is written as a policy name (`eager`, `on-demand`), or as a kernel release (`6.8`: the policy is looked up from release
and CONFIG), either with changed facts behind an @: `on-demand@tdp=0`, `6.9@config=n+smm=0`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from replay.engine.lane import Lane
from replay.errors import ProfileError
from replay.header import Machine
from replay.kvm.policies import policy_for, policy_named
from replay.kvm.profile import parse_facts, profile_of
from replay.kvm.release import Release

DEFAULT_LANES: Final = ("eager", "on-demand")


def make_lanes(specs: Sequence[str], machine: Machine, overrides: Mapping[str, Any] | None = None) -> list[Lane]:
    """Return the lanes that are written in `specs`, in order, names unique. Raises ProfileError for a spec that is wrong.

    >>> [lane.name for lane in make_lanes(["eager", "6.9"], Machine())]
    ['eager', '6.9']
    """
    if len(set(specs)) != len(specs):
        raise ProfileError(f"a lane is named twice in {','.join(specs)}", expected="each lane once")
    if not specs:
        raise ProfileError("no lane is named", expected="at least one policy or release")
    return [_make_lane(spec, machine, overrides or {}) for spec in specs]


def _make_lane(spec: str, machine: Machine, overrides: Mapping[str, Any]) -> Lane:
    word, _, changes = spec.partition("@")
    facts = dict(overrides) | parse_facts(changes.replace("+", ","))
    is_release = word[:1].isdigit()
    if is_release:
        facts["release"] = Release.parse(word)
    profile = profile_of(machine, facts)
    policy = policy_for(profile.release) if is_release else policy_named(word, profile.release)
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
