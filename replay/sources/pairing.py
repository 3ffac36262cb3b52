"""Find, for each KVM call that tracefs saw, the same call in the strace recording.

With a common clock this is exact: strace stamps a call at the ptrace stop before it runs, tracefs when it begins, and a thread
makes one call at a time; so the counterpart is the thread's last call stamped before. Without one, calls are paired in order by
thread, command and fd, from an alignment found once at the start.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from replay.errors import PairingError
from replay.sources.strace_queue import AHEAD_MAX, Entry, Leading, StraceQueue
from replay.sources.syscalls import Syscall
from replay.sources.tally import Tally

SECOND_NS: Final = 1_000_000_000
OFFSETS_NS: Final = (0, 37 * SECOND_NS)
"""Trace clock minus strace's clock, for trace_clock `tai` or a realtime one: TAI is 37 s ahead where it is set, since 2017."""
PREHISTORY_NS: Final = 60 * SECOND_NS
COMPARABLE_NS: Final = 7 * 86_400 * SECOND_NS
NOISE_NS: Final = 2_000
"""How much later than the trace's a stamp may be when nothing earlier fits: the last digit of each."""
OVERLAP_MIN: Final = 8
"""Fewest calls of a thread that an alignment by order has to explain, unless it made fewer."""
SEARCH_MAX: Final = 256
"""Calls of a thread that are looked through for a counterpart."""


@attrs.frozen
class Sample:
    """One KVM call of the trace's beginning; ret is None when its result comes later than the sample ends."""

    tid: int
    fd: int
    cmd: int
    enter_ns: int | None
    ret: int | None = None


