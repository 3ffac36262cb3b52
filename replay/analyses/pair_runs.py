"""Make findings of what a run did differently in two lanes: warnings, answers, and arrays that only a yardstick makes.

Rows that part in the same way are one finding, at the first of them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from replay.analyses.context import Where, place_of
from replay.analyses.findings import INVARIANT_BROKEN, RESULT_DIFFERS, STATE_DIFFERS, Side
from replay.analyses.pair_ground import Ground
from replay.engine.lockstep import RunStep
from replay.events.base import Source
from replay.kvm.kernel_log import BUG, NO_ARRAY
from replay.kvm.machine import Outcome
from replay.kvm.run_outcome import RunOutcome
from replay.runs import HOT_CLASSES, QUERY, REMOVE, UNACCOUNT
from replay.units import counted, ret_text

_NEVER_ENABLED: Final = "not enabled, as nothing was registered and no shadow root was loaded"


class RunFindings:
    """What differs between two lanes in the runs of a recording."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def take(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        """Take one run, with what it did in the reference lane and in the other one."""
        if self._ground.bound:
            self._arrays(step, a, b)
            return
        if a.log != b.log:
            self._logs(step, a.said(), b.said())
        if a.rets != b.rets or a.tracked_writes != b.tracked_writes:
            self._rets(step, a, b)
        if self._ground.states.parted:
            self._ground.states.step(step.run, lambda: self._row_place(step, len(step.run) - 1))

    def _arrays(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        """Take the arrays that a run made in a lane that is no kernel, each at the row that made it."""
        made = [(one.event, index, one) for index, outcome in enumerate((a, b)) for one in outcome.taken]
        for event, index, one in sorted(made, key=lambda each: each[:2]):
            outcomes = [Outcome(), Outcome()]
            outcomes[index].taken = [one]
            self._ground.arrays.step(self._row_place(step, event - step.first), *outcomes)

    def _logs(self, step: RunStep, a: dict[int, str], b: dict[int, str]) -> None:
        rows = sorted(a.keys() | b.keys())
        said_a, said_b = (list(map(log.get, rows, repeat("no warning"))) for log in (a, b))
        for (_vm, *said), first, count in _groups(rows, _at(step.run.vm, rows), said_a, said_b):
            if said[0] == said[1]:
                continue
            at = self._row_place(step, first)
            row = self._ground.parted_row(at.vm)
            if BUG in said and not row:
                row = "D12" if step.run.kind[first] in {REMOVE, UNACCOUNT} else "D11"
            sides = tuple(Side(lane=lane, did=_times(text, count)) for lane, text in zip(self._ground.names, said, strict=True))
            divergence = INVARIANT_BROKEN if NO_ARRAY in said else STATE_DIFFERS
            gfn = step.run.gfn[first]
            cause = self._disabled_cause(at, (step.run.as_id[first], gfn), BUG in said[:1])
            self._ground.state_finding(at, sides, row, cause, divergence=divergence, gfn=gfn)

    def _disabled_cause(self, at: Where, place: tuple[int, int], reference_lacks: bool) -> tuple[Where, str]:
        """Return where the lanes parted before they warned differently: at the memslot's array, if only one has it.

        place: address space and gfn.
        """
        slot = None if at.vm is None else self._ground.find_gfn(at.vm, *place)
        origin = None if slot is None else self._ground.arrays.origin(at.vm, slot.key)
        if origin is None:
            return at, "the VM's counters or memslots parted before"
        lacks, has = self._ground.names if reference_lacks else self._ground.names[::-1]
        return origin, f"{has} has write tracking from there on ({origin.kind}); {lacks}: {_NEVER_ENABLED}"

    def _rets(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        writes = (set(a.tracked_writes), set(b.tracked_writes))
        rows = sorted((a.rets.keys() | b.rets.keys()) | (writes[0] ^ writes[1]))
        rets_a = list(map(a.rets.get, rows, map(int, map(writes[0].__contains__, rows))))  # a write that is tracked answers 1
        rets_b = list(map(b.rets.get, rows, map(int, map(writes[1].__contains__, rows))))
        for (vm, kind, *rets), first, count in _groups(rows, _at(step.run.vm, rows), _at(step.run.kind, rows), rets_a, rets_b):
            if rets[0] == rets[1]:
                continue
            at = self._row_place(step, first)
            sides = tuple(
                Side(lane=lane, ret=ret, did=_times(_answer(kind, ret), count))
                for lane, ret in zip(self._ground.names, rets, strict=True)
            )
            parted = self._ground.states.parted_at(vm)
            cause = (at, "the lanes answer differently") if parted is None else (parted[0], "the VM's state parted there")
            divergence = STATE_DIFFERS if kind >= QUERY else RESULT_DIFFERS
            seen = f"answer of {at.kind}"
            more = {"gfn": step.run.gfn[first]} | ({"visible_event": at.event} if kind < QUERY else {})
            self._ground.state_finding(at, sides, self._ground.parted_row(vm), cause, divergence=divergence, visible=seen, **more)
            if kind < QUERY:
                self._ground.part(at.event)

    def _row_place(self, step: RunStep, row: int) -> Where:
        run = step.run
        task, file, line = run.task[row], run.file[row], run.line[row]
        source = None if file is None or line is None else Source(file, line)
        place = place_of(self._ground.header, source)
        return Where(
            step.first + row, HOT_CLASSES[run.kind[row]].KIND, place, run.vm[row], None if task is None else run.tasks[task]
        )


def _at(column: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return some rows of a column."""
    return list(itemgetter(*rows)(column)) if len(rows) > 1 else [column[row] for row in rows]


def _groups(rows: Sequence[int], *columns: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], int, int]]:
    """Group rows by what stands beside them; yield (what, first row, how many), by first row."""
    keys = list(zip(*columns, strict=True))
    first = dict(zip(reversed(keys), reversed(rows), strict=True))
    for key, count in Counter(keys).items():
        yield key, first[key], count


def _answer(kind: int, ret: int) -> str:
    if kind < QUERY:
        return ret_text(ret)
    return "tracked" if ret else "not tracked"


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text} ({counted(count, 'time')} in this run)"
