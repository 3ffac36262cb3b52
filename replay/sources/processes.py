"""Follow tasks, file tables and VM references through a recording of system calls, and turn its calls into events.

The resolver knows three things about each thread: its process, its mm and its file table, made from the calls that make, end
and change tasks (`replay.sources.lineage` says who made whom). From them follow which VM an fd is, whether a caller has the
VM's mm, and when the last reference of a VM goes.

A recording that lacks clone calls is read in a poorer way ("loose"): one table for all threads, where a thread gets the VM of
that fd number that it called before, else the newest; a call is foreign when KVM answered EIO; a VM ends at a close, or when
all tasks have ended. A VM whose creation was not seen begins with vm.attach. At the end of the recording VMs that still have
a holder are left alive, without an event: nothing says that they ended.
"""

from typing import Final

from replay.events import Event
from replay.sources.fd_calls import AT_ENTRY, AT_EXIT
from replay.sources.fdtable import File, Task, Vm
from replay.sources.kvm_fds import KvmFds
from replay.sources.lineage import Lineage
from replay.sources.strace_scan import ScanResult
from replay.sources.syscalls import BOTH, ENTER, EXIT, Record, Syscall, TaskEnd
from replay.sources.tally import Cell, Tally
from replay.sources.world import World
from replay.units import EINTR

_SUPERSEDED: Final = "task superseded by execve"


