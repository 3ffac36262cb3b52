"""Split strace text into records: the grammar of lines, and the joining of split calls.

A line is `[tid] [time] [ip] [nr] body`; the body is a call, half of one, a signal, an exit. Everything before the body depends
on strace's options, so one pattern takes all of them. Only calls that matter are looked into: for the others the name is read
and nothing else, which is what keeps large recordings cheap.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from replay.sources.strace_clock import TIME_NS_MAX, Stamps
from replay.sources.strace_quiet import Quiet, QuietLines
from replay.sources.syscalls import BOTH, ENTER, EXIT, AttachLine, Record, SignalLine, Syscall, TaskEnd
from replay.sources.tally import Tally
from replay.units import errno_number

WANTED: Final = frozenset(
    [
        "ioctl",
        "close",
        "close_range",
        "dup",
        "dup2",
        "dup3",
        "fcntl",
        "fcntl64",
        "open",
        "openat",
        "openat2",
        "clone",
        "clone2",
        "clone3",
        "fork",
        "vfork",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "sendmsg",
        "sendmmsg",
        "recvmsg",
        "recvmmsg",
        "pidfd_getfd",
        "mmap",
        "mmap2",
        "munmap",
        "unshare",
    ]
)
"""System calls that can name, make or end a task, an fd or a VM."""

_LINE: Final = re.compile(
    r" *(?:\[pid +(\d{1,7})(?:<(.*?)>)?\] +|(\d{1,7})(?:<(.*?)>)? +(?!seconds ))?"  # [pid N<comm>] or N<comm>
    r"(?:(\d{9,}(?:\.\d+)?|\d+\.\d+|\d\d:\d\d:\d\d(?:\.\d+)?)(?: \(\+ *[\d.]+\))? +)?"  # -ttt, -r, -tt, -t; -r beside another
    r"(?:\[[0-9a-f?]{8,16}\] )?(?:\[ *\d+\] )?"  # -i, -n
    r"(?:(\w+)\(|<\.\.\. (\w+) resumed>|(---|\+\+\+) )"
)
_CALL: Final = re.compile(r"(.*)\) += (0x[0-9a-f]+|-?\d+|\?)(.*)$", re.DOTALL)
# By far the most frequent line, in one step: an ioctl on one line that succeeded, with -f -o and -ttt (in 63 bits) or no times.
_FREQUENT: Final = re.compile(r"(\d{1,7}) +(?:([1-8]\d{9})\.(\d{6}) )?ioctl\((.*)\) += (\d{1,18})$", re.DOTALL)
_ATTACHED: Final = re.compile(r"(?:strace: )?Process (\d{1,7}) attached")
_END: Final = re.compile(r"(exited with|killed by|superseded by execve in pid) (\w+)")
_DURATION: Final = re.compile(r" <(\d+(?:\.\d+)?)>$")
_ERROR: Final = re.compile(r" (E[A-Z0-9]+)?(?: ?\((?:Unknown error |errno )(\d+)\))?")
_NOTE: Final = re.compile(r"<((?:[^<>]|<[^<>]*>)*)>")
_UNFINISHED: Final = " <unfinished ...>"
_KILLED: Final = "<unfinished ...>) = ?"
_DETACHED: Final = " <detached ...>"
_PID_CHANGED: Final = re.compile(r" <pid changed to (\d{1,7}) \.\.\.>$")
_SUMMARY: Final = "% time     seconds"
_NUMBER_DIGITS_MAX: Final = 20


def is_strace_line(line: str) -> bool:
    """Say whether a line is one that strace writes, by its grammar alone.

    >>> is_strace_line("[pid 12] 10:00:00 read(3, 0x7f, 4 <unfinished ...>"), is_strace_line("main(argc) returned 3")
    (True, False)
    """
    found = _LINE.match(line)
    if found is None:
        return False
    if found[8]:
        return line.endswith((" ---", " +++"))
    return found[7] is not None or _CALL.match(line, found.end()) is not None or line.endswith((_UNFINISHED, _KILLED))


class StraceLexer:
    """Iterate over the records of strace text, in order of lines; see `replay.sources.syscalls` for what is given twice.

    Every ioctl is given, and every call that can change a task or an fd; others (read, futex, ...) are passed over.
    lines: text lines without their ends. tid: of all lines that carry none (no -f, or one file of -ff). file: index into the
    sources. name: what places are called in counts. quiet: takes ioctls that need no look; they are not given. After the
    iteration, `tally` says what was not understood, `summary` whether a table of -c was met, `stamps.clock` what the times are,
    `calls` how many calls were given or taken, `failed` and `succeeded` how they ended as far as it was seen.

    >>> [(r.name, r.ret) for r in StraceLexer(["9 ioctl(3, KVM_CREATE_VM, 0) = 4", "9 read(0) = 1"])]
    [('ioctl', 4)]
    """

    def __init__(
        self,
        lines: Iterable[str],
        *,
        tid: int = 0,
        file: int = 0,
        name: str = "strace",
        tally: Tally | None = None,
        quiet: Quiet | None = None,
    ) -> None:
        self._quiet = None if quiet is None else QuietLines(quiet)
        self.tally = Tally() if tally is None else tally
        self.stamps = Stamps()
        self.summary = False
        self.calls = self.failed = self.succeeded = 0
        self._lines, self._tid, self._file, self._name = lines, tid, file, name
        self._pending: dict[int, Syscall] = {}
        self._odd: tuple[int, str] | None = None

    def __iter__(self) -> Iterator[Record]:
        return self.records(enumerate(self._lines, 1))

    def records(self, numbered: Iterable[tuple[int, str]]) -> Iterator[Record]:
        """Yield the records of lines that come with their numbers; for readers that pass over lines by themselves."""
        match, frequent, stamps, wanted, file = _LINE.match, _FREQUENT.match, self.stamps, WANTED, self._file
        quiet = self._quiet
        taken = None if quiet is None else quiet.take
        record: Record | None
        for number, line in numbered:
            if self._odd is not None:
                self._count_odd()
            if taken is not None and taken(line):
                self.calls += 1
                self.succeeded += 1
                continue
            found = frequent(line)
            if found is not None and (not stamps.eager or found[2] is None):
                tid, second, us, args, ret = found.groups()
                at_ns = int(second) * 1_000_000_000 + int(us) * 1000 if us else None
                self.calls += 1
                self.succeeded += 1
                if quiet is not None and us:
                    quiet.learn(line, int(tid), args)
                yield Syscall(
                    int(tid), "ioctl", args, number, BOTH, int(ret), "", at_ns, None, number, False, False, "", "", file
                )
                continue
            found = match(line)
            if found is None:
                record = self._other(number, line)
            else:
                pid, pid_comm, tid, comm, stamp, name, resumed, _ = found.groups()
                if stamp is not None and stamps.eager:
                    stamps.advance(stamp)
                if (name or resumed or "ioctl") not in wanted:
                    continue
                task = int(pid or tid or 0) or self._tid
                time_ns = None if stamp is None else stamps.ns(stamp)
                if time_ns is None and stamp is not None:
                    self.tally.add(self._place(number), "time of another clock than the first one's")
                if name is not None:
                    record = self._call(number, line, found.end(), task, name, time_ns, pid_comm or comm or "")
                elif resumed is not None:
                    record = self._resumed(number, line[found.end() :], task, resumed, time_ns)
                else:
                    record = self._mark(number, line[found.end() - 4 :], task, time_ns)
            if record is not None:
                yield record
        yield from self._finish()

    def _place(self, number: int) -> str:
        return f"{self._name}:{number}"

    def _call(self, number: int, line: str, start: int, tid: int, name: str, time_ns: int | None, comm: str) -> Syscall | None:
        """Read a call from its opening bracket on; None for one that can not matter or is cut."""
        if name == "mmap" and ", -1, 0" in line:
            return None  # anonymous memory: holds no fd
        self.calls += 1
        record = Syscall(tid, name, "", number, BOTH, None, "", time_ns, None, number, comm=comm, file=self._file)
        found = _CALL.match(line, start)
        if found is None or line.endswith(_KILLED):
            return self._first_half(record, line, start)
        record.args, ret, tail = found.groups()
        self._result(record, ret, tail)
        return record

    def _first_half(self, record: Syscall, line: str, start: int) -> Syscall | None:
        for ending, killed in ((_UNFINISHED, False), (_KILLED, True), (_DETACHED, False)):
            if line.endswith(ending):
                record.args = line[start : -len(ending)].rstrip()
                record.killed = killed
                if not killed:
                    record.stage, record.exit_line = ENTER, 0
                    self._pending[record.tid] = record
                return record
        changed = _PID_CHANGED.search(line, start)  # execve by a thread: it goes on under its leader's number
        record.stage, record.exit_line = ENTER, 0
        record.args = line[start:] if changed is None else line[start : changed.start()]
        self._pending[record.tid if changed is None else int(changed[1])] = record
        if changed is not None:
            return record
        self._odd = (record.line, line)
        return None  # cut: given by _finish if nothing follows

    def _resumed(self, number: int, rest: str, tid: int, name: str, time_ns: int | None) -> Syscall | None:
        """Join the second half of a call to its first; None when there is none."""
        record = self._pending.pop(tid, None)
        if record is None or record.name != name:
            if not name.startswith(("mmap", "munmap")):
                self.tally.add(self._place(number), f"second half of {name} without its first half")
            return None
        record.stage, record.exit_line, record.exit_ns, record.tid = EXIT, number, time_ns, tid
        found = _CALL.match(rest)
        if found is None or rest.endswith(_KILLED):
            record.killed = True
            if not rest.endswith(_KILLED):
                self._odd = (number, rest)
            return record
        more, ret, tail = found.groups()
        record.args += more.rstrip()
        if record.ret is None:
            self._result(record, ret, tail, split=True)
        else:  # known since the thread took its leader's place
            self.succeeded += 1
        return record

    def _result(self, record: Syscall, ret: str, tail: str, *, split: bool = False) -> None:
        """Fill in the result: number, errno, note, duration."""
        if tail:
            self._tail(record, ret, tail, split=split)
        if ret == "?":
            record.killed = not record.errno
        elif record.ret is None and not record.errno and len(ret) <= _NUMBER_DIGITS_MAX:
            number = int(ret, 16) if ret[:2] == "0x" else int(ret)
            if number < 0:
                self.tally.add(self._place(record.exit_line), "failed call without an errno")
            elif number < 1 << 64:
                record.ret = number - (number >> 63 << 64)  # raw results are unsigned
                self.succeeded += record.ret >= 0

    def _tail(self, record: Syscall, ret: str, tail: str, *, split: bool) -> None:
        if tail[0] == "<":
            note = _NOTE.match(tail)
            if note is not None:
                record.ret_note, tail = note[1], tail[note.end() :]
        duration = _DURATION.search(tail)
        if duration is not None:
            tail = tail[: duration.start()]
            if not split and record.enter_ns is not None:
                record.exit_ns = min(record.enter_ns + self.stamps.duration_ns(duration[1]), TIME_NS_MAX)
        if ret in {"-1", "?"} and tail:
            self._errno(record, tail)
        record.injected = "(INJECTED)" in tail or ("(INJECTED" in tail and "retval" in tail)

    def _errno(self, record: Syscall, tail: str) -> None:
        found = _ERROR.match(tail)
        if found is None or not (found[1] or found[2]):
            return
        record.errno = found[1] or f"errno {found[2]}"
        number = int(found[2]) if found[2] and len(found[2]) < _NUMBER_DIGITS_MAX else errno_number(record.errno)
        self.failed += 1
        if number is not None:
            record.ret = -number
        elif not record.errno.startswith("ERESTART"):
            self.tally.add(self._place(record.exit_line), f"errno {record.errno} has no number here")

    def _mark(self, number: int, text: str, tid: int, time_ns: int | None) -> Record | None:
        """Read `--- signal ---` or `+++ end +++`."""
        if text.startswith("---"):
            return SignalLine(tid, number, text[4:].removesuffix(" ---"), time_ns, self._file)
        found = _END.search(text)
        if found is None:
            self._odd = (number, text)
            return None
        if found[1].startswith("superseded"):
            by = int(found[2]) if found[2].isdecimal() and len(found[2]) < _NUMBER_DIGITS_MAX else None
            self._supersede(tid, by)
            return TaskEnd(tid, number, superseded_by=by, time_ns=time_ns, file=self._file)
        self._pending.pop(tid, None)
        return TaskEnd(tid, number, found[1] == "killed by", None, time_ns, self._file)

    def _supersede(self, tid: int, by: int | None) -> None:
        """Take that a thread's execve has succeeded: it goes on under its leader's number, and so does the second half.

        What strace prints as its result is not always one: 6.1 mixes it up when another thread's signal comes between.
        """
        first = self._pending.get(tid if by is None else by)
        if first is not None and first.name.startswith("execve") and by is not None:
            self._pending[tid] = self._pending.pop(by)
        own = self._pending.get(tid)
        if own is not None and own.name.startswith("execve"):
            own.ret = 0

    def _other(self, number: int, line: str) -> AttachLine | None:
        """Take a line that is no call: strace's own messages, continuation lines, the table of -c, or nothing known."""
        found = _ATTACHED.search(line)
        if found is not None:
            return AttachLine(int(found[1]), number, None, self._file)
        if not line or line.isspace():
            return None
        if line.startswith(_SUMMARY):
            self.summary = True
        elif line[0] == " ":
            self.tally.add(self._place(number), "continuation line", "ignored")
        elif line.startswith("strace: "):
            self.tally.add(self._place(number), "message of strace", "ignored")
        elif not self.summary:
            self._odd = (number, line)
        return None

    def _count_odd(self) -> None:
        """Count the line before this one as not understood: it was not the last, so it was not merely cut."""
        assert self._odd is not None
        number, _ = self._odd
        self._odd = None
        self._pending = {tid: record for tid, record in self._pending.items() if record.line != number}
        self.tally.add(self._place(number), "line not understood")

    def _finish(self) -> Iterator[Record]:
        """Give the call that the last, cut line began; its effect is not known."""
        if self._odd is None:
            return
        number, _ = self._odd
        self.tally.add(self._place(number), "last line is cut", "lost")
        for record in self._pending.values():
            if record.line == number:
                yield record
