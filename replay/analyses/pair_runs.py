"""Make findings of what a run did differently in two lanes: warnings, answers, and arrays that only a yardstick makes.

Rows that part in the same way are one finding, at the first of them.
"""

from typing import Final

from replay.analyses.context import Where, place_of
from replay.analyses.findings import INVARIANT_BROKEN, RESULT_DIFFERS, STATE_DIFFERS, Side
from replay.analyses.pair_ground import Ground
from replay.engine.lockstep import RunStep
from replay.events.base import Source
from replay.kvm.kernel_log import BUG, NO_ARRAY, reasons_of
from replay.kvm.machine import Outcome
from replay.kvm.run_columns import Group, answer, apart
from replay.kvm.run_outcome import RunOutcome
from replay.runs import HOT_CLASSES, QUERY, REMOVE, UNACCOUNT, Run
from replay.units import counted, ret_text

_NEVER_ENABLED: Final = "not enabled, as nothing was registered and no shadow root was loaded"


class RunDifference:
    """What a run did differently in two lanes, as groups of rows that part in the same way.

    outcome: of the second one. warned: by VM and the warnings of either lane; answered: by VM, kind of row and the answer of
    either lane.
    """

    def __init__(self, run: Run, a: RunOutcome, b: RunOutcome) -> None:
        rows = len(run)
        self.outcome, self.warned, self.answered = b, list[Group](), list[Group]()
        if a is not b:
            self.warned = apart([run.vm], a.warned(rows), b.warned(rows), rows)
            self.answered = apart([run.vm, run.kind], a.answered(rows), b.answered(rows), rows)


class RunFindings:
    """What differs between two lanes in the runs of a recording."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def take(self, step: RunStep, a: RunOutcome, b: RunOutcome, known: list[RunDifference]) -> None:
        """Take one run, with what it did in the reference lane and in the other one.

        known: how outcomes of this run differ from the reference lane's, as far as somebody has asked.
        """
        if self._ground.bound:
            self._arrays(step, a, b)
            return
        difference = next((one for one in known if one.outcome is b), None)
        if difference is None:
            difference = RunDifference(step.run, a, b)
            known.append(difference)
        for (_vm, *said), first, count in difference.warned:
            self._log(step, [*map(_said, said)], first, count)
        for (_vm, kind, *values), first, count in difference.answered:
            self._ret(step, kind, [*map(answer, values)], first, count)
        if self._ground.states.parted:
            self._ground.states.step(step.run, lambda: self._row_place(step, len(step.run) - 1))

    def _arrays(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        """Take the arrays that a run made in a lane that is no kernel, each at the row that made it."""
        made = [(one.event, index, one) for index, outcome in enumerate((a, b)) for one in outcome.taken]
        for event, index, one in sorted(made, key=lambda each: each[:2]):
            outcomes = [Outcome(), Outcome()]
            outcomes[index].taken = [one]
            self._ground.arrays.step(self._row_place(step, event - step.first), *outcomes)

    def _log(self, step: RunStep, said: list[str], first: int, count: int) -> None:
        """Make a finding of warnings that differ in some rows. said: what in each lane; first, count: of the rows."""
        at = self._row_place(step, first)
        row = self._ground.parted_row(at.vm)
        if BUG in said and not row:
            row = "D12" if step.run.kind[first] in {REMOVE, UNACCOUNT} else "D11"
        names = self._ground.names

        def sides() -> tuple[Side, ...]:
            return tuple(Side(lane=lane, did=_times(text, count)) for lane, text in zip(names, said, strict=True))

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

    def _ret(self, step: RunStep, kind: int, rets: list[int], first: int, count: int) -> None:
        """Make a finding of answers that differ in some rows of a kind. rets: in each lane; first, count: of the rows."""
        at = self._row_place(step, first)
        names = self._ground.names

        def sides() -> tuple[Side, ...]:
            return tuple(
                Side(lane=lane, ret=ret, did=_times(_answer(kind, ret), count)) for lane, ret in zip(names, rets, strict=True)
            )

        parted = self._ground.states.parted_at(at.vm)
        cause = (at, "the lanes answer differently") if parted is None else (parted[0], "the VM's state parted there")
        divergence = STATE_DIFFERS if kind >= QUERY else RESULT_DIFFERS
        seen = f"answer of {at.kind}"
        more = {"gfn": step.run.gfn[first]} | ({"visible_event": at.event} if kind < QUERY else {})
        self._ground.state_finding(at, sides, self._ground.parted_row(at.vm), cause, divergence=divergence, visible=seen, **more)
        if kind < QUERY:
            self._ground.part(at.event)

    def _row_place(self, step: RunStep, row: int) -> Where:
        run = step.run
        file = run.file[row]
        line = None if file is None else run.line[row]
        place = "" if file is None or line is None else place_of(self._ground.header, Source(file, line))
        task = run.task[row]
        return Where(
            step.first + row, HOT_CLASSES[run.kind[row]].KIND, place, run.vm[row], None if task is None else run.tasks[task]
        )


def _said(bits: int) -> str:
    return "; ".join(reasons_of(bits)) or "no warning"


def _answer(kind: int, ret: int) -> str:
    if kind < QUERY:
        return ret_text(ret)
    return "tracked" if ret else "not tracked"


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text} ({counted(count, 'time')} in this run)"
