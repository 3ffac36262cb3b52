"""Count gfns in the sparse leaves of a table: a mapping that forgets zeros, and may be shared between lanes.

Source: gfn_write_track in struct kvm_arch_memory_slot, arch/x86/include/asm/kvm_host.h [6.1, 6.12], for what is counted.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from replay.kvm.leaves import LEAF_MASK, LEAF_PAGES, LEAF_SHIFT, NODE_SHIFT, Roots, Table, mix
from replay.units import U64_MAX

if TYPE_CHECKING:
    from array import array


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
        self._put(gfn, cell, count)

    def _put(self, gfn: int, cell: int, count: int) -> None:
        """Write a cell that is there, for all who share it."""
        if self._table.digesting:
            self.roots.digest = self.roots.digest + (count - self._table.cells[cell]) * mix(gfn) & U64_MAX
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
            self._put(gfn, cell, count)
        return True

    def __delitem__(self, index: int) -> None:
        cell = self._cell(self.base_gfn + index)
        if not self._table.cells[cell]:
            raise KeyError(index)
        if self.own():
            cell = self._cell(self.base_gfn + index)
        self._put(self.base_gfn + index, cell, 0)

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

    def pages(self) -> Iterator[tuple[int, "array[int]"]]:
        """Yield (index of the first, counters) of each leaf that is not all zeros, in order; nothing must change meanwhile."""
        table, first = self._table, (self._base_root << NODE_SHIFT) - self.base_gfn
        for page, leaf in table.leaves_of(self.roots):
            cells = table.leaf(leaf)
            if any(cells):
                yield first + (page << LEAF_SHIFT), cells

    def clear(self) -> None:
        """Set all counters to zero."""
        self._renew(self._table.take_roots(self.roots.length))

    def drop(self, first: int, end: int) -> None:
        """Set the counters from index first to before end to zero. Cost: proportional to the leaves that are touched."""
        start = self.roots.start
        if not any(self._table.roots[start : start + self.roots.length]):
            return  # nothing was ever counted
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
            self._put(self.base_gfn + index, self._cell(self.base_gfn + index), 0)

    def total(self, first_gfn: int, end_gfn: int) -> int:
        """Return the sum of the counters of whole leaves, by gfn. Cost: proportional to the leaves that are touched."""
        first = self._base_root << (NODE_SHIFT - LEAF_SHIFT)
        span = (first_gfn >> LEAF_SHIFT) - first, (end_gfn >> LEAF_SHIFT) - first
        return sum(sum(self._table.leaf(leaf)) for _page, leaf in self._table.leaves_between(self.roots, *span))

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

    def twin(self) -> "Counters":
        """Return counters of the same range that share these."""
        twin = _bare_counters()
        twin._table, twin.base_gfn = self._table, self.base_gfn  # noqa: SLF001  # another one of the same class
        twin._base_root, twin.roots = self._base_root, self.roots  # noqa: SLF001
        self.roots.owners += 1
        return twin

    def equal(self, other: "Counters") -> bool:
        """Tell whether two ranges count the same. Cost: nothing when they share, else what is touched."""
        if self.roots is other.roots:
            return True
        return self._content() == other._content()  # noqa: SLF001  # another one of the same class

    def leaves(self) -> list[tuple[int, int]]:
        """Return (gfn >> 7, first cell) of each leaf that is linked, in order; its counters may all be zero by now."""
        first = self._base_root << (NODE_SHIFT - LEAF_SHIFT)
        return [(first + number, cell) for number, cell in self._table.leaves_of(self.roots)]

    def put_page(self, page: int, cells: "array[int]") -> None:
        """Set all cells of a leaf of the range at once; page: gfn >> 7."""
        gfn = page << LEAF_SHIFT
        self.own()
        self.cover(gfn)
        first = self._table.link_leaf(self.bias + (gfn >> NODE_SHIFT), gfn)
        for place, count in enumerate(cells) if self._table.digesting else ():
            self._put(gfn + place, first + place, count)
        self._table.cells[first : first + LEAF_PAGES] = cells

    @property
    def table(self) -> Table:
        """Where the counters are kept."""
        return self._table

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


_bare_counters: Final = partial(object.__new__, Counters)
NO_COUNTERS: Final = Counters(Table())
"""What a slot without a write-tracking array counts: nothing, for ever."""
