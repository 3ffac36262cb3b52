"""Make the flips of allocation: sizes, prices, limits, failures, the order of arrays, and what is freed."""

import functools
from collections.abc import Callable, Iterator

import attrs
from flips import Flip, Hand

from replay.kvm import mmu, page_track, set_memslot, vmalloc
from replay.kvm.allocator import (
    ARRAYS,
    DIRTY_BITMAP,
    SITE_DIRTY,
    SITE_INVALID,
    SITE_LPAGE,
    SITE_RMAP,
    SITE_SLOT,
    SITE_WT_CREATE,
    SITE_WT_REGISTER,
    SITE_WT_ROOT,
    SLOT,
    Allocation,
    Allocator,
    Injection,
)
from replay.kvm.memory_region import FLAGS_ONLY
from replay.kvm.memslot import KVM_NR_PAGE_SIZES, Memslot, lpages
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import Cost
from replay.units import ENOMEM, PAGE_SIZE_BYTES

TRUE_PREPARE = set_memslot.kvm_prepare_memory_region
TRUE_HAVE_RMAPS = Vm.have_rmaps
TRUE_VCALLOC = Allocator.vcalloc
TRUE_FREE = Allocator.free
TRUE_CHARGE = Allocator._charge
TRUE_HITS = Injection.hits
UNWOUND = (SITE_SLOT, SITE_INVALID, SITE_DIRTY, SITE_RMAP, SITE_LPAGE, SITE_WT_CREATE, SITE_WT_REGISTER, SITE_WT_ROOT)


def method(owner: type, name: str, value: object) -> Callable[[Hand], None]:
    """Return a change that replaces a method."""
    return lambda hand: hand.put(owner, name, value)


def function(old: object, new: object) -> Callable[[Hand], None]:
    """Return a change that replaces a function wherever it is known."""
    return lambda hand: hand.everywhere(old, new)


def number(name: str, value: object) -> Callable[[Hand], None]:
    """Return a change of a constant."""
    return lambda hand: hand.number(name, value)


def _sized(which: str, size: Callable[[int], int]) -> Callable[..., Allocation | None]:
    def vcalloc(self: Allocator, site: str, array: str, nominal_bytes: int, vm: int, slot: tuple[int, int]) -> Allocation | None:
        return TRUE_VCALLOC(self, site, array, size(nominal_bytes) if array == which else nominal_bytes, vm, slot)

    return vcalloc


