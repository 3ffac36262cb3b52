"""Go through the lines of any dialect and hand each to the one who knows it; the import of such a trace by itself."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

import attrs

from replay.errors import EmptyError, TraceOptionError, TraceSyntaxError
from replay.header import Header, SourceFile, Tool, Trailer
from replay.runs import UNACCOUNT, Item, Run
from replay.sources import ioctls
from replay.sources.area_book import AreaBook
from replay.sources.areas import Area
from replay.sources.dialects import NOTE, AreaLine, Dialect, Ended, Execed, Forked, Ignored, KernelCall, Whole
from replay.sources.kernel_users import KernelUsers
from replay.sources.lineage import Birth, Lineage
from replay.sources.processes import Resolver
from replay.sources.syscalls import BOTH, Syscall, TaskEnd
from replay.sources.tally import Tally
from replay.sources.time_order import TimeOrder
from replay.sources.tracefs import BAD_LINES_MAX, Walk, clock_of
from replay.sources.tracefs_calls import AloneCalls, Emitter
from replay.sources.tracefs_grammar import LostLine, PageEvent, SyscallEnter, SyscallExit, TaskLine
from replay.sources.tracefs_items import ItemWriter
from replay.sources.tracefs_lexer import Block, WholeLines
from replay.sources.tracefs_owners import Owners
from replay.sources.word_pages import WordFold, WordLine

PLUGIN: Final = "the plugin prints zapped pages without their gfn, and role bits of an old layout: use `trace-cmd report -R`"
NO_ZAPS: Final = "shadow pages are made and none is ever zapped: kvm_mmu_prepare_zap_page was not recorded"
ZAPLESS_MIN: Final = 1000
"""Pages made without one zap that are believed to show that zaps were not recorded."""
_PLUGIN_TEXT: Final = re.compile(rb"page: +(?:(?:new|existing|un)? ?sp gfn [0-9a-f]+ |(?:un)?)\d? ?(?:\d )?q\d ")
_USES: Final = frozenset({ioctls.KVM_RUN, ioctls.KVM_SET_USER_MEMORY_REGION, ioctls.KVM_CREATE_VCPU})


LEAVING_NS: Final = 1_000_000_000
"""How long after its exit began a task is believed to be on its way out."""


@attrs.define
class LiveCalls(AloneCalls):
    """Calls of a trace that may say as well when tasks come, go, and run another program.

    A task's end is recorded when its exit begins, and what it drops it drops after that: its last pages are zapped by exit_mm().
    So it is taken when its process is next heard of, or a second later. Source: kernel/exit.c do_exit(): the tracepoint is first.
    """

    _leaving: dict[int, tuple[TaskLine, int, bool]] = attrs.field(factory=dict)

    def met(self, task: TaskLine) -> None:
        """Take a thread whose lines are of shadow pages only: a worker of the kernel in a VMM's process, for one."""
        if task.tgid is not None and task.tid not in self._known:
            self._meet(task)
            if self.emit.resolver.pid_of(task.tid) != task.tgid:
                self.emit.resolver.world.task(task.tgid)
                self.emit.resolver.world.task(task.tid)

    def ended(self, task: TaskLine, line: int, *, killed: bool) -> None:
        """Take the end of a task that has begun."""
        self._meet(task)
        self._leaving[task.tid] = (task, line, killed)

    def let_go(self, task: TaskLine | None = None) -> None:
        """End the tasks that are on their way out, all of them or those that another line shows to be gone."""
        for gone, line, killed in list(self._leaving.values()):
            if task is None or gone.tgid == task.tgid or (task.time_ns or 0) - (gone.time_ns or 0) > LEAVING_NS:
                del self._leaving[gone.tid]
                self._end(gone, line, killed=killed)

    def end(self) -> None:
        """Write what the end of the trace says."""
        self.let_go()
        super().end()

    def _end(self, task: TaskLine, line: int, *, killed: bool) -> None:
        """End a task: its VMs go with whatever it was the last to hold."""
        end = TaskEnd(task.tid, line, killed=killed, time_ns=task.time_ns, file=self.file)
        self.emit.write(self._late.pop(task.tid, []) + self.emit.resolver.feed(end))
        self._open.pop(task.tid, None)
        self._known.discard(task.tid)
        self.emit.owners.leave(task.tid)

    def forked(self, task: TaskLine, made: Forked, line: int) -> None:
        """Take a new task: a thread shares all, a process has copies."""
        self._meet(task)
        self._known.add(made.tid)
        shares = made.thread
        self.lineage.add(
            Birth(made.tid, task.tid, thread=shares, shares_vm=shares, shares_files=shares, call=line, file=self.file)
        )
        maker = Syscall(task.tid, "clone", "", line, BOTH, ret=made.tid, enter_ns=task.time_ns, file=self.file)
        self.emit.write(self.emit.resolver.feed(maker))

    def execed(self, task: TaskLine, line: int) -> None:
        """Take an execve that succeeded."""
        self._meet(task)
        call = Syscall(task.tid, "execve", "", line, BOTH, ret=0, enter_ns=task.time_ns, file=self.file)
        self.emit.write(self.emit.resolver.feed(call))


