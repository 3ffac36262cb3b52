"""Promises of lanes that are folded together: each of them is what it would be alone."""

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from bulk_worlds import World, profile_of
from compiled_loop import loop

from replay.engine.lane import SKIPPED_EXTERNAL, SKIPPED_SHADOW, Lane
from replay.engine.lockstep import RunStep, lockstep
from replay.kvm import compiled, fold
from replay.kvm.fold import fold_run
from replay.kvm.policies import POLICIES, unbuildable
from replay.kvm.profile import Profile
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import counters_digest_of, keep_digests, state_of
from replay.runs import ACCOUNT, ADD, REMOVE, Item, Run

EVENTS = int(os.environ.get("KVM_REPLAY_BULK_EVENTS", "300000"))


def lanes_of(rng: random.Random, profile: Profile, count: int) -> list[Lane]:
    """Make lanes under random policies: some of the same, some that leave out external users or shadow paging."""
    buildable = [policy for policy in POLICIES if not unbuildable(policy, config=profile.config_external_write_tracking)]
    few = rng.sample(buildable, rng.choice((1, 2, 2, 3)))
    recorded_tdp = rng.choice((None, None, True, False))
    return [Lane(f"{index}", rng.choice(few), profile, factual=False, recorded_tdp=recorded_tdp) for index in range(count)]


def stream(rng: random.Random, events: int) -> Iterator[Item]:
    """Yield a world's items until there were so many hot events."""
    world, done = World(rng), 0
    yield from world.start()
    while done < events:
        item = world.run() if rng.random() < 0.7 else world.structural()
        done += len(item) if isinstance(item, Run) else 0
        yield item


def check(seed: int, met: Counter[str]) -> int:
    """Replay one stream through lanes together and through each alone; return the hot events."""
    profile, count = profile_of(random.Random(seed), seed), 2 + seed % 4
    together, alone = (lanes_of(random.Random(seed), profile, count) for _ in range(2))
    for lane in (*together, *alone) if seed % 3 == 0 else ():
        keep_digests(lane.machine)
    number = done = 0
    for step in lockstep(stream(random.Random(seed), 1500), together):
        if isinstance(step, RunStep):
            expected = [_fold_alone(lane, step.run, number) for lane in alone]
            assert [lane.skipped for lane in together] == [lane.skipped for lane in alone]
            assert step.outcomes == expected, f"seed {seed}, event {number}"
            met["together"] += len({id(outcome) for outcome in step.outcomes}) == 1
            met["parted"] += len({id(outcome) for outcome in step.outcomes}) > 1
            number, done = number + len(step.run), done + len(step.run)
        else:
            outcomes = [lane.step(step.event, number) for lane in alone]
            assert [None if one is None else one.ret for one in step.outcomes] == [
                None if one is None else one.ret for one in outcomes
            ]
            number += 1
        for one, other in zip(together, alone, strict=True):
            assert state_of(one.machine) == state_of(other.machine), f"seed {seed}, event {number}, lane {one.name}"
            assert counters_digest_of(one.machine) == counters_digest_of(other.machine)
    return done


def _fold_alone(lane: Lane, run: Run, first: int) -> RunOutcome:
    """Fold by the scalar rule what a lane does not leave out."""
    reasons = [_left_out(lane, run, row) for row in range(len(run))]
    for reason in filter(None, reasons):
        lane.skipped[reason] = lane.skipped.get(reason, 0) + 1
    rows = [row for row, reason in enumerate(reasons) if not reason]
    if not rows:
        return RunOutcome()
    found = fold_run(lane.machine, run.select(rows), first)
    for made in found.taken:
        slot = lane.machine.vms[made.vm].spaces[made.as_id].by_id(made.slot_id)
        assert slot is not None
        slot.arch.gfn_write_track = made._replace(event=first + rows[made.event - first])
    return RunOutcome(
        [(rows[row], reason) for row, reason in found.log],
        {rows[row]: ret for row, ret in found.rets.items()},
        [rows[row] for row in found.tracked_writes],
        found.adds,
        found.removes,
    )


def _left_out(lane: Lane, run: Run, row: int) -> str:
    shadow, external = lane.left_out
    if shadow and run.kind[row] >= ACCOUNT and not run.nested[row]:
        return SKIPPED_SHADOW
    return SKIPPED_EXTERNAL if external and run.kind[row] in (ADD, REMOVE) else ""


class TestTogether:
    """N lanes in lockstep."""

    @pytest.mark.parametrize("rows_least", [0, 1, 128, 1 << 20], ids=["compiled", "bulk", "both", "scalar"])
    def test_equals_lanes_alone(self, rows_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outcomes and states are those of each lane replayed alone by the scalar rule, wherever lanes part."""
        if not rows_least:
            monkeypatch.setattr(compiled, "LOOP", [loop()])
            monkeypatch.setattr(fold, "_COMPILED", [compiled.fold_compiled])
        monkeypatch.setattr(fold, "BULK_ROWS_LEAST", rows_least)
        monkeypatch.setattr(fold, "BULK_AFTER_ROWS", 0)
        met: Counter[str] = Counter()
        done = seed = 0
        while done < EVENTS // 6:
            done += check(seed, met)
            seed += 1
        assert met["together"] >= min(10, EVENTS // 30_000)
        assert met["parted"] >= min(5, EVENTS // 60_000)

    @pytest.mark.parametrize("seed", [63, 73, 81])
    def test_each_vm_from_another_lane(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lane that takes every VM of a run over, from several lanes, counts the rows that it leaves out too."""
        monkeypatch.setattr(fold, "BULK_ROWS_LEAST", 1)
        monkeypatch.setattr(fold, "BULK_AFTER_ROWS", 0)
        met: Counter[str] = Counter()
        check(seed, met)
        assert met["parted"] > 0
