"""Model write tracking: who may track, the 16-bit counters, notifiers.

Functions carry the kernel's names and ask the policy row where kernels differ.
Source: arch/x86/kvm/mmu/page_track.c [6.1.192 for 5.16-6.5; 6.8 text for 6.6-6.8; 6.12.117 for 6.9 and later].
"""

from replay.kvm.allocator import GFN_WRITE_TRACK, SITE_WT_ADD, SITE_WT_CREATE, SITE_WT_REGISTER
from replay.kvm.counters import Counters
from replay.kvm.kernel_log import BUG, DISABLED, NO_ARRAY, OVERFLOW, UNDERFLOW, KernelLog
from replay.kvm.lpages import update_gfn_disallow_lpage_count
from replay.kvm.memslot import Memslot
from replay.kvm.uapi import KVM_X86_TDX_VM
from replay.kvm.vm import Vm
from replay.units import EINVAL, ENOMEM, EOPNOTSUPP, ESRCH, U16_MAX


def kvm_page_track_write_tracking_enabled(vm: Vm) -> bool:
    """Tell whether write tracking is enabled (E of the policy table).

    Source: page_track.c kvm_page_track_write_tracking_enabled(): external term, or shadow root, or not tdp.
    """
    profile = vm.profile
    if vm.shadow_root_allocated or not profile.tdp:
        return True
    flags = vm.external_write_tracking_enabled, vm.page_write_tracking_disabled
    return vm.policy.external_term(profile.config_external_write_tracking, *flags)


def write_tracking_alloc(vm: Vm, slot: Memslot, site: str) -> bool:
    """Allocate a slot's array unless it is there; False is -ENOMEM. Source: kvm_page_track_write_tracking_alloc()."""
    if slot.arch.raw_write_track is None:
        slot.arch.gfn_write_track = vm.allocator.vcalloc(site, GFN_WRITE_TRACK, 2 * slot.npages, vm.number, slot.key)
        if slot.arch.raw_write_track is not None:
            slot.arch.counts = Counters(vm.allocator.counters, slot.base_gfn, slot.npages)
            vm.spaces[slot.as_id].forget_layout()
    return slot.arch.raw_write_track is not None


def kvm_page_track_create_memslot(vm: Vm, slot: Memslot) -> bool:
    """Allocate the array of a new or moved slot if tracking is enabled; False is -ENOMEM. Source: page_track.c."""
    if vm.policy.at_first_add or not kvm_page_track_write_tracking_enabled(vm):
        return True
    return write_tracking_alloc(vm, slot, SITE_WT_CREATE)


def update_gfn_write_track(slot: Memslot, gfn: int, delta: int, log: KernelLog) -> bool:
    """Change one counter; one that would leave 0..65535 warns and stays: False.

    Source: page_track.c update_gfn_write_track() [6.12], update_gfn_track() [6.1]; seen on both kernels.
    """
    index = gfn - slot.base_gfn
    counted = slot.arch.counts.bump(index, delta, U16_MAX)
    if not counted:
        log.add(UNDERFLOW if delta < 0 else OVERFLOW)
    return counted


def kvm_write_track_gfn(vm: Vm, slot: Memslot, gfn: int, delta: int) -> None:
    """Add or remove one tracking of a gfn in a slot, as account_shadowed() and external users do.

    Large pages are disallowed, or allowed again, whether the counter moved or is at its limit.
    Source: page_track.c __kvm_write_track_add_gfn(), __kvm_write_track_remove_gfn() [6.6 on: KVM_BUG_ON while not enabled];
    kvm_slot_page_track_add_page(), kvm_slot_page_track_remove_page() [6.1: WARN, nothing happens].
    """
    if not kvm_page_track_write_tracking_enabled(vm):
        if vm.policy.bug_when_disabled:
            vm.log.add(BUG)
            vm.vm_bugged = True
        else:
            vm.log.add(DISABLED)
        return
    if vm.policy.at_first_add and delta == 1:
        write_tracking_alloc(vm, slot, SITE_WT_ADD)
    if slot.arch.raw_write_track is None and vm.policy.at_first_add:
        vm.log.add(UNDERFLOW)
        update_gfn_disallow_lpage_count(vm, slot, gfn, delta, counted=False)
        return
    if slot.arch.raw_write_track is None:
        # No kernel tests for NULL here: this would be a NULL dereference (hazard H1 of on-demand; address space 1 of v1).
        vm.log.add(NO_ARRAY)
        return
    counted = update_gfn_write_track(slot, gfn, delta, vm.log)
    update_gfn_disallow_lpage_count(vm, slot, gfn, delta, counted=counted)


