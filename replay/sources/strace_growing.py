"""Import strace text while it is written: what the first pass would find out is found out a little ahead of the second.

Who made whom has to be known before a task's first line is taken. So lines wait behind a call that makes a task until the task
has shown itself, or for so long that it need not be waited for: a task may begin by sleeping. All that time passes as *rounds*:
pieces of text, of which an empty one says that there is nothing more for now.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs

from replay.header import Header, SourceFile, Tool
from replay.sources.files import LINE_CHARS_MAX, Input
from replay.sources.lineage import Birth, Lineage, MakerCall, birth_of
from replay.sources.strace_import import FORMAT, StraceImport
from replay.sources.strace_lexer import StraceLexer
from replay.sources.strace_quiet import Quiet
from replay.sources.strace_runs import LineRun
from replay.sources.strace_scan import Scanner, ScanResult, lines_with_keys
from replay.sources.syscalls import Record

PATIENCE_ROUNDS: Final = 10
"""Empty pieces of text after which a task that has not shown itself is no longer waited for."""
WAITING_LINES_MAX: Final = 1 << 16
_STAMP: Final = re.compile(r"^\d{1,7} +(\d{9,11})\.(\d{6}) ", re.MULTILINE)

Numbered = tuple[int, str]
"""A line and its number, from 1."""


@attrs.define
class GrowingScanner(Scanner):
    """The first pass over text that grows; `result.lineage` is added to as tasks are made.

    is_task: says whether a number that a call printed is a task's that its caller, the second number, can have made; for tasks
    that sleep.
    """

    is_task: Callable[[int, int], bool] = attrs.field(kw_only=True)
    last_ns: int = 0
    _lexer: StraceLexer = attrs.field(factory=lambda: StraceLexer(()), kw_only=True)
    _age: dict[int, int] = attrs.field(factory=dict, kw_only=True)
    _late: dict[int, MakerCall] = attrs.field(factory=dict, kw_only=True)

    @property
    def lineage(self) -> Lineage:
        """Who made whom, as far as it is known."""
        return self._builder.lineage

    def take(self, text: str, before: int) -> None:
        """Look through whole lines; before: how many lines came before them."""
        self._see_tids(text, before)
        for record in self._lexer.records(lines_with_keys(text, before)):
            self._take(record, by_time=False)
        for found in _STAMP.finditer(text, max(0, len(text) - 2000)):
            self.last_ns = max(self.last_ns, int(found[1]) * 1_000_000_000 + int(found[2]) * 1000)
        self._match()

    def first_held(self) -> int | None:
        """Return the line of the oldest call whose task is waited for; None when none is."""
        return min((call.line for call in self._builder.calls), default=None)

    def round(self, *, last: bool = False) -> None:
        """Let time pass; last: nothing more will come."""
        for call in list(self._builder.calls):
            age = self._age[call.line] = self._age.get(call.line, 0) + 1
            if age >= PATIENCE_ROUNDS or last:
                self._give_up(call)

    def _match(self) -> None:
        """Match calls whose tasks have shown themselves, by the number that the call printed."""
        open_calls = {id_of(call) for call in self._open_calls.values()}
        for call in list(self._builder.calls):
            if call.failed or (call.ret is None and id_of(call) not in open_calls):
                self._done(call)
            elif call.ret is not None and self._shown(call, call.ret):
                self._born(birth_of(call, call.ret), call)
        for tid in [tid for tid, call in self._late.items() if self._shown(call, tid)]:
            self.lineage.add(birth_of(self._late.pop(tid), tid))

    def _shown(self, call: MakerCall, tid: int) -> bool:
        """Say whether a task has shown itself that can be the call's: a number from before is another namespace's, or reused."""
        first = self.lineage.first.get(tid)
        return first is not None and (first > call.place or self.lineage.is_born(tid))

    def _give_up(self, call: MakerCall) -> None:
        """Find the task of a call by what else is known: the machine's own numbers, else the order of numbers."""
        tid = call.ret
        if tid is not None and tid not in self.lineage.first and self.is_task(tid, call.parent):
            self._born(birth_of(call, tid), call)
            return
        orphan = next((other for other in sorted(self.lineage.first) if self._can_be(call, other)), None)
        if orphan is not None:
            birth = birth_of(call, orphan)
            birth.inferred = True
            self._born(birth, call)
        elif call.ret is not None:
            self._late[call.ret] = call  # nothing waits for it any more
            self._done(call)

    def _can_be(self, call: MakerCall, tid: int) -> bool:
        lineage = self.lineage
        return lineage.first[tid] > call.place and not lineage.is_born(tid) and (call.ret is None or call.ret < tid)

    def _born(self, birth: Birth, call: MakerCall) -> None:
        self.lineage.add(birth)
        self._done(call)

    def _done(self, call: MakerCall) -> None:
        self._builder.calls.remove(call)
        self._age.pop(call.line, None)


