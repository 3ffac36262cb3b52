"""Keep the state that a recording of system calls is read against: tasks, file tables, VMs; births, ends, last references."""

from collections.abc import Iterable

import attrs

from replay import events
from replay.events import Event, Source
from replay.sources.fdtable import VGPU, VM, File, FileTable, LooseTable, Mm, Task, Vm
from replay.sources.lineage import Birth
from replay.sources.strace_scan import ScanResult
from replay.sources.syscalls import Record, Syscall
from replay.sources.tally import Tally


@attrs.define(eq=False)
class Message:
    """Files on their way through a socket (SCM_RIGHTS); None stands for a file that is none of KVM's."""

    files: list[File | None]
    sender: FileTable


class World:
    """All tasks and VMs at one point of the recording; `out` gathers the events of the record that is being read.

    names: of the sources, for places in counts.
    """

    def __init__(self, scan: ScanResult, tally: Tally, names: tuple[str, ...]) -> None:
        self.scan, self.tally, self.names = scan, tally, names
        self.tasks: dict[int, Task] = {}
        self.groups: dict[int, list[Task]] = {}
        self.tasks_alive = 0
        self.vms: dict[int, Vm] = {}
        self.out: list[Event] = []
        self.messages: list[Message] = []
        self.kvmgt = False
        self.nodes_numbered = 0
        self.vms_numbered = 0
        self.calls_on_vms = 0
        self.vms_closed = 0
        # Without a first pass nothing is known of the tasks; one task alone needs no calls that make tasks.
        self.loose = not scan.lineage.makers_recorded and len(scan.lineage.first) != 1
        self._root: Task | None = None
        self._loose_table = LooseTable()
        self._loose_mm = Mm(0)
        self._mms = 0
        self._time_ns: int | None = None
        self._source: Source | None = None

    # Where and when: events that follow from a record take its place.

    def at(self, record: Record, time_ns: int | None, line: int = 0) -> None:
        """Say which record is being read; line: that of its second half."""
        self._time_ns, self._source = time_ns, Source(record.file, line or record.line)

    def place(self, record: Record) -> str:
        """Return "file:line" of a record."""
        name = self.names[record.file] if record.file < len(self.names) else "?"
        return f"{name}:{record.line}"

    def count(self, record: Record, kind: str, severity: str = "unknown") -> None:
        """Count something met at a record."""
        self.tally.add(self.place(record), kind, severity)

    # Tasks.

    def task(self, tid: int) -> Task:
        """Return a task, born now if it is new."""
        task = self.tasks.get(tid)
        if task is None or task.ended:
            task = self._born(tid, self.scan.lineage.take(tid))
        return task

    def child(self, record: Syscall) -> None:
        """Let the task be born that a call made, unless its own lines came first."""
        tid = self.scan.lineage.child_of(record.file, record.line)
        if tid is None:
            return
        waiting = self.scan.lineage.births.get(tid)
        if waiting and waiting[0].call == record.line and waiting[0].file == record.file:
            old = self.tasks.get(tid)
            if old is not None and not old.ended:
                self.end_task(old, killed=False)  # its id is used again, so it is gone
            self._born(tid, self.scan.lineage.take(tid))

    def _born(self, tid: int, birth: Birth | None) -> Task:
        parent = self._root if birth is None else self.tasks.get(birth.parent)
        if birth is not None and parent is None:
            parent = self._add(birth.parent, birth.parent, self._new_mm(), self._new_table())
        if parent is None or (parent.ended and birth is None):
            pid = tid if self.loose or self._root is not None else self.scan.lineage.root_pid(tid)
            task = self._add(tid, pid, self._new_mm(), self._new_table())
            self._root = task
        elif birth is None:
            # There before the recording began, or made in a way that it does not show: a thread of the first process.
            task = self._add(tid, tid if self.loose else parent.pid, parent.mm, parent.table)
        else:
            mm = parent.mm if birth.shares_vm else self._copy_mm(parent.mm)
            table = parent.table if birth.shares_files else parent.table.copy()
            task = self._add(tid, parent.pid if birth.thread else tid, mm, table)
        return task

    def _add(self, tid: int, pid: int, mm: Mm, table: FileTable) -> Task:
        task = Task(tid, pid, mm, table, events.Task(pid, tid) if tid else None)
        mm.users += 1
        table.users += 1
        self.tasks[tid] = task
        self.groups.setdefault(pid, []).append(task)
        self.tasks_alive += 1
        return task

    def group(self, task: Task) -> list[Task]:
        """List the threads of a task's process that have not ended."""
        return [other for other in self.groups.get(task.pid, ()) if not other.ended]

    def _new_mm(self) -> Mm:
        if self.loose:
            return self._loose_mm
        self._mms += 1
        return Mm(self._mms)

    def _copy_mm(self, mm: Mm) -> Mm:
        self._mms += 1
        new = Mm(self._mms, 0, dict(mm.mappings))
        for _, file in new.mappings.values():
            file.refs += 1
        return new

    def _new_table(self) -> FileTable:
        return self._loose_table if self.loose else FileTable()

    def end_task(self, task: Task, *, killed: bool) -> None:
        """Take a task away; its mm and then its files go with the last task that has them.

        Source: kernel/exit.c do_exit(): exit_mm() comes before exit_files(), so nothing that is put there has an mm.
        """
        if task.ended:
            return
        self._gone(task)
        reason = "killed" if killed else "exit"
        self.leave_mm(task, reason)
        self.leave_table(task, reason)
        if not self.tasks_alive:
            messages, self.messages = self.messages, []
            self.put_all((file for message in messages for file in message.files if file), task, reason)

    def _gone(self, task: Task) -> None:
        task.ended = True
        self.tasks_alive -= 1
        left = self.group(task)
        if left:
            self.groups[task.pid] = left
        else:
            self.groups.pop(task.pid, None)

    def leave_mm(self, task: Task, reason: str) -> None:
        """Take a task out of its mm; mappings go with the last one."""
        task.mm.users -= 1
        if task.mm.users == 0:
            mappings, task.mm.mappings = task.mm.mappings, {}
            self.put_all((mappings[start][1] for start in sorted(mappings)), task, reason)

    def leave_table(self, task: Task, reason: str) -> None:
        """Take a task out of its file table; fds close with the last one."""
        task.table.users -= 1
        if task.table.users == 0:
            self.put_all(task.table.drop_all(), task, reason)

    def exec_task(self, task: Task) -> None:
        """Give a task that called execve a new mm, a table of its own, and close what exec closes.

        Source: fs/exec.c begin_new_exec(): de_thread(), unshare_files(), exec_mmap(), then do_close_on_exec().
        """
        for other in self.group(task):
            if other is not task:
                self._gone(other)
                other.table.users -= 1
                other.mm.users -= 1
        if task.table.users > 1 and not task.table.loose:
            table = task.table.copy()
            self.leave_table(task, "exec")
            task.table = table
            table.users = 1
        self.leave_mm(task, "exec")
        self._mms += 1
        task.mm = Mm(self._mms, 1)
        task.vcpu_vm = task.vm = None
        self.put_all(task.table.drop_cloexec(), task, "exec")
        leader = self.tasks.get(task.pid)
        if leader is not None and leader is not task:  # the process goes on under its leader's number
            self._gone(task)
            self.tasks[leader.tid] = Task(leader.tid, task.pid, task.mm, task.table, leader.who)
            self.groups[task.pid] = [self.tasks[leader.tid]]
            self.tasks_alive += 1

    # VMs and what holds them.

    def new_vm(self, mm: Mm | None, *, attached: bool = False) -> Vm:
        """Add a VM under the next number."""
        vm = Vm(self.vms_numbered, mm, attached)
        self.vms_numbered += 1
        self.vms[vm.number] = vm
        return vm

    def attach_vm(self, task: Task) -> Vm:
        """Add a VM whose creation was not seen, and say so."""
        vm = self.new_vm(None, attached=True)
        self.out.append(events.VmAttach(vm=vm.number, task=task.who, time_ns=self._time_ns, source=self._source, inferred=True))
        return vm

    def open_file(self, task: Task, fd: int, file: File, *, cloexec: bool) -> None:
        """Put a file at an fd; one that is there already must have been closed unseen."""
        if file.vm is not None and file.refs == 0:
            file.vm.files += file.keeps
        if file.kind == VM and file.vm is not None:
            file.vm.fd_seen = True
        before = task.table.install(fd, file, task.tid, cloexec=cloexec)
        if before is not None:
            self.put(before, task, "close", inferred=True)

    def hold(self, file: File) -> None:
        """Take one more reference of a file."""
        file.refs += 1

    def put_all(self, files: Iterable[File], task: Task, reason: str) -> None:
        """Drop one reference of each file."""
        for file in list(files):
            self.put(file, task, reason)

    def put(self, file: File, task: Task, reason: str, *, inferred: bool = False) -> None:
        """Drop a reference of a file, and with the last one the file's own of its VM."""
        file.refs -= 1
        if file.refs > 0 or file.vm is None or not file.keeps:
            return
        vm = file.vm
        if file.kind == VGPU:
            self._unregister(vm, file.index or 0, task, reason)
        vm.files -= 1
        if vm.files > 0 or not vm.alive:
            return
        vm.alive = False
        del self.vms[vm.number]
        self.vms_closed += reason == "close" and not inferred
        gone = reason in {"exit", "killed", "exec"} or (vm.mm is not None and vm.mm is not task.mm)
        self.out.append(
            events.VmDestroy(
                vm=vm.number,
                reason=reason,
                foreign_mm=gone,
                task=task.who,
                time_ns=self._time_ns,
                source=self._source,
                inferred=inferred,
            )
        )

    def _unregister(self, vm: Vm, node: int, task: Task, reason: str) -> None:
        """Say that a vGPU is closed, see `replay.sources.vgpu`; a task on its way out has no mm any more."""
        foreign = reason in {"exit", "killed", "exec"} or (vm.mm is not None and vm.mm is not task.mm)
        self.out.append(
            events.NotifierUnregister(
                vm=vm.number,
                node=node,
                ret=0,
                foreign_mm=foreign,
                task=task.who,
                time_ns=self._time_ns,
                source=self._source,
                inferred=True,
            )
        )

    def holds(self, task: Task, vm: Vm) -> bool:
        """Say whether the process of a task has to do with a VM: it has its mm, called it, or holds a file of it."""
        return vm.mm is task.mm or task.tid in vm.tids or any(file.vm is vm for file in task.table.files())
