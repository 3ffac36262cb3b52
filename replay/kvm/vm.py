"""Hold one VM of one lane. Source: struct kvm, struct kvm_arch [6.1, 6.12]."""

from collections.abc import Iterator
from typing import Final

import attrs

from replay.kvm.allocator import Allocator
from replay.kvm.counters import Counters
from replay.kvm.kernel_log import KernelLog
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.policies import Policy
from replay.kvm.profile import Profile
from replay.kvm.uapi import KVM_X86_SNP_VM, KVM_X86_SW_PROTECTED_VM, KVM_X86_TDX_VM


def kvm_arch_nr_memslot_as_ids(profile: Profile, vm_type: int) -> int:
    """Return how many address spaces a VM has.

    Source: arch/x86/include/asm/kvm_host.h: constant 2 before 6.2 [6.1 KVM_ADDRESS_SPACE_NUM]; with CONFIG_KVM_SMM 2, and 1 for
    a VM with private memory [6.12 kvm_arch_nr_memslot_as_ids()].
    """
    if not profile.release.at_least(6, 2):
        return 2
    return 2 if profile.smm and not has_private_mem(vm_type) else 1


def has_private_mem(vm_type: int) -> bool:
    """Tell whether a VM type has private memory. Source: arch/x86/kvm/x86.c kvm_arch_init_vm(), svm.c [6.12]."""
    return vm_type in (KVM_X86_SW_PROTECTED_VM, KVM_X86_SNP_VM, KVM_X86_TDX_VM)


_FACTS: Final[dict[tuple[int, ...], int]] = {}


def _number_of(facts: tuple[int, ...]) -> int:
    """Return a number that stands for facts in this process, and never leaves it: it is looked up sooner than they are."""
    return _FACTS.setdefault(facts, len(_FACTS))


@attrs.define(eq=False)
class Vm:
    """One VM under one policy and profile. Field names are the kernel's where it has them."""

    number: int
    type: int
    policy: Policy
    profile: Profile
    allocator: Allocator
    log: KernelLog
    spaces: list[Memslots] = attrs.field(init=False)
    shadow_root_allocated: bool = False
    external_write_tracking_enabled: bool = False
    page_write_tracking_disabled: bool = False
    """The VM's opt-out, which only v1 of the patch has."""
    vm_bugged: bool = False
    lpage_warned: bool = False
    """Whether a disallow_lpage was ever below 0, which is said once."""
    nr_memslot_pages: int = 0
    indirect_shadow_pages: int = 0
    nodes: list[int] = attrs.field(factory=list)
    users_count: int = 1
    destroyed: bool = False
    attached: bool = False
    """Alive before the recording began: memslots that it never created may be there."""
    created_vcpus: int = 0
    irqchip_in_kernel: bool = False
    apic_access_memslot_enabled: bool = False
    identity_map_addr: int = 0
    ept_identity_pagetable_done: bool = False
    dirty_ring: bool = False
    dirty_ring_with_bitmap: bool = False
    manual_dirty_log_protect: int = 0
    check_facts: int = attrs.field(init=False)
    """Stands for what of VM and kernel decides which memslot requests are refused for their arguments, but for vm_bugged."""
    known: dict[tuple[bool, ...], tuple[int, int]] = attrs.field(factory=dict, init=False)
    """What at_once.py has worked out of the VM's flags for its own use."""
    external_adds: Counters = attrs.field(init=False)
    """Outstanding adds of external users by gfn: what a driver's own table holds (kvmgt: one entry a gfn)."""
    drivers_keep_table: bool = True
    """Whether the VM's external users remove what they track when a slot is flushed; that is theirs to do, not KVM's."""

    def __attrs_post_init__(self) -> None:
        self.external_adds = Counters(self.allocator.driver_counts)
        count = kvm_arch_nr_memslot_as_ids(self.profile, self.type)
        self.spaces = [Memslots(as_id, count) for as_id in range(count)]
        release = self.profile.release
        self.check_facts = _number_of((release.major, release.minor, release.patch, self.type, count, self.profile.la57))

    @property
    def nas(self) -> int:
        """Number of address spaces."""
        return len(self.spaces)

    def slots(self) -> Iterator[Memslot]:
        """Walk all slots as the kernel does: address space 0, then 1, each in id-hash order."""
        for space in self.spaces:
            yield from space

    def have_rmaps(self) -> bool:
        """Tell whether slots need rmaps. Source: arch/x86/kvm/mmu.h kvm_memslots_have_rmaps() [6.1, 6.12]."""
        return not self.profile.tdp_mmu_enabled or self.shadow_root_allocated

    def bitmap_mode(self) -> bool:
        """Tell whether dirty logging uses bitmaps. Source: virt/kvm/dirty_ring.c kvm_use_dirty_bitmap() [6.1, 6.12]."""
        return not self.dirty_ring or self.dirty_ring_with_bitmap
