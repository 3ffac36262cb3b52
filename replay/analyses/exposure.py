"""Count where -ENOMEM can come from in one lane: which calls allocate arrays, how many, how large."""

import attrs

from replay.analyses.compare_report import Exposure
from replay.kvm.allocator import SLOT
from replay.kvm.machine import Outcome
from replay.units import ENOMEM


class ExposureTally:
    """Running counts of one lane, by kind of event."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Exposure] = {}

    def step(self, kind: str, outcome: Outcome | None) -> None:
        """Take one event's allocations."""
        if outcome is None:
            return
        sizes = [a.cost.nominal_bytes for a in outcome.taken if a.array != SLOT]
        failed = int(outcome.ret == -ENOMEM)
        if not sizes and not failed:
            return
        old = self._by_kind.get(kind) or Exposure(call=kind, calls=0, arrays=0, nominal_bytes=0, largest_bytes=0)
        self._by_kind[kind] = attrs.evolve(
            old,
            calls=old.calls + 1,
            arrays=old.arrays + len(sizes),
            nominal_bytes=old.nominal_bytes + sum(sizes),
            largest_bytes=max([old.largest_bytes, *sizes]),
            failed=old.failed + failed,
        )

    def report(self) -> tuple[Exposure, ...]:
        """Return the counts, by kind."""
        return tuple(self._by_kind[kind] for kind in sorted(self._by_kind))
