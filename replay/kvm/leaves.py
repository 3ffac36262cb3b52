"""Keep the counters of gfns in sparse leaves that the scalar rule and the bulk rule both look at: one storage, two readers.

A leaf holds the counters of 128 pages, a node names 512 leaves (256 MiB), each `Counters` has one root entry for as much. Names
are places: of a leaf its first cell, of a node its first entry. Leaf 0, node 0 and root 0 are all zeros and stand for what was
never touched, so a slot of 2^31 pages costs 128 KiB of roots, and then what is counted in it.
All arrays are of the standard library; numpy sees the same bytes.

Two lanes whose counters are equal may share them (`Counters.share()`): whoever writes first gets a copy, unless the engine says
that the writer stands for all sharers (`Table.together`).
Source: gfn_write_track in struct kvm_arch_memory_slot, arch/x86/include/asm/kvm_host.h [6.1, 6.12], for what is counted.
"""

from array import array
from collections.abc import Iterator
from itertools import compress
from typing import Any, Final

from replay.units import U64_MAX

LEAF_PAGES: Final = 128
NODE_LEAVES: Final = 512
LEAF_SHIFT: Final = 7
NODE_SHIFT: Final = 16
LEAF_MASK: Final = LEAF_PAGES - 1
NODE_MASK: Final = NODE_LEAVES - 1
_NODE_BITS: Final = NODE_SHIFT - LEAF_SHIFT
_SLOTS: Final = range(NODE_LEAVES)
"""Places of leaves in a node."""
MIX: Final = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
_LEAVES_LEAST: Final = 16
_LEAVES_MOST: Final = 1 << 24
"""What names of 32 bits can tell apart: 4 GiB of counters."""
_UNSWEPT_MOST: Final = 1 << 15
"""A table of up to so many leaves, 8 MiB of counters, is made larger rather than swept: what is zero now counts again soon."""
_SWEPT_BY_NUMPY: Final = 2048
"""A table of more leaves than this is swept by numpy: it holds counters of 1 GiB."""


def mix(gfn: int) -> int:
    """Return a number of 64 bits that looks like chance, for digests that are sums. Source: none in the kernel."""
    mixed = gfn * MIX[0] & U64_MAX
    mixed = (mixed ^ mixed >> 32) * MIX[1] & U64_MAX
    return mixed ^ mixed >> 29


class Roots:
    """The root entries of one counted range: from `start` on, `length` of them, shared by `owners`.

    digest: where the table keeps digests, the sum of count * mix(gfn) of the range, modulo 2^64.
    """

    __slots__ = ("digest", "length", "owners", "start")

    def __init__(self, start: int, length: int) -> None:
        self.start, self.length, self.owners, self.digest = start, length, 1, 0


