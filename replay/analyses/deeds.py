"""Say what two lanes do unlike in a memslot call: to the write tracking of its memslot, or more than that.

What a call does is known by its marks. So it is worked out once for each pair of lists of marks, and met again.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Final

import attrs

from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.tallies import Marking
from replay.kvm.vmalloc import Cost, vcalloc_cost

Lists = tuple[list[Allocation], list[Allocation], list[Allocation], list[Allocation]]
"""What an event took and freed in the reference lane, and in the other one."""
SIGNS: Final = ((-1, False), (1, True), (1, False), (-1, True))
"""How each of these counts for the other lane, and whether it was freed."""
Sums = tuple[int, int, int]
"""Bytes: nominal, charged, real."""
Key = tuple[int, int, int, str]
"""VM, address space, id of a memslot, array."""


Marks = tuple[Marking, ...]


@attrs.frozen(eq=False, repr=False)
class Deed:
    """What is unlike in a call that lanes carry out alike but for the write tracking of the memslot.

    changes: sign and bytes of each array that comes or goes in one lane only, in the order of `Lists`, as counted for the other
    lane. count, sums: of them all; most: the largest on the way, counted from nothing. in_other, kept, place: which lane has the
    first one, whether it is freed there, and its place in the list. takes, frees: whether some are not freed, and some are.
    """

    changes: tuple[tuple[int, Sums], ...]
    count: int
    sums: Sums
    most: Sums
    in_other: bool
    kept: bool
    place: int
    takes: bool
    frees: bool


ALIKE: Final = Deed((), 0, (0, 0, 0), (0, 0, 0), in_other=False, kept=False, place=0, takes=False, frees=False)
"""Nothing is unlike."""


def deed_of(marks: tuple[Marks, Marks], lists: Lists) -> Deed | None:
    """Return what is unlike in a call on one memslot; None where the whole story is to be told, or where an order differs only.

    marks: of what the lists hold, which says all that matters of them.
    """
    if marks not in _DEEDS:
        if len(_DEEDS) >= _DEEDS_MOST:
            _DEEDS.clear()
        _DEEDS[marks] = _deed_of(lists)
    return _DEEDS[marks]


_DEEDS: Final[dict[tuple[Marks, Marks], Deed | None]] = {}
_DEEDS_MOST: Final = 1 << 14


def _deed_of(lists: Lists) -> Deed | None:
    alike: dict[str, None] = {}
    taken, freed = _ends(lists[0], lists[2], alike), _ends(lists[1], lists[3], alike)
    places = [(at, place) for at, (a, z) in enumerate((taken, freed, taken, freed)) for place in range(a, len(lists[at]) - z)]
    unlike = [lists[at][place] for at, place in places]
    same = objects_of(lists[0]) == objects_of(lists[2]) and objects_of(lists[1]) == objects_of(lists[3])
    if not same or GFN_WRITE_TRACK in alike or {one.array for one in unlike} != {GFN_WRITE_TRACK}:
        return None
    if not shapes_differ(lists[0], lists[2]) and not shapes_differ(lists[1], lists[3]):
        return None
    return _deed([(at, lists[at][place].cost) for at, place in places], places[0][1])


@lru_cache(1 << 12)
def single(at: int, nominal_bytes: int) -> Deed:
    """Return the deed that is one array; at: the list that it is in."""
    return _deed([(at, vcalloc_cost(nominal_bytes))], 0)


def _deed(changes: Sequence[tuple[int, Cost]], place: int) -> Deed:
    """Return the deed of some arrays, each with the list that it is in."""
    signed = tuple(_change(cost, SIGNS[at][0]) for at, cost in changes)
    frees = [SIGNS[at][1] for at, _cost in changes]
    return Deed(
        signed,
        count=sum(sign for sign, _sums in signed),
        sums=_total([sums for _sign, sums in signed]),
        most=most_of((0, 0, 0), (0, 0, 0), signed),
        in_other=changes[0][0] > 1,
        kept=frees[0],
        place=place,
        takes=not all(frees),
        frees=any(frees),
    )


def tracking_alone(lists: Lists) -> tuple[list[Key], list[tuple[Key, int, Allocation]]] | None:
    """Return the write tracking that two lanes have alike in an event, and that which one of them has: key, list, array.

    None when they differ in more than that, or when one memslot comes twice.
    """
    alike: list[Key] = []
    unlike: list[tuple[Key, int, Allocation]] = []
    for at in (0, 1):
        if not _walk(lists, at, alike, unlike):
            return None
    unlike.sort(key=itemgetter(1))
    keys = dict.fromkeys(alike) | {key: None for key, _at, _one in unlike}
    return (alike, unlike) if len(keys) == len(alike) + len(unlike) else None


def _walk(lists: Lists, at: int, alike: list[Key], unlike: list[tuple[Key, int, Allocation]]) -> bool:
    """Go through what both lanes took, or freed; False when they differ in more than write tracking."""
    ours, theirs = lists[at], lists[at + 2]
    place, behind = 0, len(theirs)
    for one in ours:
        while place < behind and one[2:7] != theirs[place][2:7] and not alike_in_both(one, theirs[place]):
            if theirs[place].array != GFN_WRITE_TRACK:
                break
            unlike.append((_key(theirs[place]), at + 2, theirs[place]))
            place += 1
        else:
            if place < behind:
                place += 1
                if one.array == GFN_WRITE_TRACK:
                    alike.append(_key(one))
                continue
        if one.array != GFN_WRITE_TRACK:
            return False
        unlike.append((_key(one), at, one))
    unlike += [(_key(one), at + 2, one) for one in theirs[place:]]
    return all(one.array == GFN_WRITE_TRACK for one in theirs[place:])


def _key(one: Allocation) -> Key:
    return one.vm, one.as_id, one.slot_id, one.array


def _change(cost: Cost, sign: int) -> tuple[int, Sums]:
    return sign, (sign * cost.nominal_bytes, sign * cost.charged_bytes, sign * cost.real_bytes)


def _total(changes: Iterable[Sums]) -> Sums:
    nominal, charged, real = (sum(column) for column in zip(*changes, strict=True))
    return nominal, charged, real


def most_of(most: Sums, sums: Sums, changes: Iterable[tuple[int, Sums]]) -> Sums:
    """Return the largest sums on the way, the last of those that are equally large; most: the largest so far, sums: those now."""
    for _sign, change in changes:
        sums = (sums[0] + change[0], sums[1] + change[1], sums[2] + change[2])
        if abs(sums[0]) >= abs(most[0]):
            most = sums
    return most


def _ends(ours: list[Allocation], theirs: list[Allocation], alike: dict[str, None]) -> tuple[int, int]:
    """Return how many two lists have alike at the begin, and at the end; alike: takes their arrays."""
    most, first, last = min(len(ours), len(theirs)), 0, 0
    while first < most and alike_in_both(ours[first], theirs[first]):
        alike[ours[first].array] = None
        first += 1
    while last < most - first and alike_in_both(ours[-1 - last], theirs[-1 - last]):
        alike[ours[-1 - last].array] = None
        last += 1
    return first, last


def alike_in_both(a: Allocation, b: Allocation) -> bool:
    """Tell whether two lanes have the same array, of whatever size if it is a memslot object."""
    if a.array != b.array or a.slot_id != b.slot_id or a.as_id != b.as_id or a.vm != b.vm:
        return False
    return a.cost is b.cost or a.cost.nominal_bytes == b.cost.nominal_bytes or a.array == SLOT


def made_alike(ours: list[Allocation], theirs: list[Allocation]) -> bool:
    """Tell whether two lists name the same arrays of the same memslots, in the same order."""
    return len(ours) == len(theirs) and all(map(alike_in_both, ours, theirs))


def shapes_differ(ours: list[Allocation], theirs: list[Allocation]) -> bool:
    """Tell whether two lists name other arrays, in whatever order."""
    return len(ours) != len(theirs) or _shape(ours) != _shape(theirs)


def objects_of(allocations: list[Allocation]) -> list[tuple[int, int, int]]:
    """Return the memslots whose objects are among the allocations."""
    return [(a.vm, a.as_id, a.slot_id) for a in allocations if a.array == SLOT]


def _shape(allocations: Iterable[Allocation]) -> list[tuple[int, int, int, str, int]]:
    return sorted((a.vm, a.as_id, a.slot_id, a.array, 0 if a.array == SLOT else a.cost.nominal_bytes) for a in allocations)
