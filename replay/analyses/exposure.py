"""Count where -ENOMEM can come from in one lane: which calls allocate arrays, how many, how large."""

from collections.abc import Iterable
from typing import Final

import attrs

from replay.analyses.compare_report import Exposure
from replay.kvm.machine import Outcome
from replay.kvm.tallies import Marking
from replay.units import ENOMEM

_OUT_OF_MEMORY: Final = -ENOMEM


@attrs.define(eq=False, repr=False)
class _Calls:
    """The fields of an `Exposure` while they grow."""

    calls: int = 0
    arrays: int = 0
    nominal_bytes: int = 0
    largest_bytes: int = 0
    failed: int = 0


class ExposureTally:
    """Running counts of one lane, by kind of event."""

    def __init__(self) -> None:
        self._by_kind: dict[str, _Calls] = {}

    def step(self, kind: str, outcome: Outcome) -> None:
        """Take one event's allocations."""
        failed = outcome.ret == _OUT_OF_MEMORY
        if outcome.marks or failed:
            self.take(kind, outcome.marks, failed=failed)

    def take(self, kind: str, marks: Iterable[Marking], times: int = 1, *, failed: bool = False) -> None:
        """Take what an event of some kind took and gave back; times: how many of the same there were."""
        tally = None
        for mark in marks:
            if mark.taken and mark.arrays:
                tally = tally or self._of(kind)
                tally.arrays += times * mark.arrays
                tally.nominal_bytes += times * mark.nominal_bytes
                tally.largest_bytes = max(tally.largest_bytes, mark.largest_bytes)
        if tally is not None or failed:
            tally = tally or self._of(kind)
            tally.calls += times
            tally.failed += failed

    def _of(self, kind: str) -> _Calls:
        tally = self._by_kind.get(kind)
        if tally is None:
            tally = self._by_kind[kind] = _Calls()
        return tally

    def report(self) -> tuple[Exposure, ...]:
        """Return the counts, by kind."""
        return tuple(Exposure(call=kind, **attrs.asdict(self._by_kind[kind])) for kind in sorted(self._by_kind))
