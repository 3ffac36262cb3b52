"""Take and give back the model's kernel memory in one place: numbered, itemised by array, able to fail.

Every allocation of the model goes through `Allocator.vcalloc()` or `.kzalloc()`. That is what makes bytes itemisable and the
nth allocation failable. Source of the sites' names: the caller column of /proc/vmallocinfo on real kernels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import attrs

from replay.kvm.leaves import Table
from replay.kvm.release import Release
from replay.kvm.tallies import WAITING_MOST, Books, Delta, Marking, Pieces, Tally
from replay.kvm.vmalloc import Cost, slot_object_cost, vcalloc_cost

# Arrays of a slot, in the order in which a CREATE allocates them (kvm_alloc_memslot_metadata() [6.1, 6.12]).
SLOT: Final = "slot"
DIRTY_BITMAP: Final = "dirty_bitmap"
RMAP: Final = "rmap"
LPAGE_INFO: Final = "lpage_info"
GFN_WRITE_TRACK: Final = "gfn_write_track"
ARRAYS: Final = (SLOT, DIRTY_BITMAP, RMAP, LPAGE_INFO, GFN_WRITE_TRACK)

# Allocating functions as /proc/vmallocinfo names them (seen on 6.1.192, 6.12.117, 6.18.44); the slot objects are kmalloc.
SITE_SLOT: Final = "kvm_set_memory_region"
SITE_INVALID: Final = "kvm_set_memslot(invalid)"
SITE_DIRTY: Final = "kvm_set_memslot"
SITE_RMAP: Final = "memslot_rmap_alloc"
SITE_LPAGE: Final = "kvm_arch_prepare_memory_region"
SITE_WT_CREATE: Final = "kvm_page_track_create_memslot"
SITE_WT_ROOT: Final = "kvm_page_track_write_tracking_alloc"
SITE_WT_REGISTER: Final = "kvm_page_track_register_notifier"
# No kernel does this: the policy ideal makes an array at the first add, out of nobody's memory, so that it can not fail.
SITE_WT_ADD: Final = "first add (ideal)"


class Allocation(NamedTuple):
    """One live piece of kernel memory. number: serial in this lane, from 1. event: number of the event that made it.

    A tuple, because more of these are made than of anything else. Two of one lane are equal only if they are one.
    """

    number: int
    site: str
    array: str
    cost: Cost
    vm: int
    as_id: int
    slot_id: int
    event: int


@attrs.frozen(eq=False)
class Parts:
    """Pieces of memory that come together: (site, array, cost) in order. kinds: what they are, for who made them.

    pages: of the largest one.
    """

    parts: tuple[tuple[str, str, Cost], ...]
    kinds: int
    pages: int = attrs.field(init=False)
    first: dict[str, int] = attrs.field(init=False)
    """Place of the first piece of each array."""

    @pages.default
    def _pages(self) -> int:
        return max((cost.pages for _site, _array, cost in self.parts), default=0)

    @first.default
    def _first(self) -> dict[str, int]:
        return {array: place for place, (_site, array, _cost) in reversed(list(enumerate(self.parts)))}

    def freed(self, _made: "Batch | None", _old: Any) -> list[Allocation]:
        """Return what is freed when they come, in order. old: the memslot whose memory it was."""
        return []


class Batch(NamedTuple):
    """Pieces of memory that one slot got at once, which are numbered from `number` on; each is named when it is asked for."""

    parts: Parts
    number: int
    vm: int
    as_id: int
    slot_id: int
    event: int

    def piece(self, array: str, index: int = 0) -> Allocation:
        """Return the allocation of an array, of those of its kind the one of some index. Raises KeyError when there is none."""
        parts, number, vm, as_id, slot_id, event = self
        place = parts.first[array] + index
        site, array, cost = parts.parts[place]
        return _new_tuple(Allocation, (number + place, site, array, cost, vm, as_id, slot_id, event))

    def pieces(self) -> list[Allocation]:
        """Return all allocations, in order."""
        parts, number, vm, as_id, slot_id, event = self
        return [
            _new_tuple(Allocation, (at, site, array, cost, vm, as_id, slot_id, event))
            for at, (site, array, cost) in enumerate(parts.parts, number)
        ]


_new_tuple: Final = tuple.__new__
batch_of: Final = partial(tuple.__new__, Batch)
"""Make a batch of a tuple of its fields."""


UNNAMED: Final = Allocation(0, "", "", Cost(0, 0, 0, 0, 0), 0, 0, 0, 0)
"""Stands for an allocation that has no name yet."""


@attrs.define(eq=False)
class Effects:
    """What one event did to memory.

    refused: (site, array, nominal bytes) that failed. marks: what was taken and freed, in order, in a form that is soon compared;
    to be read only. made: what was allocated in one go; None when it was step by step. old: the slot whose memory was freed then.
    raw_...: taken and freed; None until somebody asks.
    """

    refused: list[tuple[str, str, int]] = attrs.field(factory=list)
    marks: list[Marking] = attrs.field(factory=list)
    made: Batch | None = None
    old: Any = attrs.field(default=None, repr=False)
    raw_taken: list[Allocation] | None = attrs.field(default=None, alias="taken")
    raw_freed: list[Allocation] | None = attrs.field(default=None, alias="freed")

    @property
    def taken(self) -> list[Allocation]:
        """What was allocated, in order."""
        if self.raw_taken is None:
            self.raw_taken = [] if self.made is None else self.made.pieces()
        return self.raw_taken

    @taken.setter
    def taken(self, pieces: list[Allocation]) -> None:
        self.raw_taken = pieces

    @property
    def freed(self) -> list[Allocation]:
        """What was freed, in order."""
        if self.raw_freed is None:
            self.raw_freed = [] if self.made is None else self.made.parts.freed(self.made, self.old)
        return self.raw_freed

    @freed.setter
    def freed(self, pieces: list[Allocation]) -> None:
        self.raw_freed = pieces


@attrs.define
class Injection:
    """A fail-nth injection: the nth allocation that matches fails, and count - 1 after it (0: all after it)."""

    vm: int | None
    site: str
    nth: int
    count: int
    seen: int = 0

    def hits(self, site: str, array: str, vm: int) -> bool:
        """Count one allocation and tell whether it must fail."""
        if (self.site and self.site not in (site, array)) or (self.vm is not None and self.vm != vm):
            return False
        self.seen += 1
        return self.seen >= self.nth and (not self.count or self.seen < self.nth + self.count)


@attrs.define
class Allocator:
    """All kernel memory of one lane.

    limit_pages: what the memory cgroup may still be charged, None for no limit. total_ram_pages: a single array larger than
    this fails at once (mm/vmalloc.c __vmalloc_node_range() [6.1, 6.12]), 0 for no limit. slot_object: what one memslot object
    takes.
    """

    total_ram_pages: int = 0
    slot_object: Cost = attrs.field(factory=lambda: slot_object_cost(Release(6, 12)))
    limit_pages: int | None = None
    number: int = 0
    event: int = 0
    books: Books = attrs.field(factory=lambda: Books(ARRAYS, GFN_WRITE_TRACK), repr=False)
    injections: list[Injection] = attrs.field(factory=list)
    effects: Effects = attrs.field(factory=Effects)
    """What was done since `begin()`."""
    forced: Callable[[str, str], bool] | None = None
    """Set for one call whose recorded -ENOMEM nobody attributed: refuses the allocation that the lane chooses."""

    counters: Table = attrs.field(factory=Table, repr=False)
    """What is in the write-track arrays of all VMs."""
    driver_counts: Table = attrs.field(factory=lambda: Table("I"), repr=False)
    """What is in the tables of external users; 2^32 outstanding adds of one gfn take hours of recording."""

    @property
    def explains_failures(self) -> bool:
        """Whether the recording says which allocations fail, by injections or a limit of the memory cgroup."""
        return bool(self.injections) or self.limit_pages is not None

    @property
    def tallies(self) -> dict[str, Tally]:
        """Running totals by array."""
        return self.books.tallies()

    @property
    def write_track_by_vm(self) -> dict[int, Tally]:
        """Running totals of gfn_write_track of each VM that ever had one."""
        return self.books.by_vm()

    @property
    def taken(self) -> list[Allocation]:
        """What was allocated since `begin()`."""
        return self.effects.taken

    @property
    def freed(self) -> list[Allocation]:
        """What was freed since `begin()`."""
        return self.effects.freed

    @property
    def refused(self) -> list[tuple[str, str, int]]:
        """What failed since `begin()`: (site, array, nominal bytes)."""
        return self.effects.refused

    def begin(self, event: int, effects: Effects | None = None) -> None:
        """Start a new event: forget the last one's effects. effects: where to put those of this one."""
        self.event = event
        self.effects = Effects() if effects is None else effects
        if len(self.books.waiting) > WAITING_MOST:
            self.books.work_in()

    def vcalloc(self, site: str, array: str, nominal_bytes: int, vm: int, slot: tuple[int, int]) -> Allocation | None:
        """Allocate an array of a slot; None is -ENOMEM. Source: mm/util.c __vcalloc() [6.1, 6.12]."""
        cost = vcalloc_cost(nominal_bytes)
        if not self.total_ram_pages:
            return self._take(site, array, cost, vm, slot)
        return self._take(site, array, cost, vm, slot, refuse=cost.pages > self.total_ram_pages)

    def kzalloc(self, site: str, vm: int, slot: tuple[int, int]) -> Allocation | None:
        """Allocate a slot object with GFP_KERNEL_ACCOUNT; None is -ENOMEM. Source: virt/kvm/kvm_main.c."""
        return self._take(site, SLOT, self.slot_object, vm, slot)

    def _take(
        self, site: str, array: str, cost: Cost, vm: int, slot: tuple[int, int], *, refuse: bool = False
    ) -> Allocation | None:
        limited = refuse or self.injections or self.forced is not None or self.limit_pages is not None
        if limited and site != SITE_WT_ADD and self._fails(site, array, cost, vm, refuse=refuse):
            self.effects.refused.append((site, array, cost.nominal_bytes))
            return None
        self.number = number = self.number + 1
        made = Allocation(number, site, array, cost, vm, slot[0], slot[1], self.event)
        self._note((cost.deltas.get(array) or _deltas(array, cost))[0], vm)
        self.effects.taken.append(made)
        return made

    def _note(self, delta: Delta, vm: int) -> None:
        self.books.note(delta, vm)
        self.effects.marks += delta.marks

    def _fails(self, site: str, array: str, cost: Cost, vm: int, *, refuse: bool) -> bool:
        """Tell whether an allocation fails: by an injection, for its size, because the lane wants it, by the cgroup's limit."""
        return self._hit(site, array, vm) or refuse or self._forces(site, array) or not self._charge(cost)

    def _hit(self, site: str, array: str, vm: int) -> bool:
        """Let every injection count the allocation; tell whether one of them makes it fail."""
        hits = [injection.hits(site, array, vm) for injection in self.injections]
        return any(hits)

    def _forces(self, site: str, array: str) -> bool:
        """Tell whether the lane makes an allocation fail that nothing else refuses."""
        return self.forced is not None and self.forced(site, array)

    def _charge(self, cost: Cost) -> bool:
        """Charge the memory cgroup; False when its limit is reached."""
        if self.limit_pages is None:
            return True
        if cost.pages > self.limit_pages:
            return False
        self.limit_pages -= cost.pages
        return True

    def free(self, allocation: Allocation | None) -> None:
        """Give memory back; None is allowed, as kvfree() and kfree() allow NULL."""
        if allocation is None:
            return
        if self.limit_pages is not None and allocation.site != SITE_WT_ADD:
            self.limit_pages += allocation.cost.pages
        cost, array = allocation.cost, allocation.array
        self._note((cost.deltas.get(array) or _deltas(array, cost))[1], allocation.vm)
        self.effects.freed.append(allocation)


_BOOKS: Final = Books(ARRAYS, GFN_WRITE_TRACK)
"""Books without entries, which say what a delta is."""


def _deltas(array: str, cost: Cost) -> tuple[Delta, Delta]:
    """Return what it changes to take one array of some cost, and to give it back; the cost remembers it."""
    one = [(array, cost)]
    cost.deltas[array] = both = delta_of(one, []), delta_of([], one)
    return both


def delta_of(taken: Pieces, freed: Pieces) -> Delta:
    """Return what it changes to take some pieces, and then to give others back. Source: see the module."""
    return _BOOKS.delta_of(taken, freed, unsized=SLOT)
