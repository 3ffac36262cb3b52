"""Find the VM that a shadow-page line belongs to: the tracepoints carry the thread only.

Source: arch/x86/kvm/mmu/mmutrace.h kvm_mmu_get_page, kvm_mmu_prepare_zap_page have no VM; arch/x86/kvm/mmu/mmu.c
kvm_mmu_get_shadow_page() runs in a vCPU's thread inside KVM_RUN, while __kvm_mmu_prepare_zap_page() also runs in memslot calls,
in mmu notifiers and when a process or the last fd goes.
"""

from collections.abc import Callable
from typing import Protocol

import attrs


class Tasks(Protocol):
    """What the owner search asks of `replay.sources.processes.Resolver`."""

    def vm_of_task(self, tid: int) -> int | None:
        """Return the VM whose vCPU a thread runs or last ran, else the VM it last called, else its process's only one."""
        ...

    def vms_of_process(self, tid: int) -> tuple[int, ...]:
        """List the live VMs of a thread's process."""
        ...

    def pid_of(self, tid: int) -> int:
        """Return the process of a thread."""
        ...


@attrs.define(eq=False)
class VmPages:
    """The shadow pages of one VM that the trace has shown so far.

    live: how many pages are alive by page_key(gfn, level). rooted: a shadow root was allocated. watched: a memslot call is
    under way, so that each new page may be the first use of a slot. slow: something may have to be written before a page.
    """

    vm: int
    rooted: bool = False
    watched: bool = False
    slow: bool = True
    live: dict[int, int] = attrs.field(factory=dict)

    def root(self) -> None:
        """Note that a shadow root was allocated."""
        self.rooted = True
        self.slow = self.watched

    def watch(self, *, on: bool) -> None:
        """Note whether memslot calls are under way."""
        self.watched = on
        self.slow = on or not self.rooted


@attrs.frozen
class Lane:
    """A thread's place: the VM whose pages its lines change, and (pid, tid). sure: so until something changes."""

    pages: VmPages
    task: tuple[int, int]
    sure: bool = False


FastLane = tuple[int, dict[int, int], int]
"""VM, its live pages, and the index of the thread's task."""


def page_key(gfn: int, place: int) -> int:
    """Return the key of a guest page table's frame at a place: its level, address space and guest mode, see `place_of`."""
    return gfn << 12 | place


@attrs.define
class Owners:
    """Answers "whose page is this", and says when the answer for a thread may have changed.

    by_thread: processes are not known, so a thread's own VM is the one that it called, not its process's.
    outside: says of a thread that it is none of the recorded run: a kernel thread, or a stranger; None: there are none.
    strangers: threads outside that were seen to work for a VM of their own.
    fast: sure answers by what a thread's lines begin with, for VMs of which nothing is awaited.
    """

    _tasks: Tasks
    by_thread: bool = False
    outside: Callable[[int], bool] | None = None
    strangers: set[int] = attrs.field(factory=set)
    vms: dict[int, VmPages] = attrs.field(factory=dict)
    fast: dict[bytes, FastLane] = attrs.field(factory=dict)
    _calls: dict[int, int] = attrs.field(factory=dict)
    _heads: dict[int, list[bytes]] = attrs.field(factory=dict)

    def enter(self, tid: int, vm: int | None) -> None:
        """Say that a thread is now inside a call on a VM (or its vCPU or device)."""
        self._change(tid)
        if vm is not None:
            self._calls[tid] = vm

    def leave(self, tid: int) -> None:
        """Say that a thread's call has returned."""
        self._change(tid)
        self._calls.pop(tid, None)

    def remember(self, tid: int, head: bytes, lane: FastLane) -> None:
        """Keep a sure answer for lines that begin so, until something changes."""
        if head not in self.fast:
            self._heads.setdefault(tid, []).append(head)
        self.fast[head] = lane

    def _change(self, tid: int) -> None:
        for head in self._heads.pop(tid, ()):
            self.fast.pop(head, None)

    def forget(self) -> None:
        """Forget what was concluded: tasks, fds or VMs have changed."""
        self.fast.clear()
        self._heads.clear()

    def gone(self, vm: int) -> None:
        """Forget a VM that was destroyed."""
        self.vms.pop(vm, None)
        self._calls = {tid: number for tid, number in self._calls.items() if number != vm}
        self.forget()

    def pid_of(self, tid: int) -> int:
        """Return the process of a thread."""
        return self._tasks.pid_of(tid)

    def watch(self, vm: int, *, on: bool) -> None:
        """Note whether memslot calls of a VM are under way."""
        self.pages_of(vm).watch(on=on)
        self.forget()

    def pages_of(self, vm: int) -> VmPages:
        """Return the pages of a VM, none at first."""
        pages = self.vms.get(vm)
        if pages is None:
            pages = self.vms[vm] = VmPages(vm)
        return pages

    def lane(self, tid: int, key: int, *, zap: bool) -> Lane | None:
        """Return the place of a line, None when it can be none or several VMs'."""
        task = (self._tasks.pid_of(tid), tid)
        vm = self._sure(tid)
        if vm is not None:
            return Lane(self.pages_of(vm), task, sure=True)
        vm = self._holder(tid, key) if zap else self._runner(tid)
        return None if vm is None else Lane(self.pages_of(vm), task)

    def is_outside(self, tid: int) -> bool:
        """Say whether a thread is none of the recorded run."""
        return self.outside is not None and self.outside(tid)

    def has_vm(self, tid: int) -> bool:
        """Say whether the process of a thread has any VM that lives."""
        return bool(self._tasks.vms_of_process(tid))

    def _runner(self, tid: int) -> int | None:
        """Return the live VM that a thread last ran or called."""
        vm = self._tasks.vm_of_task(tid)
        return vm if vm in self._tasks.vms_of_process(tid) else None

    def _sure(self, tid: int) -> int | None:
        """Return the VM of the call that the thread is in, else its process's only one."""
        vm = self._calls.get(tid)
        if vm is not None:
            return vm
        held = self._tasks.vms_of_process(tid)
        return held[0] if len(held) == 1 else None

    def _holder(self, tid: int, key: int) -> int | None:
        """Return the only VM that has this page: of the thread's process, of all for a thread whose process is not known.

        Outside is who reclaims memory: mmu.c mmu_shrink_scan() zaps pages of any VM (before 6.14).
        """
        if tid in self.strangers:
            return None
        held = self._tasks.vms_of_process(tid)
        if not held and (self.by_thread or self.is_outside(tid)):
            held = tuple(sorted(self.vms))
        having = [vm for vm in held if vm in self.vms and key in self.vms[vm].live]
        if self.by_thread and len(having) > 1:
            having = [vm for vm in having if vm == self._tasks.vm_of_task(tid)]
        return having[0] if len(having) == 1 else None
