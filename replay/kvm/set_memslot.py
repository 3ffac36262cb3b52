"""Model how a memslot change is carried out: prepare, publish, commit, and what is undone when prepare fails.

Source: virt/kvm/kvm_main.c kvm_set_memslot(), kvm_prepare_memory_region(), kvm_commit_memory_region(),
arch/x86/kvm/x86.c kvm_arch_prepare_memory_region(), kvm_arch_commit_memory_region() [6.1.192, 6.12.117].
"""

from replay.kvm.allocator import DIRTY_BITMAP, SITE_DIRTY, SITE_INVALID, SITE_SLOT, Allocation
from replay.kvm.memory_region import (
    CREATE,
    DELETE,
    FAILED,
    FLAGS_ONLY,
    MOVE,
    UNCHANGED,
    Request,
    classify,
    refused_by_arguments,
    refused_by_slots,
)
from replay.kvm.memslot import Memslot
from replay.kvm.mmu import kvm_alloc_memslot_metadata, kvm_arch_free_memslot, kvm_mmu_max_gfn
from replay.kvm.page_track import kvm_page_track_flush_slot
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD
from replay.kvm.vm import Vm
from replay.units import EINVAL, ENOMEM


def kvm_set_memory_region(request: Request) -> tuple[int, str, str]:
    """Carry out one memslot request; return its result, what it was, and the name of the check that refused it.

    Source: virt/kvm/kvm_main.c __kvm_set_memory_region() [6.1, 6.12]; the table is memory_region.CHECKS.
    """
    row = refused_by_arguments(request)
    if row is not None:
        return -row.errno, FAILED, row.name
    request.old = request.vm.spaces[request.as_id].by_id(request.id)
    change = classify(request)
    row = refused_by_slots(request, change)
    if row is not None:
        return -row.errno, FAILED, row.name
    if change == UNCHANGED:
        return 0, change, ""
    ret, why = _change(request, change)
    return ret, change if not ret else FAILED, why


def _change(request: Request, change: str) -> tuple[int, str]:
    vm, old = request.vm, request.old
    if change == DELETE:
        assert old is not None
        return kvm_set_memslot(vm, old, None, change)
    key = (request.as_id, request.id)
    made = vm.allocator.kzalloc(SITE_SLOT, vm.number, key)
    if made is None:
        return -ENOMEM, "slot object"
    new = Memslot(
        request.as_id,
        request.id,
        request.base_gfn,
        request.npages,
        request.flags,
        request.userspace_addr,
        vm.allocator.event if old is None else old.born,
        made,
    )
    if request.bind_errno and request.flags & KVM_MEM_GUEST_MEMFD:
        ret, why = request.bind_errno, "guest_memfd bind"
    else:
        ret, why = kvm_set_memslot(vm, old, new, change)
    if ret:
        vm.allocator.free(made)
    return ret, why


def kvm_set_memslot(vm: Vm, old: Memslot | None, new: Memslot | None, change: str) -> tuple[int, str]:
    """Publish a change under slots_arch_lock, or undo it; return the result and what failed.

    Generation: +1 swap for CREATE and FLAGS, +2 for DELETE and MOVE, also when prepare fails.
    Source: virt/kvm/kvm_main.c kvm_set_memslot() [6.1, 6.12].
    """
    space = vm.spaces[(old or new).as_id]  # type: ignore[union-attr]  # one of the two is always there
    invalid: Allocation | None = None
    if change in (DELETE, MOVE):
        assert old is not None
        invalid = vm.allocator.kzalloc(SITE_INVALID, vm.number, old.key)
        if invalid is None:
            return -ENOMEM, "INVALID slot object"
        space.invalidate(old)
        kvm_page_track_flush_slot(vm, old)
    ret, why = kvm_prepare_memory_region(vm, old, new, change)
    if ret:
        if change in (DELETE, MOVE):
            assert old is not None
            space.revert(old)
        vm.allocator.free(invalid)
        return ret, why
    _publish(vm, old, new, change)
    vm.allocator.free(invalid)
    kvm_commit_memory_region(vm, old, new, change)
    return 0, ""


