"""Follow which arrays one lane has and the other has not, from the event where that begins to the one where it ends.

Each stretch is an episode of one array kind of one memslot; it becomes one finding when it ends, or at the end of the
recording. Bytes are those that the other lane has more than the reference lane.
"""

from typing import Final

from replay.analyses.array_findings import FILLED_BY, WHOLE_SLOT, End, Episode, Surroundings, finding_of
from replay.analyses.context import Where
from replay.analyses.deeds import (
    SIGNS,
    Deed,
    Key,
    Lists,
    alike_in_both,
    made_alike,
    most_of,
    objects_of,
    shapes_differ,
    single,
    tracking_alone,
)
from replay.analyses.findings import BYTES_ONLY
from replay.events import Event, MemslotSet
from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.machine import Outcome
from replay.units import ENOMEM, PAGE_SHIFT

Slot = tuple[int, int, int]
"""VM, address space, id."""
Place = tuple[int | None, int | None]
"""First gfn and size of a memslot, None when it is gone."""


_NOWHERE: Final = (None, None)


class ArrayTracker:
    """Follow the arrays of one pair of lanes."""

    def __init__(self, pair: Surroundings) -> None:
        self._pair = pair
        self._open: dict[Key, Episode] = {}
        self._seen: dict[Slot, None] = {}  # memslots that had write tracking in one lane, or not alike
        self._odd = 0  # episodes of other arrays than write tracking
        self._parted: dict[tuple[int, int, int], None] = {}
        self._failing = False
        self._failed: dict[int, None] = {}  # VMs whose last registration or first root ran out of memory in one of the lanes

    def step(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        """Take one event's allocations and frees in both lanes."""
        self._failing = _out_of_memory(reference) or _out_of_memory(other)
        lists = (*_arrays(reference), *_arrays(other))
        alike = made_alike(lists[0], lists[2]) and made_alike(lists[1], lists[3])
        if (
            not alike
            and not self._tracking(at, lists)
            and (shapes_differ(lists[0], lists[2]) or shapes_differ(lists[1], lists[3]))
        ):
            self._differ(at, lists)
        self._note_failure(at, reference, other)

    def _tracking(self, at: Where, lists: Lists) -> bool:
        """Take an event in which the lanes differ in write tracking alone; False, and nothing is done, when they do not."""
        found = None if self._parted or self._odd else tracking_alone(lists)
        if found is None or any(key in self._open for key in found[0]):
            return False
        for key, which, one in found[1]:
            self._take(key, single(which, one.cost.nominal_bytes), at.event, at, self._place(key), one.site)
        self._seen |= {key[:3]: None for key in found[0]}
        return True

    def memslot(self, deed: Deed, number: int, event: MemslotSet, reference: Outcome, other: Outcome) -> bool:
        """Take a memslot call that succeeds in both lanes, of which the deed tells all; False, and nothing is done, if not."""
        slot, npages = event.slot, event.memory_size >> PAGE_SHIFT
        key = (event.vm, slot >> 16, slot & 0xFFFF, GFN_WRITE_TRACK)
        if self._parted or self._odd or (not deed.frees and key in self._open):
            return False
        self._failing = False
        site = "" if key in self._open else _first_site(deed, other if deed.in_other else reference)
        self._take(key, deed, number, event, (event.guest_phys_addr >> PAGE_SHIFT, npages) if npages else _NOWHERE, site)
        return True

    def _take(self, key: Key, deed: Deed, number: int, at: Where | Event, place: Place, site: str) -> None:
        """Begin, change or end the episode of the write tracking of a memslot.

        number: of the event; at: the event, or what findings say of it. place: of the memslot after it. site: who made the array,
        if the deed is one.
        """
        episode = self._open.get(key)
        if episode is None:
            again = key[:3] in self._seen
            self._seen[key[:3]] = None
            if deed.count or deed.sums[0]:
                failed, moves = key[0] in self._failed, int(deed.frees and deed.takes)
                self._open[key] = Episode(
                    *(key, number, at, site, place, failed, self._failing, again, deed.kept),
                    *(deed.count, deed.sums, deed.most, moves),
                )
            return
        (nominal, charged, real), (more, more_charged, more_real) = episode.sums, deed.sums
        if len(deed.changes) > 1 or abs(nominal + more) >= abs(episode.most[0]):
            episode.most = most_of(episode.most, episode.sums, deed.changes)
        episode.count += deed.count
        if not nominal + more and not episode.count:
            del self._open[key]
            self._emit(episode, number, at, "" if deed.frees else site)
            return
        episode.sums = (nominal + more, charged + more_charged, real + more_real)
        if deed.frees and deed.takes:
            episode.moves += 1

    def origin(self, vm: int | None, slot: tuple[int, int] | None = None) -> Where | None:
        """Return where the lanes first parted in the write tracking that a VM has now, or one memslot; None when they did not."""
        keys = [key for key in self._open if key[0] == vm and key[3] == GFN_WRITE_TRACK and (slot is None or key[1:3] == slot)]
        first = min((self._open[key] for key in keys), key=lambda episode: episode.event, default=None)
        return None if first is None else self._pair.where(first)

    def _differ(self, at: Where, lists: Lists) -> None:
        self._note_parted(lists)
        alike: dict[Key, None] = {}
        taken, freed = self._unlike(lists[0], lists[2], alike), self._unlike(lists[1], lists[3], alike)
        unlike = (taken[0], freed[0], taken[1], freed[1])
        if any(self._key(allocation) in alike for allocations in unlike for allocation in allocations):
            # Made in both lanes and given back in one: that is one story, told of all that the event did.
            unlike, alike = lists, {}
        self._follow(at, unlike)
        self._seen |= {key[:3]: None for key in alike if key[3] == GFN_WRITE_TRACK}

    def _follow(self, at: Where, unlike: Lists) -> None:
        """Begin, change and end episodes by what the lanes did not do alike."""
        touched: dict[Key, None] = {}
        sites: dict[Key, str] = {}
        freed: dict[Key, None] = {}
        for allocations, (sign, frees) in zip(unlike, SIGNS, strict=True):
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

    def _settle(self, key: Key, at: Where, sites: dict[Key, str], freed: bool) -> None:
        """End the episode of a key if the lanes agree again; sites: who made the arrays that are unlike in this event."""
        episode = self._open[key]
        if episode.over:
            del self._open[key]
            self._odd -= key[3] != GFN_WRITE_TRACK
            if self._parted:
                self._parted.pop(key[:3], None)
            if episode.event != at.event:
                self._emit(episode, at.event, at, "" if freed else sites.get(key, ""))
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
        if key in self._open or (self._parted and key[:3] in self._parted) or not alike_in_both(one, other):
            return False
        alike[key] = None
        return True

    def _note_parted(self, lists: Lists) -> None:
        """Remember the memslots that one lane has and the other has not: all their arrays are one episode."""
        if objects_of(lists[0]) == objects_of(lists[2]) and objects_of(lists[1]) == objects_of(lists[3]):
            return
        net: dict[tuple[int, int, int], int] = {}
        for allocations, (sign, _frees) in zip(lists, SIGNS, strict=True):
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
            again = False
            if key[3] == GFN_WRITE_TRACK:
                again = key[:3] in self._seen
                self._seen[key[:3]] = None
            else:
                self._odd += 1
            after = key[0] in self._failed
            found = Episode(key, at.event, at, allocation.site, self._place(key), after, self._failing, again, kept)
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
            self._report(episode, None)
        self._open.clear()

    def _emit(self, episode: Episode, number: int, at: Where | Event, filled_by: str) -> None:
        """Report an episode that ends; number, at: the event."""
        wanted = self._pair.listed or episode.key[3] == WHOLE_SLOT
        self._report(episode, End(number, at, filled_by, self._failing) if wanted else None)

    def _report(self, episode: Episode, end: End | None) -> None:
        """Report an episode; the words are made when somebody reads them, but for those that depend on what was found by now."""
        if episode.key[3] == WHOLE_SLOT:
            self._pair.emit(finding_of(self._pair, episode, end))
        else:
            self._pair.emit_later(episode.event, BYTES_ONLY, finding_of, self._pair, episode, end)

    def _place(self, key: Key) -> Place:
        """Return where the memslot of a key is now."""
        slot = self._pair.find_slot(*key[:3])
        return _NOWHERE if slot is None else (slot.base_gfn, slot.npages)


def _first_site(deed: Deed, outcome: Outcome) -> str:
    """Return who made the first array of a deed; outcome: of its lane. Nothing is named for it where all was made in one go."""
    if outcome.made is not None and outcome.raw_taken is None and not deed.kept:
        return outcome.made.parts.parts[deed.place][0]
    return (outcome.freed if deed.kept else outcome.taken)[deed.place].site


def _out_of_memory(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.ret == -ENOMEM


def _arrays(outcome: Outcome | None) -> tuple[list[Allocation], list[Allocation]]:
    return ([], []) if outcome is None else (outcome.taken, outcome.freed)
