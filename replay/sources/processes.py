"""Follow tasks, file tables and VM references through a strace recording, and turn its calls into events.

Interface; `Resolver` is filled in next.
"""

from replay.events import Event
from replay.sources.lineage import Lineage
from replay.sources.syscalls import Record, Syscall


class Resolver:
    """Turn records into events; one pass, state per task, per fd and per VM only.

    lineage: what a first pass found out about who made whom (`replay.sources.lineage.scan`); an empty one is allowed.
    """

    def __init__(self, lineage: Lineage | None = None) -> None:
        raise NotImplementedError

    def feed(self, record: Record) -> list[Event]:
        """Take the next record in order; return the events that it completes, mostly none.

        A BOTH record is `enter` and `exit` in one.
        """
        raise NotImplementedError

    def enter(self, record: Syscall) -> list[Event]:
        """Take the entry of a call: its fd is looked up now, close() takes effect now.

        For a merge that has better times for entry and exit than the lines; use instead of `feed`, with `exit`.
        """
        raise NotImplementedError

    def exit(self, record: Syscall) -> list[Event]:
        """Take the result of a call that `enter` has seen."""
        raise NotImplementedError

    def end(self) -> list[Event]:
        """Return the events of the end of the recording: VMs whose every holder has exited; VMs still alive get none."""
        raise NotImplementedError

    def vm_of_task(self, tid: int) -> int | None:
        """Return the VM whose vCPU that thread runs or last ran, else the VM it last called, else its process's only one."""
        raise NotImplementedError

    def vms_of_process(self, tid: int) -> tuple[int, ...]:
        """List the live VMs that the process of a thread holds or created (kvm->mm is its mm), by number."""
        raise NotImplementedError

    def pid_of(self, tid: int) -> int:
        """Return the process (thread group) of a thread; the thread itself when nothing is known."""
        raise NotImplementedError
