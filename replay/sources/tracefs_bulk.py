"""Take tracefs text by whole blocks, as long as nothing in it has to be looked at by itself.

What lines say is worked out for a block at once. Stretches of lines that are known in all of their parts, between lines that
are not, then change the state of the import together: shadow pages of threads whose VM is sure, and calls that need no look.
Every other line, and every line of short stretches, goes to the walk that takes lines one by one, which is the specification.
"""

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from replay.runs import ACCOUNT, UNACCOUNT
from replay.sources.tracefs_calls import CallRun, Calls, QuietCalls
from replay.sources.tracefs_columns import PageColumns
from replay.sources.tracefs_lexer import Block
from replay.sources.tracefs_owners import FastLane
from replay.sources.tracefs_pages import PageFold
from replay.sources.tracefs_reader import BlockReader, Known
from replay.sources.tracefs_words import COLD, RETURNED, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

LINES_MIN: Final = 64
"""Shortest stretch, and block, that is worth it."""
LINES_BEFORE: Final = 1 << 15
"""Lines of a trace that are taken one by one before numpy is imported for the others."""
BLOCKS_PASSED: Final = 15
"""Blocks that are taken one by one after one that was mostly taken so anyhow."""
TRIES: Final = 8
"""Stretches of a block that may turn out to need a look, before the rest of the block is taken line by line."""

CALLS_MIN: Final = 8
"""Fewest calls that are alike and worth to be taken together."""

CALLS_LOOKED: Final = 16
"""Calls of a run that are looked at one by one when it can not be taken, before it is tried again."""

Exact = Callable[[int, int], None]
"""Take the lines of the block from one row to another, one by one."""


@attrs.define
class BulkFold:
    """Takes blocks for a walk, with its fold and its calls."""

    fold: PageFold
    calls: Calls
    _reader: BlockReader = attrs.field(factory=BlockReader)
    _lines: int = 0
    _passing: int = 0
    _tries: int = 0

    def wants(self, block: Block) -> bool:
        """Say whether a block is to be taken here."""
        self._lines += len(block)
        if len(block) < LINES_MIN or (self._lines < LINES_BEFORE and "numpy" not in sys.modules):
            return False
        self._passing = max(self._passing - 1, 0)
        return not self._passing

    def take(self, block: Block, exact: Exact) -> None:
        """Take a block."""
        known = block.known or self._reader.known(block, pairs=self.calls.QUIETS)
        if known is None:
            exact(0, len(block))
            self._passing = BLOCKS_PASSED + 1
            return
        slow = 0
        self._tries = TRIES
        for start, stop, hot in _stretches(known.kind):
            at = start
            while hot and self._tries and at < stop:
                at, looked = self._stretch(block, known, (at, stop), exact)
                slow += looked
            if at < stop:
                exact(at, stop)
                slow += stop - at
        if slow * 2 > len(block):
            self._passing = BLOCKS_PASSED + 1

    def _stretch(self, block: Block, known: Known, span: tuple[int, int], exact: Exact) -> tuple[int, int]:
        """Take what can be taken together of a stretch of known lines; return the row behind, and how many were looked at."""
        start, stop = span
        pages = _within(known.pages, start, stop)
        lanes, first = self._lanes(block, known, pages)
        until = stop if first is None else first
        if self.calls.RUNS and len(pairs := _within(known.pair, start, until)):
            return self._with_run(block, known, (start, pairs, lanes), exact)
        calls = self._quiet_calls(block, known, start, until)
        if calls and not self.calls.quiet_all(calls):
            self._tries -= 1
            until = min(until, start + LINES_MIN)
            until += int(until < stop and known.kind[until] == RETURNED)
            exact(start, until)
            return until, until - start
        self._taken(block, known, (start, until), lanes)
        if first is None:
            return stop, 0
        exact(first, first + 1)
        if self._lanes(block, known, pages[pages == first])[1] is not None:
            self._tries -= 1
        return first + 1, 1

    def _with_run(
        self, block: Block, known: Known, part: "tuple[int, NDArray[Any], dict[int, FastLane]]", exact: Exact
    ) -> tuple[int, int]:
        """Take a stretch up to and with its first calls that are alike; return the row behind, and how many were looked at."""
        start, pairs, lanes = part
        alike = _leading(known, pairs)
        row = int(pairs[0])
        count = 0
        if alike >= CALLS_MIN:
            enters_ns = known.time_ns[pairs[:alike]].tolist()
            count = self.calls.take_run(CallRun((block.line(row), block.line(row + 1)), enters_ns))
        # Pages before the first call belong to what lies before it in strace, which is taken when the call is.
        until = int(pairs[count])
        self._taken(block, known, (start, until), lanes)
        if count:
            return until, 0
        until = int(pairs[min(alike, CALLS_LOOKED) - 1]) + 2
        exact(row, until)
        return until, until - row

    def _taken(self, block: Block, known: Known, span: tuple[int, int], lanes: dict[int, FastLane]) -> None:
        """Take the shadow pages of a stretch whose calls are taken."""
        start, until = span
        self._dull(block, known, _within(known.dull, start, until))
        self._pages(block, known, _within(known.pages, start, until), lanes)
        self.fold.line = block.first_line - 1 + until

    def _lanes(self, block: Block, known: Known, pages: "NDArray[Any]") -> tuple[dict[int, FastLane], int | None]:
        """Return whose pages lines are, by the number of their heads, and the first row of which that is not sure."""
        import numpy as np

        found: dict[int, FastLane] = {}
        task_end, first = known.layout.task_end, None
        starts, places = np.unique(known.start[pages], return_index=True)
        for start, place in zip(starts.tolist(), pages[places].tolist(), strict=True):
            lane = self.fold.owners.fast.get(block.line(place)[:task_end])
            if lane is not None:
                found[start] = lane
            elif first is None or place < first:
                first = place
        return found, first

    def _quiet_calls(self, block: Block, known: Known, start: int, stop: int) -> list[QuietCalls]:
        """Return the calls of a stretch, equal ones together, in order of the last of each."""
        import numpy as np

        pairs = _within(known.pair, start, stop)
        if not len(pairs):
            return []
        texts = known.start[pairs] << 32 | known.number[pairs]
        _, places, counts = np.unique(texts[::-1], return_index=True, return_counts=True)
        last = sorted(zip((len(pairs) - 1 - places).tolist(), counts.tolist(), strict=True))
        return [
            QuietCalls((block.line(row), block.line(row + 1)), block.first_line + row, count)
            for row, count in ((int(pairs[place]), count) for place, count in last)
        ]

    def _dull(self, block: Block, known: Known, rows: "NDArray[Any]") -> None:
        import numpy as np

        if len(rows):
            numbers, places, counts = np.unique(known.number[rows], return_index=True, return_counts=True)
            for place, number, count in sorted(zip(places.tolist(), numbers.tolist(), counts.tolist(), strict=True)):
                self.fold.count_dull(known.bodies.key[number], block.first_line + int(rows[place]), count)

    def _pages(self, block: Block, known: Known, rows: "NDArray[Any]", lanes: dict[int, FastLane]) -> None:
        """Account shadow pages."""
        import numpy as np

        if not len(rows):
            return
        number, kind, line = known.number[rows], known.kind[rows], rows + block.first_line
        starts = sorted(lanes)
        place = np.searchsorted(starts, known.start[rows])
        vms, lives, tasks = zip(*(lanes[start] for start in starts), strict=True)
        gfn, places = table(known.bodies.gfn)[number], table(known.bodies.place)[number]
        left = _unpaired(kind, gfn, places, place)
        keys = map(known.bodies.key.__getitem__, number[left].tolist())
        live = [lives[at] for at in place[left].tolist()] if len(lanes) > 1 else lives[0]
        for unseen in _account(kind[left].tolist(), keys, live):
            self.fold.unseen(int(line[left[unseen]]))
        time_ns = known.time_ns[rows]
        self.fold.out.pages(PageColumns(kind, np.array(vms)[place], gfn, places, np.array(tasks)[place], time_ns, line))


