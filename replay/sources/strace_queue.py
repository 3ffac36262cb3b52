"""Read a strace recording a little ahead of the trace that it is merged with: its calls by thread, all else in order of lines."""

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from replay.sources.ioctls import is_kvm
from replay.sources.strace_args import ioctl_args
from replay.sources.strace_runs import LineRun
from replay.sources.syscalls import BOTH, ENTER, EXIT, Record, Syscall

AHEAD_MAX: Final = 1 << 16
"""Most records that wait for their counterpart; beyond, the oldest are taken as having none."""


@attrs.define(eq=False)
class Entry:
    """One record as it was given: its place in the order of lines, and for a KVM call what it can be recognised by.

    stage: of the record when it was given (records change when their second half comes). fd: of a KVM ioctl, None for any
    other record. cmd: its number, None when strace's name has none here. done: place of its second half, None while open.
    stamp_ns: of the line, in strace's clock; the record's own times change when its place is found.
    """

    place: int
    record: Record
    stage: int = 0
    fd: int | None = None
    cmd: int | None = None
    done: int | None = None
    paired: bool = False
    stamp_ns: int | None = None

    @property
    def args(self) -> str:
        """Arguments of a call."""
        return self.record.args if isinstance(self.record, Syscall) else ""

    def fits(self, fd: int, cmd: int) -> bool:
        """Say whether this can be the call that another recorder saw."""
        return self.fd == fd and self.cmd in {None, cmd}


@attrs.define(eq=False)
class Leading:
    """What waits first, of one thread and one call: entries, and lines behind them that are none yet."""

    entries: list[Entry] = attrs.field(factory=list)
    run: LineRun | None = None

    @property
    def args(self) -> str:
        """Arguments of all of them, "" for none."""
        return self.entries[0].args if self.entries else "" if self.run is None else self.run.args

    def stamps_ns(self, most: int) -> list[int]:
        """Return their stamps, of so many of them."""
        stamps = [entry.stamp_ns or 0 for entry in self.entries[:most]]
        return stamps if self.run is None else stamps + self.run.ahead_ns(most - len(stamps))


def _alike(entry: Entry, tid: int, fd: int, cmd: int, others: Leading) -> bool:
    """Say whether an entry is such a call, whole and successful, and no other one than those before it."""
    record = entry.record
    if record.tid != tid or entry.fd != fd or entry.cmd != cmd or entry.stage != BOTH or entry.stamp_ns is None or entry.paired:
        return False
    assert isinstance(record, Syscall)
    return record.ret == 0 and not record.injected and record.args == (others.args or record.args)


