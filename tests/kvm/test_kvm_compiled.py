"""Promises of the compiled loop: whatever a run holds, it gives exactly what the scalar rule gives; and it never reads astray."""

import random
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from bulk_worlds import KINDS, SHORT, machine_of
from compiled_loop import loop
from test_kvm_bulk import EVENTS, LOWERED, USUAL, differences, slots_up_to
from test_kvm_lanes_together import check

from replay import runs
from replay.events import GuestWrite, HotEvent, NotifierRegister, ShadowPageAccount, VmCreate, WriteTrackAdd, WriteTrackRemove
from replay.kvm import bulk, bulk_pairs, compiled, fold, leaves, page_track, run_columns
from replay.kvm.compiled import fold_compiled
from replay.kvm.fold import fold_run
from replay.kvm.kernel_log import BUG, LPAGE, OVERFLOW
from replay.kvm.machine import Machine
from replay.kvm.policies import IDEAL, ON_DEMAND
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import state_of
from replay.runs import COLUMNS, GUEST_WRITE, Constant, Run, run_of
from replay.units import AsId, Gfn, Gpa

CHUNKS = 64
"""So many chunks of moves the loop has at hand at once."""


@pytest.fixture(autouse=True)
def _with_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LOOP", [loop()])
    monkeypatch.setattr(fold, "_COMPILED", [fold_compiled])


def tracked_machine(bits: int = 8) -> Machine:
    """Return a machine with one VM, three memslots and an external user."""
    machine = machine_of(Profile(release=Release(6, 12, 117), config_external_write_tracking=True), 1)
    for number, event in enumerate((VmCreate(vm=0, ret=0), *slots_up_to(bits), NotifierRegister(vm=0))):
        machine.step(event, number)
    return machine


