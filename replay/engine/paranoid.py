"""Check the invariants of a lane after every step, with what must be remembered of the step before."""

from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, Step
from replay.errors import InvariantError
from replay.kvm.invariants import check_invariants
from replay.kvm.past import Ledger, remember


class LaneGuard:
    """One lane with its past and a second count of its counters. Cost: proportional to the state, at every step."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._past = remember(lane.machine)
        self._ledger = Ledger()

    def check(self, step: Step | RunStep, number: int) -> None:
        """Raise InvariantError when the state after a step breaks an invariant; number: the step's last event."""
        machine = self._lane.machine
        if isinstance(step, Step):
            self._ledger.note_event(machine, step.event)
        elif self._lane.folded is not None:
            self._ledger.note_run(machine, *self._lane.folded)
        broken = check_invariants(machine, self._past, self._ledger)
        if broken:
            raise InvariantError(
                broken[0],
                where=f"event {number}, lane {self._lane.name}",
                advice="this is a bug of the model: please report the recording",
            )
        self._past = remember(machine, self._past)
