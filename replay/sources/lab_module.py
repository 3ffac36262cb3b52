"""Say which events each operation of slotprobe through its test module stands for.

The module registers notifiers, adds and removes gfns and makes allocations fail, in the kernel. What it answers by itself,
before it asks KVM, is no event. Its errnos EDOM, EALREADY, ENOBUFS and EMEDIUMTYPE come from no KVM function.
"""

from collections.abc import Iterator
from typing import Final

from replay.errors import TraceSyntaxError
from replay.events import (
    AllocFail,
    Event,
    NotifierRegister,
    NotifierUnregister,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.sources.lab_numbers import number_of
from replay.sources.lab_ops import REPEATS_MAX, Handler, Lab, Operation, value_at
from replay.units import EBADF, ENOENT, U32_MAX, AsId, Gfn

MODULE: Final = "answer of the test module, not of KVM"
MODULE_READERS: Final = frozenset({"dump", "counts", "events", "info", "fail", "delay"})
"""Operations beside those below with which the probe opens the test module."""

_MODULE_ERRNOS: Final = frozenset({33, 114, 105, 124})  # EDOM, EALREADY, ENOBUFS, EMEDIUMTYPE


def _from_module(lab: Lab, op: Operation) -> bool:
    """Tell whether the test module answered before KVM was asked."""
    if not op.child:
        lab.vms.module_open = True
    refused = op.module_refused or (op.ret is not None and -op.ret in _MODULE_ERRNOS)
    if refused:
        lab.tally.add(op.where, MODULE, "ignored")
    return refused


def _reg(lab: Lab, op: Operation) -> Iterator[Event]:
    vm, own = lab.vms.by_name.get(op.word(1)), op.child and not lab.vms.module_open
    if _from_module(lab, op) or vm is None:
        return
    node = value_at(lab, op, 2) & U32_MAX
    # The module's track_flush_slot only writes down that it was called.
    yield NotifierRegister(vm=vm.number, node=node, table=False, **op.call())
    if op.ret is not None and op.ret < 0:
        return
    if own:
        yield NotifierUnregister(vm=vm.number, node=node, source=op.source, inferred=True)
    else:
        lab.vms.nodes[node] = vm


def _unreg(lab: Lab, op: Operation) -> Iterator[Event]:
    node = value_at(lab, op, 2) & U32_MAX
    if _from_module(lab, op) or op.ret in {-ENOENT, -EBADF}:
        return
    vm = lab.vms.nodes.pop(node, None)
    if vm is None:
        return
    yield NotifierUnregister(vm=vm.number, node=node, **{**op.call(), "ret": None})
    if not vm.alive(lab.vms.nodes_of(vm)):
        yield VmDestroy(vm=vm.number, source=op.source, inferred=True)


def _gfn(lab: Lab, op: Operation) -> Iterator[Event]:
    vm = lab.vms.by_name.get(op.word(1))
    if _from_module(lab, op) or vm is None:
        return
    gfn = Gfn(value_at(lab, op, 2))
    done, failed = 1, False
    if op.words[0] == "addn":
        count, made = value_at(lab, op, 3), op.extra.get("done")
        if type(made) is not int or not 0 <= made <= count <= REPEATS_MAX:
            raise TraceSyntaxError("a number of adds that does not fit", where=op.where, expected="done <= count")
        failed = op.ret is not None and op.ret < 0
        done = made
    cls = WriteTrackRemove if op.words[0] == "rem" else WriteTrackAdd
    for index in range(done):
        ret = 0 if op.words[0] == "addn" and not (failed and index == done - 1) else op.ret
        yield cls(vm=vm.number, gfn=gfn, ret=ret, **op.event())


def _query(lab: Lab, op: Operation) -> Iterator[Event]:
    """Tell a question of the module to the kernel's own function, as page faults ask it."""
    vm = lab.vms.by_name.get(op.word(1))
    if _from_module(lab, op) or vm is None:
        return
    space, colon, frame = op.word(2).rpartition(":")
    as_id = number_of(space, lab.rams, op.where) & 0xFF if colon else 0
    gfn = number_of(frame, lab.rams, op.where)
    yield WriteTrackQuery(vm=vm.number, as_id=AsId(as_id), gfn=Gfn(gfn), ret=op.ret, **op.event())


def _fail(lab: Lab, op: Operation) -> Iterator[Event]:
    if _from_module(lab, op):
        return
    if lab.failing_site:
        # The module has one injection: a new one takes the place of the last.
        yield AllocFail(site=lab.failing_site, off=True, **op.event())
    lab.failing_site = "" if op.word(1) == "off" else op.word(1)[:64]
    if lab.failing_site:
        nth = max(1, value_at(lab, op, 2) & U32_MAX) if len(op.words) > 2 else 1
        count = max(1, value_at(lab, op, 3) & U32_MAX) if len(op.words) > 3 else 1
        yield AllocFail(site=lab.failing_site, nth=nth, count=count, **op.event())


MODULE_HANDLERS: Final[dict[str, Handler]] = {
    "reg": _reg,
    "unreg": _unreg,
    "add": _gfn,
    "addn": _gfn,
    "rem": _gfn,
    "query": _query,
    "fail": _fail,
}
