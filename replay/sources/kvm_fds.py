"""Find out which VM an ioctl is on, and make the event; the part of the resolver that knows KVM's calls."""

from typing import Any, Final

from replay.events import Source, VmCreate
from replay.header import MEMSLOT_ELSEWHERE
from replay.sources import ioctls
from replay.sources.fdtable import DEVICE, KVM, MEMFD, STATS, VCPU, VGPU, VM, File, Mm, Task, Vm, note_kind
from replay.sources.kvm_calls import ALWAYS_THERE, MEMSLOT_CALLS, VM_CALLS
from replay.sources.strace_args import Fd, IoctlArgs, ioctl_args, number_of
from replay.sources.syscalls import BOTH, Syscall
from replay.sources.vgpu import VFIO_CALLS, vfio_call
from replay.sources.world import World
from replay.units import EBADF, EEXIST, EFAULT, EINTR, EIO, ENOENT, ENOMEM, ENOTTY, ENXIO, U32_MAX

_ONLY_A_VM_SAYS: Final = frozenset({-EEXIST, -EFAULT, -EIO, -ENOENT, -ENOMEM, -ENXIO})
"""Errors that an fd which is no VM does not give to a VM's calls (/dev/kvm and vCPUs give EINVAL, others ENOTTY)."""
_DEVICE_CALLS: Final = frozenset({ioctls.KVM_SET_DEVICE_ATTR, ioctls.KVM_GET_DEVICE_ATTR, ioctls.KVM_HAS_DEVICE_ATTR})


