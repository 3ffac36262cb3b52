"""Write counters down as bytes and read them back: what is not zero, as differences of gfns and counts, in narrow columns.

The same counters give the same bytes, whichever way they came about. Form: how many (4 bytes), bytes a difference, bytes a
count, then the two columns, each the lowest bytes of all rows, then the next ones, and so on: like bytes side by side compress to
two thirds. The first difference is the first gfn itself. Many counters go through numpy, which is there already when a recording
has so many; the bytes are the same.
Source: gfn_write_track in struct kvm_arch_memory_slot [6.1, 6.12] for what is counted.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Final

from replay.kvm.cells import parts_of, places_of
from replay.kvm.counters import Counters
from replay.kvm.leaves import LEAF_PAGES, LEAF_SHIFT, Table

HEAD: Final = struct.Struct("<IBB")
MANY_LEAVES: Final = 16
"""So many leaves are worth numpy."""
MANY_COUNTERS: Final = 500
"""So many counters are worth numpy."""
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MASK: Final = LEAF_PAGES - 1


def counter_bytes(counters: Counters) -> bytes:
    """Return the bytes of counters. Cost: 3 us a leaf that has any, less when there are many. Source: see above."""
    leaves = counters.leaves()
    total, *columns = (_many_columns if len(leaves) >= MANY_LEAVES else _few_columns)(counters.table, leaves)
    if not total:
        return b""
    widths = [len(rows) // total for rows in columns]
    return HEAD.pack(total, *widths) + b"".join(_planes(rows, width) for rows, width in zip(columns, widths, strict=True))


def _width(most: int) -> int:
    return next(width for width in _CODES if most < 1 << 8 * width)


def _few_columns(table: Table, leaves: Sequence[tuple[int, int]]) -> tuple[int, bytes, bytes]:
    """Return how many counters there are, and the rows of the two columns."""
    pairs = [
        (leaf << LEAF_SHIFT | place, count) for leaf, cell in leaves for place, count in enumerate(table.leaf(cell)) if count
    ]
    if not pairs:
        return 0, b"", b""
    gfns = [gfn for gfn, _count in pairs]
    deltas = [gfns[0], *(after - before for before, after in pairwise(gfns))]
    return len(gfns), _packed(deltas), _packed([count for _gfn, count in pairs])


def _packed(column: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(column)}{_CODES[_width(max(column))]}", *column)


def _many_columns(table: Table, leaves: Sequence[tuple[int, int]]) -> tuple[int, bytes, bytes]:
    import numpy as np  # a large table only

    numbers, firsts = np.array(leaves, np.int64).T
    cells = np.frombuffer(table.cells, f"u{table.cells.itemsize}").reshape(-1, LEAF_PAGES).take(firsts >> LEAF_SHIFT, axis=0)
    rows, places = np.nonzero(cells)
    if not len(rows):
        return 0, b"", b""
    deltas = np.diff(numbers[rows] << LEAF_SHIFT | places, prepend=0)
    counts = cells[rows, places]
    columns = [column.astype(f"<u{_width(int(column.max()))}").tobytes() for column in (deltas, counts)]
    return len(rows), columns[0], columns[1]


def _planes(rows: bytes, width: int) -> bytes:
    return b"".join(rows[place::width] for place in range(width))


def _rows(planes: bytes, total: int, width: int) -> bytes:
    rows = bytearray(total * width)
    for place in range(width):
        rows[place::width] = planes[place * total : (place + 1) * total]
    return bytes(rows)


def fill(counters: Counters, data: bytes) -> None:
    """Count in empty counters what `counter_bytes()` wrote of others of the same range. Source: see above.

    Raises ValueError or struct.error for bytes that it never writes.
    """
    if not data:
        return
    total, delta_bytes, count_bytes = HEAD.unpack_from(data)
    known = total and {delta_bytes, count_bytes} <= _CODES.keys()
    if not known or len(data) != HEAD.size + total * (delta_bytes + count_bytes):
        raise ValueError(f"{len(data)} bytes are not {total} counters")
    split = HEAD.size + total * delta_bytes
    columns = _rows(data[HEAD.size : split], total, delta_bytes), _rows(data[split:], total, count_bytes)
    if total >= MANY_COUNTERS and not counters.table.digesting:
        _fill_many(counters, *columns, total)
        return
    deltas, counts = (struct.unpack(f"<{total}{_CODES[len(rows) // total]}", rows) for rows in columns)
    for page, cells in _pages_of(deltas, counts, counters.table.cells.typecode):
        counters.put_page(page, cells)


def _pages_of(deltas: Sequence[int], counts: Sequence[int], typecode: str) -> Iterator[tuple[int, "array[int]"]]:
    """Yield (page, cells)."""
    zeros = array(typecode, [0]) * LEAF_PAGES
    for page, pairs in groupby(zip(accumulate(deltas), counts, strict=True), key=lambda pair: pair[0] >> LEAF_SHIFT):
        cells = zeros[:]
        for gfn, count in pairs:
            cells[gfn & _MASK] = count
        yield page, cells


def _fill_many(counters: Counters, deltas: bytes, counts: bytes, total: int) -> None:
    import numpy as np  # a large table only

    table = counters.table
    gfns = np.cumsum(np.frombuffer(deltas, f"<u{len(deltas) // total}"), dtype=np.int64)
    counters.own()
    counters.cover(int(gfns[-1]))
    table.make_room(int(np.count_nonzero(np.diff(gfns >> LEAF_SHIFT))) + 1)
    places = places_of(table, counters.bias, parts_of(gfns))
    places.write(np.frombuffer(counts, f"<u{len(counts) // total}"), np.arange(total))