class Resolver:
    """Turn records into events; one pass, state per task, per fd and per VM only.

    lineage: what a first pass found out, a `Lineage` or the whole `ScanResult` (`replay.sources.strace_scan`); none is allowed.
    tally: where to count; names: of the sources, for places in counts.
    """

    def __init__(
        self, lineage: Lineage | ScanResult | None = None, *, tally: Tally | None = None, names: tuple[str, ...] = ("strace",)
    ) -> None:
        scan = lineage if isinstance(lineage, ScanResult) else ScanResult(lineage=lineage or Lineage())
        self.tally = Tally() if tally is None else tally
        self.world = World(scan, self.tally, names)
        self._kvm = KvmFds(self.world)

    def feed(self, record: Record) -> list[Event]:
        """Take the next record in order; return the events that it completes, mostly none.

        A BOTH record is `enter` and `exit` in one.
        """
        if not isinstance(record, Syscall):
            return self._end_of_task(record) if isinstance(record, TaskEnd) else []
        if record.stage == BOTH:
            if record.name == "ioctl" and self._is_quiet(record):
                return []
            before = self._enter(record, hold=False)
            return before + self.exit(record) if before else self.exit(record)
        return self.enter(record) if record.stage == ENTER else self.exit(record)

    def _is_quiet(self, record: Syscall) -> bool:
        """Take an ioctl that needs no second look."""
        if record.ret is None or (record.ret < 0 and record.ret != -EINTR) or record.injected:
            return False
        return self.take_quiet(record.tid, record.args) is not None

    def take_quiet(self, tid: int, args: str, count: int = 1) -> Cell | None:
        """Take an ioctl that ended well, or by a signal, if the same text was read before and no fd has changed since.

        count: so many of them, with nothing between that asks for the thread's VM. Return where it was counted, None when it must
        be looked at.
        """
        quiet = self.knows_quiet(tid, args)
        if quiet is None:
            return None
        file, cell, is_run = quiet
        cell.count += count
        task = self.world.tasks[tid]
        task.vm = file.vm
        if is_run:
            task.vcpu_vm = file.vm
        return cell

    def knows_quiet(self, tid: int, args: str) -> tuple[File, Cell, bool] | None:
        """Return what `take_quiet` would take an ioctl for: its file, its counter, whether it is KVM_RUN; None for none."""
        task = self.world.tasks.get(tid)
        if task is None or task.ended or task.pending is not None or task.quiet_version != task.table.version:
            return None
        return task.quiet.get(args)

    def enter(self, record: Syscall) -> list[Event]:
        """Take the entry of a call: its fd is looked up now, close() takes effect now.

        For a merge that has better times for entry and exit than the lines; use instead of `feed`, with `exit`.
        """
        return self._enter(record, hold=True)

    def _enter(self, record: Syscall, *, hold: bool) -> list[Event]:
        """Take an entry; hold: other records may come before its exit, so the call keeps its file until then."""
        world = self.world
        world.at(record, record.enter_ns)
        task = world.task(record.tid)
        if task.pending is not None:
            self._give_up(task)
        if hold:
            task.pending = record
        if record.name == "ioctl":
            self._kvm.enter(record, task, hold=hold)
        else:
            handler = AT_ENTRY.get(record.name)
            if handler is not None and not record.injected:
                handler(world, record, task)
        return self._out()

    def exit(self, record: Syscall) -> list[Event]:
        """Take the result of a call that `enter` has seen."""
        world = self.world
        task = world.task(record.tid)
        held = task.pending is record
        if record.stage == EXIT and not held:
            record.stage = BOTH  # its first half was not given
            return self.feed(record)
        world.at(record, record.time_ns, record.exit_line)
        task.pending = None
        if record.name == "ioctl":
            self._kvm.exit(record, task, held=held)
        else:
            handler = AT_EXIT.get(record.name)
            if handler is not None and not record.injected:
                handler(world, record, task)
        return self._out()

    def end(self) -> list[Event]:
        """Return the events of the end of the recording: VMs whose every holder has exited; VMs still alive get none.

        Calls that have not returned by then give their event, with an unknown result.
        """
        pending = [task for task in self.world.tasks.values() if task.pending is not None]
        for task in sorted(pending, key=lambda task: task.pending.line if task.pending else 0):
            self._give_up(task)
        for task in sorted(self.world.tasks.values(), key=lambda task: task.tid):
            if task.exiting:
                self.world.end_task(task, killed=False)
        return self._out()

    def vm_of_task(self, tid: int) -> int | None:
        """Return the VM whose vCPU that thread runs or last ran, else the VM it last called, else its process's only one.

        A VM that is gone already is given only when nothing better is known: its last shadow pages go as it is destroyed.
        """
        task = self.world.tasks.get(tid)
        if task is None:
            return None
        known = [vm for vm in (task.vcpu_vm, task.vm) if vm is not None]
        alive = next((vm for vm in known if vm.alive), None)
        if alive is not None:
            return alive.number
        own = self._vms(task)
        if len(own) == 1:
            return own[0].number
        return known[0].number if known else None

    def vm_of_call(self, record: Syscall) -> int | None:
        """Return the VM that a call which was entered works on, by its fd (VM, vCPU or device); None for anything else.

        Also None when the fd is not known until the call has shown by its result what it is.
        """
        file = record.held
        return file.vm.number if isinstance(file, File) and file.vm is not None and file.vm.alive else None

    def vms_of_process(self, tid: int) -> tuple[int, ...]:
        """List the live VMs that the process of a thread holds or created (kvm->mm is its mm), by number."""
        task = self.world.tasks.get(tid)
        return () if task is None else tuple(vm.number for vm in self._vms(task))

    def pid_of(self, tid: int) -> int:
        """Return the process (thread group) of a thread; the thread itself when nothing is known."""
        task = self.world.tasks.get(tid)
        return tid if task is None else task.pid

    def _vms(self, task: Task) -> list[Vm]:
        vms = self.world.vms
        return [vms[number] for number in sorted(vms) if self.world.holds(task, vms[number])]

    def _end_of_task(self, record: TaskEnd) -> list[Event]:
        world = self.world
        world.at(record, record.time_ns)
        task = world.tasks.get(record.tid)
        if record.superseded_by is not None:
            world.count(record, _SUPERSEDED, "ignored")
            return []
        if task is None:
            task = world.task(record.tid)
        if task.pending is not None:
            task.pending.exit_ns = task.pending.exit_ns if task.pending.exit_ns is not None else record.time_ns
            self._give_up(task)
            world.at(record, record.time_ns)
        world.end_task(task, killed=record.killed)
        return self._out()

    def _give_up(self, task: Task) -> None:
        """Close a call whose second half does not come: it may or may not have taken effect."""
        record, task.pending = task.pending, None
        if record is None:
            return
        record.killed, record.ret = True, None
        self.world.at(record, record.time_ns)
        if record.name == "ioctl":
            self._kvm.exit(record, task, held=True)

    def drain(self) -> list[Event]:
        """Return events that followed from something done to the world from outside."""
        return self._out()

    def _out(self) -> list[Event]:
        out = self.world.out
        if not out:
            return []
        self.world.out = []
        return out
