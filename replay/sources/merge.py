"""Import the strace and the tracefs recording of one run: arguments and lifetimes from one, places and pages from the other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import attrs

from replay.header import Header, Machine, SourceFile, Trailer
from replay.runs import Item
from replay.sources.files import BLOCK_BYTES, Input, text_blocks, text_lines
from replay.sources.memslot_places import MemslotPlaces
from replay.sources.merge_calls import PairedCalls, is_kvm_call
from replay.sources.pairing import Pairing, Sample
from replay.sources.processes import Resolver
from replay.sources.strace_lexer import StraceLexer
from replay.sources.strace_queue import StraceQueue
from replay.sources.strace_scan import Scanner, ScanResult
from replay.sources.syscalls import Record
from replay.sources.tally import Tally
from replay.sources.tracefs import FORMAT, Walk, clock_of, first_time_ns
from replay.sources.tracefs_calls import Emitter
from replay.sources.tracefs_grammar import SyscallEnter, syscall_of, task_line
from replay.sources.tracefs_lexer import Block, TracefsLexer
from replay.sources.tracefs_owners import Owners
from replay.sources.tracefs_pages import ItemWriter, PageFold

SAMPLE_BLOCKS_MAX: Final = 16
"""Blocks of the trace that are read ahead to align the two recordings."""
SAMPLE_CALLS_MAX: Final = 256


def chunks(source: Input) -> Iterator[bytes]:
    """Yield the decompressed bytes of an input in pieces."""
    with source.open() as stream:
        while data := stream.read(BLOCK_BYTES):
            yield data


def machine_of(facts: Mapping[str, Any]) -> Machine:
    """Return the machine that the first pass's facts describe."""
    return Machine(**facts)


def sample_calls(blocks: Sequence[Block]) -> list[Sample]:
    """Return the first KVM calls of a trace, with their results as far as these blocks have them."""
    samples: list[Sample] = []
    waiting: dict[int, int] = {}
    for row in (row for block in blocks for row in block.rows if b"sys_ioctl" in row[9]):
        task = task_line(row[9])
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


class MergedImport:
    """A stream over the strace and the tracefs recording of one run.

    Raises PairingError, at the first item or at the end, for two recordings that do not show one run.
    """

    def __init__(self, strace: Input, trace: Input, *, strace_first: bool = True) -> None:
        self._strace, self._trace = strace, trace
        self._strace_file, self._trace_file = (0, 1) if strace_first else (1, 0)
        self._tally = Tally()
        self._scan = self._first_pass()
        self._lexer = TracefsLexer(chunks(trace))
        blocks = iter(self._lexer)
        self._read = self._sampled(blocks)
        self._blocks = chain(self._read, blocks)
        sources = [SourceFile(name=strace.name, format="strace"), SourceFile(name=trace.name, format=FORMAT)]
        first_ns = first_time_ns(self._read[0] if self._read else None, latency=self._lexer.latency)
        self.header = Header(
            machine=machine_of(self._scan.facts),
            clock=clock_of(first_ns),
            sources=tuple(sources if strace_first else sources[::-1]),
            complete_start=self._scan.complete_start,
        )
        self._walk = self._make()

    def _first_pass(self) -> ScanResult:
        scanner = Scanner()
        with self._strace.open() as stream:
            scanner.scan(text_blocks(stream), file=self._strace_file)
        return scanner.finish()

    @staticmethod
    def _sampled(blocks: Iterator[Block]) -> list[Block]:
        """Read blocks until they hold calls enough to align by, or are enough themselves."""
        read: list[Block] = []
        calls = 0
        for block in blocks:
            read.append(block)
            calls += len(sample_calls([block]))
            if len(read) >= SAMPLE_BLOCKS_MAX or calls >= SAMPLE_CALLS_MAX:
                break
        return read

    def _make(self) -> Walk:
        resolver = Resolver(self._scan.lineage)
        out, owners = ItemWriter(), Owners(resolver)
        self._queue = StraceQueue(self._records())
        self._pairing = Pairing(self._queue, self._tally)
        first = self._scan.lineage.first
        name, tally = self._trace.name, self._tally
        calls = PairedCalls(
            Emitter(resolver, owners, out),
            self._queue,
            self._pairing,
            MemslotPlaces(),
            tally,
            first.__contains__,
            self._strace.name,
            name,
            self._trace_file,
            follows=len(first) > 1,
        )
        fold = PageFold(owners, out, tally, name, self._trace_file, calls.use, calls.foreign)
        return Walk(self._lexer, calls, fold, out, tally, name, self._trace_file, "shadow_pages")

    def _records(self) -> Iterator[Record]:
        with self._strace.open() as stream:
            lexer = StraceLexer(text_lines(stream), file=self._strace_file, name=self._strace.name, tally=self._tally)
            yield from lexer

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order of the trace."""
        self._pairing.begin(sample_calls(self._read))
        return self._walk.items(self._blocks)

    def trailer(self) -> Trailer:
        """Return the counts."""
        return Trailer(events=self._walk.events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return what a reader of the stream should know."""
        if any(counter.severity != "ignored" for counter in self._tally.counters()):
            return ("some of the two recordings is lost, not understood, or in one of them only; see the counters",)
        return ()
