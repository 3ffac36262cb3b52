"""Read single lines of tracefs text: the column of the task, the time, and what each event prints behind it.

Source: kernel/trace/trace_output.c trace_print_context(), trace_print_lat_context(), lat_print_generic();
kernel/trace/trace.c print_trace_line() (lost events), kernel/trace/trace_syscalls.c print_syscall_enter(), print_syscall_exit();
arch/x86/kvm/mmu/mmutrace.h KVM_MMU_PAGE_PRINTK(). Releases 4.x to 6.18 differ in optional words only, all of them taken here.
"""

import re
from typing import Final

import attrs

from replay.runs import ACCOUNT, UNACCOUNT

# What follows the event name of every shadow-page event. `gen` and the level's letter came with 5.x; `pae` went with 5.2.
_PAGE: Final = re.compile(
    rb"kvm_mmu_(get_page|prepare_zap_page|sync_page|unsync_page): +"
    rb"sp (?:gen [0-9a-f]+ )?gfn ([0-9a-f]{1,16}) l?([1-5])(?: \d-byte| !?pae)? q\d( direct)? [-w][-u][-x]( invalid)?"
    rb" !?nxe (?:!?ad )?root \d+ (?:un)?sync(| new| existing)\s*"
)
# comm is right-aligned in 16 columns and has at most 15 bytes, whatever bytes: count columns, never search for a dash.
# Numbers are bounded by what the kernel can print: PID_MAX_LIMIT is 2^22, and times are below 2^63 ns.
USUAL_COLUMNS: Final = re.compile(
    rb"(.{16}-(\d{1,7}) +)(?:\([ \d-]{7}\) )?\[\d{3,5}\] (?:[a-zA-Z.]\S{3,5} )? *(\d{1,9}|[1-8]\d{9})\.(\d{6}): "
)
"""What stands before the event in the usual columns. Groups: all up to the thread id's padding, tid, seconds, microseconds."""

# Any columns: matched from the right, because comm may hold spaces, dashes and brackets.
_ANY_LINE: Final = re.compile(
    rb"(?P<comm>.*)-(?P<tid>\d{1,7})\s+(?:\(\s*(?P<tgid>\d{1,7}|-+)\)\s+)?"
    rb"(?:\[\d{1,5}\]\s+(?:[a-zA-Z.]\S{2,6}\s+)?(?P<number>\d{1,20})(?:\.(?P<fraction>\d{1,9}))?"
    rb"|\d{1,5}[a-zA-Z.]\S{2,6}\s+(?P<us>\d{1,15})us.?\s*): +(?P<body>.*?)\r?",
    re.DOTALL,
)
SECONDS_MAX: Final = 9_000_000_000
"""No time of a trace is later than this: it would not fit 63 bits of nanoseconds."""
_ENTER: Final = re.compile(rb"sys_(\w+)\((.*)\)\s*")
_EXIT: Final = re.compile(rb"sys_(\w+) -> 0x([0-9a-f]{1,16})\s*")
# Arguments are hex in every release; 0x stands before them in later ones (6.18 has it, 6.1 and 6.12 have not), from ten on.
_ARGUMENT: Final = re.compile(rb"\b(\w+): ((?:0x)?[0-9a-f]{1,16})(?=[,)]|$)")
# Registers are printed whole; a caller that passed an int has left its sign in the upper half. fs/ioctl.c SYSCALL_DEFINE3(ioctl).
_UNSIGNED_INTS: Final = frozenset({"fd", "cmd", "fildes", "oldfd", "newfd"})
_NAMED: Final = re.compile(rb"([A-Za-z_][\w.:]*):(?:\s|$)")
_LOST: Final = re.compile(rb"\s*CPU:(\d{1,5}) \[LOST (?:(\d{1,18}) )?EVENTS\]\s*")
_WRITTEN: Final = re.compile(rb"#\s*entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})")


@attrs.frozen
class TaskLine:
    """One line of a task: who, when (ns in the trace's clock, None for a counter clock), and what it printed."""

    tid: int
    tgid: int | None
    time_ns: int | None
    body: bytes
    comm: bytes = b""


@attrs.frozen
class SyscallEnter:
    """`sys_NAME(arg: value, ...)`: arguments by the kernel's own parameter names.

    text: what the pointer of an ioctl points to, spelled as strace does, where the recorder read it. late: only the call's exit
    was recorded, so that when it was entered is not known.
    """

    name: str
    args: dict[str, int]
    text: str = ""
    late: bool = False


@attrs.frozen
class SyscallExit:
    """`sys_NAME -> 0x...`: the result as a signed number."""

    name: str
    ret: int


@attrs.frozen
class LostLine:
    """The ring buffer of a CPU overran: count events are missing before the next line; None: the kernel does not say."""

    cpu: int
    count: int | None


