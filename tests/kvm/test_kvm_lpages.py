"""Promises of disallow_lpage: what real kernels showed, and that it follows from counters and moves."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane import EAGER_NEW, EAGER_OLD, IDEAL, LAZY, Lane, P, account, add, remove, unaccount

from replay.engine.lanes import make_lanes
from replay.engine.lockstep import Step, lockstep
from replay.kvm.counters import Counters
from replay.kvm.kernel_log import BUG, DISABLED, LPAGE, UNDERFLOW
from replay.kvm.leaves import Table
from replay.kvm.lpage_moves import REGION_SHIFT, LpageMoves
from replay.kvm.lpages import GIB_SHIFT, SHIFTS, disallow_lpage, disallowed_lpages, moved_lpages, own_moves
from replay.kvm.memslot import Arch, Memslot
from replay.recording import open_recording
from replay.units import Hva

SEEN = Path(__file__).parents[1] / "data" / "lpage"
"""Recordings of Debian's 6.1.192 and 6.12.117 under emulated SVM, and the arrays that a test module read from lpage_info."""
STATES: dict[str, list[tuple[int, list[tuple[int, int, dict[str, int], dict[str, int]]]]]] = json.loads(
    (SEEN / "seen.json").read_text()
)
MIB, GIB = REGION_SHIFT, GIB_SHIFT


def disallowed(slot: Memslot, shift: int) -> dict[int, int]:
    """Return all counts of a slot that are not 0."""
    regions = range(slot.base_gfn >> shift, (slot.end_gfn - 1 >> shift) + 1)
    counts = {region: disallow_lpage(slot, shift, region) for region in regions}
    return {region: count for region, count in counts.items() if count}


class TestKernels:
    """What real kernels showed."""

    @pytest.mark.parametrize("name", STATES)
    def test_seen(self, name: str) -> None:
        """After each look at the kernel's arrays the model has the same counts in each region of each slot."""
        expected, held = dict(STATES[name]), 0
        with open_recording(str(SEEN / f"{name}.kvmr")) as stream:
            lanes = make_lanes([stream.header.machine.kernel_release or ""], stream.header.machine)
            for step in lockstep(stream.items(), lanes):
                number = step.number if isinstance(step, Step) else -1
                for as_id, slot_id, *counts in expected.pop(number, ()):
                    slot = lanes[0].machine.live_vms()[0].spaces[as_id].by_id(slot_id)
                    assert slot is not None
                    for shift, seen in zip(SHIFTS, counts, strict=True):
                        assert disallowed(slot, shift) == {int(region): count for region, count in seen.items()}, number
                        held += 1
        assert not expected
        assert held >= 2
        assert lanes[0].factual

    def test_enough_was_seen(self) -> None:
        """Counts below zero, behind a counter's limit, and of guests with shadow pages were among them."""
        counts = [
            number for states in STATES.values() for _event, slots in states for slot in slots for number in slot[2].values()
        ]
        assert min(counts) == -2
        assert max(counts) == 65537
        assert len(counts) > 150


class TestFirst:
    """What a new slot has."""

    @pytest.mark.parametrize(
        ("base", "npages", "hva_gfn", "mib", "gib"),
        [
            (0, 1 << 18, 0, {}, {}),
            (0, 512, 1 << 18, {}, {0: 1}),
            (1, 512, 1, {0: 1, 1: 1}, {0: 1}),
            (0, 513, 0, {1: 1}, {0: 1}),
            (511, 1025, 511, {0: 1}, {0: 1}),
            (0, 1024, 1, {0: 1, 1: 1}, {0: 1}),
            (0, 1 << 19, 512, {}, {0: 1, 1: 1}),
            (1024, 1024, 1, {2: 1, 3: 1}, {0: 1}),
            ((1 << 18) - 512, 1024, (1 << 20) - 512, {}, {0: 1, 1: 1}),
        ],
    )
    def test_alignment(self, base: int, npages: int, hva_gfn: int, mib: dict[int, int], gib: dict[int, int]) -> None:
        """1 where the slot begins or ends inside a region, and everywhere when hva and gfn are not aligned alike."""
        lane = Lane(EAGER_NEW)
        assert lane.set(1, npages, base, userspace_addr=Hva(hva_gfn * P)).ret == 0
        assert (disallowed(lane.slot(1), MIB), disallowed(lane.slot(1), GIB)) == (mib, gib)
        assert (disallowed_lpages(lane.slot(1), MIB), disallowed_lpages(lane.slot(1), GIB)) == (len(mib), len(gib))

    def test_lifetime(self) -> None:
        """Kept by a change of flags; a move and a new slot begin anew."""
        lane = Lane(EAGER_NEW)
        lane.set(1, 512, 0, userspace_addr=Hva(0))
        lane.hot(add(5), account(7, level=1))
        lane.set(1, 512, 0, userspace_addr=Hva(0), flags=1)
        assert disallowed(lane.slot(1), MIB) == {0: 2}
        lane.set(1, 512, 512, userspace_addr=Hva(0), flags=1)
        assert disallowed(lane.slot(1), MIB) == {}
        lane.hot(account(513, level=1))
        lane.delete(1)
        lane.set(1, 512, 512, userspace_addr=Hva(0))
        assert disallowed(lane.slot(1), MIB) == {}