def sizes() -> Iterator[Flip]:
    """Change what each array takes."""
    for array in ARRAYS[1:]:
        yield Flip(f"{array} twice as large", method(Allocator, "vcalloc", _sized(array, lambda size: 2 * size)))
        yield Flip(f"{array} half as large", method(Allocator, "vcalloc", _sized(array, lambda size: -(-size // 2))))
        yield Flip(f"{array} a page larger", method(Allocator, "vcalloc", _sized(array, lambda size: size + PAGE_SIZE_BYTES)))
    yield Flip("lpages: one more", function(lpages, lambda base, npages, level: lpages(base, npages, level) + 1))
    yield Flip("lpages: one less", function(lpages, lambda base, npages, level: max(1, lpages(base, npages, level) - 1)))
    yield Flip("lpages: start not asked", function(lpages, lambda _base, npages, level: -(-npages >> 9 * (level - 1))))
    yield Flip("lpages: levels of 1024", function(lpages, lambda base, npages, level: _lpages(base, npages, 10 * (level - 1))))
    yield Flip("two page sizes", lambda hand: hand.put(mmu, "KVM_NR_PAGE_SIZES", 2))
    yield Flip("rmaps where none are needed", method(Vm, "have_rmaps", lambda self: not TRUE_HAVE_RMAPS(self)))
    yield Flip("rmaps always", method(Vm, "have_rmaps", lambda _self: True))
    yield Flip("rmaps never", method(Vm, "have_rmaps", lambda _self: False))
    yield Flip("rmaps: shadow root not asked", method(Vm, "have_rmaps", lambda self: not self.profile.tdp_mmu_enabled))
    yield Flip(
        "rmaps: tdp_mmu not asked", method(Vm, "have_rmaps", lambda self: self.shadow_root_allocated or not self.profile.tdp)
    )


def _lpages(base: int, npages: int, shift: int) -> int:
    return ((base + npages - 1) >> shift) - (base >> shift) + 1


def _priced(threshold_bytes: int, kmalloc: Callable[[int], int], more: int = 0) -> Callable[[int], Cost]:
    def cost(nominal_bytes: int) -> Cost:
        pages = -(-nominal_bytes // PAGE_SIZE_BYTES) + more
        pointers = 8 * pages
        if pointers <= threshold_bytes:
            return Cost(nominal_bytes, pages, 1, pages, pages * PAGE_SIZE_BYTES + kmalloc(pointers))
        nested = cost(pointers)
        real = pages * PAGE_SIZE_BYTES + nested.real_bytes
        return Cost(nominal_bytes, pages, 1 + nested.areas, pages + nested.area_pages, real)

    return cost


def prices() -> Iterator[Flip]:
    """Change what an allocation costs in real memory."""
    true, kmalloc = vmalloc._vcalloc_cost, vmalloc.kmalloc_class_bytes
    yield Flip("page pointers nested from 1024 pages on", function(true, _priced(2 * PAGE_SIZE_BYTES, lambda size: size)))
    yield Flip("page pointers nested from 512 pages on", function(true, _priced(PAGE_SIZE_BYTES - 1, kmalloc)))
    yield Flip("page pointers never nested", function(true, _priced(1 << 60, lambda size: size)))
    yield Flip("page pointers not in slab classes", function(true, _priced(PAGE_SIZE_BYTES, lambda size: size)))
    yield Flip("page pointers in powers of two", function(kmalloc, lambda size: max(8, 1 << (size - 1).bit_length())))
    yield Flip("an array of a page more", function(true, _priced(PAGE_SIZE_BYTES, kmalloc, 1)))
    yield Flip("a slot object of 264 bytes", number("SLOT_OBJECT_SIZES_BYTES", (((0, 0), 264),)))
    yield Flip("a slot object of 280 bytes", number("SLOT_OBJECT_SIZES_BYTES", (((0, 0), 280),)))
    yield Flip("a slot object in a slab of 256 bytes", number("SLOT_OBJECT_REAL_BYTES", 256))


def _no_ram(self: Allocator, site: str, array: str, nominal_bytes: int, vm: int, slot: tuple[int, int]) -> Allocation | None:
    return self._take(site, array, vmalloc.vcalloc_cost(nominal_bytes), vm, slot, refuse=False)


def _charge_less(self: Allocator, cost: Cost) -> bool:
    return TRUE_CHARGE(self, attrs.evolve(cost, pages=cost.pages - 1))


def _charge_areas(self: Allocator, cost: Cost) -> bool:
    return TRUE_CHARGE(self, attrs.evolve(cost, pages=cost.area_pages))


def _first_hit(self: Allocator, site: str, array: str, vm: int) -> bool:
    return any(injection.hits(site, array, vm) for injection in self.injections)


def _charge_last(self: Allocator, cost: Cost) -> bool:
    return self.limit_pages is None or (cost.pages < self.limit_pages and TRUE_CHARGE(self, cost))


def _hits(change: Callable[[Injection], Injection]) -> Callable[..., bool]:
    def hits(self: Injection, site: str, array: str, vm: int) -> bool:
        other = change(self)
        answer = TRUE_HITS(other, site, array, vm)
        self.seen = other.seen
        return answer

    return hits


def failures() -> Iterator[Flip]:
    """Change when an allocation fails."""
    yield Flip("an array larger than RAM is tried", method(Allocator, "vcalloc", _no_ram))
    yield Flip("no limit of the memory cgroup", method(Allocator, "_charge", lambda _self, _cost: True))
    yield Flip("charged a page less", method(Allocator, "_charge", _charge_less))
    yield Flip("pointer arrays charged too", method(Allocator, "_charge", _charge_areas))
    yield Flip("the last page of the limit is not given", method(Allocator, "_charge", _charge_last))
    yield Flip("an injection counts only until another hits", method(Allocator, "_hit", _first_hit))
    changes: dict[str, Callable[[Injection], Injection]] = {
        "one later": lambda one: attrs.evolve(one, nth=one.nth + 1),
        "for ever": lambda one: attrs.evolve(one, count=0),
        "at every site": lambda one: attrs.evolve(one, site=""),
        "in every VM": lambda one: attrs.evolve(one, vm=None),
    }
    for how, change in changes.items():
        yield Flip(f"an injection hits {how}", method(Injection, "hits", _hits(change)))


def _kept(held: Callable[[Allocator, Allocation], bool]) -> Callable[..., None]:
    def free(self: Allocator, allocation: Allocation | None) -> None:
        if allocation is None or not held(self, allocation):
            TRUE_FREE(self, allocation)

    return free


def _kept_of_event(site: str) -> Callable[..., None]:
    return _kept(lambda self, one: one.site == site and one.event == self.event)


def _kept_of_array(array: str) -> Callable[..., None]:
    return _kept(lambda self, one: one.array == array and one.event != self.event)


def _free_uncharged(self: Allocator, allocation: Allocation | None) -> None:
    limit = self.limit_pages
    TRUE_FREE(self, allocation)
    self.limit_pages = limit


def frees() -> Iterator[Flip]:
    """Leave out what is freed: by a failure in the same call (unwinding), and when a slot goes."""
    for site in UNWOUND:
        yield Flip(f"unwinding leaves what {site} made", method(Allocator, "free", _kept_of_event(site)))
    for array in (SLOT, *ARRAYS[1:]):
        yield Flip(f"{array} not freed with its slot", method(Allocator, "free", _kept_of_array(array)))
    yield Flip("freed memory stays charged", method(Allocator, "free", _free_uncharged))
    yield Flip("a level of rmaps that fails leaves those before", function(mmu.memslot_rmap_alloc, _rmap_alloc(keep=True)))
    yield Flip("rmaps are made again", function(mmu.memslot_rmap_alloc, _rmap_alloc(again=True)))
    yield Flip("a failed create leaves its arrays", function(mmu.kvm_alloc_memslot_metadata, _metadata("rlw", unwind=False)))


def _rmap_alloc(*, keep: bool = False, again: bool = False) -> Callable[[Vm, Memslot], bool]:
    def alloc(vm: Vm, slot: Memslot) -> bool:
        for index in range(KVM_NR_PAGE_SIZES):
            if slot.arch.rmap[index] is not None and not again:
                continue
            count = lpages(slot.base_gfn, slot.npages, index + 1)
            slot.arch.rmap[index] = vm.allocator.vcalloc(SITE_RMAP, "rmap", 8 * count, vm.number, slot.key)
            if slot.arch.rmap[index] is None:
                if not keep:
                    mmu.memslot_rmap_free(vm.allocator, slot)
                return False
        return True

    return alloc


def _metadata(order: str, *, unwind: bool = True) -> Callable[[Vm, Memslot], bool]:
    def alloc(vm: Vm, slot: Memslot) -> bool:
        steps: dict[str, Callable[[], bool]] = {
            "r": lambda: not vm.have_rmaps() or mmu.memslot_rmap_alloc(vm, slot),
            "l": lambda: mmu._lpage_info_alloc(vm, slot),
            "w": lambda: page_track.kvm_page_track_create_memslot(vm, slot),
        }
        if all(steps[letter]() for letter in order):
            return True
        if unwind:
            mmu.kvm_arch_free_memslot(vm.allocator, slot)
        return False

    return alloc


def _bitmap_last(vm: Vm, old: Memslot | None, new: Memslot | None, change: str) -> tuple[int, str]:
    if new is None or not new.logs_dirty or (old is not None and old.dirty_bitmap is not None):
        return TRUE_PREPARE(vm, old, new, change)
    ret, why = set_memslot.kvm_arch_prepare_memory_region(vm, old, new, change)
    if ret or not vm.bitmap_mode():
        return ret, why
    nominal = 2 * 8 * -(-new.npages // 64)
    new.dirty_bitmap = vm.allocator.vcalloc(SITE_DIRTY, DIRTY_BITMAP, nominal, vm.number, new.key)
    if new.dirty_bitmap is not None:
        return 0, ""
    if change != FLAGS_ONLY:
        mmu.kvm_arch_free_memslot(vm.allocator, new)
    return -ENOMEM, "dirty_bitmap"


def _root(order: str) -> Callable[[Vm], int]:
    def alloc(vm: Vm) -> int:
        if vm.shadow_root_allocated:
            return 0
        if not (vm.have_rmaps() and page_track.kvm_page_track_write_tracking_enabled(vm)):
            steps: dict[str, Callable[[Memslot], bool]] = {
                "r": lambda slot: mmu.memslot_rmap_alloc(vm, slot),
                "w": lambda slot: mmu._write_tracking_of_root(vm, slot),
            }
            for slot in vm.slots():
                if not all(steps[letter](slot) for letter in order.lower()):
                    vm.shadow_root_allocated |= order.isupper()
                    return -ENOMEM
        vm.shadow_root_allocated = True
        return 0

    return alloc


def orders() -> Iterator[Flip]:
    """Change the order in which arrays are made, and what a first shadow root does."""
    true, root = mmu.kvm_alloc_memslot_metadata, mmu.mmu_first_shadow_root_alloc
    for order in ("lrw", "rwl", "wrl"):
        yield Flip(f"arrays of a slot in the order {order}", function(true, _metadata(order)))
    yield Flip("dirty bitmap after the arch arrays", function(set_memslot.kvm_prepare_memory_region, _bitmap_last))
    yield Flip("shadow root: write tracking before rmaps", function(root, _root("wr")))
    yield Flip("shadow root: no rmaps", function(root, _root("w")))
    yield Flip("shadow root: no write tracking", function(root, _root("r")))
    yield Flip("shadow root: a failure sets the flag", function(root, _root("RW")))
    yield Flip("shadow root: v2 like the others", function(root, _root("rw")))
    yield Flip("shadow root: a failure is no failure", function(root, lambda vm: min(0, root(vm)) * 0))
    yield Flip("shadow root: not remembered", function(root, functools.partial(_forgetful, root)))


def _forgetful(root: Callable[[Vm], int], vm: Vm) -> int:
    ret = root(vm)
    vm.shadow_root_allocated = False
    return ret


def memory_flips() -> list[Flip]:
    """Return the flips of allocation."""
    return [*sizes(), *prices(), *failures(), *frees(), *orders()]
