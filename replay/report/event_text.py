"""Say an event in one line, in the words of kernel people: the ioctl or function by name, gpa and gfn in hex, errno by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from replay import events as ev
from replay.events.base import Event, Source
from replay.header import Header
from replay.kvm.uapi import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from replay.report.plain import printable
from replay.units import bytes_text, counted, ret_text

_FLAG_NAMES: Final = (
    (KVM_MEM_LOG_DIRTY_PAGES, "LOG_DIRTY"),
    (KVM_MEM_READONLY, "READONLY"),
    (KVM_MEM_GUEST_MEMFD, "GUEST_MEMFD"),
)


def flags_text(flags: int) -> str:
    """Say the flags of a memslot by name, unknown bits in hex.

    >>> flags_text(0), flags_text(1), flags_text(0x9)
    ('0', 'LOG_DIRTY', 'LOG_DIRTY|0x8')
    """
    names = [name for bit, name in _FLAG_NAMES if flags & bit]
    rest = flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD)
    return "|".join([*names, f"{rest:#x}"] if rest else names) or "0"


def slot_text(slot: int | None) -> str:
    """Say a slot argument: id and address space.

    >>> slot_text(65541)
    'slot 5 as 1'
    """
    return "slot ?" if slot is None else f"slot {slot & 0xFFFF} as {slot >> 16}"


def _hex(number: int | None) -> str:
    return "?" if number is None else f"{number:#x}"


def _memslot_set(event: ev.MemslotSet) -> str:
    name = "KVM_SET_USER_MEMORY_REGION2" if event.region2 else "KVM_SET_USER_MEMORY_REGION"
    if event.fault:
        return f"{name} (argument not readable)"
    size = "size 0 (delete)" if event.memory_size == 0 else f"size {event.memory_size:#x} ({bytes_text(event.memory_size)})"
    text = f"{name} {slot_text(event.slot)} gpa {event.guest_phys_addr:#x} {size} hva {event.userspace_addr:#x}"
    if event.guest_memfd is not None:
        text += f" guest_memfd {event.guest_memfd} offset {event.guest_memfd_offset:#x}"
    return f"{text} flags {flags_text(event.flags)}"


def _vm_destroy(event: ev.VmDestroy) -> str:
    return f"VM destroyed ({event.reason}{', foreign mm' if event.foreign_mm else ''})"


def _vm_enable_cap(event: ev.VmEnableCap) -> str:
    args = " ".join(_hex(arg) for arg in event.args)
    return f"KVM_ENABLE_CAP cap {event.cap} flags {event.flags:#x}" + (f" args {args}" if args else "")


def _dirty_log_clear(event: ev.DirtyLogClear) -> str:
    return f"KVM_CLEAR_DIRTY_LOG {slot_text(event.slot)} first_page {event.first_page} num_pages {event.num_pages}"


def _guest_memfd_create(event: ev.GuestMemfdCreate) -> str:
    return f"KVM_CREATE_GUEST_MEMFD size {_hex(event.size_bytes)} flags {event.flags:#x}"


def _alloc_fail(event: ev.AllocFail) -> str:
    site = f"{event.site}()" if event.site else "any site"
    if event.off:
        return f"injection off at {site}"
    if event.count == 1:
        return f"injection fails allocation {event.nth} of {site}"
    if event.count == 0:
        return f"injection fails allocation {event.nth} of {site} and all after it"
    return f"injection fails allocations {event.nth} to {event.nth + event.count - 1} of {site}"


def _memory_limit(event: ev.MemoryLimit) -> str:
    return "memory limit lifted" if event.limit_pages is None else f"memory limit: {counted(event.limit_pages, 'more page')}"


def _observe(event: ev.Observe) -> str:
    parts = [part for part, there in (("VM state", event.state), ("allocations", event.areas)) if there is not None]
    return f"observed {' and '.join(parts) or 'nothing'}" + (f": {event.label}" if event.label else "")


def _lost(event: ev.Lost) -> str:
    return f"LOST {'an unknown number of events' if event.count is None else counted(event.count, 'event')}: {event.what}"


def _hot(call: str) -> Callable[[ev.HotEvent], str]:
    def say(event: ev.HotEvent) -> str:
        return f"{call} gfn {event.gfn:#x} as {event.as_id}"

    return say


def _shadow_page(call: str) -> Callable[[ev.HotEvent], str]:
    def say(event: ev.HotEvent) -> str:
        return f"{call} gfn {event.gfn:#x} level {event.level} as {event.as_id}{' nested' if event.nested else ''}"

    return say


def _gpa_call(name: str) -> Callable[[Any], str]:
    return lambda event: f"{name} gpa {_hex(event.guest_phys_addr)}"


# The table is open to any event class, so its functions take Any; tests/report/test_event_text.py feeds each kind to its own.
CALLS: Final[Mapping[type[Event], Callable[[Any], str]]] = {
    ev.VmCreate: lambda event: f"KVM_CREATE_VM type {event.type}",
    ev.VmAttach: lambda _event: "VM found alive; its past is unknown",
    ev.VmDestroy: _vm_destroy,
    ev.VmEnableCap: _vm_enable_cap,
    ev.VcpuCreate: lambda event: f"KVM_CREATE_VCPU id {event.vcpu_id}",
    ev.IrqchipCreate: lambda _event: "KVM_CREATE_IRQCHIP",
    ev.Opaque: lambda event: f"{event.name} cmd {event.cmd:#x} (arguments not recorded)",
    ev.MemslotSet: _memslot_set,
    ev.TssSet: _gpa_call("KVM_SET_TSS_ADDR"),
    ev.IdentityMapSet: _gpa_call("KVM_SET_IDENTITY_MAP_ADDR"),
    ev.NrMmuPagesSet: lambda event: f"KVM_SET_NR_MMU_PAGES {event.nr_mmu_pages}",
    ev.DirtyLogGet: lambda event: f"KVM_GET_DIRTY_LOG {slot_text(event.slot)}",
    ev.DirtyLogClear: _dirty_log_clear,
    ev.GuestMemfdCreate: _guest_memfd_create,
    ev.NotifierRegister: lambda event: f"kvm_page_track_register_notifier() node {event.node}{' kvm NULL' * event.null_kvm}",
    ev.NotifierUnregister: lambda event: f"kvm_page_track_unregister_notifier() node {event.node}",
    ev.ShadowRootAlloc: lambda event: f"mmu_first_shadow_root_alloc(){' nested' * event.nested}",
    ev.AllocFail: _alloc_fail,
    ev.MemoryLimit: _memory_limit,
    ev.Observe: _observe,
    ev.Lost: _lost,
    ev.Mark: lambda event: f"mark: {event.text}",
    ev.WriteTrackAdd: _hot("kvm_write_track_add_gfn()"),
    ev.WriteTrackRemove: _hot("kvm_write_track_remove_gfn()"),
    ev.WriteTrackQuery: _hot("kvm_gfn_is_write_tracked()"),
    ev.GuestWrite: _hot("kvm_page_track_write()"),
    ev.ShadowPageAccount: _shadow_page("account_shadowed()"),
    ev.ShadowPageUnaccount: _shadow_page("unaccount_shadowed()"),
}


def call_text(event: Event) -> str:
    """Say what an event is, without number, time, task and result.

    >>> call_text(ev.WriteTrackAdd(vm=0, gfn=0x1000))
    'kvm_write_track_add_gfn() gfn 0x1000 as 0'
    """
    say = CALLS.get(type(event))
    return printable(say(event) if say is not None else event.KIND)


def event_text(number: int, event: Event, *, since_ns: int | None = None) -> str:
    """Say an event in one line; since_ns is the time that its own is counted from.

    A result that was not recorded is "= ?" for a call on a VM and left out for a hot event, which seldom has one.

    >>> print(event_text(12, ev.VcpuCreate(vm=0, ret=7, vcpu_id=0, task=ev.Task(9430, 9432), time_ns=1_234_000), since_ns=0))
    event 12  +0.001234 s  vm 0  tid 9432  KVM_CREATE_VCPU id 0 = 7
    """
    parts = [f"event {number}"]
    if event.time_ns is not None and since_ns is not None:
        parts.append(time_text(event.time_ns - since_ns))
    vm = getattr(event, "vm", None)
    if vm is not None:
        parts.append(f"vm {vm}")
    if event.task is not None:
        parts.append(f"tid {event.task.tid}")
    return "  ".join([*parts, call_text(event) + _outcome(event)])


def _outcome(event: Event) -> str:
    ret = getattr(event, "ret", None)
    text = f" = {ret_text(ret)}" if ret is not None or isinstance(event, ev.VmCall) else ""
    if getattr(event, "foreign_mm", False) and isinstance(event, ev.VmCall):
        text += " (foreign mm)"
    return text + (" (inferred)" if event.inferred else "")


def time_text(time_ns: int) -> str:
    """Say a time as seconds with a sign, in microseconds, in nanoseconds when there are any.

    >>> time_text(1_234_000), time_text(-1), time_text(2_000_000_123)
    ('+0.001234 s', '-0.000000001 s', '+2.000000123 s')
    """
    seconds, rest_ns = divmod(abs(time_ns), 1_000_000_000)
    digits = f"{rest_ns // 1000:06}" if rest_ns % 1000 == 0 else f"{rest_ns:09}"
    return f"{'-' if time_ns < 0 else '+'}{seconds}.{digits} s"


def source_text(source: Source | None, header: Header) -> str:
    """Say the place in the trace that an event was read from: file and line; "no source" when there is none.

    >>> source_text(None, Header())
    'no source'
    """
    if source is None:
        return "no source"
    known = source.file < len(header.sources)
    return f"{printable(header.sources[source.file].name) if known else f'source {source.file}'}:{source.line}"
