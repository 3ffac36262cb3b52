"""Turn lines of any dialect into accounted pages of VMs: the same work as for tracefs text, with role words and other columns."""

from collections.abc import Iterator

import attrs

from replay.runs import ACCOUNT
from replay.sources.dialects import Dialect, Fact, Thread
from replay.sources.tracefs_grammar import PageEvent
from replay.sources.tracefs_owners import page_key
from replay.sources.tracefs_pages import WORDS_MAX, PageFold


@attrs.frozen
class WordLine:
    """One line of a task: who, when, what; fact None: not understood."""

    thread: Thread
    time_ns: int | None
    body: bytes
    fact: Fact | None


@attrs.define
class WordFold(PageFold):
    """Takes lines of shadow-page events of one dialect; what a head or a body means is remembered."""

    dialect: Dialect = attrs.field(kw_only=True)
    used_lines: int = 0
    _threads: dict[bytes, Thread | None] = attrs.field(factory=dict)
    _known_pages: dict[bytes, tuple[PageEvent, int]] = attrs.field(factory=dict)
    _dull: dict[bytes, list[int]] = attrs.field(factory=dict)

    @property
    def used(self) -> bool:
        """Whether any line was one of a task."""
        return self.used_lines > 0

    def fold(self, lines: Iterator[bytes]) -> bytes | None:
        """Take lines up to one that is no shadow-page event of a thread whose VM is sure; None at their end."""
        known, dull, fast, add = self._known_pages, self._dull, self.owners.fast, self.out.rows.append
        match, time_ns, line, found = self.dialect.line.match, self.dialect.time_ns, self.line, None
        for text in lines:
            line += 1
            columns = match(text)
            if columns is None:
                found = text
                break
            head, time, fraction, body = columns.group("head", "time", "fraction", "body")
            cell = dull.get(body)
            if cell is not None:
                cell[0] += 1
                continue
            page, lane = known.get(body), fast.get(head)
            if page is None or lane is None:
                found = text
                break
            vm, live, task = lane
            event, key = page
            if event.kind == ACCOUNT:
                live[key] = live.get(key, 0) + 1
            elif (count := live.pop(key, 0)) > 1:
                live[key] = count - 1
            elif not count:
                self.unseen(line)
            add((event.kind, vm, event.gfn, event.place, task, time_ns(time, fraction), line))
        self.line = line
        return found

    def parse(self, text: bytes) -> WordLine | None:
        """Return what a line says; None for a line that is of no task."""
        columns = self.dialect.line.match(text)
        if columns is None:
            return None
        head, time, fraction, body = columns.group("head", "time", "fraction", "body")
        thread = self._thread(head)
        if thread is None:
            return None
        self.used_lines += 1
        return WordLine(thread, self.dialect.time_ns(time, fraction), body, self.dialect.fact(body))

    def take(self, text: bytes, found: WordLine, page: PageEvent) -> None:
        """Take one shadow-page event, and remember what its body means."""
        columns = self.dialect.line.match(text)
        assert columns is not None
        head = columns.group("head")
        for table in (self._known_pages, self._dull):
            if len(table) >= WORDS_MAX:
                table.clear()
        if page.kind:
            self._known_pages[found.body] = (page, page_key(page.gfn, page.place))
        else:
            self._dull[found.body] = self._counts.setdefault(page.words, [0, self.line])
        self.one(page, found.thread.tid, found.time_ns, self.line, head=head)

    def _thread(self, head: bytes) -> Thread | None:
        if head not in self._threads:
            if len(self._threads) >= WORDS_MAX:
                self._threads.clear()
            self._threads[head] = self.dialect.thread(head)
        return self._threads[head]
