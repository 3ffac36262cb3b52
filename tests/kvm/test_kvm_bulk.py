"""Promises of the bulk rule: whatever a run holds, it gives exactly what the scalar rule gives."""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from bulk_worlds import KINDS, LENGTHS, SHORT, World, machine_of, profile_of

from replay.events import GuestWrite, MemslotSet, NotifierRegister, VmCreate, WriteTrackAdd, WriteTrackRemove
from replay.kvm import bulk, bulk_pairs, fold, leaves, page_track
from replay.kvm.bulk import fold_bulk
from replay.kvm.fold import fold_run
from replay.kvm.kernel_log import LPAGE
from replay.kvm.leaves import mix
from replay.kvm.machine import Machine
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import counters_digest_of, keep_digests, state_of
from replay.runs import COLUMNS, GUEST_WRITE, RUN_EVENTS_MAX, Constant, Item, Run, run_of
from replay.units import Gfn, Gpa, Hva

USUAL = 300_000
EVENTS = int(os.environ.get("KVM_REPLAY_BULK_EVENTS", str(USUAL)))
"""How many to draw. With fewer than usual it is not asked whether they met all that is rare."""
"""Hot events that the fuzzer folds by both rules; some millions take some minutes and belong into the check before a release."""
LOWERED = 3


Rule = Callable[[Machine, Run, int], RunOutcome | None]


def differences(seed: int, events: int, met: Counter[str], rule: Rule = fold_bulk, *, lengths: Sequence[int] = LENGTHS) -> int:
    """Fold one stream by the scalar rule and another; assert that they agree after every item; return the hot events."""
    rng = random.Random(seed)
    world, profile = World(rng, paired=0.4, lengths=lengths), profile_of(rng, seed)
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
            _fold_both(scalar, fast, item, number - len(item), met, rule)
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
            place = mix(vm.number << 32 | slot.as_id << 16 | slot.id)
            for index, count in slot.arch.counts.items():
                total += count * mix(slot.base_gfn + index) * place
            for region, count in slot.arch.lpage_moves.items():
                total += count * mix(1 << 60 | region) * place
    return total % (1 << 64)


def _fold_both(scalar: Machine, fast: Machine, run: Run, first: int, met: Counter[str], rule: Rule = fold_bulk) -> None:
    before = state_of(fast)
    found = rule(fast, run, first)
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


def slots_up_to(bits: int) -> list[MemslotSet]:
    """Return slots at the first gfns, at half and at the end of a range of so many bits."""
    bases = (0, 1 << bits - 1, (1 << bits) - 4)
    return [
        MemslotSet(vm=0, slot=slot, guest_phys_addr=Gpa(base << 12), memory_size=4 << 12, userspace_addr=Hva((slot + 1) << 32))
        for slot, base in enumerate(bases)
    ]


