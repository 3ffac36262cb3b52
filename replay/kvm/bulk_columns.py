"""Look at long columns of what a run did by numpy; see replay.kvm.run_columns, whose functions these are.

Source: replay.kvm.run_columns.
"""

from collections.abc import Sequence
from typing import Any, Final

from replay.kvm.run_columns import Column, Group, Rows
from replay.runs import Constant

_BYTE: Final = 8


def marked(column: Column) -> Rows:
    """Return the rows that are not 0. Source: see the module."""
    found: Rows = _bytes(column).nonzero()[0]
    return found


def differing(a: Column, b: Column) -> Rows:
    """Return the rows in which two columns differ. Source: see the module."""
    found: Rows = (_bytes(a) != _bytes(b)).nonzero()[0]
    return found


def taken(column: Column, rows: Rows) -> Column:
    """Return some rows of a column. Source: see the module."""
    import numpy as np

    return _bytes(column).take(np.asarray(rows, np.intp))


def put(column: Column, rows: Rows, part: Column, length: int) -> Column:
    """Return a column with other bytes in some rows. Source: see the module."""
    import numpy as np

    changed = np.zeros(length, np.uint8) if column is None else _bytes(column).copy()
    changed[np.asarray(rows, np.intp)] = 0 if part is None else _bytes(part)
    return changed


def groups(rows: Rows, columns: Sequence[Column]) -> list[Group]:
    """Group rows by what columns say of them. Cost: 5 us a group, and what is left of the rows. Source: see the module."""
    import numpy as np

    numbers: Any = np.asarray(rows, np.intp)
    keys: Any = np.zeros(len(numbers), np.int64)
    for column in columns:
        keys <<= _BYTE
        if column is not None:
            keys |= _chosen(column, numbers)
    found: list[Group] = []
    while len(numbers):
        same = keys == keys[0]
        count = int(np.count_nonzero(same))
        found.append((_split(int(keys[0]), len(columns)), int(numbers[0]), count))
        if count == len(numbers):
            break
        rest = (~same).nonzero()[0]
        keys, numbers = keys.take(rest), numbers.take(rest)
    return found


def _chosen(column: Column, numbers: Any) -> Any:
    """Return some rows of a column of any numbers."""
    import numpy as np

    if isinstance(column, Constant):
        return column.number
    if isinstance(column, list):
        return np.array([column[number] for number in numbers.tolist()], np.int64)
    itemsize = column.itemsize if isinstance(column, memoryview) else 1
    return np.frombuffer(column, f"u{itemsize}").take(numbers).astype(np.int64)


def _split(key: int, columns: int) -> tuple[int, ...]:
    """Return the numbers of a key, of which all but the first are bytes."""
    places = range((columns - 1) * _BYTE, 0, -_BYTE)
    return (key >> (columns - 1) * _BYTE, *(key >> place - _BYTE & 255 for place in places))


def _bytes(column: Column) -> Any:
    import numpy as np

    return np.frombuffer(column, np.uint8)
