"""Model the slots that KVM makes for itself: TSS, identity map, APIC access page.

They never show in an ioctl trace; they follow from the profile. Each exists once an address space, so all metadata doubles
with SMM. Source: arch/x86/kvm/x86.c __x86_set_memory_region(), arch/x86/kvm/vmx/vmx.c, arch/x86/kvm/svm/avic.c [6.1, 6.12].
"""

from replay.kvm.at_once import set_memory_region
from replay.kvm.memory_region import Request
from replay.kvm.uapi import (
    APIC_ACCESS_PAGE_PRIVATE_MEMSLOT,
    APIC_DEFAULT_PHYS_BASE,
    IDENTITY_PAGETABLE_PRIVATE_MEMSLOT,
    TSS_ADDR_MAX,
    TSS_PRIVATE_MEMSLOT,
    VMX_EPT_IDENTITY_PAGETABLE_ADDR,
)
from replay.kvm.vm import Vm
from replay.units import EEXIST, EINVAL, PAGE_SIZE_BYTES

# vm_mmap() picks the hva of an internal slot; any aligned user address behaves the same in the model.
_HVA = 0x7F00_0000_0000


def x86_set_memory_region(vm: Vm, slot_id: int, gpa: int, size_bytes: int) -> int:
    """Create an internal slot in every address space; a failure in the second one leaves the first behind.

    Source: arch/x86/kvm/x86.c __x86_set_memory_region() [6.1, 6.12]: EEXIST when address space 0 has it.
    """
    if vm.spaces[0].by_id(slot_id) is not None:
        return -EEXIST
    for as_id in range(vm.nas):
        request = Request(vm, slot_id | as_id << 16, 0, gpa, size_bytes, _HVA, internal=True)
        ret, _change, _why = set_memory_region(request)
        if ret:
            return ret
    return 0


def x86_delete_memory_region(vm: Vm, slot_id: int) -> None:
    """Delete an internal slot in every address space, if it is there; a failure ends it. Source: as above with size 0."""
    if vm.spaces[0].by_id(slot_id) is None:
        return
    for as_id in range(vm.nas):
        request = Request(vm, slot_id | as_id << 16, 0, 0, 0, 0, internal=True)
        ret, _change, _why = set_memory_region(request)
        if ret:
            return


def kvm_vm_ioctl_set_tss_addr(vm: Vm, gpa: int) -> int:
    """Set the TSS address: a slot of three pages on VMX without unrestricted guest, else nothing.

    Source: arch/x86/kvm/x86.c kvm_vm_ioctl_set_tss_addr(), vmx.c vmx_set_tss_addr() [6.1, 6.12]; on SVM and PVM the call
    returns 0 and makes nothing (seen on 6.1.192, 6.12.117 and 6.18.44).
    """
    if gpa > TSS_ADDR_MAX:
        return -EINVAL
    if vm.profile.vendor != "intel" or vm.profile.unrestricted_guest:
        return 0
    return x86_set_memory_region(vm, TSS_PRIVATE_MEMSLOT, gpa, 3 * PAGE_SIZE_BYTES)


def vcpu_internal_slots(vm: Vm) -> int:
    """Create the slots that a vCPU brings: APIC access page, identity map.

    Source: vmx.c vmx_vcpu_create() -> alloc_apic_access_page(), init_rmode_identity_map(); svm/avic.c
    avic_alloc_access_page() [6.1]; lapic.c kvm_alloc_apic_access_page() [6.12].
    """
    profile = vm.profile
    intel, amd = profile.vendor == "intel", profile.vendor == "amd"
    wants_apic = (intel and profile.flexpriority and vm.irqchip_in_kernel) or (amd and profile.avic and vm.irqchip_in_kernel)
    if wants_apic and not vm.apic_access_memslot_enabled:
        ret = x86_set_memory_region(vm, APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, APIC_DEFAULT_PHYS_BASE, PAGE_SIZE_BYTES)
        if ret:
            return ret
        vm.apic_access_memslot_enabled = True
    if intel and profile.tdp and not profile.unrestricted_guest and not vm.ept_identity_pagetable_done:
        gpa = vm.identity_map_addr or VMX_EPT_IDENTITY_PAGETABLE_ADDR
        ret = x86_set_memory_region(vm, IDENTITY_PAGETABLE_PRIVATE_MEMSLOT, gpa, PAGE_SIZE_BYTES)
        if ret:
            return ret
        vm.ept_identity_pagetable_done = True
    return 0


def kvm_arch_destroy_internal_slots(vm: Vm) -> None:
    """Delete the internal slots first when a VM dies in its own mm. Source: x86.c kvm_arch_destroy_vm() [6.1, 6.12]."""
    for slot_id in (APIC_ACCESS_PAGE_PRIVATE_MEMSLOT, IDENTITY_PAGETABLE_PRIVATE_MEMSLOT, TSS_PRIVATE_MEMSLOT):
        x86_delete_memory_region(vm, slot_id)
