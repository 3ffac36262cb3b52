"""Take what a recorder saw of the kernel's own users of write tracking (KVMGT): notifiers that come and go, gfns that they track.

Such lines come from probes on KVM's functions and name the VM by its `struct kvm`. Which VM that is follows from the line of
kvm_arch_init_vm() inside KVM_CREATE_VM; without it, a process with one VM means that one.
Source: arch/x86/kvm/mmu/page_track.c kvm_page_track_register_notifier() (void before 6.6), kvm_page_track_unregister_notifier(),
kvm_write_track_add_gfn(), kvm_write_track_remove_gfn() (6.6 and later); arch/x86/kvm/x86.c kvm_arch_init_vm().

Before 6.6 KVM's own MMU is such a user, of every VM: its node lies in the `struct kvm`. That is the policy's business, no event.
Source: arch/x86/kvm/mmu/mmu.c kvm_mmu_init_vm(), kvm_mmu_uninit_vm() [6.1].
"""

from typing import Any, Final

import attrs

from replay.events import Lost, NotifierRegister, NotifierUnregister, Source, Task, WriteTrackAdd, WriteTrackRemove
from replay.sources.dialects import KernelCall
from replay.sources.fdtable import DEVICE, File
from replay.sources.syscalls import TaskEnd
from replay.sources.tally import Tally
from replay.sources.tracefs_calls import Emitter
from replay.sources.tracefs_grammar import TaskLine
from replay.units import Gfn

NO_VM: Final = "{name}() on a VM that is not known"
UNSEEN_GFNS: Final = "gfns that a notifier's user tracks: KVM's function for them can be probed from 6.6 on"
OWN: Final = "KVM's own notifier"
OWN_BYTES: Final = 1 << 16
"""A node that was not seen to be registered is KVM's own when it is so near behind its `struct kvm`, which has 40 KB."""
NAMES: Final = {
    "REGISTER": "kvm_page_track_register_notifier",
    "UNREGISTER": "kvm_page_track_unregister_notifier",
    "WTADD": "kvm_write_track_add_gfn",
    "WTREMOVE": "kvm_write_track_remove_gfn",
}
"""Kind of line -> the function that it is of."""


@attrs.define
class KernelUsers:
    """Follows `struct kvm` pointers and notifier nodes of one trace. name, file: of the trace, for places.

    A registered node keeps its VM alive: KVMGT's device has a reference of it. Source: virt/kvm/vfio.c, drivers/vfio/vfio_main.c
    vfio_device_get_kvm_safe().
    """

    emit: Emitter
    tally: Tally
    name: str
    file: int
    _vms: dict[int, int] = attrs.field(factory=dict)
    _making: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    _nodes: dict[int, int] = attrs.field(factory=dict)
    _held: dict[int, File] = attrs.field(factory=dict)
    _own: set[int] = attrs.field(factory=set)
    _gap: set[int] = attrs.field(factory=set)

    def take(self, task: TaskLine, call: KernelCall, line: int) -> None:
        """Take one line."""
        if call.kind == "VM":
            self._making[task.tid] = (call.kvm, self.emit.resolver.world.vms_numbered)
            return
        if self._is_own(task.tid, call):
            self.tally.add(f"{self.name}:{line}", OWN, "ignored")
            return
        vm = self._vm(task.tid, call.kvm)
        if vm is None:
            self.tally.add(f"{self.name}:{line}", NO_VM.format(name=NAMES[call.kind]))
        elif call.kind in {"WTADD", "WTREMOVE"}:
            self._track(task, call, line, vm)
        else:
            self._notifier(task, call, line, vm)

    def returned(self, tid: int) -> None:
        """Take the return of a thread's call: one that made a VM has given it its number."""
        kvm, before = self._making.pop(tid, (0, 0))
        world = self.emit.resolver.world
        if kvm and world.vms_numbered > before:
            self._vms[kvm] = world.vms_numbered - 1

    def _is_own(self, tid: int, call: KernelCall) -> bool:
        """Say whether a notifier is KVM's own: it comes inside KVM_CREATE_VM, when nobody else has the VM."""
        if call.kind == "REGISTER" and self._making.get(tid, (0, 0))[0] == call.kvm != 0:
            self._own.add(call.value)
            return True
        if call.kind != "UNREGISTER":
            return False
        near = call.value not in self._nodes and 0 < call.value - call.kvm < OWN_BYTES and call.kvm != 0
        if call.value in self._own:
            self._own.remove(call.value)
            return True
        return near

    def _vm(self, tid: int, kvm: int) -> int | None:
        """Return the number of a live VM, None when it is not known which one a pointer means."""
        world = self.emit.resolver.world
        known = self._vms.get(kvm)
        if known in world.vms:
            return known
        own = self.emit.resolver.vms_of_process(tid)
        found = own[0] if len(own) == 1 and own[0] not in self._vms.values() else None
        if found is not None and kvm:
            self._vms[kvm] = found
        return found

    def _track(self, task: TaskLine, call: KernelCall, line: int, vm: int) -> None:
        kind = WriteTrackAdd if call.kind == "WTADD" else WriteTrackRemove
        who, source = self._who(task), Source(self.file, line)
        self.emit.out.hot(kind(vm=vm, gfn=Gfn(call.value), ret=call.ret, task=who, time_ns=task.time_ns, source=source))

    def _notifier(self, task: TaskLine, call: KernelCall, line: int, vm: int) -> None:
        world = self.emit.resolver.world
        node = self._nodes.setdefault(call.value, len(self._nodes))
        known, caller = world.vms[vm], world.task(task.tid)
        common: dict[str, Any] = {
            "vm": vm,
            "node": node,
            "ret": call.ret,
            "foreign_mm": known.mm is not None and known.mm is not caller.mm,
            "task": self._who(task),
            "time_ns": task.time_ns,
            "source": Source(self.file, line),
        }
        if call.kind == "REGISTER":
            if not call.ret and node not in self._held:
                held = self._held[node] = File(DEVICE, known, refs=1)
                known.files += held.keeps
            self.emit.write([NotifierRegister(**common, null_kvm=not call.kvm)])
            if call.ret is None:
                self._lack_gfns(task, line, vm)
            return
        self.emit.write([NotifierUnregister(**common)])
        gone = self._held.pop(node, None)
        if gone is not None:
            world.at(TaskEnd(task.tid, line, file=self.file), task.time_ns)
            world.put(gone, caller, "close")
            self.emit.write(self.emit.resolver.drain())

    def _lack_gfns(self, task: TaskLine, line: int, vm: int) -> None:
        """Say, once for each VM, that a kernel whose registration has no result does not show what its user tracks."""
        if vm in self._gap:
            return
        self._gap.add(vm)
        self.tally.add(f"{self.name}:{line}", UNSEEN_GFNS, "lost")
        source = Source(self.file, line)
        self.emit.write([Lost(vm=vm, what=UNSEEN_GFNS, affects="shadow_pages", time_ns=task.time_ns, source=source)])

    def _who(self, task: TaskLine) -> Task:
        return Task(self.emit.resolver.pid_of(task.tid), task.tid)
