"""Promises of lanes that fold together: each lane ends up exactly where it would be alone, however many agree with it."""

from array import array
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from lane_samples import CREATE, machine, slot

from replay.engine import rows as module
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, lockstep
from replay.engine.rows import rows_of_vms
from replay.events import (
    Event,
    GuestWrite,
    NotifierRegister,
    NotifierUnregister,
    ShadowPageAccount,
    VmCreate,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackRemove,
)
from replay.header import Machine
from replay.kvm import fold
from replay.kvm.kernel_log import GONE
from replay.kvm.state import digest_of
from replay.runs import COLUMNS, items_of, run_of
from replay.units import Gfn, Hva

TWO_VMS: tuple[Event, ...] = (
    CREATE,
    VmCreate(vm=1, ret=11),
    *(slot(vm=vm) for vm in (0, 1)),
    *(NotifierRegister(vm=vm, ret=0) for vm in (0, 1)),
)
FAR = Hva(1 << 55)
"""A user address of five-level paging only: arch/x86/include/asm/uaccess_64.h __access_ok()."""
PAGES: tuple[Event, ...] = (
    *(WriteTrackAdd(vm=vm, gfn=Gfn(gfn), ret=0) for gfn in (1, 2, 2, 0x9999) for vm in (1, 0)),
    *(ShadowPageAccount(vm=vm, gfn=Gfn(3), level=2) for vm in (0, 1)),
    *(GuestWrite(vm=vm, gfn=Gfn(gfn)) for gfn in (1, 3, 5) for vm in (1, 0)),
    *(WriteTrackRemove(vm=vm, gfn=Gfn(gfn), ret=0) for gfn in (2, 7) for vm in (0, 1)),
)


def account(one: Lane) -> dict[str, Any]:
    """Return all that a lane knows at its end."""
    return {
        "state": digest_of(one.machine),
        "warnings": dict(one.machine.log.counts),
        "disagreements": one.disagreement_count,
        "skipped": dict(one.skipped),
    }


def outcomes_of(events: Sequence[Event], lanes: Sequence[Lane]) -> list[list[Any]]:
    """Return what each lane says of each run."""
    found: list[list[Any]] = [[] for _ in lanes]
    for step in lockstep(items_of(events), lanes):
        if isinstance(step, RunStep):
            for mine, outcome in zip(found, step.outcomes, strict=True):
                mine.append((outcome.log, outcome.rets, outcome.tracked_writes, outcome.adds, outcome.removes))
    return found


def hold_against_alone(events: Sequence[Event], specs: Sequence[str], recorded: Machine | None = None) -> list[Lane]:
    """Replay through lanes together, and through each of them alone: results, states and warnings are the same."""
    recorded = recorded or machine()
    together = make_lanes(list(specs), recorded)
    found = outcomes_of(events, together)
    for spec, one, mine in zip(specs, together, found, strict=True):
        alone = make_lanes([spec], recorded)
        assert outcomes_of(events, alone) == [mine]
        assert account(one) == account(alone[0])
    return together


def shared(lanes: Sequence[Lane], vm: int, slot_id: int = 0) -> bool:
    """Tell whether lanes keep the counters of a slot once."""
    found = [one.machine.vm(vm).spaces[0].by_id(slot_id) for one in lanes]
    return len({id(one.arch.counts.roots) for one in found if one is not None}) == 1


