"""Import tracefs (ftrace) text: shadow pages as they come and go, and the ioctls around them.

A trace without the strace of the same run has no memslot arguments: each such call is an `opaque` event. `MergedImport` in
`replay.sources.merge` takes both.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Final

import attrs

from replay.errors import EmptyError, TraceSyntaxError
from replay.events import Lost, Source
from replay.header import Header, SourceFile, Tool, Trailer
from replay.runs import Item, Run
from replay.sources.lineage import Lineage
from replay.sources.processes import Resolver
from replay.sources.tally import Tally
from replay.sources.tracefs_bulk import BulkFold
from replay.sources.tracefs_calls import QUIET_RESULTS, AloneCalls, Calls, Emitter
from replay.sources.tracefs_grammar import (
    SyscallEnter,
    event_name,
    lost_line,
    overwritten,
    page_event,
    syscall_of,
    task_line,
)
from replay.sources.tracefs_items import ItemWriter
from replay.sources.tracefs_lexer import Block, Blocks, TracefsLexer
from replay.sources.tracefs_owners import Owners
from replay.sources.tracefs_pages import PageFold

BAD_LINES_MAX: Final = 100
"""Lines not understood before the first that is: more, and this is no tracefs text."""
FORMAT: Final = "tracefs"
_USES: Final = re.compile(rb"kvm_mmu_(?:get|prepare_zap)_page: |\bcmd: (?:0x)?(?:ae80|4020ae46|ae41),")
_MAKES: Final = re.compile(rb"\bcmd: (?:0x)?ae01,")
_QUIET_ENDS: Final = tuple(b": " + result for result in sorted(QUIET_RESULTS))
EPOCH_NS_MIN: Final = 10**18
"""Times from here on are since 1970 (September 2001 and later), not since boot."""


@attrs.define
class Walk:
    """Goes through the lines of a trace in order and hands each to the one who knows it.

    lost_affects: what can not be told after a loss; only shadow pages when another recording has the calls. bulk: takes blocks of
    which most lines need no look by themselves; None: each line is taken by itself.
    """

    lexer: Blocks
    calls: Calls
    fold: PageFold
    out: ItemWriter
    tally: Tally
    name: str
    file: int
    lost_affects: str = "everything"
    bulk: BulkFold | None = None
    events: int = 0
    _good: bool = False
    _bad: int = 0
    _odd_line: int | None = None

    def items(self, blocks: Iterable[Block] | None = None) -> Iterator[Item]:
        """Yield what the lines give; blocks: of the lexer, when some were read ahead."""
        for block in self.lexer if blocks is None else blocks:
            if self.bulk is not None and self.bulk.wants(block):
                self.bulk.take(block, partial(self._exact, block))
            else:
                self._exact(block, 0, len(block.lines))
            self.out.spill()
            yield from self._ready()
        self._count_odd(last=True)
        self._end()
        self.out.close()
        yield from self._ready()

    def _end(self) -> None:
        self.calls.end()
        self.fold.end()

    def _exact(self, block: Block, start: int, stop: int) -> None:
        """Take some lines of a block one by one."""
        self.fold.line = block.first_line - 1 + start
        lines = self._loud(block, start, stop)
        while (line := self.fold.fold(lines)) is not None:
            self._cold(line, self.fold.line)

    def _loud(self, block: Block, start: int, stop: int) -> Iterator[bytes]:
        """Yield lines of a block as they are asked for, two empty ones for each call that needs no look."""
        lines, last, taken = block.lines, stop - 1, False
        quiet = self.calls.quiet
        for place in range(start, stop):
            text = lines[place]
            if taken:
                taken = False
                yield b""
                continue
            if text[-1:] == b")" and place < last and lines[place + 1].endswith(_QUIET_ENDS):
                taken = quiet((text, lines[place + 1]), block.first_line + place)
            yield b"" if taken else text

    def _ready(self) -> Iterator[Item]:
        for item in self.out.drain():
            self.events += len(item) if isinstance(item, Run) else 1
            yield item

    def _cold(self, text: bytes, line: int) -> None:
        """Take a line that is no shadow-page event in the usual columns."""
        task = task_line(text)
        if task is None:
            self._no_task(text, line)
            return
        self._good = True
        call = syscall_of(task.body)
        if isinstance(call, SyscallEnter):
            self.calls.enter(task, call, line)
        elif call is not None:
            self.calls.exit(task, call, line)
        elif (page := page_event(task.body)) is not None:
            self.fold.one(page, task.tid, task.time_ns, line)
        else:
            name = event_name(task.body)
            known = not task.body.startswith((b"kvm_mmu_get_page", b"kvm_mmu_prepare_zap_page", b"sys_ioctl"))
            self.tally.add(self._place(line), f"event {name}" if known else f"damaged {name}", "ignored" if known else "unknown")

    def _no_task(self, text: bytes, line: int) -> None:
        """Take a comment, a loss, or a line that is not understood."""
        lost = lost_line(text)
        if lost is not None:
            self._lost(f"ring buffer of CPU {lost.cpu} overran", lost.count, line)
        elif text.startswith(b"#"):
            gone = overwritten(text)
            if gone:
                self._lost("the ring buffer overwrote its oldest events", gone, line)
        elif text.strip():
            self._odd(text, line)

    def _lost(self, what: str, count: int | None, line: int) -> None:
        self.tally.add(self._place(line), what, "lost", 1 if count is None else count)
        self.out.event(Lost(count=count, what=what, affects=self.lost_affects, source=Source(self.file, line)))

    def _odd(self, text: bytes, line: int) -> None:
        self._count_odd()
        self._odd_line = line
        self._bad += 1
        if self._bad > BAD_LINES_MAX and not self._good and not self.fold.used:
            raise TraceSyntaxError(
                f"{self._bad} lines of which none is a trace line, the last one {text[:80]!r}",
                where=self._place(line),
                expected="'comm-tid [cpu] flags seconds.microseconds: event: ...'",
                advice="record with tracefs options raw, hex, bin and verbose off",
            )

    def _count_odd(self, *, last: bool = False) -> None:
        """Count the last line that was not understood: as cut when the text ends with it, and not with a line end."""
        if self._odd_line is None:
            return
        if last and self.lexer.cut and self._odd_line == self.fold.line:
            self.tally.add(self._place(self._odd_line), "last line is cut", "lost")
        else:
            self.tally.add(self._place(self._odd_line), "line not understood")
        self._odd_line = None

    def _place(self, line: int) -> str:
        return f"{self.name}:{line}"


def clock_of(time_ns: int | None) -> str:
    """Return the header's word for the clock of a time stamp: only an epoch clock can be told from its numbers.

    >>> clock_of(1_795_341_862_226_785_000), clock_of(1_825_063_289_000), clock_of(None)
    ('realtime', 'relative', 'none')
    """
    if time_ns is None:
        return "none"
    return "realtime" if time_ns >= EPOCH_NS_MIN else "relative"


def first_time_ns(block: Block | None) -> int | None:
    """Return the time of a block's first line that has one."""
    for line in block.lines if block is not None else ():
        task = task_line(line)
        if task is not None:
            return task.time_ns
    return None


