"""Count where -ENOMEM can come from in one lane: which calls allocate arrays, how many, how large."""

from typing import Final

import attrs

from replay.analyses.compare_report import Exposure
from replay.kvm.allocator import SLOT
from replay.kvm.machine import Outcome
from replay.units import ENOMEM

_OUT_OF_MEMORY: Final = -ENOMEM


@attrs.define
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
        sizes = [a.cost.nominal_bytes for a in outcome.taken if a.array != SLOT]
        failed = outcome.ret == _OUT_OF_MEMORY
        if not sizes and not failed:
            return
        tally = self._by_kind.get(kind)
        if tally is None:
            tally = self._by_kind[kind] = _Calls()
        tally.calls += 1
        tally.failed += failed
        if sizes:
            tally.arrays += len(sizes)
            tally.nominal_bytes += sum(sizes)
            tally.largest_bytes = max(tally.largest_bytes, *sizes)

    def report(self) -> tuple[Exposure, ...]:
        """Return the counts, by kind."""
        return tuple(Exposure(call=kind, **attrs.asdict(self._by_kind[kind])) for kind in sorted(self._by_kind))
