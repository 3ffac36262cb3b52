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


@attrs.define(eq=False, repr=False)
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
        if callable(fields.get("sides")):
            fields["sides"] = fields["sides"]()
        return Finding(**fields) if self._base is None else attrs.evolve(self._base, **fields)


_Later = tuple[bool, Callable[..., Finding], tuple[Any, ...]]
"""A finding that is worded when somebody reads it: whether it stands behind the horizon, and what words it."""


@attrs.define(eq=False, repr=False)
class _Count:
    """How often one class was found, before any horizon and behind one; first: event, of those before if there are."""

    first: int
    count: int = 0
    behind: int = 0


class Ledger:
    """The findings of one pair."""

    def __init__(
        self,
        horizon: Callable[[], int | None],
        kept: int = FINDINGS_KEPT,
        replayed: Mapping[int, int] | None = None,
        *,
        listed: bool = True,
    ) -> None:
        """horizon: event of the first differing result that is known by now, None while there is none.

        replayed: events that were replayed in the place of another one, by number, with the number of that one.
        listed: False to count findings only.
        """
        self._horizon = horizon
        self._replayed = {} if replayed is None else replayed
        self._kept_most = kept
        self._listed = listed
        self._entries: dict[str, list[Entry | _Later]] = {}
        self._kept: dict[str, int] = {}
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
        if self._keeps(entry.divergence):
            self._entries.setdefault(entry.divergence, []).append(entry)
        else:
            self._count(self._counts, entry.divergence, entry.event, entry.behind_horizon)
        return entry

    def add_later(self, event: int, divergence: str, make: Callable[..., Finding], *of: Any) -> None:
        """Take a finding that nobody changes; make: words it out of what follows, the same whenever it is asked."""
        behind = self._behind(event)
        self._count(self._counts, divergence, event, behind)
        if self._keeps(divergence) and self._listed:
            self._entries.setdefault(divergence, []).append((behind, make, of))

    def _behind(self, event: int) -> bool:
        limit = self._horizon()
        return limit is not None and self.place(event) > self.place(limit)

    def _keeps(self, divergence: str) -> bool:
        """Tell whether one more finding of a class is kept."""
        kept = self._kept.get(divergence, 0)
        if kept < self._kept_most:
            self._kept[divergence] = kept + 1
            return True
        self.omitted += 1
        return False

    def place(self, event: int) -> int:
        """Return a number that grows along the replay: that of the event, but for those that were replayed elsewhere."""
        return self._replayed.get(event, event)

    def findings(self) -> tuple[Finding, ...]:
        """Return the findings that are kept, by event."""
        return tuple(sorted((_finding(entry) for entries in self._entries.values() for entry in entries), key=_order))

    def counts(self) -> tuple[ClassCount, ...]:
        """Return all findings counted by class, weakest class first."""
        counts = {name: attrs.evolve(count) for name, count in self._counts.items()}
        for entry in (entry for entries in self._entries.values() for entry in entries):
            if isinstance(entry, Entry):
                self._count(counts, entry.divergence, entry.event, entry.behind_horizon)
        return tuple(
            ClassCount(divergence=name, count=found.count, behind_horizon=found.behind, first_event=found.first)
            for name in CLASSES
            if (found := counts.get(name)) is not None
        )

    @staticmethod
    def _count(counts: dict[str, _Count], divergence: str, event: int, behind_horizon: bool) -> None:
        found = counts.get(divergence)
        if found is None:
            found = counts[divergence] = _Count(event)
        if behind_horizon:
            found.behind += 1
            if not found.count:
                found.first = min(found.first, event)
        else:
            found.first = min(found.first, event) if found.count else event
            found.count += 1


def _finding(entry: Entry | _Later) -> Finding:
    if isinstance(entry, Entry):
        return entry.finding
    behind, make, of = entry
    return attrs.evolve(make(*of), behind_horizon=True) if behind else make(*of)


def _order(finding: Finding) -> tuple[int, int, str, tuple[int, ...]]:
    place = tuple(-1 if number is None else number for number in (finding.vm, finding.as_id, finding.slot))
    return (finding.event, CLASSES.index(finding.divergence), finding.catalogue, place)
