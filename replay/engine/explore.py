"""Try the admissible orders of calls that overlap in time, as linearizability checkers do, with states that were met remembered.

Each thread's calls keep their order, and so do calls of which one returned before the other was entered; calls that overlap may
come in any order, each at once. An order fits when every call gives the result that was recorded. What was done (a set of
calls) together with the state that came of it is met once only, however many orders lead there.
Source: J. Wing, C. Gong, Testing and verifying concurrent objects (1993); G. Lowe, Testing for linearizability (2017).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import attrs

from replay.events import Event


class World(Protocol):
    """Whatever answers calls: the lanes, or a toy of a test."""

    def fork(self) -> "World":
        """Return a copy that shares nothing that a call changes."""
        ...

    def apply(self, number: int, event: Event) -> tuple[bool, Hashable]:
        """Answer one call; return whether the recorded kernel could have answered so, and what this world did."""
        ...

    def key(self) -> Hashable:
        """Return what decides later answers: worlds with equal keys answer alike."""
        ...


@attrs.define
class Budget:
    """How many calls may still be tried."""

    left: int
    spent: int = 0

    def take(self) -> bool:
        """Spend one; False when there is none left."""
        if self.spent >= self.left:
            return False
        self.spent += 1
        return True


@attrs.frozen
class Unit:
    """Calls on one VM whose order is open, in recorded order; or a single item.

    places: number of each item in the stream. numbers, events: the events and their numbers. after: for each, the set of those
    that come before it in every order, as bits. untried: a call overlaps one outside of the unit, past which it is not moved.
    """

    places: tuple[int, ...]
    numbers: tuple[int, ...]
    events: tuple[Event, ...]
    after: tuple[int, ...]
    untried: bool = False

    @property
    def all_done(self) -> int:
        """The set of all calls."""
        return (1 << len(self.events)) - 1


@attrs.define
class _Frame:
    state: int
    world: World
    ready: Iterator[int]


@attrs.define(eq=False)
class Graph:
    """What was met while exploring one unit: states, and the calls that lead from one to the other.

    roots: states before the unit. ends: state after it, by key; worlds: the world of each. complete: all orders were tried.
    """

    unit: Unit
    roots: list[int] = attrs.field(factory=list)
    ends: dict[Hashable, int] = attrs.field(factory=dict)
    worlds: dict[Hashable, World] = attrs.field(factory=dict)
    complete: bool = True
    _states: dict[tuple[int, Hashable], int] = attrs.field(factory=dict)
    _edges: list[list[tuple[int, Hashable, int]]] = attrs.field(factory=list)
    _done: list[int] = attrs.field(factory=list)

    def state(self, done: int, key: Hashable) -> tuple[int, bool]:
        """Return the number of a state, and whether it is met for the first time."""
        known = self._states.get((done, key))
        if known is not None:
            return known, False
        number = self._states[done, key] = len(self._done)
        self._done.append(done)
        self._edges.append([])
        return number, True

    def ready(self, state: int) -> Iterator[int]:
        """Yield the calls that may come next, the first in recorded order first."""
        done = self._done[state]
        return iter([i for i, before in enumerate(self.unit.after) if not done >> i & 1 and not before & ~done])

    def follow(self, frame: _Frame, call: int) -> _Frame | None:
        """Try a call; return the frame to go on with, None when it does not fit, or leads to where one was before."""
        world = frame.world.fork()
        fits, did = world.apply(self.unit.numbers[call], self.unit.events[call])
        if not fits:
            return None
        done, key = self._done[frame.state] | 1 << call, world.key()
        state, new = self.state(done, key)
        self._edges[frame.state].append((call, did, state))
        if new and done == self.unit.all_done:
            self.ends[key], self.worlds[key] = state, world
            return None
        return _Frame(state, world, self.ready(state)) if new else None

    def live(self, ends: Sequence[int]) -> set[int]:
        """Return the states from which one of some ends can be reached."""
        found = set(ends)
        by_count = sorted(range(len(self._done)), key=lambda state: -self._done[state].bit_count())
        for state in by_count:
            if any(to in found for _call, _did, to in self._edges[state]):
                found.add(state)
        return found

    def path(self, root: int, ends: Sequence[int]) -> list[int]:
        """Return the order from a root to one of some ends that keeps most of the recorded one: the first call first."""
        live, state, order = self.live(ends), root, list[int]()
        while state not in ends:
            call, _did, state = min((edge for edge in self._edges[state] if edge[2] in live), key=lambda edge: edge[0])
            order.append(call)
        return order

    def outlooks(
        self, ends: Sequence[int], marks: Callable[[Event, Hashable], frozenset[Hashable]]
    ) -> dict[frozenset[Hashable], None]:
        """Return the sets of marks that the orders which lead to some ends can leave behind.

        marks: those of one call, by what it did.
        """
        found: dict[int, dict[frozenset[Hashable], None]] = {end: {frozenset(): None} for end in ends}
        live = self.live(ends)
        for state in sorted(live, key=lambda state: -self._done[state].bit_count()):
            for call, did, to in self._edges[state]:
                if to in live:
                    left = marks(self.unit.events[call], did)
                    found.setdefault(state, {}).update((left | rest, None) for rest in found[to])
        return {left: None for root in self.roots for left in found.get(root, ())}

    def deeds(self, ends: Sequence[int]) -> dict[int, set[Hashable]]:
        """Return what each event does in the orders that lead to some ends, by its number."""
        live, found = self.live(ends), dict[int, set[Hashable]]()
        for state in live:
            for call, did, to in self._edges[state]:
                if to in live:
                    found.setdefault(self.unit.numbers[call], set()).add(did)
        return found


def explore(unit: Unit, worlds: Sequence[tuple[Hashable, World]], budget: Budget) -> Graph:
    """Try all admissible orders of a unit from each world, that of the recording first, until the budget is spent.

    worlds: with their keys. Cost: one fork, one call and one key a step; memory: a world for each call of the unit.
    """
    graph = Graph(unit)
    for key, world in worlds:
        root, _new = graph.state(0, key)
        graph.roots.append(root)
        stack = [_Frame(root, world, graph.ready(root))]
        while stack:
            call = next(stack[-1].ready, None)
            if call is None:
                stack.pop()
                continue
            if not budget.take():
                graph.complete = False
                return graph
            frame = graph.follow(stack[-1], call)
            if frame is not None:
                stack.append(frame)
    return graph
