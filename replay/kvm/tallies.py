"""Keep running totals of kernel memory by kind of array: now, at most, and ever.

An event takes and gives back a handful of arrays, and nobody asks for totals in the middle of it. So what happens is noted
as deltas, which are made once for each size, and worked into the totals when somebody looks. Totals follow from how often each
delta came. Peaks need the order: what is there of each kind is a field of one number, to which a delta is one addition, and the
number before memory is given back may be a peak. VMs come by the same few numbers again and again.
Source: none in the kernel; what is counted is what `Allocator` takes and gives back.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from replay.kvm.vmalloc import Cost

WAITING_MOST: Final = 4096
"""More deltas than this are not kept waiting once the event is over."""
_ARRAYS_MOST: Final = 5
# 64 bits hold what one kind can have: 2^16 VMs of two address spaces of 2^40 gfns have rmaps of less than 2^62 bytes.
_FIELDS: Final = struct.Struct(f"<{3 * _ARRAYS_MOST}Q")
_FIELD_BITS: Final = 64
Sums = tuple[int, int, int, int]
"""How many allocations, and their bytes: nominal, charged, real."""


@attrs.define
class Tally:
    """Running totals of one array kind: bytes now, at most, and ever; nominal, charged to the memory cgroup, and real."""

    count: int = 0
    live: int = 0
    nominal_now: int = 0
    nominal_peak: int = 0
    nominal_total: int = 0
    charged_now: int = 0
    charged_peak: int = 0
    charged_total: int = 0
    real_now: int = 0
    real_peak: int = 0
    real_total: int = 0

    def take(self, cost: Cost) -> None:
        """Add one allocation."""
        self.add(_sums_of([cost]), 1)
        self.rise(self.nominal_now, self.charged_now, self.real_now)

    def add(self, sums: Sums, times: int) -> None:
        """Count allocations that were taken that often, or given back (times below 0)."""
        count, nominal, charged, real = (times * number for number in sums)
        self.live += count
        self.nominal_now += nominal
        self.charged_now += charged
        self.real_now += real
        if times > 0:
            self.count += count
            self.nominal_total += nominal
            self.charged_total += charged
            self.real_total += real

    def rise(self, nominal: int, charged: int, real: int) -> None:
        """Note how much there was at some moment."""
        self.nominal_peak = max(self.nominal_peak, nominal)
        self.charged_peak = max(self.charged_peak, charged)
        self.real_peak = max(self.real_peak, real)


def _sums_of(costs: Sequence[Cost]) -> Sums:
    return (
        len(costs),
        sum(cost.nominal_bytes for cost in costs),
        sum(cost.charged_bytes for cost in costs),
        sum(cost.real_bytes for cost in costs),
    )


@attrs.frozen(eq=False)
class Marking:
    """Which allocations come together (taken) or go together; one object for lanes that do the same, but once in 65,536.

    sizes: array and nominal bytes of each, 0 for slot objects, which differ with the release. arrays, nominal_bytes,
    largest_bytes: of those that are no slot objects.
    """

    taken: bool
    sizes: tuple[tuple[str, int], ...]
    arrays: int
    nominal_bytes: int
    largest_bytes: int


_MARKS: Final[dict[tuple[bool, tuple[tuple[str, int], ...]], Marking]] = {}

_MARKS_MOST: Final = 1 << 16

Pieces = Sequence[tuple[str, Cost]]
"""Array and cost of some allocations."""


def _mark_of(parts: Pieces, unsized: str, *, taken: bool) -> Marking:
    sizes = tuple((array, 0 if array == unsized else cost.nominal_bytes) for array, cost in parts)
    known = _MARKS.get((taken, sizes))
    if known is None:
        others = [size for array, size in sizes if array != unsized]
        if len(_MARKS) >= _MARKS_MOST:
            _MARKS.clear()
        made = Marking(taken, sizes, len(others), sum(others), max(others, default=0))
        known = _MARKS[taken, sizes] = made
    return known


def _whole(sums: Mapping[int, Sums]) -> int:
    """Return sums as one number."""
    fields = [(3 * place + index, number) for place, four in sums.items() for index, number in enumerate(four[1:])]
    return sum(number << _FIELD_BITS * field for field, number in fields)


@attrs.frozen(eq=False)
class Delta:
    """What some allocations change of which the first come together, and the others go together after that.

    taken, freed: by the place of the array among those of the account. marks: of those that there are; not to be changed.
    part: the same for the array that is counted by VM; None when it is not among them. rise, fall: taken and freed as one number.
    """

    taken: dict[int, Sums]
    freed: dict[int, Sums]
    marks: list[Marking]
    part: "Delta | None" = None
    rise: int = attrs.field(init=False)
    fall: int = attrs.field(init=False)

    @rise.default
    def _rise(self) -> int:
        return _whole(self.taken)

    @fall.default
    def _fall(self) -> int:
        return _whole(self.freed)


class Account:
    """The totals of some arrays. Source: see the module."""

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self.tallies = tallies
        now = [number for tally in tallies for number in (tally.nominal_now, tally.charged_now, tally.real_now)]
        self._now = sum(number << _FIELD_BITS * field for field, number in enumerate(now))

    def settle(self, deltas: Sequence[Delta]) -> None:
        """Count what happened since, in order. Cost: 0.2 us for each."""
        for delta, times in Counter(deltas).items():
            for place, sums in delta.taken.items():
                self.tallies[place].add(sums, times)
            for place, sums in delta.freed.items():
                self.tallies[place].add(sums, -times)
        assert all(tally.live >= 0 and tally.nominal_now >= 0 for tally in self.tallies), "freed more than was taken"
        size = _FIELDS.size
        most = list(map(max, zip(*(_FIELDS.unpack(top.to_bytes(size, "little")) for top in self._tops(deltas)), strict=True)))
        for place, tally in enumerate(self.tallies):
            tally.rise(*most[3 * place : 3 * place + 3])

    def _tops(self, deltas: Sequence[Delta]) -> Iterable[int]:
        """Return how much there was each time before memory was given back, and at the end."""
        now, rising, tops = self._now, False, dict[int, None]()
        for delta in deltas:
            if delta.rise:
                now += delta.rise
                rising = True
            if delta.fall:
                if rising:
                    tops[now] = None
                    rising = False
                now -= delta.fall
        self._now = now
        tops[now] = None
        return tops


class Books:
    """The totals of one lane by array, and those of one array by VM. Source: see the module.

    waiting: what VMs took and gave back and is not worked in yet, in order.
    """

    def __init__(self, arrays: Sequence[str], by_vm: str) -> None:
        """by_vm: the array that is counted by VM too."""
        assert len(arrays) <= _ARRAYS_MOST
        self._arrays = tuple(arrays)
        self._by_vm_array = by_vm
        self._all = Account([Tally() for _array in arrays])
        self._of_vms: dict[int, Account] = {}
        self.waiting: list[tuple[Delta, int]] = []

    def note(self, delta: Delta, vm: int) -> None:
        """Note what a VM takes or gives back."""
        self.waiting.append((delta, vm))

    def work_in(self) -> None:
        """Work in what waits; call it between events when it is much."""
        if not self.waiting:
            return
        self._all.settle([delta for delta, _vm in self.waiting])
        parts: dict[int, list[Delta]] = {}
        for delta, vm in self.waiting:
            if delta.part is not None:
                parts.setdefault(vm, []).append(delta.part)
        self.waiting.clear()
        for vm, deltas in parts.items():
            account = self._of_vms.get(vm)
            if account is None:
                account = self._of_vms[vm] = Account([Tally()])
            account.settle(deltas)

    def tallies(self) -> dict[str, Tally]:
        """Return the totals by array."""
        self.work_in()
        return dict(zip(self._arrays, self._all.tallies, strict=True))

    def by_vm(self) -> dict[int, Tally]:
        """Return the totals of one array by VM, of each VM that ever had one."""
        self.work_in()
        return {vm: account.tallies[0] for vm, account in self._of_vms.items()}

    def restore(self, tallies: dict[str, Tally], by_vm: dict[int, Tally]) -> None:
        """Take over what others counted. Raises KeyError when an array is missing."""
        self._all = Account([tallies[array] for array in self._arrays])
        self.waiting.clear()
        self._of_vms = {vm: Account([tally]) for vm, tally in by_vm.items()}

    def delta_of(self, taken: Pieces, freed: Pieces, *, unsized: str) -> Delta:
        """Return the delta of some (array, cost). unsized: the array whose size does not matter between lanes."""
        come, gone = self._sums(taken), self._sums(freed)
        marks = [_mark_of(parts, unsized, taken=parts is taken) for parts in (taken, freed) if parts]
        place = self._arrays.index(self._by_vm_array)
        part = None
        if place in come or place in gone:
            mine = [{0: sums[place]} if place in sums else {} for sums in (come, gone)]
            part = Delta(mine[0], mine[1], marks)
        return Delta(come, gone, marks, part)

    def _sums(self, parts: Pieces) -> dict[int, Sums]:
        return {
            place: _sums_of(costs)
            for place, array in enumerate(self._arrays)
            if (costs := [cost for one, cost in parts if one == array])
        }
