"""Follow which arrays one lane has and the other has not, from the event where that begins to the one where it ends.

Each stretch is an episode of one array kind of one memslot; it becomes one finding when it ends, or at the end of the
recording. Bytes are those that the other lane has more than the reference lane.
"""

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from replay.analyses.catalogue import RULES
from replay.analyses.context import Where, slot_text
from replay.analyses.findings import BYTES_ONLY, Finding, Side
from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.machine import Outcome
from replay.kvm.uapi import KVM_USER_MEM_SLOTS
from replay.units import bytes_text

WHOLE_SLOT: Final = "all arrays"
Key = tuple[int, int, int, str]  # vm, as_id, slot id, array


@attrs.define
class Episode:
    """One array kind of one memslot that the lanes do not have alike."""

    key: Key
    opened: Where
    after_failure: bool
    recreated: bool
    count: int = 0
    nominal: int = 0
    charged: int = 0
    real: int = 0
    most: tuple[int, int, int] = (0, 0, 0)
    moves: int = 0

    def change(self, allocation: Allocation, sign: int) -> None:
        """Take one allocation (+1) or free (-1) of the other lane in, or the opposite of the reference lane."""
        cost = allocation.cost
        self.count += sign
        self.nominal += sign * cost.nominal_bytes
        self.charged += sign * cost.charged_bytes
        self.real += sign * cost.real_bytes
        if abs(self.nominal) >= abs(self.most[0]):
            self.most = (self.nominal, self.charged, self.real)


