"""Promises of replay.kvm.plain and replay.engine.checkpoint: a lane that is made again from plain values is the same lane."""

import inspect
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import attrs
import msgpack
import pytest
from bulk_worlds import World, profile_of
from lockstep import policy_by_name, profile_from
from test_against_slow_model import generate

from replay.engine.checkpoint import DISAGREEMENT_PLAIN, MisfitError, checkpoint_of, identity_of, restore
from replay.engine.lane import Disagreement, Lane
from replay.engine.lockstep import lockstep
from replay.events.write_track import HotEvent
from replay.kvm import fold, plain
from replay.kvm.allocator import Allocation, Allocator, Injection
from replay.kvm.counter_bytes import MANY_LEAVES, counter_bytes, fill
from replay.kvm.counters import Counters
from replay.kvm.fold import fold_run
from replay.kvm.idhash import IdHash
from replay.kvm.kernel_log import KernelLog
from replay.kvm.leaves import Table
from replay.kvm.lpage_moves import LpageMoves
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.plain import Shelf, plain_of_machine, restore_machine
from replay.kvm.policies import POLICIES, unbuildable
from replay.kvm.profile import Profile
from replay.kvm.state import digest_of, state_of
from replay.kvm.tallies import Account, Books, Tally
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import Cost
from replay.runs import Item, Run, run_of

WRITTEN_OR_DERIVED: dict[type[Any], tuple[set[str], dict[str, str]]] = {
    Machine: (
        {"vms", "gone", "allocator", "log"},
        {
            "policy": "of the lane",
            "profile": "of the lane",
            "hot_rows": "when numpy pays, in this process",
            "layout": "of the bulk rule",
            "compiled": "of the compiled loop",
        },
    ),
    Allocator: (
        {*plain.ALLOCATOR_PLAIN, "books", "injections"},
        {
            "total_ram_pages": "of the profile",
            "slot_object": "of the profile",
            "event": "of the last event",
            "effects": "of the last event",
            "forced": "within one event",
            "counters": "shelf",
            "driver_counts": "shelf",
        },
    ),
    KernelLog: ({"counts"}, {"new": "of the last event"}),
    Books: ({"_all", "_of_vms"}, {**dict.fromkeys(("_arrays", "_by_vm_array"), "of the allocator"), "waiting": "worked in"}),
    Account: ({"tallies"}, {"_now": "from the totals"}),
    Tally: (set(plain.TALLY_PLAIN), {}),
    Injection: (set(plain.INJECTION_PLAIN), {}),
    Vm: (
        {*plain.VM_PLAIN, "number", "type", "nodes", "external_adds", "spaces"},
        {
            **dict.fromkeys(("policy", "profile", "allocator", "log"), "of the machine"),
            "check_facts": "from profile and type",
            "known": "of at_once.py",
        },
    ),
    Memslots: (
        {"generation", "_by_id", "_hashes", "_active"},
        {
            "as_id": "its place",
            "_nr_as_ids": "of the VM",
            "layout": "of the bulk rule",
            "near": "of the scalar rule",
            "packed": "of the compiled loop",
            "_by_gfn": "_by_id in another order",
            "_later": "done when somebody asks for the orders",
        },
    ),
    IdHash: ({"_buckets"}, {}),
    Memslot: (
        {*plain.SLOT_PLAIN, "raw_object", "arch", "raw_bitmap"},
        {"as_id": "its place", "made": "what object and bitmap are"},
    ),
    Arch: ({"raw_rmap", "raw_lpage_info", "raw_write_track", "counts", "lpage_moves"}, {"made": "of rmap and lpage_info"}),
    LpageMoves: (
        {"chunks"},
        {
            "owners": "who shares it",
            "fallen": "from chunks, so far as it matters",
            "known": "from counters and chunks",
            "digest": "from chunks",
        },
    ),
    Allocation: ({*plain.ALLOCATION_PLAIN, "cost"}, {}),
    Cost: (
        {"nominal_bytes"},
        dict.fromkeys(("pages", "areas", "area_pages", "real_bytes", "charged_bytes", "deltas"), "from nominal_bytes"),
    ),
    Lane: (
        {"disagreements", "disagreement_count", "skipped", "unattributed", "machine"},
        {
            "name": "what it is called",
            "policy": "identity",
            "profile": "identity",
            "factual": "identity",
            "_no_shadow": "identity",
            "_no_external": "identity",
            "_leaves_out": "identity",
            "_last": "of the last run",
        },
    ),
    Disagreement: (set(DISAGREEMENT_PLAIN), {}),
}
"""Class -> fields that are written down, and those that are not, with the reason."""


