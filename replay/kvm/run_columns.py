"""Say what a run did as columns of bytes, one a row, so that lanes are compared without an object for each row.

A column holds either the warnings of each row, as kernel_log.BITS, or its answer: the result that is not 0, in two's complement,
and 1 for a guest write to a tracked gfn. None stands for a column of zeros. Who has numpy puts faster ways there for long ones
(`use_arrays()`); both give the same. Source: the functions that fold.py and bulk.py model, for what is said.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import compress
from operator import itemgetter
from typing import Any, Final, Protocol

from replay.kvm.kernel_log import BITS, LPAGE, reasons_of
from replay.runs import GUEST_WRITE, Constant

Column = Any
"""bytes, a bytearray or an array of bytes; None for zeros only."""
Rows = Sequence[int]
"""Numbers of rows, which ascend: a list, a memoryview or an array."""
Group = tuple[tuple[int, ...], int, int]
"""What rows have in common, the first of them and how many there are."""
LONG: Final = 256


class Ways(Protocol):
    """What numpy does better: the functions of this module with the same names. Source: see the module."""

    def marked(self, column: Column) -> Rows:
        """See marked()."""

    def groups(self, rows: Rows, columns: Sequence[Sequence[int]]) -> list[Group]:
        """See groups()."""

    def taken(self, column: Column, rows: Rows) -> Column:
        """See taken()."""

    def put(self, column: Column, rows: Rows, part: Column, length: int) -> Column:
        """See put()."""

    def differing(self, a: Column, b: Column) -> Rows:
        """See differing()."""


_WAYS: Final[list[Ways]] = []


def use_arrays(ways: Ways) -> None:
    """Have long columns looked at by numpy from now on. Source: none."""
    _WAYS[:] = [ways]


_Apart = Callable[[tuple[Any, ...], int], list[Group] | None]
_APART: Final[list[_Apart]] = []


def use_loop(apart_by: _Apart) -> None:
    """Have rows that differ grouped by the compiled loop's module from now on. Source: none."""
    _APART[:] = [apart_by]


def apart(columns: Sequence[Sequence[int]], a: Column, b: Column, length: int) -> list[Group]:
    """Group the rows in which two columns of bytes differ by what columns, and these two, say; by first row.

    columns: one or two, as in `groups()`. Source: none.
    """
    if a is None and b is None:
        return []
    if _APART:
        raw = tuple([_buffer(column) for column in columns])
        found = _APART[-1]((*raw, 0 if a is None else a, 0 if b is None else b), length)
        if found is not None:
            return found
    return groups(differing(a, b), [*columns, a, b])


def _buffer(column: Sequence[int]) -> Any:
    """Return a column as the compiled loop takes it: a number, or what has the bytes of unsigned integers."""
    if isinstance(column, Constant):
        return column.number
    return array("Q", column) if isinstance(column, list) else column


def warned_column(log: Iterable[tuple[int, str]], length: int) -> Column:
    """Return the warnings of a log as a column. Source: see the module."""
    column = None
    for row, reason in log:
        column = column or bytearray(length)
        column[row] |= BITS[reason]
    return column


def answered_column(rets: dict[int, int], tracked_writes: Iterable[int], length: int) -> Column:
    """Return answers as a column. Source: see the module."""
    column = None
    if rets or tracked_writes:
        column = bytearray(length)
        for row, ret in rets.items():
            column[row] = ret & 255
        for row in tracked_writes:
            column[row] = 1
    return column


def log_of(column: Column) -> list[tuple[int, str]]:
    """Return (row, warning) of a column of warnings. Source: see the module."""
    rows = _listed(marked(column))
    return [(row, reason) for row, bits in zip(rows, _at(column, rows), strict=True) for reason in reasons_of(bits)]


def rets_of(column: Column, kinds: Sequence[int]) -> dict[int, int]:
    """Return the results that are not 0, by row. Source: see the module."""
    rows = _listed(marked(column))
    return {row: answer(value) for row, value in zip(rows, _at(column, rows), strict=True) if kinds[row] != GUEST_WRITE}


def writes_of(column: Column, kinds: Sequence[int]) -> list[int]:
    """Return the rows of tracked guest writes. Source: see the module."""
    return [row for row in _listed(marked(column)) if kinds[row] == GUEST_WRITE]


def answer(value: int) -> int:
    """Return the result that a byte stands for. Source: none.

    >>> answer(256 - 22), answer(1)
    (-22, 1)
    """
    return (value ^ 128) - 128


def reasons_in(column: Column, among: Iterable[str]) -> dict[str, int]:
    """Count the warnings of a column. among: all that there can be. Cost: 0.1 ns a row and warning. Source: see the module."""
    found: dict[str, int] = {}
    if column is None:
        return found
    raw, known = bytes(column), tuple(among)
    for reason in known:
        both = LPAGE in known  # which alone is said together with others
        count = sum(map(raw.count, _bytes_with(reason))) if both else raw.count(BITS[reason])
        if count:
            found[reason] = count
    return found


