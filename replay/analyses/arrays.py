"""Follow which arrays one lane has and the other has not, from the event where that begins to the one where it ends.

Each stretch is an episode of one array kind of one memslot; it becomes one finding when it ends, or at the end of the
recording. Bytes are those that the other lane has more than the reference lane.
"""

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from replay.analyses.aspects import aspects_of
from replay.analyses.catalogue import HOLDS_VM, ONE_LANE_ONLY, Rule
from replay.analyses.context import Where, slot_text
from replay.analyses.findings import BYTES_ONLY, Finding, Side
from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.machine import Outcome
from replay.kvm.memslot import Memslot
from replay.kvm.uapi import KVM_USER_MEM_SLOTS
from replay.units import ENOMEM, bytes_text

WHOLE_SLOT: Final = "all arrays"
Key = tuple[int, int, int, str]  # vm, as_id, slot id, array

Lists = tuple[list[Allocation], list[Allocation], list[Allocation], list[Allocation]]
"""What an event took and freed in the reference lane, and in the other one."""
_SIGNS: Final = ((-1, False), (1, True), (1, False), (-1, True))
"""How each of these counts for the other lane, and whether it was freed."""

_FILLED_BY: Final = {"notifier.register": ("D2", "D8"), "shadow_root.alloc": ("D5", "D9")}
"""Events that allocate for all memslots -> row when they succeed, row when they fail on the way."""


@attrs.define
class Episode:
    """One array kind of one memslot that the lanes do not have alike; bytes: the other lane's less the reference lane's.

    kept: it began when one lane freed what both had. in_failure: it began in a call that ran out of memory; after_failure: such a
    call of its VM came before.
    """

    key: Key
    opened: Where
    site: str
    base_gfn: int | None
    npages: int | None
    after_failure: bool
    in_failure: bool
    recreated: bool
    kept: bool
    count: int = 0
    nominal: int = 0
    charged: int = 0
    real: int = 0
    most: tuple[int, int, int] = (0, 0, 0)
    moves: int = 0

    def change(self, allocation: Allocation, sign: int) -> None:
        """Take one allocation (+1) or free (-1) of the other lane in, or the opposite of the reference lane.

        A memslot object that both lanes have is counted only: how large it is depends on the release, not on what a policy does.
        """
        cost = allocation.cost
        self.count += sign
        if self.key[3] == SLOT:
            return
        self.nominal += sign * cost.nominal_bytes
        self.charged += sign * cost.charged_bytes
        self.real += sign * cost.real_bytes
        if abs(self.nominal) >= abs(self.most[0]):
            self.most = (self.nominal, self.charged, self.real)


@attrs.frozen
class End:
    """How an episode ended: the event, and the function by which the lane that lacked the array got it ("": it was freed)."""

    at: Where
    filled_by: str
    failed: bool


@attrs.frozen
class Surroundings:
    """What the tracker asks of its pair.

    factual: whether each lane is the recorded kernel. row_rule: the catalogue row that stands, and its rule. parted_row: row of
    what parted the lanes in a VM, for memslots that only one of them has. find_slot: a memslot by VM, address space and id.
    """

    names: tuple[str, str]
    factual: tuple[bool, bool]
    emit: Callable[[Finding], object]
    row_rule: Callable[[str], tuple[str, Rule]]
    parted_row: Callable[[int | None], str]
    find_slot: Callable[[int, int, int], Memslot | None]