def id_of(call: MakerCall) -> int:
    """Return what tells a call from others: its line."""
    return call.line


class Gate:
    """Lines of text that grows, each given when all is known that is needed to take it.

    pieces: of the text, of any size; an empty one when there is nothing for now.
    """

    def __init__(self, pieces: Iterable[bytes], scanner: GrowingScanner) -> None:
        self._pieces, self._scanner = iter(pieces), scanner
        self._lines: deque[Numbered] = deque()
        self._carry = ""
        self._cutting = False
        self._count = 0
        self.ended = False

    def lines(self) -> Iterator[Numbered]:
        """Yield the lines with their numbers."""
        while True:
            held = self._scanner.first_held()
            while self._lines and (held is None or self._lines[0][0] < held):
                yield self._lines.popleft()
                held = self._scanner.first_held()
            if self.ended and not self._lines:
                return
            self._read()

    def read_past(self, time_ns: int) -> None:
        """Read until a line is stamped later than this, or to the end."""
        while not self.ended and self._scanner.last_ns <= time_ns:
            self._read()

    def _read(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self.ended = True
            if self._carry:
                self._add(self._carry)
            self._scanner.round(last=True)
        elif piece:
            self._split(piece.decode("latin-1"))
        if not piece or len(self._lines) > WAITING_LINES_MAX:
            self._scanner.round()

    def _split(self, text: str) -> None:
        text = self._carry + text
        end = text.rfind("\n") + 1
        whole, self._carry = text[:end], text[end:]
        if self._cutting and whole:  # the rest of a line that was given already
            whole, self._cutting = whole[whole.index("\n") + 1 :], False
        if whole:
            self._add(whole)
        if len(self._carry) > LINE_CHARS_MAX:
            if not self._cutting:
                self._add(self._carry[:LINE_CHARS_MAX])
            self._carry, self._cutting = "", True

    def _add(self, text: str) -> None:
        self._scanner.take(text, self._count)
        for line in text.removesuffix("\n").split("\n"):
            self._count += 1
            self._lines.append((self._count, line))


class GrowingStrace(StraceImport):
    """A stream over strace text of one file (-f -ttt -y) that is still being written.

    pieces: of its text, see `Gate`. attached: the tasks that strace was attached to, none when it started the program.
    source: names the file; it is not read here.
    """

    def __init__(
        self, pieces: Iterable[bytes], source: Input, *, attached: Iterable[int] = (), is_task: Callable[[int, int], bool]
    ) -> None:
        super().__init__([source])
        roots = sorted(attached)
        self._scan = ScanResult(annotated=True, fd_calls=True, closes=True, complete_start=not roots)
        scanner = GrowingScanner(result=self._scan, is_task=is_task)
        self._scan.lineage = scanner.lineage
        scanner.lineage.makers_recorded = True
        scanner.lineage.attached.update(roots)
        scanner.lineage.first.update(dict.fromkeys(roots, (0, 0)))
        self.gate = Gate(pieces, scanner)

    @property
    def header(self) -> Header:
        """What is known of such text; the machine is for the recorder to say."""
        sources = (SourceFile(name=self._parts[0].source.name[-255:], format=FORMAT),)
        tools = (Tool(name="strace"),)
        return Header(clock="realtime", tools=tools, sources=sources, complete_start=self.scan().complete_start)

    def records(self, quiet: Quiet | None = None) -> Iterator[Record]:
        """Yield the records as they come."""
        part = self._parts[0]
        part.lexer = StraceLexer((), name=part.source.name, tally=self._tally, quiet=quiet)
        return part.lexer.records(self.gate.lines())

    def records_and_runs(self) -> Iterator[Record | LineRun]:
        """Yield the records as they come, each by itself."""
        return self.records()
