"""Say what an episode was in which one lane had an array and the other had not: the finding, with both sides in words."""

from collections.abc import Callable
from typing import Final

import attrs

from replay.analyses.aspects import aspects_of
from replay.analyses.catalogue import HOLDS_VM, ONE_LANE_ONLY, Rule
from replay.analyses.context import Where, slot_text, where
from replay.analyses.deeds import Key, Sums
from replay.analyses.findings import BYTES_ONLY, Finding, Side
from replay.events import Event
from replay.header import Header
from replay.kvm.allocator import GFN_WRITE_TRACK, SLOT, Allocation
from replay.kvm.memslot import Memslot
from replay.kvm.uapi import KVM_USER_MEM_SLOTS
from replay.units import bytes_text

WHOLE_SLOT: Final = "all arrays"

FILLED_BY: Final = {"notifier.register": ("D2", "D8"), "shadow_root.alloc": ("D5", "D9")}
"""Events that allocate for all memslots -> row when they succeed, row when they fail on the way."""


@attrs.define(eq=False, repr=False)
class Episode:
    """One array kind of one memslot that the lanes do not have alike; bytes: the other lane's less the reference lane's.

    event: number of the event at which it began; at: that event, or what findings say of it. kept: it began when one lane freed
    what both had. in_failure: it began in a call that ran out of memory; after_failure: such a call of its VM came before.
    place: first gfn and size of the memslot, None when it is gone. sums: bytes now; most: at most.
    """

    key: Key
    event: int
    at: Where | Event
    site: str
    place: tuple[int | None, int | None]
    after_failure: bool
    in_failure: bool
    recreated: bool
    kept: bool
    count: int = 0
    sums: Sums = (0, 0, 0)
    most: Sums = (0, 0, 0)
    moves: int = 0

    def change(self, allocation: Allocation, sign: int) -> None:
        """Take one allocation (+1) or free (-1) of the other lane in, or the opposite of the reference lane.

        A memslot object that both lanes have is counted only: how large it is depends on the release, not on what a policy does.
        """
        self.count += sign
        if self.key[3] == SLOT:
            return
        cost, (nominal, charged, real) = allocation.cost, self.sums
        self.sums = sums = (
            nominal + sign * cost.nominal_bytes,
            charged + sign * cost.charged_bytes,
            real + sign * cost.real_bytes,
        )
        if abs(sums[0]) >= abs(self.most[0]):
            self.most = sums

    @property
    def over(self) -> bool:
        """Whether the lanes agree again."""
        return not self.count and not self.sums[0]


@attrs.frozen(eq=False, repr=False)
class End:
    """How an episode ended: the event, and the function by which the lane that lacked the array got it ("": it was freed)."""

    event: int
    at: Where | Event
    filled_by: str
    failed: bool


@attrs.frozen(eq=False, repr=False)
class Surroundings:
    """What the tracker asks of its pair.

    factual: whether each lane is the recorded kernel. listed: whether findings are read, and not counted only. row_rule: the
    catalogue row that stands, and its rule. parted_row: row of what parted the lanes in a VM, for memslots that only one of them
    has. find_slot: a memslot by VM, address space and id.
    """

    header: Header
    names: tuple[str, str]
    factual: tuple[bool, bool]
    emit: Callable[[Finding], object]
    emit_later: Callable[..., object]
    listed: bool
    row_rule: Callable[[str], tuple[str, Rule]]
    parted_row: Callable[[int | None], str]
    find_slot: Callable[[int, int, int], Memslot | None]

    def where(self, one: Episode | End) -> Where:
        """Return how findings name the event at which an episode began or ended."""
        return one.at if isinstance(one.at, Where) else where(self.header, one.at, one.event)


def finding_of(pair: Surroundings, episode: Episode, end: End | None) -> Finding:
    """Return the finding of an episode that ended, or that the recording leaves open."""
    vm, as_id, slot, array = episode.key
    names, opened = pair.names, pair.where(episode)
    ended = None if end is None else pair.where(end)
    holder, lacker = (names[1], names[0]) if episode.most[0] > 0 else names
    if array == WHOLE_SLOT:
        row, rule = pair.parted_row(vm), HOLDS_VM if episode.kept else ONE_LANE_ONLY
    else:
        filled_by = ended.kind if end is not None and ended is not None and end.filled_by else ""
        row, rule = pair.row_rule(_row(episode, end, opened.kind, filled_by))
    sides = {side.lane: side for side in _sides(pair, episode, end, holder, lacker)}
    return Finding(
        event=opened.event,
        kind=opened.kind,
        place=opened.place,
        divergence=BYTES_ONLY,
        catalogue=row,
        title=rule.title,
        vm=vm,
        as_id=as_id,
        slot=slot,
        base_gfn=episode.place[0],
        npages=episode.place[1],
        sides=(sides[names[0]], sides[names[1]]),
        array=array,
        nominal_bytes=episode.most[0],
        charged_bytes=episode.most[1],
        real_bytes=episode.most[2],
        root_cause_event=opened.event,
        root_cause=_cause(episode, holder, lacker),
        behind_horizon=array == WHOLE_SLOT and not episode.kept,
        visible="in memory accounting only: /proc/vmallocinfo, memory cgroup of the task",
        converged_event=None if end is None else end.event,
        converged=_ending(end, ended, lacker),
        aspects=aspects_of(row, sides[holder], sides[lacker], episode.moves) if array == GFN_WRITE_TRACK else (),
        explanation=rule.explanation,
        source=rule.source,
    )


def _sides(pair: Surroundings, episode: Episode, end: End | None, holder: str, lacker: str) -> tuple[Side, Side]:
    """Say what the lane that has the memory has, and what the other one has not."""
    _vm, as_id, slot, array = episode.key
    name, size, at = slot_text(as_id, slot), bytes_text(abs(episode.most[0])), pair.where(episode)
    names, facts = pair.names, pair.factual
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
    return has, _side(lacker, "the same", pair.where(end), end.filled_by, factual=factual[lacker])


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


def _ending(end: End | None, ended: Where | None, lacker: str) -> str:
    if end is None or ended is None:
        return "not in this recording"
    return f"{lacker} allocates it too ({ended.kind})" if end.filled_by else f"freed ({ended.kind})"


def _row(episode: Episode, end: End | None, opened: str, filled_by: str) -> str:
    """Return the catalogue row of an episode, '' for none; opened, filled_by: kind of the event that did so, '' for none."""
    _vm, _as_id, slot, array = episode.key
    if array != GFN_WRITE_TRACK:
        return "D9" if opened == "shadow_root.alloc" else ""
    if opened in FILLED_BY and (episode.in_failure or not filled_by):
        return FILLED_BY[opened][1]
    if slot >= KVM_USER_MEM_SLOTS:
        return "D19"
    if episode.after_failure:
        return "D10"
    if end is not None and filled_by in FILLED_BY:
        return FILLED_BY[filled_by][int(end.failed)]
    if episode.moves:
        return "D16"
    return "D31" if episode.recreated else "D1"
