"""Fold events into the state of all VMs of one lane: the state machine.

`Machine.step()` takes one structural event, `fold_run()` (module fold) a run of hot ones. Both are pure: the same events give
the same state, on every machine and for every hash seed. Source of what each event does: the function of the kernel's name
that its row in the table below calls.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs

from replay.errors import EventError, ProfileError
from replay.events import (
    AllocFail,
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    Lost,
    Mark,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    NrMmuPagesSet,
    Observe,
    Opaque,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmAttach,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.kvm.allocator import Allocator, Effects, Injection
from replay.kvm.at_once import free_memslot, set_memory_region
from replay.kvm.internal_slots import kvm_arch_destroy_internal_slots, kvm_vm_ioctl_set_tss_addr
from replay.kvm.ioctls import (
    as_recorded,
    dead,
    dirty_log,
    kvm_set_identity_map_addr,
    kvm_vm_ioctl_create_vcpu,
    kvm_vm_ioctl_enable_cap,
    kvm_vm_ioctl_set_nr_mmu_pages,
)
from replay.kvm.kernel_log import GONE, KernelLog
from replay.kvm.memory_region import NOT_THERE
from replay.kvm.mmu import mmu_first_shadow_root_alloc
from replay.kvm.page_track import kvm_page_track_register_notifier, kvm_page_track_unregister_notifier
from replay.kvm.policies import Policy, unbuildable
from replay.kvm.profile import Profile
from replay.kvm.requests import request_of
from replay.kvm.uapi import KVM_CAP_PAGE_WRITE_TRACKING
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import slot_object_cost
from replay.kvm.write_tracking_cap import why_refused
from replay.units import EIO, ENOTTY

UNSEEN: Final = "delete of a memslot from before the recording"


@attrs.define(eq=False)
class Outcome(Effects):
    """What one structural event did in one lane.

    ret: the model's result, None for events without one. change: create, delete, move, flags_only, unchanged, failed, or "".
    why: the check or allocation that refused it. log: warnings of the kernel. Where two lanes have equal marks, they did the same
    to arrays of the same memslots, as long as the event concerns one memslot.
    """

    ret: int | None = None
    change: str = ""
    why: str = ""
    log: list[str] = attrs.field(factory=list)


_bare_outcome: Final = partial(object.__new__, Outcome)


class Machine:
    """All VMs of one lane: one policy under one profile. Source: the rows of `_STEPS`."""

    def __init__(self, policy: Policy, profile: Profile) -> None:
        """Start without VMs. Raises ProfileError when no kernel of this policy can be built under the profile's configuration."""
        why = unbuildable(policy, config=profile.config_external_write_tracking)
        if why:
            raise ProfileError(
                why, expected="config=y", advice=f"leave the lane out, or add @config=y to it: {policy.name}@config=y"
            )
        self.policy = policy
        self.profile = profile
        self.allocator = Allocator(total_ram_pages=profile.total_ram_pages, slot_object=slot_object_cost(profile.release))
        self.log = KernelLog()
        self.vms: dict[int, Vm] = {}
        self.gone: dict[int, None] = {}
        self.hot_rows = 0
        self.compiled: Any = None
        """What compiled.py knows of the VMs of the last run."""
        self.layout: Any = None
        """What bulk.py has joined of the slots for its own use; see layout.py."""

    def step(self, event: Event, number: int) -> Outcome:
        """Apply one structural event; on a VM that is gone it does nothing and says so.

        Raises EventError for a VM that was never created.
        """
        outcome = _bare_outcome()
        outcome.ret, outcome.change, outcome.why = None, "", ""
        outcome.made = outcome.raw_taken = outcome.raw_freed = None
        outcome.refused, outcome.marks, outcome.log = [], [], []
        self.log.new = outcome.log
        self.allocator.begin(number, outcome)
        if type(event) is MemslotSet and event.vm in self.vms:
            _memslot_set(self, event, outcome)
        elif self.gone and getattr(event, "vm", None) in self.gone:
            outcome.why = GONE
            self.log.add(GONE)
        else:
            _STEPS[type(event)](self, event, outcome)
        return outcome

    def vm(self, number: int) -> Vm:
        """Return a VM that is alive. Raises EventError when there is none of that number."""
        vm = self.vms.get(number)
        if vm is None:
            raise EventError(
                f"VM {number} is not there",
                where=f"event {self.allocator.event}",
                expected="a vm.create or vm.attach before it",
            )
        return vm

    def live_vms(self) -> list[Vm]:
        """List the VMs that are alive, by number."""
        return [self.vms[number] for number in sorted(self.vms)]


def kvm_create_vm(machine: Machine, number: int, vm_type: int) -> Vm:
    """Make a VM without slots. Source: virt/kvm/kvm_main.c kvm_create_vm() [6.1, 6.12]."""
    if number in machine.vms or number in machine.gone:
        raise EventError(
            f"VM {number} is created twice",
            where=f"event {machine.allocator.event}",
            expected="a number that was not used before",
        )
    vm = Vm(number, vm_type, machine.policy, machine.profile, machine.allocator, machine.log)
    machine.vms[number] = vm
    return vm


def kvm_destroy_vm(machine: Machine, vm: Vm, *, foreign_mm: bool) -> None:
    """Free all that a VM has: internal slots first when the VM's own mm does it, then the rest in the order of set index 1.

    Source: virt/kvm/kvm_main.c kvm_destroy_vm(), kvm_free_memslots(); arch/x86/kvm/x86.c kvm_arch_destroy_vm() [6.1, 6.12].
    """
    if not foreign_mm:
        kvm_arch_destroy_internal_slots(vm)
    for space in vm.spaces:
        for slot in space.drop_all():
            free_memslot(vm, slot)
    vm.external_adds.release()
    del machine.vms[vm.number]
    machine.gone[vm.number] = None


