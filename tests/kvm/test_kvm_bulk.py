"""Promises of the bulk rule: whatever a run holds, it gives exactly what the scalar rule gives."""

import os
import random
from collections import Counter

import pytest
from bulk_worlds import World, machine_of, profile_of

from replay.kvm import bulk, fold, page_track
from replay.kvm.bulk import fold_bulk
from replay.kvm.fold import fold_run
from replay.kvm.leaves import mix
from replay.kvm.machine import Machine
from replay.kvm.state import counters_digest_of, keep_digests, state_of
from replay.runs import Item, Run

EVENTS = int(os.environ.get("KVM_REPLAY_BULK_EVENTS", "300000"))
"""Hot events that the fuzzer folds by both rules; some millions take some minutes and belong into the check before a release."""
LOWERED = 3


def differences(seed: int, events: int, met: Counter[str]) -> int:
    """Fold one stream by both rules and assert that they agree after every item; return the hot events folded."""
    rng = random.Random(seed)
    world, profile = World(rng), profile_of(rng, seed)
    scalar, fast = machine_of(profile, seed), machine_of(profile, seed)
    if seed % 4 == 0:
        keep_digests(scalar)
        keep_digests(fast)
    number = done = 0
    items: list[Item] = list(world.start())
    while done < events:
        item = items.pop(0) if items else world.run() if rng.random() < 0.6 else world.structural()
        if isinstance(item, Run):
            number, done = number + len(item), done + len(item)
            _fold_both(scalar, fast, item, number - len(item), met)
        else:
            assert scalar.step(item, number).ret == fast.step(item, number).ret
            number += 1
        assert state_of(scalar) == state_of(fast), f"seed {seed}, event {number}"
        assert (scalar.log.counts, scalar.log.new) == (fast.log.counts, fast.log.new)
        if seed % 4 == 0:
            assert counters_digest_of(scalar) == counters_digest_of(fast) == counted_digest(fast), f"seed {seed}, event {number}"
    return done


def counted_digest(machine: Machine) -> int:
    """Return the digest of all counters, from the counters themselves."""
    total = 0
    for vm in machine.live_vms():
        for slot in vm.slots():
            for index, count in slot.arch.counts.items():
                total += count * mix(slot.base_gfn + index) * mix(vm.number << 32 | slot.as_id << 16 | slot.id)
    return total % (1 << 64)


def _fold_both(scalar: Machine, fast: Machine, run: Run, first: int, met: Counter[str]) -> None:
    before = state_of(fast)
    found = fold_bulk(fast, run, first)
    if found is None:
        assert state_of(fast) == before, "None means that nothing was changed"
        met["left to the scalar rule"] += len(run)
        found = fold_run(fast, run, first)
    else:
        met["folded at once"] += len(run)
    expected = fold_run(scalar, run, first)
    assert found == expected
    assert list(found.rets) == sorted(found.rets) == list(expected.rets)
    met.update(reason for _row, reason in expected.log)
    met.update(f"ret {ret}" for ret in expected.rets.values())
    met["tracked writes"] += len(expected.tracked_writes)


class TestBulkRule:
    """The bulk rule against the scalar one."""

    @pytest.mark.parametrize("limit", [LOWERED, 65535])
    def test_equals_the_scalar_rule(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outcomes, their order, logs and the whole state are equal over random worlds, with everything unusual in them."""
        for module in (bulk, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", limit)
        met: Counter[str] = Counter()
        done, seed = 0, 0
        while done < EVENTS // 2:
            done += differences(seed, 1000, met)
            seed += 1
        assert met["folded at once"] > met["left to the scalar rule"] > 0
        wanted = {"WARN: write-track count below 0", "no memslot for the gfn", "KVM_BUG_ON: write tracking is not enabled"}
        wanted |= {"WARN: write tracking is not enabled", "tracked writes", "ret 1", "ret -22"}
        wanted |= {"WARN: write-track count above 65535"} if limit == LOWERED else set()
        assert not {what for what in wanted if not met[what]}