class Table:
    """The leaves, nodes and roots of any number of `Counters`; one for all lanes of a replay.

    typecode: "H" for the kernel's u16, "I" for counts that the kernel does not limit.
    """

    def __init__(self, typecode: str = "H") -> None:
        self.cells = array(typecode, bytes(2 * LEAF_PAGES) if typecode == "H" else bytes(4 * LEAF_PAGES))
        self.nodes = array("i", bytes(4 * NODE_LEAVES))
        self.roots = array("i", [0])
        self.homes = array("i", [0])  # number of a leaf -> its place in nodes
        self.epoch = 0
        """Grows when a range gets other roots, which whoever remembers root numbers must know."""
        self.digesting = False
        """Whether each range keeps its digest; to be set before anything is counted."""
        self.together = False
        """Set while one sharer writes for all of them."""
        self.waiting: list[tuple[Any, int, int]] | None = None
        """Within an event of several lanes: what is to be dropped; None while it is dropped at once."""
        self._free_leaves = array("i")
        self._free_nodes = array("i")
        self._free_roots: dict[int, list[int]] = {}

    @property
    def ever_counted(self) -> bool:
        """Whether there was ever anything but zeros."""
        return len(self.homes) > 1

    def take_roots(self, length: int) -> Roots:
        """Return root entries that name nothing yet."""
        free = self._free_roots.get(length)
        if free:
            return Roots(free.pop(), length)
        start = len(self.roots)
        self.roots.frombytes(bytes(4 * length))
        return Roots(start, length)

    def has_room(self, count: int) -> bool:
        """Tell whether so many leaves can be taken without taking back any."""
        return len(self._free_leaves) >= count

    def make_room(self, count: int) -> None:
        """See to it that so many leaves are free. May take back leaves that are all zeros again: look places up anew."""
        if len(self._free_leaves) >= count:
            return
        more = max(count, len(self.homes) // 8, _LEAVES_LEAST)
        if len(self.homes) + more > _UNSWEPT_MOST:
            self._sweep()
            more = max(more, len(self.homes))
        if len(self._free_leaves) < max(count, len(self.homes) // 2):
            self._grow(more)

    def take_leaves(self, count: int) -> "array[int]":
        """Return that many leaves of zeros, which are nowhere linked yet; see make_room()."""
        self.make_room(count)
        taken = self._free_leaves[-count:]
        del self._free_leaves[-count:]
        return taken

    def arrays(self) -> "tuple[array[int], ...]":
        """Return cells, nodes, roots, homes, and the leaves and nodes that are free, for the compiled loop."""
        return self.cells, self.nodes, self.roots, self.homes, self._free_leaves, self._free_nodes

    def took(self, leaves: int, nodes: int) -> None:
        """Note that so many of the free leaves and nodes were linked, from the last ones backwards."""
        if leaves:
            del self._free_leaves[-leaves:]
        if nodes:
            del self._free_nodes[-nodes:]

    def _grow(self, count: int) -> None:
        first = len(self.homes)
        if first + count > _LEAVES_MOST:
            raise MemoryError("counters of more than 2^31 pages")
        self.cells.frombytes(bytes(count * LEAF_PAGES * self.cells.itemsize))
        self.homes.frombytes(bytes(4 * count))
        self._free_leaves.extend(range(first + count - 1, first - 1, -1))

    def _sweep(self) -> None:
        """Take back the leaves that are linked and hold zeros only."""
        if len(self.homes) > _SWEPT_BY_NUMPY:
            self._sweep_many()
            return
        size = LEAF_PAGES * self.cells.itemsize
        raw, zeros = memoryview(self.cells).cast("B"), bytes(size)
        for leaf, home in enumerate(self.homes):
            if home and raw[leaf * size : (leaf + 1) * size] == zeros:
                self.nodes[home] = 0
                self.homes[leaf] = 0
                self._free_leaves.append(leaf)

    def _sweep_many(self) -> None:
        import numpy as np  # a large table only

        words = np.frombuffer(self.cells, np.uint64)
        homes = np.frombuffer(self.homes, np.int32)
        firsts = np.arange(0, len(words), len(words) // len(homes))
        leaves = np.flatnonzero((homes != 0) & (np.bitwise_or.reduceat(words, firsts) == 0))
        np.frombuffer(self.nodes, np.int32)[homes[leaves]] = 0
        homes[leaves] = 0
        self._free_leaves.frombytes(leaves.astype(np.int32).tobytes())

    def lengthen(self, roots: Roots, length: int) -> None:
        """Give roots more entries, for all who share them."""
        made = self.take_roots(length)
        old = slice(roots.start, roots.start + roots.length)
        self.roots[made.start : made.start + roots.length] = self.roots[old]
        self.roots[old] = array("i", bytes(4 * roots.length))
        self._free_roots.setdefault(roots.length, []).append(roots.start)
        roots.start, roots.length = made.start, length

    def link_nodes(self, roots: list[int]) -> None:
        """Make the nodes of root entries that have none, each once."""
        self.make_nodes(len(roots))
        for root in roots:
            self.roots[root] = self._free_nodes.pop()

    def make_nodes(self, count: int) -> None:
        """See to it that so many nodes are free."""
        missing = count - len(self._free_nodes)
        if missing > 0:
            first = len(self.nodes)
            self.nodes.frombytes(bytes(4 * NODE_LEAVES * missing))
            self._free_nodes.extend(range(first, len(self.nodes), NODE_LEAVES))

    def link_leaf(self, root: int, gfn: int) -> int:
        """Return the first cell of a gfn's leaf under a root entry, making the leaf if there is none."""
        if not self.roots[root]:
            self.link_nodes([root])
        home = self.roots[root] | (gfn >> LEAF_SHIFT & NODE_MASK)
        cell = self.nodes[home]
        if not cell:
            if not self._free_leaves:
                self.make_room(1)
            leaf = self._free_leaves.pop()
            self.nodes[home] = cell = leaf << LEAF_SHIFT
            self.homes[leaf] = home
        return cell

    def leaves_of(self, roots: Roots) -> Iterator[tuple[int, int]]:
        """Yield (number of the leaf from that of the first root's first, first cell) of the linked leaves, in order."""
        for place in range(roots.length):
            node = self.roots[roots.start + place]
            if node:
                names = self.nodes[node : node + NODE_LEAVES]
                yield from ((place * NODE_LEAVES + slot, names[slot]) for slot in compress(_SLOTS, names))

    def leaves_between(self, roots: Roots, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield those of leaves_of() whose number is from first to before end."""
        for place in range(max(first, 0) >> _NODE_BITS, min(roots.length, -(-end >> _NODE_BITS))):
            node = self.roots[roots.start + place]
            if node:
                low, high = max(first - (place << _NODE_BITS), 0), min(end - (place << _NODE_BITS), NODE_LEAVES)
                names = self.nodes[node + low : node + high]
                yield from ((place << _NODE_BITS | slot, name) for slot, name in enumerate(names, low) if name)

    def leaf(self, first: int) -> "array[int]":
        """Return a copy of a leaf's cells, of which the first is given."""
        return self.cells[first : first + LEAF_PAGES]

    def copy(self, roots: Roots) -> Roots:
        """Return roots of their own that count the same."""
        made = self.take_roots(roots.length)
        made.digest = roots.digest
        for page, leaf in list(self.leaves_of(roots)):
            content = self.leaf(leaf)
            if any(content):
                new = self.link_leaf(made.start + page // NODE_LEAVES, page << LEAF_SHIFT)
                self.cells[new : new + LEAF_PAGES] = content
        return made

    def drop_what_waits(self) -> None:
        """Drop what lanes wanted dropped within one event: at once where all sharers want the same, which copies nothing."""
        waiting, self.waiting = self.waiting or [], None
        for counters, first, end in waiting:
            alike = [one for one, *span in waiting if one.roots is counters.roots and span == [first, end]]
            if len(alike) == counters.roots.owners:
                counters.forget(list(counters.between(first, end)))
            else:
                counters.drop(first, end)

    def give_back(self, roots: Roots) -> None:
        """Drop one owner of roots; with the last one go nodes and leaves."""
        roots.owners -= 1
        if roots.owners:
            return
        if any(self.roots[roots.start : roots.start + roots.length]):
            self._unlink(roots)
        self._free_roots.setdefault(roots.length, []).append(roots.start)

    def _unlink(self, roots: Roots) -> None:
        """Free the nodes and leaves under roots."""
        zeros = array(self.cells.typecode, bytes(LEAF_PAGES * self.cells.itemsize))
        for _page, leaf in list(self.leaves_of(roots)):
            self.cells[leaf : leaf + LEAF_PAGES] = zeros
            self.homes[leaf >> LEAF_SHIFT] = 0
            self._free_leaves.append(leaf >> LEAF_SHIFT)
        for root in range(roots.start, roots.start + roots.length):
            node = self.roots[root]
            if node:
                self.nodes[node : node + NODE_LEAVES] = array("i", bytes(4 * NODE_LEAVES))
                self._free_nodes.append(node)
                self.roots[root] = 0
