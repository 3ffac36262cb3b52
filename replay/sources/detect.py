"""Recognise what an input is by its first bytes, never by its name; say what it seems to be when it is not supported."""

import json
import re
from typing import Final

from replay.errors import EmptyError, UnknownFormatError
from replay.sources.lab import is_lab
from replay.sources.strace_lexer import is_strace_line

KVMR: Final = "kvmr"
JSONL: Final = "jsonl"
STRACE: Final = "strace"
TRACEFS: Final = "tracefs"
LAB: Final = "lab"

_KVMR_SIGNATURE: Final = b"\x89KVMR\r\n\x1a"
_LINES_MAX: Final = 400
_TRACEFS: Final = re.compile(
    r"^(?:# tracer: |.{1,16}-\d+ +(?:\([ \d-]+\) +)?(?:\[\d+\]|\d+[a-zA-Z.]\S{3,5}) .*?(?:: |us.: )\S|CPU:\d+ \[LOST )",
    re.MULTILINE,
)
_STRACE_MESSAGE: Final = re.compile(r"^strace: Process \d+ attached", re.MULTILINE)
_STRACE_SUMMARY: Final = re.compile(r"^% time +seconds +usecs/call", re.MULTILINE)

_TRACE_CMD_TEXT: Final = "trace-cmd report text"
_SUPPORTED: Final = "strace text, tracefs text, or a recording (.kvmr, .jsonl)"

# (what it seems to be, pattern, what to do instead), the most particular first.
_BINARY: Final = (
    (b"\x17\x08\x44tracing", "a trace-cmd trace.dat", "record tracefs text instead: cat trace_pipe > FILE"),
    (b"PERFILE2", "a perf.data file", "record with strace -f -ttt -y, or tracefs text"),
    (b"\xc1\x1f\xfc\xc1", "a CTF trace", "record with strace -f -ttt -y, or tracefs text"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x7fELF", "a program", ""),
)
_TEXTS: Final = (
    (r'^\{"type": "(?:attached_probes|printf|map)"', "bpftrace JSON output", ""),
    (r"^Attaching \d+ probes?\.\.\.", "bpftrace output", ""),
    (r"^\d{10,} \d+ \d+ \S+ (?:MEMSLOT|IOCTL|GETPAGE|ZAP)", "bpftrace output", ""),
    (r"^\s*\d+\.\d+ \([ \d.]*(?:ms)?\): \S+/\d+ ", "perf trace output", ""),
    (r"^.{1,16} +\d+(?:/\d+)? +\[\d+\] +\d+\.\d+: +(?:\d+ )?[\w-]+:[\w-]+:", "perf script output", ""),
    (r"^\[\d\d:\d\d:\d\d\.\d+\] \(\+[?\d.]+\) ", "babeltrace output of a CTF or LTTng trace", ""),
    (
        r"^cpus=\d+$|\[\d+ EVENTS DROPPED\]",
        _TRACE_CMD_TEXT,
        "its KVM plugin loses the gfn of zapped pages; give the tracefs text",
    ),
    (r"^.*-\d+ +\[\d+\] .*kvm_mmu_get_page: +(?:new|existing) sp gfn", _TRACE_CMD_TEXT, "its KVM plugin loses gfns"),
    (r"^.*(?:\[FAILED TO PARSE\] mmu_valid_gen|mmu_valid_gen=\d+ gfn=\d+)", "raw trace-cmd or perf text", ""),
    (r"^r\d+ = [\w$]+\(|^(?:ioctl|openat|syz_\w+)\$\w+\(", "a syzkaller program", "run it under strace -f -ttt -y"),
)
_TEXT_PATTERNS: Final = tuple((re.compile(pattern, re.MULTILINE), what, advice) for pattern, what, advice in _TEXTS)


def detect(head: bytes, *, name: str = "") -> str:
    r"""Return the format of an input by its first bytes, decompressed: "kvmr", "jsonl", "strace", "tracefs" or "lab".

    head: up to `replay.sources.files.HEAD_BYTES`. Raises EmptyError for nothing, UnknownFormatError for anything else, with what
    it seems to be.

    >>> detect(b"27420 1795343273.24 ioctl(3, KVM_CREATE_VM, 0) = 4\n")
    'strace'
    """
    if not head.strip():
        raise EmptyError("an empty file", where=name, expected=_SUPPORTED)
    if head.startswith(_KVMR_SIGNATURE[: len(head)]):
        return KVMR
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
    for pattern, what, advice in _TEXT_PATTERNS:
        if pattern.search(text):
            raise _unsupported(what, name, advice)
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