def fields_of(cls: type[Any]) -> set[str]:
    """Return the names of all fields: attrs fields, slots, and what __init__ sets."""
    if attrs.has(cls):
        return {field.name for field in attrs.fields(cls)}
    if issubclass(cls, tuple):
        return set(cls._fields)  # type: ignore[attr-defined]  # a named one
    slots = set(getattr(cls, "__slots__", ()))
    set_in_init = {line.split("self.")[1].split(":")[0].split(" =")[0] for line in _assignments(cls)}
    return slots | set_in_init


def _assignments(cls: type[Any]) -> list[str]:
    lines = [line.strip() for line in inspect.getsource(cls.__init__).splitlines()]
    return [line for line in lines if line.startswith("self.") and " = " in line]


def lanes_of(rng: random.Random, profile: Profile) -> list[Lane]:
    """Make lanes of some policies, some of them factual or without shadow paging."""
    buildable = [policy for policy in POLICIES if not unbuildable(policy, config=profile.config_external_write_tracking)]
    few = [rng.choice(buildable) for _ in range(rng.choice((1, 2, 3)))]
    tdp = rng.choice((None, None, True, False))
    return [
        Lane(f"{i}", policy, profile, factual=i == 1 and rng.random() < 0.3, recorded_tdp=tdp) for i, policy in enumerate(few)
    ]


def items_of_world(rng: random.Random, count: int) -> Iterator[Item]:
    """Yield a world's items."""
    world = World(rng)
    yield from world.start()
    for _ in range(count):
        yield world.run() if rng.random() < 0.6 else world.structural()


def length(item: Item) -> int:
    """Return how many events an item has."""
    return len(item) if isinstance(item, Run) else 1


def replayed(seed: int, items: list[Item], upto: int, *, through: int | None = None) -> list[Lane]:
    """Return the lanes of a seed after some items; through: made again from a checkpoint after that many."""
    lanes = lanes_of(random.Random(seed), profile_of(random.Random(seed), seed))
    first = 0
    if through is not None:
        restore(lanes, checkpoint_of(replayed(seed, items, through)))
        first = through
    for _step in lockstep(iter(items[first:upto]), lanes, first=sum(map(length, items[:first]))):
        pass
    return lanes


def changes_of(values: Any, wrong: object) -> Iterator[Any]:
    """Yield nested tuples with one number in them replaced, each of them once."""
    if isinstance(values, int) and not isinstance(values, bool):
        yield wrong
    elif isinstance(values, tuple):
        for place, value in enumerate(values):
            yield from ((*values[:place], changed, *values[place + 1 :]) for changed in changes_of(value, wrong))


def shorter(values: Any) -> Iterator[Any]:
    """Yield nested tuples with the last value of one of them left out, each of them once."""
    if isinstance(values, tuple) and values:
        yield values[:-1]
        for place, value in enumerate(values):
            yield from ((*values[:place], changed, *values[place + 1 :]) for changed in shorter(value))


class TestFields:
    """No field of the state is forgotten."""

    @pytest.mark.parametrize("cls", WRITTEN_OR_DERIVED, ids=lambda cls: cls.__name__)
    def test_written_or_derived(self, cls: type[Any]) -> None:
        """Each field of each class of the state is written down, or named here with the reason why not."""
        written, derived = WRITTEN_OR_DERIVED[cls]
        assert written | derived.keys() == fields_of(cls)
        assert not written & derived.keys()

    def test_fields_are_found(self) -> None:
        """The count sees fields that only __init__ sets."""
        assert {"vms", "hot_rows"} <= fields_of(Machine)
        assert "_buckets" in fields_of(IdHash)


