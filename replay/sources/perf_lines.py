"""Read what perf script, trace-cmd report and perf trace print: the events' fields by name, role words as decimal numbers.

perf and trace-cmd share a library that can not evaluate the kernel's own text of KVM's page events, and then print the raw fields
behind `[FAILED TO PARSE]`; `trace-cmd report -R` prints them without that mark. `perf trace` leaves out fields that are zero.
"""

import re
from typing import Final

from replay.sources.dialects import (
    NOTE,
    Dialect,
    Fact,
    Ignored,
    Thread,
    Whole,
    fields_of,
    ioctl_enter,
    page_fact,
    result,
    seconds_ns,
)
from replay.sources.ioctls import ioctl_number
from replay.sources.tracefs_grammar import LostLine, SyscallEnter, SyscallExit
from replay.units import errno_number

PERF_SCRIPT: Final = "perf script"
TRACE_CMD: Final = "trace-cmd report"
PERF_TRACE: Final = "perf trace"
LOSSY: Final = (
    "perf trace leaves out fields that are zero and arguments behind pointers: a field that is missing is taken as zero"
)

_TIME: Final = rb"(?P<time>\d{1,11})\.(?P<fraction>\d{6}|\d{9}): +"
# comm comes first and may hold anything. perf right-aligns it in 16 columns, which is the fast way; what follows it decides.
_PERF: Final = re.compile(
    rb"(?P<head>(?:.{16}| *\S.{0,40}?) +(?:\d{1,7}/)?\d{1,7}) +(?:\[\d{3,5}\] +)?"
    + _TIME
    + rb"(?:\d+ +)?(?P<body>[\w-]+:[\w-]+:.*)"
)
_PERF_HEAD: Final = re.compile(rb" *(\S.*?) +(?:(\d+)/)?(\d+)")
_TRACE_CMD: Final = re.compile(
    rb"(?P<head>(?:[^\[]{1,60}|.{1,60}?)-\d{1,7}) +(?:\([ \d-]+\) +)?\[\d{3,5}\] +(?:[a-zA-Z.]\S{3,6} +)?"
    + _TIME
    + rb"(?P<body>\w+:.*)"
)
_TRACE_CMD_HEAD: Final = re.compile(rb"(?:[\w.-]+: +)?\s*(\S.*)-(\d+)")
_PERF_TRACE: Final = re.compile(
    rb" *(?P<time>\d{1,13})\.(?P<fraction>\d{3}) \([ \d.]*(?:ms)? *\): (?P<head>\S.{0,40}?/\d{1,7}) (?P<body>\S.*| \.\.\. .*)"
)
_PERF_TRACE_HEAD: Final = re.compile(rb"(.*)/(\d+)")
_EVENT: Final = re.compile(rb"(?:[\w-]+:)?([\w-]+):\s*(.*)", re.DOTALL)
_EXIT: Final = re.compile(rb"(?:\[FAILED TO PARSE\] *)?(?:0x([0-9a-f]{1,16})|.*?\bret=(-?(?:0x[0-9a-f]{1,16}|\d{1,20})))\s*")
_IOCTL: Final = re.compile(rb"ioctl\(fd: (\d{1,10})(?:<[^>]*>)?(?:, cmd: (\w+))?(?:, arg: (0x[0-9a-f]{1,16}|\d{1,20}))?\)\s*(.*)")
_RESULT: Final = re.compile(rb"= (?:(-?\d{1,20})|(0x[0-9a-f]{1,16}))(?: (E[A-Z0-9]+)\b.*)?")
_PAGES: Final = frozenset({"kvm_mmu_get_page", "kvm_mmu_prepare_zap_page"})
_LOST: Final = re.compile(
    rb"\s*CPU:(\d{1,5}) \[(\d{1,18}) EVENTS DROPPED\]\s*|(?:.*\bLOST|.*PERF_RECORD_LOST\S* +lost) (\d{1,18})(?: events!?)?\s*"
)
_NOTES: Final = re.compile(rb"\s*$|cpus=\d+\s*$|version = \d+\s*$|#|\[ perf record: ")


def perf_thread(head: bytes) -> Thread | None:
    """Read `COMM TID`, or `COMM PID/TID` as `perf script -F pid,tid` has it."""
    match = _PERF_HEAD.fullmatch(head)
    return None if match is None else Thread(int(match[3]), None if match[2] is None else int(match[2]), match[1])


def trace_cmd_thread(head: bytes) -> Thread | None:
    """Read `COMM-TID`, behind the name of the buffer when there are several."""
    match = _TRACE_CMD_HEAD.fullmatch(head)
    return None if match is None else Thread(int(match[2]), None, match[1])