@attrs.define
class WordWalk(Walk):
    """Goes through the lines of a dialect; see `replay.sources.tracefs.Walk`.

    lives: takes what a trace says of tasks; None when another recording says it. users: takes calls by the kernel itself. areas:
    takes the vmalloc areas of KVM.
    """

    dialect: Dialect = attrs.field(kw_only=True)
    users: KernelUsers = attrs.field(kw_only=True)
    lives: LiveCalls | None = attrs.field(kw_only=True, default=None)
    areas: AreaBook | None = attrs.field(kw_only=True, default=None)
    _entered: dict[int, tuple[int, int]] = attrs.field(factory=dict)

    def _end(self) -> None:
        super()._end()
        if self.areas is not None:
            self.areas.end()

    def _cold(self, text: bytes, line: int) -> None:
        """Take a line that is no shadow-page event of a thread whose VM is sure."""
        assert isinstance(self.fold, WordFold)
        found = self.fold.parse(text)
        if found is None:
            self._no_task(text, line)
            return
        thread = found.thread
        task = TaskLine(thread.tid, thread.tgid, found.time_ns, found.body, thread.comm)
        if isinstance(found.fact, AreaLine):
            self._area(found.fact, task, line)
            return
        if not isinstance(found.fact, PageEvent):
            self._fact(found, task, line)
            return
        if self.lives is not None and found.fact.kind:
            self.lives.met(task)
        self.fold.take(text, found, found.fact)
        if self.areas is not None:
            self.areas.rooted(task, line)

    def _area(self, fact: AreaLine, task: TaskLine, line: int) -> None:
        """Take an area; like pages, those of a VM go after its last task's exit has begun."""
        if self.areas is None:
            self.tally.add(self._place(line), "vmalloc area", "ignored")
        else:
            self.areas.take(task, Area(fact.taken, fact.address, fact.pages, fact.failed, list(fact.frames)), line)

    def _fact(self, found: WordLine, task: TaskLine, line: int) -> None:
        fact = found.fact
        if self.lives is not None:
            self.lives.let_go(task)
        if isinstance(fact, SyscallEnter):
            self._entered[task.tid] = (fact.args.get("fd", -1), fact.args.get("cmd", -1))
            self.calls.enter(task, fact, line)
        elif isinstance(fact, SyscallExit):
            self._entered.pop(task.tid, None)
            self._exit(task, fact, line)
        elif isinstance(fact, Whole):
            self._whole(fact, task, line)
        elif isinstance(fact, KernelCall):
            if self.lives is not None:
                self.lives.met(task)
            self.users.take(task, fact, line)
            if self.areas is not None and fact.kind == "REGISTER":
                self.areas.returned(task, line, registered=True)
        elif isinstance(fact, (Ended, Forked, Execed)):
            self._life(fact, task, line)
        elif isinstance(fact, Ignored):
            self.tally.add(self._place(line), fact.kind, fact.severity)
        else:
            refuse_plugin_text([found.body], self._place(line))
            word = found.body[:40].partition(b" ")[0].rstrip(b":").decode("ascii", "replace")
            self.tally.add(self._place(line), f"damaged {word}")

    def _whole(self, call: Whole, task: TaskLine, line: int) -> None:
        """Take a call that is recorded at its exit: it was entered before, when its argument was recorded by itself."""
        args = call.enter.args
        if self.lives is None and not self.dialect.runs and args.get("cmd") == ioctls.KVM_RUN:
            return  # the first KVM_RUN of each thread only: the other recording has them all
        if self._entered.pop(task.tid, None) != (args.get("fd", -1), args.get("cmd", -1)):
            self.calls.enter(task, call.enter, line)
        self._exit(task, call.exit, line, runs=args.get("cmd") == ioctls.KVM_RUN)

    def _exit(self, task: TaskLine, call: SyscallExit, line: int, *, runs: bool = False) -> None:
        """Take the result of a call, behind what failed in it, and before what it took. runs: it has begun only."""
        ioctl = self.areas if call.name == "ioctl" and not runs else None
        if ioctl is not None:
            ioctl.returning(task, line)
        self.calls.exit(task, call, line)
        self.users.returned(task.tid)
        if ioctl is not None:
            ioctl.returned(task, line)

    def _life(self, fact: Ended | Forked | Execed, task: TaskLine, line: int) -> None:
        if self.lives is None:
            return
        if isinstance(fact, Ended):
            self._entered.pop(task.tid, None)
            self.lives.ended(task, line, killed=fact.killed)
        elif isinstance(fact, Forked):
            self.lives.forked(task, fact, line)
        else:
            self.lives.execed(task, line)

    def _no_task(self, text: bytes, line: int) -> None:
        if self.areas is not None and self.areas.frame(text):
            return
        said = self.dialect.odd(text)
        if isinstance(said, LostLine):
            where = "" if said.cpu < 0 else f" of CPU {said.cpu}"
            self._lost(f"{self.dialect.recorder} lost events{where}", said.count, line)
        elif said != NOTE and text.strip():
            self._odd(text, line)

    def _count_odd(self, *, last: bool = False) -> None:
        super()._count_odd()
        if last and self.lexer.cut:
            self.tally.add(self._place(self.lexer.line), "last line is cut", "lost")

    def _odd(self, text: bytes, line: int) -> None:
        self._count_odd()
        self._odd_line = line
        self._bad += 1
        if self._bad > BAD_LINES_MAX and not self.fold.used:
            what = f"{self._bad} lines of which none is one of {self.dialect.name}, the last one {text[:80]!r}"
            raise TraceSyntaxError(what, where=self._place(line), expected=f"lines as {self.dialect.recorder} prints them")


