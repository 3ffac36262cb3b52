"""Say what a recorder's text has to be split into, so that one reader takes them all: bpftrace, perf, trace-cmd, babeltrace2.

A dialect splits a line into what names the thread, when it was, and what happened, the *body*; and it reads bodies. Threads and
bodies repeat, times do not: the reader remembers what each thread's text and each body mean (`replay.sources.word_pages`).
"""

import re
from collections.abc import Callable
from typing import Final

import attrs

from replay.sources.roles import accounts, role_of
from replay.sources.tracefs_grammar import LostLine, PageEvent, SyscallEnter, SyscallExit
from replay.sources.tracefs_items import place_of

_U64_MAX: Final = (1 << 64) - 1
_NS: Final = tuple(10 ** (9 - digits) for digits in range(10))
TIME_NS_MAX: Final = (1 << 63) - 1
FIELD: Final = re.compile(rb"\b([A-Za-z_]\w*)\s?[=:]\s?(-?0[xX][0-9a-fA-F]{1,16}|-?\d{1,20})(?![\w.])")
"""One field of an event as perf, trace-cmd and babeltrace2 print it: `gfn=1`, `fd: 0x5`, `ret = -22`."""
NOTE: Final = "note"
"""A line of the recorder itself, of which nothing depends: a heading, a blank line."""


@attrs.frozen
class Thread:
    """Who a line is of; tgid None: the recorder does not say which process."""

    tid: int
    tgid: int | None
    comm: bytes = b""


@attrs.frozen
class Ended:
    """The task of the line is gone: killed by a signal, or by itself."""

    killed: bool = False


@attrs.frozen
class Forked:
    """The task of the line made another."""

    tid: int
    thread: bool


@attrs.frozen
class Execed:
    """The task of the line runs another program: its mm is new, fds marked so are closed."""


@attrs.frozen
class Ignored:
    """An event that changes nothing here; kind: what to count it as. severity: as of a counter."""

    kind: str
    severity: str = "ignored"


@attrs.frozen
class Whole:
    """A whole call on one line, recorded when it returned."""

    enter: SyscallEnter
    exit: SyscallExit


@attrs.frozen
class KernelCall:
    """A call of one of KVM's functions by the kernel itself; kind: as the line names it. value: the node's address, or the gfn.

    kvm: address of the `struct kvm`, 0 for NULL. ret: None for a function without a result, or one that was not recorded.
    """

    kind: str
    kvm: int
    value: int = 0
    ret: int | None = None


@attrs.frozen
class AreaLine:
    """A vmalloc area was taken or given back; frames: those that are on the same line."""

    taken: bool
    address: int
    pages: int = 0
    failed: bool = False
    frames: tuple[str, ...] = ()


Fact = PageEvent | SyscallEnter | SyscallExit | Whole | Ended | Forked | Execed | KernelCall | AreaLine | Ignored
"""What a body says."""


@attrs.frozen(eq=False)
class Dialect:
    """How one recorder writes.

    name: of the format. line: a line of a task, with the groups head, time, fraction (may lack) and body; it need not match to
    the end. unit_ns: of `time` where no fraction is there. thread: reads a head. fact: reads a body, None for one that is not
    understood. odd: reads a line that is none of a task; NOTE, a loss, or None.
    recorder: says which tool the header names. runs: KVM_RUN is recorded. lossy: what it can not tell. ordered: lines come in
    order of their times.
    """

    name: str
    recorder: str
    line: re.Pattern[bytes]
    thread: Callable[[bytes], Thread | None]
    fact: Callable[[bytes], Fact | None]
    odd: Callable[[bytes], LostLine | str | None]
    time_ns: Callable[[bytes, bytes | None], int | None]
    runs: bool = True
    lossy: str = ""
    ordered: bool = True


def seconds_ns(time: bytes, fraction: bytes | None) -> int | None:
    """Return seconds with up to nine decimals in ns; None beyond 63 bits.

    >>> seconds_ns(b"1825", b"063289"), seconds_ns(b"1", b"000000001")
    (1825063289000, 1000000001)
    """
    part = (fraction or b"0")[:9]
    total = int(time) * 1_000_000_000 + int(part) * _NS[len(part)]
    return total if total <= TIME_NS_MAX else None


def page_fact(event: str, fields: dict[str, int]) -> PageEvent | Ignored | None:
    """Return what a shadow-page event with its role word says; None when fields are missing or are none of KVM's.

    event: kvm_mmu_get_page or kvm_mmu_prepare_zap_page. Source: arch/x86/kvm/mmu/mmutrace.h KVM_MMU_PAGE_ASSIGN().

    >>> page_fact("kvm_mmu_get_page", {"gfn": 2109, "role": 14082, "created": 1})
    PageEvent(kind=68, gfn=2109, place=2, words='kvm_mmu_get_page')
    """
    made = event == "kvm_mmu_get_page"
    gfn, word, created = fields.get("gfn"), fields.get("role"), fields.get("created")
    role = None if word is None else role_of(word)
    if gfn is None or role is None or not 0 <= gfn <= _U64_MAX >> 12 or (made and created is None):
        return None
    kind = 0 if made and not created else accounts(role, made=made)
    why = " existing" if made and not created else " direct" if role.direct else " passthrough" if role.passthrough else ""
    words = event + (why or (" invalid" if role.invalid and not made else ""))
    return PageEvent(kind, gfn, place_of(role.level, role.as_id, nested=role.guest_mode), words)


def fields_of(body: bytes) -> dict[str, int]:
    """Return the numbers of a body by their names; the last one of a name counts.

    >>> fields_of(b"fd: 0x00000005, cmd: 0x4020ae46, arg: 0x7fff00d32630")["cmd"] == 0x4020AE46
    True
    """
    return {name.decode(): signed(text) for name, text in FIELD.findall(body)}


def signed(text: bytes) -> int:
    """Return a number that is decimal, or hex behind 0x."""
    digits = text.lstrip(b"-")
    number = int(digits, 16) if digits[:2] in {b"0x", b"0X"} else int(digits)
    return -number if text[:1] == b"-" else number


def ioctl_enter(fields: dict[str, int]) -> SyscallEnter | None:
    """Return the entry of an ioctl by the kernel's parameter names; None when one is missing."""
    if not all(name in fields for name in ("fd", "cmd", "arg")):
        return None
    args = {"fd": fields["fd"] & 0xFFFFFFFF, "cmd": fields["cmd"] & 0xFFFFFFFF, "arg": fields["arg"] & _U64_MAX}
    return SyscallEnter("ioctl", args)


def result(number: int) -> int:
    """Return a register's content as a signed result."""
    number &= _U64_MAX
    return number - (1 << 64) if number >> 63 else number
