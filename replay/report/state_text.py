"""Say in text what lanes hold."""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.state_report import LaneState, SlotState, StateReport, VmState
from replay.report.columns import columns
from replay.report.doubt_text import doubts_text
from replay.report.paint import Paint
from replay.units import bytes_text, counted

SLOTS_SHOWN: Final = 64
"""Most memslots of a VM that get a line; JSON has them all."""
COUNTS_SHOWN: Final = 16
"""Most write-tracked gfns of a memslot that are listed; JSON has them all."""
_SIZES: Final = {2: "2 MiB", 3: "1 GiB"}
_ARRAYS: Final = ("dirty_bitmap", "rmap", "lpage_info", "gfn_write_track")


def state_text(report: StateReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    yield f"after event {report.event}"
    for lane in report.lanes:
        yield from _lane(lane, paint)
    yield from doubts_text(report.uncertainties, paint)


def _lane(lane: LaneState, paint: Paint) -> Iterator[str]:
    yield paint("bold", f"lane {lane.name} (policy {lane.policy}), digest {lane.digest}")
    yield "  memory now: " + ", ".join(f"{array.array} {bytes_text(array.nominal_end_bytes)}" for array in lane.arrays)
    if lane.warnings:
        yield "  kernel log: " + ", ".join(f"{count.count:,} x {count.name}" for count in lane.warnings)
    if not lane.vms:
        yield "  no VM is alive"
    for vm in lane.vms:
        yield from _vm(vm)


_FLAGS: Final = (
    "shadow_root_allocated",
    "external_write_tracking_enabled",
    "page_write_tracking_disabled",
    "vm_bugged",
    "last_fd_closed",
)


def _vm(vm: VmState) -> Iterator[str]:
    flags = ", ".join(name for name in _FLAGS if getattr(vm, name)) or "no flag set"
    nodes = ", ".join(f"node {node}" for node in vm.notifiers) or "none"
    yield f"  vm {vm.vm}: {flags}; notifiers {nodes}; users_count {vm.users_count}"
    yield f"    nr_memslot_pages {vm.nr_memslot_pages:,}, indirect_shadow_pages {vm.indirect_shadow_pages:,}"
    generations = ", ".join(f"as {as_id} {generation}" for as_id, generation in enumerate(vm.generations))
    yield f"    {counted(len(vm.slots), 'memslot')} in the kernel's own order; generation {generations}"
    if not vm.slots:
        return
    rows: list[Sequence[str]] = [
        ("slot", "as", "gfn", "pages", "flags", "hva", "born", *_ARRAYS, "tracked gfns", "not 2M", "not 1G")
    ]
    rows.extend(_slot(slot) for slot in vm.slots[:SLOTS_SHOWN])
    yield from (f"    {line}" for line in columns(rows, left=()))
    if len(vm.slots) > SLOTS_SHOWN:
        yield f"    and {len(vm.slots) - SLOTS_SHOWN:,} more; --format json has them all"
    for slot in vm.slots[:SLOTS_SHOWN]:
        yield from _counts(slot)


def _slot(slot: SlotState) -> Sequence[str]:
    place = (f"{slot.base_gfn:#x}", f"{slot.npages:,}", f"{slot.flags:#x}", f"{slot.userspace_addr:#x}", f"{slot.born}")
    sizes = [_size(slot, array) for array in _ARRAYS]
    large = [f"{size.disallowed:,}/{size.regions:,}" for size in slot.large_pages]
    return (f"{slot.id}", f"{slot.as_id}", *place, *sizes, f"{len(slot.counts):,}", *large)


def _size(slot: SlotState, name: str) -> str:
    """Say the nominal size of one kind of array; '-' when there is none."""
    there = [array.nominal_bytes for array in slot.arrays if array.array == name]
    return bytes_text(sum(there)) if there else "-"


def _counts(slot: SlotState) -> Iterator[str]:
    if slot.counts:
        shown = ", ".join(f"gfn {one.gfn:#x} = {one.count}" for one in slot.counts[:COUNTS_SHOWN])
        more = f" and {len(slot.counts) - COUNTS_SHOWN:,} more" if len(slot.counts) > COUNTS_SHOWN else ""
        yield f"    slot {slot.id} as {slot.as_id} write-tracked: {shown}{more}"
    for size in slot.large_pages:
        if size.moved:
            shown = ", ".join(f"gfn {one.gfn:#x} = {one.disallow_lpage}" for one in size.moved[:COUNTS_SHOWN])
            more = f" and {len(size.moved) - COUNTS_SHOWN:,} more" if len(size.moved) > COUNTS_SHOWN else ""
            yield f"    slot {slot.id} as {slot.as_id} disallow_lpage of {_SIZES[size.level]}: {shown}{more}"
