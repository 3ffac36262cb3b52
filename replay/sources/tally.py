"""Count what an importer meets beside events: losses, things not understood, things without effect."""

from typing import Final

import attrs

from replay.header import Counter

KINDS_MAX: Final = 1000
"""Most kinds that are counted apart; hostile input can not make the table grow beyond it."""
_KIND_TEXT_MAX: Final = 128


@attrs.define
class Cell:
    """How often one kind was met, and where first."""

    count: int
    first: str


@attrs.define
class Tally:
    """Counts by (severity, kind), each with its first place.

    >>> tally = Tally()
    >>> tally.add("a.txt:3", "line not understood")
    >>> tally.counters()[0].count
    1
    """

    _cells: dict[tuple[str, str], Cell] = attrs.field(factory=dict)

    def cell(self, first: str, kind: str, severity: str) -> Cell:
        """Return the cell of a kind, for loops that count by themselves; it counts nothing yet when it is new."""
        self.add(first, kind, severity, 0)
        return self._cells.get((severity, kind[:_KIND_TEXT_MAX])) or self._cells[severity, "other kinds"]

    def add(self, first: str, kind: str, severity: str = "unknown", count: int = 1) -> None:
        """Count one more of a kind; `first` ("file:line") is kept of the first one only."""
        key = (severity, kind[:_KIND_TEXT_MAX])
        cell = self._cells.get(key)
        if cell is None and len(self._cells) >= KINDS_MAX:
            key = (severity, "other kinds")
            cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = Cell(count, first)
        else:
            cell.count += count

    def merge(self, other: "Tally") -> None:
        """Add the counts of another tally; its first places count where this one has none."""
        for counter in other.counters():
            self.add(counter.first, counter.kind, counter.severity, counter.count)

    def count(self, kind: str, severity: str | None = None) -> int:
        """Return how often a kind was counted, under one severity or any."""
        return sum(c.count for (s, k), c in self._cells.items() if k == kind and severity in {None, s})

    def counters(self) -> tuple[Counter, ...]:
        """Return all counts for the trailer, sorted: lost, unknown, ignored, each by kind."""
        order = {"lost": 0, "unknown": 1, "ignored": 2}
        cells = sorted(self._cells.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        return tuple(
            Counter(kind=kind, count=cell.count, first=cell.first, severity=severity) for (severity, kind), cell in cells
        )
