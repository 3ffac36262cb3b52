"""Turn shadow-page lines into hot events: the accounting rule, applied to whole blocks of lines.

get_page, new, not direct: account_shadowed(). prepare_zap_page, not direct, not yet invalid: unaccount_shadowed(). A root that is
in use is zapped twice, the second time as invalid. Level 1 is accounted as well, it counts no write track.
Source: arch/x86/kvm/mmu/mmu.c account_shadowed(), unaccount_shadowed(), sp_has_gptes(), __kvm_mmu_prepare_zap_page().
"""

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from replay.events import Event, Lost, ShadowRootAlloc, Source, Task
from replay.runs import ACCOUNT, UNACCOUNT, Item, RunBuilder
from replay.sources.tally import Tally
from replay.sources.tracefs_grammar import Row
from replay.sources.tracefs_owners import Lane, Owners, page_key

_LEVELS: Final = {b"1": 1, b"2": 2, b"3": 3, b"4": 4, b"5": 5}
AMBIGUOUS: Final = "shadow page of a thread that belongs to no known VM, or to several"
OUTSIDE: Final = "shadow page of a process outside the recording"
AFTER_END: Final = "shadow page zapped by a process that has no VM any more, or none yet"
UNSEEN: Final = "shadow page zapped whose creation was not recorded"
LEVEL_5: Final = "level 5 shadow page: a passthrough root, which accounts nothing, prints the same text"
ROLE_BITS: Final = "role bits not printed in text: smm, guest_mode (pages taken as address space 0, not nested)"


@attrs.define
class ItemWriter:
    """Put events and runs in order: a structural event closes the run before it."""

    runs: RunBuilder = attrs.field(factory=RunBuilder)
    _out: list[Item] = attrs.field(factory=list)

    def event(self, event: Event) -> None:
        """Write one structural event."""
        self.close()
        self._out.append(event)

    def close(self) -> None:
        """End the run that is being gathered."""
        run = self.runs.take()
        if run is not None:
            self._out.append(run)

    def full(self, item: Item) -> None:
        """Write a run that is complete."""
        self._out.append(item)

    def drain(self) -> list[Item]:
        """Return what is ready and forget it."""
        out, self._out = self._out, []
        return out


@attrs.frozen
class Use:
    """A new shadow page while a memslot call of its VM is under way: may be the first use of the slot."""

    vm: int
    gfn: int
    time_ns: int | None


