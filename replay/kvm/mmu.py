"""Model the parts of the MMU that touch write tracking: per-slot metadata, the first shadow root, shadow-page accounting.

Source: arch/x86/kvm/x86.c, arch/x86/kvm/mmu/mmu.c [6.1.192, 6.12.117].
"""

from replay.kvm.allocator import LPAGE_INFO, RMAP, SITE_LPAGE, SITE_RMAP, SITE_WT_ROOT, Allocator
from replay.kvm.kernel_log import NO_SLOT
from replay.kvm.lpages import update_gfn_disallow_lpage_count
from replay.kvm.memslot import KVM_NR_PAGE_SIZES, Memslot, lpages
from replay.kvm.page_track import (
    kvm_page_track_create_memslot,
    kvm_page_track_write_tracking_enable,
    kvm_page_track_write_tracking_enabled,
    kvm_write_track_gfn,
    write_tracking_alloc,
)
from replay.kvm.vm import Vm
from replay.units import ENOMEM, PAGE_SHIFT


def kvm_mmu_max_gfn(vm: Vm) -> int:
    """Return the largest gfn that a slot may hold; 52 bits without tdp. Source: mmu.h kvm_mmu_max_gfn() [6.1, 6.12]."""
    bits = vm.profile.max_phys_bits if vm.profile.tdp else 52
    return (1 << (bits - PAGE_SHIFT)) - 1


def memslot_rmap_alloc(vm: Vm, slot: Memslot) -> bool:
    """Allocate a slot's rmaps, level by level, idempotent; a failure frees all levels of the slot. False is -ENOMEM.

    Source: arch/x86/kvm/x86.c memslot_rmap_alloc() [6.1, 6.12].
    """
    rmap = slot.arch.rmap
    for index in range(KVM_NR_PAGE_SIZES):
        if rmap[index] is not None:
            continue
        count = lpages(slot.base_gfn, slot.npages, index + 1)
        rmap[index] = vm.allocator.vcalloc(SITE_RMAP, RMAP, 8 * count, vm.number, slot.key)
        if rmap[index] is None:
            memslot_rmap_free(vm.allocator, slot)
            return False
    return True


def memslot_rmap_free(allocator: Allocator, slot: Memslot) -> None:
    """Free all rmap levels of a slot. Source: arch/x86/kvm/x86.c memslot_rmap_free() [6.1, 6.12]."""
    for index, array in enumerate(slot.arch.rmap):
        allocator.free(array)
        slot.arch.rmap[index] = None


def kvm_alloc_memslot_metadata(vm: Vm, slot: Memslot) -> bool:
    """Allocate the arrays of a new or moved slot: rmaps if needed, lpage_info, write tracking if enabled.

    All or nothing; False is -ENOMEM. Source: arch/x86/kvm/x86.c kvm_alloc_memslot_metadata() [6.1, 6.12].
    """
    if vm.have_rmaps() and not memslot_rmap_alloc(vm, slot):
        return False
    if _lpage_info_alloc(vm, slot) and kvm_page_track_create_memslot(vm, slot):
        return True
    kvm_arch_free_memslot(vm.allocator, slot)
    return False


def _lpage_info_alloc(vm: Vm, slot: Memslot) -> bool:
    for index in range(KVM_NR_PAGE_SIZES - 1):
        count = lpages(slot.base_gfn, slot.npages, index + 2)
        slot.arch.lpage_info[index] = vm.allocator.vcalloc(SITE_LPAGE, LPAGE_INFO, 4 * count, vm.number, slot.key)
        if slot.arch.lpage_info[index] is None:
            return False
    return True


def kvm_arch_free_memslot(allocator: Allocator, slot: Memslot) -> None:
    """Free all arrays of a slot. Source: arch/x86/kvm/x86.c kvm_arch_free_memslot() [6.1, 6.12]."""
    memslot_rmap_free(allocator, slot)
    for index, array in enumerate(slot.arch.lpage_info):
        allocator.free(array)
        slot.arch.lpage_info[index] = None
    allocator.free(slot.arch.gfn_write_track)
    slot.arch.gfn_write_track = None
    slot.arch.drop_counters()


def mmu_first_shadow_root_alloc(vm: Vm) -> int:
    """Allocate rmaps and write tracking for all slots before the first shadow root; 0 or -ENOMEM.

    A failure keeps what earlier slots got and sets no flag of a shadow root; the next root goes on there.
    Source: arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc() [6.1, 6.12; v2 of the series: all write tracking and its flag
    before the first rmap].
    """
    if vm.shadow_root_allocated:
        return 0
    if vm.policy.root_enables:
        ret = kvm_page_track_write_tracking_enable(vm, SITE_WT_ROOT)
        if ret:
            return ret
    if not (vm.have_rmaps() and kvm_page_track_write_tracking_enabled(vm)):
        for slot in vm.slots():
            if not memslot_rmap_alloc(vm, slot) or not _write_tracking_of_root(vm, slot):
                return -ENOMEM
    vm.shadow_root_allocated = True
    return 0


def _write_tracking_of_root(vm: Vm, slot: Memslot) -> bool:
    """Allocate a slot's write tracking for shadow paging, unless its policy waits for the first add."""
    return vm.policy.at_first_add or write_tracking_alloc(vm, slot, SITE_WT_ROOT)


def account_shadowed(vm: Vm, as_id: int, gfn: int, level: int, delta: int) -> None:
    """Count a shadow page with guest PTEs in (delta 1) or out (-1); from level 2 on its gfn is write-tracked.

    One of level 1 only keeps large pages away, whether write tracking is enabled or not.
    Kernels with one address space account everything there. The kernel does not test the slot for NULL: a missing one means
    that the recording lacks the slot.
    Source: arch/x86/kvm/mmu/mmu.c account_shadowed(), unaccount_shadowed() [6.1, 6.12].
    """
    vm.indirect_shadow_pages = max(0, vm.indirect_shadow_pages + delta)
    slot = vm.spaces[min(as_id, vm.nas - 1)].by_gfn(gfn)
    if slot is None:
        vm.log.add(NO_SLOT)
    elif level > 1:
        kvm_write_track_gfn(vm, slot, gfn, delta)
    else:
        update_gfn_disallow_lpage_count(vm, slot, gfn, delta, counted=False)
