"""Take and give back the model's kernel memory in one place: numbered, itemised by array, able to fail.

Every allocation of the model goes through `Allocator.vcalloc()` or `.kzalloc()`. That is what makes bytes itemisable and the
nth allocation failable. Source of the sites' names: the caller column of /proc/vmallocinfo on real kernels.
"""

from collections.abc import Callable
from functools import partial
from itertools import count, repeat
from typing import Any, Final, NamedTuple

import attrs

from replay.kvm.leaves import Table
from replay.kvm.release import Release
from replay.kvm.tallies import WAITING_MOST, Books, Delta, Marking, Tally
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


_allocation: Final = partial(tuple.__new__, Allocation)


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
    taken: list[Allocation] = attrs.field(factory=list)
    freed: list[Allocation] = attrs.field(factory=list)
    refused: list[tuple[str, str, int]] = attrs.field(factory=list)
    """Since `begin()`: what was allocated, freed, and refused (site, array, nominal bytes)."""
    marks: list[Marking] = attrs.field(factory=list)
    """Since `begin()`: what was taken and given back, in order, in a form that is soon compared."""
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

    def begin(self, event: int) -> None:
        """Start a new event: forget the last one's effects."""
        self.event = event
        self.taken, self.freed, self.refused, self.marks = [], [], [], []
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
            self.refused.append((site, array, cost.nominal_bytes))
            return None
        self.number = number = self.number + 1
        made = Allocation(number, site, array, cost, vm, slot[0], slot[1], self.event)
        self._note((cost.deltas.get(array) or _deltas(array, cost))[0], vm)
        self.taken.append(made)
        return made

    def _note(self, delta: Delta, vm: int) -> None:
        self.books.note(delta, vm)
        self.marks.append(delta.mark)

    def take_all(self, parts: "Parts", vm: int, slot: tuple[int, int]) -> list[Allocation]:
        """Allocate pieces of a slot of which none can fail: nothing limits, forces or injects; see at_once.py."""
        number, event, (as_id, slot_id) = self.number + 1, self.event, slot
        if parts.single is not None:
            made = [Allocation(number, *parts.single, vm, as_id, slot_id, event)]
        else:
            ours = repeat(vm), repeat(as_id), repeat(slot_id), repeat(event)
            made = list(map(_allocation, zip(count(number), *parts.columns, *ours, strict=False)))
        self.number += len(made)
        self.taken += made
        self.books.note(parts.taking, vm)
        self.marks.append(parts.taking.mark)
        return made

    def free_all(self, pieces: list[Allocation], parts: "Parts", vm: int) -> None:
        """Give pieces of a slot back that cost what the parts do, while there is no limit that they were charged to."""
        self.freed += pieces
        self.books.note(parts.freeing, vm)
        self.marks.append(parts.freeing.mark)

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
        self.freed.append(allocation)


_BOOKS: Final = Books(ARRAYS, GFN_WRITE_TRACK)
"""Books without entries, which say what a delta is."""


def _deltas(array: str, cost: Cost) -> tuple[Delta, Delta]:
    """Return what it changes to take one array of some cost, and to give it back; the cost remembers it."""
    taking, freeing = (_BOOKS.delta_of([(array, cost)], sign, unsized=SLOT) for sign in (1, -1))
    cost.deltas[array] = taking, freeing
    return taking, freeing


@attrs.frozen(eq=False)
class Parts:
    """Arrays of a slot that come, or go, together: (site, array, cost) in order; pages: of the largest one."""

    parts: tuple[tuple[str, str, Cost], ...]
    single: tuple[str, str, Cost] | None = attrs.field(init=False)
    columns: tuple[tuple[Any, ...], ...] = attrs.field(init=False)
    pages: int = attrs.field(init=False)
    taking: Delta = attrs.field(init=False)
    freeing: Delta = attrs.field(init=False)

    @single.default
    def _single(self) -> tuple[str, str, Cost] | None:
        return self.parts[0] if len(self.parts) == 1 else None

    @columns.default
    def _columns(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(zip(*self.parts, strict=True))

    @pages.default
    def _pages(self) -> int:
        return max(cost.pages for _site, _array, cost in self.parts)

    @taking.default
    def _taking(self) -> Delta:
        return _BOOKS.delta_of([(array, cost) for _site, array, cost in self.parts], 1, unsized=SLOT)

    @freeing.default
    def _freeing(self) -> Delta:
        return _BOOKS.delta_of([(array, cost) for _site, array, cost in self.parts], -1, unsized=SLOT)