class KvmFds:
    """Read ioctls against the world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def enter(self, record: Syscall, task: Task, *, hold: bool) -> None:
        """Look up the fd as the kernel does, at entry; the record keeps what was found, with a reference if it is held."""
        args = ioctl_args(record.args)
        file = None if args is None else self._file(record, task, args.fd)
        record.held = file
        if file is not None and file.vm is not None:
            file.vm.tids.add(task.tid)
            task.vm = file.vm
            if args is not None and args.cmd == ioctls.KVM_RUN:
                task.vcpu_vm = file.vm
        if hold and file is not None:
            self.world.hold(file)

    def exit(self, record: Syscall, task: Task, *, held: bool) -> None:
        """Take the result: an event, a new fd, or a count."""
        file: File | None = record.held
        record.held = None
        try:
            self._exit(record, task, file)
        finally:
            if held and file is not None:
                self.world.put(file, task, "close")

    def _exit(self, record: Syscall, task: Task, file: File | None) -> None:
        args = ioctl_args(record.args)
        self.world.calls_on_vms += args is not None and (args.cmd in VM_CALLS or (file is not None and file.vm is not None))
        if args is None:
            self.world.count(record, "ioctl with arguments that are not understood")
        elif record.injected:
            self.world.count(record, "ioctl answered by strace's fault injection, not by KVM", "ignored")
        elif record.errno.startswith("ERESTART"):
            self.world.count(record, "ioctl interrupted before it did anything", "ignored")
        elif args.cmd in {ioctls.FIOCLEX, ioctls.FIONCLEX}:
            task.table.set_cloexec(args.fd.number, task.tid, cloexec=args.cmd == ioctls.FIOCLEX)
        elif self.world.kvmgt and args.cmd in VFIO_CALLS:
            vfio_call(self.world, record, task, args)
        elif args.cmd is None or not ioctls.is_kvm(args.cmd):
            kind = args.cmd_text if args.cmd_text.startswith("KVM_") else "ioctl that is not KVM's"
            self.world.count(record, kind, "ignored")
        else:
            self._kvm(record, task, args, args.cmd, self._believe(record, task, args, file))

    def _kvm(self, record: Syscall, task: Task, args: IoctlArgs, cmd: int, file: File | None) -> None:
        if cmd == ioctls.KVM_CREATE_VM:
            self._create_vm(record, task, args)
        elif file is not None and file.kind == VM and cmd in VM_CALLS:
            self._vm_call(record, task, args, cmd, file)
        elif cmd in VM_CALLS and cmd != ioctls.KVM_ENABLE_CAP:
            kind = MEMSLOT_ELSEWHERE if cmd in MEMSLOT_CALLS else f"{ioctls.ioctl_name(cmd)} on an fd that is not a VM"
            self.world.count(record, kind, "ignored")
        else:
            self._without_effect(record, task, args, cmd, file)

    def _without_effect(self, record: Syscall, task: Task, args: IoctlArgs, cmd: int, file: File | None) -> None:
        world = self.world
        cell = world.tally.cell(world.place(record), ioctls.ioctl_name(cmd), "ignored")
        cell.count += 1
        done = record.ret is not None and record.ret >= 0
        if file is None or file.vm is None:
            return
        if cmd == ioctls.KVM_RUN:
            task.vcpu_vm = file.vm
        if done and cmd == ioctls.KVM_CREATE_DEVICE:
            file.vm.unnamed_devices += 1
        elif done and cmd == ioctls.KVM_GET_STATS_FD:
            self._new_fd(record, task, File(STATS, file.vm), cloexec=True)
        elif (
            (done or record.ret == -EINTR)
            and (record.stage == BOTH or task.table.get(args.fd.number, task.tid) is file)
            and not args.cmd_text.startswith("FIO")
        ):
            task.set_quiet(record.args, file, cell, is_run=cmd == ioctls.KVM_RUN)

    # Which file an fd is.

    def _file(self, record: Syscall, task: Task, fd: Fd) -> File | None:
        """Look an fd up, and distrust the table when the note of -y says something else."""
        file = task.table.get(fd.number, task.tid)
        if file is None or not fd.note:
            return file
        index = _vcpu_index(fd.note)
        same = note_kind(fd.note) == file.kind and (index is None or file.index is None or index == file.index)
        same = same or (file.kind == VGPU and "vfio" in fd.note)
        if not same:
            self._forget(record, task, fd.number)
        return file if same else None

    def _believe(self, record: Syscall, task: Task, args: IoctlArgs, file: File | None) -> File | None:
        """Hold the file against the result: an errno that it can not give, or a success on an fd that is not known."""
        if file is not None:
            if record.ret == -EBADF or (record.ret == -ENOTTY and file.kind in {VM, VCPU} and args.cmd in ALWAYS_THERE):
                self._forget(record, task, args.fd.number)
                return None
            return file
        kind = note_kind(args.fd.note) if args.fd.note else _kind_by_result(args.cmd, record.ret)
        if kind == KVM:
            file = File(KVM)
        elif kind:
            vm = self._vm_of_unknown(task, kind)
            if vm is None:
                return None
            file = File(kind, vm, _vcpu_index(args.fd.note), keeps=vm.attached or len(self.world.vms) == 1)
            vm.tids.add(task.tid)
            task.vm = vm
        else:
            return None
        if record.ret != -EBADF:
            self.world.open_file(task, args.fd.number, file, cloexec=kind != MEMFD)
        return file

    def _forget(self, record: Syscall, task: Task, fd: int) -> None:
        """Close an fd that was closed without a line for it."""
        file = task.table.remove(fd, task.tid)
        if file is not None:
            self.world.count(record, "fd that is no longer what it was: its close was not recorded", "ignored")
            self.world.put(file, task, "close", inferred=True)

    def _vm_of_unknown(self, task: Task, kind: str) -> Vm | None:
        """Return the VM that an fd of unknown origin most likely belongs to; None when nothing speaks for one."""
        world = self.world
        vms = [world.vms[number] for number in sorted(world.vms)]
        mine = [vm for vm in vms if world.holds(task, vm)]
        if kind == DEVICE:
            return next((vm for vm in reversed(mine) if vm.unnamed_devices), None)
        if kind in {MEMFD, STATS}:
            return mine[-1] if mine else None
        if kind == VM:
            nameless = [vm for vm in mine if not vm.fd_seen]
            if nameless:
                return nameless[-1]
            if mine and (world.scan.fd_calls or len(mine) > 1):
                mine = []  # a copy would have been recorded: this is another VM
        elif task.vm in mine:
            return task.vm
        candidates = mine or (vms if len(vms) == 1 and not (kind == VM and world.holds(task, vms[0])) else [])
        return candidates[-1] if candidates else world.attach_vm(task)

    # Calls with an effect.

    def _create_vm(self, record: Syscall, task: Task, args: IoctlArgs) -> None:
        if record.ret is None or record.ret < 0:
            self.world.count(record, "KVM_CREATE_VM that failed" if record.ret else "KVM_CREATE_VM without a result", "ignored")
            return
        vm = self.world.new_vm(task.mm)
        vm.tids.add(task.tid)
        task.vm = vm
        vm_type = number_of(args.arg)
        base = self._base(record, task, vm) | {"foreign_mm": False}
        vm_type = vm_type if vm_type is not None and 0 <= vm_type <= U32_MAX else 0
        self.world.open_file(task, record.ret, File(VM, vm), cloexec=True)
        self.world.out.append(VmCreate(type=vm_type, **base))

    def _vm_call(self, record: Syscall, task: Task, args: IoctlArgs, cmd: int, file: File) -> None:
        assert file.vm is not None
        event = VM_CALLS[cmd](cmd, args.arg, self._base(record, task, file.vm))
        self.world.out.append(event)
        if record.ret is None or record.ret < 0:
            return
        if cmd == ioctls.KVM_CREATE_VCPU:
            self._new_fd(record, task, File(VCPU, file.vm, number_of(args.arg)), cloexec=True)
        elif cmd == ioctls.KVM_CREATE_GUEST_MEMFD:
            self._new_fd(record, task, File(MEMFD, file.vm), cloexec=False)

    def _new_fd(self, record: Syscall, task: Task, file: File, *, cloexec: bool) -> None:
        assert record.ret is not None
        self.world.open_file(task, record.ret, file, cloexec=cloexec)

    def _base(self, record: Syscall, task: Task, vm: Vm) -> dict[str, Any]:
        """Return the fields that all calls on a VM have."""
        return {
            "vm": vm.number,
            "ret": record.ret,
            "foreign_mm": self._foreign(record, task, vm),
            "task": task.who,
            "time_ns": record.time_ns,
            "enter_time_ns": record.enter_ns if record.exit_ns is not None else None,
            "source": Source(record.file, record.line),
        }

    def _foreign(self, record: Syscall, task: Task, vm: Vm) -> bool:
        """Say whether the caller's mm is another than the VM's; the kernel refuses such calls before anything else.

        Source: virt/kvm/kvm_main.c kvm_vm_ioctl(), -EIO before the call is looked at [6.1, 6.12].
        """
        refused = record.ret == -EIO
        if vm.mm is None and record.ret is not None and not refused:
            vm.mm = task.mm
        if vm.mm is None or self.world.loose:
            return refused or (record.ret is None and vm.mm is not None and vm.mm is not task.mm)
        if vm.mm is task.mm:
            return False
        if record.ret is not None and not refused:
            self.world.count(record, "call by another process that KVM did not refuse: who made the task is not known")
            self._correct(task, vm.mm)
            return False
        return True

    def _correct(self, task: Task, mm: Mm) -> None:
        """Take the kernel's word: the task has the VM's mm."""
        mm.users += 1
        self.world.leave_mm(task, "exit")
        task.mm = mm


def _vcpu_index(note: str) -> int | None:
    kind, _, index = note.rpartition(":")
    return int(index) if kind == "anon_inode:kvm-vcpu" and index.isdecimal() and len(index) < 6 else None


def _kind_by_result(cmd: int | None, ret: int | None) -> str:
    """Return what an fd without a note must be, for such a call to give such a result; "" when it may be several things."""
    if ret is None:
        return ""
    if cmd == ioctls.KVM_RUN:
        return VCPU if ret >= 0 or ret == -EINTR else ""
    if cmd in _DEVICE_CALLS:
        return DEVICE if ret >= 0 else ""
    if cmd in VM_CALLS and cmd != ioctls.KVM_ENABLE_CAP:
        return VM if ret >= 0 or ret in _ONLY_A_VM_SAYS else ""
    if cmd == ioctls.KVM_CREATE_VM:
        return KVM if ret >= 0 else ""
    return ""
