"""Look for events that may concern a page, without replaying any: what tells which parts of a recording must be replayed."""

from collections.abc import Iterator
from typing import Final

from replay.analyses.page_rows import rows_of_page
from replay.events import (
    AllocFail,
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    MemoryLimit,
    MemslotSet,
    NrMmuPagesSet,
    Observe,
    Opaque,
)
from replay.runs import Item, Run

NEVER: Final = (Opaque, Observe, AllocFail, MemoryLimit, DirtyLogGet, DirtyLogClear, NrMmuPagesSet, GuestMemfdCreate)
"""Events on a VM that change nothing of any page by themselves."""


def concerned(items: Iterator[Item], gfn: int, vm: int | None) -> Iterator[int]:
    """Yield numbers of the events that may concern a page, of a run only the first and the last.

    All others leave the page as it is, but for a KVM_BUG_ON or an array that another page causes: whoever replays parts only
    sees those by comparing what is known of the page on both sides of a gap. Cost: that of reading, and 1 ns an event.
    """
    held: set[tuple[int, int | None]] = set()
    number = 0
    for item in items:
        if isinstance(item, Run):
            rows = rows_of_page(item, gfn, vm)
            yield from (number + row for row in dict.fromkeys([rows[0], rows[-1]] if rows else []))
            number += len(item)
            continue
        if _may(item, gfn, vm, held):
            yield number
        number += 1


def _may(event: Event, gfn: int, vm: int | None, held: set[tuple[int, int | None]]) -> bool:
    """Tell whether a structural event may concern the page; held: VM and slot of all requests for it so far."""
    number: int | None = getattr(event, "vm", None)
    if number is None or (vm is not None and number != vm) or isinstance(event, NEVER):
        return False
    if not isinstance(event, MemslotSet):
        return True
    key, first = (number, event.slot), event.guest_phys_addr >> 12
    if first <= gfn < first + (event.memory_size >> 12):
        held.add(key)
    return key in held
