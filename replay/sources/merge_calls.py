"""Take the system calls of one run that strace and tracefs recorded together: arguments from one, places from the other."""

from typing import Final

import attrs

from replay.errors import PairingError
from replay.events import Event, Lost, MemslotSet, Source, Task
from replay.sources.ioctls import KVM_RUN, ioctl_name, is_kvm
from replay.sources.memslot_places import MemslotPlaces, OpenCall
from replay.sources.pairing import Pairing
from replay.sources.strace_queue import AHEAD_MAX, Entry, StraceQueue
from replay.sources.syscalls import BOTH, ENTER, EXIT, SignalLine, Syscall, TaskEnd
from replay.sources.tally import Tally
from replay.sources.tracefs_calls import LATE_EXIT, LOST_EXIT, Emitter, syscall_record
from replay.sources.tracefs_grammar import SyscallEnter, SyscallExit, TaskLine
from replay.sources.tracefs_pages import Use

TICK_NS: Final = 10_000_000
"""How long a line of strace waits for lines of the trace with an earlier time."""
UNSEEN_RUN: Final = "shadow pages of a KVM_RUN that the trace does not have"
ONLY_STRACE: Final = "KVM call that only strace has"
ONLY_TRACE: Final = "KVM call that only the trace has"
RET_DIFFERS: Final = "result differs between strace and trace"
FOREIGN_CALL: Final = "KVM call of a thread outside the strace recording"


