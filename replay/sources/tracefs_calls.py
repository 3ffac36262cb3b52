"""Take the system calls of a trace: those of tracefs alone, where the numbers are known and what pointers point to is not."""

from typing import Final, Protocol

import attrs

from replay.events import Event, VmDestroy
from replay.sources.ioctls import is_kvm
from replay.sources.lineage import Birth, Lineage
from replay.sources.processes import Resolver
from replay.sources.syscalls import ENTER, EXIT, Syscall
from replay.sources.tally import Tally
from replay.sources.tracefs_grammar import SyscallEnter, SyscallExit, TaskLine
from replay.sources.tracefs_items import ItemWriter
from replay.sources.tracefs_owners import Owners
from replay.units import errno_name

_BY_VALUE: Final = {
    "ioctl": ("fd", "cmd", "arg"),
    "close": ("fd",),
    "dup": ("fildes",),
    "dup2": ("oldfd", "newfd"),
    "dup3": ("oldfd", "newfd", "flags"),
    "exit": ("error_code",),
    "exit_group": ("error_code",),
}
"""Calls whose arguments say all that matters as numbers, with the kernel's parameter names (SYSCALL_DEFINE)."""
LATE_EXIT: Final = "result of a call that was entered before the trace"
LOST_EXIT: Final = "call without a result in the trace"


class Calls(Protocol):
    """What the walk over a trace hands its system calls to; they write events through the writer they share."""

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call."""
        ...

    def exit(self, task: TaskLine, call: SyscallExit, line: int) -> None:
        """Take the result of a call."""
        ...

    def end(self) -> None:
        """Take the end of the trace."""
        ...


@attrs.define
class Emitter:
    """Write what the resolver says, and let the owners know of it."""

    resolver: Resolver
    owners: Owners
    out: ItemWriter

    def write(self, events: list[Event]) -> None:
        """Write events in order."""
        for event in events:
            self.out.event(event)
            if isinstance(event, VmDestroy):
                self.owners.gone(event.vm)
        if events:
            self.owners.forget()


@attrs.define
class AloneCalls:
    """Calls of a tracefs trace without a strace recording beside it.

    lineage: which the resolver reads; processes are added to it as lines name them.
    """

    emit: Emitter
    lineage: Lineage
    tally: Tally
    name: str
    file: int
    _open: dict[int, Syscall] = attrs.field(factory=dict)
    _late: dict[int, list[Event]] = attrs.field(factory=dict)
    _known: set[int] = attrs.field(factory=set)
    _other: set[int] = attrs.field(factory=set)

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call; a thread whose last call never returned has lost its exit."""
        self._meet(task)
        record = syscall_record(task, call, line, self.file)
        if record is None:
            self.tally.add(f"{self.name}:{line}", f"sys_{call.name}", "ignored")
            self._other.add(task.tid)
            return
        if self._open.pop(task.tid, None) is not None:
            self.tally.add(f"{self.name}:{line}", LOST_EXIT, "lost")
            self.emit.write(self._late.pop(task.tid, []))
        self._open[task.tid] = record
        # What a close ends, it ends at its exit: the last pages of a VM are zapped inside the call.
        self._late[task.tid] = self.emit.resolver.enter(record)
        self.emit.owners.enter(task.tid, self.emit.resolver.vm_of_call(record))

    def exit(self, task: TaskLine, call: SyscallExit, line: int) -> None:
        """Take the result of a call."""
        record = self._open.get(task.tid)
        if record is None or record.name != call.name:
            if call.name == "ioctl" and task.tid not in self._other:
                self.tally.add(f"{self.name}:{line}", LATE_EXIT)
            self._other.discard(task.tid)
            return
        del self._open[task.tid]
        finish(record, call, task.time_ns, line)
        self.emit.write(self._late.pop(task.tid, []) + self.emit.resolver.exit(record))
        self.emit.owners.leave(task.tid)

    def end(self) -> None:
        """Write what the end of the trace says."""
        for tid in sorted(self._late):
            self.emit.write(self._late[tid])
        self.emit.write(self.emit.resolver.end())

    def _meet(self, task: TaskLine) -> None:
        """Tell the resolver of a thread's process, when option record-tgid printed it."""
        if task.tgid is None or task.tid in self._known:
            return
        if task.tgid not in self._known:
            self._known.add(task.tgid)
            self.lineage.add(Birth(task.tgid, parent=0))
        if task.tgid != task.tid:
            self._known.add(task.tid)
            self.lineage.add(Birth(task.tid, task.tgid, thread=True, shares_vm=True, shares_files=True))


def syscall_record(task: TaskLine, call: SyscallEnter, line: int, file: int) -> Syscall | None:
    """Return a call as a record with raw numbers, as `strace -e raw=all` has it; None for a call that does not matter.

    ioctls of other devices than KVM are passed over: they come by the thousand and change nothing here.
    """
    names = _BY_VALUE.get(call.name)
    if names is None or any(name not in call.args for name in names):
        return None
    if call.name == "ioctl" and not is_kvm(call.args["cmd"]):
        return None
    numbers = [f"{call.args[name]:#x}" if place else str(call.args[name]) for place, name in enumerate(names)]
    if call.text:
        numbers[-1] = call.text
    enter_ns = None if call.late else task.time_ns
    comm = task.comm.decode(errors="replace")
    return Syscall(task.tid, call.name, ", ".join(numbers), line, ENTER, enter_ns=enter_ns, comm=comm, file=file)


def finish(record: Syscall, call: SyscallExit, time_ns: int | None, line: int) -> None:
    """Fill in the result of a record made by `syscall_record`."""
    record.ret, record.stage, record.exit_ns, record.exit_line = call.ret, EXIT, time_ns, line
    record.errno = errno_name(call.ret) if call.ret < 0 else ""
