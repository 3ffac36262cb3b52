"""What a memslot change undoes when one of its allocations fails, and what drivers had dropped by then."""

from collections.abc import Callable

import pytest
from hosts import DIRTY, HOSTS, INVALID, LPAGE, RMAP, SLOT, expected_arrays, sites
from lane import EAGER_NEW, EAGER_OLD, LAZY, NAMES, Lane, add

from replay.events import AllocFail
from replay.kvm.machine import Outcome
from replay.kvm.state import structure_of

Operation = Callable[[Lane], Outcome]

# Operation -> itself, swaps that a failure makes after the INVALID copy was published.
OPERATIONS: dict[str, tuple[Operation, int]] = {
    "create": (lambda lane: lane.set(2, 4), 0),
    "create with bitmap": (lambda lane: lane.set(2, 4, flags=1), 0),
    "delete": (lambda lane: lane.delete(1), 0),
    "move": (lambda lane: lane.set(1, 4, base=700), 2),
    "move and log": (lambda lane: lane.set(1, 4, base=700, flags=1), 2),
    "flags": (lambda lane: lane.set(1, 4, flags=1), 0),
}


def lane_with_slot(policy: str, host: str) -> Lane:
    """Return a lane with slot 1."""
    lane = Lane(policy, **HOSTS[host][0])
    lane.set(1, 4)
    return lane


def contents(lane: Lane) -> object:
    """Return slots and arrays without generations, which failures move on."""
    return [[*vm[:6], [space[1:] for space in vm[6]]] for vm in structure_of(lane.machine)]


class TestFailure:
    """Every allocation of every change may fail: nothing is kept, nothing is lost, and a retry succeeds."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("host", HOSTS)
    @pytest.mark.parametrize("name", OPERATIONS)
    def test_nth_fails_once(self, policy: str, host: str, name: str) -> None:
        """For each n: -ENOMEM, contents as before, the generation moved only by published copies; then the retry is whole."""
        operation, swaps = OPERATIONS[name]
        clean = lane_with_slot(policy, host)
        allocations = sites(operation(clean))
        for nth, site in enumerate(allocations, start=1):
            lane = lane_with_slot(policy, host)
            before, live, generations = contents(lane), self._live(lane), lane.generations()
            lane.fail(nth=nth)
            outcome = operation(lane)
            assert (outcome.ret, [refused[0] for refused in outcome.refused]) == (-12, [site])
            assert (contents(lane), self._live(lane)) == (before, live)
            published = INVALID in allocations[: nth - 1]
            assert lane.generations() == [generations[0] + 2 * swaps * published, generations[1]]
            assert operation(lane).ret == 0
            assert contents(lane) == contents(clean)
            assert self._live(lane) == self._live(clean)
        assert len(allocations) == self._count(policy, host, name)

    def _live(self, lane: Lane) -> list[tuple[int, int]]:
        return [(tally.live, tally.real_now) for tally in lane.machine.allocator.tallies.values()]

    def _count(self, policy: str, host: str, name: str) -> int:
        arrays = len(expected_arrays(policy, host))
        own = {"create": 1, "create with bitmap": 2, "delete": 1, "move": 2, "move and log": 3, "flags": 2}
        return own[name] + (arrays if name not in {"delete", "flags"} else 0)

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("host", HOSTS)
    def test_fails_for_ever(self, host: str, name: str) -> None:
        """While a site fails for ever, each retry fails and nothing piles up; when it heals, the change goes through."""
        operation = OPERATIONS[name][0]
        for nth in range(1, len(sites(operation(lane_with_slot(EAGER_NEW, host)))) + 1):
            lane = lane_with_slot(EAGER_NEW, host)
            live = self._live(lane)
            lane.fail(nth=nth, count=0)
            assert [operation(lane).ret for _ in range(3)] == [-12, -12, -12]
            assert self._live(lane) == live
            lane.heal()
            assert operation(lane).ret == 0

    def test_slot_object_is_freed_after_the_rest(self) -> None:
        """A failed move undoes in the kernel's order: arrays, bitmap, INVALID copy, new object."""
        lane = lane_with_slot(EAGER_NEW, "no tdp")
        lane.fail("gfn_write_track")
        outcome = lane.set(1, 4, base=700, flags=1)
        assert [piece.site for piece in outcome.freed] == [RMAP] * 3 + [LPAGE] * 2 + [DIRTY, INVALID, SLOT]

    def test_shared_bitmap_survives(self) -> None:
        """A failed move of a logging slot leaves its bitmap alone."""
        lane = Lane()
        lane.set(1, 4, flags=1)
        lane.fail("lpage_info")
        assert lane.set(1, 4, base=700, flags=1).ret == -12
        assert lane.slot(1).dirty_bitmap is not None
        assert lane.machine.allocator.tallies["dirty_bitmap"].live == 1

    def test_eager_fails_where_on_demand_does_not(self) -> None:
        """The eager policy meets the failing counters at creation, the on-demand one at registration."""
        for policy, at_create, at_register in ((EAGER_NEW, -12, 0), (LAZY, 0, -12)):
            lane = Lane(policy)
            lane.fail("gfn_write_track", count=0)
            assert (lane.set(1).ret, lane.register()) == (at_create, at_register)

    def test_injection_in_one_vm(self) -> None:
        """An injection for another VM hits nothing here."""
        lane = Lane()
        lane.do(AllocFail(vm=7, nth=1, count=0))
        assert lane.set(1).ret == 0


