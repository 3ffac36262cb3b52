"""Hold what a process has open of KVM: file tables, the files in them, the VMs that they keep alive, and whose mm is whose.

Only files of KVM are kept; every other fd is simply absent. A VM lives as long as one of its files is referenced: by a table
entry, a mapping (kvm_run is mapped from the vCPU's file), a message in flight, or a call that works on it.
Source: virt/kvm/kvm_main.c kvm_vm_release(), kvm_vcpu_release(), kvm_device_release(): each puts one reference of the VM;
virt/kvm/guest_memfd.c kvm_gmem_release() and kvm_vm_stats_release() as well.
"""

from typing import TYPE_CHECKING, Final

import attrs

from replay import events
from replay.sources.syscalls import Syscall

if TYPE_CHECKING:
    from replay.sources.tally import Cell

KVM: Final = "kvm"
VM: Final = "vm"
VCPU: Final = "vcpu"
DEVICE: Final = "device"
MEMFD: Final = "memfd"
STATS: Final = "stats"
VGPU: Final = "vgpu"
"""An open VFIO device that is taken for a vGPU of KVMGT; `File.index` is the number of its notifier node."""

QUIET_MAX: Final = 1024
"""Most ioctls that one task remembers as in need of no second look."""
_VM_NOTE: Final = "anon_inode:kvm-vm"
_VCPU_NOTE: Final = "anon_inode:kvm-vcpu"


def note_kind(note: str) -> str:
    """Return the kind of KVM file that a note of -y names, "" for another file.

    >>> note_kind("anon_inode:kvm-vcpu:3"), note_kind("/dev/kvm<char 10:232>"), note_kind("/tmp/x")
    ('vcpu', 'kvm', '')
    """
    if note.startswith("/dev/kvm"):
        return KVM if note[8:9] in {"", "<", " "} else ""
    if not note.startswith("anon_inode:"):
        return ""
    if note == _VM_NOTE:
        return VM
    if note.startswith(_VCPU_NOTE):
        return STATS if note[len(_VCPU_NOTE) :].startswith("-stats") else VCPU
    if note.startswith(_VM_NOTE + "-stats"):
        return STATS
    if "kvm-gmem" in note:
        return MEMFD
    return DEVICE if note.startswith("anon_inode:kvm-") else ""


@attrs.define(eq=False)
class Mm:
    """An address space; users counts the tasks in it. mappings: start of a mapped vCPU file -> (length, file)."""

    number: int
    users: int = 0
    mappings: dict[int, tuple[int, "File"]] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Vm:
    """A VM as the recording shows it; mm None: not known yet (attached to). files: how many files of it are referenced.

    tids: threads that called it. fd_seen: a VM fd of it was met, not only vCPU fds. unnamed_devices: KVM_CREATE_DEVICE calls
    whose fd the recorder did not show. number is that of the events, never reused.
    """

    number: int
    mm: Mm | None
    attached: bool = False
    alive: bool = True
    files: int = 0
    fd_seen: bool = False
    unnamed_devices: int = 0
    tids: set[int] = attrs.field(factory=set)


@attrs.define(eq=False)
class File:
    """An open file of KVM; refs counts what holds it. index: vCPU id as far as it is known.

    keeps: it keeps its VM alive; not so when which VM it belongs to is a guess among several.
    """

    kind: str
    vm: Vm | None = None
    index: int | None = None
    refs: int = 0
    keeps: bool = True


@attrs.define(eq=False)
class Entry:
    """One fd of a table. tids: threads that used it (kept by `LooseTable` only)."""

    file: File
    cloexec: bool = False
    tids: set[int] = attrs.field(factory=set)


class FileTable:
    """The fds of the tasks that share one table; `users` counts them. version: raised whenever an fd changes."""

    loose = False

    def __init__(self) -> None:
        self.fds: dict[int, Entry] = {}
        self.users = 0
        self.version = 0

    def get(self, fd: int, _tid: int) -> File | None:
        """Return the file at an fd, None when it is none of KVM's or not known."""
        entry = self.fds.get(fd)
        return None if entry is None else entry.file

    def install(self, fd: int, file: File, tid: int, *, cloexec: bool) -> File | None:
        """Put a file at an fd (its reference is the caller's business); return the one that was there."""
        before = self.remove(fd, tid)
        self.fds[fd] = Entry(file, cloexec)
        file.refs += 1
        return before

    def remove(self, fd: int, _tid: int) -> File | None:
        """Take a file out; return it, with the table's reference still counted."""
        self.version += 1
        entry = self.fds.pop(fd, None)
        return None if entry is None else entry.file

    def set_cloexec(self, fd: int, _tid: int, *, cloexec: bool) -> None:
        """Set the close-on-exec flag of an fd."""
        entry = self.fds.get(fd)
        if entry is not None:
            entry.cloexec = cloexec

    def copy(self) -> "FileTable":
        """Return a table of its own with the same fds (fork); files get a reference more."""
        new = FileTable()
        for fd, entry in self.fds.items():
            entry.file.refs += 1
            new.fds[fd] = Entry(entry.file, entry.cloexec)
        return new

    def drop_cloexec(self) -> list[File]:
        """Take out what exec closes; return the files, the table's references still counted."""
        gone = [(fd, entry.file) for fd, entry in self.fds.items() if entry.cloexec]
        for fd, _ in gone:
            self.remove(fd, 0)
        return [file for _, file in gone]

    def drop_all(self) -> list[File]:
        """Empty the table (exit); return the files, the table's references still counted."""
        self.version += 1
        files = [entry.file for entry in self.fds.values()]
        self.fds.clear()
        return files

    def files(self) -> list[File]:
        """List the files, by fd."""
        return [self.fds[fd].file for fd in sorted(self.fds)]


