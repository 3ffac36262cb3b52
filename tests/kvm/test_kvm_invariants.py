"""Each invariant holds where it should and is seen broken where it is."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from lane import EAGER_NEW, EAGER_OLD, LAZY, NAMES, SECOND, Lane, account, add, remove

from replay.kvm.idhash import IdHash
from replay.kvm.invariants import INVARIANTS, check_invariants
from replay.kvm.past import Ledger, remember
from replay.runs import run_of

Breakage = Callable[[Lane], object]


def sound(policy: str = LAZY) -> Lane:
    """Return a lane with slots, a node, a root and counts."""
    lane = Lane(policy)
    lane.set(1, flags=1)
    lane.set(2)
    lane.set(1, as_id=1)
    lane.register(1)
    lane.root()
    lane.hot(add(16), account(17), account(32))
    return lane


def _wt(lane: Lane, slot_id: int = 1) -> None:
    lane.slot(slot_id).arch.gfn_write_track = None
    lane.slot(slot_id).arch.drop_counters()


def put(lane: Lane, counts: dict[int, int]) -> None:
    """Give a slot counters that no array could hold."""
    arch: Any = lane.slot(1).arch
    arch.counts = dict(arch.counts) | counts


def _twin(lane: Lane) -> None:
    lane.slot(2).arch.rmap[0] = lane.slot(1).arch.rmap[0]


def _moved_back(lane: Lane) -> None:
    lane.vm.spaces[0].generation -= 2


def _other_array(lane: Lane) -> None:
    array = lane.slot(2).arch.gfn_write_track
    assert array is not None
    lane.slot(2).arch.gfn_write_track = array._replace(number=999)


def _odd_size(lane: Lane) -> None:
    lane.slot(2).arch.gfn_write_track = lane.slot(2).arch.rmap[0]


def _lost_order(lane: Lane) -> None:
    lane.vm.spaces[0]._orders[lane.vm.spaces[0]._active ^ 1].unlink(1)


def _overlap(lane: Lane) -> None:
    lane.slot(1).npages = 40
    lane.vm.nr_memslot_pages += 36


def _forget_array(lane: Lane) -> None:
    lane.slot(1).arch.gfn_write_track = None


def _unreachable(lane: Lane) -> None:
    found = lane.slot(1)
    lane.vm.spaces[0].by_id = lambda slot_id: None if slot_id == 1 else found  # type: ignore[method-assign]


def _set(**values: object) -> Breakage:
    def breakage(lane: Lane) -> None:
        for name, value in values.items():
            assert hasattr(lane.vm, name)
            setattr(lane.vm, name, value)

    return breakage


# What is broken by hand -> invariants that must say so.
BROKEN: dict[str, tuple[Breakage, set[str]]] = {
    "array missing while enabled": (_wt, {"I1", "I6", "I12", "I13"}),
    "counts without an array": (_forget_array, {"I1", "I6", "I7", "I8", "I12", "I13"}),
    "slot not found": (_unreachable, {"sets"}),
    "array of another size": (_odd_size, {"I1", "I6", "I7", "I12", "I13"}),
    "shadow flag fell": (_set(shadow_root_allocated=False), {"I4"}),
    "sticky flag fell": (_set(external_write_tracking_enabled=False), {"I4", "I5"}),
    "bugged flag fell": (_set(vm_bugged=False), {"I4"}),
    "node without a reference": (_set(nodes=[1, 2]), {"I5", "I11"}),
    "reference without a node": (_set(users_count=3), {"I5", "I11"}),
    "no reference left": (_set(users_count=0), {"I5", "I11"}),
    "fd closed without its reference": (_set(destroyed=True), {"I5", "I11"}),
    "one allocation at two places": (_twin, {"I6"}),
    "freed while in use": (lambda lane: lane.machine.allocator.freed.append(lane.slot(1).object), {"I6"}),
    "freed twice": (lambda lane: lane.machine.allocator.freed.extend([lane.slot(1).object] * 2), {"I6"}),
    "tally off": (lambda lane: lane.machine.allocator.tallies["rmap"].take(lane.slot(1).object.cost), {"I6"}),
    "counter too high": (lambda lane: put(lane, {0: 7}), {"I7"}),
    "counter lost": (lambda lane: lane.slot(1).arch.counts.pop(0), {"I7"}),
    "counter above 16 bits": (lambda lane: put(lane, {0: 65536}), {"I7", "I8"}),
    "counter below zero": (lambda lane: put(lane, {0: -1}), {"I7", "I8"}),
    "counter kept at zero": (lambda lane: put(lane, {3: 0}), {"I7", "I8"}),
    "counter outside": (lambda lane: put(lane, {4: 1}), {"I7", "I8"}),
    "generation of the other space": (lambda lane: setattr(lane.vm.spaces[0], "generation", 101), {"I9"}),
    "update in progress": (lambda lane: setattr(lane.vm.spaces[0], "generation", (1 << 63) + 100), {"I9"}),
    "generation fell": (_moved_back, {"I9"}),
    "pages off": (_set(nr_memslot_pages=11), {"I10"}),
    "array replaced in place": (_other_array, {"I7", "I12"}),
    "slot lost from one set": (_lost_order, {"sets"}),
    "slots overlap": (_overlap, {"sets", "I1", "I13"}),
}


class TestSound:
    """A state that events made is sound."""

    @pytest.mark.parametrize("policy", NAMES)
    def test_nothing_said(self, policy: str) -> None:
        """No invariant complains, with or without a past."""
        lane = sound(policy)
        assert check_invariants(lane.machine) == []
        assert check_invariants(lane.machine, remember(lane.machine), lane.ledger) == []

    def test_after_the_end(self) -> None:
        """Nor does one when all is gone."""
        lane = sound()
        lane.destroy()
        lane.unregister(1)
        assert lane.machine.vms == {}
        assert check_invariants(lane.machine, remember(lane.machine), lane.ledger) == []


class TestBroken:
    """A state that no sequence of events makes is seen."""

    @pytest.mark.parametrize("name", BROKEN)
    def test_seen(self, name: str) -> None:
        """Exactly the invariants that are broken say so."""
        breakage, expected = BROKEN[name]
        lane = sound()
        lane.vm.vm_bugged = True
        past = remember(lane.machine)
        breakage(lane)
        said = check_invariants(lane.machine, past, lane.ledger)
        assert {sentence.split(":")[0] for sentence in said} == expected

    def test_every_invariant_was_seen_broken(self) -> None:
        """No invariant is without a broken state."""
        seen = set().union(*(expected for _breakage, expected in BROKEN.values()))
        assert seen == {row.name for row in INVARIANTS}

    def test_rows_are_sourced(self) -> None:
        """Each has a name of its own, a sentence, and a place in the kernel."""
        assert len({row.name for row in INVARIANTS}) == len(INVARIANTS) == 12
        assert all(row.sentence and (".c " in row.source) for row in INVARIANTS)

    def test_place_is_named(self) -> None:
        """A complaint says which VM and slot."""
        lane = sound()
        _wt(lane)
        assert check_invariants(lane.machine)[0] == "I1: VM 0 slot 0:1 has no gfn_write_track though write tracking is enabled"


class TestOnDemandBytes:
    """On demand nothing is allocated before it is asked for."""

    def test_array_before_enable_is_seen(self) -> None:
        """An array that nothing asked for breaks I13, unless a failed registration has left it."""
        lane = Lane()
        lane.set(1)
        past = remember(lane.machine)
        vm = lane.vm
        lane.slot(1).arch.gfn_write_track = lane.machine.allocator.vcalloc("x", "gfn_write_track", 8, vm.number, (0, 1))
        assert [sentence.split(":")[0] for sentence in check_invariants(lane.machine, past)] == ["I13"]
        assert check_invariants(lane.machine, attrs.evolve(past, refused=True)) == []

    def test_a_failure_is_remembered(self) -> None:
        """That something failed once is kept for good."""
        lane = Lane()
        for slot_id in range(3):
            lane.set(slot_id)
        lane.fail("kvm_page_track_register_notifier", nth=2)
        lane.register()
        lane.set(5)
        assert lane.past.refused
        assert lane.tracked() == [0]

    @pytest.mark.parametrize(("policy", "tdp"), [(LAZY, True), (LAZY, False), (SECOND, True)])
    def test_node_without_a_flag_is_seen(self, policy: str, *, tdp: bool) -> None:
        """A node stands for the flag, also where tracking is enabled without it."""
        lane = Lane(policy, tdp=tdp)
        lane.register()
        assert check_invariants(lane.machine) == []
        lane.vm.external_write_tracking_enabled = False
        assert [sentence.split(":")[0] for sentence in check_invariants(lane.machine)] == ["I5"]

    def test_flag_that_v2_leaves_out(self) -> None:
        """v2 without tdp has no need of the flag, so that a node comes without it."""
        lane = Lane(SECOND, tdp=False)
        assert lane.register() == 0
        assert (lane.vm.external_write_tracking_enabled, check_invariants(lane.machine)) == (False, [])

    def test_flag_without_a_node_is_seen(self) -> None:
        """The sticky flag does not come by itself."""
        lane = Lane()
        past = remember(lane.machine)
        lane.vm.external_write_tracking_enabled = True
        assert [sentence.split(":")[0] for sentence in check_invariants(lane.machine, past)] == ["I5"]


class TestLedger:
    """The second count follows what was asked, not what the model did."""

    @pytest.mark.parametrize("policy", NAMES)
    def test_follows(self, policy: str) -> None:
        """Adds and removes of all users add up, by array; rows that warned do not count."""
        lane = sound(policy)
        lane.hot(remove(18), add(16), account(16, 1), account(99))
        array = lane.slot(1).arch.gfn_write_track
        assert array is not None
        assert lane.ledger.counts_of(array) == {0: 2, 1: 1} == lane.slot(1).arch.counts

    def test_a_model_that_forgets_is_seen(self) -> None:
        """A run that was noted but not applied does not add up."""
        lane = sound()
        lane.ledger.note_run(lane.machine, run_of([add(16)]), lane.hot())
        assert [sentence.split(":")[0] for sentence in check_invariants(lane.machine, None, lane.ledger)] == ["I7"]

    def test_slots_without_arrays_count_nothing(self) -> None:
        """Rows on a slot that has no array yet have no counter, in the model and in the second count."""
        lane = Lane(LAZY)
        lane.set(1)
        outcome = lane.hot()
        lane.ledger.note_run(lane.machine, run_of([add(16)]), outcome)
        assert lane.ledger._counts == {}

    def test_forgets_freed_arrays(self) -> None:
        """What belonged to a deleted slot is dropped."""
        lane = sound(EAGER_NEW)
        array = lane.slot(2).arch.gfn_write_track
        assert array is not None
        assert lane.ledger.counts_of(array) == {0: 1}
        lane.delete(2)
        assert lane.ledger.counts_of(array) == {}

    def test_flush_of_old_kernels(self) -> None:
        """What drivers dropped before a failed move is adopted."""
        lane = sound(EAGER_OLD)
        lane.fail("lpage_info")
        assert lane.set(1, flags=1, base=5000).ret == -12
        array = lane.slot(1).arch.gfn_write_track
        assert array is not None
        assert lane.ledger.counts_of(array) == {1: 1}

    def test_empty(self) -> None:
        """A new ledger knows no array, and IdHash none either."""
        lane = sound()
        array = lane.slot(1).arch.gfn_write_track
        assert array is not None
        assert Ledger().counts_of(array) == {}
        assert list(IdHash()) == []
