"""Choose an order for calls that overlap in time, which has none recorded, before the lanes see them.

The stream is handed on as it is where nothing overlaps. Where calls overlap, copies of the lanes try the admissible orders: the
recorded kernel's own lane must give each recorded result, and what is observed later must be what that order leads to. The
first order that does is handed on, the recorded one before all others. See docs/orders.md.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final

import attrs

from replay.analyses.check_state import Window
from replay.analyses.check_unknown import BUDGET_OUT, DOUBTED, NOT_MOVED, Unknowns
from replay.analyses.order_report import (
    CANNOT_TELL,
    DEFAULT_BUDGET,
    EVENTS_MAX,
    GROUPS_MAX,
    NONE_FITS,
    RECORDED,
    REORDERED,
    OrderGroup,
    OrderReport,
)
from replay.analyses.order_world import LaneWorld, marks_of
from replay.engine.explore import Budget, Graph, Unit, World, explore
from replay.engine.lane import Lane
from replay.engine.overlaps import AHEAD, EVERY_VM, Held, Overlaps
from replay.events import Lost, MemslotSet, Observe, Opaque, VmAttach
from replay.runs import ADD, REMOVE, Item, Run

_VEILS: Final = (Lost, Opaque, VmAttach)


@attrs.define(eq=False, repr=False)
class _Search:
    """What was found of one unit, and of what follows it as far as more than one state was possible."""

    graphs: list[Graph]
    budget: Budget
    ends: tuple[int, ...] = ()
    differing: dict[int, tuple[Hashable, ...]] = attrs.field(factory=dict)
    open_end: bool = False
    parts: bool = False
    """The lanes part from each other in one way or another, with the order."""
    stream_ended: bool = False
    refuted: bool = False
    """What follows the unit contradicts the model, whichever of its orders it was."""

    @property
    def complete(self) -> bool:
        """Whether every admissible order was tried."""
        return all(graph.complete for graph in self.graphs)

    def conclude(self) -> None:
        """Go back from the last states to the orders of the unit that lead to one of them."""
        ends = tuple(self.graphs[-1].ends.values())
        self.open_end = len(ends) > 1
        for index in range(len(self.graphs) - 1, -1, -1):
            graph = self.graphs[index]
            for number, deeds in graph.deeds(ends).items():
                if len(deeds) > 1:
                    self.differing[number] = tuple(deeds)
            self.parts |= len(graph.outlooks(ends, lambda event, did: marks_of(event.KIND, did))) > 1
            if index:
                live = graph.live(ends)
                before = list(self.graphs[index - 1].ends.values())
                ends = tuple(end for end, root in zip(before, graph.roots, strict=True) if root in live)
        self.ends = ends

    def order(self) -> list[int]:
        """Return the order to be handed on."""
        return self.graphs[0].path(self.graphs[0].roots[0], self.ends)


class Orders:
    """Hands a stream on in an order that fits; see the module."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        budget: int = DEFAULT_BUDGET,
        window: Callable[[], Window] | None = None,
        noted: Callable[[OrderGroup], object] | None = None,
        ahead: int = AHEAD,
    ) -> None:
        """lanes: they replay what is handed on, item by item. window: what the factual lane allocated since an observation.

        noted: takes each group of which there is something to say. ahead: items that are read ahead.
        """
        self._lanes = lanes
        self._judge = next((index for index, lane in enumerate(lanes) if lane.factual), None)
        self._unknown = Unknowns(lanes[0 if self._judge is None else self._judge].policy)
        self._budget = budget
        self._window = window
        self._noted = noted
        self._ahead = ahead
        self._doubts: dict[int, str] = {}
        self._open: dict[int, None] = {}
        self._counts = dict.fromkeys(("groups", "calls", "largest", RECORDED, REORDERED, NONE_FITS, CANNOT_TELL), 0)
        self._unjudged = self._matter = self._doubted = self._tried = 0
        self._listed: list[OrderGroup] = []

    def numbered(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Yield each item with the recorded number of its first event; the lanes must replay it before the next is asked for."""
        overlaps = Overlaps(items, self._ahead)
        for head in overlaps:
            found = overlaps.unit_at(head)
            held = head if found is None else self._settle(overlaps, head, *found)
            item = held.item
            if not isinstance(item, Run) and (type(item) is not MemslotSet or item.ret is None):
                self._unknown.note(item)  # of a memslot call with a result there is nothing to note
            yield held.number, item
            if self._doubts:
                self._doubts.pop(held.number, None)

    def doubt(self, number: int, vm: int | None) -> str:
        """Return why a contradiction at an event says nothing, "" when it does; call it while the event is replayed."""
        reason = self._doubts.get(number, "")
        if not reason and (vm in self._open or EVERY_VM in self._open):
            reason = DOUBTED
        self._doubted += bool(reason)
        return reason

    def _settle(self, overlaps: Overlaps, head: Held, key: int, unit: Unit) -> Held:
        """Choose the order of a unit; return the item that comes first."""
        if len(unit.places) == 1:
            self._doubts[unit.numbers[0]] = NOT_MOVED
            return head
        overlaps.settle(key, unit)
        self._counts["groups"] += 1
        self._counts["calls"] += len(unit.places)
        self._counts["largest"] = max(self._counts["largest"], len(unit.places))
        named, vms = self._vms(key, unit)
        alive = {} if self._judge is None else self._lanes[self._judge].machine.vms
        if self._judge is None or any(vm not in alive for vm in named) or any(map(self._unknown.why, vms)):
            self._unjudged += 1
            return head
        search = self._search(overlaps, key, unit, vms)
        group = self._group(key, unit, search)
        order = search.order() if search.ends else list(range(len(unit.places)))
        self._note(key, group, refuted=search.refuted)
        return overlaps.arrange(head, unit, order)

    def _vms(self, key: int, unit: Unit) -> tuple[Sequence[int], tuple[int, ...]]:
        """Return the VMs that the calls of a unit name, and those whose calls are tried."""
        named = sorted({event.vm: None for event in unit.events if hasattr(event, "vm")})
        if key != EVERY_VM:
            return named, tuple(named)
        # A VM can be gone in one lane and live in another, where a notifier holds it.
        return named, tuple(dict.fromkeys(vm for lane in self._lanes for vm in lane.machine.vms))

    def _search(self, overlaps: Overlaps, key: int, unit: Unit, vms: tuple[int, ...]) -> _Search:
        """Try the orders of a unit, and hold what comes of them against what follows while that differs."""
        assert self._judge is not None
        areas = any(
            isinstance(p, Held) and isinstance(p.item, Observe) and p.item.areas is not None for p in overlaps.behind(key, unit)
        )
        window = self._window() if areas and self._window is not None else None
        world = LaneWorld(self._lanes, self._judge, vms, self._unknown, window).fork()
        search = _Search([explore(unit, [(world.key(), world)], budget := Budget(self._budget))], budget)
        search.stream_ended = overlaps.all_read
        for piece in overlaps.behind(key, unit):
            last = search.graphs[-1]
            if len(last.ends) < 2 or not last.complete:
                break
            if isinstance(piece, Held) and isinstance(piece.item, Run) and not self._run_decides(piece.item):
                continue
            graph = self._further(piece, list(last.worlds.items()), budget)
            if graph is None or not graph.complete:
                search.stream_ended = False
                break
            if not graph.ends:
                search.refuted = not graph.unit.untried
                break
            search.graphs.append(graph)
        search.conclude()
        return search

    def _further(self, piece: Unit | Held, worlds: Sequence[tuple[Hashable, World]], budget: Budget) -> Graph | None:
        """Try what follows; None when it says nothing of what was before."""
        if isinstance(piece, Held):
            if isinstance(piece.item, (Run, *_VEILS)):
                return None
            piece = Unit((piece.place,), (piece.number,), (piece.item,), (0,))
        return explore(piece, worlds, budget)

    def _run_decides(self, run: Run) -> bool:
        """Tell whether hot events can decide results of calls: an add before write tracking is enabled kills the VM."""
        return any(lane.policy.bug_when_disabled for lane in self._lanes) and bool({ADD, REMOVE} & run.kinds().keys())

    def _group(self, key: int, unit: Unit, search: _Search) -> OrderGroup:
        fits, why, chosen = NONE_FITS, "", unit.numbers
        if search.ends:
            chosen = tuple(unit.numbers[i] for i in search.order())
            fits = RECORDED if chosen == unit.numbers else REORDERED
        elif not search.complete or unit.untried:
            fits, why = CANNOT_TELL, NOT_MOVED if search.complete else BUDGET_OUT
        open_end = search.open_end
        beyond = search.parts or (open_end and not search.stream_ended)
        return OrderGroup(
            vm=None if key == EVERY_VM else key,
            events=unit.numbers[:EVENTS_MAX],
            chosen=chosen[:EVENTS_MAX],
            fits=fits,
            complete=search.complete,
            differing=tuple(sorted(search.differing))[:EVENTS_MAX],
            open_end=open_end,
            matters=bool(search.ends) and (beyond or not search.complete),
            tried=search.budget.spent,
            why=why if search.complete or why else BUDGET_OUT,
        )

    def _note(self, key: int, group: OrderGroup, *, refuted: bool) -> None:
        self._counts[group.fits] += 1
        self._tried += group.tried
        matters = bool(group.differing) or group.open_end
        self._matter += matters
        if group.fits == CANNOT_TELL:
            self._doubts |= dict.fromkeys(group.events, group.why)
        if group.fits == CANNOT_TELL or (group.open_end and not refuted) or not group.complete:
            self._open[key] = None
        if matters or group.fits != RECORDED or not group.complete:
            if self._noted is not None:
                self._noted(group)
            if len(self._listed) < GROUPS_MAX:
                self._listed.append(group)

    def report(self) -> OrderReport | None:
        """Return what was found so far, None when no calls overlap."""
        counts = self._counts
        if not counts["groups"] and not self._doubted:
            return None
        return OrderReport(
            budget=self._budget,
            groups=counts["groups"],
            calls=counts["calls"],
            largest=counts["largest"],
            recorded=counts[RECORDED],
            reordered=counts[REORDERED],
            none_fits=counts[NONE_FITS],
            undecided=counts[CANNOT_TELL],
            unjudged=self._unjudged,
            order_matters=self._matter,
            doubted=self._doubted,
            tried=self._tried,
            listed=tuple(self._listed),
        )
