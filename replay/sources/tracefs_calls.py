"""Take the system calls of a trace: those of tracefs alone, where the numbers are known and what pointers point to is not."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Protocol

import attrs

from replay.events import Event, VmDestroy
from replay.sources.ioctls import is_kvm
from replay.sources.lineage import Birth, Lineage
from replay.sources.processes import Resolver
from replay.sources.syscalls import ENTER, EXIT, Syscall
from replay.sources.tally import Cell, Tally
from replay.sources.tracefs_grammar import USUAL_COLUMNS, SyscallEnter, SyscallExit, TaskLine, syscall_of, task_line
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
TEXTS_MAX: Final = 1 << 14
"""Entries of calls that are remembered by their text."""
QUIET_RESULTS: Final = frozenset({b"sys_ioctl -> 0x0", b"sys_ioctl -> 0xfffffffffffffffc"})
"""Results after which a call that is known needs no look: 0 and -EINTR."""
LATE_EXIT: Final = "result of a call that was entered before the trace"
LOST_EXIT: Final = "call without a result in the trace"


@attrs.frozen
class QuietCalls:
    """Calls that are equal but for their times: entry and result of the last one, the number of its line, and how many."""

    lines: tuple[bytes, bytes]
    line: int
    count: int


@attrs.frozen
class CallRun:
    """Calls of one thread that follow each other and are equal but for their times, entry and result on neighbouring lines.

    lines: entry and result of the first one. enters_ns: when each was entered.
    """

    lines: tuple[bytes, bytes]
    enters_ns: list[int]


class Calls(Protocol):
    """What the walk over a trace hands its system calls to; they write events through the writer they share.

    QUIETS: whether any call needs no look at all. RUNS: whether such calls are taken by runs, with their times.
    """

    QUIETS: ClassVar[bool]
    RUNS: ClassVar[bool]

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call."""
        ...

    def exit(self, task: TaskLine, call: SyscallExit, line: int) -> None:
        """Take the result of a call."""
        ...

    def quiet(self, lines: tuple[bytes, bytes], line: int) -> bool:
        """Take a call whose entry and result are neighbours, if it needs no look at all; line: number of the first one."""
        ...

    def quiet_all(self, calls: Sequence[QuietCalls]) -> bool:
        """Take calls as `quiet` does, if none needs a look, and else none; they are in order of their last ones."""
        ...

    def take_run(self, run: CallRun) -> int:
        """Take the first calls of a run, and return how many: the others need a look."""
        ...

    def end(self) -> None:
        """Take the end of the trace."""
        ...


@attrs.define
class Emitter:
    """Write what the resolver says, and let the owners know of it, and whoever else wants to (`watchers`)."""

    resolver: Resolver
    owners: Owners
    out: ItemWriter
    watchers: list[Callable[[Event], None]] = attrs.field(factory=list)

    def write(self, events: list[Event]) -> None:
        """Write events in order."""
        for event in events:
            self.out.event(event)
            if isinstance(event, VmDestroy):
                self.owners.gone(event.vm)
            for watcher in self.watchers:
                watcher(event)
        if events:
            self.owners.forget()


@attrs.define
class AloneCalls:
    """Calls of a tracefs trace without a strace recording beside it.

    lineage: which the resolver reads; processes are added to it as lines name them.
    """

    QUIETS: ClassVar[bool] = True
    RUNS: ClassVar[bool] = False

    emit: Emitter
    lineage: Lineage
    tally: Tally
    name: str
    file: int
    _open: dict[int, Syscall] = attrs.field(factory=dict)
    _late: dict[int, list[Event]] = attrs.field(factory=dict)
    _known: set[int] = attrs.field(factory=set)
    _other: set[int] = attrs.field(factory=set)
    _texts: dict[tuple[bytes, bytes], tuple[int, str] | None] = attrs.field(factory=dict)
    _last: tuple[tuple[bytes, bytes], int, Cell] | None = None

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call; a thread whose last call never returned has lost its exit."""
        self._meet(task)
        self._last = None
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
        self._last = None
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

    def quiet(self, lines: tuple[bytes, bytes], line: int) -> bool:
        """Take a call whose entry and result are neighbours, if it needs no look at all.

        As `enter` and `exit` it counts the call and says which VM the thread runs; between the two nothing can happen, so
        that whose pages a thread makes is what it was before. KVM_RUN comes by the thousand in every trace.
        """
        known = self._quiet(lines)
        cell = None if known is None else self.emit.resolver.take_quiet(*known)
        if cell is None:
            return False
        self._last = lines, line, cell
        return True

    def quiet_all(self, calls: Sequence[QuietCalls]) -> bool:
        """Take calls as `quiet` does, if none needs a look, and else none; they are in order of their last ones."""
        resolver = self.emit.resolver
        known = [self._quiet(call.lines) for call in calls]
        if any(found is None or resolver.knows_quiet(*found) is None for found in known):
            return False
        for call, found in zip(calls, known, strict=True):
            cell = None if found is None else resolver.take_quiet(*found, call.count)
            if cell is not None:
                self._last = call.lines, call.line, cell
        return True

    def take_run(self, _run: CallRun) -> int:
        """Take no calls by runs: their times say nothing here."""
        return 0

    def _quiet(self, lines: tuple[bytes, bytes]) -> tuple[int, str] | None:
        """Return thread and arguments of a call whose entry and result are these neighbours, None when they are not that."""
        text, after = lines
        head, last = USUAL_COLUMNS.match(text), USUAL_COLUMNS.match(after)
        if head is None or last is None or after[last.end() :] not in QUIET_RESULTS:
            return None
        start = text[: text.find(b"[", head.end(1))]
        if not after.startswith(start):
            return None
        key = start, text[head.end() :]
        return self._texts[key] if key in self._texts else self._learned(key, text)

    def _learned(self, key: tuple[bytes, bytes], text: bytes) -> tuple[int, str] | None:
        """Return thread and arguments of an entry as the resolver has them; None for another kind of line."""
        if len(self._texts) >= TEXTS_MAX:
            self._texts.clear()
        task, call = task_line(text), syscall_of(key[1])
        record = None
        if task is not None and isinstance(call, SyscallEnter) and call.name == "ioctl":
            record = syscall_record(task, call, 0, self.file)
        self._texts[key] = None if record is None else (record.tid, record.args)
        return self._texts[key]

    def _look_again(self) -> None:
        """Look at the last call after all when nothing came behind it: the end of the trace takes its place and time."""
        if self._last is None:
            return
        lines, line, cell = self._last
        cell.count -= 1
        for place, text in enumerate(lines):
            task = task_line(text)
            call = syscall_of(task.body) if task is not None else None
            if task is not None and isinstance(call, SyscallEnter):
                self.enter(task, call, line + place)
            elif task is not None and isinstance(call, SyscallExit):
                self.exit(task, call, line + place)

    def end(self) -> None:
        """Write what the end of the trace says."""
        self._look_again()
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
