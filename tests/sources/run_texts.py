"""Write one made-up run as strace text and as tracefs text, in every spelling that the two tools have for it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from replay.events import Event, HotEvent, MemslotSet
from replay.header import Trailer
from replay.runs import events_of
from replay.sources import ioctls
from replay.sources.files import Input
from replay.sources.merge import MergedImport
from replay.sources.tracefs import TracefsImport

BASE_NS: Final = 1_795_341_862_000_000_000
STEP_NS: Final = 100_000
DELAY_NS: Final = 40_000
"""How much earlier strace stamps a call than tracefs does."""

TGIDS: Final = {100: 100, 101: 100, 102: 100, 200: 200}
"""Process of each thread of the made-up runs."""


@attrs.frozen
class Enter:
    """A thread enters an ioctl. arg: as strace prints it; value: as tracefs does."""

    tid: int
    fd: int
    cmd: int
    arg: str = "0"
    value: int = 0


@attrs.frozen
class Exit:
    """The thread's ioctl returns; ret None: strace says `= ?`."""

    tid: int
    ret: int | None = 0
    trace_ret: int | None = None


@attrs.frozen
class Page:
    """A shadow page comes (made) or goes."""

    tid: int
    made: bool
    gfn: int
    level: int = 2
    direct: bool = False
    invalid: bool = False
    existing: bool = False


@attrs.frozen
class Body:
    """A line that only strace has: the body of a whole call, or an end."""

    tid: int
    text: str


@attrs.frozen
class Raw:
    """A line that only the trace has."""

    text: bytes


Item = Enter | Exit | Page | Body | Raw


