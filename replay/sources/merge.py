"""Import the strace and the tracefs recording of one run: arguments and lifetimes from one, places and pages from the other."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from replay.header import SourceFile, Tool, Trailer
from replay.runs import Item
from replay.sources.files import Input
from replay.sources.memslot_places import MemslotPlaces
from replay.sources.merge_calls import PairedCalls, is_kvm_call
from replay.sources.pairing import Pairing, Sample
from replay.sources.processes import Resolver
from replay.sources.strace_feed import StraceFeed
from replay.sources.strace_import import StraceImport
from replay.sources.strace_queue import StraceQueue
from replay.sources.strace_runs import LineRun
from replay.sources.syscalls import Record
from replay.sources.tally import Tally
from replay.sources.tracefs import FORMAT, Walk, clock_of, first_time_ns
from replay.sources.tracefs_bulk import BulkFold
from replay.sources.tracefs_calls import Emitter
from replay.sources.tracefs_grammar import SyscallEnter, syscall_of, task_line
from replay.sources.tracefs_items import ItemWriter
from replay.sources.tracefs_lexer import Block, Blocks, blocks_of
from replay.sources.tracefs_owners import Owners
from replay.sources.tracefs_pages import PageFold

SAMPLE_BLOCKS_MAX: Final = 16
"""Blocks of the trace that are read ahead to align the two recordings."""
SAMPLE_CALLS_MAX: Final = 256


def sample_calls(blocks: Sequence[Block]) -> list[Sample]:
    """Return the first KVM calls of a trace, with their results as far as these blocks have them."""
    samples: list[Sample] = []
    waiting: dict[int, int] = {}
    for line in (line for block in blocks for line in block.lines if b"sys_ioctl" in line):
        task = task_line(line)
        call = None if task is None else syscall_of(task.body)
        if task is None or call is None:
            continue
        if not isinstance(call, SyscallEnter):
            place = waiting.pop(task.tid, None)
            if place is not None:
                samples[place] = attrs.evolve(samples[place], ret=call.ret)
        elif is_kvm_call(call) and "fd" in call.args and len(samples) < SAMPLE_CALLS_MAX:
            waiting[task.tid] = len(samples)
            samples.append(Sample(task.tid, call.args["fd"], call.args["cmd"], task.time_ns))
    return samples


def entering(blocks: Sequence[Block]) -> set[int]:
    """Return the threads whose first line is the entry of a call: nothing was under way before it.

    Only the first lines of the trace are looked at.
    """
    seen: dict[int, bool] = {}
    for line in (line for block in blocks[:1] for line in block.lines):
        task = task_line(line)
        if task is not None and task.tid not in seen:
            seen[task.tid] = isinstance(syscall_of(task.body), SyscallEnter)
    return {tid for tid, enters in seen.items() if enters}


class MergedImport:
    """A stream over the strace and the tracefs recording of one run.

    straces: one strace file, or those of one strace -ff; in the header's sources they come before the trace.
    Raises PairingError, at the first item or at the end, for two recordings that do not show one run.
    What it asks of a trace's text are its methods; `replay.sources.merge_words` has them for other tools.
    """

    FORMAT = FORMAT
    WITHOUT: frozenset[int] = frozenset()

    def __init__(self, straces: Sequence[Input] | StraceImport, trace: Input) -> None:
        self._strace = straces if isinstance(straces, StraceImport) else StraceImport(straces)
        self._trace = trace
        self._tally = Tally()
        self._lexer = self._lexed(trace)
        blocks = iter(self._lexer)
        self._read = self._sampled(blocks)
        self._blocks = chain(self._read, blocks)
        self._first_ns = self._first_time_ns()
        known = self._strace.header
        self.header = attrs.evolve(
            known,
            clock=self._clock(),
            tools=(*known.tools, Tool(name=self._tool())),
            sources=(*known.sources, SourceFile(name=trace.name[-255:], format=self.FORMAT)),
            provenance=f"imported from strace and {self.FORMAT} text of one run",
        )
        self._pairing = Pairing(StraceQueue(self._records(), self.WITHOUT), self._tally)
        self._walk = self._make(len(known.sources))

    def _records(self) -> Iterator[Record | LineRun]:
        return self._strace.records_and_runs()

    def _lexed(self, trace: Input) -> Blocks:
        return blocks_of(trace)

    def _first_time_ns(self) -> int | None:
        return first_time_ns(self._read[0] if self._read else None)

    def _clock(self) -> str:
        return clock_of(self._first_ns)

    def _tool(self) -> str:
        return self.FORMAT

    def _samples(self, blocks: Sequence[Block]) -> list[Sample]:
        return sample_calls(blocks)

    def _entering(self) -> set[int]:
        return entering(self._read)

    def _sampled(self, blocks: Iterator[Block]) -> list[Block]:
        """Read blocks until they hold calls enough to align by, or are enough themselves."""
        read: list[Block] = []
        calls = 0
        for block in blocks:
            read.append(block)
            calls += len(self._samples([block]))
            if len(read) >= SAMPLE_BLOCKS_MAX or calls >= SAMPLE_CALLS_MAX:
                break
        return read

    def _make(self, file: int) -> Walk:
        names = tuple(source.name for source in self.header.sources)
        scan, name, tally = self._strace.scan(), self._trace.name, self._tally
        resolver = Resolver(scan, tally=tally, names=names)
        threads = scan.lineage.first
        by_thread = not scan.lineage.makers_recorded
        owners = Owners(resolver, by_thread=by_thread, outside=lambda tid: tid not in threads)
        emit = Emitter(resolver, owners, ItemWriter(file, nested=self.header.machine.tdp is True))
        feed = StraceFeed(emit, self._pairing, MemslotPlaces(), tally, names)
        calls = PairedCalls(feed, tally, name, file, follows=bool(threads))  # strace names threads with -f only
        self._calls = calls
        return self._walk_of(emit, calls, file)

    def _walk_of(self, emit: Emitter, calls: PairedCalls, file: int) -> Walk:
        fold = PageFold(emit.owners, emit.out, self._tally, self._trace.name, calls.use)
        bulk = BulkFold(fold, calls)
        return Walk(self._lexer, calls, fold, emit.out, self._tally, self._trace.name, file, "shadow_pages", bulk)

    def assume_kvmgt(self) -> None:
        """Take VFIO devices that are opened for vGPUs of KVMGT; see `replay.sources.vgpu`."""
        self._calls.feed.emit.resolver.world.kvmgt = True

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order of the trace."""
        self._calls.begin(self._samples(self._read), self._first_ns, self._entering())
        yield from self._walk.items(self._blocks)

    def trailer(self) -> Trailer:
        """Return the counts."""
        counters = (*self._tally.counters(), *self._strace.trailer().counters)
        order = ("lost", "unknown", "ignored")
        merged = sorted(counters, key=lambda counter: (order.index(counter.severity), counter.kind))
        return Trailer(events=self._walk.events, counters=tuple(merged))

    def warnings(self) -> Sequence[str]:
        """Return what a reader of the stream should know."""
        found = [f"{c.first}: {c.kind} ({c.count})" for c in self.trailer().counters if c.severity == "lost"]
        return tuple(found)

    def close(self) -> None:
        """Let go of the trace."""
        self._lexer.close()