@pytest.mark.parametrize("rows_least", [1, 1 << 20], ids=["bulk", "scalar"])
class TestTogether:
    """Agreement, parting, and calls in between."""

    @pytest.fixture(autouse=True)
    def _rule(self, rows_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fold, "BULK_ROWS_LEAST", rows_least)
        monkeypatch.setattr(fold, "BULK_AFTER_ROWS", 0)

    def test_agree(self) -> None:
        """Lanes that agree on all count once."""
        lanes = hold_against_alone([*TWO_VMS, *PAGES], ["eager", "on-demand", "6.8"])
        assert shared(lanes, 0)
        assert shared(lanes, 1)

    def test_parted_in_one(self) -> None:
        """Lanes that have parted in one VM still agree in the other, also of its shadow pages, warnings and results."""
        far = slot(1, vm=1, userspace_addr=FAR)
        more = [WriteTrackAdd(vm=vm, gfn=Gfn(0x101), ret=0) for vm in (0, 1)]
        events = [*TWO_VMS, far, *PAGES, *more, *PAGES]
        lanes = hold_against_alone(events, ["eager@release=6.1", "eager@la57=1,release=6.1", "on-demand@release=6.1"])
        assert shared(lanes, 0)
        assert shared(lanes[::2], 1)
        assert not shared(lanes[:2], 1)

    def test_refused_by_one(self) -> None:
        """A memslot that one lane refuses and the other has parts them, whichever of them comes first."""
        events = [*TWO_VMS, *PAGES, slot(1, vm=0, userspace_addr=FAR), *PAGES]
        events += [WriteTrackAdd(vm=0, gfn=Gfn(0x102), ret=0), WriteTrackAdd(vm=0, gfn=Gfn(0x102), ret=0)]
        for specs in (["eager", "eager@la57=1"], ["eager@la57=1", "eager"]):
            for release in ("6.1", "6.18"):
                lanes = hold_against_alone(events, [f"{spec}{',' if '@' in spec else '@'}release={release}" for spec in specs])
                assert sorted(len(one.machine.vm(0).spaces[0]) for one in lanes) == [1, 2]

    def test_new_slots_of_lanes_that_part(self) -> None:
        """Lanes share what they count of a new slot from the beginning, each with those that track it too, or do not either."""
        lanes = make_lanes(["eager", "on-demand", "6.8", "6.9"], machine())
        for _step in lockstep(items_of([CREATE, slot()]), lanes):
            pass
        archs = [found.arch for one in lanes if (found := one.machine.vm(0).spaces[0].by_id(0)) is not None]
        assert archs[0].lpage_moves is archs[2].lpage_moves is not archs[1].lpage_moves is archs[3].lpage_moves
        assert archs[0].counts.roots is archs[2].counts.roots
        assert [arch.lpage_moves.owners for arch in archs] == [2] * 4
        hold_against_alone([*TWO_VMS, *PAGES, slot(1, base=0x9999), *PAGES], ["eager", "on-demand", "6.8", "6.9", "ideal"])

    def test_a_new_slot(self) -> None:
        """Lanes that agreed before a memslot call share the new slot at once, without another look at the VM."""
        lanes = make_lanes(["eager", "on-demand"], machine())
        events = [*TWO_VMS, *PAGES, slot(0x21, base=0x2100)]
        for step in lockstep(items_of(events), lanes):
            last = step
        assert not isinstance(last, RunStep)
        assert shared(lanes, 0, 0x21)

    def test_left_out(self) -> None:
        """Rows that can not happen under a profile are left out and counted in each lane, also in one that follows another."""
        lanes = hold_against_alone(
            [*TWO_VMS, *PAGES], ["on-demand", "on-demand@tdp=1", "eager@tdp=1"], machine("6.12", tdp=False)
        )
        assert [sum(one.skipped.values()) for one in lanes] == [0, 2, 2]
        lanes = hold_against_alone([*TWO_VMS, *PAGES], ["on-demand", "on-demand@config=n", "eager@config=n"])
        assert [sum(one.skipped.values()) for one in lanes] == [0, 14, 14]

    def test_a_vm_that_ends(self) -> None:
        """Events on a VM that is gone are warned of in each lane, and change nothing."""
        gone = [NotifierUnregister(vm=0), VmDestroy(vm=0)]
        lanes = hold_against_alone([*TWO_VMS, *PAGES, *gone, *PAGES, slot(1, vm=1), *PAGES], ["eager", "on-demand"])
        assert [one.machine.log.counts[GONE] for one in lanes] == [len(PAGES)] * 2


class TestRowsOfVms:
    """Rows are chosen alike from lists and from columns of a file, by numpy or without it."""

    @pytest.mark.parametrize("rows", [[7], [1, 2, 40], list(range(50))])
    def test_chosen_rows(self, rows: list[int]) -> None:
        """A run of some rows has columns of their length, and in those that a fold looks at what stood there."""
        listed = run_of([WriteTrackAdd(vm=row % 3, gfn=Gfn(row * row), ret=0) for row in range(50)])
        columns: dict[str, Any] = {name: memoryview(array("Q", getattr(listed, name))) for name in ("gfn", "vm")}
        for run in (listed, attrs.evolve(listed, **columns)):
            for numbers in (rows, memoryview(array("q", rows))):
                made = module.chosen_rows(run, numbers)
                assert {len(getattr(made, name)) for name in COLUMNS} == {len(rows)}
                for name in ("kind", "vm", "as_id", "gfn", "level"):
                    assert list(getattr(made, name)) == [getattr(listed, name)[row] for row in rows], name

    @pytest.mark.parametrize("rows_least", [1, 1 << 20], ids=["numpy", "plain"])
    @pytest.mark.parametrize("vms", [[0], [1, 40], [0, 1, 40]])
    def test_chosen(self, rows_least: int, vms: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """All rows of these VMs in order, or those of them that are kept."""
        monkeypatch.setattr(module, "BULK_ROWS_LEAST", rows_least)
        monkeypatch.setattr(module, "has_bulk", lambda: True)
        numbers = [row % 3 * 20 + row % 2 - (row % 3 == 2 and row % 2) for row in range(50)]
        listed = run_of([WriteTrackAdd(vm=number, gfn=Gfn(1)) for number in numbers])
        expected = [row for row, number in enumerate(numbers) if number in vms]
        column = attrs.evolve(listed, vm=memoryview(bytes(numbers)))
        for run in (listed, column):
            assert list(rows_of_vms(run, vms, None)) == expected
            assert rows_of_vms(run, vms, range(10, 20)) == [row for row in expected if 10 <= row < 20]
