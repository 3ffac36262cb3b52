"""Model the other VM ioctls: dirty log, capabilities, limits. Results that depend on what is not modelled stay as recorded.

Source: virt/kvm/kvm_main.c, arch/x86/kvm/x86.c [6.1.192, 6.12.117]; dirty-log rows verified on 6.18.44.
"""

from collections.abc import Callable
from typing import Final

import attrs

from replay.events import DirtyLogClear, DirtyLogGet, IdentityMapSet, NrMmuPagesSet, VcpuCreate, VmEnableCap
from replay.kvm.internal_slots import vcpu_internal_slots
from replay.kvm.memslot import Memslot
from replay.kvm.uapi import (
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_CAP_PAGE_WRITE_TRACKING,
    KVM_CAP_SPLIT_IRQCHIP,
    KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MIN_ALLOC_MMU_PAGES,
    KVM_USER_MEM_SLOTS,
)
from replay.kvm.vm import Vm
from replay.kvm.write_tracking_cap import enable_page_write_tracking
from replay.units import EEXIST, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENXIO


def dead(vm: Vm, *, foreign_mm: bool) -> bool:
    """Tell whether every ioctl on the VM is EIO. Source: virt/kvm/kvm_main.c kvm_vm_ioctl() [6.1, 6.12]."""
    return foreign_mm or vm.vm_bugged


def as_recorded(recorded: int | None) -> int:
    """Return a result that the model can not know: what was recorded, success when nothing was."""
    return 0 if recorded is None else recorded


def kvm_vm_ioctl_set_nr_mmu_pages(vm: Vm, event: NrMmuPagesSet) -> int:
    """Refuse less than 64 pages. Source: arch/x86/kvm/x86.c [6.1, 6.12]."""
    if dead(vm, foreign_mm=event.foreign_mm):
        return -EIO
    return -EINVAL if event.nr_mmu_pages < KVM_MIN_ALLOC_MMU_PAGES else 0


def kvm_set_identity_map_addr(vm: Vm, event: IdentityMapSet) -> int:
    """Store the address for a later vCPU; EINVAL once a vCPU exists, before the argument is read.

    Source: arch/x86/kvm/x86.c kvm_arch_vm_ioctl(KVM_SET_IDENTITY_MAP_ADDR) [6.1, 6.12].
    """
    if dead(vm, foreign_mm=event.foreign_mm):
        return -EIO
    if vm.created_vcpus:
        return -EINVAL
    if event.fault:
        return -EFAULT
    vm.identity_map_addr = event.guest_phys_addr or 0
    return 0


def kvm_vm_ioctl_create_vcpu(vm: Vm, event: VcpuCreate) -> int:
    """Create a vCPU with its internal slots; failures for other reasons stay as recorded.

    A recorded -ENOMEM or -EEXIST may come from the internal slots, which are made before the id is looked up. With injections
    or a limit in the recording a lane whose slots can be had succeeds; else the failure is taken for one of the vCPU itself.
    Source: virt/kvm/kvm_main.c kvm_vm_ioctl_create_vcpu(), vmx.c vmx_vcpu_create() [6.1, 6.12].
    """
    if dead(vm, foreign_mm=event.foreign_mm):
        return -EIO
    recorded = as_recorded(event.ret)
    if recorded < 0 and recorded not in (-ENOMEM, -EEXIST):
        return recorded
    ret = vcpu_internal_slots(vm)
    if not ret and recorded == -ENOMEM and vm.allocator.explains_failures:
        recorded = 0
    if ret or recorded < 0:
        return ret or recorded
    vm.created_vcpus += 1
    return recorded


