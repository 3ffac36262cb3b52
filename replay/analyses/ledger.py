"""Keep the findings of one pair of lanes: up to a limit a class, and all of them counted.

A finding stands behind the horizon when it begins after an event whose result one of the two lanes gives differently: from
there on userspace would have acted otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from replay.analyses.findings import CLASSES, ClassCount, Finding

FINDINGS_KEPT: Final = 20_000
"""Most findings that one pair keeps of one class; more are counted only."""


@attrs.define(eq=False)
class Entry:
    """One finding, which later events may still complete: where it becomes visible, where the lanes agree again.

    It is made when somebody reads it: of fields alone, or of a finding and fields that changed since.
    """

    event: int
    divergence: str
    behind_horizon: bool
    _base: Finding | None
    _fields: dict[str, Any]

    def change(self, **fields: Any) -> None:
        """Replace some fields of the finding."""
        self._fields.update(fields)
        self.divergence = fields.get("divergence", self.divergence)

    @property
    def finding(self) -> Finding:
        """The finding as it is now."""
        fields: dict[str, Any] = {"event": self.event, "behind_horizon": self.behind_horizon, **self._fields}
        fields["divergence"] = self.divergence
        return Finding(**fields) if self._base is None else attrs.evolve(self._base, **fields)


@attrs.frozen(eq=False)
class _Later:
    """A finding that is worded when somebody reads it."""

    event: int
    divergence: str
    behind_horizon: bool
    make: Callable[[], Finding]

    @property
    def finding(self) -> Finding:
        """The finding."""
        return attrs.evolve(self.make(), behind_horizon=True) if self.behind_horizon else self.make()


@attrs.define
class _Count:
    """How often one class was found, before any horizon and behind one; first: event, of those before if there are."""

    first: int
    count: int = 0
    behind: int = 0


class Ledger:
    """The findings of one pair."""

    def __init__(
        self, horizon: Callable[[], int | None], kept: int = FINDINGS_KEPT, replayed: Mapping[int, int] | None = None
    ) -> None:
        """horizon: event of the first differing result that is known by now, None while there is none.

        replayed: events that were replayed in the place of another one, by number, with the number of that one.
        """
        self._horizon = horizon
        self._replayed = {} if replayed is None else replayed
        self._kept_most = kept
        self._entries: dict[str, list[Entry | _Later]] = {}
        self._counts: dict[str, _Count] = {}
        self.omitted = 0

    def add(self, finding: Finding) -> Entry:
        """Take a finding; the entry may be changed later."""
        behind = finding.behind_horizon or self._behind(finding.event)
        return self._take(Entry(finding.event, finding.divergence, behind, finding, {}))

    def add_fields(self, event: int, divergence: str, fields: dict[str, Any]) -> Entry:
        """Take a finding of which all other fields are given; the entry may be changed later."""
        return self._take(Entry(event, divergence, self._behind(event), None, fields))

    def _take(self, entry: Entry) -> Entry:
        self._keep(entry, entry.divergence)
        return entry

    def add_later(self, event: int, divergence: str, make: Callable[[], Finding]) -> None:
        """Take a finding that nobody changes; make: words it, the same whenever it is asked."""
        self._keep(_Later(event, divergence, self._behind(event), make), divergence)

    def _behind(self, event: int) -> bool:
        limit = self._horizon()
        return limit is not None and self.place(event) > self.place(limit)

    def _keep(self, entry: Entry | _Later, divergence: str) -> None:
        entries = self._entries.setdefault(divergence, [])
        if len(entries) < self._kept_most:
            entries.append(entry)
        else:
            self.omitted += 1
            self._count(self._counts, entry)

    def place(self, event: int) -> int:
        """Return a number that grows along the replay: that of the event, but for those that were replayed elsewhere."""
        return self._replayed.get(event, event)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings that are kept, by event."""
        kept = [entry.finding for entries in self._entries.values() for entry in entries]
        return tuple(sorted(kept, key=_order))

    def counts(self) -> tuple[ClassCount, ...]:
        """Return all findings counted by class, weakest class first."""
        counts = {name: attrs.evolve(count) for name, count in self._counts.items()}
        for entry in (entry for entries in self._entries.values() for entry in entries):
            self._count(counts, entry)
        return tuple(
            ClassCount(divergence=name, count=found.count, behind_horizon=found.behind, first_event=found.first)
            for name in CLASSES
            if (found := counts.get(name)) is not None
        )

    @staticmethod
    def _count(counts: dict[str, _Count], finding: Entry | _Later) -> None:
        found, event = counts.get(finding.divergence), finding.event
        if found is None:
            found = counts[finding.divergence] = _Count(event)
        if finding.behind_horizon:
            found.behind += 1
            if not found.count:
                found.first = min(found.first, event)
        else:
            found.first = min(found.first, event) if found.count else event
            found.count += 1


def _order(finding: Finding) -> tuple[int, int, str, tuple[int, ...]]:
    place = tuple(-1 if number is None else number for number in (finding.vm, finding.as_id, finding.slot))
    return (finding.event, CLASSES.index(finding.divergence), finding.catalogue, place)
