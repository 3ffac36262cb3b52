"""Name the events that change memslots, or read what hangs on them."""

import attrs

from replay.events.base import VmCall, event, flag, uint
from replay.units import Gpa, Hva


@event(16, "memslot.set")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class MemslotSet(VmCall):
    """KVM_SET_USER_MEMORY_REGION or ..._REGION2: create, delete, move or re-flag one memslot.

    The fields carry the uAPI's names (struct kvm_userspace_memory_region and ..._region2).
    Source: virt/kvm/kvm_main.c kvm_vm_ioctl(), __kvm_set_memory_region().
    """

    slot: int = uint("bits 15:0 slot id, bits 31:16 address space", bits=32, default=0)
    flags: int = uint("KVM_MEM_LOG_DIRTY_PAGES 1, READONLY 2, GUEST_MEMFD 4", bits=32, default=0)
    guest_phys_addr: Gpa = uint("first guest physical address", unit="bytes (gpa)", default=Gpa(0))
    memory_size: int = uint("size; 0 deletes the slot", unit="bytes", default=0)
    userspace_addr: Hva = uint("host virtual address of the memory", unit="bytes (hva)", default=Hva(0))
    guest_memfd: int | None = uint("guest_memfd fd of ..._REGION2", bits=32, optional=True)
    guest_memfd_offset: int = uint("offset in the guest_memfd", unit="bytes", default=0)
    region2: bool = flag("the call was KVM_SET_USER_MEMORY_REGION2")
    fault: bool = flag("the argument pointer was not readable: all other arguments are unknown")


@event(17, "tss.set")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class TssSet(VmCall):
    """KVM_SET_TSS_ADDR: creates the TSS internal slot on VMX without unrestricted guest; elsewhere nothing.

    Source: arch/x86/kvm/x86.c kvm_vm_ioctl_set_tss_addr(), arch/x86/kvm/vmx/vmx.c vmx_set_tss_addr().
    """

    guest_phys_addr: Gpa = uint("address argument (by value)", unit="bytes (gpa)")


@event(18, "identity_map.set")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class IdentityMapSet(VmCall):
    """KVM_SET_IDENTITY_MAP_ADDR: stores the address that a later vCPU uses for the identity-map slot.

    Source: arch/x86/kvm/x86.c kvm_arch_vm_ioctl(KVM_SET_IDENTITY_MAP_ADDR).
    """

    guest_phys_addr: Gpa | None = uint("address, null when the recorder did not show it", unit="bytes (gpa)", optional=True)
    fault: bool = flag("the argument pointer was not readable")


@event(19, "nr_mmu_pages.set")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class NrMmuPagesSet(VmCall):
    """KVM_SET_NR_MMU_PAGES: limits shadow pages; below 64 is EINVAL.

    Source: arch/x86/kvm/x86.c kvm_vm_ioctl_set_nr_mmu_pages().
    """

    nr_mmu_pages: int = uint("number of shadow pages", unit="pages")


@event(20, "dirty_log.get")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class DirtyLogGet(VmCall):
    """KVM_GET_DIRTY_LOG.

    Source: virt/kvm/kvm_main.c kvm_get_dirty_log_protect().
    """

    slot: int | None = uint("slot argument, null when the recorder did not show it", bits=32, optional=True)
    fault: bool = flag("a pointer was not readable or writable")


@event(21, "dirty_log.clear")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class DirtyLogClear(VmCall):
    """KVM_CLEAR_DIRTY_LOG.

    Source: virt/kvm/kvm_main.c kvm_clear_dirty_log_protect().
    """

    slot: int | None = uint("slot argument, null when the recorder did not show it", bits=32, optional=True)
    first_page: int = uint("first page in the slot", unit="pages", default=0)
    num_pages: int = uint("number of pages", unit="pages", default=0)
    fault: bool = flag("a pointer was not readable")


@event(22, "guest_memfd.create")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class GuestMemfdCreate(VmCall):
    """KVM_CREATE_GUEST_MEMFD (6.8 and later).

    Source: virt/kvm/guest_memfd.c kvm_gmem_create().
    """

    size_bytes: int | None = uint("size argument", unit="bytes", optional=True)
    flags: int = uint("flags argument", default=0)


@event(32, "notifier.register")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class NotifierRegister(VmCall):
    """kvm_page_track_register_notifier(): an external user (KVMGT's vGPU open) asks to see guest writes.

    Source: arch/x86/kvm/mmu/page_track.c; caller drivers/gpu/drm/i915/gvt/kvmgt.c intel_vgpu_open_device().
    """

    node: int = uint("number of the notifier node", bits=32, default=0)
    null_kvm: bool = flag("called with a NULL kvm pointer")
    table: bool = flag(
        "the user keeps a table of what it tracks and drops that when a slot is flushed, as KVMGT does", default=True
    )


@event(33, "notifier.unregister")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class NotifierUnregister(VmCall):
    """kvm_page_track_unregister_notifier(): the external user goes; arrays and the sticky flag stay.

    Source: arch/x86/kvm/mmu/page_track.c.
    """

    node: int = uint("number of the notifier node", bits=32, default=0)


@event(34, "shadow_root.alloc")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class ShadowRootAlloc(VmCall):
    """mmu_first_shadow_root_alloc(): a vCPU is about to load a shadow root (KVM_RUN, KVM_PRE_FAULT_MEMORY).

    Only the first one of a VM can allocate. Source: arch/x86/kvm/mmu/mmu.c, called by mmu_alloc_shadow_roots().
    """

    nested: bool = flag("the root shadows nested EPT/NPT of an L2 guest: it would be there with tdp on as well")
