"""Promises of lanes that part in one VM and agree in the others: each is what it would be alone, by every rule for runs."""

import random
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from compiled_loop import loop

from replay.engine.lane import Lane
from replay.engine.lockstep import RunStep, lockstep
from replay.events import (
    GuestWrite,
    HotEvent,
    MemslotSet,
    NotifierRegister,
    ShadowPageUnaccount,
    VmCreate,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.kvm import compiled, fold
from replay.kvm.fold import fold_run
from replay.kvm.kernel_log import BUG, UNDERFLOW
from replay.kvm.policies import EAGER_6_6, ON_DEMAND, Policy
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import state_of
from replay.runs import Item, Run, run_of
from replay.units import Gfn, Gpa, Hva

PROFILE = Profile(release=Release(6, 12, 117), config_external_write_tracking=True)
WORDS: dict[str, Callable[[Sequence[int]], Sequence[int]]] = {
    "bytes": lambda column: memoryview(array("B", column)),
    "words": lambda column: memoryview(array("I", column)),
    "lists": list,
}
"""How the columns of VMs are kept."""


def lanes() -> list[Lane]:
    """Return an eager lane and two on-demand ones."""
    policies: list[Policy] = [EAGER_6_6, ON_DEMAND, ON_DEMAND]
    return [Lane(f"{at}", policy, PROFILE, factual=False, recorded_tdp=True) for at, policy in enumerate(policies)]


def start() -> list[Item]:
    """Return two VMs with a memslot each, of which the first one has an external user."""
    slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=64 << 12, userspace_addr=Hva(1 << 32), ret=0)
    return [VmCreate(vm=0, ret=0), VmCreate(vm=1, ret=0), slot, attrs.evolve(slot, vm=1), NotifierRegister(vm=0)]


def run(rows: Sequence[HotEvent], words: str) -> Run:
    """Return rows as a run with columns as readers make them, or as lists."""
    made = run_of(rows)
    return attrs.evolve(made, vm=WORDS[words](made.vm), kind=WORDS["bytes"](made.kind))


def rows_of(rng: random.Random, count: int) -> list[HotEvent]:
    """Draw rows of both VMs, some of them outside the memslots."""
    kinds: list[Any] = [WriteTrackAdd, WriteTrackAdd, WriteTrackRemove, WriteTrackQuery, GuestWrite]
    return [rng.choice(kinds)(vm=rng.randrange(2), gfn=Gfn(rng.randrange(66))) for _ in range(count)]


def both(items: Sequence[Item]) -> list[RunOutcome]:
    """Replay items through lanes together and alone, assert that all is equal, and return the outcomes of the last item."""
    together, alone = lanes(), lanes()
    number, outcomes = 0, list[RunOutcome]()
    for step in lockstep(iter(items), together):
        if isinstance(step, RunStep):
            outcomes = [fold_run(lane.machine, step.run, number) for lane in alone]
            assert list(step.outcomes) == outcomes
            number += len(step.run)
        else:
            assert [one and one.ret for one in step.outcomes] == [lane.machine.step(step.event, number).ret for lane in alone]
            number += 1
        assert [state_of(lane.machine) for lane in together] == [state_of(lane.machine) for lane in alone]
        assert [lane.machine.log.counts for lane in together] == [lane.machine.log.counts for lane in alone]
    return outcomes


@pytest.fixture(params=["compiled", "bulk", "scalar"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Choose the rule for runs."""
    found: str = request.param
    if found == "compiled":
        monkeypatch.setattr(compiled, "LOOP", [loop()])
        monkeypatch.setattr(fold, "_COMPILED", [compiled.fold_compiled])
    else:
        monkeypatch.setattr(fold, "_COMPILED", [None])
    monkeypatch.setattr(fold, "BULK_ROWS_LEAST", 1 << 20 if found == "scalar" else 1)
    monkeypatch.setattr(fold, "BULK_AFTER_ROWS", 0)
    return found


@pytest.mark.usefixtures("rule")
class TestPartedVms:
    """Runs of two VMs, of which lanes agree in one."""

    @pytest.mark.parametrize("words", WORDS)
    @pytest.mark.parametrize("length", [3, 40, 600])
    def test_as_alone(self, words: str, length: int) -> None:
        """Outcomes, warnings and states are those of lanes alone, run after run."""
        rng = random.Random(length)
        outcomes = both([*start(), *(run(rows_of(rng, length), words) for _ in range(5))])
        assert length < 40 or (BUG in outcomes[1].reasons()) > (BUG in outcomes[0].reasons())

    @pytest.mark.parametrize("words", WORDS)
    def test_one_lane_says_nothing(self, words: str) -> None:
        """The same where one of the lanes has nothing to say of the VM in which they part, or of the other one."""
        write, add = GuestWrite(vm=1, gfn=Gfn(1)), WriteTrackAdd(vm=0, gfn=Gfn(1))
        lost, query = WriteTrackRemove(vm=0, gfn=Gfn(2)), WriteTrackQuery(vm=1, gfn=Gfn(3))
        down = WriteTrackAdd(vm=1, gfn=Gfn(3))
        for rows in ([write, add], [add, down], [lost, write], [lost, down], [query, add], [down, query, write]):
            both([*start(), run(rows, words), run(list(reversed(rows)), words)])

    @pytest.mark.parametrize("most", [0, 1])
    def test_rows_that_the_loop_leaves(self, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same where the loop leaves rows to Python, and nothing of the VM is left behind them."""
        monkeypatch.setattr(compiled, "_PYTHON_ROWS_MOST", most)
        lost, write = WriteTrackRemove(vm=1, gfn=Gfn(2)), GuestWrite(vm=0, gfn=Gfn(1))
        for rows in ([lost, write, write], [write, lost, lost, write], [lost, write, lost]):
            outcomes = both([*start(), run(rows, "bytes")])
            assert UNDERFLOW in outcomes[0].reasons()

    def test_nothing_is_left_behind_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same where all rows behind one that is left to Python are of the VM in which lanes agree."""
        monkeypatch.setattr(compiled, "_PYTHON_ROWS_MOST", 1)
        lost = ShadowPageUnaccount(vm=1, gfn=Gfn(2), level=1)
        both([*start(), run([WriteTrackAdd(vm=1, gfn=Gfn(2)), lost, *[GuestWrite(vm=0, gfn=Gfn(1))] * 3], "bytes")])
