"""Take the system calls of one run that strace and tracefs recorded together: arguments from one, places from the other."""

from collections.abc import Sequence
from typing import ClassVar, Final

import attrs

from replay.errors import PairingError
from replay.sources.ioctls import KVM_RUN, is_kvm
from replay.sources.memslot_places import OpenCall
from replay.sources.pairing import PREHISTORY_NS, Sample
from replay.sources.strace_args import REGION_FIELDS, ioctl_args, region_of
from replay.sources.strace_feed import StraceFeed
from replay.sources.strace_queue import Entry
from replay.sources.syscalls import EXIT, Syscall
from replay.sources.tally import Tally
from replay.sources.tracefs_calls import LATE_EXIT, LOST_EXIT, CallRun, QuietCalls, syscall_record
from replay.sources.tracefs_grammar import SyscallEnter, SyscallExit, TaskLine, syscall_of, task_line
from replay.sources.tracefs_pages import Use
from replay.units import EFAULT, counted

ONLY_TRACE: Final = "KVM call that only the trace has"
RET_DIFFERS: Final = "result differs between strace and trace"
ARGUMENT_DIFFERS: Final = "arguments of a call differ between strace and trace"
FOREIGN_CALL: Final = "KVM call of a thread outside the strace recording"


@attrs.define
class PairedCalls:
    """Goes through the calls of the trace and fetches the records of strace that belong to them, or lie between them.

    follows: strace followed forks and threads (-f). trace_name, trace_file: base name and index of the trace, for places.
    """

    QUIETS: ClassVar[bool] = True
    RUNS: ClassVar[bool] = True

    feed: StraceFeed
    tally: Tally
    trace_name: str
    trace_file: int
    follows: bool = True
    _open: dict[int, OpenCall] = attrs.field(factory=dict)
    _differs: int = 0
    _idle: dict[int, int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.feed.before = self._before

    def begin(self, samples: Sequence[Sample], first_ns: int | None, entering: set[int]) -> None:
        """Align the two recordings by the trace's first calls; take what strace has before its first line, at first_ns.

        entering: threads whose first line in the trace is the entry of a call. Raises PairingError when nothing fits.
        """
        if first_ns is not None and self.feed.pairing.comparable(first_ns):
            self.feed.pull_past(first_ns - PREHISTORY_NS)
        self.feed.pairing.begin(samples)
        if first_ns is not None and self.feed.pairing.offset_ns is not None:
            self._adopt(first_ns - self.feed.pairing.offset_ns, entering)

    def _adopt(self, until_ns: int, entering: set[int]) -> None:
        """Take the calls as entered that strace has under way when the trace begins; their beginning is not in the trace."""
        self.feed.flush(self.feed.last_place(until_ns))
        for entry in list(self.feed.queue.log):
            record = entry.record
            if entry.stamp_ns is None or entry.stamp_ns > until_ns:
                break
            if entry.fd is None or not isinstance(record, Syscall) or record.tid in entering:
                continue
            self.feed.queue.take(entry)
            self.feed.to_trace_clock(entry)
            self.feed.write(self.feed.resolve_enter(record))
            vm = self.feed.emit.resolver.vm_of_call(record)
            if entry.cmd == KVM_RUN:
                self.feed.write(self.feed.unseen_run(record, vm))
            self._entered(OpenCall(record, entry, entry.cmd or 0, vm, adopted=True))

    def enter(self, task: TaskLine, call: SyscallEnter, line: int) -> None:
        """Take the entry of a call: fetch its record, and first all that strace has before it."""
        record = syscall_record(task, call, line, self.trace_file)
        if record is None or call.name != "ioctl":
            self.tally.add(self._place(line), f"sys_{call.name}", "ignored")
            return
        if self.feed.emit.owners.is_outside(task.tid):
            self.feed.emit.owners.strangers.add(task.tid)
            self.tally.add(self._place(line), FOREIGN_CALL, "ignored" if self.follows else "unknown")
            return
        fd, cmd = call.args["fd"], call.args["cmd"]
        if task.tid in self._open:
            self._lost_exit(task.tid, self._place(line))
        self.feed.tick(task.time_ns)
        entry = self.feed.pairing.match(task.tid, fd, cmd, task.time_ns)
        if entry is None:
            self.feed.count_single(
                self._place(line), ONLY_TRACE, cmd, ended=self.feed.queue.ended and not self.feed.queue.calls.get(task.tid)
            )
        else:
            self.feed.flush(entry.place)
            assert isinstance(entry.record, Syscall)
            self.feed.learn_offset(entry, task.time_ns)
            record = entry.record
            record.enter_ns = None if call.late else task.time_ns
            fill_argument(record, call.text)
        self.feed.write(self.feed.resolve_enter(record))
        self._entered(OpenCall(record, entry, cmd, self.feed.emit.resolver.vm_of_call(record), text=call.text))

    def quiet(self, _lines: tuple[bytes, bytes], _line: int) -> bool:
        """Take no call without a look: each has its record in strace."""
        return False

    def quiet_all(self, calls: Sequence[QuietCalls]) -> bool:
        """Take no call without a look."""
        return not calls

    def take_run(self, run: CallRun) -> int:
        """Take the first calls of a run together, as many as are taken one by one without a trace; return how many.

        They are KVM_RUNs that strace has as well, one after the other and nothing between, with the result 0 in both. What is
        left of taking them one by one is their count, and whose vCPU the thread runs. The last one of a run is never taken: what
        follows from it, such as a place, follows from the last call that was looked at.
        """
        known = self._run_of(run.lines)
        if known is None or known[0] in self._open or self.feed.emit.owners.is_outside(known[0]):
            return 0
        tid, fd = known
        leading = self.feed.queue.leading(tid, fd, KVM_RUN, len(run.enters_ns) + 2)
        quiet = self.feed.emit.resolver.knows_quiet(tid, leading.args)
        vm = None if quiet is None else quiet[0].vm
        if vm is None or not vm.alive or self.feed.slots.under_way.get(vm.number):
            return 0
        count = self.feed.pairing.run(tid, leading, run.enters_ns)
        if count:
            self.feed.least(self.feed.pairing.take_run(leading, run.enters_ns[:count]))
            self.feed.gap.discard(vm.number)
            self.feed.emit.resolver.take_quiet(tid, leading.args, count)
        return count

    def _run_of(self, lines: tuple[bytes, bytes]) -> tuple[int, int] | None:
        """Return thread and fd of a KVM_RUN whose result is 0, None for another call."""
        if not lines[1].endswith(b": sys_ioctl -> 0x0"):
            return None
        task = task_line(lines[0])
        call = None if task is None else syscall_of(task.body)
        if task is None or not isinstance(call, SyscallEnter) or call.args.get("cmd") != KVM_RUN or "fd" not in call.args:
            return None
        return task.tid, call.args["fd"]

    def _entered(self, call: OpenCall) -> None:
        tid = call.record.tid
        self._open[tid] = call
        self.feed.gap.discard(call.vm)
        self.feed.emit.owners.enter(tid, call.vm)
        if self.feed.slots.opened(call) and call.vm is not None:
            self.feed.emit.owners.watch(call.vm, on=True)

    def exit(self, task: TaskLine, call: SyscallExit, line: int) -> None:
        """Take the result of a call: its events are written here, unless they had to come before."""
        opened = self._open.pop(task.tid, None)
        if opened is None:
            if call.name == "ioctl" and not self.feed.emit.owners.is_outside(task.tid):
                self.tally.add(self._place(line), LATE_EXIT, "ignored")  # not of KVM, or entered before the trace
            return
        if opened.entry is None:
            opened.record.exit_line = line
        self._finish(opened, task.time_ns, call.ret, self._place(line))

    def running(self, tid: int) -> bool:
        """Take what strace has up to the next KVM_RUN of a thread, in which it must be; False when strace has none.

        For traces that do not record KVM_RUN: a page is made inside it, so all that strace completed before it has happened.
        """
        log = self.feed.queue.log
        if self._idle.get(tid) == (log[-1].place if log else 0):
            return False  # nothing was read since it was asked last
        for entry in self.feed.queue.ahead(tid):
            record = entry.record
            if entry.fd is None and isinstance(record, Syscall) and entry.stage != EXIT and is_run(record):
                self.feed.flush(entry.place + 1)
                return True
        self._idle[tid] = log[-1].place if log else 0
        return False

    def use(self, use: Use) -> None:
        """Write the memslot call under way that a new shadow page shows to be committed."""
        for call in self.feed.slots.others(use.vm):
            if call.entry is not None:
                self.feed.queue.pull_done(call.entry)
        found = self.feed.slots.used(use.vm, use.gfn)
        if found is not None:
            self._explain(found, use.time_ns)
            self._commit(found, use.time_ns, None, self.trace_name)

    def end(self) -> None:
        """Take the end of the trace: finish what is open, then all that strace has left."""
        self.feed.ended = True
        for tid in sorted(self._open):
            self._lost_exit(tid, f"{self.trace_name}: end")
        self.feed.end()
        self._judge()

    def _judge(self) -> None:
        if self.feed.queue.kvm_calls and not self.feed.pairing.pairs:
            raise PairingError(
                "no KVM call of the strace recording is in the trace",
                where=self.trace_name,
                expected="one run, recorded by both at once",
                advice="enable the events syscalls/sys_enter_ioctl and sys_exit_ioctl, and record both outside of any container",
            )
        if self._differs > max(16, self.feed.pairing.pairs // 2):
            raise PairingError(
                f"{self._differs:,} of {counted(self.feed.pairing.pairs, 'call')} have different results in the two recordings",
                where=self.trace_name,
                expected="one run, recorded by both at once",
            )

    def _before(self, entry: Entry) -> None:
        """End a call that the trace leaves open, when strace shows that its thread has gone on."""
        opened = self._open.get(entry.record.tid)
        if opened is not None and opened.entry is not None and opened.entry.done is not None and opened.entry.done < entry.place:
            self._lost_exit(entry.record.tid, f"{self.trace_name}: before a line of strace")

    def _lost_exit(self, tid: int, place: str) -> None:
        """End a call whose exit the trace does not have."""
        opened = self._open.pop(tid)
        done = opened.entry is not None and self.feed.queue.pull_done(opened.entry)
        if not opened.adopted:
            killed = opened.entry is not None and opened.record.ret is None
            self.tally.add(place, LOST_EXIT, "ignored" if killed or (done and self.feed.ended) else "lost")
        self._finish(opened, None, None, place)

    def _finish(self, call: OpenCall, time_ns: int | None, ret: int | None, place: str) -> None:
        if not call.committed:
            if call.entry is not None:
                self.feed.queue.pull_done(call.entry)
                if not fill_argument(call.record, call.text):
                    self.tally.add(place, ARGUMENT_DIFFERS)
            self._explain(call, time_ns)
            self._commit(call, time_ns, ret, place)
        if self.feed.slots.closed(call) and call.vm is not None and call.vm in self.feed.emit.owners.vms:
            self.feed.emit.owners.watch(call.vm, on=False)
        self.feed.emit.owners.leave(call.record.tid)

    def _explain(self, call: OpenCall, time_ns: int | None) -> None:
        """Commit those calls under way first without which this one could not have had its result."""
        for other in self.feed.slots.others(call.vm, call):
            if other.entry is not None:
                self.feed.queue.pull_done(other.entry)
        while (first := self.feed.slots.first_before(call)) is not None:
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
        self.feed.write(self.feed.resolve_exit(record))

    def _place(self, line: int) -> str:
        return f"{self.trace_name}:{line}"


def fill_argument(record: Syscall, text: str) -> bool:
    """Give a call the struct that strace did not show; False when it did, and the trace says another one.

    text: what the trace says, "" for nothing. A call that the kernel could not read the struct of (EFAULT) keeps its pointer.
    """
    args = ioctl_args(record.args) if text else None
    if args is None or not args.arg or record.ret == -EFAULT:
        return True
    if args.arg[:1] == "{":
        shown, said = region_of(args.arg), region_of(text)
        return shown is None or said is None or all(shown.get(name) == said.get(name) for name in REGION_FIELDS)
    if args.arg[:1].isdigit() and ", " not in args.arg:
        record.args = record.args[: len(record.args.rstrip()) - len(args.arg)] + text
    return True


def is_run(record: Syscall) -> bool:
    """Say whether a call of strace is a KVM_RUN."""
    args = ioctl_args(record.args) if record.name == "ioctl" else None
    return args is not None and args.cmd == KVM_RUN


def is_kvm_call(call: SyscallEnter) -> bool:
    """Say whether a call of the trace is a KVM ioctl."""
    return call.name == "ioctl" and is_kvm(call.args.get("cmd", 0))