def lexer_of(dialect: Dialect, chunks: Iterable[bytes], tally: Tally, name: str) -> WholeLines:
    """Return what splits a dialect's text into blocks of lines in order of time; name: of the file, for places."""
    return WholeLines(chunks) if dialect.ordered else TimeOrder(chunks, tally, name)


def refuse_plugin_text(lines: Iterable[bytes], place: str) -> None:
    """Raise TraceOptionError when a line is one that trace-cmd's KVM plugin prints."""
    if any(b"kvm_mmu_" in line and _PLUGIN_TEXT.search(line) for line in lines):
        raise TraceOptionError("text of trace-cmd's KVM plugin", where=place, expected="raw fields", advice=PLUGIN)


def parsed(blocks: Sequence[Block], dialect: Dialect) -> Iterator[WordLine]:
    """Yield the lines of tasks of some blocks."""
    fold = WordFold(Owners(Resolver()), ItemWriter(), Tally(), "", dialect=dialect)
    for line in (line for block in blocks for line in block.lines):
        found = fold.parse(line)
        if found is not None:
            yield found


def lineage_of(first: WordLine | None) -> Lineage:
    """Return what a dialect's lines say of processes: each one's own when they name it, else nothing."""
    if first is not None and first.thread.tgid is not None:
        return Lineage(makers_recorded=True)
    return Lineage(first={0: (0, 0), 1: (0, 0)})


