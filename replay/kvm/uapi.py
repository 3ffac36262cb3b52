"""Keep the numbers that userspace and KVM share. Source: include/uapi/linux/kvm.h, include/linux/kvm_host.h."""

from typing import Final

# include/linux/kvm_host.h [6.1, 6.12]: SHRT_MAX slots an address space, of which x86 keeps 3 for itself
# (arch/x86/include/asm/kvm_host.h KVM_INTERNAL_MEM_SLOTS).
KVM_MEM_SLOTS_NUM: Final = 32767
KVM_USER_MEM_SLOTS: Final = 32764
KVM_MEM_MAX_NR_PAGES: Final = (1 << 31) - 1
# arch/x86/include/asm/vmx.h
TSS_PRIVATE_MEMSLOT: Final = 32764
APIC_ACCESS_PAGE_PRIVATE_MEMSLOT: Final = 32765
IDENTITY_PAGETABLE_PRIVATE_MEMSLOT: Final = 32766

# Slot flags; GUEST_MEMFD exists from 6.8 on.
KVM_MEM_LOG_DIRTY_PAGES: Final = 1
KVM_MEM_READONLY: Final = 1 << 1
KVM_MEM_GUEST_MEMFD: Final = 1 << 2

# VM types, 6.12 arch/x86/include/uapi/asm/kvm.h; TDX from 6.16.
KVM_X86_DEFAULT_VM: Final = 0
KVM_X86_SW_PROTECTED_VM: Final = 1
KVM_X86_SEV_VM: Final = 2
KVM_X86_SEV_ES_VM: Final = 3
KVM_X86_SNP_VM: Final = 4
KVM_X86_TDX_VM: Final = 5

# Capabilities that change what is modelled.
KVM_CAP_SPLIT_IRQCHIP: Final = 121
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Final = 168
KVM_CAP_DIRTY_LOG_RING: Final = 192
KVM_CAP_DISABLE_QUIRKS2: Final = 213
KVM_CAP_DIRTY_LOG_RING_ACQ_REL: Final = 223
KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: Final = 225
# One number for two capabilities: v1 of the on-demand series took it for the opt-out of write tracking, mainline took it for
# KVM_CAP_PRE_FAULT_MEMORY in 6.11 (include/uapi/linux/kvm.h [6.12]). The policy says which one it is, the number never does.
KVM_CAP_PAGE_WRITE_TRACKING: Final = 236

KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: Final = 1
KVM_DIRTY_LOG_INITIALLY_SET: Final = 1 << 1

# arch/x86/kvm/mmu/mmu.c and asm/kvm_host.h
KVM_MIN_ALLOC_MMU_PAGES: Final = 64
APIC_DEFAULT_PHYS_BASE: Final = 0xFEE00000
VMX_EPT_IDENTITY_PAGETABLE_ADDR: Final = 0xFFFBC000
# arch/x86/kvm/x86.c kvm_vm_ioctl_set_tss_addr(): addr > (unsigned int)(-3 * PAGE_SIZE)
TSS_ADDR_MAX: Final = 0xFFFFD000
