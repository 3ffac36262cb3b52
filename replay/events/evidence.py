"""Name the events that say what was injected, seen, lost or noted, rather than what was asked of KVM."""

import attrs

from replay.events.base import ByFields, Event, enum, event, flag, text, uint, uints, value, values


@event(48, "alloc.fail")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class AllocFail(Event):
    """From the next call on, make the nth metadata allocation of a site fail (a fail-nth injection).

    nth counts allocations of that site from here, from 1. count failures follow one another; 0 means for ever.
    """

    vm: int | None = uint("only in this VM; null: in any", bits=16, optional=True)
    site: str = text("allocating kernel function as /proc/vmallocinfo names it; empty: any site", default="", length_max=64)
    nth: int = uint("which allocation, from 1", bits=32, default=1)
    count: int = uint("how many fail in a row; 0: all from there on", bits=32, default=1)
    off: bool = flag("stop injecting at that site")


@event(49, "memory.limit")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class MemoryLimit(Event):
    """The memory cgroup of the recorded tasks may charge this many pages more for KVM metadata; null lifts the limit."""

    limit_pages: int | None = uint("charge still allowed", unit="pages", optional=True)


@attrs.frozen(eq=False, repr=False)
class ObservedCount(ByFields):
    """A gfn whose write-track counter is not zero."""

    gfn: int = uint("guest frame number", unit="gfn")
    count: int = uint("counter", bits=16)


@attrs.frozen(eq=False, repr=False)
class ObservedSlot(ByFields):
    """State of one memslot as read from a kernel."""

    as_id: int = uint("address space", bits=8)
    id: int = uint("slot id", bits=16)
    base_gfn: int = uint("first gfn", unit="gfn")
    npages: int = uint("size", unit="pages")
    flags: int = uint("slot flags", bits=32)
    gfn_write_track: bool = flag("array present")
    rmap: tuple[int, ...] = uints("arrays present, levels 1 to 3", length_max=3, bits=8)
    lpage_info: tuple[int, ...] = uints("arrays present, levels 2 and 3", length_max=2, bits=8)
    dirty_bitmap: bool = flag("bitmap present")
    counts: tuple[ObservedCount, ...] | None = values(
        "counters that are not zero; null: not read", ObservedCount, length_max=65536, optional=True
    )


@attrs.frozen(eq=False, repr=False)
class ObservedArea(ByFields):
    """vmalloc areas that one kernel function took and gave back since the observation before."""

    site: str = text("allocating function, as /proc/vmallocinfo names it", length_max=64)
    areas_added: int = uint("areas allocated", bits=32)
    pages_added: int = uint("pages in them, without guard pages", unit="pages")
    areas_freed: int = uint("areas freed", bits=32)
    pages_freed: int = uint("pages in them", unit="pages")


@attrs.frozen(eq=False, repr=False)
class ObservedVm(ByFields):
    """State of one VM as read from a kernel; null where the kernel has no such field."""

    nr_memslot_pages: int | None = uint("kvm->nr_memslot_pages", unit="pages", optional=True)
    shadow_root_allocated: bool | None = flag("kvm->arch.shadow_root_allocated", optional=True)
    external_write_tracking_enabled: bool | None = flag("kvm->arch.external_write_tracking_enabled", optional=True)
    indirect_shadow_pages: int | None = uint("kvm->arch.indirect_shadow_pages", optional=True)
    vm_bugged: bool | None = flag("kvm->vm_bugged", optional=True)
    has_notifier: bool | None = flag("the notifier list is not empty", optional=True)
    slots: tuple[ObservedSlot, ...] | None = values(
        "memslots in the kernel's own iteration order", ObservedSlot, length_max=65536, optional=True
    )


@event(50, "observe")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Observe(Event):
    """Ground truth read from a kernel at this point; `check` holds the model against it."""

    vm: int | None = uint("VM that it speaks of; null: the machine", bits=16, optional=True)
    state: ObservedVm | None = value("state of the VM", ObservedVm)
    areas: tuple[ObservedArea, ...] | None = values(
        "allocations since the observation before; null: not read", ObservedArea, length_max=256, optional=True
    )
    label: str = text("what the recorder says of it", default="", length_max=256)


@event(51, "lost")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Lost(Event):
    """The recorder says that events are missing here; no answer that needs them can be given."""

    vm: int | None = uint("VM that they belong to; null: any", bits=16, optional=True)
    count: int | None = uint("how many; null: not known", optional=True)
    what: str = text("which kind and why, as the recorder says", length_max=256)
    affects: str = enum("what can not be told from here on", "everything", "shadow_pages", default="everything")


@event(52, "mark")
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Mark(Event):
    """A remark at a place of the recording; changes nothing."""

    text: str = text("the remark", length_max=4096)
