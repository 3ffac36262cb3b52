"""Explain divergences: each rule of the catalogue with its sentence and its kernel source.

The D numbers are stable names; recordings/catalogue/ has a small recording for each. Rows under which the policies behave
alike are in `AGREEMENTS`: knowing that they do is worth as much.
"""

from typing import Final

import attrs

_PT: Final = "arch/x86/kvm/mmu/page_track.c"
_MERGE: Final = 'a364c014a2c1 ("kvm/x86: allocate the write-tracking metadata on-demand", 6.9)'


@attrs.frozen
class Rule:
    """One row of the catalogue: what it means, and where the kernel does it."""

    title: str
    explanation: str
    source: str


RULES: Final[dict[str, Rule]] = {
    "D1": Rule(
        "write tracking allocated with the memslot, and never needed",
        "Eager allocates gfn_write_track, 2 bytes a guest page, with the memslot; on-demand does so only when a notifier is "
        "registered or a shadow root is loaded, which did not happen while the memslot lived.",
        f"{_PT} kvm_page_track_create_memslot() [6.1, 6.12]; {_MERGE}",
    ),
    "D2": Rule(
        "allocation moved to the first notifier registration",
        "Eager allocates gfn_write_track with each memslot, on-demand for all memslots at once inside the first "
        "kvm_page_track_register_notifier(): from there on both have the same arrays.",
        f"{_PT} kvm_enable_external_write_tracking() [6.12]; {_MERGE}",
    ),
    "D5": Rule(
        "allocation moved to the first shadow root",
        "Eager allocates gfn_write_track with each memslot, on-demand together with the rmaps when the first shadow root is loaded, "
        "inside KVM_RUN: from there on both have the same arrays.",
        "arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc() [6.1, 6.12]",
    ),
    "D7": Rule(
        "-ENOMEM moved",
        "The allocation that fails in KVM_SET_USER_MEMORY_REGION under eager is made later under on-demand: the memslot is created, and "
        "while memory is short the failure comes from opening the vGPU or from KVM_RUN, where userspace can try again.",
        f"arch/x86/kvm/x86.c kvm_alloc_memslot_metadata(); {_PT} kvm_page_track_register_notifier() [6.12]; {_MERGE}",
    ),
    "D8": Rule(
        "first registration that runs out of memory",
        "Under on-demand a registration can fail with -ENOMEM. It keeps the arrays that it made, in id-hash order, links no node and sets "
        "no flag; the next registration allocates only the rest. What is kept is freed with its memslots.",
        f"{_PT} kvm_enable_external_write_tracking() [6.12]",
    ),
    "D9": Rule(
        "first shadow root that runs out of memory",
        "A first shadow root that runs out of memory keeps what earlier memslots got and sets no flag: rmaps alone under eager, rmaps and "
        "write tracking under on-demand. The next KVM_RUN goes on there.",
        "arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc() [6.1, 6.12]",
    ),
    "D10": Rule(
        "memslot created after a failed registration or shadow root",
        "The failure left write tracking disabled under on-demand, so a new memslot gets no array, beside older ones that have theirs; the "
        "next registration or shadow root covers it.",
        f"{_PT} kvm_page_track_write_tracking_enabled() [6.12]",
    ),
    "D11": Rule(
        "tracking without a registration kills the VM",
        "kvm_write_track_add_gfn() finds write tracking disabled under on-demand: KVM_BUG_ON marks the VM dead, the call still returns 0, "
        "and every later ioctl is -EIO. Under eager the array is there and the gfn is tracked. No in-tree user does this: it is a driver "
        "bug that only on-demand turns into a dead VM.",
        f"{_PT} __kvm_write_track_add_gfn() KVM_BUG_ON [6.6 and later]; seen on 6.12.117",
    ),
    "D12": Rule(
        "removal without a registration kills the VM",
        "Removing a gfn that was never added only warns under eager (the count stays 0); under on-demand without a registration it is "
        "KVM_BUG_ON, and the VM is dead.",
        f"{_PT} __kvm_write_track_remove_gfn() KVM_BUG_ON [6.6 and later]; seen on 6.12.117",
    ),
    "D14": Rule(
        "MOVE with a registered notifier",
        "Up to 6.5 KVM lets a memslot be moved and tells notifiers to drop what they track in it; from 6.6 on the MOVE is -EINVAL.",
        "arch/x86/kvm/x86.c kvm_arch_prepare_memory_region() kvm_page_track_has_external_user() [6.6 and later]; 6.1 has no such check",
    ),
    "D16": Rule(
        "write tracking carried through a MOVE",
        "A MOVE allocates fresh arrays before it frees the old ones: eager holds write tracking twice for a moment, on-demand not at all.",
        "virt/kvm/kvm_main.c kvm_set_memslot(), arch/x86/kvm/x86.c kvm_arch_commit_memory_region() [6.1, 6.12]",
    ),
    "D17": Rule(
        "tracking dropped by a memslot change that failed",
        "Up to 6.5 notifiers are told to drop what they track in a memslot before its MOVE can fail: the memslot survives, its tracking "
        "does not. From 6.6 on the MOVE is refused before anything is dropped.",
        f"{_PT} kvm_page_track_flush_slot() [6.1]; virt/kvm/kvm_main.c kvm_set_memslot()",
    ),
    "D19": Rule(
        "internal memslots",
        "KVM's own slots (TSS, identity map, APIC access page), once an address space, get write tracking under eager: one page each. A "
        "failure in the second address space leaves the first slot behind, and a retry is -EEXIST.",
        "arch/x86/kvm/x86.c __x86_set_memory_region() [6.1, 6.12]",
    ),
    "D23": Rule(
        "registration from another mm",
        "From 6.6 on a registration from another mm is refused with -ESRCH before anything is allocated; up to 6.5 KVM does not check (the "
        "in-tree user, KVMGT, checks by itself).",
        f"{_PT} kvm_page_track_register_notifier() [6.6 and later]",
    ),
    "D24": Rule(
        "registration for a TDX guest",
        "From 6.16 on on-demand refuses to enable write tracking for a TD guest, before it allocates anything: -EOPNOTSUPP, after the "
        "check of the mm. Eager kernels have no such check; none of them runs TD guests.",
        f'{_PT} kvm_enable_external_write_tracking() [6.16, "Do not enable page track for TD guest"]',
    ),
    "D31": Rule(
        "write tracking allocated anew at each re-creation",
        "The memslot is deleted and created again and again: eager allocates, zeroes and frees its write tracking each time, on-demand never.",
        f"{_PT} kvm_page_track_create_memslot() [6.1, 6.12]",
    ),
    "D32": Rule(
        "memslot too large for its write tracking",
        "One array of 2 bytes a page is larger than all memory, so eager can not create the memslot; on-demand can, until something "
        "enables write tracking.",
        "mm/vmalloc.c __vmalloc_node_range() pages > totalram_pages() [6.1, 6.12]",
    ),
    "D33": Rule(
        "opt-out of write tracking",
        "v1 of the patch lets a VM opt out, by capability 236, before it has memslots in address space 0 or notifiers (else -EINVAL), and "
        "never where shadow paging needs write tracking (-EBUSY, tested first). Other kernels answer -EINVAL: the number is unknown to "
        "them, or means KVM_CAP_PRE_FAULT_MEMORY, which is not enabled.",
        "v1 of the series that became a364c014a2c1: arch/x86/kvm/x86.c kvm_vm_ioctl_enable_cap(); include/uapi/linux/kvm.h [6.12]",
    ),
    "D36": Rule(
        "stale slot copy (candidate H1)",
        "While a flags change, DELETE or MOVE waits for readers, a first registration or shadow root can allocate the array of the new slot "
        "copy only; a vCPU that still holds the old copy then finds write tracking enabled and a NULL array. Found by reading and by a "
        "small model of the protocol, not reported in the field. Eager is immune: the array is always there.",
        f"virt/kvm/kvm_main.c kvm_swap_active_memslots(), {_PT} kvm_gfn_is_write_tracked() [6.12]",
    ),
    "H3": Rule(
        "MOVE beside a registration (candidate)",
        "A MOVE tests for notifiers without a lock that registration holds, so under eager it can complete with a node attached: counters "
        "are lost and a later removal underflows. Under on-demand the first registration waits for slots_arch_lock, and so for the MOVE; "
        "what is left is the moment between dropping that lock and linking the node.",
        "arch/x86/kvm/x86.c kvm_arch_prepare_memory_region() [6.6 and later]; seen on 6.12.117",
    ),
}
"""Rules for findings, by catalogue row."""

