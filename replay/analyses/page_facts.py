"""Say what one lane knows of one guest page: its memslots, arrays, counters, and what of the VM decides about them."""

from collections.abc import Iterator

import attrs

from replay.engine.lane import Lane
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled


@attrs.frozen
class SlotFacts:
    """The memslot that holds the page, and its write-tracking array."""

    id: int
    base_gfn: int
    npages: int
    flags: int
    born: int
    array: int | None
    """Serial number of gfn_write_track in the lane, None when it is not there."""
    site: str = ""
    count: int = 0


@attrs.frozen
class PageFacts:
    """One page in one lane; slots: of each address space, None where none holds the page."""

    enabled: bool
    bugged: bool
    held: int
    """Outstanding adds of external users."""
    slots: tuple[SlotFacts | None, ...]


def page_facts(lane: Lane, number: int, gfn: int) -> PageFacts | None:
    """Return what a lane knows of a page now; None when the VM is not there."""
    vm = lane.machine.vms.get(number)
    if vm is None:
        return None
    slots: list[SlotFacts | None] = []
    for space in vm.spaces:
        slot = space.by_gfn(gfn)
        if slot is None:
            slots.append(None)
            continue
        array = slot.arch.gfn_write_track
        slots.append(
            SlotFacts(
                slot.id,
                slot.base_gfn,
                slot.npages,
                slot.flags,
                slot.born,
                None if array is None else array.number,
                "" if array is None else array.site,
                slot.arch.counts.get(gfn - slot.base_gfn, 0),
            )
        )
    enabled = kvm_page_track_write_tracking_enabled(vm)
    return PageFacts(enabled, vm.vm_bugged, vm.external_adds.get(gfn, 0), tuple(slots))


def changes(before: PageFacts | None, after: PageFacts | None) -> Iterator[str]:
    """Say what is another in a page's facts, counters aside."""
    if before is None or after is None:
        if before is not after:
            yield "the VM is there" if before is None else "the VM is gone, and all of it with it"
        return
    if before.enabled != after.enabled:
        yield f"write tracking {'enabled' if after.enabled else 'disabled'}"
    if after.bugged and not before.bugged:
        yield "the VM is dead"
    if before.held != after.held:
        yield f"external users hold {after.held}, before {before.held}"
    for as_id, (old, new) in enumerate(zip(before.slots, after.slots, strict=True)):
        yield from _slot_changes(old, new, f" of address space {as_id}" if as_id else "")


def _slot_changes(old: SlotFacts | None, new: SlotFacts | None, space: str) -> Iterator[str]:
    if old is None or new is None:
        if new is not None:
            yield f"memslot {new.id}{space} holds the page, gfns {new.base_gfn:#x} to {new.base_gfn + new.npages - 1:#x}"
            yield from _array(None, "", new)
        elif old is not None:
            array = ", its array freed" if old.array is not None else ""
            yield f"memslot {old.id}{space} does not hold the page any more{array}"
        return
    if (old.id, old.base_gfn, old.born) != (new.id, new.base_gfn, new.born):
        yield f"memslot {new.id}{space} holds the page in place of memslot {old.id}"
    elif old.flags != new.flags:
        yield f"flags of memslot {new.id}{space} are {new.flags:#x}, before {old.flags:#x}"
    if old.array != new.array:
        yield from _array(old.array, old.site, new)


def _array(old: int | None, site: str, new: SlotFacts) -> Iterator[str]:
    if old is not None:
        yield f"gfn_write_track of {site}() freed"
    if new.array is not None:
        yield f"gfn_write_track allocated by {new.site}()"


def counts(facts: PageFacts | None) -> tuple[int, ...]:
    """Return the counter of each address space."""
    return () if facts is None else tuple(0 if slot is None else slot.count for slot in facts.slots)