class LooseTable(FileTable):
    """One table for all tasks of a recording that does not say who made whom (only ioctl traced).

    An fd then stands for a stack of files: several processes may have the same number. A thread gets the file that belongs to
    a VM it called before, else the newest.
    """

    loose = True

    def __init__(self) -> None:
        super().__init__()
        self.stacks: dict[int, list[Entry]] = {}

    def _pick(self, fd: int, tid: int) -> Entry | None:
        stack = self.stacks.get(fd)
        if not stack:
            return None
        for entry in reversed(stack):
            if tid in entry.tids or (entry.file.vm is not None and tid in entry.file.vm.tids):
                return entry
        return stack[-1]

    def get(self, fd: int, tid: int) -> File | None:
        """Return the file that a thread most likely means by an fd."""
        entry = self._pick(fd, tid)
        if entry is None:
            return None
        entry.tids.add(tid)
        return entry.file

    def install(self, fd: int, file: File, tid: int, *, cloexec: bool) -> File | None:
        """Put a file on the stack of an fd; return the one that the same thread, or VM, had there."""
        self.version += 1
        before = next((e for e in reversed(self.stacks.get(fd, [])) if tid in e.tids or e.file.vm is file.vm), None)
        if before is not None:
            self.stacks[fd].remove(before)
        self.stacks.setdefault(fd, []).append(Entry(file, cloexec, {tid}))
        file.refs += 1
        return None if before is None else before.file

    def remove(self, fd: int, tid: int) -> File | None:
        """Take out the file that a thread used there; one that it never used may be another process's and stays."""
        entry = self._pick(fd, tid)
        if entry is None or not (tid in entry.tids or (entry.file.vm is not None and tid in entry.file.vm.tids)):
            return None
        self.version += 1
        self.stacks[fd].remove(entry)
        return entry.file

    def set_cloexec(self, fd: int, tid: int, *, cloexec: bool) -> None:
        """Set the close-on-exec flag of the fd that a thread means."""
        entry = self._pick(fd, tid)
        if entry is not None:
            entry.cloexec = cloexec

    def copy(self) -> FileTable:
        """Return itself: who has a copy is not known."""
        return self

    def drop_cloexec(self) -> list[File]:
        """Return nothing: which process's fds an exec closes is not known."""
        return []

    def drop_all(self) -> list[File]:
        """Empty the table."""
        self.version += 1
        files = self.files()
        self.stacks.clear()
        return files

    def files(self) -> list[File]:
        """List the files, by fd, oldest first."""
        return [entry.file for fd in sorted(self.stacks) for entry in self.stacks[fd]]


@attrs.define(eq=False)
class Task:
    """A thread: its process, address space and file table, and the VM it works for.

    who: as events carry it, None when the recording names no task. pending: the call that it is in, whose second half is still
    to come. vcpu_vm: VM whose vCPU it runs or last ran; vm: VM it last called. ended: its end was seen. exiting: it, or its
    process, called exit. quiet: ioctls that need no second look, by the text of their arguments: file, counter, whether it is
    KVM_RUN; valid for one version of the table.
    """

    tid: int
    pid: int
    mm: Mm
    table: FileTable
    who: events.Task | None = None
    pending: Syscall | None = None
    vcpu_vm: Vm | None = None
    vm: Vm | None = None
    ended: bool = False
    exiting: bool = False
    quiet: dict[str, tuple[File, "Cell", bool]] = attrs.field(factory=dict)
    quiet_version: int = -1

    def set_quiet(self, args: str, file: File, cell: "Cell", *, is_run: bool) -> None:
        """Remember that an ioctl with these arguments needs no second look, while no fd changes."""
        if self.quiet_version != self.table.version or len(self.quiet) >= QUIET_MAX:
            self.quiet.clear()
            self.quiet_version = self.table.version
        self.quiet[args] = (file, cell, is_run)
