"""Promises of the bulk rule for runs in which nearly each row is taken back by the next one."""

import os
import random
from collections import Counter
from typing import Any

import pytest
from bulk_worlds import KINDS, machine_of

from replay.events import MemslotSet, NotifierRegister, VmCreate
from replay.kvm import bulk, bulk_pairs, fold, page_track
from replay.kvm.bulk import fold_bulk
from replay.kvm.fold import fold_run
from replay.kvm.machine import Machine
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.state import state_of
from replay.runs import ACCOUNT, ADD, COLUMNS, Constant, Run
from replay.units import Gpa, Hva

USUAL = 600
RUNS = int(os.environ.get("KVM_REPLAY_BULK_EVENTS", str(500 * USUAL))) // 500
"""How many to draw. With fewer than usual it is not asked whether they met all that is rare."""
PAGES = 40
LOWERED = 9


def machines(seed: int) -> tuple[Machine, Machine]:
    """Return two equal machines of two VMs: a slot, a hole, a slot in both address spaces; tracking mostly enabled."""
    made = []
    for _ in range(2):
        profile = Profile(release=Release(6, 12, 117), config_external_write_tracking=seed % 3 > 0, tdp=seed % 2 > 0)
        machine = machine_of(profile, seed)
        for vm in range(2):
            machine.step(VmCreate(vm=vm, ret=0), 0)
            for slot in (0, 1, 1 << 16):
                base = Gpa((slot & 1) * 2 * PAGES << 12)
                machine.step(
                    MemslotSet(
                        vm=vm, slot=slot, guest_phys_addr=base, memory_size=PAGES << 12, userspace_addr=Hva(slot + 1 << 32)
                    ),
                    0,
                )
            if seed % 5:
                machine.step(NotifierRegister(vm=vm, node=0), 0)
        made.append(machine)
    return made[0], made[1]


def paired(rng: random.Random) -> Run:
    """Draw a run of pairs, some of them apart by VM or address space, with some other rows between."""
    top = rng.choice((1, 3, PAGES, PAGES, PAGES + 1, 3 * PAGES))
    spaces = rng.choice((1, 1, 1, 2))
    ups = (ACCOUNT, ACCOUNT, ADD) if spaces == 1 else (ACCOUNT,)
    vms, mixed = rng.choice((1, 1, 2)), rng.random() < 0.3
    rows: list[tuple[int, ...]] = []
    for _ in range(rng.choice((20, 150, 400))):
        up, gfn, level = rng.choice(ups), rng.randrange(top), rng.choice((2, 2, 2, 1))
        place = (rng.randrange(vms), rng.randrange(spaces))
        other = (rng.randrange(vms), rng.randrange(spaces)) if mixed else place
        rows += [(up, *place, gfn, level), (up + 1, *other, gfn, level)]
    drift = rng.choice((ups[0], ups[0] + 1, None))
    for _ in range(rng.choice((0, 0, 3, 12, 40))):
        kind = drift or rng.choice([kind for kind in KINDS if spaces == 1 or kind >= ACCOUNT - 1])
        rows.insert(rng.randrange(len(rows)), (kind, rng.randrange(vms), rng.randrange(spaces), rng.randrange(top), 2))
    columns: dict[str, Any] = {name: Constant(None, len(rows)) for name in COLUMNS}
    for name, values in zip(("kind", "vm", "as_id", "gfn", "level"), zip(*rows, strict=True), strict=True):
        columns[name] = Constant(values[0], len(rows)) if len(set(values)) == 1 else list(values)
    return Run(tasks=(), **columns)


class TestPairs:
    """Runs of pairs by the bulk rule against the scalar one."""

    @pytest.mark.parametrize("limit", [LOWERED, 65535])
    def test_equals_the_scalar_rule(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outcomes and states are equal, whichever way a run is folded: few rows left, many, at the limit, in no slot."""
        for module in (bulk, bulk_pairs, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", limit)
        met: Counter[str] = Counter()
        _watch(monkeypatch, met)
        for seed in range(RUNS // 15):
            rng = random.Random(seed)
            scalar, fast = machines(seed)
            for number in range(0, 15000, 1000):
                run = paired(rng)
                found, expected = fold_bulk(fast, run, number), fold_run(scalar, run, number)
                if found is None:
                    met["left to the scalar rule"] += 1
                    found = fold_run(fast, run, number)
                assert found == expected, f"seed {seed}, event {number}"
                assert state_of(fast) == state_of(scalar), f"seed {seed}, event {number}"
                assert fast.log.counts == scalar.log.counts
        ways = ("few left", "one slot", "slots", "slots in which some do not count", "below the limit")
        assert RUNS < USUAL or all(met[way] > RUNS // 100 for way in ways), met
        assert RUNS < USUAL or met["at the limit"] > RUNS // 100 or limit > LOWERED


def _watch(monkeypatch: pytest.MonkeyPatch, met: Counter[str]) -> None:
    """Count the ways in which runs are folded."""
    left, slot = bulk_pairs.fold_left, bulk_pairs.most_of_slot
    pairs, below = bulk_pairs.most_of_pairs, bulk_pairs.below_limit

    def fold_left(*args: Any) -> Any:
        met["few left"] += 1
        return left(*args)

    def most_of_slot(*args: Any) -> Any:
        found = slot(*args)
        met["one slot"] += found is not None
        return found

    def most_of_pairs(*args: Any) -> Any:
        found = pairs(*args)
        met["slots" if found is not None else "slots in which some do not count"] += 1
        return found

    def below_limit(most: int | None, rest: Any) -> bool:
        found = below(most, rest)
        met["below the limit" if found else "at the limit"] += most is not None
        return found

    for function in (fold_left, most_of_slot, most_of_pairs, below_limit):
        monkeypatch.setattr(bulk, function.__name__, function)