class TestCompiledRule:
    """The compiled loop against the scalar rule."""

    @pytest.mark.parametrize("limit", [LOWERED, 65535])
    def test_equals_the_scalar_rule(self, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Outcomes, their order, logs and the whole state are equal over random worlds, with everything unusual in them."""
        for module in (bulk, bulk_pairs, compiled, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", limit)
        met: Counter[str] = Counter()
        done, seed = 0, 0
        while done < EVENTS // 3:
            done += differences(seed, 1000, met, fold_compiled)
            seed += 1
        assert EVENTS < USUAL or met["folded at once"] > met["left to the scalar rule"]
        wanted = {"WARN: write-track count below 0", "no memslot for the gfn", "KVM_BUG_ON: write tracking is not enabled"}
        wanted |= {"WARN: write tracking is not enabled", "tracked writes", "ret 1", "ret -22", LPAGE}
        wanted |= {"WARN: write-track count above 65535"} if limit == LOWERED else set()
        assert EVENTS < USUAL or not {what for what in (*wanted, "left to the scalar rule") if not met[what]}

    def test_equals_it_where_leaves_are_taken_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same in tables that are swept whenever leaves are short, also in the middle of a run."""
        sweeps, sweep = Counter[str](), leaves.Table._sweep

        def counted(table: leaves.Table) -> None:
            sweeps["done"] += 1
            sweep(table)

        for name in ("_LEAVES_LEAST", "_LEAVES_MOST", "_NODES_MOST"):
            monkeypatch.setattr(compiled, name, 1)
        monkeypatch.setattr(leaves, "_UNSWEPT_MOST", 0)
        monkeypatch.setattr(leaves.Table, "_sweep", counted)
        met: Counter[str] = Counter()
        for seed in range(24):
            differences(seed, 1000, met, fold_compiled)
        assert sweeps["done"] > 40
        assert met["folded at once"] > met["left to the scalar rule"]

    @pytest.mark.parametrize("seed", range(16))
    def test_slots_change_between_runs(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same where runs are short, so that slots, arrays and flags change often between them."""
        for module in (bulk, bulk_pairs, compiled, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", LOWERED)
        met: Counter[str] = Counter()
        differences(seed, 1500, met, fold_compiled, lengths=SHORT)
        assert met["folded at once"] + met["left to the scalar rule"] >= 1500

    @pytest.mark.parametrize("most", [0, 1, 1 << 20])
    def test_rows_that_are_left(self, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many rows Python takes one by one before it takes all the rest, the outcome is the same."""
        monkeypatch.setattr(compiled, "_PYTHON_ROWS_MOST", most)
        met: Counter[str] = Counter()
        for seed in range(30):
            differences(seed, 500, met, fold_compiled)
        assert met["folded at once"] > 1000

    @pytest.mark.parametrize("bits", range(10, 34))
    def test_gfns_of_every_width(self, bits: int) -> None:
        """Columns of any width are read, as bytes, lists and constants."""
        rng = random.Random(bits)
        gfns = [rng.choice((0, 1 << bits - 1, (1 << bits) - 2)) + rng.randrange(2) for _ in range(999)] + [(1 << bits) - 1]
        made = run_of([(WriteTrackAdd if rng.random() < 0.8 else WriteTrackRemove)(vm=0, gfn=Gfn(gfn)) for gfn in gfns])
        item = next(code for code in "BHIQ" if array(code).itemsize * 8 >= bits)
        found = []
        for rule, gfn in (
            (fold_run, made.gfn),
            (fold_compiled, made.gfn),
            (fold_compiled, memoryview(array(item, made.gfn))),
            (fold_compiled, memoryview(array("Q", made.gfn))),
        ):
            machine = tracked_machine(bits)
            outcome = rule(machine, attrs.evolve(made, as_id=Constant(0, 1000), gfn=gfn), 9)
            assert outcome is not None
            assert outcome.adds + outcome.removes == 1000
            found.append((outcome, state_of(machine)))
        assert found[0] == found[1] == found[2] == found[3]

    def test_every_kind_is_taken(self) -> None:
        """A run of any kind of rows, and of all of them, is not left to another rule, nor row by row to Python."""
        for kinds in (*((kind,) for kind in KINDS), KINDS):
            machine = tracked_machine()
            columns: dict[str, Any] = {name: Constant(None, 60) for name in COLUMNS}
            columns |= {"kind": [kinds[row % len(kinds)] for row in range(60)], "level": Constant(2, 60), "gfn": Constant(3, 60)}
            columns |= {name: Constant(0, 60) for name in ("vm", "as_id", "nested", "inferred")}
            assert fold_compiled(machine, Run(tasks=(), **columns), 9) is not None, kinds

    def test_what_it_leaves_to_other_rules(self) -> None:
        """Runs of VMs that are not there or have large numbers, of more memslots than rows, and of arrays made by adds."""
        row = ShadowPageAccount(vm=0, gfn=Gfn(1), level=2)
        machine = tracked_machine()
        assert fold_compiled(machine, run_of([attrs.evolve(row, vm=1)]), 9) is None
        assert fold_compiled(machine, run_of([row]), 9) is not None
        machine.step(VmCreate(vm=255, ret=0), 10)
        assert fold_compiled(machine, run_of([attrs.evolve(row, vm=255)]), 11) is None
        assert fold_compiled(machine, run_of([row, attrs.evolve(row, vm=255)]), 11) is None
        machine = tracked_machine()
        for number, event in enumerate(slots_up_to(20), 5):
            machine.step(
                attrs.evolve(event, slot=event.slot + 10, guest_phys_addr=Gpa(event.guest_phys_addr + (1 << 33))), number
            )
        assert fold_compiled(machine, run_of([row]), 9) is None
        assert fold_compiled(machine, run_of([row] * 2), 9) is not None
        ideal = Machine(IDEAL, Profile(release=Release(6, 12, 117)))
        ideal.step(VmCreate(vm=0, ret=0), 0)
        assert fold_compiled(ideal, run_of([row]), 1) is None

    def test_lanes_together(self) -> None:
        """Lanes that are folded together by it are what each would be alone by the scalar rule, wherever they part."""
        met: Counter[str] = Counter()
        done = seed = 0
        while done < EVENTS // 6:
            done += check(seed, met)
            seed += 1
        assert met["together"] >= min(10, EVENTS // 30_000)
        assert met["parted"] >= min(5, EVENTS // 60_000)


class TestSeldom:
    """What random worlds meet too seldom to be told by them, row for row as the scalar rule has it."""

    def same(self, machines: Callable[[], Machine], rows: Sequence[HotEvent]) -> tuple[RunOutcome, Machine]:
        """Fold rows by both rules, assert that all is equal, and return it."""
        found = []
        for rule in (fold_run, fold_compiled):
            machine = machines()
            outcome = rule(machine, run_of(rows), 50)
            assert outcome is not None
            found.append((outcome, machine))
        assert found[0][0] == found[1][0]
        assert state_of(found[0][1]) == state_of(found[1][1])
        assert found[0][1].log.counts == found[1][1].log.counts
        return found[1]

    def test_a_pair_at_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An add that is refused at the limit warns, also where the next row takes it back: the counter is one lower then."""
        for module in (bulk, bulk_pairs, compiled, fold, page_track):
            monkeypatch.setattr(module, "U16_MAX", LOWERED)
        up, down = WriteTrackAdd(vm=0, gfn=Gfn(1)), WriteTrackRemove(vm=0, gfn=Gfn(1))
        outcome, machine = self.same(tracked_machine, [up, up, up, up, down])
        assert outcome.log == [(3, OVERFLOW)]
        assert dict(next(iter(machine.vms[0].slots())).arch.counts) == {1: LOWERED - 1}

    @pytest.mark.parametrize("row", [WriteTrackAdd(vm=0, gfn=Gfn(1)), ShadowPageAccount(vm=0, gfn=Gfn(1), level=2)])
    def test_bugged_by_one_kind(self, row: HotEvent) -> None:
        """Each kind of change bugs a VM whose write tracking is not enabled, by itself."""

        def machine() -> Machine:
            made = Machine(ON_DEMAND, Profile(release=Release(6, 12, 117), config_external_write_tracking=True))
            for number, event in enumerate((VmCreate(vm=0, ret=0), *slots_up_to(8))):
                made.step(event, number)
            return made

        outcome, after = self.same(machine, [row])
        assert outcome.log == [(0, BUG)]
        assert after.vms[0].vm_bugged

    def test_a_read_of_both_spaces(self) -> None:
        """A gfn that counts in the other address space only is tracked, also where its own counter was there once."""

        def machine() -> Machine:
            made = Machine(ON_DEMAND, Profile(release=Release(6, 12, 117), config_external_write_tracking=True, smm=True))
            slots = slots_up_to(8)
            both = [attrs.evolve(slot, slot=slot.slot | as_id << 16) for as_id in (0, 1) for slot in slots]
            for number, event in enumerate((VmCreate(vm=0, ret=0), *both, NotifierRegister(vm=0))):
                made.step(event, number)
            return made

        near = [ShadowPageAccount(vm=0, as_id=AsId(as_id), gfn=Gfn(1 + as_id), level=2) for as_id in (0, 1)]
        reads = [GuestWrite(vm=0, as_id=AsId(as_id), gfn=Gfn(gfn)) for as_id in (0, 1) for gfn in (1, 2, 3)]
        outcome, _after = self.same(machine, [*near, *reads])
        assert outcome.tracked_writes == [2, 3, 5, 6]

    def test_many_level_one_pages(self) -> None:
        """Shadow pages of level 1 all over a large memslot move disallow_lpage where they lie."""

        def machine() -> Machine:
            made = machine_of(Profile(release=Release(6, 12, 117)), 2)
            large = attrs.evolve(slots_up_to(8)[0], memory_size=1 << 41)
            for number, event in enumerate((VmCreate(vm=0, ret=0), large)):
                made.step(event, number)
            return made

        rng = random.Random(1)
        rows = [ShadowPageAccount(vm=0, gfn=Gfn(rng.randrange(1 << 29)), level=1) for _ in range(400)]
        _outcome, after = self.same(machine, [*rows, *rows[:200]])
        moves = next(iter(after.vms[0].slots())).arch.lpage_moves
        assert len(moves.chunks) > CHUNKS
        assert sum(count for _region, count in moves.items()) == 600


class TestTallies:
    """What the loop's module counts of a run's columns."""

    @pytest.mark.parametrize("vms", [(0,), (3,), (0, 31), (0, 7, 32), (200, 255), (1, 2, 3)])
    def test_kinds_by_vm(self, vms: tuple[int, ...]) -> None:
        """Kinds and VMs are those that the rows have, in order."""
        rng = random.Random(len(vms))
        for kinds in (KINDS, KINDS[:1], KINDS[2:4]):
            of, kind = bytes(rng.choices(vms, k=401)), bytes(rng.choices(kinds, k=401))
            for length in (401, 300, 256, 255, 2, 1):
                assert list(loop().tally(memoryview(kind)[:length]).items()) == sorted(Counter(kind[:length]).items())
            found = loop().by_vm(memoryview(of), memoryview(kind))
            assert list(found) == sorted(set(of))
            assert all(list(counts) == sorted(counts) for counts in found.values())
            pairs = {(vm, one): count for vm, counts in found.items() for one, count in counts.items()}
            assert pairs == dict(Counter(zip(of, kind, strict=True)))

    def test_used_where_it_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Once its module is there runs are tallied by it, and rows that differ grouped; without it nothing changes."""
        ways: list[list[Any]] = [[], [], []]
        for place, (module, name) in enumerate(((runs, "_OF_LONG"), (runs, "_BY_VM"), (run_columns, "_APART"))):
            monkeypatch.setattr(module, name, ways[place])
        compiled.use_ways(None)
        assert ways == [[], [], []]
        compiled.use_ways(loop())
        assert ways == [[loop().tally], [loop().by_vm], [loop().apart]]

    def test_what_is_no_kind(self) -> None:
        """Columns with other numbers, or of two lengths, are not counted by VM."""
        assert loop().by_vm(bytes(3), bytes([64, 72, 64])) == {}
        assert loop().by_vm(bytes(3), bytes([64, 65])) == {}
        assert loop().by_vm(b"", b"") == {}
        assert loop().tally(b"") == {}


class TestArguments:
    """What the loop says to arguments that fold_compiled() would never hand over."""

    def arguments(self, rows: int = 4) -> list[Any]:
        """Return arguments that are right: guest writes to one VM without memslots."""
        table, held = leaves.Table(), leaves.Table("I")
        return [
            (GUEST_WRITE, 0, 0, memoryview(bytes(rows)), 0),
            0,
            rows,
            ((b"", 0, ()), (b"", 0, ())),
            b"\0" + b"\xff" * 255,
            array("q", [0, 1, 0, 0, 0]),
            table.arrays(),
            held.arrays(),
            None,
            65535,
            bytearray(rows),
            bytearray(rows),
            bytes(4),
        ]

    def test_right_ones(self) -> None:
        """The ones that the others are made from are folded."""
        assert loop().fold(*self.arguments())[:2] == (4, compiled.LEFT_NOTHING)

    @pytest.mark.parametrize(
        ("place", "wrong"),
        [
            (0, (GUEST_WRITE, 0, 0, memoryview(bytes(5)), 0)),
            (0, (GUEST_WRITE, 0, 0, memoryview(bytes(12)), 0)),
            (0, (GUEST_WRITE, 0, 0, memoryview(b""), 0)),
            (1, -1),
            (1, 5),
            (2, -1),
            (2, 1 << 31),
            (3, ((b"", 0, ()),)),
            (3, ((bytes(32), 0, ()), (b"", 0, ()))),
            (4, bytes(255)),
            (5, array("q", [0, 1, 0, 0])),
            (6, leaves.Table("I").arrays()),
            (6, leaves.Table().arrays()[:5]),
            (7, leaves.Table().arrays()),
            (8, array("I", [0])),
            (9, 65536),
            (9, -1),
            (10, bytearray(3)),
            (11, bytearray(5)),
            (11, bytes(4)),
            (12, bytes(3)),
        ],
    )
    def test_wrong_ones(self, place: int, wrong: Any) -> None:
        """Lengths and items that do not fit are refused before any row is read."""
        arguments = self.arguments()
        arguments[place] = wrong
        with pytest.raises((ValueError, TypeError, BufferError)):
            loop().fold(*arguments)

    @pytest.mark.parametrize("number", [-(1 << 40), -1, 1, 7, 1 << 20, 1 << 40])
    def test_names_that_lead_nowhere(self, number: int) -> None:
        """A memslot's bias, or names of nodes and leaves, that lead out of the arrays leave the row to Python, which asserts."""
        for kind in KINDS:
            arguments = self.arguments()
            arguments[0] = (kind, 0, 0, memoryview(bytes(4)), 2)
            piece = (array("q", [0, 8, number, compiled.LIVE]).tobytes(), compiled.TRACKS, (None,))
            arguments[3] = (piece, piece)
            assert loop().fold(*arguments)[:2] == (0, compiled.LEFT_PYTHON), kind

    @pytest.mark.parametrize("array_number", range(1, 6))
    @pytest.mark.parametrize("number", [-1, 1 << 30])
    def test_arrays_with_wrong_names(self, array_number: int, number: int) -> None:
        """Names in the arrays themselves are held against their lengths too."""
        for kind in KINDS:
            arguments, table = self.arguments(), leaves.Table()
            table.take_roots(1)
            table.make_room(1)
            table.make_nodes(1)
            arrays = table.arrays()
            arrays[array_number][:] = array("i", [number] * len(arrays[array_number]))
            arguments[6] = arrays
            arguments[0] = (kind, 0, 0, memoryview(bytes(4)), 2)
            piece = (array("q", [0, 8, 1, compiled.LIVE]).tobytes(), 0, (None,))
            arguments[3] = (piece, piece)
            row, left, *_rest = loop().fold(*arguments)
            assert (row, left) in {(0, compiled.LEFT_PYTHON), (4, 0), (0, compiled.LEFT_LEAVES)}, kind
