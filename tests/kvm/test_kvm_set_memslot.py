"""How a memslot change is carried out: what it allocates in which order, and what a failure undoes."""

from typing import Any

import pytest
from hosts import DIRTY, HOSTS, INVALID, SLOT, expected_arrays, sites
from lane import EAGER_NEW, EAGER_OLD, LAZY, NAMES, Lane, add, query

from replay.events import MemslotSet, VmAttach, VmEnableCap
from replay.kvm.machine import Machine
from replay.kvm.policies import ON_DEMAND
from replay.kvm.profile import Profile
from replay.kvm.uapi import KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP


class TestCreate:
    """A new slot allocates all that it needs at once."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("host", HOSTS)
    @pytest.mark.parametrize("logs_dirty", [False, True])
    def test_allocations(self, policy: str, host: str, *, logs_dirty: bool) -> None:
        """Object, bitmap, rmaps, lpage_info, write tracking: in that order, by the kernel's functions."""
        lane = Lane(policy, **HOSTS[host][0])
        outcome = lane.set(1, 4, flags=int(logs_dirty))
        assert (outcome.ret, outcome.change) == (0, "create")
        assert sites(outcome) == [SLOT, *([DIRTY] if logs_dirty else []), *expected_arrays(policy, host)]
        assert outcome.freed == []

    def test_sizes(self) -> None:
        """Each array has the kernel's size: rmaps 8 bytes, lpage_info 4, counters 2, the bitmap two bits a page, in words."""
        outcome = Lane(EAGER_NEW, tdp=False).set(1, 1025, base=511, flags=1)
        nominal = [piece.cost.nominal_bytes for piece in outcome.taken]
        assert nominal == [280, 2 * 8 * 17, 8 * 1025, 8 * 3, 8 * 1, 4 * 3, 4 * 1, 2 * 1025]

    def test_small_slot_costs_pages(self) -> None:
        """A slot of one page takes three pages under the eager policy and two on demand, six with shadow paging."""
        for policy, facts, pages in ((EAGER_NEW, {}, 3), (LAZY, {}, 2), (LAZY, {"tdp": False}, 6)):
            outcome = Lane(policy, **facts).set(1, 1)
            assert sum(piece.cost.pages for piece in outcome.taken) == pages

    @pytest.mark.parametrize(
        ("release", "smm", "nas"), [("6.1", True, 2), ("6.1", False, 2), ("6.12", True, 2), ("6.12", False, 1)]
    )
    def test_generation_and_pages(self, release: str, nas: int, *, smm: bool) -> None:
        """One swap: the generation of that address space grows by their number; pages are counted over all."""
        lane = Lane(release=release, smm=smm)
        assert lane.generations() == list(range(nas))
        lane.set(1, 4)
        assert lane.generations() == [nas, *range(1, nas)]
        if nas == 2:
            lane.set(1, 6, as_id=1)
            assert lane.generations() == [2, 3]
            assert lane.vm.nr_memslot_pages == 10

    def test_the_slot_remembers_its_birth(self) -> None:
        """A slot is born with the event that created it, and stays so through moves and flags."""
        lane = Lane()
        lane.set(1)
        lane.set(2)
        lane.set(1, base=500, flags=1)
        lane.set(1, base=500)
        assert (lane.slot(1).born, lane.slot(2).born) == (1, 2)
        lane.delete(1)
        lane.set(1)
        assert lane.slot(1).born == 6

    @pytest.mark.parametrize(
        ("facts", "last_ok"),
        [({}, 2**40 - 1), ({"max_phys_bits": 40}, 2**28 - 1), ({"max_phys_bits": 40, "tdp": False}, 2**40 - 1)],
    )
    def test_largest_gfn(self, facts: dict[str, Any], last_ok: int) -> None:
        """The last gfn is limited by the host's physical bits with tdp, by 52 bits without; a failure keeps nothing."""
        lane = Lane(**facts)
        assert lane.set(1, 2, base=last_ok - 1).ret == 0
        assert lane.set(2, 2, base=last_ok).ret == -17
        lane.delete(1)
        refused = lane.set(2, 2, base=last_ok, flags=1)
        assert (refused.ret, refused.why) == (-22, "beyond the largest gfn")
        assert [piece.number for piece in refused.taken] == [piece.number for piece in reversed(refused.freed)]