class TestFlushSlot:
    """Before 6.6 drivers drop what they track in a slot before it is deleted or moved."""

    def tracked(self, policy: str) -> Lane:
        """Return a lane with a node and two tracked gfns, one of them twice."""
        lane = Lane(policy)
        lane.set(1, 4)
        lane.set(2, 4)
        lane.register()
        lane.hot(add(16), add(16), add(18), add(32))
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}
        return lane

    @pytest.mark.parametrize("name", ["move", "delete"])
    def test_nothing_is_flushed_without_an_invalid_copy(self, name: str) -> None:
        """A change that fails before it is published has not touched the tracking."""
        lane = self.tracked(EAGER_OLD)
        lane.fail(INVALID)
        assert OPERATIONS[name][0](lane).ret == -12
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}

    def test_failed_move_has_dropped_the_tracking(self) -> None:
        """When prepare fails afterwards, the slot survives without its counts; the other slot keeps its own."""
        lane = self.tracked(EAGER_OLD)
        lane.fail("lpage_info")
        assert lane.set(1, 4, base=700).ret == -12
        assert lane.slot(1).arch.counts == {}
        assert lane.slot(2).arch.counts == {0: 1}
        assert lane.vm.external_adds == {32: 1}

    def test_a_driver_without_a_table_drops_nothing(self) -> None:
        """The kernel only calls the driver; a driver that removes nothing leaves the counts (seen on 6.1.192)."""
        lane = self.tracked(EAGER_OLD)
        lane.register(9, table=False)
        lane.fail("lpage_info")
        assert lane.set(1, 4, base=700).ret == -12
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}

    @pytest.mark.parametrize("policy", [EAGER_NEW, LAZY])
    def test_later_kernels_keep_it(self, policy: str) -> None:
        """From 6.6 on the move is refused and the counts stay."""
        lane = self.tracked(policy)
        assert lane.set(1, 4, base=700).ret == -22
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}

    def test_without_a_node_nothing_is_flushed(self) -> None:
        """After the last node went nobody removes anything."""
        lane = self.tracked(EAGER_OLD)
        lane.unregister()
        lane.fail("lpage_info")
        assert lane.set(1, 4, base=700).ret == -12
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}

    def test_a_reopened_driver_does_not_know_old_tracking(self) -> None:
        """The driver's table went with its node: tracking of before stays when the slot is flushed."""
        lane = self.tracked(EAGER_OLD)
        lane.unregister()
        lane.register()
        lane.hot(add(17))
        lane.fail("lpage_info")
        assert lane.set(1, 4, base=700).ret == -12
        assert lane.slot(1).arch.counts == {0: 2, 2: 1}

    @pytest.mark.parametrize("policy", NAMES)
    def test_delete_forgets_outstanding_adds(self, policy: str) -> None:
        """At deletion drivers drop their table entries of the slot."""
        lane = self.tracked(policy)
        lane.delete(1)
        assert lane.vm.external_adds == {32: 1}
