"""Say what a recording holds: the header's facts, counts by kind, VMs, tasks, time, losses, and what its memslot calls did.

One pass, no model. Runs are counted as columns, so a recording of a million hot events costs no object an event.
"""

from collections import Counter as Tally
from collections.abc import Iterable

import attrs

from replay.analyses.memslot_log import MemslotChanges, MemslotLog
from replay.events import MemslotSet, Opaque, VmAttach, VmDestroy, all_kinds
from replay.events.base import ByFields, Event, flag, sint, text, uint, value, values
from replay.header import CUT_SHORT_TEXT, MEMSLOT_ELSEWHERE, Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Item, Run


@attrs.frozen(kw_only=True, eq=False, repr=False)
class KindCount(ByFields):
    """How often one kind of event occurs."""

    kind: str = text("kind of event", length_max=64)
    count: int = uint("how often")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class TrackingCounts(ByFields):
    """Write tracking and shadow pages, as recorded.

    A shadow page of level 2 and up counts its gfn as write-tracked; level 1 only forbids large pages.
    Source: arch/x86/kvm/mmu/mmu.c account_shadowed(), unaccount_shadowed().
    """

    adds: int = uint("write-track counts that went up: external adds and shadow pages of level 2 and up", default=0)
    removes: int = uint("write-track counts that went down", default=0)
    external_adds: int = uint("of the adds: by an external user (kvm_write_track_add_gfn())", default=0)
    external_removes: int = uint("of the removes: by an external user (kvm_write_track_remove_gfn())", default=0)
    external_failed: int = uint("external adds and removes that returned an error; not in the other counts", default=0)
    shadow_pages_created: int = uint("shadow pages accounted, of any level", default=0)
    shadow_pages_zapped: int = uint("shadow pages unaccounted, of any level", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmInfo(ByFields):
    """What the recording holds of one VM."""

    vm: int = uint("number of the VM in the recording", bits=32)
    attached: bool = flag("seen alive; its creation is not in the recording")
    destroyed: bool = flag("its end is in the recording")
    memslot_changes: MemslotChanges = value("what its memslot calls did", MemslotChanges, default=MemslotChanges())
    slots_peak: int = uint("most slots that were live at once; without KVM's internal ones", default=0)
    memory_peak_bytes: int = uint("most guest memory that was mapped at once", unit="bytes", default=0)
    tracking: TrackingCounts = value("write tracking and shadow pages", TrackingCounts, default=TrackingCounts())


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Info(ByFields):
    """What a recording holds."""

    title: str = text("title of the recording", length_max=256)
    provenance: str = text("where it comes from", length_max=4096)
    clock: str = text("clock of its times", length_max=32)
    complete_start: bool = flag("recording began before the first VM was created")
    cut_short: bool = flag(f"{CUT_SHORT_TEXT}, and so are the counts", default=False)
    machine: Machine = value("the recorded machine", Machine, default=Machine())
    tools: tuple[Tool, ...] = values("recorders and converters", Tool, length_max=16)
    sources: tuple[SourceFile, ...] = values("traces that the events were read from", SourceFile, length_max=4096)
    events: int = uint("number of events")
    kinds: tuple[KindCount, ...] = values("events by kind, in the order of the vocabulary", KindCount, length_max=4096)
    opaque: tuple[KindCount, ...] = values("calls whose arguments were not recorded, by name", KindCount, length_max=4096)
    first_time_ns: int | None = sint("earliest time of an event", unit="ns", optional=True)
    last_time_ns: int | None = sint("latest time of an event", unit="ns", optional=True)
    processes: int = uint("processes that acted")
    tasks: int = uint("threads that acted")
    vms: int = uint("number of VMs")
    by_vm: tuple[VmInfo, ...] = values("the VMs, by number", VmInfo, length_max=1 << 20)
    memslot_changes: MemslotChanges = value("what all memslot calls did", MemslotChanges, default=MemslotChanges())
    slots_peak: int = uint("most slots that were live at once, all VMs together; without KVM's internal ones")
    memory_peak_bytes: int = uint("most guest memory that was mapped at once, all VMs together", unit="bytes")
    tracking: TrackingCounts = value("write tracking and shadow pages", TrackingCounts, default=TrackingCounts())
    lost: int = uint("events that are known to be missing")
    unknown: int = uint("things in the traces that were not understood")
    ignored: int = uint("things in the traces that were understood and have no effect on the model")
    counters: tuple[Counter, ...] = values("losses, unknown and ignored things by kind", Counter, length_max=4096)


class InfoBuilder:
    """Take the items of a stream one by one; `info()` returns what they hold."""

    def __init__(self) -> None:
        self._log = MemslotLog()
        self._kinds: Tally[int] = Tally()
        self._hot: Tally[tuple[int, int, bool, bool]] = Tally()  # vm, kind, counts as write-tracked, failed
        self._opaque: Tally[str] = Tally()
        self._tasks: set[tuple[int, int]] = set()
        self._vms: dict[int, VmInfo] = {}
        self._times: list[int] = []  # none, or earliest and latest

    def add(self, item: Item) -> None:
        """Take one item."""
        if isinstance(item, Run):
            self._add_run(item)
        else:
            self._add_event(item)

    def _add_run(self, run: Run) -> None:
        self._kinds.update(run.kind)
        rows = Tally(zip(run.vm, run.kind, run.level, run.ret, strict=True))
        for (vm, kind, level, ret), count in rows.items():
            self._vms.setdefault(vm, VmInfo(vm=vm))
            tracked = kind in {ADD, REMOVE} or level >= 2
            self._hot[vm, kind, tracked, ret is not None and ret < 0] += count
        used = Tally(index for index in run.task if index is not None)
        self._tasks.update((run.tasks[index].pid, run.tasks[index].tid) for index in used)
        self._add_times(time_ns for time_ns in run.time_ns if time_ns is not None)

    def _add_event(self, event: Event) -> None:
        self._kinds[event.CODE] += 1
        if event.task is not None:
            self._tasks.add((event.task.pid, event.task.tid))
        if event.time_ns is not None:
            self._add_times((event.time_ns,))
        vm = getattr(event, "vm", None)
        if vm is not None:
            self._vms.setdefault(vm, VmInfo(vm=vm))
        if isinstance(event, MemslotSet):
            self._log.memslot_set(event)
        elif isinstance(event, Opaque):
            self._opaque[event.name] += 1
        elif isinstance(event, VmAttach):
            self._log.vm_attach(event)
            self._vms[event.vm] = attrs.evolve(self._vms[event.vm], attached=True)
        elif isinstance(event, VmDestroy):
            self._log.vm_destroy(event)
            self._vms[event.vm] = attrs.evolve(self._vms[event.vm], destroyed=True)

    def _add_times(self, times: Iterable[int]) -> None:
        known = [*self._times, *times]
        if known:
            self._times = [min(known), max(known)]

    def info(self, header: Header, trailer: Trailer) -> Info:
        """Return what the items taken so far hold, under a header and a trailer."""
        total = self._log.total
        first, last = self._times or (None, None)
        return Info(
            title=header.title,
            provenance=header.provenance,
            clock=header.clock,
            complete_start=header.complete_start,
            cut_short=trailer.cut_short(),
            machine=header.machine,
            tools=header.tools,
            sources=header.sources,
            events=self._kinds.total(),
            kinds=tuple(KindCount(kind=cls.KIND, count=self._kinds[cls.CODE]) for cls in all_kinds() if self._kinds[cls.CODE]),
            opaque=tuple(KindCount(kind=name, count=count) for name, count in sorted(self._opaque.items())),
            first_time_ns=first,
            last_time_ns=last,
            processes=len({pid for pid, _ in self._tasks}),
            tasks=len(self._tasks),
            vms=len(self._vms),
            by_vm=tuple(self._vm_info(self._vms[vm]) for vm in sorted(self._vms)),
            memslot_changes=_with_other_fds(total.memslot_changes(), trailer),
            slots_peak=total.slots.peak,
            memory_peak_bytes=total.memory_bytes.peak,
            tracking=self._tracking(None),
            lost=trailer.total("lost"),
            unknown=trailer.total("unknown"),
            ignored=trailer.total("ignored"),
            counters=trailer.counters,
        )

    def _vm_info(self, known: VmInfo) -> VmInfo:
        tracking = self._tracking(known.vm)
        tally = self._log.by_vm.get(known.vm)
        if tally is None:
            return attrs.evolve(known, tracking=tracking)
        return attrs.evolve(
            known,
            memslot_changes=tally.memslot_changes(),
            slots_peak=tally.slots.peak,
            memory_peak_bytes=tally.memory_bytes.peak,
            tracking=tracking,
        )

    def _tracking(self, vm: int | None) -> TrackingCounts:
        def count(*kinds: int, failed: bool = False, tracked_only: bool = False) -> int:
            return sum(
                number
                for (of_vm, kind, tracked, bad), number in self._hot.items()
                if vm in {None, of_vm} and kind in kinds and bad == failed and (tracked or not tracked_only)
            )

        return TrackingCounts(
            adds=count(ADD, ACCOUNT, tracked_only=True),
            removes=count(REMOVE, UNACCOUNT, tracked_only=True),
            external_adds=count(ADD),
            external_removes=count(REMOVE),
            external_failed=count(ADD, REMOVE, failed=True),
            shadow_pages_created=count(ACCOUNT),
            shadow_pages_zapped=count(UNACCOUNT),
        )


def _with_other_fds(changes: MemslotChanges, trailer: Trailer) -> MemslotChanges:
    """Return the counts with the memslot calls on fds that are not VMs: they failed, and importers count them by name."""
    elsewhere = sum(counter.count for counter in trailer.counters if counter.kind == MEMSLOT_ELSEWHERE)
    return attrs.evolve(changes, failed=changes.failed + elsewhere, failed_not_a_vm=elsewhere)


def info_of(items: Iterable[Item], header: Header, trailer: Trailer) -> Info:
    """Return what the items hold."""
    builder = InfoBuilder()
    for item in items:
        builder.add(item)
    return builder.info(header, trailer)
