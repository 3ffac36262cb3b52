"""Write counters down as bytes and read them back: what is not zero, as differences of gfns and counts, in narrow columns.

The same counters give the same bytes, whichever way they came about. Form: how many (4 bytes), bytes a difference, bytes a
count, then the two columns; little-endian. The first difference is the first gfn itself. Many counters go through numpy, which
is there already when a recording has so many; the bytes are the same.
Source: gfn_write_track in struct kvm_arch_memory_slot [6.1, 6.12] for what is counted.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Final

from replay.kvm.counters import Counters
from replay.kvm.leaves import LEAF_PAGES, LEAF_SHIFT

HEAD: Final = struct.Struct("<IBB")
MANY_PAGES: Final = 16
"""So many leaves are worth numpy."""
_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MASK: Final = LEAF_PAGES - 1


def counter_bytes(counters: Counters) -> bytes:
    """Return the bytes of counters. Cost: 3 us a leaf that has any, less when there are many. Source: see above."""
    pages = counters.pages()
    gfns, counts = _many_columns(pages) if len(pages) >= MANY_PAGES else _few_columns(pages)
    if not len(gfns):
        return b""
    deltas = [gfns[0], *(after - before for before, after in pairwise(gfns))]
    widths = _width(max(deltas)), _width(max(counts))
    columns = (
        struct.pack(f"<{len(gfns)}{_CODES[width]}", *column) for width, column in zip(widths, (deltas, counts), strict=True)
    )
    return HEAD.pack(len(gfns), *widths) + b"".join(columns)


def _width(most: int) -> int:
    return next(width for width in _CODES if most < 1 << 8 * width)


def _few_columns(pages: Sequence[tuple[int, "array[int]"]]) -> tuple[list[int], list[int]]:
    pairs = [(page << LEAF_SHIFT | place, count) for page, cells in pages for place, count in enumerate(cells.tolist()) if count]
    return [gfn for gfn, _count in pairs], [count for _gfn, count in pairs]


def _many_columns(pages: Sequence[tuple[int, "array[int]"]]) -> tuple[list[int], list[int]]:
    import numpy as np  # a large table only

    cells = np.concatenate([np.frombuffer(cells, f"u{cells.itemsize}") for _page, cells in pages])
    places = np.flatnonzero(cells)
    numbers = np.array([page for page, _cells in pages], np.int64)
    gfns = numbers[places >> LEAF_SHIFT] << LEAF_SHIFT | places & _MASK
    return gfns.tolist(), cells[places].tolist()


def fill(counters: Counters, data: bytes) -> None:
    """Count in empty counters what `counter_bytes()` wrote of others of the same range. Source: see above.

    Raises ValueError or struct.error for bytes that it never writes.
    """
    for page, cells in _pages_of(data, counters.typecode):
        counters.put_page(page, cells)


def _pages_of(data: bytes, typecode: str) -> Iterator[tuple[int, "array[int]"]]:
    """Yield (page, cells) of bytes."""
    if not data:
        return
    total, delta_bytes, count_bytes = HEAD.unpack_from(data)
    if len(data) != HEAD.size + total * (delta_bytes + count_bytes) or not {delta_bytes, count_bytes} <= _CODES.keys():
        raise ValueError(f"{len(data)} bytes are not {total} counters")
    deltas = struct.unpack_from(f"<{total}{_CODES[delta_bytes]}", data, HEAD.size)
    counts = struct.unpack_from(f"<{total}{_CODES[count_bytes]}", data, HEAD.size + total * delta_bytes)
    zeros = array(typecode, [0]) * LEAF_PAGES
    for page, pairs in groupby(zip(accumulate(deltas), counts, strict=True), key=lambda pair: pair[0] >> LEAF_SHIFT):
        cells = zeros[:]
        for gfn, count in pairs:
            cells[gfn & _MASK] = count
        yield page, cells
