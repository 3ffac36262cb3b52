"""Shape the state of lanes as a result: what `state --at` prints, with the names and order of the kernel."""

from typing import Final

import attrs

from replay.analyses.certainty import CERTAIN, UNCERTAINTIES, certain
from replay.analyses.compare_report import Bytes, Count, bytes_of
from replay.analyses.findings import Uncertainty
from replay.engine.lane import Lane
from replay.events.base import ByFields, flag, sint, text, uint, uints, values
from replay.kvm.allocator import Allocation
from replay.kvm.lpages import disallowed_lpages, first_disallow, moved_lpages
from replay.kvm.memslot import KVM_NR_PAGE_SIZES, Memslot, lpages
from replay.kvm.state import digest_of
from replay.kvm.vm import Vm

LARGE_LEVELS: Final = range(2, KVM_NR_PAGE_SIZES + 1)
"""Page-table levels of lpage_info: 2 MiB and 1 GiB."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ArrayState(ByFields):
    """One array of a memslot that is there; a NULL pointer is left out."""

    array: str = text("kind of array", length_max=32)
    level: int = uint("page-table level of rmap and lpage_info, 0 for the others", bits=8, default=0)
    site: str = text("kernel function that allocated it, as /proc/vmallocinfo names it", length_max=64)
    event: int = uint("event that allocated it")
    nominal_bytes: int = uint("as the code asks for it", unit="bytes")
    charged_bytes: int = uint("as the memory cgroup is charged", unit="bytes")
    real_bytes: int = uint("with the page-pointer array", unit="bytes")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TrackedGfn(ByFields):
    """A gfn whose write-track counter is not zero."""

    gfn: int = uint("guest frame number", unit="gfn")
    count: int = uint("counter", bits=16)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RegionState(ByFields):
    """A region of 2 MiB or 1 GiB whose disallow_lpage moved since its memslot was made."""

    gfn: int = uint("first guest frame number of the region", unit="gfn")
    disallow_lpage: int = sint("reasons not to map it by one large page; a negative count forbids it too")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LargePages(ByFields):
    """The regions of one size of a memslot, as lpage_info has them. KVM maps one by a large page only while its count is 0."""

    level: int = uint("page-table level: 2 for 2 MiB, 3 for 1 GiB", bits=8)
    regions: int = uint("how many the memslot touches")
    disallowed: int = uint("how many of them are not mapped large")
    moved: tuple[RegionState, ...] = values("those whose count is not the first one", RegionState, length_max=1 << 32)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SlotState(ByFields):
    """One memslot."""

    as_id: int = uint("address space", bits=8)
    id: int = uint("slot id", bits=16)
    base_gfn: int = uint("first gfn", unit="gfn")
    npages: int = uint("size", unit="pages")
    flags: int = uint("slot flags", bits=32)
    userspace_addr: int = uint("host virtual address", unit="bytes (hva)")
    born: int = uint("event that created it")
    arrays: tuple[ArrayState, ...] = values("arrays that are there", ArrayState, length_max=16)
    counts: tuple[TrackedGfn, ...] = values("write-tracked gfns", TrackedGfn, length_max=1 << 32)
    large_pages: tuple[LargePages, ...] = values("which regions are mapped large, by size", LargePages, length_max=2)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmState(ByFields):
    """One VM of a lane."""

    vm: int = uint("number of the VM", bits=32)
    type: int = uint("machine type", bits=32)
    shadow_root_allocated: bool = flag("kvm->arch.shadow_root_allocated")
    external_write_tracking_enabled: bool = flag("kvm->arch.external_write_tracking_enabled")
    page_write_tracking_disabled: bool = flag("kvm->arch.page_write_tracking_disabled: opted out, which only v1 lets a VM do")
    vm_bugged: bool = flag("kvm->vm_bugged")
    last_fd_closed: bool = flag("only notifiers keep it alive")
    users_count: int = uint("references: 1 for userspace and 1 a notifier node (6.6 and later)")
    nr_memslot_pages: int = uint("kvm->nr_memslot_pages", unit="pages")
    indirect_shadow_pages: int = uint("kvm->arch.indirect_shadow_pages")
    generations: tuple[int, ...] = uints("memslot generation of each address space", length_max=2)
    notifiers: tuple[int, ...] = uints("registered nodes, newest first", length_max=65536)
    slots: tuple[SlotState, ...] = values("memslots in the kernel's own iteration order", SlotState, length_max=65536)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LaneState(ByFields):
    """One lane."""

    name: str = text("name of the lane", length_max=128)
    policy: str = text("name of the policy", length_max=64)
    digest: str = text("digest of the whole state, equal for equal states on every machine", length_max=64)
    arrays: tuple[Bytes, ...] = values("memory by kind of array", Bytes, length_max=16)
    warnings: tuple[Count, ...] = values("kernel warnings so far", Count, length_max=32)
    vms: tuple[VmState, ...] = values("VMs that are alive, by number", VmState, length_max=1 << 20)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StateReport(ByFields):
    """What the lanes hold after one event."""

    event: int = uint("number of the last event that was replayed")
    lanes: tuple[LaneState, ...] = values("lanes", LaneState, length_max=64)
    certain: bool = flag(CERTAIN, default=True)
    uncertainties: tuple[Uncertainty, ...] = values(UNCERTAINTIES, Uncertainty, length_max=1 << 20)


def state_report(lanes: list[Lane], event: int, unknown: tuple[Uncertainty, ...] = ()) -> StateReport:
    """Return what the lanes hold now. Cost: proportional to slots and counters that are not zero."""
    return StateReport(event=event, lanes=tuple(_lane(lane) for lane in lanes), certain=certain(unknown), uncertainties=unknown)


def _lane(lane: Lane) -> LaneState:
    machine = lane.machine
    return LaneState(
        name=lane.name,
        policy=lane.policy.name,
        digest=digest_of(machine),
        arrays=tuple(bytes_of(array, tally) for array, tally in machine.allocator.tallies.items()),
        warnings=tuple(Count(name=name, count=count) for name, count in sorted(machine.log.counts.items())),
        vms=tuple(_vm(vm) for vm in machine.live_vms()),
    )


def _vm(vm: Vm) -> VmState:
    return VmState(
        vm=vm.number,
        type=vm.type,
        shadow_root_allocated=vm.shadow_root_allocated,
        external_write_tracking_enabled=vm.external_write_tracking_enabled,
        page_write_tracking_disabled=vm.page_write_tracking_disabled,
        vm_bugged=vm.vm_bugged,
        last_fd_closed=vm.destroyed,
        users_count=vm.users_count,
        nr_memslot_pages=vm.nr_memslot_pages,
        indirect_shadow_pages=vm.indirect_shadow_pages,
        generations=tuple(space.generation for space in vm.spaces),
        notifiers=tuple(vm.nodes),
        slots=tuple(_slot(slot) for slot in vm.slots()),
    )


def _slot(slot: Memslot) -> SlotState:
    arch = slot.arch
    levels = [(slot.object, 0), (slot.dirty_bitmap, 0)]
    levels += [(array, index + 1) for index, array in enumerate(arch.rmap)]
    levels += [(array, index + 2) for index, array in enumerate(arch.lpage_info)]
    levels += [(arch.gfn_write_track, 0)]
    return SlotState(
        as_id=slot.as_id,
        id=slot.id,
        base_gfn=slot.base_gfn,
        npages=slot.npages,
        flags=slot.flags,
        userspace_addr=slot.userspace_addr,
        born=slot.born,
        arrays=tuple(_array(array, level) for array, level in levels if array is not None),
        counts=tuple(TrackedGfn(gfn=slot.base_gfn + index, count=count) for index, count in sorted(arch.counts.items())),
        large_pages=tuple(_large_pages(slot, level) for level in LARGE_LEVELS),
    )


def _large_pages(slot: Memslot, level: int) -> LargePages:
    shift = 9 * (level - 1)
    return LargePages(
        level=level,
        regions=lpages(slot.base_gfn, slot.npages, level),
        disallowed=disallowed_lpages(slot, shift),
        moved=tuple(
            RegionState(gfn=region << shift, disallow_lpage=count + first_disallow(slot, shift, region))
            for region, count in moved_lpages(slot, shift).items()
        ),
    )


def _array(array: Allocation, level: int) -> ArrayState:
    cost = array.cost
    return ArrayState(
        array=array.array,
        level=level,
        site=array.site,
        event=array.event,
        nominal_bytes=cost.nominal_bytes,
        charged_bytes=cost.charged_bytes,
        real_bytes=cost.real_bytes,
    )
