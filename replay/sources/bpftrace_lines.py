r"""Read what the bpftrace recorders print: `NS PID TID COMM KIND name=value ...`, as text or inside the objects of -f json.

KIND: MEMSLOT and IOCTL at entry and exit of an ioctl, GETPAGE, ZAP, ZAPALL for shadow pages; the recorder that comes with this
tool (replay/recorders/kvmtrace.bt) adds ENTER with the words of the user's struct, RUN, CLOSE, DUP, FORK, EXEC, EXIT, and where
KVM's functions can be probed VM, REGISTER, UNREGISTER, WTADD, WTREMOVE (`replay.sources.kernel_users`); with stacks.bt VMAP and
VFREE (`replay.sources.area_book`). Numbers are hex, fd and ret decimal, as the script's printf has them.
"""

import json
import re
from collections.abc import Callable
from typing import Final

from replay.sources import ioctls
from replay.sources.dialects import (
    NOTE,
    AreaLine,
    Dialect,
    Ended,
    Execed,
    Fact,
    Forked,
    Ignored,
    KernelCall,
    Thread,
    Whole,
    page_fact,
    result,
)
from replay.sources.struct_text import region_text, struct_text
from replay.sources.tracefs_grammar import LostLine, SyscallEnter, SyscallExit
from replay.units import PAGE_SHIFT

TEXT: Final = "bpftrace"
JSON: Final = "bpftrace json"
_KINDS: Final = (
    rb"(?:MEMSLOT2?|IOCTL|GETPAGE|ZAP|ZAPALL|ENTER|RUN|CLOSE|DUP|FORK|EXEC|EXIT|REGISTER|UNREGISTER|WTADD|WTREMOVE|VMAP|VFREE"
    rb"|BEGIN|VM)"
)
_REST: Final = rb"(?P<time>\d{1,19})(?P<fraction>(?!))? (?P<head>\d{1,7} \d{1,7} .{0,60}?) (?P<body>" + _KINDS
# A comm may hold what looks like a kind; the first kind that is followed by a field is taken.
LINE: Final = re.compile(_REST + rb"(?:(?: \w+=.*)?))\r?$")
JSON_LINE: Final = re.compile(rb'\{"type": "printf", "data": "' + _REST + rb'(?: \w+=(?:[^"\\]|\\n(?!"))*)?)(?:\\n)?"\}\r?$')
_HEAD: Final = re.compile(rb"(\d+) (\d+) (.*)", re.DOTALL)
_FIELD: Final = re.compile(rb"\b(\w+)=(-?[0-9a-fA-F]{1,20}(?:,[0-9a-f]{1,16})*)(?=\s|$)")
_DECIMAL: Final = frozenset({"fd", "ret", "created", "old", "new", "child", "thread", "code", "gen", "flags_dec"})
_LOST: Final = re.compile(rb"\s*Lost (\d{1,18}) events\s*")
_FRAME: Final = re.compile(rb"\\n\s+([A-Za-z_][\w.]*)(?:\+(?:0x)?[0-9a-f]+)?(?: \[\w+\])?(?=\\n|$)")
_NOTES: Final = re.compile(rb"\s*$|\s{8}[A-Za-z_][\w.]*\+\d+$|Attaching \d+ probes?\.\.\.|@|ERROR: .*RLIMIT_MEMLOCK|WARNING: ")


def thread(head: bytes) -> Thread | None:
    """Read `PID TID COMM`."""
    match = _HEAD.fullmatch(head)
    return None if match is None else Thread(int(match[2]), int(match[1]), match[3])


