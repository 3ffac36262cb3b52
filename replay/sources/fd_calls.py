"""Follow the calls that move KVM's fds around: close, dup, fcntl, mmap, sockets, pidfds, exec.

Each handler takes the record and its task. `AT_ENTRY` holds what takes effect at entry: close() takes the fd out of the table
before it does anything slow (fs/file.c close_fd()), and a message is on its way before its sender returns. `AT_EXIT` holds
what takes effect with the result.
"""

from collections.abc import Callable
from typing import Final

from replay.sources.fdtable import KVM, MEMFD, VCPU, VM, File, FileTable, Task, note_kind
from replay.sources.strace_args import Fd, fd_of, number_of, rights_of, split_args
from replay.sources.syscalls import Syscall
from replay.sources.world import Message, World

Handler = Callable[[World, Syscall, Task], None]

_O_CLOEXEC: Final = 0x80000
_MSG_CMSG_CLOEXEC: Final = 0x40000000
_FD_CLOEXEC: Final = 1
_CLOSE_RANGE_UNSHARE: Final = 2
_CLOSE_RANGE_CLOEXEC: Final = 4
_CLONE_FILES: Final = 0x400
_F_DUPFD: Final = "0"
_F_SETFD: Final = "2"
_F_DUPFD_CLOEXEC: Final = {"1030", "0x406"}
_MESSAGES_MAX: Final = 1024
_PAGE_MASK: Final = 0xFFF


def close(world: World, record: Syscall, task: Task) -> None:
    """Take the fd out of the table; it is gone even when close() fails later."""
    fd = fd_of(record.args)
    if fd is None or (fd.note and not note_kind(fd.note) and task.table.loose):
        return  # another process's fd of the same number
    file = task.table.remove(fd.number, task.tid)
    if file is not None:
        world.put(file, task, "close")


def close_range(world: World, record: Syscall, task: Task) -> None:
    """Close, or mark, all fds of a range."""
    parts = [number_of(part) for part in split_args(record.args)[:2]]
    if record.ret != 0 or len(parts) != 2 or parts[0] is None or parts[1] is None or task.table.loose:
        return
    flags = _flags(record.args, {"CLOSE_RANGE_UNSHARE": _CLOSE_RANGE_UNSHARE, "CLOSE_RANGE_CLOEXEC": _CLOSE_RANGE_CLOEXEC})
    if flags & _CLOSE_RANGE_UNSHARE:
        _unshare(world, task)
    for fd in [fd for fd in sorted(task.table.fds) if parts[0] <= fd <= parts[1]]:
        if flags & _CLOSE_RANGE_CLOEXEC:
            task.table.set_cloexec(fd, task.tid, cloexec=True)
            continue
        file = task.table.remove(fd, task.tid)
        if file is not None:
            world.put(file, task, "close")


def opened(world: World, record: Syscall, task: Task) -> None:
    """Take the fd that open() gives: /dev/kvm, or another file where an fd of KVM must have been closed unseen."""
    if record.ret is None or record.ret < 0:
        return
    if '"/dev/kvm"' in record.args or note_kind(record.ret_note) == KVM:
        world.open_file(task, record.ret, File(KVM), cloexec="O_CLOEXEC" in record.args)
    else:
        replaced(world, record, task, record.ret)


def replaced(world: World, _record: Syscall, task: Task, fd: int) -> None:
    """Drop what is at an fd that now is another file."""
    if task.table.loose:
        return
    before = task.table.remove(fd, task.tid) if task.table.get(fd, task.tid) else None
    if before is not None:
        world.put(before, task, "close", inferred=True)


def duplicated(world: World, record: Syscall, task: Task) -> None:
    """Follow dup, dup2 and dup3; onto itself, dup2 changes nothing."""
    old = fd_of(record.args)
    if record.ret is None or record.ret < 0 or old is None or old.number == record.ret:
        return
    cloexec = record.name == "dup3" and ("O_CLOEXEC" in record.args or record.args.endswith("0x80000"))
    copy(world, record, task, old, cloexec=cloexec)