class TestMoves:
    """What moves the counts."""

    def lane(self, policy: str, **facts: bool) -> Lane:
        """Return a lane with a slot of 4 MiB, aligned."""
        lane = Lane(policy, **facts)
        lane.set(1, 1024, 0, userspace_addr=Hva(0))
        return lane

    @pytest.mark.parametrize("policy", [EAGER_OLD, EAGER_NEW, LAZY, IDEAL])
    def test_level_one(self, policy: str) -> None:
        """A shadow page of level 1 moves both sizes, no counter, and asks not whether tracking is enabled."""
        lane = self.lane(policy)
        assert lane.hot(account(600, level=1), account(600, level=1), unaccount(601, level=1)).log == []
        assert (disallowed(lane.slot(1), MIB), disallowed(lane.slot(1), GIB)) == ({1: 1}, {0: 2})
        assert not lane.slot(1).arch.counts

    @pytest.mark.parametrize(
        ("policy", "reason", "config"), [(LAZY, BUG, True), (EAGER_OLD, DISABLED, False), (EAGER_NEW, BUG, False)]
    )
    def test_not_enabled(self, policy: str, reason: str, *, config: bool) -> None:
        """An add that the kernel refuses moves nothing."""
        lane = self.lane(policy, config_external_write_tracking=config)
        assert lane.hot(account(5)).log == [(0, reason)]
        assert disallowed(lane.slot(1), MIB) == {}

    @pytest.mark.parametrize("policy", [EAGER_OLD, EAGER_NEW, LAZY])
    def test_said_once(self, policy: str) -> None:
        """The first count below zero of a VM is warned of, behind the counter's own warning; no other one is."""
        lane = self.lane(policy)
        lane.register()
        rows = (account(3, level=1), remove(3), remove(3), remove(3), remove(600), add(3), unaccount(3, level=1))
        log = lane.hot(*rows).log
        assert log == [(1, UNDERFLOW), (2, UNDERFLOW), (2, LPAGE), (3, UNDERFLOW), (4, UNDERFLOW)]
        assert disallowed(lane.slot(1), MIB) == {0: -2, 1: -1}

    def test_first_value_hides(self) -> None:
        """A count that began at 1 is below zero one remove later: here that of 1 GiB."""
        lane = Lane(LAZY)
        lane.set(1, 1024, 1, userspace_addr=Hva(P))
        lane.register()
        assert lane.hot(remove(2), remove(2)).log == [(0, UNDERFLOW), (1, UNDERFLOW), (1, LPAGE)]

    def test_array_that_comes_later(self) -> None:
        """What moved before the slot had its counters stays."""
        lane = self.lane(LAZY)
        lane.hot(account(3, level=1))
        lane.register()
        lane.hot(add(4))
        assert disallowed(lane.slot(1), MIB) == {0: 2}
        assert moved_lpages(lane.slot(1), MIB) == {0: 2}

    @pytest.mark.parametrize("hva_gfn", [0, 1])
    def test_how_many_are_disallowed(self, hva_gfn: int) -> None:
        """Regions whose count is not 0 are counted, below zero too; one that came back to its first value is as it was."""
        lane = Lane(EAGER_NEW)
        lane.set(1, 4 << MIB, 0, userspace_addr=Hva(hva_gfn * P))
        lane.hot(add(3), unaccount(4, level=1), account(600, level=1), unaccount(1500, level=1), unaccount(1500, level=1))
        slot = lane.slot(1)
        assert moved_lpages(slot, MIB) == {1: 1, 2: -2}
        assert disallowed(slot, MIB) == ({0: 1, 1: 2, 2: -1, 3: 1} if hva_gfn else {1: 1, 2: -2})
        assert disallowed_lpages(slot, MIB) == len(disallowed(slot, MIB))
        lane.hot(unaccount(2000, level=1))
        assert disallowed_lpages(slot, MIB) == len(disallowed(slot, MIB)) == 3

    def test_flush(self) -> None:
        """A driver that drops what it tracks before a move can fail allows large pages again: 6.1."""
        lane = self.lane(EAGER_OLD)
        lane.register()
        lane.hot(add(3), add(3), account(4, level=1))
        lane.fail("kvm_arch_prepare_memory_region")
        assert lane.set(1, 1024, 512, userspace_addr=Hva(0)).ret == -12
        assert disallowed(lane.slot(1), MIB) == {0: 1}


