"""Keep what moved the disallow_lpage counts of a memslot and no counter of gfn_write_track: the two differ by this.

Each add and each remove of a tracked gfn moves both by one, so disallow_lpage of a region is what it was at first, plus the
counters of its pages, plus this. It holds shadow pages of level 1, which are in no counter, and what a counter refused at its
limit. Lanes that agree share it as they share counters.
Source: struct kvm_lpage_info, arch/x86/include/asm/kvm_host.h [6.1, 6.12], for what is counted.
"""

from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from replay.kvm.leaves import mix
from replay.units import U64_MAX

REGION_SHIFT: Final = 9
"""From a gfn to its region of 2 MiB."""
CHUNK_SHIFT: Final = 12
CHUNK_MASK: Final = (1 << CHUNK_SHIFT) - 1
GIB_REGIONS: Final = 512
_ZEROS: Final = bytes(4 << CHUNK_SHIFT)
_NOTHING: Final = array("i", _ZEROS)
"""What is compared with where 8 GiB were never touched; not to be written."""
NAMED: Final = 1 << 60
"""Told apart from gfns by this bit, in digests."""


class LpageMoves:
    """Moves of one memslot by region of 2 MiB (gfn >> 9); owners: how many lanes share them.

    chunks: moves of 8 GiB each, by region >> 12, those that were touched. fallen: regions that were ever below zero; only there,
    or in the 1 GiB around, can a disallow_lpage be negative, as counters and first values are not. known: disallow_lpage by
    (shift, gfn >> shift), of regions whose every change is looked at. digest: sum of moves * mix(region) where digests are kept.
    """

    __slots__ = ("chunks", "digest", "fallen", "known", "owners")

    def __init__(self) -> None:
        self.chunks: dict[int, array[int]] = {}
        self.owners = 1
        self.fallen: frozenset[int] = frozenset()
        self.known: dict[tuple[int, int], int] = {}
        self.digest = 0

    def chunk(self, number: int) -> "array[int]":
        """Return the moves of 4,096 regions for a write."""
        found = self.chunks.get(number)
        if found is None:
            found = self.chunks[number] = array("i", _ZEROS)
        return found

    def at(self, region: int) -> int:
        """Return the moves of a region."""
        chunk = self.chunks.get(region >> CHUNK_SHIFT)
        return 0 if chunk is None else chunk[region & CHUNK_MASK]

    def gib(self, number: int) -> int:
        """Return the moves of 1 GiB, by gfn >> 18."""
        first = number * GIB_REGIONS
        chunk, place = self.chunks.get(first >> CHUNK_SHIFT), first & CHUNK_MASK
        return 0 if chunk is None else sum(chunk[place : place + GIB_REGIONS])

    def bump(self, region: int, delta: int, *, digesting: bool = False) -> None:
        """Add to the moves of a region."""
        chunk, place = self.chunk(region >> CHUNK_SHIFT), region & CHUNK_MASK
        chunk[place] += delta
        if chunk[place] < 0:
            self.fallen |= {region}
        if digesting:
            self.digest = self.digest + delta * mix(NAMED | region) & U64_MAX

    def take(self, region: int, step: int, *, warned: bool) -> bool:
        """Add a step of one; False, and nothing is done, where it leads below zero and may be warned of."""
        chunk, place = self.chunk(region >> CHUNK_SHIFT), region & CHUNK_MASK
        rest = chunk[place] + step
        if rest < 0 and not warned:
            return False
        chunk[place] = rest
        return True

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield (region, moves) of those that are not zero, in order. Cost: 0.1 ms for 8 GiB that were touched."""
        for number in sorted(self.chunks):
            first = number << CHUNK_SHIFT
            yield from ((first + place, moves) for place, moves in enumerate(self.chunks[number]) if moves)

    def set(self, moves: Iterable[tuple[int, int]], *, digesting: bool) -> None:
        """Make moves that have seen nothing what they were."""
        for region, count in moves:
            self.bump(region, count, digesting=digesting)

    # Sharing between lanes; see Counters.

    def copy(self) -> "LpageMoves":
        """Return moves of one's own that are the same, and give up a share."""
        made = LpageMoves()
        made.chunks = {number: chunk[:] for number, chunk in self.chunks.items()}
        made.fallen, made.digest = self.fallen, self.digest
        self.owners -= 1
        return made

    def equal(self, other: "LpageMoves") -> bool:
        """Tell whether two memslots moved alike. Cost: 1 us for each 8 GiB that were touched."""
        if self is other:
            return True
        mine, theirs = self.chunks, other.chunks
        return all(mine.get(number, _NOTHING) == theirs.get(number, _NOTHING) for number in mine | theirs)
