"""Import strace text as a stream of events: the first pass, the merge of -ff files, the resolver, and what it all lacks."""

import heapq
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import BinaryIO, Final

import attrs

from replay.errors import TraceOptionError
from replay.events import Event, Lost
from replay.header import Header, Machine, SourceFile, Tool, Trailer
from replay.runs import Item
from replay.sources.files import Input, text_blocks, text_lines
from replay.sources.processes import Resolver
from replay.sources.strace_lexer import StraceLexer
from replay.sources.strace_quiet import Quiet
from replay.sources.strace_runs import LineRun, RunLines, runs_vcpu
from replay.sources.strace_scan import Scanner, ScanResult
from replay.sources.syscalls import BOTH, ENTER, EXIT, Record, Syscall
from replay.sources.tally import Tally

FORMAT: Final = "strace"
_SUFFIX_TID: Final = re.compile(r"\.(\d{1,7})(?:\.(?:zst|gz|xz))?$")
_PROBE_LINES: Final = 400
_FAILED_TO_JUDGE: Final = 10
_SMALL_FILE_BYTES: Final = 1 << 16
_WAITING: Final = frozenset({"recvmsg", "recvmmsg"})
_BY_TIME: Final = itemgetter(0, 1, 2, 3)

_Timed = tuple[int, int, int, int, Record]
"""A record of one of several files: time, file, line, stage to give it with (0: its own), record."""


@attrs.define
class _Part:
    """One file of a run: its input, the tid of all its lines (-ff), its lexer once it is being read."""

    source: Input
    tid: int = 0
    lexer: StraceLexer | None = None


