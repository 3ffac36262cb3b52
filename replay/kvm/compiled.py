"""Fold runs by the compiled loop where it was built: what is usual by native/rows.c, the rest, row by row, by the scalar rule.

The loop and the scalar rule look at the same counters, so each takes over where the other one stopped. It is built when the
distribution is installed and a C compiler is there; without it, or where it is not wanted (see native/loop.py), the scalar rule
and the bulk rule give the same results. Source: replay.kvm.fold for the rule.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from replay.kvm.counters import Counters
from replay.kvm.fold import BULK_ROWS_LEAST, ROWS, fold_uncompiled
from replay.kvm.kernel_log import BITS, BUG, DISABLED, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.kvm.leaves import Table
from replay.kvm.lpages import may_warn, own_moves
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch
from replay.kvm.memslots import Memslots
from replay.kvm.near import reads_both_spaces, tracks
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.run_columns import put, use_loop
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.native import loop
from replay.runs import ACCOUNT, ADD, QUERY, Constant, Run, tally_long_by
from replay.units import U16_MAX, U64_MAX

LOOP: Final[list[Any]] = [loop.LOOP]
"""The compiled loop, or None."""
VMS_MOST: Final = 254
"""VMs of lower numbers are told apart in a byte."""
_PASSED_OVER: Final = 254
"""Index of VMs whose rows are not to be folded."""
LIVE, UNUSUAL = 0, 1
OFF, TRACKS, TWICE = 1, 2, 4
LEFT_NOTHING, LEFT_PYTHON, LEFT_LEAVES, LEFT_HELD_LEAVES, LEFT_COVER = range(5)
SAID_OFF, SAID_NO_SLOT, SAID_UNDERFLOW, SAID_OVERFLOW, SAID_EINVAL, SAID_TRUE = range(6)
_PYTHON_ROWS_MOST: Final = 16
"""After so many rows of a run that were left to Python all that follow are."""
_LEAVES_LEAST: Final = 64
_LEAVES_MOST: Final = 512
_NODES_MOST: Final = 64
"""What is made at once when the loop runs out of it, at most."""
_REASONS: Final = [
    (said, bytes([BITS[reason] for reason in said])) for said in ((off, NO_SLOT, UNDERFLOW, OVERFLOW) for off in (DISABLED, BUG))
]
"""What the loop says of rows, and the bits for it: where write tracking is not enabled, by whether that is a bug."""
_SLOTS_A_ROW: Final = 4
"""With more memslots than so many a row the scalar rule finds those of the rows sooner."""


@attrs.define(eq=False)
class Packed:
    """The memslots of one address space as the loop wants them. raw: (base_gfn, end_gfn, bias, state) of each, by base_gfn.

    counters: of those that count, with the bias that is in raw. usual: all of them count, and none may warn of disallow_lpage.
    """

    generation: int
    epoch: int
    raw: bytes
    counters: list[tuple[Counters, int]]
    archs: tuple[Arch, ...]
    top_gfn: int
    usual: bool

    def holds(self, vm: Vm, space: Memslots, table: Table) -> bool:
        """Tell whether it is still so."""
        if self.generation != space.generation or not self.usual:
            return False
        if self.epoch != table.epoch:
            for counts, bias in self.counters:
                if counts.bias != bias:
                    return False
            if not vm.lpage_warned and any(arch.lpage_moves.fallen for arch in self.archs):
                return False
            self.epoch = table.epoch
        return True


def use_ways(module: Any) -> None:
    """Have runs tallied, and rows that differ grouped, by the loop's module, if it is there. Source: none."""
    if module is not None:
        tally_long_by(module.tally, module.by_vm)
        use_loop(module.apart)


use_ways(LOOP[0])


