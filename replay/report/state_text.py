"""Say in text what a lane holds."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from replay.report.columns import columns
from replay.report.paint import Paint
from replay.units import bytes_text

SLOTS_SHOWN: Final = 64
COUNTS_SHOWN: Final = 16
_ARRAYS: Final = ("dirty_bitmap", "rmap", "lpage_info", "gfn_write_track")


def state_text(lane: str, state: dict[str, Any], paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of one lane's state, as `replay.kvm.state.state_of()` gives it."""
    paint = paint or Paint()
    yield paint("bold", f"lane {lane} (policy {state['policy']}), digest {state['digest']}")
    tallies = state["allocator"]["tallies"]
    yield "  memory now: " + ", ".join(f"{array} {bytes_text(tally['nominal_now'])}" for array, tally in tallies.items())
    if state["log"]:
        yield "  kernel log: " + ", ".join(f"{count:,} x {reason}" for reason, count in state["log"].items())
    if not state["vms"]:
        yield "  no VM is alive"
    for vm in state["vms"]:
        yield from _vm(vm)


def _vm(vm: dict[str, Any]) -> Iterator[str]:
    flags = [name for name in ("shadow_root_allocated", "external_write_tracking_enabled", "vm_bugged", "destroyed") if vm[name]]
    nodes = ", ".join(f"node {node}" for node in vm["nodes"]) or "none"
    yield f"  vm {vm['number']}: {', '.join(flags) or 'no flag set'}; notifiers {nodes}; users_count {vm['users_count']}"
    yield f"    nr_memslot_pages {vm['nr_memslot_pages']:,}, indirect_shadow_pages {vm['indirect_shadow_pages']:,}"
    rows: list[Sequence[str]] = [("slot", "as", "gfn", "pages", "flags", "hva", "born", *_ARRAYS, "counts")]
    slots = [slot for space in vm["spaces"] for slot in space["slots"]]
    rows.extend(_slot(slot) for slot in slots[:SLOTS_SHOWN])
    generations = ", ".join(f"as {space['as_id']} {space['generation']}" for space in vm["spaces"])
    yield f"    {len(slots)} memslots in the kernel's own order; generation {generations}"
    if slots:
        yield from (f"    {line}" for line in columns(rows, left=()))
    if len(slots) > SLOTS_SHOWN:
        yield f"    and {len(slots) - SLOTS_SHOWN} more; --format json has them all"
    for slot in slots[:SLOTS_SHOWN]:
        yield from _counts(slot)


def _slot(slot: dict[str, Any]) -> Sequence[str]:
    sizes = [_size(slot[array]) for array in _ARRAYS]
    place = (
        f"{slot['base_gfn']:#x}",
        f"{slot['npages']:,}",
        f"{slot['flags']:#x}",
        f"{slot['userspace_addr']:#x}",
        f"{slot['born']}",
    )
    return (f"{slot['id']}", f"{slot['as_id']}", *place, *sizes, f"{len(slot['counts']):,}")


def _size(array: Any) -> str:
    """Say the nominal size of an array or of a list of them; '-' for NULL."""
    arrays = array if isinstance(array, list) else [array]
    there = [one["nominal_bytes"] for one in arrays if one is not None]
    return bytes_text(sum(there)) if there else "-"


def _counts(slot: dict[str, Any]) -> Iterator[str]:
    counts = slot["counts"]
    if counts:
        shown = ", ".join(f"gfn {slot['base_gfn'] + index:#x} = {count}" for index, count in counts[:COUNTS_SHOWN])
        more = f" and {len(counts) - COUNTS_SHOWN:,} more" if len(counts) > COUNTS_SHOWN else ""
        yield f"    slot {slot['id']} as {slot['as_id']} write-tracked: {shown}{more}"
