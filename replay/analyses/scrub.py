"""Make a recording fit to be shown to strangers: nothing of the host stays that no analysis needs, and all that one needs does.

What goes: host addresses and guest addresses that are made of them (moved by whole GiB, see scrub_addresses.py), process and
thread numbers (numbered by first appearance), absolute times (the first one is 0), names of files, command lines, title,
provenance, free texts, and what a distribution or a builder appends to a kernel release. What stays: guest addresses below 1 TiB,
sizes, flags, results, order, distances in time, and the facts of the machine that decide what KVM does.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from replay.analyses.check_state import SITES
from replay.analyses.scrub_addresses import GPA_ENDS, HVA_ENDS, AddressMap
from replay.errors import ProfileError
from replay.events import (
    AllocFail,
    Event,
    IdentityMapSet,
    Lost,
    Mark,
    MemslotSet,
    Observe,
    ObservedSlot,
    ObservedVm,
    Opaque,
    TssSet,
)
from replay.events.base import Task, VmCall
from replay.header import CUT_SHORT, LEFT_OUT, MEMSLOT_ELSEWHERE, Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.kvm.allocator import ARRAYS, SITE_INVALID, SITE_SLOT
from replay.kvm.release import Release
from replay.runs import Constant, Item, Run
from replay.stream import Stream
from replay.units import PAGE_SHIFT

_WORD: Final = re.compile(r"KVM_[A-Z0-9_]{1,60}")
"""Names of KVM's own ioctls and capabilities; they are public."""
_VERSION: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}")
_TOOLS: Final = frozenset({"strace", "bpftrace", "trace-cmd", "perf", "tracefs", "babeltrace2", "syzkaller", "kvm-replay"})
_SITES: Final = frozenset({"", *ARRAYS, *SITES, SITE_SLOT, SITE_INVALID})
"""Where allocations are made to fail, too: an injection may name an array instead of a function, or nothing."""
_KINDS: Final = frozenset({*CUT_SHORT, LEFT_OUT, MEMSLOT_ELSEWHERE})
"""Counters of our own that analyses know by their kind."""
_VENDORS: Final = frozenset({"intel", "amd", "pvm"})
_FORMAT: Final = re.compile(r"[a-z0-9-]{1,32}")


@attrs.define
class Labels:
    """Give each text that must go a label with a number, the same one each time: who compares texts still can."""

    _given: dict[tuple[str, str], str] = attrs.field(factory=dict)
    _counts: dict[str, int] = attrs.field(factory=dict)

    def label(self, word: str, text: str) -> str:
        """Return the label of a text; an empty text stays empty."""
        if not text:
            return ""
        if (word, text) not in self._given:
            self._counts[word] = self._counts.get(word, 0) + 1
            self._given[word, text] = f"{word} {self._counts[word]}"
        return self._given[word, text]


