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
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import compress
from typing import Any, Final

LEAF_PAGES: Final = 128
NODE_LEAVES: Final = 512
LEAF_SHIFT: Final = 7
NODE_SHIFT: Final = 16
LEAF_MASK: Final = LEAF_PAGES - 1
NODE_MASK: Final = NODE_LEAVES - 1
_NODE_BITS: Final = NODE_SHIFT - LEAF_SHIFT
_SLOTS: Final = range(NODE_LEAVES)
"""Places of leaves in a node."""
_LEAVES_LEAST: Final = 16
_LEAVES_MOST: Final = 1 << 24
"""What names of 32 bits can tell apart: 4 GiB of counters."""
_SWEPT_BY_NUMPY: Final = 2048
"""A table of more leaves than this is swept by numpy: it holds counters of 1 GiB."""


class Roots:
    """The root entries of one counted range: from `start` on, `length` of them, shared by `owners`."""

    __slots__ = ("length", "owners", "start")

    def __init__(self, start: int, length: int) -> None:
        self.start, self.length, self.owners = start, length, 1


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
        self.together = False
        """Set while one sharer writes for all of them."""
        self.waiting: list[tuple[Counters, int, int]] | None = None
        """Within an event of several lanes: what is to be dropped; None while it is dropped at once."""
        self._free_leaves = array("i")
        self._free_nodes: list[int] = []
        self._free_roots: dict[int, list[int]] = {}

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
        self._sweep()
        if len(self._free_leaves) < max(count, len(self.homes) // 2):
            self._grow(max(count, len(self.homes), _LEAVES_LEAST))

    def take_leaves(self, count: int) -> "array[int]":
        """Return that many leaves of zeros, which are nowhere linked yet; see make_room()."""
        self.make_room(count)
        taken = self._free_leaves[-count:]
        del self._free_leaves[-count:]
        return taken

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
        missing = len(roots) - len(self._free_nodes)
        if missing > 0:
            first = len(self.nodes)
            self.nodes.frombytes(bytes(4 * NODE_LEAVES * missing))
            self._free_nodes.extend(range(first, len(self.nodes), NODE_LEAVES))
        for root in roots:
            self.roots[root] = self._free_nodes.pop()

    def link_leaf(self, root: int, gfn: int) -> int:
        """Return the first cell of a gfn's leaf under a root entry, making the leaf if there is none."""
        if not self.roots[root]:
            self.link_nodes([root])
        home = self.roots[root] | (gfn >> LEAF_SHIFT & NODE_MASK)
        cell = self.nodes[home]
        if not cell:
            leaf = self.take_leaves(1)[0]
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
        self._free_roots.setdefault(roots.length, []).append(roots.start)


class Counters(MutableMapping[int, int]):
    """The counters of a range of gfns that are not zero, by index from its base: a dict that forgets zeros.

    Walks are in order of the index. Cost of one access: 0.3 us; of a walk: what is touched.
    """

    __slots__ = ("_base_root", "_table", "base_gfn", "roots")

    def __init__(self, table: Table, base_gfn: int = 0, npages: int = 1) -> None:
        self._table = table
        self.base_gfn = base_gfn
        self._base_root = base_gfn >> NODE_SHIFT
        self.roots = table.take_roots(((base_gfn + npages - 1) >> NODE_SHIFT) - self._base_root + 1)

    @property
    def bias(self) -> int:
        """What to add to gfn >> 16 for the number of its root entry."""
        return self.roots.start - self._base_root

    def _cell(self, gfn: int) -> int:
        """Return the place of a gfn's cell; one in leaf 0 when it was never counted, or lies outside."""
        table = self._table
        place = (gfn >> NODE_SHIFT) - self._base_root
        if not 0 <= place < self.roots.length:
            return 0
        return table.nodes[table.roots[self.roots.start + place] | (gfn >> 7 & 511)] | (gfn & 127)

    def get(self, index: int, default: Any = None) -> Any:
        """Return a counter, the default for one that is zero."""
        return self._table.cells[self._cell(self.base_gfn + index)] or default

    def __getitem__(self, index: int) -> int:
        count = self._table.cells[self._cell(self.base_gfn + index)]
        if not count:
            raise KeyError(index)
        return count

    def __setitem__(self, index: int, count: int) -> None:
        gfn = self.base_gfn + index
        self.own()
        cell = self._cell(gfn)
        if cell < LEAF_PAGES:
            self.cover(gfn)
            cell = self._table.link_leaf(self.bias + (gfn >> NODE_SHIFT), gfn) | (gfn & LEAF_MASK)
        self._table.cells[cell] = count

    def bump(self, index: int, delta: int, most: int) -> bool:
        """Add delta to a counter of the range; False, and nothing is done, when it would leave 0..most."""
        table, gfn = self._table, self.base_gfn + index
        cell = table.nodes[table.roots[self.roots.start - self._base_root + (gfn >> 16)] | (gfn >> 7 & 511)] | (gfn & 127)
        count = table.cells[cell] + delta
        if not 0 <= count <= most:
            return False
        if cell < LEAF_PAGES or (self.roots.owners > 1 and not table.together):
            self[index] = count
        else:
            table.cells[cell] = count
        return True

    def __delitem__(self, index: int) -> None:
        cell = self._cell(self.base_gfn + index)
        if not self._table.cells[cell]:
            raise KeyError(index)
        if self.own():
            cell = self._cell(self.base_gfn + index)
        self._table.cells[cell] = 0

    def __iter__(self) -> Iterator[int]:
        return (index for index, _count in self._pairs())

    def __len__(self) -> int:
        table = self._table
        return sum(LEAF_PAGES - table.leaf(leaf).count(0) for _page, leaf in table.leaves_of(self.roots))

    def __bool__(self) -> bool:
        return any(any(self._table.leaf(leaf)) for _page, leaf in self._table.leaves_of(self.roots))

    def __repr__(self) -> str:
        return repr(dict(self))

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Yield (index, count) of what is not zero, in order; the range must not change meanwhile."""
        table, first = self._table, (self._base_root << NODE_SHIFT) - self.base_gfn
        for page, leaf in list(table.leaves_of(self.roots)):
            start = first + (page << LEAF_SHIFT)
            yield from ((start + place, count) for place, count in enumerate(table.leaf(leaf)) if count)

    def items(self) -> Any:
        """Return (index, count) pairs of what is not zero, in order."""
        return dict(self._pairs()).items()

    def clear(self) -> None:
        """Set all counters to zero."""
        self._renew(self._table.take_roots(self.roots.length))

    def drop(self, first: int, end: int) -> None:
        """Set the counters from index first to before end to zero. Cost: proportional to the leaves that are touched."""
        if self._table.waiting is not None:
            self._table.waiting.append((self, first, end))
            return
        found = list(self.between(first, end))
        if found:
            self.own()
            self.forget(found)

    def forget(self, indexes: Iterable[int]) -> None:
        """Set counters to zero for all who share them."""
        for index in indexes:
            self._table.cells[self._cell(self.base_gfn + index)] = 0

    def between(self, first: int, end: int) -> Iterator[int]:
        """Yield the indexes of a range whose counters are not zero."""
        start = (self._base_root << NODE_SHIFT) - self.base_gfn
        pages = (first - start >> LEAF_SHIFT, -(start - end >> LEAF_SHIFT))
        for page, leaf in self._table.leaves_between(self.roots, *pages):
            cells = enumerate(self._table.leaf(leaf), start + (page << LEAF_SHIFT))
            yield from (place for place, count in cells if count and first <= place < end)

    def cover(self, gfn: int) -> None:
        """Make room for a gfn beyond the range; only for ranges that start at gfn 0."""
        need = (gfn >> NODE_SHIFT) - self._base_root + 1
        if need <= self.roots.length:
            return
        self.own()
        self._table.lengthen(self.roots, 1 << (need - 1).bit_length())

    # Sharing between lanes.

    def own(self) -> bool:
        """Get counters of one's own before a write; tell whether they had to be copied."""
        if self.roots.owners == 1 or self._table.together:
            return False
        self._renew(self._table.copy(self.roots))
        return True

    def share(self, other: "Counters") -> None:
        """Give up one's own counters and share another's of the same range and table."""
        if self.roots is not other.roots:
            other.roots.owners += 1
            self._renew(other.roots)

    def equal(self, other: "Counters") -> bool:
        """Tell whether two ranges count the same. Cost: nothing when they share, else what is touched."""
        if self.roots is other.roots:
            return True
        return self._content() == other._content()  # noqa: SLF001  # another one of the same class

    def pages(self) -> list[tuple[int, "array[int]"]]:
        """Return (gfn >> 7, the cells of its 128 gfns) of each leaf in which something is counted, in order."""
        first, table = self._base_root << (NODE_SHIFT - LEAF_SHIFT), self._table
        found = ((first + page, table.leaf(leaf)) for page, leaf in table.leaves_of(self.roots))
        zeros = bytes(LEAF_PAGES * table.cells.itemsize)
        return [(page, cells) for page, cells in found if cells.tobytes() != zeros]

    def put_page(self, page: int, cells: "array[int]") -> None:
        """Set all cells of a leaf of the range, which pages() gave, at once."""
        gfn = page << LEAF_SHIFT
        self.own()
        self.cover(gfn)
        first = self._table.link_leaf(self.bias + (gfn >> NODE_SHIFT), gfn)
        self._table.cells[first : first + LEAF_PAGES] = cells

    @property
    def typecode(self) -> str:
        """The array typecode of a cell."""
        return self._table.cells.typecode

    def _content(self) -> list[tuple[int, "array[int]"]]:
        """Return the leaves that are not all zeros, with their places."""
        leaves = [(page, self._table.leaf(leaf)) for page, leaf in self._table.leaves_of(self.roots)]
        return [(page, cells) for page, cells in leaves if any(cells)]

    def release(self) -> None:
        """Free everything; the counters must not be used afterwards."""
        self._table.give_back(self.roots)

    def _renew(self, roots: Roots) -> None:
        old, self.roots = self.roots, roots
        self._table.give_back(old)
        self._table.epoch += 1


NO_COUNTERS: Final = Counters(Table())
"""What a slot without a write-tracking array counts: nothing, for ever."""