def has_external_api(vm: Vm) -> bool:
    """Tell whether the functions for external users are compiled in: from 6.6 on only with the option.

    Without them no driver can be built, let alone call: the model then answers -EOPNOTSUPP and changes nothing.
    Source: page_track.c #ifdef CONFIG_KVM_EXTERNAL_WRITE_TRACKING [6.6, 6.12]; unconditional before [6.1].
    """
    return vm.profile.config_external_write_tracking or not vm.policy.register_checks_mm


def external_track(vm: Vm, as_id: int, gfn: int, delta: int) -> int:
    """Model an external user's add or remove of a gfn; return 0 or -EINVAL, 0 also when KVM_BUG_ON fired.

    Source: page_track.c kvm_write_track_add_gfn(), kvm_write_track_remove_gfn() [6.6 and later: lookup in address space 0
    only]; drivers/gpu/drm/i915/gvt/kvmgt.c [6.1: the caller looks the slot up].
    """
    if not has_external_api(vm):
        return -EOPNOTSUPP
    slot = vm.spaces[0 if vm.policy.register_checks_mm else min(as_id, vm.nas - 1)].by_gfn(gfn)
    if slot is None:
        return -EINVAL
    kvm_write_track_gfn(vm, slot, gfn, delta)
    vm.external_adds[gfn] = max(vm.external_adds.get(gfn, 0) + delta, 0)
    return 0


def kvm_gfn_is_write_tracked(vm: Vm, as_id: int, gfn: int) -> bool:
    """Tell whether a gfn is write-tracked, as page faults and unsync ask.

    Source: page_track.c kvm_gfn_is_write_tracked() [6.12], kvm_slot_page_track_is_active() [6.1]; both address spaces from
    0f38453cdb2e ("KVM: x86/mmu: Check write tracking in all address spaces") on: 6.1.187, 6.6.156, 6.12.108, 6.18.49, 7.2.
    """
    if not kvm_page_track_write_tracking_enabled(vm):
        return False
    as_id = min(as_id, vm.nas - 1)  # a kernel with one address space keeps SMM in it
    slot = vm.spaces[as_id].by_gfn(gfn)
    if slot is None:
        return False
    if slot.arch.counts.get(gfn - slot.base_gfn, 0):
        return True
    if vm.nas == 1 or not reads_all_address_spaces(vm):
        return False
    other = vm.spaces[as_id ^ 1].by_gfn(gfn)
    return other is not None and other.arch.counts.get(gfn - other.base_gfn, 0) != 0


def reads_all_address_spaces(vm: Vm) -> bool:
    """Tell whether the release has the fix that reads both address spaces. Source: 0f38453cdb2e and its stable backports."""
    release = vm.profile.release
    fixed = {(6, 1): 187, (6, 6): 156, (6, 12): 108, (6, 18): 49}.get((release.major, release.minor))
    return release.patch >= fixed if fixed is not None else release.at_least(7, 2)


