"""Read and write many counters at once, in the leaves that `counters` keeps: what numpy does there for the bulk rule.

Views of the arrays live within one call only: an array that somebody looks at can not grow.
Source: replay.kvm.counters.
"""

from typing import Any

from replay.kvm.leaves import LEAF_MASK, LEAF_PAGES, LEAF_SHIFT, MIX, NODE_MASK, NODE_SHIFT, Table


def places_of(table: Table, bias: Any, keys: Any) -> tuple[Any, Any]:
    """Return (root entry, cell) of each key; a cell below 128 stands for one that is not there. Source: see the module.

    bias: what to add to key >> 16 for its root entry; entries below 0 name nothing.
    """
    import numpy as np

    roots = keys >> NODE_SHIFT
    roots += bias
    homes = keys >> LEAF_SHIFT
    homes &= NODE_MASK
    homes += np.frombuffer(table.roots, np.int32).take(roots, mode="clip")
    cells = keys & LEAF_MASK
    cells += np.frombuffer(table.nodes, np.int32).take(homes)
    return roots, cells


def counts_at(table: Table, cells: Any) -> Any:
    """Return the counters in cells. Source: see the module."""
    import numpy as np

    return np.frombuffer(table.cells, f"u{table.cells.itemsize}").take(cells)


def most_between(table: Table, bias: int, low: int, high: int) -> int:
    """Return the largest counter of the leaves that hold the gfns from low to high. Source: see the module."""
    import numpy as np

    firsts = np.arange(low >> LEAF_SHIFT, (high >> LEAF_SHIFT) + 1) << LEAF_SHIFT
    leaves = places_of(table, bias, firsts)[1] >> LEAF_SHIFT
    return int(np.frombuffer(table.cells, f"u{table.cells.itemsize}").reshape(-1, LEAF_PAGES).take(leaves, axis=0).max())


def write_counts(table: Table, roots: Any, cells: Any, keys: Any, counts: Any, changed: Any) -> None:
    """Write the counters that changed, making leaves where there are none. Source: see the module.

    changed: which of them; the keys ascend within each root entry.
    """
    import numpy as np

    if not len(changed):
        return
    places = cells.take(changed)
    if int(places.min()) < LEAF_PAGES:
        missing = (places < LEAF_PAGES).nonzero()[0]
        some = changed.take(missing)
        made = _link(table, roots.take(some), keys.take(some))
        if made is None:
            table.make_room(len(changed))  # takes back leaves that are zero: they may be among these
            places = _linked(table, roots.take(changed), keys.take(changed))[1]
            missing = (places < LEAF_PAGES).nonzero()[0]
            some = changed.take(missing)
            made = _link(table, roots.take(some), keys.take(some))
        places[missing] = made
    np.frombuffer(table.cells, f"u{table.cells.itemsize}")[places] = counts.take(changed)


def _linked(table: Table, roots: Any, keys: Any) -> tuple[Any, Any]:
    """Return (place in nodes, cell) of keys whose root entries are known."""
    import numpy as np

    homes = keys >> LEAF_SHIFT
    homes &= NODE_MASK
    homes += np.frombuffer(table.roots, np.int32).take(roots)
    cells = keys & LEAF_MASK
    cells += np.frombuffer(table.nodes, np.int32).take(homes)
    return homes, cells


def _link(table: Table, roots: Any, keys: Any) -> Any:
    """Make the nodes and leaves that some counters lack and return their cells; None when there are not enough leaves."""
    import numpy as np

    table.link_nodes(list(dict.fromkeys(roots[np.frombuffer(table.roots, np.int32).take(roots) == 0].tolist())))
    homes, cells = _linked(table, roots, keys)
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
    cells += leaves.take(first.cumsum() - 1)
    return cells


def mixed(gfns: Any) -> Any:
    """Return `leaves.mix()` of many gfns. Source: none."""
    import numpy as np

    found = gfns.astype(np.uint64)
    found *= np.uint64(MIX[0])
    found ^= found >> np.uint64(32)
    found *= np.uint64(MIX[1])
    found ^= found >> np.uint64(29)
    return found
