"""Import memslot calls with the vmalloc areas that KVM takes and gives back in them, each with the stack that did it.

Lines of a bpftrace script, each area followed by its frames and an empty line:

    NS TID SETMEM fd=5 slot=0 flags=0 gpa=0x0 size=0x400000 hva=0x7f3b0ca00000
    NS TID VMAP addr=0xffffc9000137d000 size=12288 failed=0
            alloc_vmap_area+1668
            ...
    NS TID VFREE addr=0xffffc9000137d000
    NS TID SETMEM_RET 0

The recorder that comes with this tool (replay/recorders/vmalloc.bt) prints `CREATE_VM ret=FD` as well; without that a VM's past
is unknown, and nothing of it can be checked. Each call becomes its event and an `observe`.
Source: mm/vmalloc.c alloc_vmap_area(), __get_vm_area_node() (one guard page), include/trace/events/vmalloc.h (6.2 and later).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import attrs

from replay.errors import EmptyError
from replay.events import Event, Lost, Observe, ObservedArea, Source, Task
from replay.header import Header, SourceFile, Tool, Trailer
from replay.runs import Item
from replay.sources import ioctls
from replay.sources.areas import AREAS_MAX, Area, failed_of, observed_areas
from replay.sources.processes import Resolver
from replay.sources.struct_text import region_text
from replay.sources.syscalls import BOTH, Syscall
from replay.sources.tally import Tally
from replay.sources.time_order import TimeOrder
from replay.units import PAGE_SHIFT, errno_name

FORMAT: Final = "vmalloc stacks"
FREED_UNSEEN: Final = "vmalloc area freed whose allocation was not recorded: which function's it was is not known"
NO_SITE: Final = "vmalloc area without a frame of KVM in its stack"
LABEL: Final = "vmalloc areas of the call before"
_EVENT: Final = re.compile(r"(\d{1,19}) (\d{1,7}) (SETMEM_RET|SETMEM|VMAP|VFREE|CREATE_VM) (.*?)\s*")
_FIELD: Final = re.compile(r"\b(\w+)=(-?(?:0x[0-9a-fA-F]{1,16}|\d{1,20}))(?=\s|$)")
_LOST: Final = re.compile(r"\s*Lost (\d{1,18}) events\s*")
_NOTE: Final = re.compile(r"\s*$|Attaching \d+ probes?\.\.\.")


@attrs.define
class _Open:
    """A call that is under way: its record, and the areas of it."""

    record: Syscall
    areas: list[Area] = attrs.field(factory=list)


class VmallocImport:
    """A stream over such lines. name: base name of the file. Raises EmptyError for text without a call."""

    def __init__(self, lines: Iterable[str], *, name: str = "vmalloc.txt") -> None:
        self._lines, self._name, self._tally = lines, name, Tally()
        self._resolver = Resolver(tally=self._tally, names=(name,))
        self._open: dict[int, _Open] = {}
        self._sites: dict[int, tuple[str, int]] = {}
        self._last: Area | None = None
        self._events = 0
        self.header = Header(
            sources=(SourceFile(name=name[-255:], format=FORMAT),),
            tools=(Tool(name="bpftrace"),),
            clock="boottime",
            provenance="imported from vmalloc stacks of memslot calls",
            complete_start=False,
        )

    def items(self) -> Iterator[Item]:
        """Yield the calls, each with the observation of what it took and gave back."""
        text = (line.encode(errors="surrogateescape") + b"\n" for line in self._lines)
        for block in TimeOrder(text, self._tally, self._name):
            for number, line in enumerate(block.lines, block.first_line):
                for event in self._line(line.decode(errors="surrogateescape"), number):
                    self._events += 1
                    yield event
        for tid in sorted(self._open):
            self._count(0, f"call of thread {tid} without a result", "lost")
        if not self._events:
            raise EmptyError("no memslot call", where=self._name, expected="lines SETMEM and SETMEM_RET")

    def trailer(self) -> Trailer:
        """Return the counts."""
        return Trailer(events=self._events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return what is lost."""
        return tuple(f"{c.first}: {c.kind} ({c.count})" for c in self._tally.counters() if c.severity == "lost")

    def _line(self, line: str, number: int) -> Iterator[Event]:
        if self._last is not None and self._last.take_frame(line):
            return
        self._last = None
        match = _EVENT.fullmatch(line)
        lost = _LOST.fullmatch(line)
        if match is not None:
            yield from self._event(int(match[1]), int(match[2]), match[3], match[4], number)
        elif lost is not None:
            self._count(number, "bpftrace lost events", "lost", int(lost[1]))
            yield Lost(count=int(lost[1]), what="bpftrace lost events", source=Source(0, number))
        elif not _NOTE.match(line):
            self._count(number, "line not understood", "unknown")

    def _event(self, time_ns: int, tid: int, kind: str, rest: str, number: int) -> Iterator[Event]:
        if kind == "SETMEM_RET":
            yield from self._returned(time_ns, tid, rest, number)
            return
        fields = {name: int(text, 16 if "x" in text else 10) for name, text in _FIELD.findall(rest)}
        if kind == "SETMEM":
            self._entered(time_ns, tid, fields, number)
        elif kind == "CREATE_VM":
            record = Syscall(
                tid, "ioctl", f"0, {ioctls.KVM_CREATE_VM:#x}, 0", number, BOTH, ret=fields.get("ret"), enter_ns=time_ns
            )
            yield from self._resolver.feed(record)
        elif "addr" not in fields or (kind == "VMAP" and "size" not in fields):
            self._count(number, f"damaged {kind}", "unknown")
        else:
            pages = (fields.get("size", 0) >> PAGE_SHIFT) - 1
            self._last = Area(kind == "VMAP", fields["addr"], max(pages, 0), bool(fields.get("failed")))
            if tid in self._open:
                self._open[tid].areas.append(self._last)

    def _entered(self, time_ns: int, tid: int, fields: dict[str, int], number: int) -> None:
        words = [fields.get(name, -1) for name in ("slot", "flags", "gpa", "size", "hva")]
        if "fd" not in fields or any(word >= 1 << 64 for word in words) or min(words[1:]) < 0:
            self._count(number, "damaged SETMEM", "unknown")
            return
        words[0] &= 0xFFFFFFFF  # printed as a signed int
        args = f"{fields['fd']}, {ioctls.KVM_SET_USER_MEMORY_REGION:#x}, {region_text(*words)}"
        if tid in self._open:
            self._count(number, "call without a result", "lost")
        self._open[tid] = _Open(Syscall(tid, "ioctl", args, number, BOTH, enter_ns=time_ns))

    def _returned(self, time_ns: int, tid: int, rest: str, number: int) -> Iterator[Event]:
        call = self._open.pop(tid, None)
        if call is None or not re.fullmatch(r"-?\d{1,10}", rest):
            self._count(number, "result of a call that was not recorded" if call is None else "damaged SETMEM_RET", "unknown")
            return
        record = call.record
        record.ret, record.exit_ns, record.exit_line = int(rest), time_ns, number
        record.errno = errno_name(record.ret) if record.ret < 0 else ""
        task, source = Task(tid, tid), Source(0, number)
        areas = self._areas(call, number)
        failed = failed_of(call.areas)
        if failed is not None:
            yield attrs.evolve(failed, task=task, time_ns=record.enter_ns, source=source)
        yield from self._resolver.feed(record)
        if areas is not None:
            yield Observe(areas=areas, label=LABEL, task=task, time_ns=time_ns, source=source)

    def _areas(self, call: _Open, number: int) -> tuple[ObservedArea, ...] | None:
        """Return what the call took and gave back, by function; None when that is not known of an area.

        What it took and gave back itself, a call that failed half way, is neither.
        """
        rows: dict[str, list[int]] = {}
        known = True
        own: dict[int, str] = {}
        for area in call.areas:
            if not area.taken and area.address in own:
                row = rows[own.pop(area.address)]
                row[0], row[1] = row[0] - 1, row[1] - self._owner(area)[1]
                continue
            site, pages = self._owner(area)
            if not site:
                self._count(number, NO_SITE if area.taken else FREED_UNSEEN, "unknown")
                known = False
            elif not area.failed:
                if area.taken:
                    own[area.address] = site
                row = rows.setdefault(site, [0, 0, 0, 0])
                row[0 if area.taken else 2] += 1
                row[1 if area.taken else 3] += pages
        return observed_areas(rows) if known else None

    def _owner(self, area: Area) -> tuple[str, int]:
        if not area.taken:
            return self._sites.pop(area.address, ("", 0))
        site = area.site()
        if not area.failed and len(self._sites) < AREAS_MAX:
            self._sites[area.address] = (site, area.pages)
        return site, area.pages

    def _count(self, number: int, kind: str, severity: str, count: int = 1) -> None:
        self._tally.add(f"{self._name}:{number}" if number else self._name, kind, severity, count)
