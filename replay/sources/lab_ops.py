"""Say which events each operation of slotprobe on a VM stands for: a table by the operation's first word."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from replay.errors import TraceSyntaxError
from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    MemoryLimit,
    MemslotSet,
    NrMmuPagesSet,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.events.base import Source
from replay.sources.lab_numbers import Rams, number_of, slot_of
from replay.sources.lab_vms import LabCgroup, LabVm, LabVms
from replay.sources.tally import Tally
from replay.units import U32_MAX, Gpa, Hva

REPEATS_MAX: Final = 1 << 17
"""Most calls that one operation stands for."""
NOT_A_VM: Final = "call on a descriptor that is no VM"


@attrs.define
class Lab:
    """State of one script while it is read."""

    tdp: bool | None = None
    vms: LabVms = attrs.field(factory=LabVms)
    rams: Rams = attrs.field(factory=Rams)
    cgroup: LabCgroup = attrs.field(factory=LabCgroup)
    tally: Tally = attrs.field(factory=Tally)
    failing_site: str = ""
    raced: set[str] = attrs.field(factory=set)
    """Names of VMs whose arrays came from operations that ran in parallel."""


@attrs.frozen(kw_only=True)
class Operation:
    """One operation to be told as events. child: done by a forked process; inferred: part of another one, without a result.

    fault: its argument, or the bitmap of a dirty-log call, could not be read; what it asked for is known from the script.
    """

    words: tuple[str, ...]
    ret: int | None
    extra: dict[str, Any]
    source: Source
    where: str
    module_refused: bool = False
    child: bool = False
    own_mm: bool = False
    inferred: bool = False
    fault: bool = False

    def event(self) -> dict[str, Any]:
        """Return the fields that every event of this operation has."""
        return {"source": self.source, "inferred": self.inferred}

    def call(self) -> dict[str, Any]:
        """Return the fields that every call of this operation has."""
        return {**self.event(), "ret": self.ret, "foreign_mm": self.own_mm}

    def word(self, index: int) -> str:
        """Return a word. Raises TraceSyntaxError when the operation is too short."""
        if index >= len(self.words):
            raise TraceSyntaxError(f"too few words in {' '.join(self.words)[:80]!r}", where=self.where)
        return self.words[index]


Handler = Callable[[Lab, Operation], Iterator[Event]]


def value_at(lab: Lab, op: Operation, index: int) -> int:
    """Return a word as a number."""
    return number_of(op.word(index), lab.rams, op.where)


def vm_at(lab: Lab, op: Operation, index: int = 1) -> LabVm | None:
    """Return the VM that a word names; None for a bare descriptor number, which is no VM's (and counted)."""
    vm = lab.vms.by_name.get(op.word(index).partition(".")[0])
    if vm is None:
        lab.tally.add(op.where, NOT_A_VM, "ignored")
    return vm


def _vm(lab: Lab, op: Operation) -> Iterator[Event]:
    vm_type = value_at(lab, op, 2) & U32_MAX if len(op.words) > 2 else 0
    failed = op.ret is not None and op.ret < 0
    number = lab.vms.failed() if failed else lab.vms.make(op.word(1)).number
    yield VmCreate(vm=number, type=vm_type, **op.call())