def packed(vm: Vm, space: Memslots) -> Packed:
    """Return the memslots of an address space as they are now. Cost: half a microsecond a memslot where any changed.

    Source: see the module.
    """
    table, found = vm.allocator.counters, space.packed
    if found is not None and found.holds(vm, space, table):
        known: Packed = found
        return known
    numbers, counters, usual = list[int](), list[tuple[Counters, int]](), True
    off = not kvm_page_track_write_tracking_enabled(vm)
    slots = space.by_base()
    for slot in slots:
        arch = slot.arch
        bias = 0
        if arch.raw_write_track is not None:
            counts = arch.counts
            bias = counts.bias
            counters.append((counts, bias))
            fine = not arch.lpage_moves.fallen or vm.lpage_warned
        else:
            fine = off and not may_warn(vm, slot)
        usual = usual and fine
        numbers += (slot.base_gfn, slot.base_gfn + slot.npages, bias, LIVE if fine else UNUSUAL)
    top = slots[-1].end_gfn if slots else 0
    archs = tuple([slot.arch for slot in slots])
    raw = array("q", numbers).tobytes()
    space.packed = made = Packed(space.generation, table.epoch, raw, counters, archs, top, usual)
    return made


def _own(space: Memslots, table: Table) -> None:
    """Get counters of a lane's own, where no lane writes for all that share them."""
    for slot in space.by_base():
        if slot.arch.raw_write_track is not None:
            slot.arch.counts.own()
        own_moves(slot.arch, table)


@attrs.define(eq=False)
class _Known:
    """What is kept of the VMs that a run named, for the next one. wanted: those of which rows are folded, which `vms` are.

    index: a byte for each number, 254 for others that the run names, 255 for all the rest.
    spaces: both address spaces of each VM, one twice where there is but one; packed: what is known of them; pieces: the same for
    the loop. states: what of each VM decides the flags in them.
    """

    numbers: tuple[int, ...]
    wanted: tuple[int, ...]
    vms: list[Vm]
    index: bytes
    spaces: list[tuple[Vm, Memslots]]
    packed: list[Packed | None] = attrs.field(factory=list)
    flags: list[int] = attrs.field(factory=list)
    pieces: tuple[tuple[bytes, int, tuple[Arch, ...]], ...] = ()
    states: list[bool] = attrs.field(factory=list)

    def update(self, table: Table, rows: int) -> bool:
        """Look again at all that may have changed; False where a run of so many rows is better off with another rule."""
        states = list[bool]()
        for vm in self.vms:
            states += (vm.shadow_root_allocated, vm.external_write_tracking_enabled, vm.page_write_tracking_disabled)
        if states != self.states:
            self.states, self.packed = states, [None] * len(self.spaces)
            self.flags = [_flags(vm, place & 1) for place, (vm, _space) in enumerate(self.spaces)]
            for _vm, space in self.spaces:
                space.packed = None
        if not table.together:
            for _vm, space in self.spaces:
                _own(space, table)
        known, changed = self.packed, False
        for place, (vm, space) in enumerate(self.spaces):
            of: Packed | None = space.packed
            new = of is None or of.generation != space.generation
            if of is None or new or of is not known[place] or of.epoch != table.epoch or not of.usual:
                if new and len(space) > rows * _SLOTS_A_ROW:
                    return False
                known[place], changed = packed(vm, space), True
        if changed:
            self.pieces = tuple([(of.raw, flags, of.archs) for of, flags in zip(self.all(), self.flags, strict=True)])
        return True

    def all(self) -> list[Packed]:
        """Return what is known of all spaces, after an update."""
        return [of for of in self.packed if of is not None]

    @property
    def usual(self) -> bool:
        """Whether all memslots are usual."""
        return all(of.usual for of in self.all())


def _flags(vm: Vm, high: int) -> int:
    """Return what the loop must know of an address space, as rows with an as_id of 0, or above it, find it."""
    off = not kvm_page_track_write_tracking_enabled(vm)
    return OFF * off | TRACKS * tracks(vm, high) | TWICE * reads_both_spaces(vm)


