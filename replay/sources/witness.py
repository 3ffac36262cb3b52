"""Hold a second recording of a run against the one that is imported: the same calls by the same threads, the same pages."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from replay.errors import UsageError
from replay.header import Header, SourceFile, Tool, Trailer
from replay.runs import ACCOUNT, Item
from replay.sources.dialects import Dialect, Whole
from replay.sources.files import Input, chunks
from replay.sources.ioctls import KVM_RUN, ioctl_name, is_kvm
from replay.sources.tally import Tally
from replay.sources.tracefs_grammar import PageEvent, SyscallEnter, SyscallExit, page_event, syscall_of, task_line
from replay.sources.tracefs_lexer import Block, TracefsLexer
from replay.sources.word_walk import lexer_of, parsed
from replay.stream import Stream

CALLS_DIFFER: Final = "number of calls differs between {a} and {b}"
RESULTS_DIFFER: Final = "results of calls differ between {a} and {b}"
PAGES_DIFFER: Final = "number of shadow pages {what} differs between {a} and {b}"

Fact = tuple[int, int | None, object]
"""Thread, process where it is known, and what its line says."""


@attrs.define
class Witness:
    """What one recording shows, in numbers that do not grow with it.

    calls: of each thread and KVM command but KVM_RUN, how many returned and a checksum of their results in order.
    """

    name: str
    calls: dict[tuple[int, int], tuple[int, int]] = attrs.field(factory=dict)
    made: int = 0
    zapped: int = 0
    _under_way: dict[int, int] = attrs.field(factory=dict)

    def take(self, tid: int, fact: object) -> None:
        """Take what one line says."""
        if isinstance(fact, PageEvent):
            self.made += fact.kind == ACCOUNT
            self.zapped += bool(fact.kind) and fact.kind != ACCOUNT
        elif isinstance(fact, SyscallEnter):
            self._under_way[tid] = fact.args.get("cmd", 0)
        elif isinstance(fact, SyscallExit):
            self._returned(tid, self._under_way.pop(tid, 0), fact.ret)
        elif isinstance(fact, Whole):
            self._under_way.pop(tid, None)
            self._returned(tid, fact.enter.args.get("cmd", 0), fact.exit.ret)

    def _returned(self, tid: int, cmd: int, ret: int) -> None:
        if not is_kvm(cmd) or cmd == KVM_RUN:
            return
        count, checksum = self.calls.get((tid, cmd), (0, 0))
        self.calls[tid, cmd] = (count + 1, zlib.crc32(str(ret).encode(), checksum))


def witness(trace: Input, dialect: Dialect | None, tally: Tally) -> Witness:
    """Read a recording for what can be compared; dialect None: tracefs text. tally: of what keeps it from being compared."""
    found, text = Witness(trace.name), chunks(trace)
    lexer = TracefsLexer(text) if dialect is None else lexer_of(dialect, text, tally, trace.name)
    for block in lexer:
        for tid, fact in _tracefs(block) if dialect is None else _words(block, dialect):
            found.take(tid, fact)
    return found


def _words(block: Block, dialect: Dialect) -> Iterator[tuple[int, object]]:
    for line in parsed([block], dialect):
        yield line.thread.tid, line.fact


def _tracefs(block: Block) -> Iterator[tuple[int, object]]:
    for text in block.lines:
        task = task_line(text)
        if task is not None:
            yield task.tid, syscall_of(task.body) or page_event(task.body)


def conflicts(a: Witness, b: Witness, tally: Tally) -> None:
    """Count in what two recordings of one run differ, of all threads and kinds that both show."""
    common = sorted(a.calls.keys() & b.calls.keys())
    for tid, cmd in common:
        ours, theirs = a.calls[tid, cmd], b.calls[tid, cmd]
        place = f"thread {tid} {ioctl_name(cmd)}: {ours[0]} and {theirs[0]}"
        if ours[0] != theirs[0]:
            tally.add(place, CALLS_DIFFER.format(a=a.name, b=b.name), count=abs(ours[0] - theirs[0]))
        elif ours[1] != theirs[1]:
            tally.add(place, RESULTS_DIFFER.format(a=a.name, b=b.name))
    if not common and a.calls and b.calls:
        tally.add(b.name, f"no thread's calls are in both {a.name} and {b.name}: are they of one run?")
    for what, ours_count, theirs_count in (("made", a.made, b.made), ("zapped", a.zapped, b.zapped)):
        if a.made and b.made and ours_count != theirs_count:
            kind = PAGES_DIFFER.format(what=what, a=a.name, b=b.name)
            tally.add(f"{ours_count} and {theirs_count}", kind, count=abs(ours_count - theirs_count))


class WitnessedStream:
    """A stream whose trace is held against other recordings of the same run when it is exhausted.

    main: the trace that the stream's pages are from; others: further ones. Each is a file and its dialect.
    """

    def __init__(
        self, stream: Stream, main: tuple[Input, Dialect | None], others: Sequence[tuple[Input, Dialect | None]]
    ) -> None:
        self._stream, self._main, self._others, self._tally = stream, main, others, Tally()

    @property
    def header(self) -> Header:
        """The stream's header, with the further recordings among the sources."""
        known = self._stream.header
        names = [(trace.name[-255:], "tracefs" if dialect is None else dialect.name) for trace, dialect in self._others]
        sources = tuple(SourceFile(name=name, format=format_) for name, format_ in names)
        tools = tuple(Tool(name="tracefs" if dialect is None else dialect.recorder) for _, dialect in self._others)
        return attrs.evolve(known, sources=(*known.sources, *sources), tools=(*known.tools, *tools))

    def assume_kvmgt(self) -> None:
        """Hand the word of the user on to the stream."""
        assume = getattr(self._stream, "assume_kvmgt", None)
        if assume is None:
            raise UsageError("no strace among the inputs, and only strace shows VFIO devices", expected="strace text with kvmgt")
        assume()

    def items(self) -> Iterator[Item]:
        """Yield the stream's items, then compare."""
        yield from self._stream.items()
        ours = witness(*self._main, Tally())  # its own import has counted already
        for other in self._others:
            conflicts(ours, witness(*other, self._tally), self._tally)

    def close(self) -> None:
        """Close the stream, where it can be."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def trailer(self) -> Trailer:
        """Return the counts of the stream, and the conflicts."""
        trailer = self._stream.trailer()
        return attrs.evolve(trailer, counters=(*trailer.counters, *self._tally.counters()))

    def warnings(self) -> Sequence[str]:
        """Return the stream's warnings, and each conflict."""
        found = [f"{c.kind} ({c.first})" for c in self._tally.counters()]
        return (*self._stream.warnings(), *found)