class TestRoundTrip:
    """A restored lane is the lane."""

    @pytest.mark.parametrize("seed", range(24))
    def test_straight_and_from_a_checkpoint(self, seed: int) -> None:
        """From any checkpoint the rest gives the digest, the state and the checkpoint of a straight replay, byte for byte."""
        rng = random.Random(seed)
        items = list(items_of_world(rng, 24))
        straight = replayed(seed, items, len(items))
        for through in sorted(rng.sample(range(len(items) + 1), 3)):
            again = replayed(seed, items, len(items), through=through)
            assert [state_of(lane.machine) for lane in again] == [state_of(lane.machine) for lane in straight]
            assert [digest_of(lane.machine) for lane in again] == [digest_of(lane.machine) for lane in straight]
            assert checkpoint_of(again) == checkpoint_of(straight)
            assert [lane.disagreements for lane in again] == [lane.disagreements for lane in straight]
            assert [lane.skipped for lane in again] == [lane.skipped for lane in straight]

    @pytest.mark.parametrize("shard", range(4))
    def test_streams(self, shard: int) -> None:
        """Colliding calls with faults, all policies and profiles: made again after every few events, a lane stays the same."""
        for seed in range(shard, 120, 4):
            policy, facts, events, models, difference = generate(seed)
            again = Machine(policy_by_name(policy), profile_from(facts))
            for number, event in enumerate(events[: models.number]):
                if number % 5 == 4:
                    shelf = Shelf()
                    values = plain_of_machine(again, shelf)
                    again = Machine(policy_by_name(policy), profile_from(facts))
                    restore_machine(again, values, Shelf(tuple(shelf.contents)))
                if isinstance(event, HotEvent):
                    fold_run(again, run_of([event]), number)
                else:
                    again.step(event, number)
            assert difference == ""
            assert digest_of(again) == digest_of(models.machine), f"seed {seed}"
            shelves = Shelf(), Shelf()
            assert plain_of_machine(again, shelves[0]) == plain_of_machine(models.machine, shelves[1])
            assert shelves[0].contents == shelves[1].contents

    def test_bulk_and_event_by_event(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A checkpoint of a replay in bulk is, byte for byte, that of one by the scalar rule."""
        for seed in range(4):
            items = list(items_of_world(random.Random(seed), 16))
            made = []
            for rows in (0, 1 << 60):
                with monkeypatch.context() as patch:
                    patch.setattr(fold, "BULK_AFTER_ROWS", rows)
                    patch.setattr(fold, "_BULK", [])
                    made.append(checkpoint_of(replayed(seed, items, len(items))))
            assert made[0] == made[1]

    def test_some_of_the_lanes(self) -> None:
        """Lanes are made again without the others that were written with them."""
        items = list(items_of_world(random.Random(8), 20))
        all_lanes = replayed(2, items, len(items))
        checkpoint = checkpoint_of(all_lanes)
        for index, lane in enumerate(all_lanes):
            alone = lanes_of(random.Random(2), profile_of(random.Random(2), 2))[index]
            restore([alone], checkpoint)
            assert digest_of(alone.machine) == digest_of(lane.machine)

    def test_another_lane(self) -> None:
        """A lane of another identity is not made from it."""
        profile = Profile()
        eager, lazy = (Lane("x", policy, profile, factual=False, recorded_tdp=None) for policy in POLICIES[1:3])
        assert identity_of(eager) != identity_of(lazy)
        with pytest.raises(MisfitError):
            restore([lazy], checkpoint_of([eager]))

    def test_rubbish(self) -> None:
        """Every cut of a checkpoint is a misfit, and nothing else is raised."""
        checkpoint = checkpoint_of(replayed(3, items := list(items_of_world(random.Random(4), 6)), len(items)))
        for size in range(len(checkpoint)):
            with pytest.raises(MisfitError):
                restore(lanes_of(random.Random(3), profile_of(random.Random(3), 3)), checkpoint[:size])

    def test_other_numbers(self) -> None:
        """A text, a list or a number out of range where a number was is a misfit, or another state; nothing else is raised."""
        checkpoint = checkpoint_of(replayed(3, items := list(items_of_world(random.Random(4), 6)), len(items)))
        values = msgpack.unpackb(zlib.decompress(checkpoint), use_list=False)
        misfits, tried = 0, 0
        for wrong in ("text", -1, 1 << 63, (1, 2)):
            for changed in changes_of(values, wrong):
                packed = zlib.compress(msgpack.packb(changed, use_bin_type=True), 1)
                try:
                    restore(lanes_of(random.Random(3), profile_of(random.Random(3), 3)), packed)
                except MisfitError:
                    misfits += 1
                tried += 1
        assert tried > 200
        assert misfits > 100

    def test_a_value_less(self) -> None:
        """Where a value is left out it is a misfit, or another state; it is never taken for the whole."""
        whole = replayed(3, items := list(items_of_world(random.Random(4), 6)), len(items))
        values = msgpack.unpackb(zlib.decompress(checkpoint_of(whole)), use_list=False)
        misfits, others = 0, 0
        for changed in shorter(values):
            lanes = lanes_of(random.Random(3), profile_of(random.Random(3), 3))
            try:
                restore(lanes, zlib.compress(msgpack.packb(changed, use_bin_type=True), 1))
            except MisfitError:
                misfits += 1
            else:
                assert [digest_of(lane.machine) for lane in lanes] != [digest_of(lane.machine) for lane in whole]
                others += 1
        assert misfits > 60
        assert others > 0


class TestCounterBytes:
    """Counters as bytes: canonical, narrow, complete."""

    @pytest.mark.parametrize("pages", [0, 1, 3, MANY_LEAVES - 1, MANY_LEAVES, 3 * MANY_LEAVES])
    @pytest.mark.parametrize("typecode", ["H", "I"])
    def test_round_trip(self, pages: int, typecode: str) -> None:
        """Few or many, near or far: what is read counts the same, and gives the same bytes."""
        rng = random.Random(pages)
        base = 0 if typecode == "I" else 700
        counters = Counters(Table(typecode), base, 1 << 20)
        for page in range(pages):
            for _ in range(rng.choice((1, 1, 600))):
                counters[rng.randrange(512) + 512 * (page if page % 3 else page * 7)] = rng.choice((1, 1, 255, 256, 65535))
        again = Counters(Table(typecode), base, 1 << 20)
        fill(again, counter_bytes(counters))
        assert dict(again) == dict(counters)
        assert len(again) >= pages // 2
        assert counter_bytes(again) == counter_bytes(counters)

    def test_digests(self) -> None:
        """A table that keeps digests has those of the counters that were written, few or many."""
        for npages in (3, 3000):
            table, other = Table(), Table()
            table.digesting = other.digesting = True
            counters, again = Counters(table, 0, 1 << 20), Counters(other, 0, 1 << 20)
            for gfn in range(0, 7 * npages, 7):
                counters[gfn] = 1 + gfn % 5
            fill(again, counter_bytes(counters))
            assert again.roots.digest == counters.roots.digest != 0

    @pytest.mark.parametrize("number", [255, 256, 65535, 65536, (1 << 32) - 1])
    def test_widths(self, number: int) -> None:
        """A count, and a distance of two gfns, of just so many bytes and of one more comes back."""
        for counts in ({0: number}, {7: 1, 7 + number: 1}):
            counters, again = (Counters(Table("I"), 0, 1 << 33) for _ in range(2))
            counters.update(counts)
            fill(again, counter_bytes(counters))
            assert again == counts

    def test_zeros_leave_no_trace(self) -> None:
        """Counters that went up and down again give the bytes of those that never did."""
        counters = Counters(Table(), 0, 4096)
        counters[5], counters[2000] = 1, 2
        del counters[5]
        other = Counters(Table(), 0, 4096)
        other[2000] = 2
        assert counter_bytes(counters) == counter_bytes(other)
        assert counter_bytes(Counters(Table(), 0, 4096)) == b""

    def test_rubbish(self) -> None:
        """Bytes of another length are refused."""
        counters = Counters(Table(), 0, 4096)
        counters[9] = 3
        data = counter_bytes(counters)
        for bad in (data[:-1], data + b"\0", data[:3]):
            with pytest.raises((ValueError, struct.error)):
                fill(Counters(Table(), 0, 4096), bad)