@attrs.define
class Pairing:
    """Matches calls; `offset_ns` is the trace's clock minus strace's when it is exact, else None.

    lead: calls of a thread at the trace's beginning that strace does not have.
    """

    queue: StraceQueue
    tally: Tally
    offset_ns: int | None = None
    lead: dict[int, int] = attrs.field(factory=dict)
    pairs: int = 0

    def begin(self, samples: Sequence[Sample]) -> None:
        """Find out how the two recordings lie to each other; raises PairingError when not one call fits.

        Nothing to compare (no KVM call in the sample) leaves the pairing by order.
        """
        if not samples:
            return
        if self._by_clock(samples):
            return
        self._pull_all(samples)
        for tid in sorted({sample.tid for sample in samples}):
            self._align(tid, [sample for sample in samples if sample.tid == tid])
        if self.queue.kvm_calls and not any(self._meets(sample) for sample in samples):
            common = {sample.tid for sample in samples} & set(self.queue.calls)
            raise PairingError(
                "no KVM call of the trace is one of the strace recording" + ("" if common else ": no thread id is in both"),
                expected="one run, recorded by both at once",
                advice="record with trace_clock tai and strace -f -ttt, both outside of the container when there is one",
            )

    def _meets(self, sample: Sample) -> bool:
        """Say whether any waiting call of the sample's thread can be its counterpart."""
        return any(entry.fits(sample.fd, sample.cmd) for entry in self.queue.calls.get(sample.tid, ()))

    def comparable(self, first_ns: int | None) -> bool:
        """Say whether stamps and trace times can be of one clock: both are there, and days apart at most."""
        while self.queue.stamp_ns is None and self.queue.pull():
            pass
        stamp_ns = self.queue.stamp_ns
        return first_ns is not None and stamp_ns is not None and abs(stamp_ns - first_ns) < COMPARABLE_NS

    def match(self, tid: int, fd: int, cmd: int, enter_ns: int | None) -> Entry | None:
        """Return the counterpart of a call that begins now, None when strace does not have it."""
        if self.lead.get(tid, 0) > 0:
            self.lead[tid] -= 1
            return None
        exact = self.offset_ns is not None and enter_ns is not None
        entry = self._by_stamp(tid, fd, cmd, enter_ns or 0) if exact else self._by_order(tid, fd, cmd)
        if entry is not None:
            self.queue.take(entry)
            self.pairs += 1
        return entry

    def run(self, tid: int, leading: Leading, enters_ns: Sequence[int]) -> int:
        """Return how many of a thread's calls, which begin at these times, `match` would pair with what waits first, in order.

        The last of them is never counted, nor what only a look further ahead could tell.
        """
        if self.lead.get(tid, 0) > 0 or len(self.queue.log) >= AHEAD_MAX - len(enters_ns):
            return 0
        stamps = leading.stamps_ns(len(enters_ns) + 2)
        if self.offset_ns is None:
            return max(0, min(len(enters_ns) - 1, len(stamps) - 1))
        count, before_ns = 0, 0
        for enter_ns, stamp_ns, next_ns, after_ns in zip(enters_ns[:-1], stamps, stamps[1:], stamps[2:], strict=False):
            until_ns = enter_ns - self.offset_ns
            if not (before_ns <= until_ns and stamp_ns <= until_ns and until_ns + NOISE_NS < next_ns <= after_ns):
                break
            before_ns = until_ns
            count += 1
        # A call that lies further ahead and is stamped as early as these would be taken instead of one of them.
        early = len(self.queue.up_to(tid, before_ns)) if count else 0
        return 0 if early > min(count, len(leading.entries)) else count

    def take_run(self, leading: Leading, enters_ns: Sequence[int]) -> int:
        """Take what `run` counted, which began at these times; return the least that strace's stamps are behind them."""
        stamps = leading.stamps_ns(len(enters_ns))
        self.queue.take_leading(leading, len(enters_ns))
        self.pairs += len(enters_ns)
        if self.offset_ns is not None:
            self.queue.pull_to(enters_ns[-1] - self.offset_ns + NOISE_NS)
        return min(enter_ns - stamp_ns for enter_ns, stamp_ns in zip(enters_ns, stamps, strict=True))

    def _by_stamp(self, tid: int, fd: int, cmd: int, enter_ns: int) -> Entry | None:
        until_ns = enter_ns - (self.offset_ns or 0)
        self.queue.pull_to(until_ns + NOISE_NS)
        last, late = None, None
        for entry in self.queue.up_to(tid, until_ns + NOISE_NS):
            if (entry.stamp_ns or 0) > until_ns:
                late = late or entry
            else:
                last = entry
        for candidate in (last, late):
            if candidate is not None and candidate.fits(fd, cmd):
                return candidate
        return None

    def _by_order(self, tid: int, fd: int, cmd: int) -> Entry | None:
        for count in (1, SEARCH_MAX):
            self.queue.pull_call(tid, count)
            for entry in list(self.queue.calls.get(tid, ()))[:count]:
                if entry.fits(fd, cmd):
                    return entry
        return None

    def _by_clock(self, samples: Sequence[Sample]) -> bool:
        """Take the clock offset under which nearly all of the sample has a counterpart of its own; False when none does."""
        last_ns = samples[-1].enter_ns
        if not self.comparable(samples[0].enter_ns) or last_ns is None:
            return False
        self.queue.pull_to(last_ns + SECOND_NS)
        scores = [(*self._score(samples, offset_ns), -rank, offset_ns) for rank, offset_ns in enumerate(OFFSETS_NS)]
        found, asked, _, offset_ns = max(scores)
        if found * 2 <= asked or asked - found > max(1, asked // 5):
            return False
        self.offset_ns = offset_ns
        return True

    def _score(self, samples: Iterable[Sample], offset_ns: int) -> tuple[int, int]:
        """Return how many of the sample have a counterpart under an offset, and how many were made while strace was there."""
        calls = {tid: [e for e in waiting if e.stamp_ns is not None] for tid, waiting in self.queue.calls.items()}
        stamps = {tid: [(e.stamp_ns or 0) + offset_ns for e in entries] for tid, entries in calls.items()}
        begin_ns = min((times[0] for times in stamps.values() if times), default=0)
        end_ns = max((times[-1] for times in stamps.values() if times), default=0) + SECOND_NS
        found, asked = set(), 0
        for sample in samples:
            if not stamps.get(sample.tid) or sample.enter_ns is None or not begin_ns <= sample.enter_ns <= end_ns:
                continue
            asked += 1
            index = bisect_right(stamps[sample.tid], sample.enter_ns) - 1
            if index >= 0 and _same(calls[sample.tid][index], sample):
                found.add((sample.tid, index))
        return len(found), asked

    def _pull_all(self, samples: Sequence[Sample]) -> None:
        """Read as far ahead as an alignment may need: some calls more than the sample has, of each of its threads."""
        for tid in sorted({sample.tid for sample in samples}):
            self.queue.pull_call(tid, SEARCH_MAX + len(samples))

    def _align(self, tid: int, samples: Sequence[Sample]) -> None:
        """Find the smallest shift at which a thread's calls fit all along, and pass over what lies before it."""
        entries = list(self.queue.calls.get(tid, ()))
        longest = max(len(entries), len(samples))
        least = min(OVERLAP_MIN, len(entries), len(samples))
        for shift in sorted(range(-longest, longest), key=lambda number: (abs(number), number < 0)):
            pairs = list(zip(entries[max(shift, 0) :], samples[max(-shift, 0) :], strict=False))
            if len(pairs) >= max(1, least) and all(_same(entry, sample) for entry, sample in pairs):
                for entry in entries[: max(shift, 0)]:
                    self.queue.drop(entry)
                self.lead[tid] = max(-shift, 0)
                return


def _same(entry: Entry, sample: Sample) -> bool:
    """Say whether a call of strace and one of the trace agree in all that both say."""
    record = entry.record
    assert isinstance(record, Syscall)
    rets_agree = record.ret is None or sample.ret is None or record.ret == sample.ret
    return entry.fits(sample.fd, sample.cmd) and rets_agree
