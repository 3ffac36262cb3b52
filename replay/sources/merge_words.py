"""Import the strace and another recording of one run, made by bpftrace, perf, trace-cmd or babeltrace2."""

from collections.abc import Iterator, Sequence

from replay.sources.dialects import Dialect, Whole
from replay.sources.files import Input, chunks
from replay.sources.ioctls import KVM_RUN, is_kvm
from replay.sources.kernel_users import KernelUsers
from replay.sources.merge import SAMPLE_CALLS_MAX, MergedImport
from replay.sources.merge_calls import PairedCalls
from replay.sources.pairing import Sample
from replay.sources.strace_runs import LineRun
from replay.sources.syscalls import Record
from replay.sources.tracefs import Walk
from replay.sources.tracefs_calls import Emitter
from replay.sources.tracefs_grammar import SyscallEnter, SyscallExit
from replay.sources.tracefs_lexer import Block, TracefsLexer
from replay.sources.word_pages import WordFold, WordLine
from replay.sources.word_walk import WordWalk, clock_name, lexer_of, parsed, refuse_plugin_text


class WordMerge(MergedImport):
    """A stream over the strace and the recording in a dialect of one run; see `MergedImport`."""

    def __init__(self, straces: Sequence[Input], trace: Input, dialect: Dialect) -> None:
        self._dialect = dialect
        self.FORMAT = dialect.name
        self.WITHOUT = frozenset() if dialect.runs else frozenset({KVM_RUN})
        super().__init__(straces, trace)
        refuse_plugin_text(self._read[0].lines if self._read else (), trace.name)

    def _records(self) -> Iterator[Record | LineRun]:
        return self._strace.records()  # lines of a dialect are taken one by one

    def _lexed(self, trace: Input) -> TracefsLexer:
        return lexer_of(self._dialect, chunks(trace), self._tally, trace.name)

    def _first_time_ns(self) -> int | None:
        return next((found.time_ns for found in parsed(self._read[:1], self._dialect)), None)

    def _clock(self) -> str:
        return clock_name(self._dialect, self._first_ns)

    def _tool(self) -> str:
        return self._dialect.recorder

    def _samples(self, blocks: Sequence[Block]) -> list[Sample]:
        return sample_calls(parsed(blocks, self._dialect), runs=self._dialect.runs)

    def _entering(self) -> set[int]:
        seen: dict[int, bool] = {}
        for found in parsed(self._read[:1], self._dialect):
            seen.setdefault(found.thread.tid, isinstance(found.fact, (SyscallEnter, Whole)))
        return {tid for tid, enters in seen.items() if enters}

    def _walk_of(self, emit: Emitter, calls: PairedCalls, file: int) -> Walk:
        name, tally = self._trace.name, self._tally
        if self._dialect.lossy:
            tally.add(f"{name}:1", self._dialect.lossy, "lost")
        fold = WordFold(emit.owners, emit.out, tally, name, calls.use, roles=True, dialect=self._dialect)
        if not self._dialect.runs:
            fold.on_unknown = calls.running
        users = KernelUsers(emit, tally, name, file)
        return WordWalk(self._lexer, calls, fold, emit.out, tally, name, file, "shadow_pages", dialect=self._dialect, users=users)


def sample_calls(lines: Iterator[WordLine], *, runs: bool) -> list[Sample]:
    """Return the first KVM calls of a trace, with their results; a call with its arguments on a line of their own is one."""
    samples: list[Sample] = []
    waiting: dict[int, int] = {}
    for found in lines:
        tid, fact = found.thread.tid, found.fact
        if isinstance(fact, Whole) and tid in waiting and samples[waiting[tid]].cmd == fact.enter.args["cmd"]:
            fact = fact.exit
        if isinstance(fact, SyscallExit):
            place = waiting.pop(tid, None)
            if place is not None:
                last = samples[place]
                samples[place] = Sample(last.tid, last.fd, last.cmd, last.enter_ns, fact.ret)
            continue
        enter, ret = (fact.enter, fact.exit.ret) if isinstance(fact, Whole) else (fact, None)
        if not isinstance(enter, SyscallEnter) or enter.name != "ioctl" or len(samples) >= SAMPLE_CALLS_MAX:
            continue
        if not is_kvm(enter.args["cmd"]) or (not runs and enter.args["cmd"] == KVM_RUN):
            continue
        if ret is None:
            waiting[tid] = len(samples)
        samples.append(Sample(tid, enter.args["fd"], enter.args["cmd"], found.time_ns, ret))
    return samples
