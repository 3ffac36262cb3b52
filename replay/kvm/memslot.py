"""Hold one memslot and its arrays. Source: struct kvm_memory_slot, struct kvm_arch_memory_slot [6.1, 6.12]."""

from typing import Any, Final

import attrs

from replay.kvm.allocator import DIRTY_BITMAP, GFN_WRITE_TRACK, LPAGE_INFO, RMAP, SLOT, UNNAMED, Allocation, Batch
from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.lpage_moves import LpageMoves
from replay.kvm.uapi import KVM_MEM_LOG_DIRTY_PAGES

KVM_NR_PAGE_SIZES: Final = 3


def lpages(base_gfn: int, npages: int, level: int) -> int:
    """Return how many pages of a level a slot touches; level 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB.

    Source: arch/x86/kvm/mmu.h __kvm_mmu_slot_lpages() [6.1, 6.12].

    >>> lpages(0, 512, 2), lpages(1, 512, 2)
    (1, 2)
    """
    shift = 9 * (level - 1)
    return ((base_gfn + npages - 1) >> shift) - (base_gfn >> shift) + 1


_bare: Final[Any] = object.__new__
_NONE_YET: Final[list[Allocation | None]] = []
"""Stands for arrays that have no name yet."""


@attrs.define(eq=False)
class Arch:
    """The arrays that hang on a slot; None is a NULL pointer.

    counts: the counters of gfn_write_track that are not zero. lpage_moves: what is in lpage_info beside them; see lpages.py.
    raw_...: arrays that may have no name yet; made: what they are named from, None when all are.
    """

    raw_rmap: list[Allocation | None] = attrs.field(factory=lambda: [None] * KVM_NR_PAGE_SIZES, alias="rmap")
    raw_lpage_info: list[Allocation | None] = attrs.field(factory=lambda: [None] * (KVM_NR_PAGE_SIZES - 1), alias="lpage_info")
    raw_write_track: Allocation | None = attrs.field(default=None, alias="gfn_write_track")
    counts: Counters = NO_COUNTERS
    lpage_moves: LpageMoves = attrs.field(factory=LpageMoves)
    made: Batch | None = None

    @classmethod
    def of(cls, made: Batch, *, tracked: bool) -> "Arch":
        """Return what was made of a batch, without anything that is counted: that is the caller's to add."""
        arch: Arch = _bare(cls)
        arch.raw_rmap = arch.raw_lpage_info = _NONE_YET
        arch.raw_write_track = UNNAMED if tracked else None
        arch.made = made
        return arch

    @property
    def rmap(self) -> list[Allocation | None]:
        """The rmaps by level. Source: struct kvm_arch_memory_slot."""
        if self.raw_rmap is _NONE_YET:
            self._name_all()
        return self.raw_rmap

    @property
    def lpage_info(self) -> list[Allocation | None]:
        """The lpage_info of levels 2 and 3. Source: struct kvm_arch_memory_slot."""
        if self.raw_lpage_info is _NONE_YET:
            self._name_all()
        return self.raw_lpage_info

    @property
    def gfn_write_track(self) -> Allocation | None:
        """The counters' array. Source: struct kvm_arch_memory_slot."""
        if self.raw_write_track is UNNAMED and self.made is not None:
            self.raw_write_track = self.made.piece(GFN_WRITE_TRACK)
        return self.raw_write_track

    @gfn_write_track.setter
    def gfn_write_track(self, array: Allocation | None) -> None:
        self.raw_write_track = array

    def _name_all(self) -> None:
        self.raw_write_track, made = self.gfn_write_track, self.made
        assert made is not None, "what is not named can be"
        self.raw_rmap = _named(made, RMAP, KVM_NR_PAGE_SIZES)
        self.raw_lpage_info = _named(made, LPAGE_INFO, KVM_NR_PAGE_SIZES - 1)
        self.made = None

    def drop_counters(self) -> None:
        """Forget all counters, as their array is freed."""
        if self.counts is not NO_COUNTERS:
            self.counts.release()
            self.counts = NO_COUNTERS
        self.lpage_moves.owners -= 1

    def arrays(self) -> list[Allocation]:
        """List the arrays that are there."""
        return [array for array in (*self.rmap, *self.lpage_info, self.gfn_write_track) if array is not None]


def _named(made: Batch, array: str, count: int) -> list[Allocation | None]:
    """Return the pieces of an array, a NULL pointer for each of them when it was not made."""
    there = array in made.parts.first
    return [made.piece(array, index) if there else None for index in range(count)]


@attrs.define(eq=False)
class Memslot:
    """A memslot at rest. born: number of the event that created it, which with as_id and id names it for ever.

    raw_...: object and dirty_bitmap, which may have no name yet; made: what they are named from, None when they had one at once.
    """

    as_id: int
    id: int
    base_gfn: int
    npages: int
    flags: int
    userspace_addr: int
    born: int
    raw_object: Allocation = attrs.field(alias="object")
    arch: Arch = attrs.field(factory=Arch)
    raw_bitmap: Allocation | None = attrs.field(default=None, alias="dirty_bitmap")
    made: Batch | None = None

    @property
    def object(self) -> Allocation:
        """The slot object itself. Source: struct kvm_memory_slot."""
        if self.raw_object is UNNAMED and self.made is not None:
            self.raw_object = self.made.piece(SLOT)
        return self.raw_object

    @property
    def dirty_bitmap(self) -> Allocation | None:
        """Both halves of the dirty bitmap. Source: struct kvm_memory_slot."""
        if self.raw_bitmap is UNNAMED and self.made is not None:
            self.raw_bitmap = self.made.piece(DIRTY_BITMAP)
        return self.raw_bitmap

    @dirty_bitmap.setter
    def dirty_bitmap(self, array: Allocation | None) -> None:
        self.raw_bitmap = array

    @property
    def key(self) -> tuple[int, int]:
        """Address space and id."""
        return (self.as_id, self.id)

    @property
    def end_gfn(self) -> int:
        """First gfn after the slot."""
        return self.base_gfn + self.npages

    @property
    def logs_dirty(self) -> bool:
        """Whether dirty logging is on."""
        return bool(self.flags & KVM_MEM_LOG_DIRTY_PAGES)
