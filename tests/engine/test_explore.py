"""Promises of the exploration of orders, on a toy world: a register that is read and written."""

from collections.abc import Hashable

import attrs
import pytest

from replay.engine.explore import Budget, Graph, Unit, explore
from replay.events import Event, IdentityMapSet, NrMmuPagesSet
from replay.units import Gpa


@attrs.define
class Register:
    """A register: NrMmuPagesSet writes a number, IdentityMapSet reads the one that its address says."""

    number: int = 0

    def fork(self) -> "Register":
        """Return a copy."""
        return Register(self.number)

    def key(self) -> Hashable:
        """Return the number."""
        return self.number

    def apply(self, _number: int, event: Event) -> tuple[bool, Hashable]:
        """Write, or say whether what was read is there."""
        if isinstance(event, NrMmuPagesSet):
            before, self.number = self.number, event.nr_mmu_pages
            return True, before
        assert isinstance(event, IdentityMapSet)
        return event.guest_phys_addr == self.number, None


def write(number: int) -> Event:
    """Return a write."""
    return NrMmuPagesSet(vm=0, nr_mmu_pages=number)


def read(number: int) -> Event:
    """Return a read that saw a number."""
    return IdentityMapSet(vm=0, guest_phys_addr=Gpa(number))


def unit(*events: Event, after: tuple[int, ...] | None = None) -> Unit:
    """Return events that all overlap, unless said which come before which."""
    places = tuple(range(10, 10 + len(events)))
    return Unit(places, places, events, after or (0,) * len(events))


def tried(one: Unit, budget: int = 1000) -> tuple[Graph, int]:
    """Explore a unit from a register that holds 0; return the steps that it took."""
    left = Budget(budget)
    return explore(one, [(0, Register())], left), left.spent


def order_of(graph: Graph) -> list[int]:
    """Return the order that is preferred."""
    return graph.path(graph.roots[0], tuple(graph.ends.values()))


class TestOrders:
    """Which orders fit."""

    def test_recorded_order_is_preferred(self) -> None:
        """Of orders that fit the recorded one is taken, and of others the one that keeps most of it."""
        assert order_of(tried(unit(write(1), write(2), write(3)))[0]) == [0, 1, 2]
        assert order_of(tried(unit(read(2), write(1), write(2)))[0]) == [1, 2, 0]

    def test_what_must_come_before(self) -> None:
        """A call does not come before those that it follows for certain."""
        graph, _steps = tried(unit(read(1), write(1), after=(0, 1)))
        assert (graph.ends, graph.complete) == ({}, True)
        assert order_of(tried(unit(read(1), write(1)))[0]) == [1, 0]

    def test_all_ends(self) -> None:
        """Every state that an order leads to is found once."""
        graph, _steps = tried(unit(write(1), write(2), write(1)))
        assert set(graph.ends) == {1, 2}
        assert set(graph.worlds) == {1, 2}
        assert order_of(graph) == [0, 1, 2]
        assert graph.path(graph.roots[0], (graph.ends[2],)) == [0, 2, 1]

    def test_several_worlds(self) -> None:
        """From several states each goes on by itself; roots tell which of them led anywhere."""
        graph = explore(unit(read(7)), [(0, Register()), (7, Register(7))], Budget(10))
        live = graph.live(tuple(graph.ends.values()))
        assert [root in live for root in graph.roots] == [False, True]


class TestDeeds:
    """What calls do in the orders that fit."""

    def test_only_orders_that_fit_count(self) -> None:
        """What a call does on a way that leads nowhere is not counted."""
        graph, _steps = tried(unit(write(1), write(2), read(1), after=(0, 0, 3)))
        assert graph.deeds(tuple(graph.ends.values())) == {10: {2}, 11: {0}, 12: {None}}

    def test_outlooks(self) -> None:
        """Marks are gathered along each order; orders that leave the same ones are one outlook."""
        graph, _steps = tried(unit(write(1), write(2)))
        ends = tuple(graph.ends.values())
        assert set(graph.outlooks(ends, lambda _event, before: frozenset({before}))) == {frozenset({0, 1}), frozenset({0, 2})}
        assert set(graph.outlooks(ends, lambda _event, _before: frozenset({"x"}))) == {frozenset({"x"})}


class TestBudget:
    """How much is tried."""

    @pytest.mark.parametrize(("calls", "steps"), [(1, 1), (4, 32), (8, 1024)])
    def test_states_are_met_once(self, calls: int, steps: int) -> None:
        """Calls that change nothing cost n * 2^(n - 1) steps, not n factorial."""
        graph, spent = tried(unit(*(read(0) for _ in range(calls))), 5000)
        assert (spent, graph.complete) == (steps, True)

    def test_it_ends(self) -> None:
        """The budget is never exceeded; what was found until then stands."""
        graph, spent = tried(unit(*(read(0) for _ in range(8))), 100)
        assert (spent, graph.complete, list(graph.ends)) == (100, False, [0])
        assert order_of(graph) == list(range(8))

    def test_deep_units(self) -> None:
        """Thousands of calls in one unit are no trouble while one order fits."""
        after = tuple((1 << place) - 1 for place in range(3000))
        graph, spent = tried(unit(*(read(0) for _ in range(3000)), after=after), 5000)
        assert (spent, graph.complete, len(order_of(graph))) == (3000, True, 3000)
