"""Turn the lines of shadow-page events into accounted pages of VMs, quickly: a trace is mostly made of them."""

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from replay.events import Lost, ShadowRootAlloc, Source, Task
from replay.runs import ACCOUNT
from replay.sources.tally import Tally
from replay.sources.tracefs_grammar import USUAL_COLUMNS, PageEvent, page_event
from replay.sources.tracefs_items import ItemWriter
from replay.sources.tracefs_owners import Lane, Owners, page_key

AMBIGUOUS: Final = "shadow page of a thread that belongs to no known VM, or to several"
OUTSIDE: Final = "shadow page of a process outside the recording"
AFTER_END: Final = "shadow page zapped by a process that has no VM any more, or none yet"
UNSEEN: Final = "shadow page zapped whose creation was not recorded"
LEVEL_5: Final = "level 5 shadow page: a passthrough root, which accounts nothing, prints the same text"
ROLE_BITS: Final = "role bits not printed in text: smm, guest_mode (pages taken as address space 0, not nested)"
WORDS_MAX: Final = 1 << 16
"""Most bodies of events, and beginnings of lines, that are remembered; more are parsed again."""


@attrs.frozen
class Use:
    """A new shadow page while a memslot call of its VM is under way: may be the first use of the slot."""

    vm: int
    gfn: int
    time_ns: int | None


Known = tuple[int, int, int, int, bytes, int]
"""Columns of a line (end of the thread id, first digit of the seconds, the dot, the event), the second and its dot, and in ns."""


