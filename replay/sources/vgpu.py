"""Conclude from VFIO calls that a vGPU of KVMGT registers and unregisters its page-track notifier.

No recorder but kprobes sees the registration itself. A vGPU registers when its VFIO device is opened and unregisters when that is
closed, so with the word of the user that the devices are vGPUs (`import --kvmgt`) the two calls follow from strace.
Source: drivers/gpu/drm/i915/gvt/kvmgt.c intel_vgpu_open_device(), intel_vgpu_close_device(); drivers/vfio/group.c
vfio_device_open_file() (VFIO_GROUP_GET_DEVICE_FD), drivers/vfio/device_cdev.c vfio_df_ioctl_bind_iommufd().
"""

from typing import Final

from replay.events import NotifierRegister, Source
from replay.sources import ioctls
from replay.sources.fdtable import VGPU, File, Task, Vm
from replay.sources.strace_args import IoctlArgs
from replay.sources.syscalls import Syscall
from replay.sources.world import World
from replay.units import ENOMEM, EOPNOTSUPP

VFIO_CALLS: Final = frozenset({ioctls.VFIO_GROUP_GET_DEVICE_FD, ioctls.VFIO_DEVICE_BIND_IOMMUFD})
STATED: Final = "VFIO device opened: taken for a vGPU of KVMGT, as --kvmgt says"
NO_VM: Final = "VFIO device opened by a process with no VM, or with several: whose notifier it registers is not known"
REFUSED: Final = "VFIO device that was not opened, for a reason that is not the registration's"
OF_REGISTER: Final = frozenset({-ENOMEM, -EOPNOTSUPP})
"""Errors of kvm_page_track_register_notifier() that the open hands on as they are."""


def vfio_call(world: World, record: Syscall, task: Task, args: IoctlArgs) -> None:
    """Take the result of a call that opens a VFIO device."""
    vm = _vm_of(world, task)
    if vm is None:
        world.count(record, NO_VM)
        return
    if record.ret is None or (record.ret < 0 and record.ret not in OF_REGISTER):
        world.count(record, REFUSED, "unknown" if record.ret is None else "ignored")
        return
    node, world.nodes_numbered = world.nodes_numbered, world.nodes_numbered + 1
    world.count(record, STATED, "ignored")
    world.out.append(
        NotifierRegister(
            vm=vm.number,
            node=node,
            ret=min(record.ret, 0),
            foreign_mm=vm.mm is not None and vm.mm is not task.mm,
            task=task.who,
            time_ns=record.time_ns,
            enter_time_ns=record.enter_ns if record.exit_ns is not None else None,
            source=Source(record.file, record.line),
            inferred=True,
        )
    )
    if record.ret >= 0:
        # VFIO holds a reference of the VM while the device is open: the file keeps it alive.
        fd = record.ret if args.cmd == ioctls.VFIO_GROUP_GET_DEVICE_FD else args.fd.number
        world.open_file(task, fd, File(VGPU, vm, node), cloexec=True)


def _vm_of(world: World, task: Task) -> Vm | None:
    """Return the only VM of a task's process, None when there is none or several."""
    own = [world.vms[number] for number in sorted(world.vms) if world.holds(task, world.vms[number])]
    return own[0] if len(own) == 1 else None