_V1: Final = f"v1 of the series that became a364c014a2c1: {_PT} kvm_page_track_write_tracking_enabled(), kvm_page_track_register_notifier()"
_V2: Final = f"v2 of the series that became a364c014a2c1: {_PT} kvm_page_track_write_tracking_enable()"

VARIANTS: Final[dict[tuple[str, str], Rule]] = {
    ("D1", "v1"): Rule(
        "write tracking that a VM opted out of",
        "Under v1 a VM that opted out allocates write tracking for shadow paging only; one that did not is eager.",
        _V1,
    ),
    ("D2", "v1"): Rule(
        "registration after the opt-out",
        "Under v1 a VM that opted out has no external write tracking at all: kvm_page_track_register_notifier() is -EINVAL, after the "
        "check of the mm, so that a vGPU can not be opened. Eager and on-demand register it.",
        _V1,
    ),
    ("D5", "v2"): Rule(
        "allocation moved to the first shadow root",
        "Under v2 the first shadow root enables write tracking as a registration does: all arrays, then the one flag, then the rmaps. A "
        "registration after it finds the flag set and allocates nothing.",
        f"{_V2}; arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()",
    ),
    ("D8", "v2"): Rule(
        "first registration that runs out of memory",
        "As under on-demand, what was made stays, no node is linked and no flag is set; v2 takes its reference to the VM before and drops "
        "it again.",
        _V2,
    ),
    ("D9", "v2"): Rule(
        "first shadow root that runs out of memory",
        "Under v2 a first shadow root makes the write tracking of all memslots, and sets the flag, before any rmap: when an rmap can not be "
        "had all of it is there and stays, while on-demand has that of the memslots before the failing one.",
        f"{_V2}; arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()",
    ),
    ("D10", "v2"): Rule(
        "memslot created after a failed registration or shadow root",
        "Under v2 a first shadow root that fails at an rmap has set the flag, so a new memslot gets write tracking; under on-demand, and "
        "when write tracking itself failed, it does not.",
        _V2,
    ),
}
"""Rules that stand for a row when one of the lanes has the policy."""