@attrs.define
class PageFold:
    """Takes the lines of shadow-page events.

    name: of the trace, for places. on_use: called before a page of a watched VM is accounted. roles: events carry the whole role
    word, so that nothing of it is missing. on_unknown: called with a thread whose VM is not known; True: ask again.

    The kernel prints the same body for the same page again and again, in the same columns: what a body means, and whose
    thread a line begins with, is remembered, and a line that is known in all of its parts is not parsed; see also
    `replay.sources.tracefs_bulk`.
    """

    owners: Owners
    out: ItemWriter
    tally: Tally
    name: str
    on_use: Callable[[Use], None] | None = None
    line: int = 0
    roles: bool = False
    on_unknown: Callable[[int], bool] | None = None
    _known: Known = (0, 0, 0, 0, b"", 0)
    _begins: set[bytes] = attrs.field(factory=set)
    _pages: dict[bytes, tuple[int, int, int, int]] = attrs.field(factory=dict)
    _ignored: dict[bytes, list[int]] = attrs.field(factory=dict)
    _counts: dict[str, list[int]] = attrs.field(factory=dict)
    _unowned: set[int] = attrs.field(factory=set)

    @property
    def used(self) -> bool:
        """Whether any line was a shadow-page event in the usual columns."""
        return bool(self._known[3])

    def count_dull(self, words: str, line: int, count: int) -> None:
        """Count shadow-page events without effect; line: of the first one."""
        self._counts.setdefault(words, [0, line])[0] += count

    def fold(self, lines: Iterator[bytes]) -> bytes | None:
        """Take lines up to one that is no shadow-page event in the usual columns, and return that; None at their end.

        `line` is the number of the line before the first one, and afterwards of the last one taken.
        """
        pages, ignored, fast, add, line = self._pages, self._ignored, self.owners.fast, self.out.rows.append, self.line
        begins = self._begins
        task_end, seconds, dot, body, second, second_ns = self._known
        micros, stop = dot + 1, body - 2
        found = None
        for text in lines:
            line += 1
            if not text:  # nothing, or a call that is taken already
                continue
            micro = text[micros:stop]
            if text[:seconds] in begins and text[seconds:micros] == second and micro.isdigit() and text[stop:body] == b": ":
                event = text[body:]
                page = pages.get(event)
                if page is None:
                    cell = ignored.get(event)
                    if cell is not None:
                        cell[0] += 1
                        continue
                elif (lane := fast.get(text[:task_end])) is not None:
                    kind, gfn, level, key = page
                    vm, live, task = lane
                    if kind == ACCOUNT:
                        live[key] = live.get(key, 0) + 1
                    elif (count := live.pop(key, 0)) > 1:
                        live[key] = count - 1
                    elif not count:
                        self.unseen(line)
                    add((kind, vm, gfn, level, task, second_ns + int(micro) * 1000, line))
                    continue
            if not self._parse(text, line):
                found = text
                break
            task_end, seconds, dot, body, second, second_ns = self._known
            micros, stop = dot + 1, body - 2
        self.line = line
        return found

    def _parse(self, text: bytes, line: int) -> bool:
        """Take a line that is not known in all of its parts, and learn them; False when it is not of this kind."""
        head = USUAL_COLUMNS.match(text)
        if head is None:
            return False
        page = page_event(text[head.end() :])
        if page is None:
            return False
        second_ns = int(head[3]) * 1_000_000_000
        self._known = (head.end(1), head.start(3), head.end(3), head.end(), head[3] + b".", second_ns)
        if len(self._begins) >= WORDS_MAX:
            self._begins.clear()
        self._begins.add(text[: head.start(3)])
        self._learn(text[head.end() :], page, line)
        tid = int(head[2])
        self.one(page, tid, second_ns + int(head[4]) * 1000, line, head=head[1])
        return True

    def _learn(self, body: bytes, page: PageEvent, line: int) -> None:
        for table in (self._pages, self._ignored):
            if len(table) >= WORDS_MAX:
                table.clear()
        if not page.kind:
            self._ignored[body] = self._counts.setdefault(page.words, [0, line])
        elif page.level < 5:
            self._pages[body] = (page.kind, page.gfn, page.place, page_key(page.gfn, page.place))

    def one(self, page: PageEvent, tid: int, time_ns: int | None, line: int, *, head: bytes = b"") -> None:
        """Take one shadow-page event: find whose it is, write what has to come before it, and account it.

        head: what the lines of its thread begin with, to know them again by.
        """
        if not page.kind:
            self._counts.setdefault(page.words, [0, line])[0] += 1
            return
        made, key = page.kind == ACCOUNT, page_key(page.gfn, page.place)
        lane = self.owners.lane(tid, key, zap=not made)
        if lane is None and self.on_unknown is not None and self.on_unknown(tid):
            lane = self.owners.lane(tid, key, zap=not made)
        if lane is None:
            self._unplaced(tid, time_ns, line, made=made)
            return
        if page.level == 5 and not self.roles:
            self.tally.add(self._place(line), LEVEL_5)
        self._before(lane, page, time_ns, line)
        pages, task = lane.pages, self.out.task_index(lane.task)
        count = pages.live.pop(key, 0)
        if made or count > 1:
            pages.live[key] = count + 1 if made else count - 1
        elif not count:
            self.unseen(line)
        self.out.rows.append((page.kind, pages.vm, page.gfn, page.place, task, time_ns, line))
        if lane.sure and not pages.slow and head:
            self.owners.remember(tid, head, (pages.vm, pages.live, task))

    def end(self) -> None:
        """Hand over what was counted by the way."""
        for words, (count, first) in self._counts.items():
            self.tally.add(self._place(first), words, "ignored", count)

    def _before(self, lane: Lane, page: PageEvent, time_ns: int | None, line: int) -> None:
        """Write the slot that the page is the first use of, and the shadow root that KVM must have allocated before."""
        if page.kind == ACCOUNT and lane.pages.watched and self.on_use is not None:
            self.on_use(Use(lane.pages.vm, page.gfn, time_ns))
        if not lane.pages.rooted:
            # mmu.c mmu_alloc_shadow_roots() calls mmu_first_shadow_root_alloc() before the first shadow page can be made.
            lane.pages.root()
            source, task = Source(self.out.file, line), Task(*lane.task)
            vm = lane.pages.vm
            nested = self.out.nested or page.nested
            self.out.event(ShadowRootAlloc(vm=vm, ret=0, nested=nested, inferred=True, task=task, time_ns=time_ns, source=source))
            if not self.roles:
                self.tally.add(self._place(line), ROLE_BITS, "ignored")

    def _unplaced(self, tid: int, time_ns: int | None, line: int, *, made: bool) -> None:
        """Count a line that has no VM; mark the first one of each thread."""
        if self.owners.is_outside(tid):
            if made:
                self.owners.strangers.add(tid)
            self.tally.add(self._place(line), OUTSIDE, "ignored")
            return
        if not made and self.owners.outside is not None and not self.owners.has_vm(tid):
            self.tally.add(self._place(line), AFTER_END, "ignored")
            return
        self.tally.add(self._place(line), AMBIGUOUS)
        if tid not in self._unowned:
            self._unowned.add(tid)
            task = Task(self.owners.pid_of(tid), tid)
            self.out.event(
                Lost(what=AMBIGUOUS, affects="shadow_pages", task=task, time_ns=time_ns, source=Source(self.out.file, line))
            )

    def unseen(self, line: int) -> None:
        """Count a page that was zapped and never seen to be made."""
        self.tally.add(self._place(line), UNSEEN, "lost")

    def _place(self, line: int) -> str:
        return f"{self.name}:{line}"
