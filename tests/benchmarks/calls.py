"""Measure what one memslot call costs: the model's step in each lane, and the analyses of its outcomes."""

import time
from collections.abc import Sequence

from replay.analyses.compare import Comparison
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import Step
from replay.engine.together import Together
from replay.events import Event, MemslotSet, ShadowRootAlloc, Task, VmCreate
from replay.header import Header
from replay.stream import MemoryStream
from replay.units import Gpa, Hva

TIMES = 300


def memslot(slot: int, gfn: int, npages: int, number: int, flags: int = 0) -> MemslotSet:
    """Return a call with its times."""
    return MemslotSet(
        vm=0,
        slot=slot,
        flags=flags,
        guest_phys_addr=Gpa(gfn << 12),
        memory_size=npages << 12,
        userspace_addr=Hva(0x7F0000000000 + (slot << 32)),
        ret=0,
        task=Task(1, 1),
        enter_time_ns=1000 * number,
        time_ns=1000 * number + 500,
    )


def workload(kind: str) -> list[Event]:
    """Return calls on a VM with ten memslots and a shadow root; each of a pair undoes the other."""
    start: list[Event] = [VmCreate(vm=0, ret=0), *(memslot(slot, 1000 * slot, 512, slot) for slot in range(10))]
    pairs = {
        "flags": lambda n: [memslot(3, 3000, 512, n, 1), memslot(3, 3000, 512, n + 1)],
        "delete, create": lambda n: [memslot(4, 4000, 0, n), memslot(4, 4000, 512, n + 1)],
        "move": lambda n: [memslot(5, 5001, 512, n), memslot(5, 5000, 512, n + 1)],
    }
    return [*start, ShadowRootAlloc(vm=0, ret=0), *(event for n in range(TIMES) for event in pairs[kind](20 + 2 * n))]


KINDS = ("flags", "delete, create", "move")


def costs(kind: str, names: Sequence[str], rounds: int) -> tuple[float, float]:
    """Return the microseconds of one call in all lanes, and of its analyses: the best of some rounds."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        lanes = make_lanes(names, Header().machine)
        together, comparison = Together(lanes), Comparison(MemoryStream(Header(), []), lanes)
        events = workload(kind)
        first = len(events) - 2 * TIMES
        steps = [Step(number, event, together.step(event, number)) for number, event in enumerate(events[:first])]
        start = time.process_time_ns()
        steps += [Step(number, event, together.step(event, number)) for number, event in enumerate(events[first:], first)]
        middle = time.process_time_ns()
        for step in steps:
            comparison.step(step)
        end = time.process_time_ns()
        best = [min(best[0], (middle - start) / 2000 / TIMES), min(best[1], (end - middle) / 1000 / len(steps))]
    return best[0], best[1]
