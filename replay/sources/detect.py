"""Recognise what an input is by its first bytes, never by its name; say what it seems to be when it is not supported."""

import json
import re
from typing import Final

from replay.errors import EmptyError, UnknownFormatError
from replay.recording.golden_reader import is_golden
from replay.sources.lab import is_lab
from replay.sources.strace_lexer import is_strace_line

KVMR: Final = "kvmr"
JSONL: Final = "jsonl"
GOLDEN: Final = "golden"
STRACE: Final = "strace"
TRACEFS: Final = "tracefs"
LAB: Final = "lab"
BPFTRACE: Final = "bpftrace"
BPFTRACE_JSON: Final = "bpftrace json"
PERF_SCRIPT: Final = "perf script"
PERF_TRACE: Final = "perf trace"
TRACE_CMD: Final = "trace-cmd report"
CTF: Final = "CTF text"
SYZKALLER: Final = "syzkaller"
VMALLOC_STACKS: Final = "vmalloc stacks"
VMALLOCINFO: Final = "vmallocinfo"
FORMATS: Final = (
    KVMR,
    JSONL,
    GOLDEN,
    STRACE,
    TRACEFS,
    LAB,
    BPFTRACE,
    BPFTRACE_JSON,
    PERF_SCRIPT,
    PERF_TRACE,
    TRACE_CMD,
    CTF,
    SYZKALLER,
    VMALLOC_STACKS,
    VMALLOCINFO,
)
"""Every format that is recognised, and read."""

_KVMR_SIGNATURE: Final = b"\x89KVMR\r\n\x1a"
_LINES_MAX: Final = 400
_TRACEFS: Final = re.compile(
    r"^(?:# tracer: |.{1,16}-\d+ +(?:\([ \d-]+\) +)?(?:\[\d+\]|\d+[a-zA-Z.]\S{3,5}) .*?(?:: |us.: )\S|CPU:\d+ \[LOST )",
    re.MULTILINE,
)
_STRACE_MESSAGE: Final = re.compile(r"^strace: Process \d+ attached", re.MULTILINE)
_STRACE_SUMMARY: Final = re.compile(r"^% time +seconds +usecs/call", re.MULTILINE)

_SUPPORTED: Final = (
    "strace text, tracefs text, text of bpftrace, perf, trace-cmd report -R or babeltrace2, a syzkaller program, or a recording"
)

# (what it seems to be, first bytes, what to do instead).
_BINARY: Final = (
    (b"\x17\x08\x44tracing", "a trace-cmd trace.dat", "print it: trace-cmd report -R > FILE"),
    (b"PERFILE2", "a perf.data file", "print it: perf script -F comm,pid,tid,cpu,time,event,trace --ns > FILE"),
    (b"\xc1\x1f\xfc\xc1", "a CTF trace", "print it: babeltrace2 --clock-seconds FOLDER > FILE"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x7fELF", "a program", ""),
)
# The most particular first; a line anywhere in the head decides, because headings and other events may come before.
_TEXTS: Final = (
    (r'^\{"type": "(?:attached_probes|printf|map|lost_events)", "data": ', BPFTRACE_JSON),
    (r"^\d{1,19} \d+ SETMEM(?:_RET)? |^\d{1,19} \d+ VMAP addr=", VMALLOC_STACKS),
    (r"^Attaching \d+ probes?\.\.\.", BPFTRACE),
    (r"^\d{1,19} \d+ \d+ .{0,15} (?:MEMSLOT|IOCTL|ENTER|GETPAGE|ZAP|RUN) \w+=", BPFTRACE),
    (r"^\s*\d+\.\d+ \([ \d.]*(?:ms)? *\): \S.*/\d+ ", PERF_TRACE),
    (r"^.{1,40}? +\d+(?:/\d+)? +(?:\[\d+\] +)?\d+\.\d+: +(?:\d+ +)?[\w-]+:[\w-]+:", PERF_SCRIPT),
    (r"^\[(?:[-\d]+ )?[\d:]+\.\d{9}\] \(\+[?\d.]+\) ", CTF),
    (r"^cpus=\d+$|\[\d+ EVENTS DROPPED\]", TRACE_CMD),
    (r"^.*-\d+ +(?:\([ \d-]+\) +)?\[\d+\] .*(?:: +|\] +)mmu_valid_gen=\d+ gfn=", TRACE_CMD),
    (r"^.*-\d+ +\[\d+\] .*: sys_(?:enter|exit)_ioctl: ", TRACE_CMD),
    (r"^.*-\d+ +\[\d+\] .*kvm_mmu_get_page: +(?:new|existing) sp gfn", TRACE_CMD),
    (r"^r\d+ = [\w$]+\(|^(?:ioctl|openat|syz_\w+)\$\w+\(", SYZKALLER),
    (r"^0x[0-9a-f]{8,16}-0x[0-9a-f]{8,16} +\d+ (?:\S+\+0x|unpurged|pages=|vm_map_ram|vmap)", VMALLOCINFO),
)
_TEXT_PATTERNS: Final = tuple((re.compile(pattern, re.MULTILINE), name) for pattern, name in _TEXTS)


def detect(head: bytes, *, name: str = "") -> str:
    r"""Return the format of an input by its first bytes, decompressed: one of FORMATS.

    head: up to `replay.sources.files.HEAD_BYTES`. Raises EmptyError for nothing, UnknownFormatError for anything else, with what
    it seems to be.

    >>> detect(b"27420 1795343273.24 ioctl(3, KVM_CREATE_VM, 0) = 4\n")
    'strace'
    """
    if not head.strip():
        raise EmptyError("an empty file", where=name, expected=_SUPPORTED)
    if head.startswith(_KVMR_SIGNATURE[: len(head)]):
        return KVMR
    if is_golden(head):
        return GOLDEN
    for magic, what, advice in _BINARY:
        if head.startswith(magic):
            raise _unsupported(what, name, advice)
    text = head.decode("latin-1").removeprefix("\xef\xbb\xbf").replace("\r\n", "\n")
    if text.lstrip()[:1] == "{" and not _is_bpftrace(text):
        return LAB if is_lab(head) else JSONL
    return _detect_text(text, name)


def _detect_text(text: str, name: str) -> str:
    if _is_strace(text):
        return STRACE
    for pattern, found in _TEXT_PATTERNS:
        if pattern.search(text):
            return found
    if _TRACEFS.search(text):
        return TRACEFS
    raise UnknownFormatError(_description(text), where=name, expected=_SUPPORTED)


def _is_strace(text: str) -> bool:
    """Say whether the text has a line that strace writes: a call with its result, a signal, an end, a table of -c."""
    if _STRACE_MESSAGE.search(text) or _STRACE_SUMMARY.search(text):
        return True
    return any(is_strace_line(line) for line in text.split("\n")[:_LINES_MAX])


def _is_bpftrace(text: str) -> bool:
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "type" in first and "data" in first


def _unsupported(what: str, name: str, advice: str) -> UnknownFormatError:
    return UnknownFormatError(f"seems to be {what}, which is not read", where=name, expected=_SUPPORTED, advice=advice)


def _description(text: str) -> str:
    line = next((line for line in text.split("\n") if line.strip()), "")
    shown = line[:60].encode("unicode_escape").decode("ascii")
    return f"none of the formats that are read; it begins with '{shown}'"