class ArrayTracker:
    """Follow the arrays of one pair of lanes."""

    def __init__(self, pair: Surroundings) -> None:
        self._pair = pair
        self._open: dict[Key, Episode] = {}
        self._seen: dict[Key, None] = {}
        self._parted: dict[tuple[int, int, int], None] = {}
        self._failing = False
        self._failed: dict[int, None] = {}  # VMs whose last registration or first root ran out of memory in one of the lanes

    def step(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        """Take one event's allocations and frees in both lanes."""
        self._failing = _out_of_memory(reference) or _out_of_memory(other)
        taken_a, freed_a = _arrays(reference)
        taken_b, freed_b = _arrays(other)
        alike = made_alike(taken_a, taken_b) and made_alike(freed_a, freed_b)
        if not alike and (_shapes_differ(taken_a, taken_b) or _shapes_differ(freed_a, freed_b)):
            self._differ(at, (taken_a, freed_a, taken_b, freed_b))
        self._note_failure(at, reference, other)

    def origin(self, vm: int | None, slot: tuple[int, int] | None = None) -> Where | None:
        """Return where the lanes first parted in the write tracking that a VM has now, or one memslot; None when they did not."""
        keys = [key for key in self._open if key[0] == vm and key[3] == GFN_WRITE_TRACK and (slot is None or key[1:3] == slot)]
        return min((self._open[key].opened for key in keys), key=lambda at: at.event, default=None)

    def _differ(self, at: Where, lists: Lists) -> None:
        touched: dict[Key, None] = {}
        self._note_parted(lists)
        alike: dict[Key, None] = {}
        taken, freed_ones = self._unlike(lists[0], lists[2], alike), self._unlike(lists[1], lists[3], alike)
        unlike = (taken[0], freed_ones[0], taken[1], freed_ones[1])
        if any(self._key(allocation) in alike for allocations in unlike for allocation in allocations):
            # Made in both lanes and given back in one: that is one story, told of all that the event did.
            unlike, alike = lists, {}
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
        self._seen |= alike

    def _settle(self, key: Key, at: Where, sites: dict[Key, str], freed: bool) -> None:
        """End the episode of a key if the lanes agree again; sites: who made the arrays that are unlike in this event."""
        episode = self._open[key]
        if not episode.count and not episode.nominal:
            del self._open[key]
            self._parted.pop(key[:3], None)
            if episode.opened.event != at.event:
                filled_by = "" if freed else sites.get(key, "")
                self._pair.emit(self._finding(episode, End(at, filled_by, self._failing)))
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
            again = key in self._seen
            self._seen[key] = None
            slot = self._pair.find_slot(*key[:3])
            base, npages = (None, None) if slot is None else (slot.base_gfn, slot.npages)
            found = Episode(key, at, allocation.site, base, npages, key[0] in self._failed, self._failing, again, kept)
            self._open[key] = found
        return found

    def _note_failure(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        if at.kind not in _FILLED_BY or at.vm is None:
            return
        if _out_of_memory(reference) or _out_of_memory(other):
            self._failed[at.vm] = None
        elif any(outcome is not None and outcome.ret == 0 for outcome in (reference, other)):
            self._failed.pop(at.vm, None)

    def finish(self) -> None:
        """Report the episodes that the recording leaves open."""
        for episode in self._open.values():
            self._pair.emit(self._finding(episode, None))
        self._open.clear()

    def _finding(self, episode: Episode, end: End | None) -> Finding:
        vm, as_id, slot, array = episode.key
        names = self._pair.names
        holder, lacker = (names[1], names[0]) if episode.most[0] > 0 else names
        if array == WHOLE_SLOT:
            row, rule = self._pair.parted_row(vm), HOLDS_VM if episode.kept else ONE_LANE_ONLY
        else:
            row, rule = self._pair.row_rule(_row(episode, end))
        sides = {side.lane: side for side in self._sides(episode, end, holder, lacker)}
        return Finding(
            event=episode.opened.event,
            kind=episode.opened.kind,
            place=episode.opened.place,
            divergence=BYTES_ONLY,
            catalogue=row,
            title=rule.title,
            vm=vm,
            as_id=as_id,
            slot=slot,
            base_gfn=episode.base_gfn,
            npages=episode.npages,
            sides=(sides[names[0]], sides[names[1]]),
            array=array,
            nominal_bytes=episode.most[0],
            charged_bytes=episode.most[1],
            real_bytes=episode.most[2],
            root_cause_event=episode.opened.event,
            root_cause=_cause(episode, holder, lacker),
            behind_horizon=array == WHOLE_SLOT and not episode.kept,
            visible="in memory accounting only: /proc/vmallocinfo, memory cgroup of the task",
            converged_event=None if end is None else end.at.event,
            converged=_ending(end, lacker),
            aspects=aspects_of(row, sides[holder], sides[lacker], episode.moves) if array == GFN_WRITE_TRACK else (),
            explanation=rule.explanation,
            source=rule.source,
        )

    def _sides(self, episode: Episode, end: End | None, holder: str, lacker: str) -> tuple[Side, Side]:
        """Say what the lane that has the memory has, and what the other one has not."""
        _vm, as_id, slot, array = episode.key
        name, size, at = slot_text(as_id, slot), bytes_text(abs(episode.most[0])), episode.opened
        names, facts = self._pair.names, self._pair.factual
        factual = {names[0]: facts[0], names[1]: facts[1]}
        if episode.kept:
            what = name if array == WHOLE_SLOT else array
            return Side(lane=holder, did=f"keeps {what}, {size}"), _side(lacker, "frees it", at, "", factual=factual[lacker])
        if array == WHOLE_SLOT:
            has = _side(holder, f"{name} with {size} of arrays", at, "", factual=factual[holder])
            return has, Side(lane=lacker, did=f"no {name}")
        has = _side(holder, f"{size} of {array}", at, episode.site, factual=factual[holder])
        if end is None or not end.filled_by:
            return has, Side(lane=lacker, did=f"no {array}")
        return has, _side(lacker, "the same", end.at, end.filled_by, factual=factual[lacker])


def _side(lane: str, did: str, at: Where, site: str, *, factual: bool) -> Side:
    took_ns = at.took_ns if factual else None
    return Side(lane=lane, did=f"{did}, {at.kind}", event=at.event, kind=at.kind, site=site, task=at.task, took_ns=took_ns)


def _cause(episode: Episode, holder: str, lacker: str) -> str:
    array = episode.key[3]
    if episode.kept:
        return f"{lacker} frees it here, {holder} does not"
    if array == WHOLE_SLOT:
        return f"the memslot exists in {holder} only: a result differs here"
    return f"{holder} allocates {array} here, {lacker} does not"


def _ending(end: End | None, lacker: str) -> str:
    if end is None:
        return "not in this recording"
    return f"{lacker} allocates it too ({end.at.kind})" if end.filled_by else f"freed ({end.at.kind})"


def _row(episode: Episode, end: End | None) -> str:
    """Return the catalogue row of an episode, '' for none."""
    _vm, _as_id, slot, array = episode.key
    filled_by = end.at.kind if end is not None and end.filled_by else ""
    if array != GFN_WRITE_TRACK:
        return "D9" if episode.opened.kind == "shadow_root.alloc" else ""
    if episode.opened.kind in _FILLED_BY and (episode.in_failure or not filled_by):
        return _FILLED_BY[episode.opened.kind][1]
    if slot >= KVM_USER_MEM_SLOTS:
        return "D19"
    if episode.after_failure:
        return "D10"
    if end is not None and filled_by in _FILLED_BY:
        return _FILLED_BY[filled_by][int(end.failed)]
    if episode.moves:
        return "D16"
    return "D31" if episode.recreated else "D1"


def _out_of_memory(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.ret == -ENOMEM


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
