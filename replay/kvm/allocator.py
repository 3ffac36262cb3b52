"""Take and give back the model's kernel memory in one place: numbered, itemised by array, able to fail.

Every allocation of the model goes through `Allocator.vcalloc()` or `.kzalloc()`. That is what makes bytes itemisable and the
nth allocation failable. Source of the sites' names: the caller column of /proc/vmallocinfo on real kernels.
"""

from collections.abc import Callable
from typing import Final

import attrs

from replay.kvm.leaves import Table
from replay.kvm.release import Release
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


@attrs.define(eq=False)
class Allocation:
    """One live piece of kernel memory. number: serial in this lane, from 1. event: number of the event that made it."""

    number: int
    site: str
    array: str
    cost: Cost
    vm: int
    as_id: int
    slot_id: int
    event: int


@attrs.define
class Tally:
    """Running totals of one array kind: bytes now, at most, and ever; nominal, charged to the memory cgroup, and real."""

    count: int = 0
    live: int = 0
    nominal_now: int = 0
    nominal_peak: int = 0
    nominal_total: int = 0
    charged_now: int = 0
    charged_peak: int = 0
    charged_total: int = 0
    real_now: int = 0
    real_peak: int = 0
    real_total: int = 0

    def take(self, cost: Cost) -> None:
        """Add one allocation."""
        nominal, charged, real = cost.nominal_bytes, cost.charged_bytes, cost.real_bytes
        self.count += 1
        self.live += 1
        self.nominal_total += nominal
        self.charged_total += charged
        self.real_total += real
        self.nominal_now = nominal = self.nominal_now + nominal
        self.charged_now = charged = self.charged_now + charged
        self.real_now = real = self.real_now + real
        grown = nominal - self.nominal_peak
        if grown > 0:
            self.nominal_peak += grown
        grown = charged - self.charged_peak
        if grown > 0:
            self.charged_peak += grown
        grown = real - self.real_peak
        if grown > 0:
            self.real_peak += grown

    def give_back(self, cost: Cost) -> None:
        """Take one allocation off the running bytes."""
        self.live -= 1
        self.nominal_now -= cost.nominal_bytes
        self.charged_now -= cost.charged_bytes
        self.real_now -= cost.real_bytes
        assert self.nominal_now >= 0, "freed more than was taken"


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
    tallies: dict[str, Tally] = attrs.field(factory=lambda: {array: Tally() for array in ARRAYS})
    write_track_by_vm: dict[int, Tally] = attrs.field(factory=dict)
    """gfn_write_track of each VM that ever had one."""
    injections: list[Injection] = attrs.field(factory=list)
    taken: list[Allocation] = attrs.field(factory=list)
    freed: list[Allocation] = attrs.field(factory=list)
    refused: list[tuple[str, str, int]] = attrs.field(factory=list)
    """Since `begin()`: what was allocated, freed, and refused (site, array, nominal bytes)."""
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

    def begin(self, event: int) -> None:
        """Start a new event: forget the last one's effects."""
        self.event = event
        self.taken, self.freed, self.refused = [], [], []

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
        self.number += 1
        made = Allocation(self.number, site, array, cost, vm, slot[0], slot[1], self.event)
        self.tallies[array].take(cost)
        if array == GFN_WRITE_TRACK:
            if vm not in self.write_track_by_vm:
                self.write_track_by_vm[vm] = Tally()
            self.write_track_by_vm[vm].take(cost)
        self.taken.append(made)
        return made

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
        self.tallies[allocation.array].give_back(allocation.cost)
        if allocation.array == GFN_WRITE_TRACK:
            self.write_track_by_vm[allocation.vm].give_back(allocation.cost)
        self.freed.append(allocation)