def kvm_enable_external_write_tracking(vm: Vm) -> int:
    """Allocate the arrays of all slots and set the sticky flag; 0, -EOPNOTSUPP or -ENOMEM, keeping what was allocated.

    The test for "already enabled" comes first, as arrays are then there or come with each slot. TDX guests are refused from
    6.16 on ("Do not enable page track for TD guest").
    Source: page_track.c kvm_enable_external_write_tracking() [6.12.117]; vmallocinfo shows its arrays under
    kvm_page_track_register_notifier, into which it is inlined.
    """
    if vm.external_write_tracking_enabled:
        return 0
    if vm.type == KVM_X86_TDX_VM and vm.profile.release.at_least(6, 16):
        return -EOPNOTSUPP
    if not vm.policy.at_first_add and not kvm_page_track_write_tracking_enabled(vm) and not _alloc_all(vm, SITE_WT_REGISTER):
        return -ENOMEM
    vm.external_write_tracking_enabled = True
    return 0


def kvm_page_track_write_tracking_enable(vm: Vm, site: str) -> int:
    """Allocate the arrays of all slots and set the one flag; 0 or -ENOMEM, keeping what was allocated.

    Where write tracking is enabled without the flag, by tdp=0, the flag stays as it is.
    Source: page_track.c kvm_page_track_write_tracking_enable() [v2 of the series].
    """
    if kvm_page_track_write_tracking_enabled(vm):
        return 0
    if not _alloc_all(vm, site):
        return -ENOMEM
    vm.external_write_tracking_enabled = True
    return 0


def _alloc_all(vm: Vm, site: str) -> bool:
    return all(write_tracking_alloc(vm, slot, site) for slot in vm.slots())


def _enable(vm: Vm) -> int:
    """Do what a registration does about arrays and flags under the VM's policy."""
    if vm.policy.root_enables:
        return kvm_page_track_write_tracking_enable(vm, SITE_WT_REGISTER)
    return kvm_enable_external_write_tracking(vm) if vm.policy.has_ext_flag else 0


def kvm_page_track_register_notifier(vm: Vm, node: int, *, foreign_mm: bool, null_kvm: bool) -> int:
    """Link an external user's node; 0, -ESRCH, -ENOMEM, -EINVAL after an opt-out, or -EOPNOTSUPP.

    -EOPNOTSUPP: it is not compiled in, or the guest is a TD.
    Source: page_track.c [6.1: void, cannot fail, no check of mm; 6.6: ESRCH and a reference to the VM; v1 of the series: EINVAL
    next; v2: takes the reference, allocates, drops it on failure; 6.9: allocates first].
    """
    if not has_external_api(vm):
        return -EOPNOTSUPP
    if vm.policy.register_checks_mm and (null_kvm or foreign_mm):
        return -ESRCH
    if vm.page_write_tracking_disabled:
        return -EINVAL
    vm.users_count += vm.policy.reference_first
    ret = _enable(vm)
    if ret:
        vm.users_count -= vm.policy.reference_first
        return ret
    vm.users_count += vm.policy.register_checks_mm and not vm.policy.reference_first
    vm.nodes.insert(0, node)
    return 0


def kvm_page_track_unregister_notifier(vm: Vm, node: int) -> None:
    """Unlink a node; arrays, counters and the sticky flag stay, the driver's own table goes with its last node.

    Source: page_track.c [6.1, 6.12]; kvmgt.c intel_vgpu_close_device(), kvmgt_protect_table_destroy().
    """
    if node not in vm.nodes:
        return
    vm.nodes.remove(node)
    if not vm.nodes:
        vm.external_adds.clear()
    if vm.policy.register_checks_mm:
        vm.users_count -= 1


def kvm_page_track_flush_slot(vm: Vm, slot: Memslot) -> None:
    """Let external users drop their tracking of a slot that is deleted or moved (API of 5.16-6.5 only).

    Source: page_track.c kvm_page_track_flush_slot() [6.1]; kvmgt.c kvmgt_page_track_flush_slot() removes every gfn that it
    tracks in the slot, before prepare can fail. A driver without such a table leaves the counters alone (seen on 6.1.192).
    """
    if not vm.policy.flush_slot or not vm.nodes or not vm.drivers_keep_table:
        return
    for gfn in sorted(gfn for gfn in vm.external_adds if slot.base_gfn <= gfn < slot.end_gfn):
        for _ in range(vm.external_adds.pop(gfn)):
            kvm_write_track_gfn(vm, slot, gfn, -1)