BOUND: Final = Rule(
    "write tracking beyond what was needed",
    "The ideal lane is no kernel: it makes an array when the first gfn of a memslot is tracked. What the other lane has longer than that, "
    "or has at all, is what its policy costs in this recording. Results are not compared with it.",
    "none: a yardstick",
)

HOLDS_VM: Final = Rule(
    "notifier that outlives the VM's file descriptors",
    "From 6.6 on each registered notifier holds a reference to the VM: it is freed when the last node is unregistered. Up to 6.5 it "
    "goes with its last file descriptor.",
    f"{_PT} kvm_page_track_register_notifier() kvm_get_kvm() [6.6 and later]",
)
ONE_LANE_ONLY: Final = Rule(
    "memslot that only one lane has",
    "A call had another result before, so the memslot exists in one lane only, with all its arrays.",
    "the finding of that call",
)
UNEXPLAINED: Final = Rule("unexplained", "No rule of the catalogue explains it: please report the recording.", "none")

ASPECTS: Final[dict[str, Rule]] = {
    "D16": RULES["D16"],
    "D28": Rule(
        "another task is charged",
        "The arrays are charged to the memory cgroup of the task that allocates them: the caller of KVM_SET_USER_MEMORY_REGION under "
        "eager, the task that opens the vGPU or runs the vCPU under on-demand. Limits and the OOM killer's choice move with it.",
        "mm/vmalloc.c __vmalloc_area_node() GFP_KERNEL_ACCOUNT; mm/util.c __vcalloc() [6.1, 6.12]",
    ),
    "D29": Rule(
        "zeroing moves to another call",
        "Allocating and zeroing takes its time inside the memslot call under eager, under on-demand for all memslots at once inside the "
        "vGPU open or KVM_RUN, with slots_arch_lock held: memslot calls wait that long.",
        f"{_PT} kvm_enable_external_write_tracking() [6.12]; arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()",
    ),
    "D30": Rule(
        "another symbol in /proc/vmallocinfo",
        "The arrays show under the function that allocates them, so a live dump tells which policy a kernel has.",
        f"{_PT} kvm_page_track_create_memslot(), kvm_page_track_write_tracking_alloc(), kvm_page_track_register_notifier(); seen on 6.1.192, "
        "6.12.117",
    ),
}
"""Rows that findings show beside their own."""