class ArrayTracker:
    """Follow the arrays of one pair of lanes."""

    def __init__(self, names: tuple[str, str], emit: Callable[[Finding], None], parted_row: Callable[[int | None], str]) -> None:
        """parted_row: catalogue row of what parted the lanes in a VM, for memslots that only one of them has."""
        self._names = names
        self._emit = emit
        self._parted_row = parted_row
        self._open: dict[Key, Episode] = {}
        self._seen: dict[Key, int] = {}
        self._parted: dict[tuple[int, int, int], None] = {}
        self._failing = False
        self._failed: dict[int, None] = {}  # VMs whose last registration or first root failed in one of the lanes

    def step(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        """Take one event's allocations and frees in both lanes."""
        self._failing = any(o is not None and o.ret is not None and o.ret < 0 for o in (reference, other))
        taken_a, freed_a = _arrays(reference)
        taken_b, freed_b = _arrays(other)
        if _shape(taken_a) != _shape(taken_b) or _shape(freed_a) != _shape(freed_b):
            self._differ(at, (taken_a, freed_a, taken_b, freed_b))
        self._note_failure(at, reference, other)

    def _differ(self, at: Where, lists: tuple[list[Allocation], ...]) -> None:
        touched: dict[Key, None] = {}
        self._note_parted(lists)
        for allocations, sign in zip(lists, (-1, 1, 1, -1), strict=True):
            for allocation in allocations:
                key = self._key(allocation)
                touched[key] = None
                self._episode(key, at).change(allocation, sign)
        allocated = {self._key(a) for a in (*lists[0], *lists[2])}
        freed = {self._key(a) for a in (*lists[1], *lists[3])}
        for key in touched:
            episode = self._open[key]
            if not episode.count and not episode.nominal:
                del self._open[key]
                self._parted.pop(key[:3], None)
                if episode.opened.event != at.event:
                    self._emit(self._finding(episode, at, filled=key in allocated and key not in freed))
            elif key in allocated and key in freed:
                episode.moves += 1

    def _note_parted(self, lists: tuple[list[Allocation], ...]) -> None:
        """Remember the memslots that one lane has and the other has not: all their arrays are one episode."""
        net: dict[tuple[int, int, int], int] = {}
        for allocations, sign in zip(lists, (-1, 1, 1, -1), strict=True):
            for slot in (a for a in allocations if a.array == SLOT):
                key = (slot.vm, slot.as_id, slot.slot_id)
                net[key] = net.get(key, 0) + sign
        self._parted.update({key: None for key, count in net.items() if count})

    def _key(self, allocation: Allocation) -> Key:
        slot = (allocation.vm, allocation.as_id, allocation.slot_id)
        return (*slot, WHOLE_SLOT if slot in self._parted else allocation.array)

    def _episode(self, key: Key, at: Where) -> Episode:
        found = self._open.get(key)
        if found is None:
            again = self._seen.get(key, 0)
            self._seen[key] = again + 1
            found = self._open[key] = Episode(key, at, key[0] in self._failed, bool(again))
        return found

    def _note_failure(self, at: Where, reference: Outcome | None, other: Outcome | None) -> None:
        if at.kind not in {"notifier.register", "shadow_root.alloc"} or at.vm is None:
            return
        rets = [outcome.ret for outcome in (reference, other) if outcome is not None and outcome.ret is not None]
        if any(ret < 0 for ret in rets):
            self._failed[at.vm] = None
        elif rets:
            self._failed.pop(at.vm, None)

    def finish(self) -> None:
        """Report the episodes that the recording leaves open."""
        for episode in self._open.values():
            self._emit(self._finding(episode, None, filled=False))
        self._open.clear()

    def _finding(self, episode: Episode, end: Where | None, *, filled: bool) -> Finding:
        vm, as_id, slot, array = episode.key
        more = episode.most[0] > 0
        holder, lacker = (self._names[1], self._names[0]) if more else self._names
        row = self._parted_row(vm) if array == WHOLE_SLOT else _row(episode, end, filled=filled, failed=self._failing)
        rule = RULES[row]
        sides = {
            name: Side(lane=name, did=did)
            for name, did in zip((holder, lacker), _did(array, abs(episode.most[0]), as_id, slot), strict=True)
        }
        explanation = rule.explanation
        if filled and end is not None and end.pid is not None and episode.opened.pid not in {None, end.pid}:
            explanation += f" Charged to process {end.pid} instead of {episode.opened.pid} (D28)."
        return Finding(
            event=episode.opened.event,
            kind=episode.opened.kind,
            place=episode.opened.place,
            divergence=BYTES_ONLY,
            catalogue=row,
            vm=vm,
            as_id=as_id,
            slot=slot,
            sides=(sides[self._names[0]], sides[self._names[1]]),
            nominal_bytes=episode.most[0],
            charged_bytes=episode.most[1],
            real_bytes=episode.most[2],
            root_cause_event=episode.opened.event,
            root_cause=_cause(array, holder, lacker),
            behind_horizon=array == WHOLE_SLOT,
            visible="in memory accounting only: /proc/vmallocinfo, memory cgroup of the task",
            converged_event=None if end is None else end.event,
            converged=_ending(end, lacker, filled=filled),
            explanation=explanation,
            source=rule.source,
        )


def _did(array: str, nominal_bytes: int, as_id: int, slot: int) -> tuple[str, str]:
    """Say what the lane that has the memory has, and what the other one has not."""
    name, size = slot_text(as_id, slot), bytes_text(nominal_bytes)
    if array == WHOLE_SLOT:
        return f"has {name}, with {size} of arrays", f"has no {name}"
    return f"{size} of {array} for {name}", f"no {array} for it"


def _cause(array: str, holder: str, lacker: str) -> str:
    if array == WHOLE_SLOT:
        return f"the memslot exists in {holder} only: a result differs here"
    return f"{holder} allocates {array} here, {lacker} does not"


def _ending(end: Where | None, lacker: str, *, filled: bool) -> str:
    if end is None:
        return "not in this recording"
    if filled:
        return f"{lacker} allocates it too ({end.kind})"
    return f"freed ({end.kind})"


_FILLED_BY: Final = {"notifier.register": ("D2", "D8"), "shadow_root.alloc": ("D5", "D9")}


def _row(episode: Episode, end: Where | None, *, filled: bool, failed: bool) -> str:
    """Return the catalogue row of an episode, '' for none. failed: the event that ends it failed."""
    _vm, _as_id, slot, array = episode.key
    if array != GFN_WRITE_TRACK:
        return "D9" if episode.opened.kind == "shadow_root.alloc" else ""
    if episode.opened.kind in _FILLED_BY and not filled:
        return _FILLED_BY[episode.opened.kind][1]
    if slot >= KVM_USER_MEM_SLOTS:
        return "D19"
    if episode.after_failure:
        return "D10"
    if filled and end is not None and end.kind in _FILLED_BY:
        return _FILLED_BY[end.kind][int(failed)]
    if episode.moves:
        return "D16"
    return "D31" if episode.recreated else "D1"


def _arrays(outcome: Outcome | None) -> tuple[list[Allocation], list[Allocation]]:
    return ([], []) if outcome is None else (outcome.taken, outcome.freed)


def _shape(allocations: Iterable[Allocation]) -> list[tuple[int, int, int, str, int]]:
    return sorted((a.vm, a.as_id, a.slot_id, a.array, a.cost.nominal_bytes) for a in allocations)
