"""Say what a run did that the bulk rule has counted: which rows warn, fail or are answered. Most of it only when it is asked for.

Source: replay.kvm.fold, the scalar rule, for what is said of which row.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

import attrs

from replay.kvm.bulk_rows import KIND_BITS, KIND_MASK, Rows, Sorted
from replay.kvm.kernel_log import BUG, DISABLED, NO_ARRAY, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.kvm.layout import GAP, NO_COUNTERS, OFF
from replay.kvm.machine import Machine
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT
from replay.units import EINVAL

_REMOVE, _QUERY, _GUEST_WRITE, _ACCOUNT, _UNACCOUNT = (
    code & KIND_MASK for code in (REMOVE, QUERY, GUEST_WRITE, ACCOUNT, UNACCOUNT)
)
_CHANGES: Final = (*range(_REMOVE + 1), _ACCOUNT, _UNACCOUNT)
_U32_MAX: Final = (1 << 32) - 1


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
        outcome, later = RunOutcome(), dict[str, Callable[[], Any]]()
        outcome.adds, outcome.removes = self.rows.changes()
        log = machine.log.counts
        for _row, over in self.warned:
            reason = OVERFLOW if over else UNDERFLOW
            log[reason] = log.get(reason, 0) + 1
        for _row, reason in self.lpages:
            log[reason] = log.get(reason, 0) + 1
        if self.dead is not None:
            self._count_dead(machine, outcome)
        if self.warned or self.lpages or self.dead is not None:
            bug = machine.policy.bug_when_disabled
            later["log"] = lambda: self._log(BUG if bug else DISABLED)
        if self.dead is not None or QUERY in self.rows.kinds:
            later["rets"] = self._rets
        if GUEST_WRITE in self.rows.kinds:
            later["tracked_writes"] = lambda: self._true(_GUEST_WRITE).tolist()
        outcome.later(later)
        return outcome

    def _count_dead(self, machine: Machine, outcome: RunOutcome) -> None:
        """Count the warnings of counters that are not there: no slot, tracking not enabled, or no array."""
        import numpy as np

        at, states = self.dead
        tally = np.bincount(states << KIND_BITS | self.order.kind.take(at), minlength=(OFF + 1) << KIND_BITS).tolist()
        by_state = {state: tally[state << KIND_BITS : (state + 1) << KIND_BITS] for state in (GAP, NO_COUNTERS, OFF)}
        outcome.adds -= by_state[GAP][_ACCOUNT]
        outcome.removes -= by_state[GAP][_UNACCOUNT]
        bug = machine.policy.bug_when_disabled
        for reason, number in (
            (NO_SLOT, sum(by_state[GAP][_ACCOUNT:])),
            (NO_ARRAY, sum(by_state[NO_COUNTERS][kind] for kind in _CHANGES)),
            (BUG if bug else DISABLED, sum(by_state[OFF][kind] for kind in _CHANGES)),
        ):
            if number:
                machine.log.counts[reason] = machine.log.counts.get(reason, 0) + number
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

    def _log(self, off: str) -> list[tuple[int, str]]:
        """Return the warnings, by row. off: what is said while tracking is not enabled."""
        import numpy as np

        numbers = self.order.numbers(np.array([row for row, _over in self.warned], np.intp)).tolist()
        log = [(number, OVERFLOW if over else UNDERFLOW) for number, (_row, over) in zip(numbers, self.warned, strict=True)]
        if self.dead is not None:
            at, states = self.dead
            kind, reasons = self.order.kind.take(at), {GAP: NO_SLOT, NO_COUNTERS: NO_ARRAY, OFF: off}
            warn = np.where(states == GAP, kind >= _ACCOUNT, _changes(kind)).nonzero()[0]
            pairs = zip(self.order.numbers(at.take(warn)).tolist(), states.take(warn).tolist(), strict=True)
            log += [(number, reasons[state]) for number, state in pairs]
        log += self.lpages
        log.sort(key=itemgetter(0))
        return log

    def _rets(self) -> dict[int, int]:
        """Return the results that are not 0, by row."""
        rets = dict[int, int]()
        if self.dead is not None:
            at, states = self.dead
            refused = at[(states == GAP) & (self.order.kind.take(at) <= _REMOVE)]
            rets = dict.fromkeys(self.order.numbers(refused).tolist(), -EINVAL)
        if QUERY in self.rows.kinds:
            rets |= dict.fromkeys(self._true(_QUERY).tolist(), 1)
        return {row: rets[row] for row in sorted(rets)}

    def _true(self, kind: int) -> Any:
        """Return the reads of one kind that were true, in order."""
        import numpy as np

        order, rows, (ends, inner) = self.order, self.rows, self.counted
        hits = np.empty(len(order.rows), bool)
        hits[order.lasts] = ends & _U32_MAX != 0
        hits[order.inner] = inner & _U32_MAX != 0
        hits &= order.kind == kind
        found = np.zeros(len(rows.run), bool)
        found[order.numbers(hits.nonzero()[0])] = True
        if rows.twice and self.dead is not None:
            # Either address space is enough, but the own one must have the slot.
            at, states = self.dead
            keys, number, away = order.keys.take(order.counters_of(at)), order.numbers(at), states == GAP
            found[number[away & (keys >> rows.shift << rows.shift == rows.space[number])]] = False
        return found.nonzero()[0]


def _changes(kind: Any) -> Any:
    """Tell which rows change a counter, by the low bits of their kind."""
    return (kind <= _REMOVE) | (kind == _ACCOUNT) | (kind == _UNACCOUNT)