def kvm_vm_ioctl_enable_cap(vm: Vm, event: VmEnableCap) -> int:
    """Enable a capability that the model knows; others stay as recorded.

    Source: virt/kvm/kvm_main.c kvm_vm_ioctl_enable_cap_generic() [6.1, 6.12]; INITIALLY_SET needs ENABLE (seen on 6.18.44).
    """
    if dead(vm, foreign_mm=event.foreign_mm):
        return -EIO
    if event.cap == KVM_CAP_PAGE_WRITE_TRACKING:
        return -EFAULT if event.ret == -EFAULT else enable_page_write_tracking(vm, event)
    arg = event.args[0] if event.args else 0
    if event.cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
        allowed = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
        allowed |= KVM_DIRTY_LOG_INITIALLY_SET if arg & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE else 0
        if event.flags or arg & ~allowed:
            return -EINVAL
        vm.manual_dirty_log_protect = arg
        return 0
    ret = as_recorded(event.ret)
    if not ret:
        vm.irqchip_in_kernel |= event.cap == KVM_CAP_SPLIT_IRQCHIP
        vm.dirty_ring |= event.cap in (KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
        vm.dirty_ring_with_bitmap |= event.cap == KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
    return ret


@attrs.frozen
class _DirtyLogCall:
    """A dirty-log call with its slot looked up; slot None when as_id or id is out of range or it is not there."""

    vm: Vm
    as_id: int
    id: int
    slot: Memslot | None
    event: DirtyLogGet | DirtyLogClear

    @property
    def clear(self) -> DirtyLogClear:
        """The call with its range."""
        assert isinstance(self.event, DirtyLogClear)
        return self.event


def _range_refused(call: _DirtyLogCall) -> bool:
    assert call.slot is not None
    rest, num_pages = call.slot.npages - call.clear.first_page, call.clear.num_pages
    return num_pages > rest or (num_pages < rest and num_pages & 63 != 0)


_Check = tuple[int, Callable[[_DirtyLogCall], bool]]
_IDS: Final[_Check] = (EINVAL, lambda call: call.as_id >= call.vm.nas or call.id >= KVM_USER_MEM_SLOTS)
_MODE: Final[_Check] = (ENXIO, lambda call: not call.vm.bitmap_mode())
_BITMAP: Final[_Check] = (ENOENT, lambda call: call.slot is None or call.slot.dirty_bitmap is None)
_FAULT: Final[_Check] = (EFAULT, lambda call: call.event.fault)

# Source: virt/kvm/kvm_main.c kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect() [6.12]; order seen on 6.18.44.
# CLEAR reads ALIGN(num_pages, 64) / 8 bytes: of no page it reads nothing, and no pointer is too bad for that (seen on 6.18.44).
GET_DIRTY_LOG_CHECKS: Final[tuple[_Check, ...]] = (_MODE, _IDS, _BITMAP, _FAULT)
CLEAR_DIRTY_LOG_CHECKS: Final[tuple[_Check, ...]] = (
    _MODE,
    _IDS,
    (EINVAL, lambda call: call.clear.first_page & 63 != 0),
    _BITMAP,
    (EINVAL, _range_refused),
    (EFAULT, lambda call: call.clear.fault and call.clear.num_pages > 0),
)


def dirty_log(vm: Vm, event: DirtyLogGet | DirtyLogClear) -> int:
    """Answer KVM_GET_DIRTY_LOG or KVM_CLEAR_DIRTY_LOG; as recorded when the recorder did not show the slot.

    Neither touches write tracking. Source: the two tables above.
    """
    if dead(vm, foreign_mm=event.foreign_mm):
        return -EIO
    if event.slot is None:
        return as_recorded(event.ret)
    as_id, slot_id = event.slot >> 16, event.slot & 0xFFFF
    slot = vm.spaces[as_id].by_id(slot_id) if as_id < vm.nas else None
    call = _DirtyLogCall(vm, as_id, slot_id, slot, event)
    for errno, refuses in CLEAR_DIRTY_LOG_CHECKS if isinstance(event, DirtyLogClear) else GET_DIRTY_LOG_CHECKS:
        if refuses(call):
            return -errno
    return 0