def _close(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = lab.vms.by_name.pop(op.word(1), None)
    if vm is None:
        lab.tally.add(op.where, NOT_A_VM, "ignored")
        return
    vm.open = False
    if vm.alive(lab.vms.nodes_of(vm)):
        lab.tally.add(op.where, "VM closed while a vCPU, a guest_memfd or a notifier still holds it", "ignored")
    else:
        yield VmDestroy(vm=vm.number, **op.event())


def _region(op: Operation, vm: LabVm, fields: tuple[int, int, int, int, int], **more: Any) -> MemslotSet:
    slot, flags, gpa, size, hva = fields
    return MemslotSet(
        vm=vm.number,
        slot=slot,
        flags=flags & U32_MAX,
        guest_phys_addr=Gpa(gpa),
        memory_size=size,
        userspace_addr=Hva(hva),
        fault=op.fault,
        **{**op.call(), **more},
    )


def _slot(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    more: dict[str, Any] = {}
    if op.words[0] == "slot2":
        more["region2"] = True
        if len(op.words) > 7:
            word = op.word(7)
            more["guest_memfd"] = U32_MAX if word == "-1" else value_at(lab, op, 7) & U32_MAX
        if len(op.words) > 8:
            more["guest_memfd_offset"] = value_at(lab, op, 8)
    slot = slot_of(op.word(2), lab.rams, op.where)
    flags, gpa, size, hva = (value_at(lab, op, index) for index in (3, 4, 5, 6))
    yield _region(op, vm, (slot, flags, gpa, size, hva), **more)


def _del(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is not None:
        yield _region(op, vm, (slot_of(op.word(2), lab.rams, op.where), 0, 0, 0, 0))


def _slots(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    first = slot_of(op.word(2), lab.rams, op.where)
    count, gpa, size, hva = (value_at(lab, op, index) for index in (3, 4, 5, 6))
    failed = op.ret is not None and op.ret < 0
    made = op.extra.get("made", count if not failed else None)
    if type(made) is not int or not 0 <= made <= count <= REPEATS_MAX:
        raise TraceSyntaxError("a number of slots that does not fit", where=op.where, expected="made <= count")
    mask = (1 << 64) - 1
    for index in range(made + failed):
        fields = (
            (first + index) & U32_MAX,
            0,
            (gpa + index * size) & mask,
            size,
            (hva + index * size) & mask,
        )
        yield _region(op, vm, fields, ret=0 if index < made else op.ret)


def _vcpu(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    # slotprobe never closes these descriptors, and each holds its VM: kvm_vm_ioctl_create_vcpu() takes a reference.
    vm.holders += op.ret is None or op.ret >= 0
    yield VcpuCreate(vm=vm.number, vcpu_id=value_at(lab, op, 2) & U32_MAX, **op.call())


def _guest_memfd(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    vm.holders += op.ret is not None and op.ret >= 0
    yield GuestMemfdCreate(vm=vm.number, size_bytes=value_at(lab, op, 2), **op.call())


def _call(make: Callable[[int, Callable[[int], int]], Event], *, words: int) -> Handler:
    """Return the handler of a plain VM call; `make` gets the VM's number and a reader of the words behind it."""

    def handler(lab: Lab, op: Operation) -> Iterator[Event]:
        vm = vm_at(lab, op)
        if vm is not None:
            op.word(words)
            yield attrs.evolve(make(vm.number, lambda index: value_at(lab, op, index)), **op.call())

    return handler


def _idmap(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is not None:
        yield IdentityMapSet(vm=vm.number, guest_phys_addr=Gpa(value_at(lab, op, 2)), fault=op.fault, **op.call())


def _cap(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is not None:
        args = tuple(value_at(lab, op, index) for index in range(3, min(len(op.words), 7)))
        yield VmEnableCap(vm=vm.number, cap=value_at(lab, op, 2) & U32_MAX, args=args, **op.call())


def _dirty(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is not None:
        yield DirtyLogGet(vm=vm.number, slot=slot_of(op.word(2), lab.rams, op.where), fault=op.fault, **op.call())


def _cleardirty(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    first, count = value_at(lab, op, 3), value_at(lab, op, 4) & U32_MAX
    slot = slot_of(op.word(2), lab.rams, op.where)
    yield DirtyLogClear(vm=vm.number, slot=slot, first_page=first, num_pages=count, fault=op.fault, **op.call())


def _cgroup(lab: Lab, op: Operation) -> Iterator[Event]:
    if op.ret:
        return
    limit = op.word(2)
    lab.cgroup.limit_bytes = None if limit == "max" else value_at(lab, op, 2)
    yield MemoryLimit(limit_pages=lab.cgroup.left_pages(), **op.event())


def _cgstat(lab: Lab, op: Operation) -> Iterator[Event]:
    found = op.extra.get("cg")
    current = found.get("current") if isinstance(found, dict) else None
    if type(current) is not int or not 0 <= current < 1 << 63:
        raise TraceSyntaxError("cg has no current", where=op.where)
    lab.cgroup.current_bytes = current
    yield MemoryLimit(limit_pages=lab.cgroup.left_pages(), **op.event())


def _cgleave(lab: Lab, op: Operation) -> Iterator[Event]:
    lab.cgroup.limit_bytes = None
    yield MemoryLimit(limit_pages=None, **op.event())


def _ram(lab: Lab, op: Operation) -> Iterator[Event]:
    align = value_at(lab, op, 3) if len(op.words) > 3 else 4096
    if not op.ret:
        lab.rams.reserve(op.word(1), value_at(lab, op, 2), align)
    yield from ()


def _nothing(_lab: Lab, _op: Operation) -> Iterator[Event]:
    """Give no event: the operation only reads, or touches what is not modelled."""
    yield from ()


VM_HANDLERS: Final[dict[str, Handler]] = {
    "vm": _vm,
    "close": _close,
    "slot": _slot,
    "slot2": _slot,
    "del": _del,
    "slots": _slots,
    "vcpu": _vcpu,
    "gmem": _guest_memfd,
    "tss": _call(lambda vm, word: TssSet(vm=vm, guest_phys_addr=Gpa(word(2))), words=2),
    "idmap": _idmap,
    "irqchip": _call(lambda vm, _word: IrqchipCreate(vm=vm), words=1),
    "nrmmu": _call(lambda vm, word: NrMmuPagesSet(vm=vm, nr_mmu_pages=word(2)), words=2),
    "cap": _cap,
    "dirty": _dirty,
    "cleardirty": _cleardirty,
    "cgroup": _cgroup,
    "cgmax": _cgroup,
    "cgstat": _cgstat,
    "cgleave": _cgleave,
    "ram": _ram,
    **dict.fromkeys(
        ("dump", "counts", "events", "info", "check", "oomadj", "mem", "trace", "poke", "peek", "touch", "madvise", "sleep"),
        _nothing,
    ),
}
"""Operations on VMs, memory and the cgroup; the others are in lab_module.py and lab_compose.py."""
