"""Hold one memslot and its arrays. Source: struct kvm_memory_slot, struct kvm_arch_memory_slot [6.1, 6.12]."""

from typing import Any, Final

import attrs

from replay.kvm.allocator import DIRTY_BITMAP, GFN_WRITE_TRACK, LPAGE_INFO, RMAP, SLOT, Allocation, Batch
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


@attrs.define(eq=False)
class Arch:
    """The arrays that hang on a slot; None is a NULL pointer.

    counts: the counters of gfn_write_track that are not zero. lpage_moves: what is in lpage_info beside them; see lpages.py.
    made: what arrays are named from that are not there yet, when somebody asks; None when all are there.
    """

    rmap: list[Allocation | None] = attrs.field(factory=lambda: [None] * KVM_NR_PAGE_SIZES)
    lpage_info: list[Allocation | None] = attrs.field(factory=lambda: [None] * (KVM_NR_PAGE_SIZES - 1))
    gfn_write_track: Allocation | None = None
    counts: Counters = NO_COUNTERS
    lpage_moves: LpageMoves = attrs.field(factory=LpageMoves)
    made: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        """Name arrays; Python asks for them here when they are not there yet."""
        if name not in _NAMED_OF_ARCH:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        made = self.made
        assert made is not None, "what is not named can be"
        if name == "gfn_write_track":
            self.gfn_write_track = made.piece(GFN_WRITE_TRACK)
            return self.gfn_write_track
        self.rmap = _named(made, RMAP, KVM_NR_PAGE_SIZES)
        self.lpage_info = _named(made, LPAGE_INFO, KVM_NR_PAGE_SIZES - 1)
        self.gfn_write_track = self.gfn_write_track  # named as well, if it is not there
        self.made = None
        return self.rmap if name == "rmap" else self.lpage_info

    def drop_counters(self) -> None:
        """Forget all counters, as their array is freed."""
        if self.counts is not NO_COUNTERS:
            self.counts.release()
            self.counts = NO_COUNTERS
        self.lpage_moves.owners -= 1

    def arrays(self) -> list[Allocation]:
        """List the arrays that are there."""
        return [array for array in (*self.rmap, *self.lpage_info, self.gfn_write_track) if array is not None]


_NAMED_OF_ARCH: Final = frozenset({"rmap", "lpage_info", "gfn_write_track"})


def _named(made: Batch, array: str, count: int) -> list[Allocation | None]:
    """Return the pieces of an array, a NULL pointer for each of them when it was not made."""
    there = array in made.parts.first
    return [made.piece(array, index) if there else None for index in range(count)]


@attrs.define(eq=False)
class Memslot:
    """A memslot at rest. born: number of the event that created it, which with as_id and id names it for ever.

    made: what object and dirty_bitmap are named from when somebody asks; None when they are there.
    """

    as_id: int
    id: int
    base_gfn: int
    npages: int
    flags: int
    userspace_addr: int
    born: int
    object: Allocation
    arch: Arch = attrs.field(factory=Arch)
    dirty_bitmap: Allocation | None = None
    made: Batch | None = None

    def __getattr__(self, name: str) -> Any:
        """Name object or dirty_bitmap; Python asks for them here when they are not there yet."""
        if name not in _NAMED_OF_SLOT:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        assert self.made is not None, "what has no name yet can get one"
        piece = self.made.piece(_NAMED_OF_SLOT[name])
        setattr(self, name, piece)
        return piece

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


_NAMED_OF_SLOT: Final = {"object": SLOT, "dirty_bitmap": DIRTY_BITMAP}