def _unpaired(kind: "NDArray[Any]", *same: "NDArray[Any]") -> "NDArray[Any]":
    """Return which rows are left when pages that are zapped by the row that follows are taken out: they change no count.

    same: what both rows have to agree in.
    """
    import numpy as np

    pair = (kind[:-1] == ACCOUNT) & (kind[1:] == UNACCOUNT)
    for column in same:
        pair &= column[:-1] == column[1:]
    left = np.ones(len(kind), bool)
    left[:-1] &= ~pair
    left[1:] &= ~pair
    rows: NDArray[Any] = np.flatnonzero(left)
    return rows


def _account(kinds: list[int], keys: Iterator[int], lives: dict[int, int] | list[dict[int, int]]) -> list[int]:
    """Count pages that are made and zapped; return the places of those that were zapped and never seen to be made."""
    unseen = []
    if isinstance(lives, list):
        for place, (kind, key, live) in enumerate(zip(kinds, keys, lives, strict=True)):
            if _account([kind], iter((key,)), live):
                unseen.append(place)
        return unseen
    get, pop = lives.get, lives.pop
    for place, (kind, key) in enumerate(zip(kinds, keys, strict=True)):
        if kind == ACCOUNT:
            lives[key] = get(key, 0) + 1
        elif (count := pop(key, 0)) > 1:
            lives[key] = count - 1
        elif not count:
            unseen.append(place)
    return unseen


def _leading(known: Known, pairs: "NDArray[Any]") -> int:
    """Return how many of some calls, from the first one, are alike but for their times."""
    import numpy as np

    other = known.start[pairs[1:]] != known.start[pairs[0]]
    for behind in (0, 1):
        other |= known.number[pairs[1:] + behind] != known.number[pairs[0] + behind]
    places = np.flatnonzero(other)
    return int(places[0]) + 1 if len(places) else len(pairs)


def _within(rows: "NDArray[Any]", start: int, stop: int) -> "NDArray[Any]":
    """Return those of sorted rows that are in a range."""
    import numpy as np

    first, last = np.searchsorted(rows, (start, stop))
    return rows[first:last]


def _stretches(kind: "NDArray[Any]") -> list[tuple[int, int, bool]]:
    """Return the stretches of rows that are known and long enough, and what is between them, as (first, behind, known)."""
    import numpy as np

    hot = np.concatenate(([False], kind != COLD, [False]))
    edges = np.flatnonzero(hot[1:] != hot[:-1]).reshape(-1, 2)
    found, at = [], 0
    for start, stop in edges[edges[:, 1] - edges[:, 0] >= LINES_MIN].tolist():
        if start > at:
            found.append((at, start, False))
        found.append((start, stop, True))
        at = stop
    if at < len(kind):
        found.append((at, len(kind), False))
    return found