class TestBulkRule:
    """The bulk rule against the scalar one."""

    @pytest.mark.parametrize("limit", [LOWERED, 65535])
    def test_equals_the_scalar_rule(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outcomes, their order, logs and the whole state are equal over random worlds, with everything unusual in them."""
        for module in (bulk, bulk_pairs, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", limit)
        met: Counter[str] = Counter()
        done, seed = 0, 0
        while done < EVENTS // 2:
            done += differences(seed, 1000, met)
            seed += 1
        assert EVENTS < USUAL or met["folded at once"] > met["left to the scalar rule"]
        wanted = {"WARN: write-track count below 0", "no memslot for the gfn", "KVM_BUG_ON: write tracking is not enabled"}
        wanted |= {"WARN: write tracking is not enabled", "tracked writes", "ret 1", "ret -22", LPAGE}
        wanted |= {"WARN: write-track count above 65535"} if limit == LOWERED else set()
        assert EVENTS < USUAL or not {what for what in (*wanted, "left to the scalar rule") if not met[what]}

    @pytest.mark.parametrize("swept_by_numpy", [0, 2048])
    def test_equals_it_where_leaves_are_taken_back(self, swept_by_numpy: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same in tables that are swept whenever leaves are short, also in the middle of a run."""
        sweeps, sweep = Counter[str](), leaves.Table._sweep

        def counted(table: leaves.Table) -> None:
            sweeps["done"] += 1
            sweep(table)

        monkeypatch.setattr(leaves, "_SWEPT_BY_NUMPY", swept_by_numpy)
        monkeypatch.setattr(leaves, "_UNSWEPT_MOST", 0)
        monkeypatch.setattr(leaves.Table, "_sweep", counted)
        met: Counter[str] = Counter()
        for seed in range(24):
            differences(seed, 1000, met)
        assert sweeps["done"] > 40
        assert met["folded at once"] > met["left to the scalar rule"]

    @pytest.mark.parametrize("seed", range(16))
    def test_slots_change_between_runs(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same where runs are short, so that slots, arrays and flags change often between them."""
        for module in (bulk, bulk_pairs, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", LOWERED)
        met: Counter[str] = Counter()
        differences(seed, 1500, met, lengths=SHORT)
        assert met["folded at once"] + met["left to the scalar rule"] >= 1500

    @pytest.mark.parametrize("bits", range(10, 34))
    def test_gfns_of_every_width(self, bits: int) -> None:
        """Rows are told apart whatever share of the sort key their gfns take."""
        rng, profile = random.Random(bits), Profile(release=Release(6, 12, 117), config_external_write_tracking=True)
        gfns = [rng.choice((0, 1 << bits - 1, (1 << bits) - 2)) + rng.randrange(2) for _ in range(999)] + [(1 << bits) - 1]
        made = run_of([(WriteTrackAdd if rng.random() < 0.8 else WriteTrackRemove)(vm=0, gfn=Gfn(gfn)) for gfn in gfns])
        run = attrs.evolve(made, as_id=Constant(0, 1000))
        found = []
        for rule in (fold_run, fold_bulk):
            machine = machine_of(profile, 1)
            for event in (VmCreate(vm=0, ret=0), *slots_up_to(bits), NotifierRegister(vm=0)):
                machine.step(event, 0)
            outcome = rule(machine, run, 9)
            assert outcome is not None
            assert outcome.adds + outcome.removes == 1000
            found.append((outcome, state_of(machine)))
        assert found[0] == found[1]

    def test_every_kind_is_folded_at_once(self) -> None:
        """A long run of any kind of rows, and of all of them, is not left to the scalar rule."""
        profile = Profile(release=Release(6, 12, 117), config_external_write_tracking=True)
        for kinds in (*((kind,) for kind in KINDS), KINDS):
            machine = machine_of(profile, 1)
            for event in (VmCreate(vm=0, ret=0), *slots_up_to(8), NotifierRegister(vm=0)):
                machine.step(event, 0)
            columns: dict[str, Any] = {name: Constant(None, 60) for name in COLUMNS}
            columns |= {"kind": [kinds[row % len(kinds)] for row in range(60)], "level": Constant(2, 60), "gfn": Constant(3, 60)}
            columns |= {name: Constant(0, 60) for name in ("vm", "as_id", "nested", "inferred")}
            outcome = fold_bulk(machine, Run(tasks=(), **columns), 9)
            assert outcome is not None, kinds

    def test_many_address_spaces(self) -> None:
        """Gfns of 40 bits in so many address spaces that rows can not be sorted by one number are left to the scalar rule."""
        machine = machine_of(Profile(release=Release(6, 12, 117), smm=True), 2)
        for vm in range(40):
            machine.step(VmCreate(vm=vm, ret=0), vm)
        columns: dict[str, Any] = {name: Constant(None, RUN_EVENTS_MAX) for name in COLUMNS}
        columns |= {
            "kind": Constant(GUEST_WRITE, RUN_EVENTS_MAX),
            "vm": [row % 40 for row in range(RUN_EVENTS_MAX)],
            "as_id": [row % 2 for row in range(RUN_EVENTS_MAX)],
            "gfn": Constant((1 << 40) - 1, RUN_EVENTS_MAX),
        }
        run = Run(tasks=(), **columns)
        assert fold_bulk(machine, run, 40) is None
        assert fold_bulk(machine, attrs.evolve(run, gfn=Constant(1, RUN_EVENTS_MAX)), 40) is not None

    @pytest.mark.parametrize("seed", range(2))
    def test_longer_than_a_recorded_run(self, seed: int) -> None:
        """A run that somebody made longer than readers make them is folded alike."""
        rng = random.Random(seed)
        world, profile = World(rng), profile_of(rng, seed)
        scalar, fast = machine_of(profile, seed), machine_of(profile, seed)
        for number, event in enumerate(world.start()):
            assert scalar.step(event, number).ret == fast.step(event, number).ret
        met: Counter[str] = Counter()
        for _ in range(4):
            _fold_both(scalar, fast, world.run(RUN_EVENTS_MAX + 3), 1000, met)
            assert state_of(scalar) == state_of(fast)
        assert met["folded at once"] > 0


class TestLoading:
    """When the bulk rule is loaded."""

    def test_loaded_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once it is asked for, a machine's first long run is folded by it, and by the scalar rule else."""
        machine = machine_of(Profile(release=Release(6, 12, 117)), 2)
        machine.step(VmCreate(vm=0, ret=0), 0)
        run = run_of([GuestWrite(vm=0, gfn=Gfn(1))] * fold.BULK_ROWS_LEAST)
        loaded: list[Any] = []
        monkeypatch.setattr(fold, "_BULK", loaded)
        monkeypatch.setattr(fold, "_COMPILED", [None])
        fold.fold(machine, run, 1)
        assert loaded == []
        fold.use_bulk()
        fold.use_bulk()
        assert loaded == [fold_bulk]
        asked: list[Run] = []

        def spy(machine: Machine, run: Run, first: int) -> RunOutcome | None:
            asked.append(run)
            return fold_bulk(machine, run, first)

        loaded[0] = spy
        fold.fold(machine, run, 1)
        fold.fold(machine, run_of([GuestWrite(vm=0, gfn=Gfn(1))] * (fold.BULK_ROWS_LEAST - 1)), 1)
        assert asked == [run]


class TestTallies:
    """What is counted of a run's columns before it is folded."""

    @pytest.mark.parametrize("vms", [(0,), (3,), (0, 31), (0, 7, 32), (200,), (1, 2, 3)])
    def test_kinds_and_vms_at_once(self, vms: tuple[int, ...]) -> None:
        """Kinds and VMs of a long run are those that its rows have, in order, whether they fit into one byte or not."""
        rng = random.Random(len(vms))
        for kinds in (KINDS, KINDS[:1], KINDS[2:4]):
            columns: dict[str, Any] = {name: Constant(None, 400) for name in COLUMNS}
            chosen = {"kind": rng.choices(kinds, k=400), "vm": rng.choices(vms, k=400)}
            run = Run(tasks=(), **columns | {name: memoryview(bytes(column)) for name, column in chosen.items()})
            plain = Run(tasks=(), **columns | chosen)
            assert list(run.kinds().items()) == list(plain.kinds().items()) == sorted(Counter(chosen["kind"]).items())
            assert run.vms() == plain.vms() == tuple(sorted(set(chosen["vm"])))
            pairs = Counter(zip(chosen["vm"], chosen["kind"], strict=True))
            known = {(vm, kind): count for vm, counts in run.by_vm().items() for kind, count in counts.items()}
            assert known == (dict(pairs) if max(chosen["vm"]) < 32 else {})
            assert plain.by_vm() == {}
