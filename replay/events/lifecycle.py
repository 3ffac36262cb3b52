"""Name the events of a VM's life: created, found alive, given capabilities and vCPUs, destroyed."""

import attrs

from replay.events.base import Event, VmCall, enum, event, flag, text, uint, uints


@event(1, "vm.create")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmCreate(VmCall):
    """KVM_CREATE_VM: a new VM; its mm is the caller's.

    Source: virt/kvm/kvm_main.c kvm_dev_ioctl_create_vm(), kvm_create_vm().
    """

    type: int = uint("machine type argument: 0 default, 1 SW_PROTECTED, 2 SEV, 3 SEV_ES, 4 SNP, 5 TDX", bits=32, default=0)


@event(2, "vm.attach")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmAttach(Event):
    """A VM seen alive whose creation was not recorded: slots from before are unknown, so is every answer that needs them."""

    vm: int = uint("number of the VM in this recording", bits=16)


@event(3, "vm.destroy")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmDestroy(Event):
    """The last reference to a VM is gone.

    Source: virt/kvm/kvm_main.c kvm_put_kvm(), kvm_destroy_vm(); arch/x86/kvm/x86.c kvm_arch_destroy_vm() deletes the
    internal slots first only when the caller still has the VM's mm.
    """

    vm: int = uint("number of the VM", bits=16)
    reason: str = enum("what dropped the last reference", "close", "exit", "exec", "killed", "end_of_recording", default="close")
    foreign_mm: bool = flag("dropped by a task with another mm than the VM's, or after the mm was gone")


@event(4, "vm.enable_cap")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmEnableCap(VmCall):
    """KVM_ENABLE_CAP on the VM.

    Source: virt/kvm/kvm_main.c kvm_vm_ioctl_enable_cap_generic(), arch/x86/kvm/x86.c kvm_vm_ioctl_enable_cap().
    """

    cap: int = uint("KVM_CAP_ number", bits=32)
    flags: int = uint("kvm_enable_cap.flags", bits=32, default=0)
    args: tuple[int, ...] = uints("kvm_enable_cap.args", length_max=4)


@event(5, "vcpu.create")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class VcpuCreate(VmCall):
    """KVM_CREATE_VCPU: may create the identity-map and APIC-access internal slots.

    Source: virt/kvm/kvm_main.c kvm_vm_ioctl_create_vcpu(); arch/x86/kvm/vmx/vmx.c vmx_vcpu_create().
    """

    vcpu_id: int = uint("id argument", bits=32)


@event(6, "irqchip.create")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class IrqchipCreate(VmCall):
    """KVM_CREATE_IRQCHIP (or split irqchip by capability): the local APIC is in the kernel from here on.

    Source: arch/x86/kvm/x86.c kvm_arch_vm_ioctl(KVM_CREATE_IRQCHIP).
    """


@event(7, "opaque")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Opaque(VmCall):
    """A KVM call that changes what is modelled, whose arguments the recorder did not show.

    For example KVM_SET_USER_MEMORY_REGION2 in strace. Nothing can be said of the VM's layout after one that succeeded.
    """

    cmd: int = uint("ioctl number", bits=32)
    name: str = text("name of the call", length_max=64)
