"""Read strace text a first time: who made whom, what the machine says of itself, which options it was recorded with.

Whole blocks are searched for a few words, and only the lines that hold one are looked into, so this pass costs little.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from replay.sources.ioctls import KVM_CHECK_EXTENSION
from replay.sources.lineage import MAKERS, Lineage, LineageBuilder, MakerCall, Place
from replay.sources.strace_args import ioctl_args, number_of
from replay.sources.strace_lexer import StraceLexer
from replay.sources.syscalls import ENTER, EXIT, AttachLine, Record, SignalLine, Syscall

_TID: Final = re.compile(r"^(?:\[pid +)?(\d{1,7})(?=[ <\]])", re.MULTILINE)
_FEW_TIDS: Final = 16
_KEYS: Final = ("clone", "fork", "execve", "SIGCHLD", " attached", "KVM_CHECK_EXTENSION", " 0xae03,")
_RELEASE: Final = re.compile(r'uname\(\{sysname="Linux",[^}]*\brelease="([^"]{1,128})"')
_CREATE: Final = ("KVM_CREATE_VM", " 0xae01")
_USE: Final = ("anon_inode:kvm-v", "KVM_RUN", "KVM_SET_USER_MEMORY_REGION", " 0xae80", " 0x4020ae46", "0xae, 0x49, 0xa0")
_FD_CALLS: Final = ("dup(", "dup2(", "dup3(", "fcntl(")
_CLOSE: Final = (" close(", "\nclose(")
_NOTES: Final = ("<anon_inode:", "</dev/kvm")
_LAST_WORD: Final = re.compile(r"(?:0x[0-9a-f]+|\w+)")

# Numbers of capabilities as recorders print them when they do not know the name.
# Source: include/uapi/linux/kvm.h (Linux 6.12).
_CAPS: Final = {
    "KVM_CAP_X86_SMM": 117,
    "KVM_CAP_MULTI_ADDRESS_SPACE": 118,
    "KVM_CAP_PRE_FAULT_MEMORY": 236,
}


@attrs.define
class ScanResult:
    """What the first pass found.

    facts: of the machine, as fields of `replay.header.Machine`. annotated: fds carry notes (-y). fd_calls, closes: calls that
    copy or close fds are recorded at all. complete_start: no VM was used before one was created.
    """

    lineage: Lineage = attrs.field(factory=Lineage)
    facts: dict[str, Any] = attrs.field(factory=dict)
    annotated: bool = False
    fd_calls: bool = False
    closes: bool = False
    complete_start: bool = True
    lines: int = 0


@attrs.define
class Scanner:
    """The first pass over one file or, one after the other, over the files of one run (-ff)."""

    result: ScanResult = attrs.field(factory=ScanResult)
    _builder: LineageBuilder = attrs.field(factory=LineageBuilder)
    _created: bool = False
    _open_calls: dict[tuple[int, int], MakerCall] = attrs.field(factory=dict)

    def scan(self, blocks: Iterable[str], *, tid: int = 0, file: int = 0, by_time: bool = False) -> None:
        """Read one file. tid: of its lines when they carry none. by_time: order things by time, not by line (-ff)."""
        lexer = StraceLexer((), tid=tid, file=file)
        for record in lexer.records(self._interesting(blocks, tid=tid, by_time=by_time)):
            self._take(record, by_time=by_time)
        if by_time:
            self._builder.lineage.first[tid] = min(self._builder.lineage.first.get(tid, (1 << 63, 0)), (self._first_ns, 0))

    _first_ns: int = 1 << 62

    def finish(self) -> ScanResult:
        """Match what was found and return it."""
        self.result.lineage = self._builder.build()
        return self.result

    def _interesting(self, blocks: Iterable[str], *, tid: int, by_time: bool) -> Iterator[tuple[int, str]]:
        number = 0
        self._first_ns = 1 << 62
        for block in blocks:
            if by_time and number == 0:
                self._first_ns = _first_time(block, tid)
            else:
                self._see_tids(block, number)
            self._see_options(block)
            yield from lines_with_keys(block, number)
            number += block.count("\n")
        self.result.lines += number

    def _see_tids(self, block: str, before: int) -> None:
        first = self._builder.lineage.first
        if len(first) <= _FEW_TIDS and block.startswith(tuple(f"{tid} " for tid in first)):
            known = sum(block.count(f"\n{tid} ") for tid in first)
            if known == block.count("\n", 0, -1):
                return  # every line is of a thread that was seen
        new = {text for text in set(_TID.findall(block)) if int(text) not in first}
        line, place = before + 1, 0
        for found in _TID.finditer(block) if new else ():  # one pass, however many there are
            if found[1] in new:
                line += block.count("\n", place, found.start())
                place = found.start()
                new.remove(found[1])
                first.setdefault(int(found[1]), (line, 0))
                if not new:
                    return

    def _see_options(self, block: str) -> None:
        result = self.result
        result.annotated = result.annotated or any(word in block for word in _NOTES)
        result.fd_calls = result.fd_calls or any(word in block for word in _FD_CALLS)
        result.closes = result.closes or any(word in block for word in _CLOSE)
        if not self._created and result.complete_start:
            create = _earliest(block, _CREATE)
            use = _earliest(block, _USE)
            # The line that creates a VM may already name it in its result.
            result.complete_start = use is None or (create is not None and (create < use or block.rfind("\n", 0, use) < create))
            self._created = create is not None
        release = _RELEASE.search(block) if "uname(" in block else None
        if release is not None:
            result.facts.setdefault("kernel_release", release[1])

    def _take(self, record: Record, *, by_time: bool) -> None:
        if isinstance(record, Syscall):
            if record.name in MAKERS:
                self._maker(record, by_time=by_time)
            elif record.name.startswith("execve"):
                self._builder.executed.add(record.tid)
            elif record.name == "ioctl" and record.stage & EXIT:
                self._capability(record)
        elif isinstance(record, SignalLine):
            self._builder.signal(record.tid, record.text, _place(record, by_time=by_time))
        elif isinstance(record, AttachLine):
            self._builder.lineage.attached.add(record.tid)

    def _maker(self, record: Syscall, *, by_time: bool) -> None:
        key = (record.file, record.tid)
        if record.stage & ENTER:
            place = _place(record, by_time=by_time)
            call = MakerCall(record.tid, record.name, record.args, place, record.line, record.file)
            self._open_calls[key] = call
            self._builder.calls.append(call)
        if record.stage & EXIT:
            done = self._open_calls.pop(key, None)
            if done is not None:
                done.args, done.ret = record.args, record.ret
                done.failed = (record.ret is not None and record.ret < 0) or record.errno.startswith("ERESTART")

    def _capability(self, record: Syscall) -> None:
        args = ioctl_args(record.args)
        if args is None or args.cmd != KVM_CHECK_EXTENSION or record.ret is None or record.ret < 0:
            return
        name = args.arg.rsplit("/* ", 1)[-1].removesuffix(" */") if "???" not in args.arg else args.arg
        cap = _CAPS.get(name)
        self._fact(number_of(args.arg) if cap is None else cap, record.ret)

    def _fact(self, cap: int | None, value: int) -> None:
        """Turn the answer about a capability into a fact of the machine, where it is one; an answer that fits both is none.

        Source: arch/x86/kvm/x86.c kvm_vm_ioctl_check_extension(): MULTI_ADDRESS_SPACE is compiled in with CONFIG_KVM_SMM
        (Linux 6.4 on) and is 1 for a VM with private memory; PRE_FAULT_MEMORY is tdp_enabled (6.11 on), absent before.
        """
        facts = self.result.facts
        if cap == _CAPS["KVM_CAP_MULTI_ADDRESS_SPACE"] and value in {0, 2}:
            facts.setdefault("smm", value == 2)
        elif cap == _CAPS["KVM_CAP_X86_SMM"] and value == 1:
            facts.setdefault("smm", True)
        elif cap == _CAPS["KVM_CAP_PRE_FAULT_MEMORY"] and value == 1:
            facts.setdefault("tdp", True)


def _place(record: Syscall | SignalLine, *, by_time: bool) -> Place:
    if not by_time:
        return (record.line, 0)
    time_ns = record.enter_ns if isinstance(record, Syscall) else record.time_ns
    return (time_ns or 0, record.file)


def _earliest(block: str, words: tuple[str, ...]) -> int | None:
    places = [place for place in (block.find(word) for word in words) if place >= 0]
    return min(places, default=None)


def lines_with_keys(block: str, before: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a block that hold a key, with their numbers."""
    places: set[int] = set()
    for key in _KEYS:
        place = block.find(key)
        while place >= 0:
            places.add(block.rfind("\n", 0, place) + 1)
            end = block.find("\n", place)
            place = -1 if end < 0 else block.find(key, end)
    number, counted = before + 1, 0
    for start in sorted(places):
        number += block.count("\n", counted, start)
        counted = start
        end = block.find("\n", start)
        yield number, block[start : end if end >= 0 else len(block)]


def _first_time(block: str, tid: int) -> int:
    """Return the stamp of a file's first line that has one."""
    for line in block[:4096].split("\n"):
        for record in StraceLexer([line], tid=tid):
            time_ns = record.enter_ns if isinstance(record, Syscall) else record.time_ns
            if time_ns is not None:
                return time_ns
    return 1 << 62
