"""Make machines, lanes and memslot events for tests of the engine in a line each."""

from collections.abc import Iterable, Sequence
from typing import Any

from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.events import Event, MemslotSet, VmCreate
from replay.header import Machine
from replay.runs import Item, Run, items_of
from replay.units import Gpa, Hva

P = 4096
CREATE = VmCreate(vm=0, ret=10)


def machine(release: str | None = "6.8", **facts: Any) -> Machine:
    """Return a recorded machine: eager unless said, everything that matters known."""
    known: dict[str, Any] = {
        "config_external_write_tracking": True,
        "tdp": True,
        "tdp_mmu": True,
        "smm": True,
        "vendor": "intel",
        "unrestricted_guest": True,
        "flexpriority": True,
        "la57": False,
        "max_phys_bits": 46,
    }
    return Machine(kernel_release=release, **(known | facts))


def slot(slot_id: int = 0, npages: int = 16, base: int | None = None, *, as_id: int = 0, **more: Any) -> MemslotSet:
    """Return a memslot call; a slot lies at gfn 0x100 times its id unless said, and its hva follows from the id."""
    fields: dict[str, Any] = {
        "vm": 0,
        "slot": slot_id | as_id << 16,
        "guest_phys_addr": Gpa((0x100 * slot_id if base is None else base) * P),
        "memory_size": npages * P,
        "userspace_addr": Hva(0x7F00_0000_0000 + (slot_id << 32)),
    }
    return MemslotSet(**(fields | more))


def lane(spec: str = "eager", recorded: Machine | None = None, **overrides: Any) -> Lane:
    """Return one lane over a recorded machine."""
    return make_lanes([spec], machine() if recorded is None else recorded, overrides)[0]


def replay(one: Lane, events: Iterable[Event]) -> Lane:
    """Apply events to a lane, numbered from 0, and return it."""
    number = 0
    for item in items_of(events):
        if isinstance(item, Run):
            one.fold(item, number)
            number += len(item)
        else:
            one.step(item, number)
            number += 1
    return one


def items(*events: Event) -> Sequence[Item]:
    """Return events as items."""
    return list(items_of(events))