def task_line(line: bytes) -> TaskLine | None:
    """Parse one line in any column layout, without its newline; None when it is not a line of a task.

    >>> task_line(b"  a-b [1]-15412   [000] ..... 7.000250: sys_ioctl -> 0x0").tid
    15412
    """
    match = _ANY_LINE.fullmatch(line)
    if match is None:
        return None
    tgid = match["tgid"]
    known = int(tgid) if tgid is not None and tgid.isdigit() else None
    return TaskLine(int(match["tid"]), known, _time_ns(match), match["body"], match["comm"].strip())


def _time_ns(match: re.Match[bytes]) -> int | None:
    if match["us"] is not None:
        return int(match["us"]) * 1000
    fraction = match["fraction"]
    seconds = int(match["number"])
    if fraction is None or seconds >= SECONDS_MAX:  # counter and TSC clocks print one number that is no time
        return None
    return seconds * 1_000_000_000 + int(fraction.ljust(9, b"0"))


@attrs.frozen
class PageEvent:
    """A shadow-page event: ACCOUNT, UNACCOUNT or 0 for one without effect; words: its name and what makes it so.

    The accounting rule: get_page that made a page, not direct, accounts it; the first zap of such a page takes it back. A root
    in use is zapped twice, the second time as invalid. Level 1 is accounted as well, it counts no write track.
    place: level, address space and guest mode as `replay.sources.tracefs_items.place_of` packs them; text has the level only.
    Source: arch/x86/kvm/mmu/mmu.c account_shadowed(), unaccount_shadowed(), sp_has_gptes(), __kvm_mmu_prepare_zap_page().
    """

    kind: int
    gfn: int
    place: int
    words: str

    @property
    def level(self) -> int:
        """Level of the page, 1 to 5."""
        return self.place & 7

    @property
    def nested(self) -> bool:
        """Whether the page shadows tables of an L2 guest, as far as the recorder says."""
        return self.place >= 1 << 11


def page_event(body: bytes) -> PageEvent | None:
    """Parse the body of a shadow-page event in any release's words; None for any other body, and for one cut short.

    >>> page_event(b"kvm_mmu_get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new").gfn == 0x8B0
    True
    """
    match = _PAGE.fullmatch(body)
    if match is None:
        return None
    event, gfn, level, direct, invalid, made = match.groups(b"")
    if (event == b"get_page") != bool(made):
        return None
    kind = 0
    if not direct and not invalid:
        kind = ACCOUNT if made == b" new" else UNACCOUNT if event == b"prepare_zap_page" else 0
    words = b"kvm_mmu_" + event + direct + invalid + made
    return PageEvent(kind, int(gfn, 16), int(level), words.decode())


def syscall_of(body: bytes) -> SyscallEnter | SyscallExit | None:
    """Parse the body of a syscall event in trace_pipe form; None for any other body.

    >>> syscall_of(b"sys_ioctl -> 0xffffffffffffffe7")
    SyscallExit(name='ioctl', ret=-25)
    >>> [syscall_of(b"sys_ioctl(fd: %b, cmd: 0xae80, arg: 0)" % fd).args["fd"] for fd in (b"9", b"0xc", b"c", b"10")]
    [9, 12, 12, 16]
    """
    match = _EXIT.fullmatch(body)
    if match is not None:
        number = int(match[2], 16)
        return SyscallExit(match[1].decode(), number - (1 << 64) if number >> 63 else number)
    match = _ENTER.fullmatch(body)
    if match is None:
        return None
    args = {found[1].decode(): int(found[2], 16) for found in _ARGUMENT.finditer(match[2])}
    for name in _UNSIGNED_INTS & args.keys():
        args[name] &= 0xFFFFFFFF
    return SyscallEnter(match[1].decode(), args)


def event_name(body: bytes) -> str:
    """Return the name of the event that a body belongs to, "function" for a line of the function tracer."""
    match = _NAMED.match(body)
    if match is not None:
        return match[1].decode()
    return "function" if b"<-" in body else "other"


def lost_line(line: bytes) -> LostLine | None:
    """Parse `CPU:0 [LOST 1234 EVENTS]`; None for any other line.

    >>> lost_line(b"CPU:1 [LOST 12 EVENTS]")
    LostLine(cpu=1, count=12)
    """
    match = _LOST.fullmatch(line)
    return None if match is None else LostLine(int(match[1]), None if match[2] is None else int(match[2]))


def overwritten(comment: bytes) -> int:
    """Return how many events the ring overwrote, from the header line of the `trace` file; 0 for any other comment.

    >>> overwritten(b"# entries-in-buffer/entries-written: 100/250   #P:2")
    150
    """
    match = _WRITTEN.match(comment)
    return max(0, int(match[2]) - int(match[1])) if match is not None else 0