class StraceQueue:
    """Records that were read and not yet taken.

    log: all of them in order of lines. calls: KVM ioctls that have no counterpart yet, by thread, in order.
    `stamp_ns` is the time that reading has come to. without: ioctls that the other recorder does not record; they are no calls.
    run: lines that come next and are equal but for their times; each becomes a record when it is pulled.
    """

    def __init__(self, records: Iterator[Record | LineRun], without: frozenset[int] = frozenset()) -> None:
        self._records = records
        self.run: LineRun | None = None
        self._without = without
        self._count = 0
        self._open: dict[int, Entry] = {}
        self.log: deque[Entry] = deque()
        self.calls: dict[int, deque[Entry]] = {}
        self.kvm_calls = 0
        self.ended = False
        self.stamp_ns: int | None = None
        self._last_ns: int | None = None
        self._unordered: set[int] = set()
        self._held: Record | None = None

    def _next(self) -> Record | None:
        if not self.run and self._held is None:
            self._look()
        if self.run:
            return self.run.next()
        found, self._held = self._held, None
        return found

    def _look(self) -> None:
        """Look at what comes next: a run, or one record."""
        found = next(self._records, None)
        if isinstance(found, LineRun):
            self.run = found
        else:
            self._held = found

    def pull(self) -> bool:
        """Read one more record; False at the end, or when too many wait."""
        if len(self.log) >= AHEAD_MAX:
            return False
        record = self._next()
        if record is None:
            self.ended = True
            return False
        self._count += 1
        stage = record.stage if isinstance(record, Syscall) else 0
        if isinstance(record, Syscall) and record.name == "ioctl" and self._call(record, stage):
            return True
        entry = Entry(self._count, record, stage)
        self._append(entry)
        return True

    def _append(self, entry: Entry) -> None:
        record = entry.record
        if isinstance(record, Syscall):
            entry.stamp_ns = record.exit_ns if entry.stage == EXIT else record.enter_ns
        else:
            entry.stamp_ns = record.time_ns
        self.log.append(entry)
        self._note(entry.stamp_ns)

    def _note(self, stamp_ns: int | None) -> None:
        """Note a stamp; of the last two the earlier one counts, so that a single damaged one does not look like the future."""
        if stamp_ns is not None:
            self.stamp_ns = stamp_ns if self._last_ns is None else min(self._last_ns, stamp_ns)
            self._last_ns = stamp_ns

    def _call(self, record: Syscall, stage: int) -> bool:
        """Take a KVM ioctl, or its second half; False for an ioctl of something else."""
        if stage == EXIT:
            entry = self._open.pop(record.tid, None)
            if entry is None or entry.record is not record:
                return False
            entry.done = self._count
            self._note(record.exit_ns)
            return True
        args = ioctl_args(record.args)
        if args is None or not (is_kvm(args.cmd) if args.cmd is not None else "KVM_" in args.cmd_text):
            return False
        if args.cmd in self._without:
            return False
        entry = Entry(self._count, record, stage, args.fd.number, args.cmd, None if stage == ENTER else self._count)
        if stage == ENTER:
            self._open[record.tid] = entry
        self.kvm_calls += 1
        self._append(entry)
        waiting = self.calls.setdefault(record.tid, deque())
        if entry.stamp_ns is None or (waiting and (waiting[-1].stamp_ns or 0) > entry.stamp_ns):
            self._unordered.add(record.tid)
        waiting.append(entry)
        return True

    def up_to(self, tid: int, stamp_ns: int) -> list[Entry]:
        """List the waiting calls of a thread that are stamped up to a time, in order of lines."""
        found = []
        for entry in self.calls.get(tid, ()):
            if entry.stamp_ns is not None and entry.stamp_ns <= stamp_ns:
                found.append(entry)
            elif tid not in self._unordered:
                break
        return found

    def leading(self, tid: int, fd: int, cmd: int, most: int) -> Leading:
        """Return the first entries that wait, as long as they are one call of a thread that succeeded, with the same arguments.

        most: so many of them are enough.
        """
        found = Leading()
        for entry in self.log:
            if entry.paired and not found.entries:
                continue
            if len(found.entries) >= most or not _alike(entry, tid, fd, cmd, found):
                return found
            found.entries.append(entry)
        if not self.run and self._held is None:
            self._look()
        run = self.run
        if run and (run.tid, run.ret) == (tid, 0) and run.args == (found.args or run.args):
            args = ioctl_args(run.args)
            found.run = run if args is not None and (args.fd.number, args.cmd) == (fd, cmd) else None
        return found

    def take_leading(self, leading: Leading, count: int) -> None:
        """Forget the first calls of `leading`: they have found their counterparts."""
        entries = leading.entries
        listed = min(count, len(entries))
        if listed:
            self.take(entries[listed - 1])
            while self.log and self.log[0].place <= entries[listed - 1].place:
                self.log.popleft()
        behind = count - listed
        if behind and self.run is not None:
            self._count += behind
            self.kvm_calls += behind
            for stamp_ns in self.run.skip(behind):
                self._note(stamp_ns)

    def ahead(self, tid: int) -> Iterator[Entry]:
        """Yield what waits of a thread, in order, and read on for more of it while there is room."""
        yield from [entry for entry in self.log if entry.record.tid == tid]
        last = self.log[-1] if self.log else None
        while self.pull():
            if self.log and self.log[-1] is not last:
                last = self.log[-1]
                if last.record.tid == tid:
                    yield last

    def pull_to(self, stamp_ns: int) -> None:
        """Read until a record is stamped later than this."""
        while self.stamp_ns is None or self.stamp_ns <= stamp_ns:
            if not self.pull():
                return

    def pull_call(self, tid: int, count: int = 1) -> None:
        """Read until a thread has this many calls waiting."""
        while len(self.calls.get(tid, ())) < count:
            if not self.pull():
                return

    def pull_done(self, entry: Entry) -> bool:
        """Read until a call has its result; False when the recording never gives it."""
        while entry.done is None:
            if not self.pull():
                return False
        return True

    def take(self, entry: Entry) -> None:
        """Mark a call as having found its counterpart, and forget the thread's calls up to it."""
        entry.paired = True
        assert isinstance(entry.record, Syscall)
        waiting = self.calls[entry.record.tid]
        while waiting and waiting[0].place <= entry.place:
            waiting.popleft()

    def drop(self, entry: Entry) -> None:
        """Forget a call that has no counterpart."""
        assert isinstance(entry.record, Syscall)
        waiting = self.calls.get(entry.record.tid)
        if waiting and entry in waiting:
            waiting.remove(entry)