def perf_trace_thread(head: bytes) -> Thread | None:
    """Read `COMM/TID`."""
    match = _PERF_TRACE_HEAD.fullmatch(head)
    return None if match is None else Thread(int(match[2]), None, match[1])


def fact(body: bytes) -> Fact | None:
    """Read `[SYSTEM:]EVENT: fields`; None for an event of KVM's that is cut or has other fields.

    >>> fact(b"kvmmmu:kvm_mmu_get_page: [FAILED TO PARSE] mmu_valid_gen=1 gfn=0 role=13697 root_count=0 unsync=0 created=0").words
    'kvm_mmu_get_page existing'
    """
    match = _EVENT.match(body)
    if match is None:
        return None
    event, rest = match[1].decode(), match[2]
    if event in _PAGES:
        return page_fact(event, fields_of(rest))
    if event == "sys_enter_ioctl":
        return ioctl_enter(fields_of(rest))
    if event == "sys_exit_ioctl":
        return _exit(rest)
    return Ignored(f"event {event}")


def _exit(rest: bytes) -> SyscallExit | None:
    match = _EXIT.fullmatch(rest)
    if match is None:
        return None
    return SyscallExit("ioctl", result(int(match[1], 16) if match[1] is not None else _number(match[2])))


def perf_trace_fact(body: bytes) -> Fact | None:
    """Read `EVENT(fields)`, a call with its result, or half of one.

    >>> perf_trace_fact(b"kvmmmu:kvm_mmu_get_page(role: 13697)").words
    'kvm_mmu_get_page existing'
    """
    body = body.rstrip()
    name, _, rest = body.partition(b"(")
    event = name.rpartition(b":")[2].decode("ascii", "replace")
    if event in _PAGES and rest.endswith(b")"):
        fields = {"gfn": 0, "created": 0, **fields_of(rest)}
        return page_fact(event, fields) if "role" in fields else None
    if body.startswith(b" ... [continued]: "):
        return _continued(body)
    if event == "ioctl":
        return _perf_trace_ioctl(body)
    return Ignored(f"event {event.strip()}") if name and rest else None


def _continued(body: bytes) -> Fact | None:
    if b"ioctl()" not in body:
        return Ignored("another system call")
    ret = _ret(body.partition(b")) ")[2].strip() or body.rpartition(b") ")[2].strip())
    return None if ret is None else SyscallExit("ioctl", ret)


def _perf_trace_ioctl(body: bytes) -> Fact | None:
    match = _IOCTL.fullmatch(body)
    if match is None:
        return None
    cmd = 0 if match[2] is None else ioctl_number(match[2].decode())
    if cmd is None:
        return Ignored("ioctl that is not KVM's")
    args = {"fd": int(match[1]), "cmd": cmd & 0xFFFFFFFF, "arg": _number(match[3] or b"0")}
    enter = SyscallEnter("ioctl", args)
    if match[4].strip() == b"...":
        return enter
    ret = _ret(match[4].strip())
    return None if ret is None else Whole(enter, SyscallExit("ioctl", ret))


def _number(text: bytes) -> int:
    """Return a number in hex or decimal; a zero before other digits is no sign of another base."""
    return int(text, 16 if b"x" in text else 10)


def _ret(text: bytes) -> int | None:
    match = _RESULT.fullmatch(text)
    if match is None:
        return None
    if match[3] is not None:
        number = errno_number(match[3].decode())
        return None if number is None else -number
    return result(int(match[1]) if match[1] is not None else int(match[2], 16))


def odd(line: bytes) -> LostLine | str | None:
    """Read a line that is of no task."""
    lost = _LOST.fullmatch(line)
    if lost is not None:
        return LostLine(int(lost[1] or -1), int(lost[2] or lost[3]))
    return NOTE if _NOTES.match(line) else None


def _ms_ns(time: bytes, fraction: bytes | None) -> int | None:
    return int(time) * 1_000_000 + int(fraction or b"0") * 1000


SCRIPT: Final = Dialect(PERF_SCRIPT, "perf", _PERF, perf_thread, fact, odd, seconds_ns)
REPORT: Final = Dialect(TRACE_CMD, "trace-cmd", _TRACE_CMD, trace_cmd_thread, fact, odd, seconds_ns)
TRACE: Final = Dialect(PERF_TRACE, "perf", _PERF_TRACE, perf_trace_thread, perf_trace_fact, odd, _ms_ns, lossy=LOSSY)
