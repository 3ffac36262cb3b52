"""Tell the operations of slotprobe that hold other operations, and those that run a guest, as events."""

from collections.abc import Iterator
from typing import Any, Final

import attrs

from replay.errors import TraceSyntaxError
from replay.events import Event, Lost, ShadowPageAccount, ShadowPageUnaccount, ShadowRootAlloc, VcpuCreate
from replay.runs import ACCOUNT
from replay.sources.lab_lines import result_of
from replay.sources.lab_module import MODULE_HANDLERS
from replay.sources.lab_ops import VM_HANDLERS, Handler, Lab, Operation, vm_at
from replay.sources.lab_trace import Traced, read_trace
from replay.sources.lab_vms import LabVm
from replay.units import ENOMEM, Gfn

HANDLERS: Final[dict[str, Handler]] = {**VM_HANDLERS, **MODULE_HANDLERS}
DEPTH_MAX: Final = 4
UNKNOWN: Final = "operation not known"
DARK: Final = "shadow pages of a guest that ran without tracepoints"
RACED: Final = "areas of operations that ran in parallel: who allocated what depends on their order"
FRESH_SIZE_BYTES: Final = 16 << 20
FRESH_HVA: Final = "0x100000000"


def events_of(lab: Lab, op: Operation, depth: int = 0) -> Iterator[Event]:
    """Yield the events of one operation, in the order in which they took effect. Raises TraceSyntaxError."""
    if depth > DEPTH_MAX:
        raise TraceSyntaxError("operations nested too deep", where=op.where)
    name = op.words[0]
    if name in HANDLERS:
        yield from _traced(lab, op)
    elif name in {"child", "clonevm"}:
        inner = attrs.evolve(op, words=op.words[1:] or ("",), child=True, own_mm=name == "child")
        yield from events_of(lab, inner, depth + 1)
    elif name in {"badarg", "badmap"}:
        yield from events_of(lab, attrs.evolve(op, words=op.words[1:] or ("",), fault=True), depth + 1)
    elif name == "fresh":
        yield from _fresh(lab, op, depth)
    elif name == "after":
        yield from events_of(lab, attrs.evolve(op, words=op.words[2:] or ("",)), depth + 1)
    elif name == "par":
        yield from _par(lab, op, depth)
    elif name == "guest":
        yield from _guest(lab, op)
    elif name == "g":
        yield from _run(lab, op)
    else:
        lab.tally.add(op.where, f"{UNKNOWN}: {name}")


def _pages(vm: LabVm, op: Operation, traced: Traced, *, nested: bool) -> Iterator[Event]:
    for page in traced.pages:
        cls = ShadowPageAccount if page.kind == ACCOUNT else ShadowPageUnaccount
        yield cls(vm=vm.number, gfn=Gfn(page.gfn), level=page.level, nested=nested, **op.event())


def _read_trace(lab: Lab, op: Operation) -> Traced | None:
    """Return what the operation's trace says; None when it was not traced."""
    lines = op.extra.get("trace")
    if lines is None:
        return None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise TraceSyntaxError("trace is not a list of lines", where=op.where)
    traced = read_trace(lines)
    if traced.passthrough:
        lab.tally.add(op.where, "passthrough root that text traces show as counted", "ignored", traced.passthrough)
    if traced.unknown:
        lab.tally.add(op.where, "trace line not known", count=traced.unknown)
    return traced


def _traced(lab: Lab, op: Operation) -> Iterator[Event]:
    """Tell a plain operation; what it zapped comes first, as KVM zaps before it takes a slot away.

    Source: virt/kvm/kvm_main.c kvm_invalidate_memslot() -> kvm_arch_flush_shadow_memslot(), then the commit [6.1, 6.12].
    """
    vm = lab.vms.by_name.get(op.words[1]) if len(op.words) > 1 and not op.inferred else None
    if vm is not None and op.words[0] != "trace":
        traced = _read_trace(lab, op)
        if traced is not None:
            yield from _pages(vm, op, traced, nested=False)
    yield from HANDLERS[op.words[0]](lab, op)