@attrs.define
class PageFold:
    """Folds rows of `tracefs_grammar.PAGE_LINES` into runs.

    name, file: of the trace, for places. on_use: called before a page of a watched VM is accounted.
    """

    owners: Owners
    out: ItemWriter
    tally: Tally
    name: str
    file: int
    on_use: Callable[[Use], None] | None = None
    microseconds: bool = False
    line: int = 0
    _unowned: set[bytes] = attrs.field(factory=set)
    _ignored: dict[tuple[bytes, bytes, bytes, bytes], list[int]] = attrs.field(factory=dict)

    def fold(self, rows: Iterator[Row]) -> Row | None:
        """Fold rows up to one that is no shadow-page event in the usual columns, and return that; None at their end.

        `line` is the number of the line before the first row, and afterwards of the last one taken.
        The loop is what an import spends its time in: what is rare goes to `_count`.
        """
        fast, append = self.owners.fast, self.out.runs.append
        last_secs, base_ns, line = b"", 0, self.line
        found = None
        for row in rows:
            tid, secs, frac, event, gfn_hex, level_text, direct, invalid, made, other = row
            line += 1
            if other or not tid:
                found = row
                break
            if direct or invalid or (made != b" new" if event == b"get_page" else event != b"prepare_zap_page"):
                self._ignore(event, direct, invalid, made, line)
                continue
            if secs != last_secs:
                last_secs, base_ns = secs, int(secs) * (1000 if self.microseconds else 1_000_000_000)
            time_ns = base_ns + int(frac) * 1000 if frac else base_ns
            lane = fast.get(tid)
            level = _LEVELS[level_text]
            if lane is None or lane.pages.slow or level == 5:
                self._count(row, time_ns, line)
                continue
            gfn = int(gfn_hex, 16)
            key, live = gfn << 3 | level, lane.pages.live
            if made:
                live[key] = live.get(key, 0) + 1
            else:
                self._drop(live, key, line)
            run = append(
                ACCOUNT if made else UNACCOUNT,
                lane.pages.vm,
                gfn,
                level=level,
                task=lane.task,
                time_ns=time_ns,
                file=self.file,
                line=line,
            )
            if run is not None:
                self.out.full(run)
        self.line = line
        return found

    def one(self, row: Row, time_ns: int | None) -> None:
        """Take the row of the current line by itself, when its columns are unusual."""
        event, direct, invalid, made = row[3], *row[6:9]
        if direct or invalid or (made != b" new" if event == b"get_page" else event != b"prepare_zap_page"):
            self._ignore(event, direct, invalid, made, self.line)
        else:
            self._count(row, time_ns, self.line)

    def end(self) -> None:
        """Hand over what was counted by the way."""
        for words, (count, first) in self._ignored.items():
            self.tally.add(self._place(first), (b"kvm_mmu_" + b"".join(words)).decode(), "ignored", count)

    def _count(self, row: Row, time_ns: int | None, line: int) -> None:
        """Find whose page it is, write what has to come before it, and account it."""
        tid_text, gfn, level, made = row[0], int(row[4], 16), _LEVELS[row[5]], bool(row[8])
        key = page_key(gfn, level)
        lane = self.owners.lane(tid_text, key, zap=not made)
        if lane is None:
            self._unplaced(tid_text, time_ns, line, made=made)
            return
        if level == 5:
            self.tally.add(self._place(line), LEVEL_5)
        self._before(lane, gfn, time_ns, line, made=made)
        if made:
            lane.pages.live[key] = lane.pages.live.get(key, 0) + 1
        else:
            self._drop(lane.pages.live, key, line)
        kind = ACCOUNT if made else UNACCOUNT
        vm, task = lane.pages.vm, lane.task
        run = self.out.runs.append(kind, vm, gfn, level=level, task=task, time_ns=time_ns, file=self.file, line=line)
        if run is not None:
            self.out.full(run)

    def _before(self, lane: Lane, gfn: int, time_ns: int | None, line: int, *, made: bool) -> None:
        """Write the slot that the page is the first use of, and the shadow root that KVM must have allocated before."""
        if made and lane.pages.watched and self.on_use is not None:
            self.on_use(Use(lane.pages.vm, gfn, time_ns))
        if not lane.pages.rooted:
            # mmu.c mmu_alloc_shadow_roots() calls mmu_first_shadow_root_alloc() before the first shadow page can be made.
            lane.pages.root()
            source, task = Source(self.file, line), Task(*lane.task)
            vm = lane.pages.vm
            self.out.event(ShadowRootAlloc(vm=vm, ret=0, inferred=True, task=task, time_ns=time_ns, source=source))
            self.tally.add(self._place(line), ROLE_BITS, "ignored")

    def _unplaced(self, tid_text: bytes, time_ns: int | None, line: int, *, made: bool) -> None:
        """Count a line that has no VM; mark the first one of each thread."""
        tid = int(tid_text)
        if self.owners.is_outside(tid):
            if made:
                self.owners.strangers.add(tid)
            self.tally.add(self._place(line), OUTSIDE, "ignored")
            return
        if not made and self.owners.outside is not None and not self.owners.has_vm(tid):
            self.tally.add(self._place(line), AFTER_END, "ignored")
            return
        self.tally.add(self._place(line), AMBIGUOUS)
        if tid_text not in self._unowned:
            self._unowned.add(tid_text)
            task = Task(self.owners.pid_of(tid), tid)
            self.out.event(
                Lost(what=AMBIGUOUS, affects="shadow_pages", task=task, time_ns=time_ns, source=Source(self.file, line))
            )

    def _drop(self, live: dict[int, int], key: int, line: int) -> None:
        count = live.get(key, 0)
        if count > 1:
            live[key] = count - 1
        elif count:
            del live[key]
        else:
            self.tally.add(self._place(line), UNSEEN, "lost")

    def _ignore(self, event: bytes, direct: bytes, invalid: bytes, made: bytes, line: int) -> None:
        words = (event, direct, invalid, made)
        cell = self._ignored.get(words)
        if cell is None:
            self._ignored[words] = [1, line]
        else:
            cell[0] += 1

    def _place(self, line: int) -> str:
        return f"{self.name}:{line}"