class StraceImport:
    """A stream (`replay.stream.Stream`) over strace text: one file, or the files NAME.TID that -ff writes for one run.

    Reads each input twice. Raises TraceOptionError for text that can not be replayed (-c, -ff without times), EmptyError for
    one without any call, DecompressionError and UnreadableError as the inputs do. One line that is not understood is counted,
    not raised: strace's output may be mixed with its program's.
    """

    def __init__(self, inputs: Sequence[Input]) -> None:
        many = len(inputs) > 1
        parts = [_Part(source, _tid_of_name(source) if many else 0) for source in inputs]
        self._parts = sorted(parts, key=lambda part: (part.tid, part.source.name)) if many else parts
        self._tally = Tally()
        self._scan: ScanResult | None = None
        self._resolver: Resolver | None = None
        self._events = 0
        self._done = False
        self._clock = "none"

    @property
    def header(self) -> Header:
        """What the first pass found: the machine, the clock, the sources."""
        scan = self.scan()
        return Header(
            machine=Machine(**scan.facts),
            clock=self._clock,
            tools=(Tool(name="strace"),),
            sources=tuple(SourceFile(name=part.source.name[-255:], format=FORMAT) for part in self._parts),
            provenance="imported from strace text",
            complete_start=scan.complete_start,
        )

    def scan(self) -> ScanResult:
        """Return the first pass, made when first asked for."""
        if self._scan is None:
            self._probe()
            scanner = Scanner()
            for index, part in enumerate(self._parts):
                with part.source.open() as stream:
                    scanner.scan(text_blocks(stream), tid=part.tid, file=index, by_time=len(self._parts) > 1)
            self._scan = scanner.finish()
        return self._scan

    @property
    def resolver(self) -> Resolver:
        """The resolver that `items` uses; for merges, which ask it which VM a thread works for."""
        if self._resolver is None:
            names = tuple(part.source.name for part in self._parts)
            self._resolver = Resolver(self.scan(), tally=self._tally, names=names)
        return self._resolver

    def assume_kvmgt(self) -> None:
        """Take VFIO devices that are opened for vGPUs of KVMGT; see `replay.sources.vgpu`."""
        self.resolver.world.kvmgt = True

    def items(self) -> Iterator[Item]:
        """Yield events in order of the lines that complete them; see `replay.sources.syscalls`."""
        resolver = self.resolver
        for record in self.records(resolver.take_quiet):
            for event in resolver.feed(record):
                self._events += 1
                yield event
        for event in (*resolver.end(), *self._judge()):
            self._events += 1
            yield event
        self._done = True

    def records(self, quiet: Quiet | None = None) -> Iterator[Record]:
        """Yield the records of all files, in order of lines, of several files in order of time.

        quiet: takes ioctls that need no look, of one file, instead of them being given.
        """
        self.scan()
        if len(self._parts) == 1:
            yield from self._one_file(quiet)
            return
        streams = [_kept(part.source) for part in self._parts]
        try:
            for _, _, _, stage, record in heapq.merge(*(self._timed(i, s) for i, s in enumerate(streams)), key=_BY_TIME):
                if stage and isinstance(record, Syscall):
                    record.stage = stage
                yield record
        finally:
            for stream in streams:
                stream.close()

    def _one_file(self, quiet: Quiet | None) -> Iterator[Record]:
        with self._parts[0].source.open() as stream:
            lexer = self._lexer(0, stream, quiet)
            if quiet is None:
                yield from lexer
                return

            def take(run: LineRun) -> bool:
                if lexer.stamps.eager or quiet(run.tid, run.args, len(run)) is None:
                    return False
                lexer.calls += len(run)
                lexer.succeeded += len(run)
                return True

            yield from lexer.records(RunLines(stream, take))

    def records_and_runs(self) -> Iterator[Record | LineRun]:
        """Yield the records, and lines of one file that are equal but for their times together; for merges."""
        self.scan()
        if len(self._parts) != 1:
            yield from self.records()
            return
        runs: deque[LineRun] = deque()
        with self._parts[0].source.open() as stream:
            lexer = self._lexer(0, stream)

            def take(run: LineRun) -> bool:
                if not lexer.stamps.eager and runs_vcpu(run.args):
                    runs.append(run)
                    return True
                return False

            for record in lexer.records(RunLines(stream, take)):
                while runs:
                    yield runs.popleft()
                yield record
            yield from runs

    def trailer(self) -> Trailer:
        """Return the counts, after `items`."""
        return Trailer(events=self._events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return sentences about what the recording lacks, as far as it has been read."""
        found = [f"{counter.first}: {counter.kind}" for counter in self._tally.counters() if counter.severity == "lost"]
        if self._done and not self._events:
            found.append(f"{self._parts[0].source.name}: no call on KVM in it")
        return tuple(found)

    def _lexer(self, index: int, stream: BinaryIO, quiet: Quiet | None = None) -> StraceLexer:
        part, lines = self._parts[index], text_lines(stream)
        part.lexer = StraceLexer(lines, tid=part.tid, file=index, name=part.source.name, tally=self._tally, quiet=quiet)
        return part.lexer

    def _timed(self, index: int, stream: BinaryIO) -> Iterator[_Timed]:
        """Yield the records of one file of -ff with the times by which files are merged.

        With -T a call comes twice, at its entry and at its exit. Without, it comes at its entry, except a call that waits for
        another task: what it got was not there before, so it comes with the next record of its thread.
        """
        last_ns, waiting = 0, None
        for record in self._lexer(index, stream):
            time_ns = record.enter_ns if isinstance(record, Syscall) else record.time_ns
            last_ns = last_ns if time_ns is None else time_ns
            if waiting is not None:
                yield (last_ns, index, waiting.line, BOTH, waiting)
                waiting = None
            if not isinstance(record, Syscall) or record.stage != BOTH:
                yield (last_ns, index, record.line, 0, record)
            elif record.exit_ns is not None:
                yield (last_ns, index, record.line, ENTER, record)
                yield (record.exit_ns, index, record.line, EXIT, record)
            elif record.name in _WAITING:
                waiting = record
            else:
                yield (last_ns, index, record.line, BOTH, record)
        if waiting is not None:
            yield (last_ns, index, waiting.line, BOTH, waiting)

    def _probe(self) -> None:
        """Look at the first lines of each file: which clock, any call at all."""
        clocks = set()
        calls = 0
        summary = False
        for part in self._parts:
            lexer = StraceLexer(part.source.head().decode("latin-1").split("\n")[:_PROBE_LINES], tid=part.tid)
            records = sum(1 for _ in lexer)
            calls += lexer.calls + records
            summary = summary or lexer.summary
            if records:
                clocks.add(lexer.stamps.clock)
        self._clock = clocks.pop() if len(clocks) == 1 else "none"
        name = self._parts[0].source.label
        if summary and not calls:
            advice = "record without -c, for example: strace -f -ttt -y -e trace=%desc,%process -o FILE COMMAND"
            raise TraceOptionError("is a table of counts (strace -c)", where=name, expected="lines of calls", advice=advice)
        if len(self._parts) > 1 and self._clock not in {"realtime", "time of day"}:
            advice = "record with -ttt, or with -f into one file instead of -ff"
            raise TraceOptionError("several files without a common clock", where=name, expected="times in them", advice=advice)

    def _judge(self) -> list[Event]:
        """Say at the end what an option must have hidden, where the calls that are there prove it.

        -z and status=successful can not be seen: a recording without a failed call may simply be one.
        """
        world = self.resolver.world
        failed = sum(part.lexer.failed for part in self._parts if part.lexer)
        succeeded = sum(part.lexer.succeeded for part in self._parts if part.lexer)
        found = []
        if world.vms_numbered and not world.calls_on_vms and not world.vms_closed:
            found.append("all calls on VMs: strace -P /dev/kvm shows their creation only")
        if failed >= _FAILED_TO_JUDGE and not succeeded:
            found.append("all calls that succeeded: strace -Z or status=failed hides them")
        for what in found:
            self._tally.add(self._parts[0].source.name, what, "lost")
        return [Lost(what=what) for what in found]


def _kept(source: Input) -> BinaryIO:
    """Return a small file's bytes as a stream in memory, so that hundreds of files do not need hundreds of descriptors."""
    head = source.head(_SMALL_FILE_BYTES)
    return io.BytesIO(head) if len(head) < _SMALL_FILE_BYTES else source.open()


def _tid_of_name(source: Input) -> int:
    found = _SUFFIX_TID.search(source.name)
    if found is None:
        advice = "give one strace file, or only the files NAME.TID of one strace -ff"
        raise TraceOptionError("does not end in a thread id", where=source.label, expected="a file of strace -ff", advice=advice)
    return int(found[1])