@attrs.define
class PairedCalls:
    """Goes through the calls of the trace and fetches the records of strace that belong to them, or lie between them.

    follows: strace followed forks and threads (-f). strace_names, trace_name: base names, for places.
    """

    emit: Emitter
    queue: StraceQueue
    pairing: Pairing
    places: MemslotPlaces
    tally: Tally
    strace_names: tuple[str, ...]
    trace_name: str
    trace_file: int
    follows: bool = True
    _open: dict[int, OpenCall] = attrs.field(factory=dict)
    _late: dict[int, list[Event]] = attrs.field(factory=dict)
    _gap: set[int | None] = attrs.field(factory=set)
    _least_ns: int | None = None
    _differs: int = 0

    # -- what the trace says

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call: fetch its record, and first all that strace has before it."""
        record = syscall_record(task, call, line, self.trace_file)
        if record is None or call.name != "ioctl":
            self.tally.add(self._place(line), f"sys_{call.name}", "ignored")
            return
        if self.emit.owners.is_outside(task.tid):
            self.emit.owners.strangers.add(task.tid)
            self.tally.add(self._place(line), FOREIGN_CALL, "ignored" if self.follows else "unknown")
            return
        if task.tid in self._open:
            self._lost_exit(task.tid, self._place(line))
        self._tick(task.time_ns)
        fd, cmd = call.args["fd"], call.args["cmd"]
        entry = self.pairing.match(task.tid, fd, cmd, task.time_ns)
        if entry is None:
            self.tally.add(self._place(line), f"{ONLY_TRACE}: {ioctl_name(cmd)}")
        else:
            self._flush(entry.place)
            assert isinstance(entry.record, Syscall)
            self._learn_offset(entry, task.time_ns)
            record = entry.record
            record.enter_ns = task.time_ns
        self.write(self._resolve_enter(record))
        self._entered(OpenCall(record, entry, cmd, self.emit.resolver.vm_of_call(record)))

    def _entered(self, call: OpenCall) -> None:
        tid = call.record.tid
        self._open[tid] = call
        self._gap.discard(call.vm)
        self.emit.owners.enter(tid, call.vm)
        if self.places.opened(call) and call.vm is not None:
            self.emit.owners.pages_of(call.vm).watch(on=True)

    def exit(self, task: TaskLine, call: SyscallExit, line: int) -> None:
        """Take the result of a call: its events are written here, unless they had to come before."""
        opened = self._open.pop(task.tid, None)
        if opened is None:
            if call.name == "ioctl" and not self.emit.owners.is_outside(task.tid):
                self.tally.add(self._place(line), LATE_EXIT, "ignored")  # not of KVM, or entered before the trace
            return
        if opened.entry is None:
            opened.record.exit_line = line
        self._finish(opened, task.time_ns, call.ret, self._place(line))

    def use(self, use: Use) -> None:
        """Write the memslot call under way that a new shadow page shows to be committed."""
        for call in self.places.others(use.vm):
            if call.entry is not None:
                self.queue.pull_done(call.entry)
        found = self.places.used(use.vm, use.gfn)
        if found is not None:
            self._commit(found, use.time_ns, None, self.trace_name)

    def end(self) -> None:
        """Take the end of the trace: finish what is open, then all that strace has left."""
        for tid in sorted(self._open):
            self._lost_exit(tid, f"{self.trace_name}: end")
        while self.queue.pull() or not self.queue.ended:
            if len(self.queue.log) >= AHEAD_MAX:
                self._flush(self.queue.log[-1].place)
        self._flush(None)
        self.write(self.emit.resolver.end())
        self._judge()

    def _judge(self) -> None:
        if self.queue.kvm_calls and not self.pairing.pairs:
            raise PairingError(
                "no KVM call of the strace recording is in the trace",
                where=self.trace_name,
                expected="one run, recorded by both at once",
                advice="enable the events syscalls/sys_enter_ioctl and sys_exit_ioctl, and record both outside of any container",
            )
        if self._differs > max(16, self.pairing.pairs // 2):
            raise PairingError(
                f"{self._differs} of {self.pairing.pairs} calls have different results in the two recordings",
                where=self.trace_name,
                expected="one run, recorded by both at once",
            )

    # -- the end of a call

    def _lost_exit(self, tid: int, place: str) -> None:
        """End a call whose exit the trace does not have."""
        opened = self._open.pop(tid)
        if opened.entry is not None:
            self.queue.pull_done(opened.entry)
        killed = opened.entry is not None and opened.record.ret is None
        self.tally.add(place, LOST_EXIT, "ignored" if killed else "lost")
        self._finish(opened, None, None, place)

    def _finish(self, call: OpenCall, time_ns: int | None, ret: int | None, place: str) -> None:
        if not call.committed:
            if call.entry is not None:
                self.queue.pull_done(call.entry)
            self._explain(call, time_ns)
            self._commit(call, time_ns, ret, place)
        if self.places.closed(call) and call.vm is not None and call.vm in self.emit.owners.vms:
            self.emit.owners.pages_of(call.vm).watch(on=False)
        self.emit.owners.leave(call.record.tid)

    def _explain(self, call: OpenCall, time_ns: int | None) -> None:
        """Commit those calls under way first without which this one could not have had its result."""
        for other in self.places.others(call.vm, call):
            if other.entry is not None:
                self.queue.pull_done(other.entry)
        while (first := self.places.first_before(call)) is not None:
            self._commit(first, time_ns, None, self.trace_name)

    def _commit(self, call: OpenCall, time_ns: int | None, ret: int | None, place: str) -> None:
        """Give the resolver a call's result, and write its events here."""
        record = call.record
        if record.ret is None and ret is not None:
            record.ret, record.killed = ret, False
        elif ret is not None and ret != record.ret:
            self._differs += 1
            self.tally.add(place, RET_DIFFERS)
        record.exit_ns = time_ns
        call.committed = True
        self.write(self._resolve_exit(record))

    def _resolve_enter(self, record: Syscall) -> list[Event]:
        """Give the resolver a call's entry; a split call was read to its end by now and says so, to its reader it begins."""
        if record.stage != BOTH:
            record.stage = ENTER
        return self.emit.resolver.enter(record)

    def _resolve_exit(self, record: Syscall) -> list[Event]:
        if record.stage != BOTH:
            record.stage = EXIT
        return self.emit.resolver.exit(record)

    def write(self, events: list[Event]) -> None:
        """Write events, and note what they do to the slots."""
        for event in events:
            if isinstance(event, MemslotSet):
                self.places.happened(event)
        self.emit.write(events)

    # -- what strace has between the calls

    def _tick(self, time_ns: int | None) -> None:
        """With a common clock, take what strace has up to this time, but for a little."""
        if time_ns is None or self.pairing.offset_ns is None:
            return
        until_ns = time_ns - self.pairing.offset_ns - TICK_NS
        self.queue.pull_to(until_ns)
        while len(self.queue.log) >= AHEAD_MAX and (self.queue.stamp_ns or until_ns) < until_ns:
            self._flush(self.queue.log[-1].place)
            self.queue.pull_to(until_ns)
        last = 0
        for entry in self.queue.log:
            if entry.stamp_ns is not None:
                if entry.stamp_ns > until_ns:
                    break
                last = entry.place
        self._flush(last)

    def _flush(self, limit: int | None) -> None:
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
        self._to_trace_clock(entry)
        tid = record.tid
        if isinstance(record, Syscall):
            if entry.stage == ENTER:
                self._late.setdefault(tid, []).extend(self._resolve_enter(record))
            else:
                late = self._late.pop(tid, [])
                done = self.emit.resolver.feed(record) if entry.stage == BOTH else self._resolve_exit(record)
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
        self.tally.add(f"{self.strace_names[record.file]}:{record.line}", f"{ONLY_STRACE}: {ioctl_name(entry.cmd or 0)}")
        self._to_trace_clock(entry)
        events = self._resolve_enter(record)
        vm = self.emit.resolver.vm_of_call(record)
        if entry.cmd == KVM_RUN and vm not in self._gap:
            self._gap.add(vm)
            task = Task(self.emit.resolver.pid_of(record.tid), record.tid)
            source = Source(record.file, record.line)
            events = [
                *events,
                Lost(vm=vm, what=UNSEEN_RUN, affects="shadow_pages", task=task, time_ns=record.enter_ns, source=source),
            ]
        if entry.done is not None:
            events = [*events, *self._resolve_exit(record)]
        self.write(events)

    def _learn_offset(self, entry: Entry, time_ns: int | None) -> None:
        """Learn how far the clocks are apart when that is not known: a call begins soon after strace stamps it."""
        stamp_ns = entry.stamp_ns
        if stamp_ns is not None and time_ns is not None:
            apart_ns = time_ns - stamp_ns
            self._least_ns = apart_ns if self._least_ns is None else min(self._least_ns, apart_ns)

    def _to_trace_clock(self, entry: Entry) -> None:
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

    def _place(self, line: int) -> str:
        return f"{self.trace_name}:{line}"


def is_kvm_call(call: SyscallEnter) -> bool:
    """Say whether a call of the trace is a KVM ioctl."""
    return call.name == "ioctl" and is_kvm(call.args.get("cmd", 0))