def _known(machine: Machine, run: Run, wanted: tuple[int, ...]) -> _Known | None:
    """Return the VMs of a run; None where the loop can not tell them apart, or one is not there. wanted: see `_Known`."""
    numbers, known = run.vms(), machine.compiled
    same = known is not None and known.numbers == numbers and known.wanted == wanted
    if not same or any(machine.vms.get(vm.number) is not vm for vm in known.vms):
        if numbers[-1] >= VMS_MOST or not all(number in machine.vms for number in wanted):
            return None
        index = bytearray(b"\xff") * 256
        for number in numbers:
            index[number] = _PASSED_OVER
        for place, number in enumerate(wanted):
            index[number] = place
        vms = [machine.vms[number] for number in wanted]
        spaces = [(vm, space) for vm in vms for space in (vm.spaces[0], vm.spaces[-1])]
        machine.compiled = known = _Known(numbers, wanted, vms, bytes(index), spaces)
    found: _Known = known
    return found


class _Fold:
    """One run on its way through the loop. warned, answered: what is said of each row, as run_columns.py has it."""

    def __init__(self, machine: Machine, run: Run, first: int, known: _Known) -> None:
        self.machine, self.run, self.first, self.known = machine, run, first, known
        self.columns = tuple([_column(column) for column in (run.kind, run.vm, run.as_id, run.gfn, run.level)])
        self.table, self.driver = machine.allocator.counters, machine.allocator.driver_counts
        self.reasons: dict[str, int] = {}
        self.outcome = RunOutcome(reasons=self.reasons)
        self.warned, self.answered = bytearray(len(run)), bytearray(len(run))
        self.answers = self.python_rows = 0

    def go(self) -> RunOutcome:
        """Fold all rows."""
        row, rows = 0, len(self.run)
        self.table.make_room(min(rows, _LEAVES_LEAST))
        while row < rows and self.python_rows < _PYTHON_ROWS_MOST:
            row, left = self._loop(row, rows)
            if left == LEFT_PYTHON:
                self._by_python(row)
                row += 1
                self.known.update(self.table, rows)
            elif left:
                self._make_room(left, rows - row)
        if row < rows:
            self._rest(row)
        return self._said()

    def _make_room(self, left: int, rows: int) -> None:
        """Make what the loop ran out of: leaves and nodes of counters, or room for what external users hold."""
        if left == LEFT_COVER:
            for of, (vm, _space) in zip(self.known.all(), self.known.spaces, strict=True):
                vm.external_adds.own()
                vm.external_adds.cover(max(of.top_gfn - 1, 0))
            return
        table = self.table if left == LEFT_LEAVES else self.driver
        table.make_room(min(rows, _LEAVES_MOST))
        table.make_nodes(min(rows, _NODES_MOST))

    def _loop(self, row: int, rows: int) -> tuple[int, int]:
        """Run the loop from a row on; return the row that it left, and why."""
        known, table, driver = self.known, self.table, self.driver
        facts = array("q")
        for vm in known.vms:
            held = vm.external_adds
            if held.roots.owners > 1:
                held.own()
            facts.extend((vm.indirect_shadow_pages, held.roots.start, held.roots.length, vm.lpage_warned, 0))
        digests = array("Q", bytes(16 * self._slots())) if table.digesting else None
        reasons = _REASONS[self.machine.policy.bug_when_disabled]
        row, left, tally, adds, removes, taken = LOOP[-1].fold(
            *(self.columns, row, rows, known.pieces, known.index, facts, table.arrays(), driver.arrays(), digests, U16_MAX),
            *(self.warned, self.answered, reasons[1]),
        )
        table.took(taken[0], taken[1])
        driver.took(taken[2], taken[3])
        outcome = self.outcome
        outcome.adds += adds
        outcome.removes += removes
        if any(tally):
            self.answers += tally[SAID_EINVAL] + tally[SAID_TRUE]
            self._count(dict(zip(reasons[0], tally[:SAID_EINVAL], strict=True)))
        for place, vm in enumerate(known.vms):
            vm.indirect_shadow_pages = facts[5 * place]
            if facts[5 * place + 4] and vm.policy.bug_when_disabled:
                vm.vm_bugged = True
        if digests is not None:
            self._roll(digests)
        return row, left

    def _slots(self) -> int:
        return sum(len(of.archs) for of in self.known.all())

    def _count(self, reasons: dict[str, int]) -> None:
        """Count the warnings of some rows."""
        counts = self.machine.log.counts
        for reason, count in reasons.items():
            if count:
                counts[reason] = counts.get(reason, 0) + count
                self.reasons[reason] = self.reasons.get(reason, 0) + count

    def _roll(self, digests: "array[int]") -> None:
        """Take what changed into the digests of the memslots: those of counters come first, then those of moves."""
        archs = [arch for of in self.known.all() for arch in of.archs]
        for arch, counted, moved in zip(archs, digests, digests[len(archs) :], strict=False):
            if counted:
                roots = arch.counts.roots
                roots.digest = roots.digest + counted & U64_MAX
            if moved:
                arch.lpage_moves.digest = arch.lpage_moves.digest + moved & U64_MAX

    def _by_python(self, row: int) -> None:
        """Fold one row by the functions that model the kernel's."""
        run, log, one = self.run, self.machine.log, RunOutcome()
        self.python_rows += 1
        self.machine.allocator.event = self.first + row
        kind, level = run.kind[row], run.level[row]
        log.new = []
        ROWS[kind](self.machine.vms[run.vm[row]], 0, run.as_id[row], run.gfn[row], level, one)
        one.log = [(0, reason) for reason in log.new]
        if kind < QUERY or (kind >= ACCOUNT and level > 1 and NO_SLOT not in log.new):
            one.adds, one.removes = (1, 0) if kind in (ADD, ACCOUNT) else (0, 1)
        self._take([row], one)
        log.new = []

    def _rest(self, row: int) -> None:
        """Fold all rows from one on by another rule."""
        rows: Sequence[int] = range(row, len(self.run))
        if self.known.wanted != self.known.numbers:
            rows = [one for one in rows if self.run.vm[one] in self.known.wanted]
        if rows:
            self._take(rows, fold_uncompiled(self.machine, self.run.select(rows), self.first + row))

    def _take(self, rows: Sequence[int], done: RunOutcome) -> None:
        """Take over what was done of some rows; the machine has counted its warnings."""
        self.outcome.adds += done.adds
        self.outcome.removes += done.removes
        for reason, count in done.reasons().items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        warned, answered = done.warned(len(rows)), done.answered(len(rows))
        if warned is not None:
            self.warned = bytearray(put(self.warned, rows, warned, len(self.run)))
        if answered is not None:
            self.answered = bytearray(put(self.answered, rows, answered, len(self.run)))
            self.answers += 1

    def _said(self) -> RunOutcome:
        """Return the outcome with what was said of rows."""
        outcome = self.outcome
        later: dict[str, Callable[[], Any]] = {}
        if self.reasons:
            warned = self.warned
            later["warned"] = lambda: warned
        if self.answers:
            answered = self.answered
            later["answered"] = lambda: answered
        if later:
            outcome.later(later, self.run.kind)
        return outcome


def _column(column: Sequence[int]) -> Any:
    """Return a column as the loop takes it: a number, or bytes of unsigned integers."""
    if isinstance(column, Constant):
        return column.number
    return column if isinstance(column, memoryview) else array("Q", column)


def fold_compiled(machine: Machine, run: Run, first: int, wanted: Sequence[int] = ()) -> RunOutcome | None:
    """Apply a run whose first row is event `first`; None, and nothing is changed, when it needs another rule.

    wanted: some of the VMs that it names, in order; () for all of them. Rows of others are passed over.
    Cost: 5 to 40 ns a row and 20 us a run. Source: see the module.
    """
    if machine.policy.at_first_add:
        return None  # its arrays come within runs
    known = _known(machine, run, tuple(wanted) or run.vms())
    if known is None:
        return None
    if not known.update(machine.allocator.counters, len(run)):
        return None
    if len(run) >= BULK_ROWS_LEAST and not known.usual:
        return None  # the bulk rule takes memslots that are unusual; of a short run they get some rows at most
    machine.allocator.begin(first)
    machine.log.new = []
    return _Fold(machine, run, first, known).go()
