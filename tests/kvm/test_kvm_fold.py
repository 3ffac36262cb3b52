"""A run folded at once is what its rows are one by one through the plain functions."""

import random
from collections.abc import Sequence

import pytest
from lane import LAZY, NAMES, Lane, account, add, query, remove, unaccount, write

from replay.errors import EventError
from replay.events import VmCreate
from replay.events.write_track import HotEvent
from replay.kvm import fold, page_track
from replay.kvm.fold import fold_run
from replay.kvm.kernel_log import GONE, NO_SLOT
from replay.kvm.mmu import account_shadowed
from replay.kvm.page_track import external_track, kvm_gfn_is_write_tracked
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import digest_of
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, run_of


def plainly(lane: Lane, rows: Sequence[HotEvent]) -> RunOutcome:
    """Apply rows one by one through the functions that carry the kernel's names."""
    outcome = RunOutcome()
    log, machine = lane.machine.log, lane.machine
    for row, event in enumerate(rows):
        log.new = []
        if event.vm in machine.gone:
            log.add(GONE)
        elif event.CODE in {ADD, REMOVE}:
            ret = external_track(machine.vm(event.vm), event.as_id, event.gfn, 1 if event.CODE == ADD else -1)
            if ret:
                outcome.rets[row] = ret
        elif event.CODE in {QUERY, GUEST_WRITE}:
            tracked = kvm_gfn_is_write_tracked(machine.vm(event.vm), event.as_id, event.gfn)
            if tracked and event.CODE == QUERY:
                outcome.rets[row] = 1
            elif tracked:
                outcome.tracked_writes.append(row)
        else:
            account_shadowed(machine.vm(event.vm), event.as_id, event.gfn, event.level, 1 if event.CODE == ACCOUNT else -1)
        outcome.log.extend((row, reason) for reason in log.new)
        unheard = GONE in log.new or NO_SLOT in log.new
        shadow = event.CODE not in {ADD, REMOVE, QUERY, GUEST_WRITE}
        changes = not unheard and event.CODE not in {QUERY, GUEST_WRITE} and (not shadow or event.level > 1)
        outcome.adds += changes and event.CODE in {ADD, ACCOUNT}
        outcome.removes += changes and event.CODE not in {ADD, ACCOUNT}
    return outcome


def lane_of(policy: str, seed: int) -> Lane:
    """Return a lane with slots in both address spaces, and by the seed a root, a node, a second and a dead VM."""
    lane = Lane(policy, tdp=seed % 2 == 0, smm=seed % 5 != 0, release="6.12.117" if seed % 3 else "6.12.1")
    for slot_id in (1, 2):
        lane.set(slot_id)
    if lane.vm.nas == 2:
        lane.set(1, 2, as_id=1)
    lane.do(VmCreate(vm=1, ret=0))
    lane.do(VmCreate(vm=2, ret=0))
    if seed % 4:
        lane.register()
    if seed % 7 == 0:
        lane.root()
    return lane


def rows_of(seed: int) -> list[HotEvent]:
    """Draw a run that meets slots, holes, both address spaces, all levels, and other VMs now and then."""
    rng = random.Random(seed)
    makers = (add, remove, query, write)
    rows: list[HotEvent] = []
    for _ in range(80):
        gfn, as_id = rng.choice((14, 16, 16, 17, 18, 19, 20, 32, 35)), int(rng.random() < 0.3)
        row: HotEvent = rng.choice(makers)(gfn, as_id)
        if rng.random() < 0.6:
            row = rng.choice((account, account, unaccount))(gfn, rng.randrange(1, 5), as_id)
        rows.append(row if rng.random() < 0.9 else _other_vm(row))
    return rows


def _other_vm(row: HotEvent) -> HotEvent:
    return type(row)(vm=1, as_id=row.as_id, gfn=row.gfn, level=row.level)


class TestFold:
    """The fast way is the plain way."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("limit", [2, 65535])
    def test_equals_plain_functions(self, policy: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """State, results, warnings and counts are equal for a hundred runs, also where counters overflow."""
        monkeypatch.setattr(page_track, "U16_MAX", limit)
        monkeypatch.setattr(fold, "U16_MAX", limit)
        warned = 0
        for seed in range(100):
            rows = rows_of(seed)
            fast, plain = lane_of(policy, seed), lane_of(policy, seed)
            outcome, expected = fold_run(fast.machine, run_of(rows), fast.number), plainly(plain, rows)
            assert outcome == expected, f"seed {seed}"
            assert digest_of(fast.machine) == digest_of(plain.machine), f"seed {seed}"
            warned += len(outcome.log)
        assert warned > 1000

    @pytest.mark.parametrize("pieces", [1, 2, 7])
    def test_splitting_changes_nothing(self, pieces: int) -> None:
        """A run and its pieces leave the same state."""
        whole, split = lane_of(LAZY, 3), lane_of(LAZY, 3)
        rows = rows_of(11)
        whole.hot(*rows)
        for start in range(0, len(rows), pieces):
            split.hot(*rows[start : start + pieces])
        assert digest_of(whole.machine) == digest_of(split.machine)

    def test_gone_vm(self) -> None:
        """Rows of a VM that is gone are said and change nothing; those of a living one between them count."""
        lane = lane_of(LAZY, 7)
        lane.destroy(foreign_mm=True)
        lane.unregister()
        assert 0 in lane.machine.gone
        rows = [account(16), _other_vm(account(16)), account(16), query(16)]
        outcome = lane.hot(*rows)
        assert [reason for row, reason in outcome.log if row != 1] == [GONE] * 3
        assert (outcome.rets, outcome.adds) == ({}, 0)

    def test_unknown_vm(self) -> None:
        """A VM that never was is an error that names the event."""
        lane = Lane()
        with pytest.raises(EventError, match=r"event 3: VM 1 is not there"):
            fold_run(lane.machine, run_of([query(1), query(1), _other_vm(query(1))]), 1)

    def test_warnings_name_their_row(self) -> None:
        """Each warning carries the row that caused it, and is counted once."""
        lane = Lane(tdp=False)
        lane.set(1)
        outcome = lane.hot(account(16), account(99), unaccount(16), unaccount(16), account(16, 1))
        assert outcome.log == [(1, NO_SLOT), (3, "WARN: write-track count below 0")]
        assert sum(lane.machine.log.counts.values()) == 2

    def test_bug_in_mid_run(self) -> None:
        """A VM that dies in the middle of a run answers later rows as a dead one does: 0 and a warning each."""
        lane = Lane()
        lane.set(1)
        outcome = lane.hot(query(16), add(16), add(16), query(16))
        assert [row for row, _reason in outcome.log] == [1, 2]
        assert (outcome.rets, lane.vm.vm_bugged) == ({}, True)
