"""Promises of the sparse counters: a dict that forgets zeros, in leaves, shared until somebody writes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.kvm import leaves
from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.leaves import LEAF_PAGES, NODE_LEAVES, NODE_SHIFT, Table
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

    def test_equal_whatever_was_touched(self) -> None:
        """Ranges are equal that count the same, also where one of them was counted down to zero."""
        table = Table()
        one, other = Counters(table, BASE, NPAGES), Counters(table, BASE, NPAGES)
        one[188] = other[188] = 2
        assert one.equal(other)
        other[5 * LEAF_PAGES] = 1
        assert not one.equal(other)
        del other[5 * LEAF_PAGES]
        assert len(other.leaves()) > len(one.leaves())
        assert one.equal(other)

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

    @pytest.mark.parametrize("typecode", ["H", "I"])
    @pytest.mark.parametrize("swept_by_numpy", [0, 2048])
    def test_leaves_come_back(self, swept_by_numpy: int, typecode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leaves whose counters are zero again, or whose range is released, are used again, in small and in large tables."""
        monkeypatch.setattr(leaves, "_SWEPT_BY_NUMPY", swept_by_numpy)
        monkeypatch.setattr(leaves, "_UNSWEPT_MOST", 0)
        table = Table(typecode)
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
        assert len(table.nodes) <= 4 * NODE_LEAVES
        assert lasting == {1: 1}

    @pytest.mark.parametrize("swept_by_numpy", [0, 2048])
    def test_a_sweep_leaves_what_is_counted(self, swept_by_numpy: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of leaves side by side, those with one count in any cell stay, those without are empty and count again."""
        monkeypatch.setattr(leaves, "_SWEPT_BY_NUMPY", swept_by_numpy)
        monkeypatch.setattr(leaves, "_UNSWEPT_MOST", 0)
        table = Table()
        counters = Counters(table, 0, 1 << 20)
        expected = {}
        for page in range(40):
            counters[page * LEAF_PAGES + page] = 1
            if page % 3:
                expected[page * LEAF_PAGES + page] = 1
            else:
                del counters[page * LEAF_PAGES + page]
        table.make_room(1000)
        assert counters == expected
        cells = len(table.cells)
        for page in range(0, 40, 3):
            assert counters.bump(page * LEAF_PAGES, 1, 9)
            expected[page * LEAF_PAGES] = 1
        assert (dict(counters), len(table.cells)) == (dict(sorted(expected.items())), cells)

    def test_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A table that can name no more leaves says so; what was counted is still there, and nothing else."""
        monkeypatch.setattr(leaves, "_LEAVES_MOST", 20)
        counters = Counters(Table(), 0, 1 << 20)
        for page in range(16):
            counters[page * LEAF_PAGES] = 1
        with pytest.raises(MemoryError, match=r"counters of more than 2\^31 pages"):
            counters.update({page * LEAF_PAGES: 1 for page in range(16, 21)})
        assert counters == {page * LEAF_PAGES: 1 for page in range(16)}

    def test_a_page_at_once(self) -> None:
        """What a leaf holds is put alike: into a range with nothing there, or over other counts; the digest follows."""
        table = Table()
        table.digesting = True
        one, other = Counters(table, BASE, NPAGES), Counters(table, BASE, NPAGES)
        one[188], one[189], one[700 + LEAF_PAGES] = 3, 4, 5
        other[188], other[190] = 1, 7
        for page, cell in one.leaves():
            other.put_page(page, table.leaf(cell))
        assert other == one == {188: 3, 189: 4, 700 + LEAF_PAGES: 5}
        assert other.roots.digest == one.roots.digest != 0

    def test_leaves(self) -> None:
        """Each leaf is named by its gfns, in order, with the place of its first cell."""
        table = Table()
        counters = Counters(table, BASE, NPAGES)
        counters[5 * LEAF_PAGES], counters[188] = 1, 3
        found = {
            page << 7 | place: count for page, cell in counters.leaves() for place, count in enumerate(table.leaf(cell)) if count
        }
        assert list(found.items()) == [(BASE + 188, 3), (BASE + 5 * LEAF_PAGES, 1)]

    def test_more_room_for_one_sharer(self) -> None:
        """A sharer that makes room for gfns beyond the range does so for itself."""
        table = Table()
        first, second = Counters(table, 0, 512), Counters(table, 0, 512)
        first[5] = 3
        second.share(first)
        before = first.roots.length
        second.cover(1 << 30)
        assert (first.roots.length, first.roots.owners) == (before, 1)
        second[1 << 30] = 1
        assert (dict(first.items()), dict(second.items())) == ({5: 3}, {5: 3, 1 << 30: 1})

    def test_shared_twice(self) -> None:
        """Sharing with whom one shares already adds no owner: the last of two to be released frees the leaves."""
        table = Table()
        first, second = Counters(table, 0, 16), Counters(table, 0, 16)
        first[3] = 5
        for _ in range(3):
            second.share(first)
        assert first.roots.owners == 2
        first.release()
        assert second == {3: 5}
        assert not second.own()

    @given(st.lists(st.integers(0, 3 << 16), max_size=12), st.integers(0, 3 << 16), st.integers(0, 3 << 16))
    def test_between(self, indexes: list[int], first: int, end: int) -> None:
        """A stretch of a range holds what is counted in it, in order, wherever it begins and ends."""
        counters = Counters(Table(), BASE, (3 << 16) + 1)
        for index in indexes:
            counters[index] = 1
        assert list(counters.between(first, end)) == sorted({index for index in indexes if first <= index < end})
        counters.drop(first, end)
        assert list(counters) == sorted({index for index in indexes if not first <= index < end})


class TestManyRanges:
    """Ranges of one table that come, share, are written and go do not see one another."""

    @pytest.mark.parametrize("swept_by_numpy", [0, 2048])
    @pytest.mark.parametrize("seed", range(6))
    def test_each_is_its_own_dict(self, seed: int, swept_by_numpy: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever was done before, each range counts what was counted in it, and a new one counts nothing."""
        monkeypatch.setattr(leaves, "_SWEPT_BY_NUMPY", swept_by_numpy)
        monkeypatch.setattr(leaves, "_UNSWEPT_MOST", 0)
        rng, table = random.Random(seed), Table()
        table.digesting = seed % 2 > 0
        held: list[tuple[Counters, dict[int, int]]] = []
        for _ in range(400):
            done = rng.random()
            if done < 0.15 or not held:
                held.append((Counters(table, rng.choice((0, BASE)), rng.choice((1, 3)) << NODE_SHIFT), {}))
            elif done < 0.25:
                held.pop(rng.randrange(len(held)))[0].release()
            elif done < 0.35:
                one, other = rng.choice(held), rng.choice(held)
                if (one[0].base_gfn, one[0].roots.length) == (other[0].base_gfn, other[0].roots.length):
                    one[0].share(other[0])
                    one[1].clear()
                    one[1].update(other[1] if one is not other else dict(one[0]))
            elif done < 0.38:
                table.make_room(rng.randrange(40))
            elif done < 0.45:
                counters, counts = rng.choice(held)
                first = rng.randrange(1 << NODE_SHIFT)
                counters.drop(first, first + 3000)
                for index in [index for index in counts if first <= index < first + 3000]:
                    del counts[index]
            else:
                counters, counts = rng.choice(held)
                index = rng.randrange(40) * 1500
                counts[index] = counts.get(index, 0) + 1 if rng.random() < 0.6 else 0
                counters[index] = counts[index]
            for counters, counts in held:
                expected = {index: counts[index] for index in sorted(counts) if counts[index]}
                assert dict(counters) == expected
                digest = sum(count * leaves.mix(counters.base_gfn + index) for index, count in expected.items()) % (1 << 64)
                assert counters.roots.digest == (digest if table.digesting else 0)