PLACES = (0, 5, 511, 512, 4095, 4096, 70000)
steps = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from((1, -1, 2)), st.integers(0, 1)), max_size=40)


class TestLpageMoves:
    """The moves of one slot."""

    @given(steps)
    def test_is_a_sum(self, moves: list[tuple[int, int, int]]) -> None:
        """Moves add up without limits; what fell below zero is remembered, also when it came back."""
        found, expected, fell = LpageMoves(), Counter[int](), set[int]()
        for region, delta, _ in moves:
            found.bump(region, delta)
            expected[region] += delta
            fell |= {region} if expected[region] < 0 else set()
        assert dict(found.items()) == {region: expected[region] for region in sorted(expected) if expected[region]}
        assert all(found.at(region) == expected[region] for region in PLACES)
        assert [found.gib(number) for number in range(140)] == [
            sum(count for region, count in expected.items() if region >> 9 == number) for number in range(140)
        ]
        assert found.fallen == fell
        again = LpageMoves()
        again.set(found.items(), digesting=False)
        assert again.equal(found)
        assert again.fallen <= found.fallen

    @given(steps)
    def test_steps_of_one(self, moves: list[tuple[int, int, int]]) -> None:
        """A step is taken unless it leads below zero in a VM that was not warned of."""
        found, expected = LpageMoves(), Counter[int]()
        for region, delta, warned in moves:
            step = 1 if delta > 0 else -1
            done = found.take(region, step, warned=bool(warned))
            assert done is (bool(warned) or expected[region] + step >= 0)
            expected[region] += step if done else 0
        assert dict(found.items()) == {region: expected[region] for region in sorted(expected) if expected[region]}

    @given(steps)
    def test_sharers_part_at_the_first_write(self, moves: list[tuple[int, int, int]]) -> None:
        """Whoever writes alone gets a copy; equal moves are equal whatever was touched."""
        table, shared = Table(), LpageMoves()
        shared.bump(5, 3)
        shared.owners = 2
        archs = Arch(lpage_moves=shared), Arch(lpage_moves=shared)
        expected = Counter({5: 3}), Counter({5: 3})
        for region, delta, who in moves:
            own_moves(archs[who], table).bump(region, delta)
            expected[who][region] += delta
        for arch, counts in zip(archs, expected, strict=True):
            assert dict(arch.lpage_moves.items()) == {region: counts[region] for region in sorted(counts) if counts[region]}
        same = {r: c for r, c in expected[0].items() if c} == {r: c for r, c in expected[1].items() if c}
        assert archs[0].lpage_moves.equal(archs[1].lpage_moves) is same

    def test_writes_together(self) -> None:
        """While the engine says so, a sharer writes for all of them."""
        table, shared = Table(), LpageMoves()
        shared.owners, table.together = 2, True
        assert own_moves(Arch(lpage_moves=shared), table) is shared


class TestTotal:
    """Sums of counters."""

    @given(st.lists(st.tuples(st.sampled_from((0, 300, 511, 512, 1023, 66000)), st.integers(1, 9)), max_size=9))
    def test_of_regions(self, adds: list[tuple[int, int]]) -> None:
        """The sum of the counters of a region is that of its pages in the range."""
        counters, expected = Counters(Table(), 300, 1 << 17), Counter[int]()
        for index, count in dict(adds).items():
            counters[index] = count
            expected[300 + index >> REGION_SHIFT] += count
        for region in range(257):
            assert counters.total(region << REGION_SHIFT, region + 1 << REGION_SHIFT) == expected[region]
