"""Sort the rows of a run by counter, for the bulk rule: which rows belong to one counter, in which order, and what each does.

Rows of different counters do not touch each other, so only the order within a counter must be kept; the row's number is a
part of the sort key, which keeps it and gives it back.
Source: replay.kvm.fold, the scalar rule, for what each row does.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from replay.kvm.layout import GFN_BITS
from replay.kvm.machine import Machine
from replay.kvm.memslots import Memslots
from replay.kvm.page_track import has_external_api, reads_all_address_spaces
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Constant, Run

DOWN, NONE, UP = 0, 1, 2
"""What a row does to its counter; a read is NONE."""
_OPS: Final = bytes(
    {ADD: UP, ACCOUNT: UP, REMOVE: DOWN, UNACCOUNT: DOWN, QUERY: NONE, GUEST_WRITE: NONE}.get(code, NONE) for code in range(256)
)
_KEY_BITS: Final = 63


def as_array(column: Sequence[Any], length: int) -> Any:
    """Return a column of numbers as an array of unsigned integers; no copy of what is one already. Source: none."""
    import numpy as np

    if isinstance(column, memoryview):
        return np.frombuffer(column, dtype=f"u{column.itemsize}")
    if isinstance(column, Constant):
        return np.full(length, column.number, np.uint64)
    return np.array(column, np.uint64)


@attrs.define(eq=False)
class Rows:
    """A run as the bulk rule wants it. kinds: rows of each kind, by code. op: UP, DOWN or NONE of each row.

    spaces: VM and address space of each space number; space: number of each row's, None when there is one only.
    """

    run: Run
    vms: list[Vm]
    kind: Any
    kinds: dict[int, int]
    op: Any
    gfn: Any
    gfn_max: int
    level_one: bool
    vm_number: Any = None
    spaces: list[tuple[Vm, Memslots]] = attrs.field(factory=list)
    space: Any = None

    @property
    def external(self) -> int:
        """How many rows are adds and removes of external users."""
        return self.kinds.get(ADD, 0) + self.kinds.get(REMOVE, 0)

    @property
    def reads(self) -> int:
        """How many rows ask whether a gfn is tracked."""
        return self.kinds.get(QUERY, 0) + self.kinds.get(GUEST_WRITE, 0)

    @property
    def pages(self) -> int:
        """How many rows are shadow pages."""
        return self.kinds.get(ACCOUNT, 0) + self.kinds.get(UNACCOUNT, 0)


def rows_of(machine: Machine, run: Run) -> Rows | None:
    """Prepare a run; None for one that the bulk rule does not take. Source: see the module."""
    import numpy as np

    numbers = run.vms()
    vms = [machine.vms[number] for number in numbers if number in machine.vms]
    gfn = as_array(run.gfn, len(run))
    gfn_max = int(gfn.max())
    if len(vms) < len(numbers) or gfn_max >> GFN_BITS:
        return None
    raw = bytes([run.kind.number]) * len(run) if isinstance(run.kind, Constant) else bytes(run.kind)
    kind = np.frombuffer(raw, np.uint8)
    kinds = run.kinds()
    rows = Rows(run, vms, kind, kinds, np.frombuffer(raw.translate(_OPS), np.uint8), gfn, gfn_max, level_one=False)
    if rows.external and not all(has_external_api(vm) for vm in vms):
        return None
    if rows.pages and not (isinstance(run.level, Constant) and run.level.number > 1):
        level_one = (as_array(run.level, len(run)) < 2) & (kind >= ACCOUNT)
        if level_one.any():
            rows.level_one, rows.op = True, np.where(level_one, np.uint8(NONE), rows.op)
    if len(vms) > 1:
        rows.vm_number = as_array(run.vm, len(run))
    return rows if _choose_spaces(rows) else None


def _choose_spaces(rows: Rows) -> bool:
    """Give the address spaces that the rows look into their numbers; False for external users of a space other than 0.

    Source: page_track.external_track(), mmu.account_shadowed() for which space a row looks into.
    """
    import numpy as np

    run, vms = rows.run, rows.vms
    only_zero = isinstance(run.as_id, Constant) and not run.as_id.number
    if only_zero and len(vms) == 1 and not reads_twice(rows):
        rows.spaces = [(vms[0], vms[0].spaces[0])]
        return True
    high = None if only_zero else as_array(run.as_id, len(run)) > 0
    if high is not None and not high.any():
        high = None
    if high is not None and rows.external:
        outside = high & (rows.kind <= REMOVE)
        if outside.any():
            if not all(vm.policy.register_checks_mm for vm in vms):
                return False
            high &= ~outside
    first = np.zeros(max(vm.number for vm in vms) + 1, np.int64)
    two = np.zeros(len(first), bool)
    for vm in vms:
        first[vm.number] = len(rows.spaces)
        two[vm.number] = vm.nas > 1
        rows.spaces.extend((vm, space) for space in vm.spaces)
    number = np.intp(vms[0].number) if rows.vm_number is None else rows.vm_number.astype(np.intp)
    space = np.broadcast_to(first[number], len(run))
    rows.space = space if high is None else space + (high & two[number])
    return True


def reads_twice(rows: Rows) -> bool:
    """Tell whether reads look into both address spaces. Source: page_track.reads_all_address_spaces()."""
    return bool(rows.reads) and any(vm.nas > 1 and reads_all_address_spaces(vm) for vm in rows.vms)


@attrs.define(eq=False)
class Sorted:
    """The rows of a run, counter by counter, in order within each. All but keys and starts are one a row.

    number: the row in the run. segment: number of the counter. keys: space << 40 | gfn of each counter; starts: its first row.
    """

    number: Any
    op: Any
    step: Any
    segment: Any
    keys: Any
    starts: Any
    lasts: Any


def sort_rows(rows: Rows) -> Sorted | None:
    """Sort by counter; None when the numbers do not fit the sort key. Cost: 10 to 15 ns a row. Source: see the module."""
    import numpy as np

    length = len(rows.run)
    low = (length - 1).bit_length() + 2
    narrow = rows.space is None and rows.gfn_max.bit_length() + low <= 32
    if not narrow and GFN_BITS + len(rows.spaces).bit_length() + low > _KEY_BITS:
        return None
    dtype = np.uint32 if narrow else np.uint64
    key: Any = rows.gfn.astype(dtype)
    if rows.space is not None:
        key |= rows.space.astype(dtype) << dtype(GFN_BITS)
    key <<= dtype(low)
    tail: Any = np.arange(0, 4 * length, 4, dtype=dtype)
    tail |= rows.op
    key |= tail
    if reads_twice(rows):
        key = np.concatenate([key, _second_reads(rows, tail, low)])
    key.sort()
    counter = key >> dtype(low)
    number = (key >> dtype(2)) & dtype((1 << (low - 2)) - 1)
    op = (key & dtype(3)).astype(np.int8)
    first = np.empty(len(key), bool)
    first[0] = True
    np.not_equal(counter[1:], counter[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    segment = np.cumsum(first, dtype=np.int32)
    segment -= 1
    lasts = np.append(starts[1:], len(key)) - 1
    return Sorted(number, op, op - np.int8(NONE), segment, counter[starts].astype(np.int64), starts, lasts)


def _second_reads(rows: Rows, tail: Any, low: int) -> Any:
    """Return the keys of reads in the other address space, for VMs that look into both."""
    import numpy as np

    both = {vm.number for vm in rows.vms if vm.nas > 1 and reads_all_address_spaces(vm)}
    wanted = np.array([vm.number in both for vm, _space in rows.spaces])
    at = np.flatnonzero(((rows.kind == QUERY) | (rows.kind == GUEST_WRITE)) & wanted[rows.space])
    own = rows.space[at]
    zero = np.array([vm.spaces.index(space) for vm, space in rows.spaces])  # 0 or 1
    other = (own + 1 - 2 * zero[own]).astype(np.uint64)
    return ((other << np.uint64(GFN_BITS) | rows.gfn[at].astype(np.uint64)) << np.uint64(low)) | tail[at]
