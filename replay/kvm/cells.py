"""Read and write many counters at once, in the leaves that `counters` keeps: what numpy does there for the bulk rule.

Views of the arrays live within one call only: an array that somebody looks at can not grow.
Source: replay.kvm.counters.
"""

from functools import cache
from typing import Any

import attrs

from replay.kvm.leaves import LEAF_MASK, LEAF_PAGES, LEAF_SHIFT, MIX, NODE_MASK, NODE_SHIFT, Table


@cache
def unsigned(itemsize: int) -> Any:
    """Return numpy's type of unsigned integers of so many bytes. Source: none."""
    import numpy as np

    return np.dtype(f"u{itemsize}")


@attrs.define(eq=False)
class Parts:
    """Keys by what finds their cells: what is added to a bias for the root entry, the leaf in its node, the cell in its leaf."""

    roots: Any
    leaves: Any
    cells: Any

    def between(self, first: int, end: int) -> "Parts":
        """Return those of some keys."""
        return Parts(self.roots[first:end], self.leaves[first:end], self.cells[first:end])


def parts_of(keys: Any) -> Parts:
    """Split keys. Source: see the module."""
    import numpy as np

    leaves = keys.astype(np.int32)  # the names of leaves are as narrow
    cells = leaves & LEAF_MASK
    leaves >>= LEAF_SHIFT
    leaves &= NODE_MASK
    return Parts(keys >> NODE_SHIFT, leaves, cells)


@attrs.define(eq=False)
class Places:
    """Where the counters of some keys are. roots: root entries; cells: below 128 where there is none."""

    table: Table
    parts: Parts
    roots: Any
    cells: Any

    def counts(self) -> Any:
        """Return the counters."""
        return _view(self.table).take(self.cells)

    def write(self, counts: Any, changed: Any) -> None:
        """Write the counters that changed, making leaves where there are none.

        changed: which of them; the keys ascend within each root entry.
        """
        import numpy as np

        if not len(changed):
            return
        table, cells = self.table, self.cells.take(changed)
        missing = (cells < LEAF_PAGES).nonzero()[0]
        if len(missing):
            made = self._link(changed.take(missing))
            if made is None:
                table.make_room(len(changed))  # takes back leaves that are zero: they may be among these
                cells = self._find(self.roots.take(changed), self.parts.leaves.take(changed))[1]
                cells += self.parts.cells.take(changed)
                missing = (cells < LEAF_PAGES).nonzero()[0]
                made = self._link(changed.take(missing))
            cells[missing] = made
        _view(table)[cells.astype(np.intp)] = counts.take(changed)

    def _find(self, roots: Any, leaves: Any) -> tuple[Any, Any]:
        """Return (place in nodes, first cell) of leaves."""
        import numpy as np

        homes = np.frombuffer(self.table.roots, np.int32).take(roots, mode="clip")
        homes += leaves
        return homes, np.frombuffer(self.table.nodes, np.int32).take(homes)

    def _link(self, some: Any) -> Any:
        """Make the nodes and leaves that some counters lack and return their cells; None when there are not enough leaves."""
        import numpy as np

        table, roots = self.table, self.roots.take(some)
        lacking = np.frombuffer(table.roots, np.int32).take(roots) == 0
        if lacking.any():
            table.link_nodes(list(dict.fromkeys(roots[lacking].tolist())))
        homes, _cells = self._find(roots, self.parts.leaves.take(some))
        first = np.empty(len(homes), bool)
        first[:1] = True
        np.not_equal(homes[1:], homes[:-1], out=first[1:])
        new = homes[first]
        if not table.has_room(len(new)):
            return None
        leaves = np.frombuffer(table.take_leaves(len(new)), np.int32)
        np.frombuffer(table.homes, np.int32)[leaves] = new
        leaves = leaves << LEAF_SHIFT
        np.frombuffer(table.nodes, np.int32)[new] = leaves
        cells = leaves if len(new) == len(homes) else leaves.take(first.cumsum() - 1)
        return cells + self.parts.cells.take(some)


def places_of(table: Table, bias: Any, parts: Parts) -> Places:
    """Return where counters are. Source: see the module.

    bias: what to add to key >> 16 for its root entry; entries below 0 name nothing.
    """
    places = Places(table, parts, parts.roots + bias, None)
    places.cells = places._find(places.roots, parts.leaves)[1]  # noqa: SLF001  # the making of one
    places.cells += parts.cells
    return places


def _view(table: Table) -> Any:
    """Return the cells of a table as numpy sees them."""
    import numpy as np

    return np.frombuffer(table.cells, unsigned(table.cells.itemsize))


def sum_between(table: Table, bias: int, low: int, high: int) -> int:
    """Return the sum of the counters of the leaves that hold the gfns from low to high. Source: see the module."""
    import numpy as np

    firsts = np.arange(low >> LEAF_SHIFT, (high >> LEAF_SHIFT) + 1) << LEAF_SHIFT
    leaves = places_of(table, bias, parts_of(firsts)).cells >> LEAF_SHIFT
    return int(_view(table).reshape(-1, LEAF_PAGES).take(leaves, axis=0).sum())


def most_between(table: Table, bias: int, low: int, high: int) -> int:
    """Return the largest counter of the leaves that hold the gfns from low to high. Source: see the module."""
    import numpy as np

    firsts = np.arange(low >> LEAF_SHIFT, (high >> LEAF_SHIFT) + 1) << LEAF_SHIFT
    leaves = places_of(table, bias, parts_of(firsts)).cells >> LEAF_SHIFT
    return int(_view(table).reshape(-1, LEAF_PAGES).take(leaves, axis=0).max())


def mixed(gfns: Any) -> Any:
    """Return `leaves.mix()` of many gfns. Source: none."""
    import numpy as np

    found = gfns.astype(np.uint64)
    found *= np.uint64(MIX[0])
    found ^= found >> np.uint64(32)
    found *= np.uint64(MIX[1])
    found ^= found >> np.uint64(29)
    return found
