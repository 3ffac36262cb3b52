"""Keep book of the vmalloc areas that a bpftrace recording shows: which function has taken and given back how much, by call.

An observation speaks of all that happened since the one before, so it is made only where the lines and the events before it
speak of the same: behind a call, when all that the VMs which are gone gave back has been seen. Areas are of no event yet
while the call that takes them has not returned; those that a first shadow root or a notifier takes are of the shadow page, or
the registration, that comes next of the thread.
Source: arch/x86/kvm/mmu/mmu.c mmu_alloc_shadow_roots() calls mmu_first_shadow_root_alloc() before it makes a page; page_track.c
kvm_page_track_register_notifier() allocates in kvm_enable_external_write_tracking() [6.12].
"""

import re
from collections.abc import Iterable
from typing import Final

import attrs

from replay.events import Event, MemslotSet, Observe, Source, VmDestroy
from replay.sources.areas import AREAS_MAX, Area, failed_of, observed_areas
from replay.sources.tally import Tally
from replay.sources.tracefs_calls import Emitter
from replay.sources.tracefs_grammar import TaskLine

LABEL: Final = "vmalloc areas since the observation before"
UNPLACED: Final = "vmalloc areas that no recorded event explains"
FREED_UNSEEN: Final = "vmalloc area freed in a memslot call whose allocation was not recorded"
_OF_SLOT: Final = re.compile(r"\w*(?:memory_region|memslot)\w*(?:\..*)?")
_OF_NO_CALL: Final = re.compile(r"(?:kvm_mmu_load|\w*shadow_root\w*|\w*(?:register_notifier|external_write_track)\w*)(?:\..*)?")


@attrs.frozen
class Owned:
    """An area that is there: who took it, how much, for which VM (None: not known), behind how many observations."""

    site: str
    pages: int
    vm: int | None
    since: int