def _fresh(lab: Lab, op: Operation, depth: int) -> Iterator[Event]:
    """Tell `fresh OP`: OP in a new VM "v" with slot 0; slotprobe itself sees to it that the VM and its slot are there."""
    quiet = attrs.evolve(op, ret=None, inferred=True)
    yield from HANDLERS["vm"](lab, attrs.evolve(quiet, words=("vm", "v")))
    region = ("slot", "v", "0", "0", "0", str(FRESH_SIZE_BYTES), FRESH_HVA)
    yield from HANDLERS["slot"](lab, attrs.evolve(quiet, words=region))
    yield from events_of(lab, attrs.evolve(op, words=op.words[1:] or ("",)), depth + 1)
    yield from HANDLERS["close"](lab, attrs.evolve(quiet, words=("close", "v")))


def _par(lab: Lab, op: Operation, depth: int) -> Iterator[Event]:
    """Tell `par A ;; B` in the order in which the operations ended; only their own results are known."""
    found = op.extra.get("par")
    if not isinstance(found, list) or len(found) > DEPTH_MAX or not all(isinstance(job, dict) for job in found):
        raise TraceSyntaxError("par is not a short list", where=op.where)
    jobs: list[dict[str, Any]] = sorted(found, key=lambda job: job["to_us"] if type(job.get("to_us")) is int else 0)
    for job in jobs:
        words = tuple(str(job.get("op", "")).split())
        inner = attrs.evolve(op, words=words or ("",), ret=result_of(job, op.where), extra={})
        yield from events_of(lab, inner, depth + 1)


def raced_vm(lab: Lab, op: Operation) -> bool:
    """Tell whether who allocated the areas of this operation was a matter of luck: several kinds of it ran in parallel.

    The same holds for the areas that the VM gives back later.
    """
    parts = [part.split() for part in " ".join(op.words[1:]).split(";;") if part.split()]
    mixed = op.words[0] == "par" and len({part[0] for part in parts}) > 1
    if mixed:
        lab.raced.update(part[1] for part in parts if len(part) > 1)
    if op.words[0] == "vm":
        lab.raced.discard(op.word(1))
    return mixed or (len(op.words) > 1 and op.words[1] in lab.raced)


def _guest(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = vm_at(lab, op)
    if vm is None:
        return
    vm.guest = op.word(3)
    vcpu_id = int(op.words[4]) if len(op.words) > 4 and op.words[4].isdecimal() and len(op.words[4]) < 9 else 0
    ret = None if "step" in op.extra else op.ret
    yield VcpuCreate(vm=vm.number, vcpu_id=vcpu_id, **{**op.call(), "ret": ret})


def _run(lab: Lab, op: Operation) -> Iterator[Event]:
    """Tell one KVM_RUN of a guest: the first shadow root, then the shadow pages in the order of the trace.

    With two-dimensional paging only an L2 guest has shadow roots; without it every guest with paging on.
    Source: arch/x86/kvm/mmu/mmu.c mmu_alloc_shadow_roots(), kvm_mmu_load() [6.1, 6.12].
    """
    vm = vm_at(lab, op)
    if vm is None:
        return
    nested = op.word(2) == "vmrun"
    traced = _read_trace(lab, op)
    if traced is None:
        shadows = nested or (lab.tdp is not True and vm.guest not in {"real", "prot"})
        if shadows and not vm.dark:
            vm.dark = True
            yield Lost(vm=vm.number, what=DARK, affects="shadow_pages", source=op.source)
        return
    if traced.root and not vm.rooted:
        failed = op.ret == -ENOMEM
        vm.rooted = not failed
        yield ShadowRootAlloc(vm=vm.number, nested=nested, **{**op.call(), "ret": -ENOMEM if failed else 0})
    yield from _pages(vm, op, traced, nested=nested)