@attrs.define
class Scrub:
    """Scrub one recording: `see()` all of it first, then `stream()` of a second reading of the same."""

    _hvas: AddressMap = attrs.field(factory=lambda: AddressMap(HVA_ENDS))
    _gpas: AddressMap = attrs.field(factory=lambda: AddressMap(GPA_ENDS))
    _labels: Labels = attrs.field(factory=Labels)
    _numbers: dict[int, int] = attrs.field(factory=dict)
    _start_ns: int | None = None

    def see(self, stream: Stream) -> "Scrub":
        """Read a recording to its end and take note of its addresses and its first time."""
        for item in stream.items():
            if self._start_ns is None:
                times = item.time_ns if isinstance(item, Run) else _times(item)
                self._start_ns = min((time for time in times if time is not None), default=None)
            self._see(item)
        self._hvas.settle()
        self._gpas.settle()
        return self

    def _see(self, item: Item) -> None:
        match item:
            case Run():
                if self._moves(item):
                    for gfn in dict.fromkeys(item.gfn):
                        self._gpas.see(gfn << PAGE_SHIFT)
            case MemslotSet():
                self._hvas.see(item.userspace_addr, item.memory_size)
                self._gpas.see(item.guest_phys_addr, item.memory_size)
            case TssSet() | IdentityMapSet() if item.guest_phys_addr is not None:
                self._gpas.see(item.guest_phys_addr)
            case Observe(state=ObservedVm(slots=slots)):
                for slot in slots or ():
                    self._gpas.see(slot.base_gfn << PAGE_SHIFT, slot.npages << PAGE_SHIFT)

    def _moves(self, run: Run) -> bool:
        return self._gpas.moves(max(run.gfn) << PAGE_SHIFT)

    def stream(self, stream: Stream) -> Stream:
        """Return the same recording, read again, with everything scrubbed."""
        return _Scrubbed(self, stream)

    def header(self, header: Header) -> Header:
        """Return the header without names, commands, texts and distribution's words."""
        return attrs.evolve(
            header,
            title="scrubbed",
            provenance="",
            clock="none" if header.clock == "none" else "relative",
            machine=_machine(header.machine),
            tools=tuple(map(_tool, header.tools)),
            sources=tuple(_source(number, source) for number, source in enumerate(header.sources)),
        )

    def trailer(self, trailer: Trailer) -> Trailer:
        """Return the trailer with labels for what was counted, and no places."""
        return attrs.evolve(trailer, counters=tuple(map(self._counter, trailer.counters)))

    def _counter(self, counter: Counter) -> Counter:
        known = counter.kind in _KINDS or _WORD.fullmatch(counter.kind)
        return attrs.evolve(counter, kind=counter.kind if known else self._labels.label("kind", counter.kind), first="")

    def item(self, item: Item) -> Item:
        """Return one event or run scrubbed."""
        return self._run(item) if isinstance(item, Run) else self._event(item)

    def _run(self, run: Run) -> Run:
        changes: dict[str, Any] = {"tasks": tuple(map(self._task, run.tasks)), "time_ns": self._column(run.time_ns)}
        if self._moves(run):
            changes["gfn"] = list(map(self._gfn, run.gfn))
        return attrs.evolve(run, **changes)

    def _column(self, times: Sequence[int | None]) -> Sequence[int | None]:
        if isinstance(times, Constant):
            return Constant(self._time(times.number), times.length)
        return [self._time(time) for time in times]

    def _event(self, event: Event) -> Event:
        changes: dict[str, Any] = {"time_ns": self._time(event.time_ns)}
        if event.task is not None:
            changes["task"] = self._task(event.task)
        if isinstance(event, VmCall):
            changes["enter_time_ns"] = self._time(event.enter_time_ns)
        changes |= self._own(event)
        return attrs.evolve(event, **changes)

    def _own(self, event: Event) -> dict[str, Any]:
        """Return what changes in the fields that only this kind has; a test walks all kinds for texts and addresses."""
        label = self._labels.label
        match event:
            case MemslotSet():
                gpa = self._gpas.place(event.guest_phys_addr)
                return {"userspace_addr": self._hvas.place(event.userspace_addr), "guest_phys_addr": gpa}
            case TssSet() | IdentityMapSet() if event.guest_phys_addr is not None:
                return {"guest_phys_addr": self._gpas.place(event.guest_phys_addr)}
            case Opaque():
                return {"name": event.name if _WORD.fullmatch(event.name) else label("call", event.name)}
            case AllocFail():
                return {"site": self._site(event.site)}
            case Observe():
                areas = event.areas and tuple(attrs.evolve(area, site=self._site(area.site)) for area in event.areas)
                state = None if event.state is None else self._state(event.state)
                return {"label": label("label", event.label), "areas": areas, "state": state}
            case Lost():
                return {"what": label("kind", event.what)}
            case Mark():
                return {"text": label("mark", event.text)}
        return {}

    def _state(self, state: ObservedVm) -> ObservedVm:
        return state if state.slots is None else attrs.evolve(state, slots=tuple(map(self._slot, state.slots)))

    def _slot(self, slot: ObservedSlot) -> ObservedSlot:
        counts = slot.counts and tuple(attrs.evolve(count, gfn=self._gfn(count.gfn)) for count in slot.counts)
        return attrs.evolve(slot, base_gfn=self._gfn(slot.base_gfn), counts=counts)

    def _gfn(self, gfn: int) -> int:
        return self._gpas.place(gfn << PAGE_SHIFT) >> PAGE_SHIFT

    def _site(self, site: str) -> str:
        return site if site in _SITES else self._labels.label("site", site)

    def _task(self, task: Task) -> Task:
        return Task(pid=self._number(task.pid), tid=self._number(task.tid))

    def _number(self, number: int) -> int:
        return self._numbers.setdefault(number, len(self._numbers) + 1) if number else 0

    def _time(self, time_ns: int | None) -> int | None:
        return None if time_ns is None else time_ns - (self._start_ns or 0)


def _times(event: Event) -> list[int | None]:
    return [getattr(event, "enter_time_ns", None), event.time_ns]


def _machine(machine: Machine) -> Machine:
    vendor = machine.vendor if machine.vendor is None or machine.vendor in _VENDORS else "other"
    release = machine.kernel_release
    if release is not None:
        try:
            release = str(Release.parse(release))
        except ProfileError:
            release = None
    return attrs.evolve(machine, kernel_release=release, vendor=vendor)


def _tool(tool: Tool) -> Tool:
    found = _VERSION.search(tool.version)
    return Tool(name=tool.name if tool.name in _TOOLS else "other", version=found.group() if found else "")


def _source(number: int, source: SourceFile) -> SourceFile:
    known = _FORMAT.fullmatch(source.format)
    return SourceFile(name=f"source-{number}", format=source.format if known else "other")


class _Scrubbed:
    """A stream that scrubs what another one gives."""

    def __init__(self, scrub: Scrub, stream: Stream) -> None:
        self._scrub = scrub
        self._stream = stream
        self.header = scrub.header(stream.header)
        self.warnings = stream.warnings

    def items(self) -> Iterator[Item]:
        """Yield the items scrubbed."""
        return map(self._scrub.item, self._stream.items())

    def trailer(self) -> Trailer:
        """Return the scrubbed trailer."""
        return self._scrub.trailer(self._stream.trailer())