@attrs.define
class AreaBook:
    """Follows the areas of one trace. name, file: of the trace, for places."""

    emit: Emitter
    tally: Tally
    name: str
    file: int
    _pending: dict[int, list[Area]] = attrs.field(factory=dict)
    _owned: dict[int, Owned] = attrs.field(factory=dict)
    _rows: dict[str, list[int]] = attrs.field(factory=dict)
    _dying: dict[int, None] = attrs.field(factory=dict)
    _vm_of: dict[int, int] = attrs.field(factory=dict)
    _gone: set[int] = attrs.field(factory=set)
    _last: Area | None = None
    _on: bool = False
    _due: bool = False
    _unknown: bool = False
    _observed: int = 0

    def __attrs_post_init__(self) -> None:
        """Ask to be told of each event that is written."""
        self.emit.watchers.append(self._written)

    def take(self, task: TaskLine, area: Area, line: int) -> None:
        """Take the line of an area; the frames of its stack follow."""
        self._on, self._last = True, area if area.taken else None
        owned = self._owned.get(area.address)
        if not area.taken and owned is not None and owned.vm in self._gone:
            self._give_back(area.address)
            self._observe(task, line)
            return
        if not area.taken and owned is None and not self.emit.resolver.vms_of_process(task.tid):
            return
        pending = self._pending.setdefault(task.tid, [])
        if len(pending) < AREAS_MAX:
            pending.append(area)

    def frame(self, text: bytes) -> bool:
        """Take a line that may be a frame of the last area's stack; False: it is none."""
        if self._last is not None and self._last.take_frame(text.decode("latin-1")):
            return True
        self._last = None
        return False

    def returning(self, task: TaskLine, line: int) -> None:
        """Write the allocation that failed in a thread's call, before the call itself is written."""
        failed = failed_of(self._pending.get(task.tid, ()))
        if failed is not None:
            self.emit.out.event(attrs.evolve(failed, time_ns=task.time_ns, source=Source(self.file, line)))

    def returned(self, task: TaskLine, line: int, *, registered: bool = False) -> None:
        """Take what a thread's call took and gave back, now that its event is written. registered: it was a notifier's."""
        vm = self._vm_of.pop(task.tid, None)
        areas = self._pending.pop(task.tid, [])
        if areas:
            own = [area for area in areas if not _is(area, _OF_NO_CALL)]
            stray = not registered and len(own) < len(areas)
            self._settle(areas if registered else [area for area in own if not area.taken or _is(area, _OF_SLOT)], vm, line)
            if stray:
                self._unplaced(UNPLACED, line)
        self._observe(task, line)

    def rooted(self, task: TaskLine, line: int) -> None:
        """Take what a VM's first shadow root took, now that its event is written: any of its threads may have been the first."""
        if not self._pending:
            return
        resolver = self.emit.resolver
        vm = resolver.vm_of_task(task.tid)
        pages = None if vm is None else self.emit.owners.vms.get(vm)
        if pages is None or not pages.rooted:
            return
        found = []
        for tid in [tid for tid in sorted(self._pending) if resolver.vm_of_task(tid) == vm]:
            found += [area for area in self._pending[tid] if _is(area, _OF_NO_CALL)]
            rest = [area for area in self._pending[tid] if not _is(area, _OF_NO_CALL)]
            del self._pending[tid]
            if rest:
                self._pending[tid] = rest
        if found:
            self._settle(found, vm, line)
            self._observe(task, line)

    def end(self) -> None:
        """Write what is left at the end of the trace."""
        self._observe(None, None)

    def _written(self, event: Event) -> None:
        """Note which VM a thread's call was of, and VMs that are gone."""
        if isinstance(event, VmDestroy):
            self._destroyed(event.vm)
            return
        vm, task = getattr(event, "vm", None), event.task
        if vm is not None and task is not None:
            self._vm_of[task.tid] = vm
        self._due = self._due or isinstance(event, MemslotSet)

    def _destroyed(self, vm: int) -> None:
        """Take what was given back of a VM before its end was written; the rest is waited for."""
        self._gone.add(vm)
        mine = {address: None for address, owned in self._owned.items() if owned.vm == vm}
        self._dying.update(mine)
        for tid, areas in list(self._pending.items()):
            early = [area.address for area in areas if not area.taken and area.address in mine]
            for address in early:
                self._give_back(address)
            self._pending[tid] = [area for area in areas if area.taken or area.address not in early]
            if not self._pending[tid]:
                del self._pending[tid]
        self._due = True

    def _settle(self, areas: Iterable[Area], vm: int | None, line: int) -> None:
        """Add areas to the next observation."""
        for area in areas:
            if not area.taken:
                if area.address in self._owned:
                    self._give_back(area.address)
                elif self._due:
                    self._unplaced(FREED_UNSEEN, line, severity="ignored")
            elif not area.failed:
                site = area.site()
                if not site or vm is None:
                    self._unplaced(UNPLACED, line)
                if len(self._owned) < AREAS_MAX:
                    self._owned[area.address] = Owned(site, area.pages, vm, self._observed)
                row = self._rows.setdefault(site, [0, 0, 0, 0])
                row[0], row[1] = row[0] + 1, row[1] + area.pages
                self._due = True

    def _give_back(self, address: int) -> None:
        """Take an area that is known off; what is taken and given back between two observations is neither."""
        owned = self._owned.pop(address)
        self._dying.pop(address, None)
        row = self._rows.setdefault(owned.site, [0, 0, 0, 0])
        place, sign = (0, -1) if owned.since == self._observed else (2, 1)
        row[place], row[place + 1] = row[place] + sign, row[place + 1] + sign * owned.pages
        self._due = True

    def _unplaced(self, kind: str, line: int, *, severity: str = "unknown") -> None:
        self._unknown = True
        self.tally.add(f"{self.name}:{line}", kind, severity)

    def _observe(self, task: TaskLine | None, line: int | None) -> None:
        """Write the observation, if there is something to observe and nothing is waited for."""
        if not self._on or not self._due or self._dying:
            return
        areas = observed_areas(self._rows)
        time_ns = None if task is None else task.time_ns
        source = None if line is None else Source(self.file, line)
        self.emit.out.event(Observe(areas=None if self._unknown else areas, label=LABEL, time_ns=time_ns, source=source))
        self._rows, self._due, self._unknown = {}, False, False
        self._observed += 1


def _is(area: Area, pattern: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(frame) for frame in area.frames)