@cache
def _bytes_with(reason: str) -> tuple[int, ...]:
    """Return the bytes that say a reason, alone or with LPAGE."""
    bits = BITS[reason]
    others = [bit for bit in BITS.values() if bit != bits and BITS[LPAGE] in {bit, bits}]
    return (bits, *(bits | bit for bit in others))


def vm_mask(vm: Sequence[int], vms: Sequence[int]) -> int:
    """Return a number with a byte of ones for each row of some VMs. vm: of each row. Source: none."""
    if isinstance(vm, memoryview) and vm.itemsize == 1:
        raw = bytes(vm).translate(_mask_of(tuple(vms)))
    else:
        raw = bytes(255 * (number in vms) for number in vm)
    return int.from_bytes(raw, "little")


@cache
def _mask_of(vms: tuple[int, ...]) -> bytes:
    return bytes(255 * (number in vms) for number in range(256))


def laid(column: Column, mask: int, part: Column, length: int) -> Column:
    """Return a column with what another one says of the rows of a mask, see `vm_mask()`; the other one says no more.

    Cost: 0.5 ns a row. Source: none.
    """
    if column is None or part is None:
        if column is part or column is None:
            return part
        return (int.from_bytes(bytes(column), "little") & ~mask).to_bytes(length, "little")
    wide = int.from_bytes(bytes(column), "little") & ~mask | int.from_bytes(bytes(part), "little")
    return wide.to_bytes(length, "little")


def rows_of(column: Column, bits: int, count: int) -> list[int]:
    """Return the rows of which exactly some warnings are said; count: how many there are. Cost: 0.1 us each. Source: none."""
    found, row, raw = list[int](), -1, b"" if column is None else bytes(column)
    for _ in range(count):
        row = raw.index(bits, row + 1)
        found.append(row)
    return found


def marked(column: Column) -> Rows:
    """Return the rows that are not 0. Source: none."""
    if column is None:
        return []
    if _WAYS and len(column) >= LONG:
        return _WAYS[-1].marked(column)
    return list(compress(range(len(column)), column))


def differing(a: Column, b: Column) -> Rows:
    """Return the rows in which two columns differ. Source: none."""
    if a is None or b is None:
        return marked(b if a is None else a)
    if _WAYS and len(a) >= LONG:
        return _WAYS[-1].differing(a, b)
    wide = int.from_bytes(a, "little") ^ int.from_bytes(b, "little")
    return list(compress(range(len(a)), wide.to_bytes(len(a), "little"))) if wide else []


def taken(column: Column, rows: Rows) -> Column:
    """Return some rows of a column. Source: none."""
    if column is None:
        return None
    if _WAYS and len(column) >= LONG:
        return _WAYS[-1].taken(column, rows)
    return bytes(_at(column, rows))


def put(column: Column, rows: Rows, part: Column, length: int) -> Column:
    """Return a column with other bytes in some rows; length: of the column. Source: none."""
    if (column is None and part is None) or not len(rows):
        return column
    if _WAYS and length >= LONG:
        return _WAYS[-1].put(column, rows, part, length)
    changed = bytearray(length) if column is None else bytearray(column)
    for row, byte in zip(rows, bytes(len(rows)) if part is None else part, strict=True):
        changed[row] = byte
    return changed


def groups(rows: Rows, columns: Sequence[Column]) -> list[Group]:
    """Group rows by what columns say of them, by first row.

    columns: of any numbers the first one, of bytes the others; None for one of zeros. Source: none.
    """
    if not len(rows):
        return []
    if _WAYS and len(rows) >= _GROUPED_LONG:
        return _WAYS[-1].groups(rows, columns)
    return list(_grouped(_listed(rows), columns))


_GROUPED_LONG: Final = 64


def _grouped(rows: list[int], columns: Sequence[Column]) -> Iterator[Group]:
    keys = list(zip(*(_at(column, rows) for column in columns), strict=True))
    first = dict(zip(reversed(keys), reversed(rows), strict=True))
    for key, count in Counter(keys).items():
        yield key, first[key], count


def _listed(rows: Rows) -> list[int]:
    """Return rows as numbers of Python's."""
    return rows if isinstance(rows, list) else rows.tolist()  # type: ignore[attr-defined]  # arrays and memoryviews have it


def _at(column: Column, rows: Rows) -> Sequence[int]:
    """Return some rows of a column, as numbers of Python's."""
    if column is None:
        return bytes(len(rows))
    if not isinstance(column, Sequence | bytearray):  # an array
        column = column.data
    return itemgetter(*rows)(column) if len(rows) > 1 else [column[row] for row in rows]
