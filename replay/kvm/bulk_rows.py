"""Sort the rows of a run by counter, for the bulk rule: which rows belong to one counter, in which order, and what each does.

Rows of different counters do not touch each other, so only the order within a counter must be kept; the row's number is a
part of the sort key, which keeps it and gives it back, and so is its kind.
Source: replay.kvm.fold, the scalar rule, for what each row does.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from replay.kvm.cells import unsigned
from replay.kvm.layout import GFN_BITS, Layout
from replay.kvm.machine import Machine
from replay.kvm.memslots import Memslots
from replay.kvm.page_track import has_external_api, reads_all_address_spaces
from replay.kvm.vm import Vm
from replay.native.loop import LOOP
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, QUERY, REMOVE, RUN_EVENTS_MAX, UNACCOUNT, Constant, Run, tally_long_by

KIND_BITS: Final = 3
KIND_MASK: Final = 7
LEVEL_ONE: Final = 2
"""Added to the kind of a shadow page of level 1, which counts in no counter."""
_LEVEL_TWO: Final = 2
_KEY_BITS: Final = 63
_FEW_GFN_BITS: Final = 32
_HALF_BYTE: Final = 128
_BYTE_VMS: Final = 32
"""VMs of lower numbers can be told apart in a byte beside a kind."""
_TAILS: Final[dict[Any, Any]] = {}


def as_array(column: Sequence[Any], length: int) -> Any:
    """Return a column of numbers as an array of unsigned integers; no copy of what is one already. Source: none."""
    import numpy as np

    if isinstance(column, memoryview):
        return np.frombuffer(column, unsigned(column.itemsize))
    if isinstance(column, Constant):
        return np.full(length, column.number, np.uint64)
    return np.array(column, np.uint64)


def _kinds_of(run: Run) -> Any:
    """Return the kinds, one byte a row."""
    import numpy as np

    column = run.kind
    raw = bytes([column.number]) * len(run) if isinstance(column, Constant) else column
    return np.frombuffer(raw if isinstance(raw, bytes | memoryview) else bytes(raw), np.uint8)


def tally(column: memoryview) -> dict[int, int]:
    """Return how many rows hold each number of a column of bytes, in order of the numbers. Source: none."""
    import numpy as np

    rows = np.frombuffer(column, np.uint8)
    low, high = int(rows.min()), int(rows.max())
    if high == low + 1:  # as in all that is shadow pages: two numbers are counted in a fifth of the time
        most = int(np.count_nonzero(rows == high))
        return {low: len(rows) - most, high: most}
    counts = np.bincount(rows - np.uint8(low)).tolist()
    return {number: count for number, count in enumerate(counts, low) if count}


def tally_by_vm(vms: Sequence[int], kinds: Sequence[int]) -> dict[int, dict[int, int]]:
    """Return how many rows there are of each kind by VM, in order; {} where not all fit into a byte. Source: none."""
    import numpy as np

    number, kind = as_array(vms, len(vms)), as_array(kinds, len(kinds)) ^ np.uint8(ADD)
    if int(number.max()) >= _BYTE_VMS or int(kind.max()) > KIND_MASK:
        return {}
    kind |= number << KIND_BITS
    found: dict[int, dict[int, int]] = {}
    for code, count in enumerate(np.bincount(kind).tolist()):
        if count:
            found.setdefault(code >> KIND_BITS, {})[ADD | code & KIND_MASK] = count
    return found


tally_long_by(*((tally, tally_by_vm) if LOOP is None else (LOOP.tally, LOOP.by_vm)))  # whoever imports this has numpy


@attrs.define(eq=False)
class Known:
    """What is kept of the VMs that the last run named, for the next one. numbers: theirs.

    spaces: all their address spaces; places: by VM and as_id, the number of a space; None before somebody asked.
    layout: of these spaces, or of the one that the run looked into.
    """

    numbers: tuple[int, ...]
    vms: list[Vm]
    spaces: list[tuple[Vm, Memslots]] = attrs.field(factory=list)
    places: Any = None
    layout: Layout | None = None


@attrs.define(eq=False)
class Rows:
    """A run as the bulk rule wants it. kinds: rows of each kind, by code. kind: the low bits of each row's kind.

    shift: bits of a gfn in the key. spaces: VM and address space of each space number; space: number << shift of each row,
    None when there is one only. twice: reads look into both address spaces of some VM.
    """

    run: Run
    vms: list[Vm]
    kinds: dict[int, int]
    kind: Any
    gfn: Any
    high: int
    """The largest gfn."""
    shift: int
    known: "Known"
    spaces: list[tuple[Vm, Memslots]] = attrs.field(factory=list)
    space: Any = None
    twice: bool = False
    level_ones: bool = False
    """Some rows may be shadow pages of level 1."""
    _by_vm: list[list[int]] | None = None

    def has(self, one: int, other: int) -> bool:
        """Tell whether there are rows of one of two kinds."""
        return one in self.kinds or other in self.kinds

    def changes(self) -> tuple[int, int]:
        """Return what `run.changes()` returns, from what is known here."""
        import numpy as np

        of = self.kinds.get
        low = [
            int(np.count_nonzero(self.kind == code & KIND_MASK | LEVEL_ONE)) for code in (ACCOUNT, UNACCOUNT) if self.level_ones
        ]
        up, down = low or (0, 0)
        return of(ADD, 0) + of(ACCOUNT, 0) - up, of(REMOVE, 0) + of(UNACCOUNT, 0) - down

    def numbers(self, left: Any = None) -> Any:
        """Return the VM of each row. left: of these rows only."""
        number = as_array(self.run.vm, len(self.run))
        return number if left is None else number.take(left)

    def by_vm(self, left: Any = None) -> list[list[int]]:
        """Return for each of the VMs how many rows there are by the low bits of their kind. left: of these rows only."""
        if left is not None:
            return self._count_by_vm(left)
        if self._by_vm is None:
            known = {} if self.level_ones else self.run.by_vm()
            self._by_vm = [[of.get(ADD | low, 0) for low in range(KIND_MASK + 1)] for of in known.values()]
            self._by_vm = self._by_vm or self._count_by_vm(None)
        return self._by_vm

    def _count_by_vm(self, left: Any) -> list[list[int]]:
        import numpy as np

        kind = self.kind if left is None else self.kind.take(left)
        if len(self.vms) == 1:
            return [np.bincount(kind, minlength=KIND_MASK + 1).tolist()]
        number, high = self.numbers(left), self.vms[-1].number + 1
        wide = number if high <= _BYTE_VMS and number.itemsize == 1 else number.astype(np.intp)
        counts = np.bincount(wide << KIND_BITS | kind, minlength=high << KIND_BITS).tolist()
        return [counts[vm.number << KIND_BITS :][: KIND_MASK + 1] for vm in self.vms]


def rows_of(machine: Machine, run: Run) -> Rows | None:
    """Prepare a run; None for one that the bulk rule does not take. Source: see the module."""
    numbers = run.vms()
    known: Known | None = machine.layout
    if known is None or known.numbers != numbers or any(machine.vms.get(vm.number) is not vm for vm in known.vms):
        vms = [machine.vms[number] for number in numbers if number in machine.vms]
        if len(vms) < len(numbers):
            return None
        machine.layout = known = Known(numbers, vms)
    gfn = as_array(run.gfn, len(run))
    high = int(gfn.max())
    bits, vms = high.bit_length(), known.vms
    if bits > GFN_BITS:
        return None
    rows = Rows(run, vms, run.kinds(), _kinds_of(run) & KIND_MASK, gfn, high, bits, known)
    if rows.has(ADD, REMOVE) and not has_external_api(vms[0]):  # all VMs of a machine are of one policy and profile
        return None
    if rows.has(ACCOUNT, UNACCOUNT) and not (isinstance(run.level, Constant) and run.level.number > 1):
        _mark_level_one(rows)
    rows.twice = rows.has(QUERY, GUEST_WRITE) and reads_all_address_spaces(vms[0]) and any(vm.nas > 1 for vm in vms)
    return rows if _choose_spaces(rows) else None


def _mark_level_one(rows: Rows) -> None:
    """Give shadow pages of level 1 kinds of their own."""
    low = as_array(rows.run.level, len(rows.run)) < _LEVEL_TWO
    if not rows.kinds.keys() <= {ACCOUNT, UNACCOUNT}:
        low &= rows.kind >= ACCOUNT & KIND_MASK
    if low.any():
        rows.level_ones = True
        rows.kind = rows.kind | low.view("u1") * LEVEL_ONE


def _choose_spaces(rows: Rows) -> bool:
    """Give the address spaces that the rows look into their numbers; False for external users of a space other than 0.

    Source: page_track.external_track(), mmu.account_shadowed() for which space a row looks into.
    """
    import numpy as np

    run, vms = rows.run, rows.vms
    only_zero = isinstance(run.as_id, Constant) and not run.as_id.number
    if only_zero and len(vms) == 1 and not rows.twice:
        rows.spaces = [(vms[0], vms[0].spaces[0])]
        return True
    high = None if only_zero else as_array(run.as_id, len(run)) > 0
    if high is not None and rows.has(ADD, REMOVE):
        inside = rows.kind > REMOVE & KIND_MASK
        if not vms[0].policy.register_checks_mm and bool((high & ~inside).any()):
            return False
        high &= inside
    rows.shift = _FEW_GFN_BITS if rows.shift <= _FEW_GFN_BITS else GFN_BITS
    known = rows.known
    if known.places is None:
        known.places = np.zeros((vms[-1].number + 1, 2), np.int64)
        for vm in vms:
            known.places[vm.number] = len(known.spaces), len(known.spaces) + (vm.nas > 1)
            known.spaces.extend((vm, space) for space in vm.spaces)
    rows.spaces = known.spaces
    if len(vms) == 1:
        number: Any = np.full(len(run), vms[0].number << 1, np.intp)
    else:
        number = as_array(run.vm, len(run))
        number = (number if len(known.places) <= _HALF_BYTE and number.itemsize == 1 else number.astype(np.intp)) << 1
    rows.space = known.places.take(number if high is None else number | high)
    rows.space <<= rows.shift
    return True


@attrs.define(eq=False)
class Sorted:
    """The rows of a run, counter by counter, in order within each.

    rows: the sort keys, which tell number and kind of each row; kind: the latter. keys: space << shift | gfn of each counter;
    lasts: its last row; inner: the rows that are followed by another one of their counter.
    """

    rows: Any
    kind: Any
    keys: Any
    lasts: Any
    inner: Any
    number_mask: int

    def numbers(self, at: Any) -> Any:
        """Return which rows of the run some sorted rows are."""
        return self.rows.take(at) >> KIND_BITS & self.number_mask

    def counters_of(self, at: Any) -> Any:
        """Return the counters that some sorted rows belong to."""
        return self.lasts.searchsorted(at)

    def firsts_of(self, counters: Any) -> Any:
        """Return the first row of some counters."""
        firsts = self.lasts.take(counters - 1, mode="wrap") + 1
        firsts[counters == 0] = 0
        return firsts

    def rows_of(self, counters: Any) -> Any:
        """Return the sorted rows of some counters, at least one, which ascend."""
        import numpy as np

        ends = self.lasts.take(counters) + 1
        lengths = ends - self.firsts_of(counters)
        behind = lengths.cumsum()
        return np.arange(behind[-1]) + (ends - behind).repeat(lengths)

    def inner_counters(self) -> Any:
        """Return the counter of each inner row: as many before it are not the last of theirs as there are inner ones."""
        import numpy as np

        return self.inner - np.arange(len(self.inner))


def key_bits(rows: Rows) -> tuple[int, int]:
    """Return the bits of a sort key, and those of them that tell number and kind. Source: none."""
    low = (len(rows.run) - 1).bit_length() + KIND_BITS
    return rows.shift + (len(rows.spaces) - 1).bit_length() + low, low


def sortable(rows: Rows) -> bool:
    """Tell whether the numbers fit the sort key. Source: none."""
    return key_bits(rows)[0] <= _KEY_BITS


def sort_rows(rows: Rows, left: Any = None) -> Sorted:
    """Sort by counter. Cost: 10 to 15 ns a row. left: the rows to be sorted, at least one, in order; None for all of them.

    Source: see the module.
    """
    import numpy as np

    bits, low = key_bits(rows)
    dtype: Any = np.uint32 if bits <= 32 else np.int64
    key: Any = rows.gfn.astype(dtype)
    if rows.space is not None:
        key |= rows.space
    key <<= dtype(low)
    tail = rows.kind.astype(dtype)
    tail |= _tail(len(rows.run), dtype)
    key |= tail
    if left is not None:
        key = key.take(left)
    if rows.twice:
        key = np.concatenate([key, _second_reads(rows, tail, low)])
    key.sort()
    counter = key >> dtype(low)
    last = np.empty(len(key), bool)
    last[-1] = True
    np.not_equal(counter[1:], counter[:-1], out=last[:-1])
    lasts = last.nonzero()[0]
    np.logical_not(last, out=last)
    keys = counter.take(lasts).astype(np.int64)
    return Sorted(key, key & dtype(KIND_MASK), keys, lasts, last.nonzero()[0], (1 << (low - KIND_BITS)) - 1)


def _tail(length: int, dtype: Any) -> Any:
    """Return the numbers of the rows, above the bits of their kind."""
    import numpy as np

    if length > RUN_EVENTS_MAX:
        return np.arange(0, length << KIND_BITS, 1 << KIND_BITS, dtype=dtype)
    if dtype not in _TAILS:
        _TAILS[dtype] = np.arange(0, RUN_EVENTS_MAX << KIND_BITS, 1 << KIND_BITS, dtype=dtype)
    return _TAILS[dtype][:length]


def _second_reads(rows: Rows, tail: Any, low: int) -> Any:
    """Return the keys of reads in the other address space, for VMs that look into both."""
    import numpy as np

    both = {vm.number for vm in rows.vms if vm.nas > 1 and reads_all_address_spaces(vm)}
    wanted = np.array([vm.number in both for vm, _space in rows.spaces])
    space = rows.space >> rows.shift
    is_read = (rows.kind == QUERY & KIND_MASK) | (rows.kind == GUEST_WRITE & KIND_MASK)
    at = np.flatnonzero(is_read & wanted[space])
    own = space[at]
    zero = np.array([vm.spaces.index(space) for vm, space in rows.spaces])  # 0 or 1
    other = own + 1 - 2 * zero[own]
    return (other << rows.shift | rows.gfn[at].astype(np.int64)) << low | tail[at]
