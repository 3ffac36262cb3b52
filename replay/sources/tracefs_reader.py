"""Read what the lines of a block of tracefs text say, all at once; nothing of it depends on what came before in the trace."""

from typing import TYPE_CHECKING, Any

import attrs

from replay.sources.tracefs_columns import Layout, columns_of
from replay.sources.tracefs_lexer import Block
from replay.sources.tracefs_words import COLD, DULL, ENTERED, FIRST_KIND, RETURNED, Bodies, Heads, layout_of, table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@attrs.frozen(eq=False)
class Known:
    """What the lines of a block say, by row.

    bodies: what the numbers of bodies mean. ends: where lines end in the text. time_ns: of lines that are known. number: of the
    body. kind: of it, COLD for lines that are not known in all parts. start: number of the head. pair: rows of calls whose result
    is the next row. pages, dull: rows of shadow pages, with and without effect.
    """

    layout: Layout
    bodies: Bodies
    ends: "NDArray[Any]"
    time_ns: "NDArray[Any]"
    number: "NDArray[Any]"
    kind: "NDArray[Any]"
    start: "NDArray[Any]"
    pair: "NDArray[Any]"
    pages: "NDArray[Any]"
    dull: "NDArray[Any]"


def known_of(layout: Layout, bodies: Bodies, *columns: "NDArray[Any]") -> Known:
    """Return what lines say. columns: ends, time_ns, number, kind and start; calls are of a kind only with their other half."""
    import numpy as np

    ends, time_ns, number, kind, start = columns
    rows = np.flatnonzero
    pair, pages, dull = rows(kind == ENTERED), rows(kind >= FIRST_KIND), rows(kind == DULL)
    return Known(layout, bodies, ends, time_ns, number, kind, start, pair, pages, dull)


@attrs.define
class BlockReader:
    """Reads the blocks of one trace; words that were read before are known by number."""

    bodies: Bodies = attrs.field(factory=Bodies)
    _heads: Heads = attrs.field(factory=Heads)

    def known(self, block: Block, *, pairs: bool) -> Known | None:
        """Return what the lines of a block say; None when its middle line is none of a task. pairs: look for whole calls."""
        import numpy as np

        layout = layout_of(block.lines[len(block) // 2])
        columns = None if layout is None else columns_of(block, layout)
        if layout is None or columns is None:
            return None
        number = np.array(self.bodies.numbers(columns.bodies), np.int64)
        kind = table(self.bodies.kind)[number]
        timed = columns.timed[columns.heads].tolist()
        firsts = [block.lines[row] if known else b"" for row, known in zip(columns.heads, timed, strict=True)]
        heads = self._heads.numbers(firsts, layout)
        start = np.repeat(np.array(heads, np.int64), columns.alike)
        kind[~columns.timed | (start < 0)] = COLD
        pair = np.zeros(len(number), bool)
        if pairs:
            pair[:-1] = (kind[:-1] == ENTERED) & (kind[1:] == RETURNED) & (start[:-1] == start[1:])
        result = np.zeros(len(number), bool)
        result[1:] = pair[:-1]
        kind[((kind == ENTERED) & ~pair) | ((kind == RETURNED) & ~result)] = COLD
        return known_of(layout, self.bodies, columns.ends, columns.time_ns, number, kind, start)