def copy(world: World, record: Syscall, task: Task, old: Fd, *, cloexec: bool) -> None:
    """Put the file of one fd at another, the call's result."""
    assert record.ret is not None
    file = task.table.get(old.number, task.tid)
    if file is None:
        explicit = record.name in {"dup2", "dup3"}
        before = task.table.remove(record.ret, task.tid) if not task.table.loose else None
        if before is not None:
            world.put(before, task, "close", inferred=not explicit)
        return
    before = task.table.install(record.ret, file, task.tid, cloexec=cloexec)
    if before is not None:
        world.put(before, task, "close", inferred=record.name not in {"dup2", "dup3"})


def fcntl(world: World, record: Syscall, task: Task) -> None:
    """Follow F_DUPFD, F_DUPFD_CLOEXEC and F_SETFD."""
    parts = split_args(record.args)
    fd = fd_of(parts[0]) if len(parts) > 1 else None
    if fd is None or record.ret is None or record.ret < 0:
        return
    command = parts[1].split(" /*", 1)[0]
    if command in {"F_DUPFD_CLOEXEC", *_F_DUPFD_CLOEXEC}:
        copy(world, record, task, fd, cloexec=True)
    elif command in {"F_DUPFD", _F_DUPFD}:
        copy(world, record, task, fd, cloexec=False)
    elif command in {"F_SETFD", _F_SETFD} and len(parts) > 2:
        cloexec = "FD_CLOEXEC" in parts[2] or bool((number_of(parts[2]) or 0) & _FD_CLOEXEC)
        task.table.set_cloexec(fd.number, task.tid, cloexec=cloexec)


def sent(world: World, record: Syscall, task: Task) -> None:
    """Put the files of a message on their way, when one of them is KVM's."""
    files = [_named_file(world, record, task, fd) for fd in rights_of(record.args)]
    if any(file is not None and file.vm is not None for file in files) and len(world.messages) < _MESSAGES_MAX:
        for file in files:
            if file is not None:
                world.hold(file)
        world.messages.append(Message(files, task.table))


def send_result(world: World, record: Syscall, task: Task) -> None:
    """Take a message back whose sending failed."""
    if record.ret is None or record.ret >= 0 or not rights_of(record.args):
        return
    for place in range(len(world.messages) - 1, -1, -1):
        if world.messages[place].sender is task.table:
            message = world.messages.pop(place)
            world.put_all((file for file in message.files if file), task, "close")
            return


def received(world: World, record: Syscall, task: Task) -> None:
    """Give the receiver the files of the message that fits: as many fds, notes that agree, the oldest first."""
    fds = rights_of(record.args) if record.ret is not None and record.ret >= 0 else []
    if not fds:
        return
    cloexec = "MSG_CMSG_CLOEXEC" in record.args or bool((number_of(split_args(record.args)[-1]) or 0) & _MSG_CMSG_CLOEXEC)
    message = _fitting(world.messages, fds, task.table)
    for place, fd in enumerate(fds):
        file = message.files[place] if message is not None else None
        if file is not None:
            world.open_file(task, fd.number, file, cloexec=cloexec)
        else:
            replaced(world, record, task, fd.number)
    if message is not None:
        world.messages.remove(message)
        world.put_all((file for file in message.files if file), task, "close")


def _fitting(messages: list[Message], fds: list[Fd], receiver: FileTable) -> Message | None:
    fits = [message for message in messages if len(message.files) == len(fds) and all(map(_agrees, message.files, fds))]
    from_others = [message for message in fits if message.sender is not receiver]
    return next(iter(from_others or fits), None)


def _agrees(file: File | None, fd: Fd) -> bool:
    return not fd.note or note_kind(fd.note) == (file.kind if file is not None else "")


def _named_file(_world: World, _record: Syscall, task: Task, fd: Fd) -> File | None:
    file = task.table.get(fd.number, task.tid)
    return file if file is not None and (not fd.note or note_kind(fd.note) == file.kind) else None


