"""Promises of the columns that say what a run did: they say what lists say, and numpy finds in them what Python finds."""

import random
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
from compiled_loop import loop

from replay.kvm import bulk_columns, run_columns
from replay.kvm.kernel_log import BITS, GONE, LPAGE, NO_SLOT, REASONS, UNDERFLOW
from replay.kvm.run_columns import (
    Column,
    answered_column,
    apart,
    differing,
    groups,
    log_of,
    marked,
    put,
    reasons_in,
    rets_of,
    rows_of,
    taken,
    warned_column,
    writes_of,
)
from replay.kvm.run_outcome import RunOutcome
from replay.runs import GUEST_WRITE, QUERY, Constant

ROWS = 400


def column_of(rng: random.Random, share: float) -> Column:
    """Return a column of which some rows are not 0; None when it should be empty."""
    return bytearray(rng.choice((1, 4, 129)) if rng.random() < share else 0 for _ in range(ROWS)) if share else None


def raw(column: Column) -> bytes:
    """Return a column as bytes."""
    return b"" if column is None else bytes(column)


def plain(rows: Sequence[int]) -> list[int]:
    """Return rows, which may be an array, as a list."""
    return [int(row) for row in rows]


class TestLists:
    """Columns and lists."""

    def test_warnings(self) -> None:
        """What is said of rows comes back in the order in which it is said, two warnings of one row too."""
        log = [(1, UNDERFLOW), (1, LPAGE), (5, NO_SLOT), (9, LPAGE), *((20 + row, reason) for row, reason in enumerate(REASONS))]
        column = warned_column(log, 40)
        assert log_of(column) == log
        assert reasons_in(column, REASONS) == {**dict.fromkeys(REASONS, 1), UNDERFLOW: 2, LPAGE: 3, NO_SLOT: 2}
        assert rows_of(column, BITS[NO_SLOT], 2) == [row for row, reason in log if reason == NO_SLOT]

    def test_answers(self) -> None:
        """Results come back with their sign; tracked writes are told from results by the kind of the row."""
        rets, writes, kinds = {1: -22, 3: 1, 7: -95}, [2, 6], [GUEST_WRITE if row in {2, 6} else QUERY for row in range(8)]
        column = answered_column(rets, writes, 8)
        assert (rets_of(column, kinds), writes_of(column, kinds)) == (rets, writes)

    def test_nothing(self) -> None:
        """Where nothing is said there is no column, and none is needed to say so."""
        assert warned_column([], 4) is answered_column({}, [], 4) is put(None, [1], None, 4) is taken(None, [1]) is None
        assert [log_of(None), rets_of(None, []), writes_of(None, []), reasons_in(None, REASONS)] == [[], {}, [], {}]
        assert [plain(marked(None)), plain(differing(None, None)), groups([], [None])] == [[], [], []]

    def test_said_of_an_outcome(self) -> None:
        """An outcome says the same of some warnings whether it holds a list or a column."""
        log = [(1, UNDERFLOW), (1, LPAGE), (5, NO_SLOT)]
        listed, made = RunOutcome(log=log), RunOutcome()
        made.later({"warned": lambda: warned_column(log, 8)}, [QUERY] * 8)
        for outcome in (listed, made):
            assert [outcome.rows_of(NO_SLOT), outcome.rows_of(GONE)] == [[5], []]
            assert outcome.reasons() == {UNDERFLOW: 1, LPAGE: 1, NO_SLOT: 1}


class TestArrays:
    """numpy's ways against Python's."""

    @pytest.mark.parametrize("shares", [(0.5, 0.5), (0.01, 0.3), (0.0, 0.2), (0.2, 0.0)])
    def test_the_same(self, shares: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
        """Rows that differ, groups of rows, and rows that are taken or laid over others are those of Python's ways."""
        rng = random.Random(str(shares))
        a, b = (column_of(rng, share) for share in shares)
        rows = sorted(rng.sample(range(ROWS), 150))
        vms: list[Any] = [Constant(70_000, ROWS), [rng.randrange(3) for _ in range(ROWS)]]
        vms += [memoryview(bytes(vms[1])), memoryview(bytes(8 * ROWS)).cast("Q")]
        found: list[Any] = []
        for ways in ([], [bulk_columns]):
            monkeypatch.setattr(run_columns, "_WAYS", ways)
            apart = differing(a, b)
            found.append(
                [
                    [plain(marked(a)), plain(apart), bytes(b or b"").count(4)],
                    [groups(apart, [vm, a, b]) for vm in vms],
                    [raw(taken(one, rows)) for one in (a, b)],
                    [raw(put(a, rows, one, ROWS)) for one in (None, taken(b, rows))],
                ]
            )
        assert found[0] == found[1]
        assert len(found[0][0][1]) > 40
        assert a != b


class TestLoop:
    """The compiled loop's way to group rows that differ, against Python's."""

    @pytest.mark.parametrize("shares", [(0.5, 0.5), (0.01, 0.3), (0.0, 0.2), (0.2, 0.0), (0.0, 0.0)])
    def test_the_same(self, shares: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
        """Groups are those of Python's way for columns of any width, also where there are too many for the loop."""
        rng = random.Random(str(shares))
        a, b = (column_of(rng, share) for share in shares)
        vms: list[Any] = [Constant(70_000, ROWS), [rng.randrange(3) for _ in range(ROWS)], [*range(ROWS)]]
        vms += [memoryview(array(item, [rng.randrange(200) for _ in range(ROWS)])) for item in "BHIQ"]
        kinds = memoryview(bytes(rng.choice((64, 67)) for _ in range(ROWS)))
        found: list[Any] = []
        for ways in ([], [loop().apart]):
            monkeypatch.setattr(run_columns, "_APART", ways)
            found.append([apart(columns, a, b, ROWS) for vm in vms for columns in ([vm], [vm, kinds])])
        assert found[0] == found[1]
        assert max(map(len, found[0])) > 64 or not any(shares)

    @pytest.mark.parametrize(
        "wrong",
        [
            (bytes(4),),
            (bytes(4), bytes(4), bytes(4), bytes(4), bytes(4)),
            (bytes(4), bytes(4), bytes(5)),
            (bytes(4), bytes(8), bytes(4)),
            (bytes(4), bytes(4), None),
            (-1, bytes(4), bytes(4)),
        ],
    )
    def test_wrong_columns(self, wrong: tuple[Any, ...]) -> None:
        """Columns that do not fit are refused before any row is read."""
        with pytest.raises((ValueError, TypeError, OverflowError)):
            loop().apart(wrong, 4)
        with pytest.raises((ValueError, TypeError)):
            loop().apart((bytes(4), bytes(4)), 0)
