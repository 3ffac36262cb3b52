"""Promises of the sparse counters: a dict that forgets zeros, in leaves, shared until somebody writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.leaves import LEAF_PAGES, NODE_LEAVES, Table
from replay.units import U16_MAX

BASE = (1 << 18) - 700
"""First gfn of the range: its first leaf and its first node are cut."""
NPAGES = 1 << 19
PLACES = (0, 1, 187, 188, 189, 699, 700, 701, LEAF_PAGES, 1 << 18, (1 << 18) + 700, NPAGES - 1)

steps = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from((1, -1, 1, 7)), st.integers(0, 1)), max_size=60)


class TestCounters:
    """One range of counters."""

    @given(steps)
    def test_is_a_dict_without_zeros(self, moves: list[tuple[int, int, int]]) -> None:
        """Bumps within the limits count, others change nothing; walks are in order."""
        found, expected = Counters(Table(), BASE, NPAGES), dict[int, int]()
        for index, delta, _ in moves:
            value = expected.get(index, 0) + delta
            assert found.bump(index, delta, 9) is (0 <= value <= 9)
            if 0 <= value <= 9:
                expected[index] = value
        expected = {index: expected[index] for index in sorted(expected) if expected[index]}
        assert list(found.items()) == list(expected.items())
        assert (len(found), bool(found), list(found)) == (len(expected), bool(expected), list(expected))
        assert all(found.get(index, 0) == expected.get(index, 0) for index in PLACES)

    @given(steps)
    def test_sharers_part_at_the_first_write(self, moves: list[tuple[int, int, int]]) -> None:
        """Whoever writes alone gets a copy: each range is what its own writes made of it."""
        table = Table()
        first, second = Counters(table, BASE, NPAGES), Counters(table, BASE, NPAGES)
        first[3] = 5
        second.share(first)
        expected: tuple[dict[int, int], dict[int, int]] = ({3: 5}, {3: 5})
        assert first.equal(second)
        for index, delta, who in moves:
            if (first, second)[who].bump(index, delta, U16_MAX):
                expected[who][index] = expected[who].get(index, 0) + delta
        for counters, counts in zip((first, second), expected, strict=True):
            assert counters == {index: count for index, count in counts.items() if count}

    def test_writes_together(self) -> None:
        """While the engine says so, a sharer writes for all of them."""
        table = Table()
        first, second = Counters(table, 0, 16), Counters(table, 0, 16)
        second.share(first)
        table.together = True
        first[3] = 5
        table.together = False
        assert second == {3: 5}
        second[3] = 6
        assert first == {3: 5}

    def test_what_is_not_there(self) -> None:
        """A zero is no item: it can not be had by index nor deleted."""
        counters = Counters(Table(), 0, 16)
        with pytest.raises(KeyError):
            _ = counters[1]
        with pytest.raises(KeyError):
            del counters[1]
        counters[1] = 4
        assert (counters.pop(1), counters.pop(1, None)) == (4, None)
        assert not NO_COUNTERS

    def test_grows_on_demand(self) -> None:
        """A range that starts at gfn 0 takes any gfn, and forgets all of them at once."""
        counters = Counters(Table("I"))
        counters[5], counters[1 << 36] = 70000, 2
        assert counters == {5: 70000, 1 << 36: 2}
        counters.clear()
        assert counters == {}


class TestTable:
    """What many ranges cost."""

    def test_costs_what_is_touched(self) -> None:
        """A slot of 2^31 pages with three counters takes three leaves."""
        table = Table()
        counters = Counters(table, 0, 1 << 31)
        for index in (0, 1 << 20, (1 << 31) - 1):
            counters[index] = 1
        assert len(table.cells) <= 17 * LEAF_PAGES
        assert len(table.nodes) <= 4 * NODE_LEAVES
        assert len(table.roots) == 1 + (1 << 15)

    def test_leaves_come_back(self) -> None:
        """Leaves whose counters are zero again, or whose range is released, are used again."""
        table = Table()
        lasting = Counters(table, 0, 16)
        lasting[1] = 1
        for turn in range(200):
            counters = Counters(table, turn << 9, 1 << 14)
            for page in range(8):
                counters[page << 9] = 1
                if turn % 2:
                    del counters[page << 9]
            assert len(counters) == (0 if turn % 2 else 8)
            counters.release()
        assert len(table.cells) <= 33 * LEAF_PAGES
        assert lasting == {1: 1}
