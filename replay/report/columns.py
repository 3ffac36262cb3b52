"""Lay out rows in columns of plain text, the same on every machine and in every terminal."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), gap: str = "  ") -> list[str]:
    """Return one line a row, its cells padded to the width of their column.

    left: the columns that are set flush left; all others are numbers and flush right. Rows may be of unequal length.

    >>> columns([["kind", "count"], ["memslot.set", "35"]])
    ['kind         count', 'memslot.set     35']
    """
    widths = [0] * max((len(row) for row in rows), default=0)
    for row in rows:
        for index, cell in enumerate(row):
            widths[index] = max(widths[index], len(cell))
    return [
        gap.join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]
