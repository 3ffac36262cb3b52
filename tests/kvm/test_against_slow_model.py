"""Hold the model against the slow one over generated streams: results, logs, memory and state after every event."""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest
import slow_slots
from lockstep import Lockstep, view, whole
from streams import POLICIES, Facts, Generator, facts_of

from replay.events import Event
from replay.kvm import fold, invariants, page_track
from replay.kvm.state import digest_of

STREAMS = int(os.environ.get("KVM_REPLAY_STREAMS", "2000"))
"""Streams over all policies; a hundred thousand take some minutes and belong into the check before a release."""
EVENTS_MAX = 60
SHARDS = 8
LOWERED = 3
"""Limit of a counter in half of the streams, so that short ones overflow it."""


def generate(seed: int) -> tuple[str, Facts, list[Event], Lockstep, str]:
    """Make one stream and run it; return policy, facts, events, the models and the first difference."""
    rng = random.Random(seed)
    policy, facts = rng.choice(POLICIES), facts_of(rng)
    facts["config_external_write_tracking"] |= policy == "v2"  # which does not link without
    generator = Generator(rng, rng.choice((1, 1, 2)), patient=rng.random() < 0.8)
    lockstep, events = Lockstep(policy, facts, paranoid=seed // SHARDS % 2 == 0), generator.start()
    length = rng.randrange(20, EVENTS_MAX + 1)
    difference = ""
    for index in range(length):
        if index >= len(events):
            events.append(generator.next(lockstep.slow))
        difference = lockstep.apply(events[index])
        if difference:
            break
    return policy, facts, events, lockstep, difference


def difference_of(policy: str, facts: Facts, events: Sequence[Event]) -> str:
    """Run a stream again; return the first difference with the event that made it."""
    lockstep = Lockstep(policy, facts)
    for event in events:
        if getattr(event, "vm", None) is not None and event.KIND != "vm.create" and _unknown(lockstep, event):
            return ""
        difference = lockstep.apply(event)
        if difference:
            return f"after {event}: {difference}"
    return ""


def _unknown(lockstep: Lockstep, event: Event) -> bool:
    number = getattr(event, "vm", None)
    return event.KIND != "alloc.fail" and number not in lockstep.slow.vms and number not in lockstep.slow.gone


def smallest(events: list[Event], fails: Callable[[list[Event]], bool]) -> list[Event]:
    """Drop events for as long as the rest still fails."""
    index = 0
    while index < len(events):
        shorter = events[:index] + events[index + 1 :]
        if fails(shorter):
            events, index = shorter, 0
        else:
            index += 1
    return events


def explain(seed: int, policy: str, facts: Facts, events: list[Event], difference: str) -> str:
    """Say a failure as the shortest stream that shows it."""
    short = smallest(list(events), lambda shorter: bool(difference_of(policy, facts, shorter)))
    said = difference_of(policy, facts, short) or difference
    return f"seed {seed}, {policy}, {facts}\n" + "\n".join(map(str, short)) + f"\n{said}"


@pytest.fixture
def _lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (page_track, fold, invariants):
        monkeypatch.setattr(module, "U16_MAX", LOWERED)
    monkeypatch.setattr(slow_slots, "COUNT_MAX", LOWERED)


EXPECTED = (
    *("create", "delete", "move", "flags_only", "unchanged", "failed"),
    *(f"memslot.set {-errno}" for errno in (5, 12, 14, 17, 22, 25)),
    *("notifier.register 0", "notifier.register -3", "notifier.register -12", "notifier.register -95", "notifier.register -22"),
    *("shadow_root.alloc 0", "shadow_root.alloc -5", "shadow_root.alloc -12"),
    *("write_track.add 0", "write_track.add -22", "write_track.add -95", "write_track.query 1", "guest_write 1"),
    *(
        "tss.set 0",
        "tss.set -17",
        "tss.set -22",
        "tss.set -12",
        "vcpu.create 0",
        "vcpu.create -12",
        "vcpu.create -17",
        "memslot.set -9",
    ),
    *("vm.enable_cap 0", "vm.enable_cap -22", "vm.enable_cap -16", "vm.enable_cap -5", "gfn_write_track is NULL"),
    *("the VM is gone", "no memslot for the gfn", "KVM_BUG_ON: write tracking is not enabled"),
    *("WARN: write-track count below 0", "WARN: write tracking is not enabled"),
    "WARN: disallow_lpage below 0",
)
"""What the streams must have met at least once, or they prove little."""


class TestAgainstSlowModel:
    """Two models written apart agree on every event of every stream."""

    met: ClassVar[Counter[str]] = Counter()

    @pytest.mark.slow
    @pytest.mark.usefixtures("_lowered")
    @pytest.mark.parametrize("shard", range(SHARDS // 2))
    def test_streams_with_low_counter_limit(self, shard: int) -> None:
        """Results, warnings, memory and state are equal after every event, also where counters overflow."""
        self._run(shard)

    @pytest.mark.slow
    @pytest.mark.parametrize("shard", range(SHARDS // 2, SHARDS))
    def test_streams(self, shard: int) -> None:
        """Results, warnings, memory and state are equal after every event."""
        self._run(shard)

    def _run(self, shard: int) -> None:
        seeds = range(shard, STREAMS, SHARDS)
        assert len(seeds) >= STREAMS // SHARDS
        for seed in seeds:
            policy, facts, events, lockstep, difference = generate(seed)
            assert not difference, explain(seed, policy, facts, events, difference)
            self.met.update(lockstep.met)
            assert digest_of(whole(policy, facts, events)) == digest_of(lockstep.machine), (
                f"seed {seed}: runs whole and row by row"
            )

    def test_streams_met_what_matters(self) -> None:
        """The streams before met every kind of change, result and warning."""
        if not self.met or STREAMS < 1000:
            pytest.skip("too few streams were run to meet all")
        assert [name for name in (*EXPECTED, "WARN: write-track count above 65535") if not self.met[name]] == []


class TestLockstep:
    """The comparison can fail."""

    def test_a_wrong_model_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that forgets one thing differs within a few streams, and the stream shown is short."""
        monkeypatch.setattr(page_track, "reads_all_address_spaces", lambda _vm: False)
        wrong = next((result for result in map(generate, range(500)) if result[4]), None)
        assert wrong is not None
        policy, facts, events, _lockstep, _difference = wrong
        short = smallest(list(events), lambda shorter: bool(difference_of(policy, facts, shorter)))
        assert 3 <= len(short) <= 8
        assert "result 0, slow model 1" in difference_of(policy, facts, short)

    def test_a_stream_is_decided_by_its_seed(self) -> None:
        """The same seed gives the same stream and the same state."""
        first, second = generate(7), generate(7)
        assert first[2] == second[2]
        assert view(first[3].machine) == view(second[3].machine)
