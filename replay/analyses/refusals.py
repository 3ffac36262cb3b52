"""Match calls that fail with -ENOMEM in one lane only: the same shortage of memory may fail another call in the other lane."""

from collections.abc import Callable
from typing import Final

import attrs

from replay.analyses.catalogue import Rule
from replay.analyses.context import Where
from replay.analyses.findings import ENOMEM_GONE, ENOMEM_MOVED, ENOMEM_NEW, Finding, Side
from replay.analyses.ledger import Entry, Ledger
from replay.units import ENOMEM, ret_text

_REFUSED_BY: Final = {"notifier.register": "D8", "shadow_root.alloc": "D9", "vcpu.create": "D19", "tss.set": "D19"}
_STRONGER_ROWS: Final = ("D19", "D32")


def refusal_row(kind: str, *, too_large: bool) -> str:
    """Return the catalogue row of a call that fails in one lane only.

    too_large: one array is larger than all memory.

    >>> refusal_row("memslot.set", too_large=False), refusal_row("memslot.set", too_large=True)
    ('D7', 'D32')
    """
    return "D32" if too_large else _REFUSED_BY.get(kind, "D7")


@attrs.frozen(eq=False, repr=False)
class Refusal:
    """A call that fails with -ENOMEM in one lane only.

    origin: where the lanes parted in the arrays that it is about, None for here. array: what could not be allocated.
    """

    at: Where
    in_other: bool
    as_id: int | None
    slot: int | None
    sides: tuple[Side, Side]
    row: str
    origin: Where | None
    array: str


class Refusals:
    """The unmatched failures of each VM, oldest first."""

    def __init__(self, names: tuple[str, str], ledger: Ledger, row_rule: Callable[[str], tuple[str, Rule]]) -> None:
        """row_rule: the catalogue row that stands for this pair of lanes, and its rule."""
        self._names = names
        self._ledger = ledger
        self._row_rule = row_rule
        self._waiting: dict[int | None, list[tuple[Refusal, Entry]]] = {}

    def take(self, refusal: Refusal) -> Entry:
        """Report a failure, or complete the report of the one in the other lane that it belongs to; return the finding."""
        queue = self._waiting.setdefault(refusal.at.vm, [])
        for place, (first, entry) in enumerate(queue):
            if first.in_other != refusal.in_other:
                del queue[place]
                entry.change(**self._moved(first, refusal))
                return entry
        entry = self._ledger.add(self._lone(refusal))
        queue.append((refusal, entry))
        return entry

    def _moved(self, first: Refusal, second: Refusal) -> dict[str, object]:
        row = next((row for row in _STRONGER_ROWS if row in {first.row, second.row}), "D7")
        calls = (second, first) if first.in_other else (first, second)
        sides = tuple(
            Side(
                lane=name,
                ret=-ENOMEM,
                did=f"-ENOMEM from {call.at.kind} at event {call.at.event}",
                event=call.at.event,
                kind=call.at.kind,
                task=call.at.task,
            )
            for name, call in zip(self._names, calls, strict=True)
        )
        seen = (
            f"result of {first.at.kind} ({self._failing(first)}), and of {second.at.kind} at event {second.at.event} "
            f"({self._failing(second)})"
        )
        row, rule = self._row_rule(row)
        return {
            "divergence": ENOMEM_MOVED,
            "catalogue": row,
            "title": rule.title,
            "explanation": rule.explanation,
            "source": rule.source,
            "sides": sides,
            "visible": seen,
            "root_cause": f"{self._failing(first)} allocates {first.array} there, {self._failing(second)} in {second.at.kind}",
        }

    def _failing(self, refusal: Refusal) -> str:
        return self._names[int(refusal.in_other)]

    def _lone(self, refusal: Refusal) -> Finding:
        at = refusal.at
        row, rule = self._row_rule(refusal.row)
        origin = at if refusal.origin is None else refusal.origin
        failing, spared = self._failing(refusal), self._names[int(not refusal.in_other)]
        cause = (
            f"{failing} allocates {refusal.array} in this call, {spared} does not"
            if refusal.origin is None
            else f"{spared} allocates gfn_write_track there ({origin.kind}), {failing} leaves it for later"
        )
        return Finding(
            event=at.event,
            kind=at.kind,
            place=at.place,
            divergence=ENOMEM_NEW if refusal.in_other else ENOMEM_GONE,
            catalogue=row,
            title=rule.title,
            vm=at.vm,
            as_id=refusal.as_id,
            slot=refusal.slot,
            sides=refusal.sides,
            root_cause_event=origin.event,
            root_cause=cause,
            visible_event=at.event,
            visible=f"result of {at.kind}: {ret_text(-ENOMEM)} under {failing}",
            explanation=rule.explanation,
            source=rule.source,
        )