def stolen(world: World, record: Syscall, task: Task) -> None:
    """Follow pidfd_getfd: the file of another process's fd, the process known only through its pidfd."""
    parts = split_args(record.args)
    target = fd_of(parts[1]) if len(parts) > 1 else None
    if target is None or record.ret is None or record.ret < 0:
        return
    for other in sorted((t for t in world.tasks.values() if not t.ended), key=lambda t: -t.tid):
        file = other.table.get(target.number, other.tid) if other.table is not task.table else None
        if file is not None and (not target.note or note_kind(target.note) == file.kind):
            world.open_file(task, record.ret, file, cloexec=True)
            return
    replaced(world, record, task, record.ret)


def mapped(world: World, record: Syscall, task: Task) -> None:
    """Follow mmap of a vCPU or guest_memfd file: the mapping keeps the file, and so the VM, after its fd is closed."""
    parts = split_args(record.args)
    fd = fd_of(parts[4]) if len(parts) == 6 else None
    if fd is None or record.ret is None or record.ret < 0:
        return
    file = task.table.get(fd.number, task.tid)
    length = number_of(parts[1])
    if file is None or file.kind not in {VCPU, VM, MEMFD} or length is None or length <= 0:
        return
    world.hold(file)
    before = task.mm.mappings.pop(record.ret, None)
    task.mm.mappings[record.ret] = (length, file)
    if before is not None:
        world.put(before[1], task, "close")


def unmapped(world: World, record: Syscall, task: Task) -> None:
    """Follow munmap of whole mappings of KVM's files."""
    if not task.mm.mappings or record.ret != 0:
        return
    parts = [number_of(part) for part in split_args(record.args)]
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        return
    start, end = parts[0], parts[0] + (parts[1] + _PAGE_MASK & ~_PAGE_MASK)
    for place, (length, file) in sorted(task.mm.mappings.items()):
        if start <= place and place + length <= end:
            del task.mm.mappings[place]
            world.put(file, task, "close")


def made(world: World, record: Syscall, _task: Task) -> None:
    """Let the new task be born, so that it has what its maker has now."""
    if record.ret is not None and record.ret > 0:
        world.child(record)


def executed(world: World, record: Syscall, task: Task) -> None:
    """Follow a successful execve."""
    if record.ret == 0:
        world.exec_task(task)


def unshared(world: World, record: Syscall, task: Task) -> None:
    """Follow unshare(CLONE_FILES)."""
    if record.ret == 0 and _flags(record.args, {"CLONE_FILES": _CLONE_FILES}) & _CLONE_FILES:
        _unshare(world, task)


def leaving(world: World, record: Syscall, task: Task) -> None:
    """Note that a task, or with exit_group its process, will not come back; for recordings without `+++ exited`."""
    for other in world.group(task) if record.name == "exit_group" else [task]:
        other.exiting = True


def _unshare(world: World, task: Task) -> None:
    if task.table.users > 1 and not task.table.loose:
        table = task.table.copy()
        world.leave_table(task, "close")
        task.table = table
        table.users = 1


def _flags(args: str, names: dict[str, int]) -> int:
    words = sum(bits for name, bits in names.items() if name in args)
    return words or number_of(split_args(args)[-1] if args else "") or 0


AT_ENTRY: Final[dict[str, Handler]] = {
    "close": close,
    "sendmsg": sent,
    "sendmmsg": sent,
    "exit": leaving,
    "exit_group": leaving,
}
AT_EXIT: Final[dict[str, Handler]] = {
    "close_range": close_range,
    "open": opened,
    "openat": opened,
    "openat2": opened,
    "dup": duplicated,
    "dup2": duplicated,
    "dup3": duplicated,
    "fcntl": fcntl,
    "fcntl64": fcntl,
    "sendmsg": send_result,
    "sendmmsg": send_result,
    "recvmsg": received,
    "recvmmsg": received,
    "pidfd_getfd": stolen,
    "mmap": mapped,
    "mmap2": mapped,
    "munmap": unmapped,
    "clone": made,
    "clone2": made,
    "clone3": made,
    "fork": made,
    "vfork": made,
    "execve": executed,
    "execveat": executed,
    "unshare": unshared,
}
