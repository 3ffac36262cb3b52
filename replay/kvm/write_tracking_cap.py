"""Model capability 236: the opt-out of v1 of the on-demand series, and what other kernels make of that number.

Which of the two a kernel has is asked of its policy and release, never of the number.
Source: v1 of the series, arch/x86/kvm/x86.c kvm_vm_ioctl_check_extension(), kvm_vm_ioctl_enable_cap();
include/uapi/linux/kvm.h KVM_CAP_PRE_FAULT_MEMORY [6.12].
"""

from collections.abc import Callable
from typing import Final

import attrs

from replay.events import VmEnableCap
from replay.kvm.policies import Policy
from replay.kvm.profile import Profile
from replay.kvm.vm import Vm
from replay.units import EBUSY, EINVAL

PRE_FAULT_MEMORY_SINCE: Final = (6, 11)


def check_page_write_tracking(policy: Policy, profile: Profile) -> int:
    """Return what KVM_CHECK_EXTENSION says of number 236.

    v1: 1, whatever the configuration; else from 6.11 on whether tdp is on; before 0, as of any unknown number.
    Source: kvm_vm_ioctl_check_extension() [v1 of the series], x86.c KVM_CAP_PRE_FAULT_MEMORY [6.12].

    >>> from replay.kvm.policies import EAGER_6_6, V1
    >>> check_page_write_tracking(V1, Profile()), check_page_write_tracking(EAGER_6_6, Profile(tdp=False))
    (1, 0)
    """
    if policy.opt_out:
        return 1
    return int(profile.tdp and profile.release.at_least(*PRE_FAULT_MEMORY_SINCE))


@attrs.frozen
class CapRow:
    """One check of the opt-out. with_config: only where the option is compiled in. refuses: given the VM and args[0]."""

    name: str
    errno: int
    with_config: bool
    refuses: Callable[[Vm, VmEnableCap], bool]


def _argument(event: VmEnableCap) -> int:
    return event.args[0] if event.args else 0


def _needed(vm: Vm, event: VmEnableCap) -> bool:
    return not _argument(event) and (not vm.profile.tdp or vm.shadow_root_allocated)


# The order decides the errno. Source: kvm_vm_ioctl_enable_cap() [6.8] for flags, then v1 of the series. Only address space 0
# is looked at, as kvm_memslots() does, and slots_lock is not held.
OPT_OUT_CHECKS: Final[tuple[CapRow, ...]] = (
    CapRow("no such capability", EINVAL, False, lambda vm, _event: not vm.policy.opt_out),
    CapRow("flags", EINVAL, False, lambda _vm, event: event.flags != 0),
    CapRow("an argument other than 0 and 1", EINVAL, False, lambda _vm, event: _argument(event) & ~1 != 0),
    CapRow("shadow paging needs write tracking", EBUSY, False, _needed),
    CapRow("a memslot is there", EINVAL, True, lambda vm, _event: len(vm.spaces[0]) > 0),
    CapRow("a notifier is registered", EINVAL, True, lambda vm, _event: bool(vm.nodes)),
)


def _refusal(vm: Vm, event: VmEnableCap) -> CapRow | None:
    config = vm.profile.config_external_write_tracking
    return next((row for row in OPT_OUT_CHECKS if (config or not row.with_config) and row.refuses(vm, event)), None)


def why_refused(vm: Vm, event: VmEnableCap) -> str:
    """Return the name of the check that refuses the call, "" for none. Source: OPT_OUT_CHECKS."""
    row = _refusal(vm, event)
    return "" if row is None else row.name


def enable_page_write_tracking(vm: Vm, event: VmEnableCap) -> int:
    """Let a VM opt out of external write tracking (args[0] 0) or in again (1); 0, -EINVAL or -EBUSY.

    Without the option nothing is stored. Elsewhere the number can not be enabled: unknown before 6.11, and from there on
    KVM_CAP_PRE_FAULT_MEMORY, which is only ever asked about (seen on 6.18.44). Source: OPT_OUT_CHECKS.
    """
    row = _refusal(vm, event)
    if row is not None:
        return -row.errno
    vm.page_write_tracking_disabled = vm.profile.config_external_write_tracking and not _argument(event)
    return 0
