"""Take what strace has between the calls of a trace: lifetimes of tasks and fds, and calls that the trace does not have."""

from collections.abc import Callable
from typing import Final

import attrs

from replay.events import Event, Lost, MemslotSet, Source, Task
from replay.sources.ioctls import KVM_RUN, ioctl_name
from replay.sources.memslot_places import MemslotPlaces
from replay.sources.pairing import Pairing
from replay.sources.strace_queue import AHEAD_MAX, Entry, StraceQueue
from replay.sources.syscalls import BOTH, ENTER, EXIT, SignalLine, Syscall, TaskEnd
from replay.sources.tally import Tally
from replay.sources.tracefs_calls import Emitter

TICK_NS: Final = 10_000_000
"""How long a line of strace waits for lines of the trace with an earlier time."""
UNSEEN_RUN: Final = "shadow pages of a KVM_RUN that the trace does not have"
ONLY_STRACE: Final = "KVM call that only strace has"
BEFORE: Final = "KVM call before the other recording began"
AFTER: Final = "KVM call after the other recording ended"


@attrs.define
class StraceFeed:
    """Gives the resolver the records of strace in their order, up to the place that the trace has come to.

    names: base names of the sources, for places in counts. before: called with each record that is no KVM call, first.
    gap: VMs of which a KVM_RUN was met that the trace does not have, and none since that it has.
    """

    emit: Emitter
    pairing: Pairing
    slots: MemslotPlaces
    tally: Tally
    names: tuple[str, ...]
    before: Callable[[Entry], None] | None = None
    gap: set[int | None] = attrs.field(factory=set)
    ended: bool = False
    _late: dict[int, list[Event]] = attrs.field(factory=dict)
    _least_ns: int | None = None

    @property
    def queue(self) -> StraceQueue:
        """The records that wait."""
        return self.pairing.queue

    def resolve_enter(self, record: Syscall) -> list[Event]:
        """Give the resolver a call's entry; a split call was read to its end by now and says so, to its reader it begins."""
        if record.stage != BOTH:
            record.stage = ENTER
        return self.emit.resolver.enter(record)

    def resolve_exit(self, record: Syscall) -> list[Event]:
        """Give the resolver a call's result."""
        if record.stage != BOTH:
            record.stage = EXIT
        return self.emit.resolver.exit(record)

    def write(self, events: list[Event]) -> None:
        """Write events, and note what they do to the slots."""
        for event in events:
            if isinstance(event, MemslotSet):
                self.slots.happened(event)
        self.emit.write(events)

    def tick(self, time_ns: int | None) -> None:
        """With a common clock, take what strace has up to this time, but for a little."""
        if time_ns is None or self.pairing.offset_ns is None:
            return
        until_ns = time_ns - self.pairing.offset_ns - TICK_NS
        self.flush(self.last_place(until_ns))

    def last_place(self, until_ns: int) -> int:
        """Return the place of strace's last line up to a time of its clock; what is before it was complete by then."""
        self.pull_past(until_ns)
        last = 0
        for entry in self.queue.log:
            if entry.stamp_ns is not None:
                if entry.stamp_ns > until_ns:
                    break
                last = entry.place
        return last

    def pull_past(self, until_ns: int) -> None:
        """Read up to a time of strace's clock, however many records that are."""
        self.queue.pull_to(until_ns)
        while len(self.queue.log) >= AHEAD_MAX and (self.queue.stamp_ns or until_ns) < until_ns:
            self.flush(self.queue.log[-1].place)
            self.queue.pull_to(until_ns)

    def count_single(self, place: str, kind: str, cmd: int | None, *, ended: bool) -> None:
        """Count a call that has no counterpart: before and after the other recording that is no wonder."""
        name = ioctl_name(cmd or 0)
        first = self.pairing.pairs <= (kind == ONLY_STRACE)  # what lies before the first pair is taken when that is found
        if ended or first:
            self.tally.add(place, f"{AFTER if ended else BEFORE}: {name}", "ignored")
        else:
            self.tally.add(place, f"{kind}: {name}")

    def flush(self, limit: int | None) -> None:
        """Take the records whose lines were complete before place `limit`; None: all."""
        log = self.queue.log
        held: list[Entry] = []
        while log and (limit is None or log[0].place < limit):
            entry = log.popleft()
            if entry.fd is None:
                self._feed(entry)
            elif not entry.paired and (limit is None or (entry.done is not None and entry.done < limit)):
                self._unpaired(entry)
            elif not entry.paired:
                held.append(entry)
        log.extendleft(reversed(held))

    def _feed(self, entry: Entry) -> None:
        """Give the resolver a record that is no KVM call; what a split call ends, it ends at its second half."""
        record = entry.record
        if self.before is not None:
            self.before(entry)
        self.to_trace_clock(entry)
        tid = record.tid
        if isinstance(record, Syscall):
            if entry.stage == ENTER:
                self._late.setdefault(tid, []).extend(self.resolve_enter(record))
            else:
                late = self._late.pop(tid, [])
                done = self.emit.resolver.feed(record) if entry.stage == BOTH else self.resolve_exit(record)
                self.write(late + done)
        else:
            late = self._late.pop(tid, []) if isinstance(record, TaskEnd) else []
            self.write(late + self.emit.resolver.feed(record))
        if not isinstance(record, SignalLine):
            self.emit.owners.forget()

    def _unpaired(self, entry: Entry) -> None:
        """Take a KVM call that the trace does not have: it happened, its place is not known better than this."""
        record = entry.record
        assert isinstance(record, Syscall)
        self.queue.drop(entry)
        place = f"{self.names[record.file]}:{record.line}"
        self.count_single(place, ONLY_STRACE, entry.cmd, ended=self.ended)
        self.to_trace_clock(entry)
        events = self.resolve_enter(record)
        vm = self.emit.resolver.vm_of_call(record)
        if entry.cmd == KVM_RUN:
            events = [*events, *self.unseen_run(record, vm)]
        if entry.done is not None:
            events = [*events, *self.resolve_exit(record)]
        self.write(events)

    def unseen_run(self, record: Syscall, vm: int | None) -> list[Event]:
        """Say, once for each stretch, that shadow pages of a VM are not known because a KVM_RUN is not in the trace."""
        if vm in self.gap:
            return []
        self.gap.add(vm)
        task = Task(self.emit.resolver.pid_of(record.tid), record.tid)
        source = Source(record.file, record.line)
        return [Lost(vm=vm, what=UNSEEN_RUN, affects="shadow_pages", task=task, time_ns=record.enter_ns, source=source)]

    def learn_offset(self, entry: Entry, time_ns: int | None) -> None:
        """Learn how far the clocks are apart when that is not known: a call begins soon after strace stamps it."""
        stamp_ns = entry.stamp_ns
        if stamp_ns is not None and time_ns is not None:
            self.least(time_ns - stamp_ns)

    def least(self, apart_ns: int) -> None:
        """Note how far the clocks are apart at most."""
        self._least_ns = apart_ns if self._least_ns is None else min(self._least_ns, apart_ns)

    def to_trace_clock(self, entry: Entry) -> None:
        """Turn the stamps of a record into the trace's clock; unknown while the distance is."""
        offset_ns = self.pairing.offset_ns if self.pairing.offset_ns is not None else self._least_ns
        record = entry.record
        if not isinstance(record, Syscall):
            record.time_ns = None if offset_ns is None or record.time_ns is None else record.time_ns + offset_ns
            return
        if entry.stage in {BOTH, ENTER, 0}:
            record.enter_ns = None if offset_ns is None or record.enter_ns is None else record.enter_ns + offset_ns
        if entry.stage in {BOTH, EXIT} or (entry.fd is not None and entry.done is not None):
            record.exit_ns = None if offset_ns is None or record.exit_ns is None else record.exit_ns + offset_ns

    def end(self) -> None:
        """Take all that is left, and what the end of the recording says."""
        while self.queue.pull() or not self.queue.ended:
            if len(self.queue.log) >= AHEAD_MAX:
                self.flush(self.queue.log[-1].place)
        self.flush(None)
        for tid in sorted(self._late):
            self.write(self._late[tid])
        self.write(self.emit.resolver.end())
