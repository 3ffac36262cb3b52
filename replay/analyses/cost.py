"""Itemise what memslots cost in kernel memory, for every per-slot array and every lane.

For a layout: equal slots that together cover an address space, built by replaying their creation, so that the answer comes
from the same model as everything else. gVisor's question: what is left of a 39, 40 or 46-bit address space?
"""

from collections.abc import Sequence
from typing import Final

import attrs

from replay.analyses.certainty import CERTAIN, UNCERTAINTIES, certain
from replay.analyses.compare_report import Bytes, bytes_of
from replay.analyses.findings import Uncertainty
from replay.engine.lane import Lane
from replay.errors import UsageError
from replay.events import MemslotSet, NotifierRegister, ShadowRootAlloc, VmCreate
from replay.events.base import ByFields, flag, sint, text, uint, value, values
from replay.kvm.allocator import ARRAYS, GFN_WRITE_TRACK
from replay.kvm.tallies import Tally
from replay.kvm.uapi import KVM_MEM_MAX_NR_PAGES, KVM_USER_MEM_SLOTS
from replay.units import PAGE_SHIFT, PAGE_SIZE_BYTES, Gpa, Hva, counted, ret_text

_LATER: Final = {"registered": NotifierRegister(vm=0), "rooted": ShadowRootAlloc(vm=0, nested=True)}
"""Stages of a layout after its creation, and what leads to each."""
ADDRESS_BITS_MIN: Final = 13
ADDRESS_BITS_MAX: Final = 51  # gfns below the 2^52 limit of kvm_mmu_max_gfn() without tdp, with room for the offset


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StageCost(ByFields):
    """What one lane holds at one stage of a layout's life."""

    stage: str = text("created; registered: after a notifier registration; rooted: after a shadow root", length_max=32)
    write_track: Bytes = value("gfn_write_track", Bytes, default=bytes_of(GFN_WRITE_TRACK, Tally()))
    arrays: tuple[Bytes, ...] = values("every per-slot allocation by kind", Bytes, length_max=16)
    nominal_bytes: int = uint("all of them together, as the code asks for them", unit="bytes")
    charged_bytes: int = uint("the same as charged to the memory cgroup", unit="bytes")
    real_bytes: int = uint("the same with page-pointer arrays and slab rounding", unit="bytes")
    ret: int = sint("result of the call that leads to the stage: -ENOMEM keeps what was allocated before", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LaneCost(ByFields):
    """One lane's costs, stage by stage."""

    name: str = text("name of the lane", length_max=128)
    policy: str = text("name of the policy", length_max=64)
    stages: tuple[StageCost, ...] = values("stages", StageCost, length_max=8)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CostReport(ByFields):
    """What a layout or a recording costs under each lane."""

    title: str = text("what was priced", length_max=256)
    slots: int = uint("memslots of the layout; of a recording: most at once is in `info`", default=0)
    slot_pages: int = uint("pages of each slot of the layout", unit="pages", default=0)
    lanes: tuple[LaneCost, ...] = values("lanes", LaneCost, length_max=64)
    certain: bool = flag(CERTAIN, default=True)
    uncertainties: tuple[Uncertainty, ...] = values(UNCERTAINTIES, Uncertainty, length_max=1 << 20)


def stage_cost(stage: str, lane: Lane, ret: int | None = 0) -> StageCost:
    """Return what a lane holds now, and held at most; ret: result of the call before."""
    tallies = lane.machine.allocator.tallies
    return StageCost(
        stage=stage,
        write_track=bytes_of(GFN_WRITE_TRACK, tallies[GFN_WRITE_TRACK]),
        arrays=tuple(bytes_of(array, tallies[array]) for array in ARRAYS),
        nominal_bytes=sum(tally.nominal_now for tally in tallies.values()),
        charged_bytes=sum(tally.charged_now for tally in tallies.values()),
        real_bytes=sum(tally.real_now for tally in tallies.values()),
        ret=ret or 0,
    )


def layout_slots(address_bits: int, slots: int | None) -> tuple[int, int]:
    """Return how many equal slots cover an address space, and the pages of each.

    slots None: as few as the kernel's limit of 2^31 - 1 pages a slot allows. Raises UsageError for what no kernel takes.

    >>> layout_slots(39, None), layout_slots(46, None)
    ((1, 134217728), (16, 1073741824))
    """
    if not ADDRESS_BITS_MIN <= address_bits <= ADDRESS_BITS_MAX:
        raise UsageError(counted(address_bits, "address bit"), expected=f"{ADDRESS_BITS_MIN} to {ADDRESS_BITS_MAX}")
    pages = 1 << (address_bits - PAGE_SHIFT)
    count = 1
    if slots is None:
        while pages // count > KVM_MEM_MAX_NR_PAGES:
            count *= 2
        return count, pages // count
    if slots < 1 or slots > KVM_USER_MEM_SLOTS or slots > pages:
        raise UsageError(counted(slots, "memslot"), expected=f"1 to {min(KVM_USER_MEM_SLOTS, pages)}")
    if pages // slots > KVM_MEM_MAX_NR_PAGES:
        raise UsageError(
            f"{counted(slots, 'memslot')} of {counted(pages // slots, 'page')} each",
            expected=f"at most {counted(KVM_MEM_MAX_NR_PAGES, 'page')} a memslot",
            advice="give more slots",
        )
    return slots, pages // slots


def layout_cost(address_bits: int, slots: int | None, lanes: Sequence[Lane]) -> CostReport:
    """Price equal memslots that cover an address space: created, then with a notifier registered, then with a shadow root.

    The remainder of an uneven division is left out. Raises UsageError for a layout that a lane refuses.
    """
    count, pages = layout_slots(address_bits, slots)
    reports = []
    for lane in lanes:
        _create(lane, count, pages)
        stages = [stage_cost("created", lane)]
        for number, (stage, event) in enumerate(_LATER.items(), count + 1):
            outcome = lane.step(event, number)
            if outcome is not None:
                stages.append(stage_cost(stage, lane, outcome.ret))
        reports.append(LaneCost(name=lane.name, policy=lane.policy.name, stages=tuple(stages)))
    title = f"{address_bits}-bit address space"
    return CostReport(title=title, slots=count, slot_pages=pages, lanes=tuple(reports))


def _create(lane: Lane, count: int, pages: int) -> None:
    lane.step(VmCreate(vm=0), 0)
    for slot in range(count):
        # One hva for all: memslots may alias, and a 46-bit layout would not fit below TASK_SIZE_MAX beside its guest.
        event = MemslotSet(
            vm=0,
            slot=slot,
            guest_phys_addr=Gpa(slot * pages * PAGE_SIZE_BYTES),
            memory_size=pages * PAGE_SIZE_BYTES,
            userspace_addr=Hva(PAGE_SIZE_BYTES),
        )
        outcome = lane.step(event, slot + 1)
        if outcome is None or outcome.ret:
            why = "" if outcome is None else f"{ret_text(outcome.ret)}: {outcome.why}"
            raise UsageError(
                f"lane {lane.name} refuses memslot {slot} of {counted(pages, 'page')} ({why})",
                advice="fewer address bits, more slots, or --profile max_phys_bits=52",
            )


def recording_cost(title: str, lanes: Sequence[Lane], unknown: tuple[Uncertainty, ...] = ()) -> CostReport:
    """Price what a replayed recording took: peaks, totals and the end are in each array's row. The lanes are replayed already."""
    reports = [LaneCost(name=lane.name, policy=lane.policy.name, stages=(stage_cost("end", lane),)) for lane in lanes]
    return CostReport(title=title, lanes=tuple(reports), certain=certain(unknown), uncertainties=unknown)