def is_complete_start(block: Block | None) -> bool:
    """Say whether a trace begins before its first VM: nothing of KVM is used before one is created, nothing was overwritten."""
    for line in block.lines if block is not None else ():
        if line.startswith(b"#") and overwritten(line):
            return False
        if _USES.search(line):
            return False
        if _MAKES.search(line):
            return True
    return True


def lineage_of(block: Block | None) -> Lineage:
    """Return what a trace says of processes, as its resolver needs it.

    With option record-tgid each line names its process, and the calls that make tasks are not missed. Without it the trace
    says nothing: two threads whose makers are not known make the resolver tell VMs apart by the threads that call them.
    """
    for line in block.lines if block is not None else ():
        task = task_line(line)
        if task is not None and task.tgid is not None:
            return Lineage(makers_recorded=True)
    return Lineage(first={0: (0, 0), 1: (0, 0)})


class TracefsImport:
    """A stream over one tracefs trace.

    chunks: its bytes, in pieces of any size, or its blocks. name: base name of the file. tgids: option record-tgid is known to
    be on.
    """

    def __init__(self, chunks: Iterable[bytes] | Blocks, *, name: str = "ftrace.txt", tgids: bool = False) -> None:
        self._lexer = chunks if isinstance(chunks, Blocks) else TracefsLexer(chunks)
        self._blocks = iter(self._lexer)
        self._first = next(self._blocks, None)
        self._tally = Tally()
        self.header = Header(
            sources=(SourceFile(name=name[-255:], format=FORMAT),),
            tools=(Tool(name=FORMAT),),
            clock=clock_of(first_time_ns(self._first)),
            provenance="imported from tracefs text",
            complete_start=is_complete_start(self._first),
        )
        self._walk = self._make(name, Lineage(makers_recorded=True) if tgids else lineage_of(self._first))

    def _make(self, name: str, lineage: Lineage) -> Walk:
        resolver = Resolver(lineage, tally=self._tally, names=(name,))
        out, owners = ItemWriter(0), Owners(resolver, by_thread=not lineage.makers_recorded)
        calls = AloneCalls(Emitter(resolver, owners, out), lineage, self._tally, name, 0)
        fold = PageFold(owners, out, self._tally, name)
        return Walk(self._lexer, calls, fold, out, self._tally, name, 0, bulk=BulkFold(fold, calls))

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order; raises TraceSyntaxError for text that is no trace, EmptyError for one without KVM."""
        yield from self._walk.items(chain([] if self._first is None else [self._first], self._blocks))
        if not self._walk.events:
            advice = "enable the events kvmmmu/kvm_mmu_get_page, kvmmmu/kvm_mmu_prepare_zap_page and syscalls/sys_*_ioctl"
            raise EmptyError(
                "no KVM call and no page that shadows a guest's", where=self._walk.name, expected="events of KVM", advice=advice
            )

    def close(self) -> None:
        """Let go of the trace."""
        self._lexer.close()

    def trailer(self) -> Trailer:
        """Return the counts."""
        return Trailer(events=self._walk.events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return what a reader of the stream should know."""
        return tuple(f"{c.first}: {c.kind} ({c.count})" for c in self._tally.counters() if c.severity == "lost")
