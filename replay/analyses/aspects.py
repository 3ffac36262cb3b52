"""Say what else changes when an allocation moves to another call: who is charged, what waits, which symbol shows."""

from replay.analyses.context import task_text
from replay.analyses.findings import Aspect, Side
from replay.kvm.allocator import SITE_WT_ADD


def aspects_of(row: str, has: Side, lacks: Side, moves: int) -> tuple[Aspect, ...]:
    """Return the further rows that an array shows which one lane has earlier than the other.

    has: the lane that has the array first. lacks: the other one, with the event at which it follows, if it does. moves: how
    often a MOVE carried the array along in between.
    """
    found = []
    if moves and row != "D16":
        found.append(Aspect(catalogue="D16", text=f"{has.lane} holds it twice inside the MOVE"))
    if lacks.event is None or lacks.site == SITE_WT_ADD:
        return tuple(found)
    if has.task is not None and lacks.task is not None and has.task != lacks.task:
        found.append(Aspect(catalogue="D28", text=_charged(has, lacks)))
    found.append(Aspect(catalogue="D29", text=_zeroed(has, lacks)))
    if has.site != lacks.site:
        found.append(Aspect(catalogue="D30", text=f"{has.site} under {has.lane}, {lacks.site} under {lacks.lane}"))
    return tuple(found)


def _zeroed(has: Side, lacks: Side) -> str:
    text = (
        f"{has.lane} zeroes each array inside its own {has.kind}; {lacks.lane} all of them inside {lacks.kind}, holding "
        "slots_arch_lock, for which memslot calls wait"
    )
    if lacks.took_ns is not None:
        text += f". As recorded, {lacks.kind} took {lacks.took_ns:,} ns"
    return text


def _charged(has: Side, lacks: Side) -> str:
    assert has.task is not None
    assert lacks.task is not None
    text = f"charged to {task_text(has.task)} ({has.lane}), {task_text(lacks.task)} ({lacks.lane})"
    if has.task.pid == lacks.task.pid:
        text += "; threads of a process share a memory cgroup, except under cgroup v1"
    return text
