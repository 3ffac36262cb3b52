"""Promises of comparing one VM between two lanes: what is kept up to date says what a comparison from scratch says."""

import random
from collections import Counter

from bulk_worlds import World, profile_of

from replay.analyses.parted import Difference, state_difference
from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, lockstep
from replay.kvm.policies import POLICIES, unbuildable
from replay.kvm.profile import Profile
from replay.runs import Item, Run


def two_lanes(rng: random.Random, profile: Profile) -> list[Lane]:
    """Make two lanes under different policies of kernels; one of them may leave out shadow paging."""
    buildable = [policy for policy in POLICIES if not unbuildable(policy, config=profile.config_external_write_tracking)]
    chosen = rng.sample([policy for policy in buildable if policy.kernel], 2)
    return [Lane(policy.name, policy, profile, factual=False, recorded_tdp=rng.choice((None, False))) for policy in chosen]


def items_of(rng: random.Random, count: int) -> list[Item]:
    """Return short runs and structural events."""
    world = World(rng)
    items = [*world.start(), *(world.run() if rng.random() < 0.4 else world.structural() for _ in range(count))]
    return [item.select(range(min(len(item), 40))) if isinstance(item, Run) else item for item in items]


def watch(seed: int, met: Counter[str]) -> None:
    """Compare the VMs of two lanes after each item that names them, in both ways; a VM is watched from some item on."""
    rng = random.Random(seed)
    lanes = two_lanes(rng, profile_of(random.Random(seed), seed))
    watched: dict[int, Difference] = {}
    for step in lockstep(iter(items_of(rng, 120)), lanes):
        what = step.run if isinstance(step, RunStep) else step.event
        for number in what.vms() if isinstance(what, Run) else [getattr(what, "vm", None)]:
            a, b = (lane.machine.vms.get(number) if number is not None else None for lane in lanes)
            if number is None or a is None or b is None or (number not in watched and rng.random() < 0.9):
                continue
            fields = watched.setdefault(number, Difference()).after(a, b, what)
            assert fields == list(state_difference(a, b)), f"seed {seed}"
            met.update(fields or ["nothing"])


class TestDifference:
    """Fields of a parted VM that differ, event by event."""

    def test_equals_a_comparison_from_scratch(self) -> None:
        """After each event that names the VM the fields are those that differ when everything is listed."""
        met: Counter[str] = Counter()
        for seed in range(60):
            watch(seed, met)
        for field in (
            "nothing",
            "shadow_root_allocated",
            "vm_bugged",
            "slots",
            "counts",
            "disallow_lpage",
            "notifiers",
            "indirect_shadow_pages",
        ):
            assert met[field] > 5, (field, met)