@attrs.frozen
class Style:
    """How tracefs prints: options of the kernel, and its age."""

    name: str
    tgid: bool = False
    flags: bool = True
    latency: bool = False
    old: bool = False
    columns: bool = True
    comm: bytes = b"guest"

    def line(self, tid: int, time_ns: int, body: bytes) -> bytes:
        """Return one line."""
        us = time_ns // 1000
        if self.latency:
            return b"%8.8s-%-7d %3d.....%8dus : %s\n" % (self.comm, tid, 0, us - BASE_NS // 1000, body)
        comm = self.comm.rjust(16) if self.columns else self.comm
        tgid = b"(%7d) " % TGIDS[tid] if self.tgid else b""
        flags = b"...1. " if self.flags else b"    "
        return b"%s-%-7d %s[000] %s%d.%06d: %s\n" % (comm, tid, tgid, flags, us // 10**6, us % 10**6, body)

    def page(self, page: Page) -> bytes:
        """Return the body of a shadow-page event."""
        event = b"kvm_mmu_get_page" if page.made else b"kvm_mmu_prepare_zap_page"
        last = b"" if not page.made else b" existing" if page.existing else b" new"
        level = b"gfn %x %d pae" if self.old else b"gen 0 gfn %x l%d 8-byte"
        words = level % (page.gfn, page.level) + b" q0" + (b" direct" if page.direct else b"") + b" wux"
        tail = (b" invalid" if page.invalid else b"") + b" nxe" + (b"" if self.old else b" ad") + b" root 0 sync"
        return event + b": sp " + words + tail + last


PLAIN: Final = Style("plain")
STYLES: Final = (
    PLAIN,
    Style("record-tgid", tgid=True),
    Style("irq-info off", flags=False),
    Style("record-tgid and irq-info off", tgid=True, flags=False),
    Style("latency format", latency=True),
    Style("old pages", old=True),
    Style("old pages in the latency format", old=True, latency=True),
    Style("odd comm", comm=b"a-1 [2] b:3"),
    Style("columns lost", columns=False, comm=b"my guest"),
)


def trace_text(items: Iterable[Item], style: Style = PLAIN) -> bytes:
    """Return a run as tracefs text."""
    return b"".join(_trace_lines(items, style))


def _trace_lines(items: Iterable[Item], style: Style) -> Iterator[bytes]:
    for place, item in enumerate(items):
        time_ns = BASE_NS + place * STEP_NS
        if isinstance(item, Enter):
            fd = b"%#x" % item.fd if item.fd > 9 else b"%d" % item.fd
            value = b"%#x" % item.value if item.value > 9 else b"%d" % item.value
            yield style.line(item.tid, time_ns, b"sys_ioctl(fd: %s, cmd: %#x, arg: %s)" % (fd, item.cmd, value))
        elif isinstance(item, Exit):
            ret = item.ret if item.trace_ret is None else item.trace_ret
            yield style.line(item.tid, time_ns, b"sys_ioctl -> %#x" % ((ret or 0) & 0xFFFFFFFFFFFFFFFF))
        elif isinstance(item, Page):
            yield style.line(item.tid, time_ns, style.page(item))
        elif isinstance(item, Raw):
            yield item.text + b"\n"


def strace_text(items: Sequence[Item], *, offset_ns: int = 0, stamps: bool = True) -> str:
    """Return a run as strace -f -ttt text; offset_ns: strace's clock minus the trace's."""
    seen = [(place, item) for place, item in enumerate(items) if isinstance(item, Enter | Exit | Body)]
    lines: list[str] = []
    whole: set[int] = set()
    opened: dict[int, Enter] = {}
    for index, (place, item) in enumerate(seen):
        if place in whole:
            continue
        ns = BASE_NS + place * STEP_NS - DELAY_NS + offset_ns
        prefix = f"{item.tid} " + (f"{ns // 10**9}.{ns % 10**9 // 1000:06d} " if stamps else "")
        if isinstance(item, Body):
            lines.append(prefix + item.text)
        elif isinstance(item, Enter):
            after = seen[index + 1] if index + 1 < len(seen) else None
            call = f"ioctl({item.fd}, {ioctls.ioctl_name(item.cmd)}, {item.arg}"
            if after is not None and isinstance(after[1], Exit) and after[1].tid == item.tid:
                whole.add(after[0])
                lines.append(f"{prefix}{call}) = {_ret(after[1].ret)}")
            else:
                opened[item.tid] = item
                lines.append(f"{prefix}{call} <unfinished ...>")
        else:
            lines.append(f"{prefix}<... ioctl resumed>) = {_ret(item.ret)}")
    return "".join(line + "\n" for line in lines)


def _ret(ret: int | None) -> str:
    names = {-4: "EINTR (Interrupted system call)", -17: "EEXIST (File exists)", -22: "EINVAL (Invalid argument)"}
    if ret is None:
        return "?"
    return f"-1 {names[ret]}" if ret < 0 else str(ret)


def region(slot: int, gfn: int, npages: int, flags: int = 0) -> str:
    """Return a memory region as strace prints it."""
    word = "KVM_MEM_LOG_DIRTY_PAGES" if flags else "0"
    gpa = f"{gfn << 12:#x}" if gfn else "0"
    return f"{{slot={slot}, flags={word}, guest_phys_addr={gpa}, memory_size={npages << 12}, userspace_addr=0x7f0000000000}}"


def memslot(tid: int, fd: int, slot: int, gfn: int, npages: int, flags: int = 0) -> Enter:
    """Return the entry of KVM_SET_USER_MEMORY_REGION."""
    return Enter(tid, fd, ioctls.KVM_SET_USER_MEMORY_REGION, region(slot, gfn, npages, flags), 0x7FFD00000000)


def run(tid: int, fd: int) -> Enter:
    """Return the entry of KVM_RUN."""
    return Enter(tid, fd, ioctls.KVM_RUN)


def vm(tid: int, fd: int, *, vcpu_fd: int, npages: int = 1024) -> list[Item]:
    """Return the calls that make a VM with slot 0 and one vCPU; /dev/kvm is fd 3."""
    opened: list[Item] = [
        Body(tid, 'openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3'),
        Enter(tid, 3, ioctls.KVM_CREATE_VM),
        Exit(tid, fd),
        memslot(tid, fd, 0, 0, npages),
        Exit(tid),
    ]
    return [*opened, Enter(tid, fd, ioctls.KVM_CREATE_VCPU), Exit(tid, vcpu_fd)]


def threads(parent: int, *tids: int) -> list[Item]:
    """Return the clone calls that make threads of a process."""
    flags = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD"
    return [Body(parent, f"clone(child_stack=0x7f0000000000, flags={flags}) = {tid}") for tid in tids]


@attrs.frozen
class Imported:
    """What an import gave."""

    events: list[Event]
    trailer: Trailer

    def kinds(self) -> list[str]:
        """Return the kinds of all events in order, those of shadow pages with their gfn."""
        return [f"{e.KIND} {e.gfn:x}" if isinstance(e, HotEvent) else e.KIND for e in self.events]

    def count(self, kind: str) -> int:
        """Return how often a kind was counted."""
        return sum(counter.count for counter in self.trailer.counters if counter.kind.startswith(kind))


def slots(events: Iterable[Event]) -> list[tuple[int, int | None]]:
    """Return (slot, ret) of each memslot event, in order."""
    return [(event.slot, event.ret) for event in events if isinstance(event, MemslotSet)]


def imported_trace(text: bytes) -> Imported:
    """Import tracefs text alone."""
    stream = TracefsImport([text], name="ftrace.txt")
    return Imported(list(events_of(stream.items())), stream.trailer())


def imported_run(folder: Path, strace: str, trace: bytes) -> Imported:
    """Import both recordings of a run."""
    (folder / "strace.txt").write_text(strace)
    (folder / "ftrace.txt").write_bytes(trace)
    stream = MergedImport([Input(folder / "strace.txt")], Input(folder / "ftrace.txt"))
    return Imported(list(events_of(stream.items())), stream.trailer())


def merged(folder: Path, items: Sequence[Item], *, offset_ns: int = 0, stamps: bool = True, style: Style = PLAIN) -> Imported:
    """Import a made-up run from both of its texts."""
    return imported_run(folder, strace_text(items, offset_ns=offset_ns, stamps=stamps), trace_text(items, style))