class TestDelete:
    """A deletion takes an INVALID copy for its time and frees the rest."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("host", HOSTS)
    def test_frees_all(self, policy: str, host: str) -> None:
        """Only the INVALID copy is allocated; it and all that the slot had is freed; two swaps."""
        lane = Lane(policy, **HOSTS[host][0])
        made = lane.set(1, 4, flags=1)
        outcome = lane.delete(1)
        assert (outcome.ret, outcome.change, sites(outcome)) == (0, "delete", [INVALID])
        assert sorted(piece.number for piece in outcome.freed) == sorted(piece.number for piece in (*made.taken, *outcome.taken))
        assert lane.generations() == [6, 1]
        assert (lane.order(), lane.vm.nr_memslot_pages) == ([], 0)
        assert all(tally.live == 0 for tally in lane.machine.allocator.tallies.values())

    def test_counters_are_freed(self) -> None:
        """What was counted in deleted slots makes room for others: no table grows by slots that come and go."""
        lane, sizes = Lane(EAGER_NEW), []
        for _turn in range(60):
            lane.set(1, 512, 0)
            lane.hot(add(5), add(300))
            lane.delete(1)
            sizes.append(len(lane.machine.allocator.counters.cells))
        assert sizes[-1] == sizes[0] > 0

    def test_other_fields_do_not_matter(self) -> None:
        """Flags that are valid and any aligned gpa are ignored."""
        lane = Lane()
        lane.set(1)
        assert lane.set(1, 0, base=999, flags=3).change == "delete"

    def test_one_space_only(self) -> None:
        """The slot of the same id in the other address space stays."""
        lane = Lane()
        lane.set(1, 4)
        lane.set(1, 4, as_id=1)
        lane.delete(1)
        assert (lane.order(0), lane.order(1), lane.vm.nr_memslot_pages) == ([], [1], 4)


class TestMove:
    """A moved slot gets new arrays; what was counted is lost."""

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize("host", HOSTS)
    def test_allocations(self, policy: str, host: str) -> None:
        """New object, INVALID copy, new arrays; the bitmap is carried over; the old ones are freed."""
        lane = Lane(policy, **HOSTS[host][0])
        made = lane.set(1, 4, flags=1)
        bitmap = lane.slot(1).dirty_bitmap
        outcome = lane.set(1, 4, base=300, flags=1)
        assert (outcome.ret, outcome.change) == (0, "move")
        assert sites(outcome) == [SLOT, INVALID, *expected_arrays(policy, host)]
        assert lane.slot(1).dirty_bitmap is bitmap
        old = [piece.number for piece in made.taken if piece != bitmap]
        assert sorted(piece.number for piece in outcome.freed) == sorted([*old, outcome.taken[1].number])
        assert lane.generations() == [6, 1]

    def test_counters_are_lost(self) -> None:
        """The new array is zero, also where the slot overlaps its old place."""
        lane = Lane(EAGER_NEW)
        lane.set(1, 4)
        lane.hot(add(17), add(18))
        assert lane.slot(1).arch.counts == {1: 1, 2: 1}
        lane.set(1, 4, base=17)
        assert lane.slot(1).arch.counts == {}
        assert lane.hot(query(17), query(18)).rets == {}

    def test_peak_holds_both(self) -> None:
        """For a moment old and new arrays live side by side: the peak is twice the slot under the eager policy."""
        lane = Lane(EAGER_NEW)
        lane.set(1, 1 << 20)
        lane.set(1, 1 << 20, base=1 << 21)
        tally = lane.machine.allocator.tallies["gfn_write_track"]
        assert (tally.nominal_now, tally.nominal_peak) == (2 << 20, 4 << 20)

    @pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 1), (1, 0), (1, 1)])
    def test_flags_may_change(self, before: int, after: int) -> None:
        """Dirty logging may be switched in the same call; the bitmap follows it."""
        lane = Lane()
        lane.set(1, 4, flags=before)
        old = lane.slot(1).dirty_bitmap
        outcome = lane.set(1, 4, base=100, flags=after)
        assert outcome.change == "move"
        assert (lane.slot(1).dirty_bitmap is not None) == bool(after)
        assert (DIRTY in sites(outcome)) == (after > before)
        assert (old in outcome.freed) == (before > after)

    @pytest.mark.parametrize("policy", NAMES)
    def test_with_a_node(self, policy: str) -> None:
        """With an external user a move is EINVAL from 6.6 on, after two swaps; before that it is allowed."""
        lane = Lane(policy)
        lane.set(1, 4)
        lane.register()
        outcome = lane.set(1, 4, base=100, flags=1)
        assert lane.generations() == [6, 1]
        if policy == EAGER_OLD:
            assert (outcome.ret, lane.slot(1).base_gfn) == (0, 100)
        else:
            assert (outcome.ret, outcome.why, lane.slot(1).base_gfn) == (-22, "MOVE with an external page-track user", 16)
            assert sorted(piece.number for piece in outcome.taken) == sorted(piece.number for piece in outcome.freed)
            assert sites(outcome) == [SLOT, INVALID, DIRTY]

    @pytest.mark.parametrize("policy", NAMES)
    def test_after_the_node_went(self, policy: str) -> None:
        """Once the last node is gone a slot may move again."""
        lane = Lane(policy)
        lane.set(1, 4)
        lane.register(1)
        lane.register(2)
        lane.unregister(1)
        assert lane.set(1, 4, base=100).ret == (0 if policy == EAGER_OLD else -22)
        lane.unregister(2)
        assert lane.set(1, 4, base=200).ret == 0


class TestFlags:
    """A change of flags shares all arrays."""

    def test_on(self) -> None:
        """Switching dirty logging on allocates an object and a bitmap; the arrays are the same; one swap."""
        lane = Lane(EAGER_NEW, tdp=False)
        lane.set(1, 4)
        lane.hot(add(17))
        arch, old = lane.slot(1).arch, lane.slot(1).object
        outcome = lane.set(1, 4, flags=1)
        assert (outcome.change, sites(outcome), outcome.freed) == ("flags_only", [SLOT, DIRTY], [old])
        assert lane.slot(1).arch is arch
        assert arch.counts == {1: 1}
        assert lane.generations() == [4, 1]

    def test_off(self) -> None:
        """Switching it off frees the bitmap."""
        lane = Lane()
        lane.set(1, 4, flags=1)
        bitmap = lane.slot(1).dirty_bitmap
        outcome = lane.set(1, 4)
        assert (outcome.change, sites(outcome)) == ("flags_only", [SLOT])
        assert bitmap in outcome.freed
        assert lane.slot(1).dirty_bitmap is None

    @pytest.mark.parametrize(("with_bitmap", "allocates"), [(False, False), (True, True)])
    def test_dirty_ring(self, *, with_bitmap: bool, allocates: bool) -> None:
        """With a dirty ring there is no bitmap, unless ring and bitmap are asked for together."""
        lane = Lane()
        lane.do(VmEnableCap(vm=0, ret=0, cap=KVM_CAP_DIRTY_LOG_RING, args=(4096,)))
        if with_bitmap:
            lane.do(VmEnableCap(vm=0, ret=0, cap=KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP))
        assert (DIRTY in sites(lane.set(1, 4, flags=1))) is allocates


class TestUnchanged:
    """A repeat changes nothing."""

    def test_nothing(self) -> None:
        """No allocation, no swap, result 0."""
        lane = Lane()
        lane.set(1, 4, flags=1)
        before = lane.generations(), lane.slot(1)
        outcome = lane.set(1, 4, flags=1)
        assert (outcome.ret, outcome.change, outcome.taken, outcome.freed) == (0, "unchanged", [], [])
        assert (lane.generations(), lane.slot(1)) == before


class TestAttached:
    """A VM that was there before the recording may have slots that nobody saw."""

    @pytest.fixture
    def machine(self) -> Machine:
        """Return a machine with an attached VM."""
        machine = Machine(ON_DEMAND, Profile())
        machine.step(VmAttach(vm=0), 0)
        return machine

    @pytest.mark.parametrize(("recorded", "ret"), [(0, 0), (-22, -22), (None, -22)])
    def test_unseen_delete(self, machine: Machine, recorded: int | None, ret: int) -> None:
        """A recorded success of a delete is believed."""
        assert machine.step(MemslotSet(vm=0, slot=3, ret=recorded), 1).ret == ret

    @pytest.mark.parametrize(
        "bad", [{"foreign_mm": True}, {"fault": True}, {"slot": 32764}, {"slot": 2 << 16}, {"userspace_addr": 1}]
    )
    def test_only_for_what_could_be(self, machine: Machine, bad: dict[str, Any]) -> None:
        """A request that no slot could satisfy fails all the same."""
        ret = machine.step(MemslotSet(vm=0, **({"slot": 3, "ret": 0} | bad)), 1).ret
        assert ret is not None
        assert ret < 0
