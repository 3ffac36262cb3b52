"""Keep running totals of kernel memory by kind of array: now, at most, and ever.

An event takes and gives back a handful of arrays, and nobody asks for totals in the middle of it. So what happens is noted
as deltas, which are made once for each size, and worked into the totals when somebody looks. Totals follow from how often each
delta came. Peaks need the order: what is there of each kind is a field of one number, to which a delta is one addition, and the
number before memory is given back may be a peak. VMs come by the same few numbers again and again.
Source: none in the kernel; what is counted is what `Allocator` takes and gives back.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
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


_MARKS: Final[dict[tuple[int, tuple[tuple[str, int], ...]], Marking]] = {}

_MARKS_MOST: Final = 1 << 16


def _mark_of(parts: Sequence[tuple[str, Cost]], sign: int, unsized: str) -> Marking:
    sizes = tuple((array, 0 if array == unsized else cost.nominal_bytes) for array, cost in parts)
    known = _MARKS.get((sign, sizes))
    if known is None:
        others = [size for array, size in sizes if array != unsized]
        if len(_MARKS) >= _MARKS_MOST:
            _MARKS.clear()
        made = Marking(sign > 0, sizes, len(others), sum(others), max(others, default=0))
        known = _MARKS[sign, sizes] = made
    return known


@attrs.frozen(eq=False)
class Delta:
    """What some allocations change that come together (sign 1), or go together (-1).

    sums: by the place of the array among those of the account. whole: the same as one number, with its sign. part: the same
    for the array that is counted by VM; None when it is not among them.
    """

    sign: int
    sums: dict[int, Sums]
    mark: Marking
    part: "Delta | None" = None
    whole: int = attrs.field(init=False)

    @whole.default
    def _whole(self) -> int:
        fields = [(3 * place + index, number) for place, sums in self.sums.items() for index, number in enumerate(sums[1:])]
        return self.sign * sum(number << _FIELD_BITS * field for field, number in fields)


class Account:
    """The totals of some arrays. waiting: deltas that are not worked in yet, in order. Source: see the module."""

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self.waiting: list[Delta] = []
        self._tallies = tallies
        now = [number for tally in tallies for number in (tally.nominal_now, tally.charged_now, tally.real_now)]
        self._now = sum(number << _FIELD_BITS * field for field, number in enumerate(now))

    def tallies(self) -> Sequence[Tally]:
        """Return the totals. Cost: 0.2 us for each delta that waits."""
        if self.waiting:
            self._settle()
        return self._tallies

    def _settle(self) -> None:
        for delta, times in Counter(self.waiting).items():
            for place, sums in delta.sums.items():
                self._tallies[place].add(sums, delta.sign * times)
        assert all(tally.live >= 0 and tally.nominal_now >= 0 for tally in self._tallies), "freed more than was taken"
        tops = self._tops()
        self.waiting.clear()
        size = _FIELDS.size
        most = list(map(max, zip(*(_FIELDS.unpack(top.to_bytes(size, "little")) for top in tops), strict=True)))
        for place, tally in enumerate(self._tallies):
            tally.rise(*most[3 * place : 3 * place + 3])

    def _tops(self) -> Iterable[int]:
        """Go through what waits; return how much there was each time before memory was given back, and at the end."""
        now, rising, tops = self._now, False, dict[int, None]()
        for delta in self.waiting:
            if delta.sign > 0:
                rising = True
            elif rising:
                tops[now] = None
                rising = False
            now += delta.whole
        self._now = now
        tops[now] = None
        return tops


class Books:
    """The totals of one lane by array, and those of one array by VM. Source: see the module."""

    def __init__(self, arrays: Sequence[str], by_vm: str) -> None:
        """by_vm: the array that is counted by VM too."""
        assert len(arrays) <= _ARRAYS_MOST
        self._arrays = tuple(arrays)
        self._by_vm_array = by_vm
        self._all = Account([Tally() for _array in arrays])
        self._of_vms: dict[int, Account] = {}
        self.waiting = self._all.waiting

    def note(self, delta: Delta, vm: int) -> None:
        """Note what a VM takes or gives back."""
        self.waiting.append(delta)
        if delta.part is not None:
            account = self._of_vms.get(vm)
            if account is None:
                account = self._of_vms[vm] = Account([Tally()])
            account.waiting.append(delta.part)

    def work_in(self) -> None:
        """Work in what waits; call it between events when it is much."""
        self.tallies()
        self.by_vm()

    def tallies(self) -> dict[str, Tally]:
        """Return the totals by array."""
        return dict(zip(self._arrays, self._all.tallies(), strict=True))

    def by_vm(self) -> dict[int, Tally]:
        """Return the totals of one array by VM, of each VM that ever had one."""
        return {vm: account.tallies()[0] for vm, account in self._of_vms.items()}

    def restore(self, tallies: dict[str, Tally], by_vm: dict[int, Tally]) -> None:
        """Take over what others counted. Raises KeyError when an array is missing."""
        self._all = Account([tallies[array] for array in self._arrays])
        self.waiting = self._all.waiting
        self._of_vms = {vm: Account([tally]) for vm, tally in by_vm.items()}

    def delta_of(self, parts: Sequence[tuple[str, Cost]], sign: int, *, unsized: str) -> Delta:
        """Return the delta of some (array, cost). unsized: the array whose size does not matter between lanes."""
        sums = {
            place: _sums_of(costs)
            for place, array in enumerate(self._arrays)
            if (costs := [cost for one, cost in parts if one == array])
        }
        mark, place = _mark_of(parts, sign, unsized), self._arrays.index(self._by_vm_array)
        return Delta(sign, sums, mark, Delta(sign, {0: sums[place]}, mark) if place in sums else None)
