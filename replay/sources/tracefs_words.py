"""Know the words of tracefs lines by number: what stands behind the time of a line, and what a line begins with.

The kernel prints the same words again and again. Each is parsed once, by the grammar that single lines are parsed by, and from
then on found by its bytes.
"""

from array import array
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import attrs

from replay.sources.tracefs_calls import QUIET_RESULTS
from replay.sources.tracefs_columns import Layout
from replay.sources.tracefs_grammar import USUAL_COLUMNS, page_event
from replay.sources.tracefs_owners import page_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORDS_MAX: Final = 1 << 16
"""Words that are remembered; with more, all are learned anew."""
COLD: Final = 0
"""A word that only a look at its line can tell."""
DULL: Final = 1
"""A shadow-page event without effect."""
ENTERED: Final = 2
"""Entry of an ioctl."""
RETURNED: Final = 3
"""Result of an ioctl that needs no look if its entry does not."""
FIRST_KIND: Final = 4
"""From here on, the kinds of `replay.runs`."""


@attrs.define
class Bodies:
    """Numbers of bodies, and what each means.

    kind: COLD, DULL, ENTERED, RETURNED, ACCOUNT or UNACCOUNT; gfn and place of a page; key: `page_key`, of a DULL one its words.
    forgotten: how often all were learned anew.
    """

    kind: "array[int]" = attrs.field(factory=lambda: array("B", [COLD]))
    gfn: "array[int]" = attrs.field(factory=lambda: array("Q", [0]))
    place: "array[int]" = attrs.field(factory=lambda: array("H", [0]))
    key: list[Any] = attrs.field(factory=lambda: [None])
    forgotten: int = 0
    _numbers: dict[bytes, int] = attrs.field(factory=dict)

    def numbers(self, bodies: Sequence[bytes]) -> list[int]:
        """Return the number of each body."""
        found = list(map(self._numbers.get, bodies, repeat(-1)))
        new = found.count(-1)
        if new and len(self._numbers) + new > WORDS_MAX:
            self._forget()
            found = [-1] * len(bodies)
        for at in [at for at, number in enumerate(found) if number < 0] if new else ():
            number = self._numbers.get(bodies[at])
            found[at] = self._learned(bodies[at]) if number is None else number
        return found

    def since(self, first: int) -> tuple[bytes, bytes, bytes, list[Any]]:
        """Return what the numbers from one on mean, for another process."""
        return self.kind[first:].tobytes(), self.gfn[first:].tobytes(), self.place[first:].tobytes(), self.key[first:]

    def extend(self, kind: bytes, gfn: bytes, place: bytes, key: list[Any]) -> None:
        """Take what the next numbers mean."""
        self.kind.frombytes(kind)
        self.gfn.frombytes(gfn)
        self.place.frombytes(place)
        self.key.extend(key)

    def _forget(self) -> None:
        self.forgotten += 1
        self._numbers.clear()
        for column in (self.kind, self.gfn, self.place, self.key):
            del column[1:]

    def _learned(self, body: bytes) -> int:
        kind, gfn, place, key = _meaning(body)
        number = 0
        if kind != COLD:
            number = len(self.kind)
            self.kind.append(kind)
            self.gfn.append(gfn)
            self.place.append(place)
            self.key.append(key)
        self._numbers[body] = number
        return number


def _meaning(body: bytes) -> tuple[int, int, int, Any]:
    """Return kind, gfn, place and key of a body."""
    if body in QUIET_RESULTS:
        return RETURNED, 0, 0, None
    if body.startswith(b"sys_ioctl(") and body.endswith(b")"):
        return ENTERED, 0, 0, None
    page = page_event(body)
    if page is None or page.level == 5:  # a page of level 5 is counted by itself
        return COLD, 0, 0, None
    if not page.kind:
        return DULL, 0, 0, page.words
    return page.kind, page.gfn, page.place, page_key(page.gfn, page.place)


@attrs.define
class Heads:
    """Numbers of what lines begin with, up to their time: equal for equal threads, whatever CPU and flags; -1 for none."""

    _numbers: dict[bytes, int] = attrs.field(factory=dict)
    _starts: dict[bytes, int] = attrs.field(factory=dict)
    _layout: Layout | None = None

    def numbers(self, lines: Sequence[bytes], layout: Layout) -> list[int]:
        """Return the numbers of the heads of lines that have a time where the layout has it."""
        if layout != self._layout or len(self._numbers) > WORDS_MAX:
            self._numbers.clear()
            self._layout = layout
        heads = [line[: layout.seconds] for line in lines]
        found = list(map(self._numbers.get, heads))
        for place, number in enumerate(found):
            if number is None:
                found[place] = self._numbers[heads[place]] = self._learned(lines[place], layout)
        return [number for number in found if number is not None]

    def _learned(self, line: bytes, layout: Layout) -> int:
        if layout_of(line) != layout:
            return -1
        start = line[: line.find(b"[", layout.task_end)]
        if start not in self._starts and len(self._starts) >= WORDS_MAX:
            return -1
        return self._starts.setdefault(start, len(self._starts))


def layout_of(line: bytes) -> Layout | None:
    """Return the columns of a line of a task, None for one that does not have the usual ones."""
    head = USUAL_COLUMNS.match(line)
    return None if head is None else Layout(head.end(1), head.start(3), head.end(3), head.end())


def table(column: "array[int]") -> "NDArray[Any]":
    """Return an array of a growing column, as it is now."""
    import numpy as np

    return np.array(column, f"u{column.itemsize}")