def _fields(body: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, text in _FIELD.findall(body):
        key = name.decode()
        if key == "w":
            continue
        try:
            found[key] = int(text, 10 if key in _DECIMAL else 16)
        except ValueError:  # a letter where the script prints decimal, or a list
            continue
    return found


def _words(body: bytes) -> list[int]:
    match = re.search(rb" w=([0-9a-f]{1,16}(?:,[0-9a-f]{1,16}){5})(?=\s|$)", body)
    return [] if match is None else [int(word, 16) for word in match[1].split(b",")]


def _call(fields: dict[str, int], text: str = "", *, late: bool = False) -> SyscallEnter | None:
    if not all(0 <= fields.get(name, -1) < 1 << 64 for name in ("cmd", "arg")) or "fd" not in fields:
        return None
    args = {"fd": fields["fd"] & 0xFFFFFFFF, "cmd": fields["cmd"] & 0xFFFFFFFF, "arg": fields["arg"]}
    return SyscallEnter("ioctl", args, text, late)


def _memslot(body: bytes) -> Fact | None:
    fields = _fields(body)
    names = ("slot", "flags", "gpa", "size", "hva")
    if not all(0 <= fields.get(name, -1) < 1 << 64 for name in names) or "fd" not in fields:
        return None
    cmd = ioctls.KVM_SET_USER_MEMORY_REGION2 if body.startswith(b"MEMSLOT2") else ioctls.KVM_SET_USER_MEMORY_REGION
    return _call({"fd": fields["fd"], "cmd": cmd, "arg": 0}, region_text(*(fields[name] for name in names)))


def _enter(body: bytes) -> Fact | None:
    fields = _fields(body)
    return _call(fields, struct_text(fields.get("cmd", 0) & 0xFFFFFFFF, _words(body)))


def _ioctl(body: bytes) -> Fact | None:
    fields = _fields(body)
    call = _call(fields, late=True)
    if call is None or "ret" not in fields:
        return None
    return Whole(call, SyscallExit("ioctl", result(fields["ret"])))


def _run(body: bytes) -> Fact | None:
    """Read the first KVM_RUN of a thread on an fd: which vCPU it runs; when that call returns is not recorded."""
    fields = _fields(body)
    call = _call({"fd": fields["fd"], "cmd": ioctls.KVM_RUN, "arg": 0}, late=True) if "fd" in fields else None
    return None if call is None else Whole(call, SyscallExit("ioctl", 0))


def _close(body: bytes) -> Fact | None:
    fields = _fields(body)
    if "fd" not in fields:
        return None
    return Whole(SyscallEnter("close", {"fd": fields["fd"] & 0xFFFFFFFF}), SyscallExit("close", fields.get("ret", 0)))


def _dup(body: bytes) -> Fact | None:
    fields = _fields(body)
    if "old" not in fields or "new" not in fields:
        return None
    args = {"oldfd": fields["old"] & 0xFFFFFFFF, "newfd": fields["new"] & 0xFFFFFFFF, "flags": fields.get("flags", 0)}
    return Whole(SyscallEnter("dup3", args), SyscallExit("dup3", fields["new"]))


def _fork(body: bytes) -> Fact | None:
    fields = _fields(body)
    return Forked(fields["child"], bool(fields.get("thread"))) if fields.get("child", 0) > 0 else None


def _page(event: str) -> Callable[[bytes], Fact | None]:
    return lambda body: page_fact(event, _fields(body))


def _kernel_call(kind: str, value: str) -> Callable[[bytes], Fact | None]:
    """Return the reader of a call by the kernel; value: the field beside `kvm` that it must have, "" for none."""

    def read(body: bytes) -> Fact | None:
        fields = _fields(body)
        if "kvm" not in fields or (value and value not in fields):
            return None
        kvm, found, ret = fields["kvm"], fields.get(value, 0), fields.get("ret")
        fits = 0 <= kvm < 1 << 64 and 0 <= found < 1 << (52 if value == "gfn" else 64)
        return KernelCall(kind, kvm, found, ret) if fits and (ret is None or -4096 < ret < 1 << 31) else None

    return read


def _area(body: bytes) -> Fact | None:
    """Read an area; the frames of its stack are on lines of their own, with -f json behind the rest."""
    fields = _fields(body)
    taken = body.startswith(b"VMAP")
    if not 0 <= fields.get("addr", -1) < 1 << 64 or (taken and not 0 < fields.get("size", 0) < 1 << 64):
        return None
    frames = tuple(frame.decode() for frame in _FRAME.findall(body)) if taken else ()
    # include/trace/events/vmalloc.h: the size holds one guard page (mm/vmalloc.c __get_vm_area_node()).
    pages = max((fields.get("size", 0) >> PAGE_SHIFT) - 1, 0)
    return AreaLine(taken, fields["addr"], pages, bool(fields.get("failed")), frames)


_READERS: Final[dict[bytes, Callable[[bytes], Fact | None]]] = {
    b"GETPAGE": _page("kvm_mmu_get_page"),
    b"ZAP": _page("kvm_mmu_prepare_zap_page"),
    b"MEMSLOT": _memslot,
    b"MEMSLOT2": _memslot,
    b"ENTER": _enter,
    b"IOCTL": _ioctl,
    b"RUN": _run,
    b"CLOSE": _close,
    b"DUP": _dup,
    b"FORK": _fork,
    b"EXEC": lambda _: Execed(),
    b"EXIT": lambda body: Ended(killed=bool(_fields(body).get("code", 0) & 0x7F)),
    b"ZAPALL": lambda _: Ignored("event kvm_mmu_zap_all_fast"),
    b"VM": _kernel_call("VM", ""),
    b"REGISTER": _kernel_call("REGISTER", "node"),
    b"UNREGISTER": _kernel_call("UNREGISTER", "node"),
    b"WTADD": _kernel_call("WTADD", "gfn"),
    b"WTREMOVE": _kernel_call("WTREMOVE", "gfn"),
    b"VMAP": _area,
    b"VFREE": _area,
    b"BEGIN": lambda _: Ignored("beginning of the recording"),
}
"""Reader of each kind's fields."""


def fact(body: bytes) -> Fact | None:
    """Read `KIND name=value ...`; None for a kind that is not known or lacks fields.

    >>> fact(b"ZAP gfn=8ab role=3702")
    PageEvent(kind=69, gfn=2219, place=2, words='kvm_mmu_prepare_zap_page')
    """
    kind, _, _ = body.partition(b" ")
    reader = _READERS.get(kind)
    return None if reader is None else reader(body)


def odd(line: bytes) -> LostLine | str | None:
    """Read a line that is of no task."""
    lost = _LOST.fullmatch(line)
    if lost is not None:
        return LostLine(-1, int(lost[1]))
    return NOTE if _NOTES.match(line) else None


def json_odd(line: bytes) -> LostLine | str | None:
    """Read an object of -f json that is no line of a task."""
    try:
        found = json.loads(line)
        kind, data = found["type"], found["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return odd(line)
    if kind == "lost_events":
        count = data.get("events") if isinstance(data, dict) else None
        return LostLine(-1, count if isinstance(count, int) and 0 <= count < 1 << 63 else None)
    if kind == "printf":
        return odd(data.encode("utf-8", "replace").rstrip(b"\n")) if isinstance(data, str) else None
    return NOTE if kind in {"attached_probes", "map", "time", "helper_error", "syscall"} else None


def _time_ns(time: bytes, _fraction: bytes | None) -> int | None:
    number = int(time)
    return number if number < 1 << 63 else None


BPFTRACE: Final = Dialect(TEXT, "bpftrace", LINE, thread, fact, odd, _time_ns, runs=False, ordered=False)
BPFTRACE_JSON: Final = Dialect(JSON, "bpftrace", JSON_LINE, thread, fact, json_odd, _time_ns, runs=False, ordered=False)