def clock_name(dialect: Dialect, time_ns: int | None) -> str:
    """Return the header's word for a dialect's clock. bpftrace's nsecs is bpf_ktime_get_boot_ns()."""
    return "boottime" if dialect.recorder == "bpftrace" and time_ns is not None else clock_of(time_ns)


def complete_start(lines: Iterable[WordLine]) -> bool:
    """Say whether a trace begins before its first VM: none of KVM is used before one is created."""
    for found in lines:
        fact = found.fact.enter if isinstance(found.fact, Whole) else found.fact
        if isinstance(fact, PageEvent):
            return False
        if isinstance(fact, SyscallEnter) and fact.args.get("cmd") in _USES:
            return False
        if isinstance(fact, SyscallEnter) and fact.args.get("cmd") == ioctls.KVM_CREATE_VM:
            return True
    return True


class WordImport:
    """A stream over one trace of a dialect. chunks: its bytes, in pieces of any size. name: base name of the file."""

    def __init__(self, chunks: Iterable[bytes], dialect: Dialect, *, name: str = "trace.txt") -> None:
        self._dialect, self._name, self._tally = dialect, name, Tally()
        self._lexer = lexer_of(dialect, chunks, self._tally, name)
        self._blocks = iter(self._lexer)
        self._first = next(self._blocks, None)
        refuse_plugin_text([] if self._first is None else self._first.lines, name)
        start = [] if self._first is None else [self._first]
        first = next(parsed(start, dialect), None)
        self.header = Header(
            sources=(SourceFile(name=name[-255:], format=dialect.name),),
            tools=(Tool(name=dialect.recorder),),
            clock=clock_name(dialect, None if first is None else first.time_ns),
            provenance=f"imported from {dialect.name}",
            complete_start=complete_start(parsed(start, dialect)),
        )
        self._walk = self._make(lineage_of(first))

    def _make(self, lineage: Lineage) -> WordWalk:
        name, tally = self._name, self._tally
        resolver = Resolver(lineage, tally=tally, names=(name,))
        out = ItemWriter(0)
        owners = Owners(resolver, by_thread=not lineage.makers_recorded, outside=_never if lineage.makers_recorded else None)
        calls = LiveCalls(Emitter(resolver, owners, out), lineage, tally, name, 0)
        fold = WordFold(owners, out, tally, name, roles=True, dialect=self._dialect)
        users = KernelUsers(calls.emit, tally, name, 0)
        areas = AreaBook(calls.emit, tally, name, 0)
        dialect = self._dialect
        return WordWalk(self._lexer, calls, fold, out, tally, name, 0, dialect=dialect, users=users, lives=calls, areas=areas)

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order; raises TraceSyntaxError for text that is no trace, EmptyError for one without KVM."""
        if self._dialect.lossy:
            self._tally.add(f"{self._name}:1", self._dialect.lossy, "lost")
        made, zapped = 0, False
        for item in self._walk.items(chain([] if self._first is None else [self._first], self._blocks)):
            if isinstance(item, Run) and not zapped:
                made, zapped = made + len(item), UNACCOUNT in item.kind
            yield item
        if made >= ZAPLESS_MIN and not zapped:
            self._tally.add(self._name, NO_ZAPS, "lost")
        if not self._walk.events:
            advice = "record the kvmmmu events and syscalls/sys_*_ioctl; docs/formats.md has the commands"
            raise EmptyError("no KVM call and no shadow page", where=self._name, expected="events of KVM", advice=advice)

    def trailer(self) -> Trailer:
        """Return the counts."""
        return Trailer(events=self._walk.events, counters=self._tally.counters())

    def warnings(self) -> Sequence[str]:
        """Return what a reader of the stream should know."""
        return tuple(f"{c.first}: {c.kind} ({c.count})" for c in self._tally.counters() if c.severity == "lost")


def _never(_tid: int) -> bool:
    return False