AGREEMENTS: Final[dict[str, Rule]] = {
    "D3": Rule(
        "memslot created while a notifier is registered",
        "write tracking is enabled in every lane, so the slot gets its array with it",
        f"{_PT} kvm_page_track_create_memslot()",
    ),
    "D4": Rule(
        "memslot created after the last notifier left",
        "write tracking stays enabled in every lane (the flag is sticky under on-demand): nobody gets the memory back",
        f"{_PT} kvm_page_track_unregister_notifier()",
    ),
    "D6": Rule(
        "first shadow root after a registration",
        "write tracking is there already: the root allocates rmaps only, and nothing without the TDP MMU",
        "arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()",
    ),
    "D13": Rule(
        "removal after the last notifier left",
        "the count goes down in every lane: write tracking stays enabled. KVMGT itself would be refused with -ESRCH",
        f"{_PT} kvm_write_track_remove_gfn(); drivers/gpu/drm/i915/gvt/kvmgt.c",
    ),
    "D15": Rule(
        "MOVE of a slot with live counts",
        "the counts are lost in every lane: a MOVE makes a new zeroed array",
        "arch/x86/kvm/x86.c kvm_arch_prepare_memory_region()",
    ),
    "D18": Rule(
        "registration with slots in both address spaces",
        "every slot of address space 0, then of 1, has its array afterwards in every lane; external users only ever touch address space 0",
        f"{_PT} kvm_enable_external_write_tracking()",
    ),
    "D20": Rule(
        "flags change",
        "the new slot object shares the arrays in every lane: no byte differs",
        "arch/x86/kvm/x86.c kvm_arch_prepare_memory_region() KVM_MR_FLAGS_ONLY",
    ),
    "D21": Rule(
        "READONLY or GUEST_MEMFD memslot",
        "the array is allocated by the same rule as for any other slot; toggling the flag is -EINVAL in every lane",
        "virt/kvm/kvm_main.c __kvm_set_memory_region()",
    ),
    "D22": Rule(
        "is a gfn tracked? asked before anything is enabled",
        "the answer is no in every lane, whether the array is there or not",
        f"{_PT} kvm_gfn_is_write_tracked()",
    ),
    "D23": Rule(
        "registration from another mm",
        "-ESRCH in every lane, before anything is allocated",
        f"{_PT} kvm_page_track_register_notifier() [6.6 and later]",
    ),
    "D25": Rule(
        "two registrations at once",
        "under on-demand the first one allocates under slots_arch_lock, the other waits and finds the flag set; in every lane both nodes "
        "are linked and nothing is allocated twice",
        f"{_PT} kvm_enable_external_write_tracking() [6.12]",
    ),
    "D26": Rule(
        "two-dimensional paging is off (tdp=0)",
        "every VM is shadow-paged, so write tracking is enabled from the start and every lane allocates it with each memslot",
        f"{_PT} kvm_page_track_write_tracking_enabled()",
    ),
    "D27": Rule(
        "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=n",
        "no external user can exist, so the lanes evaluate the same expression: shadow root or not tdp",
        f"{_PT} kvm_page_track_write_tracking_enabled()",
    ),
    "D34": Rule(
        "memslot created after the first shadow root",
        "the flag is sticky in every lane, so the slot gets rmaps and write tracking with it",
        "arch/x86/kvm/mmu/mmu.c mmu_first_shadow_root_alloc()",
    ),
    "D35": Rule(
        "SMM read of a gfn tracked in address space 0",
        "whether the other address space is looked at depends on the release, not on the policy: every lane answers alike",
        f"{_PT} kvm_gfn_is_write_tracked(); 0f38453cdb2e and its backports 6.1.187, 6.6.156, 6.12.108, 6.18.49",
    ),
    "D36": Rule(
        "stale slot copy (candidate H1), in every lane",
        "in no lane has the memslot its array before the call that enables write tracking, so a vCPU that still holds the old slot copy "
        "can find write tracking enabled and a NULL array under each of them. Without CONFIG_KVM_EXTERNAL_WRITE_TRACKING that is so since "
        "5.16, by the first shadow root",
        f"virt/kvm/kvm_main.c kvm_swap_active_memslots(), {_PT} kvm_page_track_write_tracking_enabled() [6.1, 6.12]",
    ),
    "H1'": Rule(
        "DELETE or MOVE beside the first shadow root (candidate)",
        "the old slot object is flushed before its arrays are refreshed, so it can be walked for rmaps that it has not got; not write "
        "tracking, and the same in every lane. Only where memslot changes do not zap all shadow pages",
        "virt/kvm/kvm_main.c kvm_invalidate_memslot(), arch/x86/kvm/mmu/mmu.c kvm_arch_flush_shadow_memslot() [6.12]",
    ),
    "H3": Rule(
        "MOVE beside a later registration (candidate)",
        "write tracking is enabled already, so no lane waits: the MOVE can complete with the node attached, counters are lost and a later "
        "removal underflows",
        "arch/x86/kvm/x86.c kvm_arch_prepare_memory_region() [6.6 and later]",
    ),
    "H4": Rule(
        "two vGPUs of one VM opened at once (candidate)",
        "KVMGT looks for another vGPU of the VM before it marks its own, so both opens can pass where one should be -EEXIST; both register, "
        "in every lane",
        "drivers/gpu/drm/i915/gvt/kvmgt.c intel_vgpu_open_device() [6.12]",
    ),
}
"""Rules for places where the lanes agree although one might not expect it."""