def _publish(vm: Vm, old: Memslot | None, new: Memslot | None, change: str) -> None:
    if change == CREATE:
        assert new is not None
        vm.spaces[new.as_id].create(new)
    elif change == DELETE:
        assert old is not None
        vm.spaces[old.as_id].delete(old)
    else:
        assert old is not None
        assert new is not None
        vm.spaces[new.as_id].replace(old, new)


def kvm_prepare_memory_region(vm: Vm, old: Memslot | None, new: Memslot | None, change: str) -> tuple[int, str]:
    """Allocate what the change needs: the dirty bitmap first, then the arch arrays; undo the bitmap when those fail.

    Source: virt/kvm/kvm_main.c kvm_prepare_memory_region() [6.1, 6.12].
    """
    if new is None:
        return 0, ""
    fresh_bitmap = False
    if new.logs_dirty:
        if old is not None and old.dirty_bitmap is not None:
            new.dirty_bitmap = old.dirty_bitmap
        elif vm.bitmap_mode():
            nominal = 2 * 8 * -(-new.npages // 64)
            new.dirty_bitmap = vm.allocator.vcalloc(SITE_DIRTY, DIRTY_BITMAP, nominal, vm.number, new.key)
            if new.dirty_bitmap is None:
                return -ENOMEM, "dirty_bitmap"
            fresh_bitmap = True
    ret, why = kvm_arch_prepare_memory_region(vm, old, new, change)
    if ret and fresh_bitmap:
        vm.allocator.free(new.dirty_bitmap)
    return ret, why


def kvm_arch_prepare_memory_region(vm: Vm, old: Memslot | None, new: Memslot, change: str) -> tuple[int, str]:
    """Refuse what x86 can not do, and allocate the arch arrays of a new or moved slot.

    Source: arch/x86/kvm/x86.c kvm_arch_prepare_memory_region() [6.1, 6.12]; a MOVE with an external user is EINVAL from 6.6 on
    (kvm_page_track_has_external_user()).
    """
    if change == FLAGS_ONLY:
        assert old is not None
        new.arch = old.arch
        return 0, ""
    if change == MOVE and vm.nodes and not vm.policy.flush_slot:
        return -EINVAL, "MOVE with an external page-track user"
    if new.end_gfn - 1 > kvm_mmu_max_gfn(vm):
        return -EINVAL, "beyond the largest gfn"
    if not kvm_alloc_memslot_metadata(vm, new):
        return -ENOMEM, vm.allocator.refused[-1][1]
    return 0, ""


def kvm_commit_memory_region(vm: Vm, old: Memslot | None, new: Memslot | None, change: str) -> None:
    """Account the change and free what it replaced.

    Source: virt/kvm/kvm_main.c kvm_commit_memory_region(), arch/x86/kvm/x86.c kvm_arch_commit_memory_region() [6.1, 6.12];
    at DELETE external users drop their tables (kvm_page_track_delete_slot() [6.12]).
    """
    if change == CREATE:
        assert new is not None
        vm.nr_memslot_pages += new.npages
        return
    assert old is not None
    if change == DELETE:
        vm.nr_memslot_pages -= old.npages
        vm.external_adds.drop(old.base_gfn, old.end_gfn)
        kvm_free_memslot(vm, old)
        return
    if change == MOVE:
        kvm_arch_free_memslot(vm.allocator, old)
    if old.dirty_bitmap is not None and (new is None or new.dirty_bitmap is not old.dirty_bitmap):
        vm.allocator.free(old.dirty_bitmap)
    vm.allocator.free(old.object)


def kvm_free_memslot(vm: Vm, slot: Memslot) -> None:
    """Free a slot with its bitmap and arrays. Source: virt/kvm/kvm_main.c kvm_free_memslot() [6.1, 6.12]."""
    vm.allocator.free(slot.dirty_bitmap)
    kvm_arch_free_memslot(vm.allocator, slot)
    vm.allocator.free(slot.object)
