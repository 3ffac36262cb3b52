"""Follow which arrays one lane has and the other has not, from the event where that begins to the one where it ends.

Each stretch is an episode of one array kind of one memslot; it becomes one finding when it ends, or at the end of the
recording. Bytes are those that the other lane has more than the reference lane.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import attrs

from replay.analyses.array_findings import FILLED_BY, WHOLE_SLOT, End, Episode, Key, Surroundings, finding_of
from replay.analyses.context import Where
from replay.analyses.findings import BYTES_ONLY
from replay.events import MemslotSet
from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.machine import Outcome
from replay.units import ENOMEM

Lists = tuple[list[Allocation], list[Allocation], list[Allocation], list[Allocation]]
"""What an event took and freed in the reference lane, and in the other one."""
Marks = tuple[object, ...]
_SIGNS: Final = ((-1, False), (1, True), (1, False), (-1, True))
"""How each of these counts for the other lane, and whether it was freed."""
_NONE: Final = frozenset[str]()


@attrs.frozen
class _Ends:
    """What two lanes do alike in a call on one memslot: that many at the begin and at the end of what they take, and free.

    arrays: those that are alike.
    """

    taken: tuple[int, int]
    freed: tuple[int, int]
    arrays: frozenset[str]

    def rest(self, lists: Lists) -> Lists:
        """Return what is unlike."""
        (a, z), (first, last) = self.taken, self.freed
        taken, freed, others, others_freed = lists
        return (
            taken[a : len(taken) - z],
            freed[first : len(freed) - last],
            others[a : len(others) - z],
            others_freed[first : len(others_freed) - last],
        )


_ENDS_MOST: Final = 4096


class ArrayTracker:
    """Follow the arrays of one pair of lanes."""

    def __init__(self, pair: Surroundings) -> None:
        self._pair = pair
        self._open: dict[Key, Episode] = {}
        self._seen: dict[tuple[int, int, int], frozenset[str]] = {}  # arrays that a memslot had, alike or not
        self._ends: dict[tuple[Marks, Marks], _Ends | None] = {}
        self._odd = 0  # episodes of other arrays than write tracking
        self._parted: dict[tuple[int, int, int], None] = {}
        self._failing = False
        self._failed: dict[int, None] = {}  # VMs whose last registration or first root ran out of memory in one of the lanes

    def step(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        """Take one event's allocations and frees in both lanes."""
        if reference is not None and other is not None and self._one_slot(at, reference, other):
            return
        self._failing = _out_of_memory(reference) or _out_of_memory(other)
        taken_a, freed_a = _arrays(reference)
        taken_b, freed_b = _arrays(other)
        alike = made_alike(taken_a, taken_b) and made_alike(freed_a, freed_b)
        if not alike and (_shapes_differ(taken_a, taken_b) or _shapes_differ(freed_a, freed_b)):
            self._differ(at, (taken_a, freed_a, taken_b, freed_b))
        self._note_failure(at, reference, other)

    def _one_slot(self, at: Where, reference: Outcome, other: Outcome) -> bool:
        """Take a memslot call that succeeds in both lanes, if they differ in the write tracking of its memslot alone."""
        if at.kind != MemslotSet.KIND or self._parted or self._odd or reference.ret != 0 or other.ret != 0:
            return False
        lists = (reference.taken, reference.freed, other.taken, other.freed)
        key = (tuple(reference.marks), tuple(other.marks))
        if key not in self._ends:
            if len(self._ends) >= _ENDS_MOST:
                self._ends.clear()
            self._ends[key] = _ends_of(lists)
        ends = self._ends[key]
        if ends is None:
            return False
        self._failing = False
        one = reference.taken[0]
        self._follow(at, ends.rest(lists))
        self._saw((one.vm, one.as_id, one.slot_id), ends.arrays)
        return True

    def origin(self, vm: int | None, slot: tuple[int, int] | None = None) -> Where | None:
        """Return where the lanes first parted in the write tracking that a VM has now, or one memslot; None when they did not."""
        keys = [key for key in self._open if key[0] == vm and key[3] == GFN_WRITE_TRACK and (slot is None or key[1:3] == slot)]
        return min((self._open[key].opened for key in keys), key=lambda at: at.event, default=None)

    def _differ(self, at: Where, lists: Lists) -> None:
        self._note_parted(lists)
        alike: dict[Key, None] = {}
        taken, freed = self._unlike(lists[0], lists[2], alike), self._unlike(lists[1], lists[3], alike)
        unlike = (taken[0], freed[0], taken[1], freed[1])
        if any(self._key(allocation) in alike for allocations in unlike for allocation in allocations):
            # Made in both lanes and given back in one: that is one story, told of all that the event did.
            unlike, alike = lists, {}
        self._follow(at, unlike)
        for key in alike:
            self._saw(key[:3], frozenset({key[3]}))

    def _follow(self, at: Where, unlike: Lists) -> None:
        """Begin, change and end episodes by what the lanes did not do alike."""
        touched: dict[Key, None] = {}
        sites: dict[Key, str] = {}
        freed: dict[Key, None] = {}
        for allocations, (sign, frees) in zip(unlike, _SIGNS, strict=True):
            for allocation in allocations:
                key = self._key(allocation)
                touched[key] = None
                if frees:
                    freed[key] = None
                else:
                    sites[key] = allocation.site
                self._episode(key, at, allocation, kept=frees).change(allocation, sign)
        for key in touched:
            self._settle(key, at, sites, key in freed)

    def _saw(self, slot: tuple[int, int, int], arrays: frozenset[str]) -> bool:
        """Remember that a memslot had some arrays; tell whether it had them before."""
        known = self._seen.get(slot, _NONE)
        if arrays <= known:
            return True
        self._seen[slot] = known | arrays
        return False

    def _settle(self, key: Key, at: Where, sites: dict[Key, str], freed: bool) -> None:
        """End the episode of a key if the lanes agree again; sites: who made the arrays that are unlike in this event."""
        episode = self._open[key]
        if not episode.count and not episode.nominal:
            del self._open[key]
            self._odd -= key[3] != GFN_WRITE_TRACK
            if self._parted:
                self._parted.pop(key[:3], None)
            if episode.opened.event != at.event:
                self._emit(episode, End(at, "" if freed else sites.get(key, ""), self._failing))
        elif freed and key in sites:
            episode.moves += 1

    def _unlike(
        self, ours: list[Allocation], theirs: list[Allocation], alike: dict[Key, None]
    ) -> tuple[list[Allocation], list[Allocation]]:
        """Leave out what both lists begin and end with, as long as no episode is about it; alike: takes what is left out."""
        most, first, last = min(len(ours), len(theirs)), 0, 0
        if not most:
            return ours, theirs
        while first < most and self._passes(ours[first], theirs[first], alike):
            first += 1
        while last < most - first and self._passes(ours[-1 - last], theirs[-1 - last], alike):
            last += 1
        return ours[first : len(ours) - last], theirs[first : len(theirs) - last]

    def _passes(self, one: Allocation, other: Allocation, alike: dict[Key, None]) -> bool:
        """Tell whether two lanes did the same to an array that they have alike."""
        key = (one.vm, one.as_id, one.slot_id, one.array)
        if key in self._open or (self._parted and key[:3] in self._parted) or not _alike(one, other):
            return False
        alike[key] = None
        return True

    def _note_parted(self, lists: Lists) -> None:
        """Remember the memslots that one lane has and the other has not: all their arrays are one episode."""
        if _objects(lists[0]) == _objects(lists[2]) and _objects(lists[1]) == _objects(lists[3]):
            return
        net: dict[tuple[int, int, int], int] = {}
        for allocations, (sign, _frees) in zip(lists, _SIGNS, strict=True):
            for slot in (a for a in allocations if a.array == SLOT):
                key = (slot.vm, slot.as_id, slot.slot_id)
                net[key] = net.get(key, 0) + sign
        self._parted.update({key: None for key, count in net.items() if count})

    def _key(self, allocation: Allocation) -> Key:
        vm, as_id, slot_id = allocation.vm, allocation.as_id, allocation.slot_id
        parted = self._parted and (vm, as_id, slot_id) in self._parted
        return vm, as_id, slot_id, WHOLE_SLOT if parted else allocation.array

    def _episode(self, key: Key, at: Where, allocation: Allocation, *, kept: bool) -> Episode:
        found = self._open.get(key)
        if found is None:
            again = self._saw(key[:3], frozenset({key[3]}))
            self._odd += key[3] != GFN_WRITE_TRACK
            slot = self._pair.find_slot(*key[:3])
            base, npages = (None, None) if slot is None else (slot.base_gfn, slot.npages)
            found = Episode(key, at, allocation.site, base, npages, key[0] in self._failed, self._failing, again, kept)
            self._open[key] = found
        return found

    def _note_failure(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        if at.kind not in FILLED_BY or at.vm is None:
            return
        if _out_of_memory(reference) or _out_of_memory(other):
            self._failed[at.vm] = None
        elif any(outcome is not None and outcome.ret == 0 for outcome in (reference, other)):
            self._failed.pop(at.vm, None)

    def finish(self) -> None:
        """Report the episodes that the recording leaves open."""
        for episode in self._open.values():
            self._emit(episode, None)
        self._open.clear()

    def _emit(self, episode: Episode, end: End | None) -> None:
        """Report an episode; the words are made when somebody reads them, but for those that depend on what was found by now."""
        if episode.key[3] == WHOLE_SLOT:
            self._pair.emit(finding_of(self._pair, episode, end))
        else:
            self._pair.emit_later(episode.opened.event, BYTES_ONLY, partial(finding_of, self._pair, episode, end))


def _out_of_memory(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.ret == -ENOMEM


def _ends_of(lists: Lists) -> _Ends | None:
    """Return what is alike in two lanes; None where the whole story is to be told, or where nothing but an order differs."""
    alike: dict[str, None] = {}
    taken, freed = _ends(lists[0], lists[2], alike), _ends(lists[1], lists[3], alike)
    found = _Ends(taken, freed, frozenset(alike))
    others = {piece.array for rest in found.rest(lists) for piece in rest}
    same = _objects(lists[0]) == _objects(lists[2]) and _objects(lists[1]) == _objects(lists[3])
    return found if same and others == {GFN_WRITE_TRACK} and GFN_WRITE_TRACK not in alike and _differ(lists) else None


def _differ(lists: Lists) -> bool:
    return _shapes_differ(lists[0], lists[2]) or _shapes_differ(lists[1], lists[3])


def _ends(ours: list[Allocation], theirs: list[Allocation], alike: dict[str, None]) -> tuple[int, int]:
    """Return how many two lists have alike at the begin, and at the end; alike: takes their arrays."""
    most, first, last = min(len(ours), len(theirs)), 0, 0
    while first < most and _alike(ours[first], theirs[first]):
        alike[ours[first].array] = None
        first += 1
    while last < most - first and _alike(ours[-1 - last], theirs[-1 - last]):
        alike[ours[-1 - last].array] = None
        last += 1
    return first, last


def _arrays(outcome: Outcome | None) -> tuple[list[Allocation], list[Allocation]]:
    return ([], []) if outcome is None else (outcome.taken, outcome.freed)


def made_alike(ours: list[Allocation], theirs: list[Allocation]) -> bool:
    """Tell whether two lists name the same arrays of the same memslots, in the same order."""
    return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _alike(a: Allocation, b: Allocation) -> bool:
    """Tell whether two lanes have the same array, of whatever size if it is a memslot object."""
    if a.array != b.array or a.slot_id != b.slot_id or a.as_id != b.as_id or a.vm != b.vm:
        return False
    return a.cost is b.cost or a.cost.nominal_bytes == b.cost.nominal_bytes or a.array == SLOT


def _shapes_differ(ours: list[Allocation], theirs: list[Allocation]) -> bool:
    """Tell whether two lists name other arrays, in whatever order."""
    return len(ours) != len(theirs) or _shape(ours) != _shape(theirs)


def _objects(allocations: list[Allocation]) -> list[tuple[int, int, int]]:
    """Return the memslots whose objects are among the allocations."""
    return [(a.vm, a.as_id, a.slot_id) for a in allocations if a.array == SLOT]


def _shape(allocations: Iterable[Allocation]) -> list[tuple[int, int, int, str, int]]:
    return sorted((a.vm, a.as_id, a.slot_id, a.array, 0 if a.array == SLOT else a.cost.nominal_bytes) for a in allocations)
