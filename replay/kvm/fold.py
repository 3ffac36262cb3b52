"""Fold a run of hot events by the scalar rule, which is the specification of what a bulk rule must equal.

Within a run no structural event happens, so which slot a gfn lies in and whether tracking is enabled are constant, and each
event touches its own counter only. Source of each kind's effect: mmu.account_shadowed(), page_track.external_track(),
page_track.kvm_gfn_is_write_tracked() and the kernel functions that they model [6.1, 6.12].
"""

from collections.abc import Callable
from typing import Final

from replay.kvm.kernel_log import GONE, NO_SLOT
from replay.kvm.machine import Machine
from replay.kvm.memslot import Memslot
from replay.kvm.mmu import account_shadowed
from replay.kvm.page_track import external_track, kvm_gfn_is_write_tracked, kvm_page_track_write_tracking_enabled
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Run
from replay.units import U16_MAX

BULK_ROWS_LEAST: Final = 64
BULK_AFTER_ROWS: Final = 30_000
_Fold = Callable[[Machine, Run, int], RunOutcome | None]
_BULK: Final[list[_Fold]] = []


def fold_run(machine: Machine, run: Run, first: int) -> RunOutcome:
    """Apply a run whose first row is event `first`. Raises EventError for a VM that is not there.

    Cost: about one microsecond a row.
    """
    outcome = RunOutcome()
    machine.allocator.begin(first)
    log = machine.log
    log.new = []
    fast = _FastPath()
    kinds, vms, spaces, gfns, levels = run.kind, run.vm, run.as_id, run.gfn, run.level
    for row, (kind, number, as_id, gfn, level) in enumerate(zip(kinds, vms, spaces, gfns, levels, strict=True)):
        if number != fast.number:
            machine.allocator.event = first + row
            if number in machine.gone:
                log.counts[GONE] = log.counts.get(GONE, 0) + 1
                outcome.log.append((row, GONE))
                continue
            fast.enter(machine.vm(number))
        if kind >= ACCOUNT and fast.account(as_id, gfn, level, 1 if kind == ACCOUNT else -1):
            continue
        machine.allocator.event = first + row
        _ROWS[kind](fast.vm, row, as_id, gfn, level, outcome)
        if log.new:
            outcome.log.extend((row, reason) for reason in log.new)
            log.new = []
            fast.enter(fast.vm)
    outcome.taken = machine.allocator.taken
    count_changes(run, outcome)
    return outcome


def fold(machine: Machine, run: Run, first: int) -> RunOutcome:
    """Apply a run by the rule that is faster for it; both give the same. Raises EventError for a VM that is not there.

    The bulk rule needs numpy, which takes as long to import as the scalar rule takes for some ten thousand rows, so it waits
    for as many, unless it is there already; and it costs as much a run as the scalar rule for some fifty rows.
    Source: see the module.
    """
    machine.hot_rows += len(run)
    if len(run) >= BULK_ROWS_LEAST and (_BULK or machine.hot_rows >= BULK_AFTER_ROWS):
        outcome = _bulk()(machine, run, first)
        if outcome is not None:
            return outcome
    return fold_run(machine, run, first)


def _bulk() -> _Fold:
    """Return the bulk rule; numpy is imported when it is asked for the first time."""
    if not _BULK:
        from replay.kvm.bulk import fold_bulk

        _BULK.append(fold_bulk)
    return _BULK[0]


class _FastPath:
    """Remember the VM and the slot of the row before, which is nearly always that of the next one."""

    number = -1
    vm: Vm
    enabled: bool
    nas: int
    slot: Memslot | None
    space: int

    def enter(self, vm: Vm) -> None:
        """Look at another VM, or anew at the same one."""
        self.number, self.vm, self.slot, self.space = vm.number, vm, None, -1
        self.enabled = kvm_page_track_write_tracking_enabled(vm)
        self.nas = vm.nas

    def account(self, as_id: int, gfn: int, level: int, delta: int) -> bool:
        """Count a shadow page when nothing about it is unusual; False leaves the row to the full rule."""
        as_id = min(as_id, self.nas - 1)
        slot = self.slot
        if slot is None or self.space != as_id or not slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            slot = self.slot = self.vm.spaces[as_id].by_gfn(gfn)
            self.space = as_id
        if slot is None or not self.enabled or slot.arch.gfn_write_track is None:
            return False
        vm = self.vm
        if vm.indirect_shadow_pages + delta < 0:
            return False
        if level > 1 and not slot.arch.counts.bump(gfn - slot.base_gfn, delta, U16_MAX):
            return False
        vm.indirect_shadow_pages += delta
        return True


def _account(vm: Vm, _row: int, as_id: int, gfn: int, level: int, _outcome: RunOutcome) -> None:
    account_shadowed(vm, as_id, gfn, level, 1)


def _unaccount(vm: Vm, _row: int, as_id: int, gfn: int, level: int, _outcome: RunOutcome) -> None:
    account_shadowed(vm, as_id, gfn, level, -1)


def _add(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    ret = external_track(vm, as_id, gfn, 1)
    if ret:
        outcome.rets[row] = ret


def _remove(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    ret = external_track(vm, as_id, gfn, -1)
    if ret:
        outcome.rets[row] = ret


def _query(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    if kvm_gfn_is_write_tracked(vm, as_id, gfn):
        outcome.rets[row] = 1


def _guest_write(vm: Vm, row: int, as_id: int, gfn: int, _level: int, outcome: RunOutcome) -> None:
    if kvm_gfn_is_write_tracked(vm, as_id, gfn):
        outcome.tracked_writes.append(row)


_ROWS: Final[dict[int, Callable[[Vm, int, int, int, int, RunOutcome], None]]] = {
    ADD: _add,
    REMOVE: _remove,
    QUERY: _query,
    GUEST_WRITE: _guest_write,
    ACCOUNT: _account,
    UNACCOUNT: _unaccount,
}


def count_changes(run: Run, outcome: RunOutcome) -> None:
    """Count the write-track changes that the run asks for: external ones, and shadow pages from level 2 on.

    Rows without a slot or on a VM that is gone ask nobody. Source: replay.kvm.mmu.account_shadowed().
    """
    outcome.adds, outcome.removes = run.changes()
    for row, reason in outcome.log:
        if reason in (NO_SLOT, GONE):
            kind = run.kind[row]
            if kind < QUERY or (kind >= ACCOUNT and run.level[row] > 1):
                outcome.adds -= kind in (ADD, ACCOUNT)
                outcome.removes -= kind in (REMOVE, UNACCOUNT)
