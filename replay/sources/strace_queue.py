"""Read a strace recording a little ahead of the trace that it is merged with: its calls by thread, all else in order of lines."""

from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from replay.sources.ioctls import is_kvm
from replay.sources.strace_args import ioctl_args
from replay.sources.syscalls import ENTER, EXIT, Record, Syscall

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

    def fits(self, fd: int, cmd: int) -> bool:
        """Say whether this can be the call that another recorder saw."""
        return self.fd == fd and self.cmd in {None, cmd}


class StraceQueue:
    """Records that were read and not yet taken.

    log: all of them in order of lines. calls: KVM ioctls that have no counterpart yet, by thread, in order.
    `stamp_ns` is the time that reading has come to. without: ioctls that the other recorder does not record; they are no calls.
    """

    def __init__(self, records: Iterator[Record], without: frozenset[int] = frozenset()) -> None:
        self._records = records
        self._without = without
        self._count = 0
        self._open: dict[int, Entry] = {}
        self.log: deque[Entry] = deque()
        self.calls: dict[int, deque[Entry]] = {}
        self.kvm_calls = 0
        self.ended = False
        self.stamp_ns: int | None = None
        self._last_ns: int | None = None

    def pull(self) -> bool:
        """Read one more record; False at the end, or when too many wait."""
        if len(self.log) >= AHEAD_MAX:
            return False
        record = next(self._records, None)
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
        self.calls.setdefault(record.tid, deque()).append(entry)
        return True

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
