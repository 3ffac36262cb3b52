"""Say what a run did that the bulk rule has counted: which rows warn, fail or are answered. Most of it only when it is asked for.

Source: replay.kvm.fold, the scalar rule, for what is said of which row.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import attrs

from replay.kvm import bulk_columns
from replay.kvm.bulk_rows import KIND_BITS, KIND_MASK, Rows, Sorted
from replay.kvm.kernel_log import BITS, BUG, DISABLED, NO_ARRAY, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.kvm.layout import GAP, NO_COUNTERS, OFF
from replay.kvm.machine import Machine
from replay.kvm.run_columns import Column, use_arrays
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT
from replay.units import EINVAL

_REMOVE, _QUERY, _ACCOUNT, _UNACCOUNT = (code & KIND_MASK for code in (REMOVE, QUERY, ACCOUNT, UNACCOUNT))
_CHANGES: Final = (*range(_REMOVE + 1), _ACCOUNT, _UNACCOUNT)
_U32_MAX: Final = (1 << 32) - 1
_BYTE: Final = 255

use_arrays(bulk_columns)  # this module is imported by those who have numpy


@attrs.define(eq=False)
class Report:
    """What is known of a run after it was counted; the last ones are as in `bulk._Count`, and nothing changes them any more."""

    rows: Rows
    order: Sorted
    dead: Any
    counted: Any
    warned: Any
    lpages: list[tuple[int, str]]
    """The rows of the run at which a disallow_lpage is warned of."""

    def outcome(self, machine: Machine) -> RunOutcome:
        """Return the outcome, and count its warnings. Source: see the module."""
        later, reasons = dict[str, Callable[[], Any]](), dict[str, int]()
        outcome = RunOutcome(reasons=reasons)
        outcome.adds, outcome.removes = self.rows.changes()
        for _row, over in self.warned:
            reason = OVERFLOW if over else UNDERFLOW
            reasons[reason] = reasons.get(reason, 0) + 1
        for _row, reason in self.lpages:
            reasons[reason] = reasons.get(reason, 0) + 1
        off = BUG if machine.policy.bug_when_disabled else DISABLED
        if self.dead is not None:
            self._count_dead(outcome, reasons, off)
        if reasons:
            later["warned"] = lambda: self._warned(off)
            for reason, number in reasons.items():
                machine.log.counts[reason] = machine.log.counts.get(reason, 0) + number
        if self.dead is not None or QUERY in self.rows.kinds or GUEST_WRITE in self.rows.kinds:
            later["answered"] = self._answered
        outcome.later(later, self.rows.run.kind)
        return outcome

    def _count_dead(self, outcome: RunOutcome, reasons: dict[str, int], off: str) -> None:
        """Count the warnings of counters that are not there, by what is said: no slot, tracking not enabled, or no array.

        off: what is said while tracking is not enabled.
        """
        import numpy as np

        at, states = self.dead
        tally = np.bincount(states << KIND_BITS | self.order.kind.take(at), minlength=(OFF + 1) << KIND_BITS).tolist()
        by_state = {state: tally[state << KIND_BITS : (state + 1) << KIND_BITS] for state in (GAP, NO_COUNTERS, OFF)}
        outcome.adds -= by_state[GAP][_ACCOUNT]
        outcome.removes -= by_state[GAP][_UNACCOUNT]
        for reason, number in (
            (NO_SLOT, sum(by_state[GAP][_ACCOUNT:])),
            (NO_ARRAY, sum(by_state[NO_COUNTERS][kind] for kind in _CHANGES)),
            (off, sum(by_state[OFF][kind] for kind in _CHANGES)),
        ):
            if number:
                reasons[reason] = number
                if reason == BUG:
                    self._set_bugged()

    def _set_bugged(self) -> None:
        """Mark the VMs in which something changes though tracking is not enabled."""
        at, states = self.dead
        off = at[(states == OFF) & _changes(self.order.kind.take(at))]
        for vm in self._vms_of(self.order.counters_of(off)):
            vm.vm_bugged = True

    def _vms_of(self, counters: Any) -> list[Vm]:
        """Return the VMs that some counters belong to."""
        if self.rows.space is None:
            return self.rows.vms
        spaces = self.order.keys.take(counters) >> self.rows.shift
        return [self.rows.spaces[number][0] for number in sorted(set(spaces.tolist()))]

    def _warned(self, off: str) -> Column:
        """Return the warnings. off: what is said while tracking is not enabled."""
        import numpy as np

        column = np.zeros(len(self.rows.run), np.uint8)
        if self.dead is not None:
            at, states = self.dead
            column[self.order.numbers(at)] = _bits(off).take(states << KIND_BITS | self.order.kind.take(at))
        if self.warned:
            rows, over = map(np.array, zip(*self.warned, strict=True))
            column[self.order.numbers(rows)] = np.where(over, BITS[OVERFLOW], BITS[UNDERFLOW])
        for row, reason in self.lpages:
            column[row] |= BITS[reason]
        return column

    def _answered(self) -> Column:
        """Return the answers: reads that were true, in order, and changes that were refused."""
        import numpy as np

        order, rows, (ends, inner) = self.order, self.rows, self.counted
        hits = np.empty(len(order.rows), bool)
        hits[order.lasts] = ends & _U32_MAX != 0
        hits[order.inner] = inner & _U32_MAX != 0
        hits &= order.kind >> 1 == _QUERY >> 1
        column = np.zeros(len(rows.run), np.uint8)
        column[order.numbers(hits.nonzero()[0])] = 1
        if self.dead is None:
            return column
        at, states = self.dead
        numbers, away = order.numbers(at), states == GAP
        if rows.twice:
            # Either address space is enough, but the own one must have the slot.
            keys = order.keys.take(order.counters_of(at))
            column[numbers[away & (keys >> rows.shift << rows.shift == rows.space[numbers])]] = 0
        column[numbers[away & (order.kind.take(at) <= _REMOVE)]] = -EINVAL & _BYTE
        return column


@cache
def _bits(off: str) -> Any:
    """Return what is said of a row, by the state of its place and its kind. off: as above."""
    import numpy as np

    found = np.zeros((OFF + 1, 1 << KIND_BITS), np.uint8)
    found[GAP, _ACCOUNT:] = BITS[NO_SLOT]
    found[NO_COUNTERS, list(_CHANGES)] = BITS[NO_ARRAY]
    found[OFF, list(_CHANGES)] = BITS[off]
    return found.ravel()


def _changes(kind: Any) -> Any:
    """Tell which rows change a counter, by the low bits of their kind."""
    return (kind <= _REMOVE) | (kind == _ACCOUNT) | (kind == _UNACCOUNT)