def _vm_create(machine: Machine, event: VmCreate, outcome: Outcome) -> None:
    outcome.ret = as_recorded(event.ret)
    if outcome.ret >= 0:
        kvm_create_vm(machine, event.vm, event.type)


def _vm_attach(machine: Machine, event: VmAttach, _outcome: Outcome) -> None:
    kvm_create_vm(machine, event.vm, 0).attached = True


def _vm_destroy(machine: Machine, event: VmDestroy, _outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    if vm.destroyed:
        machine.log.add(GONE)  # said twice: the reference that a notifier node holds is not this event's to drop
        return
    vm.users_count -= 1
    vm.destroyed = True
    # Each notifier node holds a reference from 6.6 on (kvm_get_kvm() in register): the VM stays until the last one goes.
    if vm.users_count == 0:
        kvm_destroy_vm(machine, vm, foreign_mm=event.foreign_mm)


def _memslot_set(machine: Machine, event: MemslotSet, outcome: Outcome) -> None:
    vm = machine.vms.get(event.vm) or machine.vm(event.vm)
    request = request_of(event, vm)
    outcome.ret, outcome.change, outcome.why = set_memory_region(request)
    if vm.attached and event.ret == 0 and outcome.why == NOT_THERE:
        outcome.ret, outcome.why = 0, UNSEEN
    del request.vm  # requests are kept, VMs must not be
    request.old = None


def _vm_enable_cap(machine: Machine, event: VmEnableCap, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    outcome.ret = kvm_vm_ioctl_enable_cap(vm, event)
    if event.cap == KVM_CAP_PAGE_WRITE_TRACKING and outcome.ret < 0:
        outcome.why = why_refused(vm, event)


def _tss_set(machine: Machine, event: TssSet, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    gone = dead(vm, foreign_mm=event.foreign_mm)
    outcome.ret = -EIO if gone else kvm_vm_ioctl_set_tss_addr(vm, event.guest_phys_addr)


def _irqchip_create(machine: Machine, event: IrqchipCreate, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    outcome.ret = -EIO if dead(vm, foreign_mm=event.foreign_mm) else as_recorded(event.ret)
    vm.irqchip_in_kernel |= outcome.ret == 0


def _guest_memfd_create(machine: Machine, event: GuestMemfdCreate, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    if dead(vm, foreign_mm=event.foreign_mm):
        outcome.ret = -EIO
    elif not machine.profile.release.at_least(6, 8):
        outcome.ret = -ENOTTY  # arch/x86/kvm/x86.c kvm_arch_vm_ioctl() default [6.1]
    else:
        outcome.ret = as_recorded(event.ret)


def _shadow_root_alloc(machine: Machine, event: ShadowRootAlloc, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    # KVM_RUN on a dead VM is EIO before any root is loaded: virt/kvm/kvm_main.c kvm_vcpu_ioctl() [6.1, 6.12].
    outcome.ret = -EIO if dead(vm, foreign_mm=event.foreign_mm) else mmu_first_shadow_root_alloc(vm)


def _notifier_register(machine: Machine, event: NotifierRegister, outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    vm.drivers_keep_table &= event.table
    outcome.ret = kvm_page_track_register_notifier(vm, event.node, foreign_mm=event.foreign_mm, null_kvm=event.null_kvm)


def _notifier_unregister(machine: Machine, event: NotifierUnregister, _outcome: Outcome) -> None:
    vm = machine.vm(event.vm)
    kvm_page_track_unregister_notifier(vm, event.node)
    if vm.users_count == 0:
        kvm_destroy_vm(machine, vm, foreign_mm=event.foreign_mm)


def _alloc_fail(machine: Machine, event: AllocFail, _outcome: Outcome) -> None:
    injections = machine.allocator.injections
    injections[:] = [old for old in injections if (old.site, old.vm) != (event.site, event.vm) and (event.site or not event.off)]
    if not event.off:
        injections.append(Injection(event.vm, event.site, event.nth, event.count))


def _memory_limit(machine: Machine, event: MemoryLimit, _outcome: Outcome) -> None:
    machine.allocator.limit_pages = event.limit_pages


def _call(model: Callable[[Vm, Any], int]) -> Callable[[Machine, Any, Outcome], None]:
    def step(machine: Machine, event: Any, outcome: Outcome) -> None:
        outcome.ret = model(machine.vm(event.vm), event)

    return step


def _nothing(_machine: Machine, _event: Event, _outcome: Outcome) -> None:
    """Change nothing: the event is evidence, not a cause."""


_STEPS: Final[dict[type[Event], Callable[[Machine, Any, Outcome], None]]] = {
    VmCreate: _vm_create,
    VmAttach: _vm_attach,
    VmDestroy: _vm_destroy,
    VmEnableCap: _vm_enable_cap,
    VcpuCreate: _call(kvm_vm_ioctl_create_vcpu),
    IrqchipCreate: _irqchip_create,
    MemslotSet: _memslot_set,
    TssSet: _tss_set,
    IdentityMapSet: _call(kvm_set_identity_map_addr),
    NrMmuPagesSet: _call(kvm_vm_ioctl_set_nr_mmu_pages),
    DirtyLogGet: _call(dirty_log),
    DirtyLogClear: _call(dirty_log),
    GuestMemfdCreate: _guest_memfd_create,
    NotifierRegister: _notifier_register,
    NotifierUnregister: _notifier_unregister,
    ShadowRootAlloc: _shadow_root_alloc,
    AllocFail: _alloc_fail,
    MemoryLimit: _memory_limit,
    Opaque: _nothing,
    Observe: _nothing,
    Lost: _nothing,
    Mark: _nothing,
}
