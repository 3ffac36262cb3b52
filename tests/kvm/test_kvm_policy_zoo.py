"""Promises of the policies beside eager and on-demand: always, v2 with its one flag, the ideal lower bound."""

from typing import Any, ClassVar

import pytest
from hosts import CREATE, HOSTS, REGISTER, RMAP, ROOT, sites
from lane import ALWAYS, EAGER_OLD, FIRST, IDEAL, LAZY, SECOND, Lane, account, add, query, remove, unaccount

from replay.events import ShadowRootAlloc
from replay.kvm import page_track
from replay.kvm.allocator import SITE_WT_ADD
from replay.kvm.kernel_log import BUG, UNDERFLOW
from replay.kvm.memory_region import user_ptr_end
from replay.kvm.memslot import Memslot
from replay.kvm.release import Release
from replay.kvm.vm import Vm

BUILDABLE = [host for host in HOSTS if HOSTS[host][0].get("config_external_write_tracking", True)]


def three(policy: str, **facts: Any) -> Lane:
    """Return a lane with memslots 0, 1 and 2, of which the last is in both address spaces."""
    lane = Lane(policy, **facts)
    for slot_id in range(3):
        lane.set(slot_id)
    lane.set(2, as_id=1)
    return lane


class TestAlways:
    """Kernels from before 5.16."""

    @pytest.mark.parametrize("host", HOSTS)
    def test_every_slot(self, host: str) -> None:
        """Every memslot gets its array at creation, on every host; nothing else ever makes one."""
        facts, rmaps, _eager, _lazy = HOSTS[host]
        lane = Lane(ALWAYS, release="5.10", **facts)
        assert sites(lane.set(0)).count(CREATE) == 1
        assert lane.register() == 0
        outcome = lane.do(ShadowRootAlloc(vm=0))
        assert sites(outcome) == ([] if rmaps else [RMAP] * 3)

    def test_tracks_without_a_registration(self) -> None:
        """There is no predicate that an add could fail: it counts, also without the option and without shadow paging."""
        lane = Lane(ALWAYS, release="5.10", config_external_write_tracking=False)
        lane.set(0)
        assert lane.hot(add(3), query(3), remove(3), remove(3)).log == [(3, UNDERFLOW)]
        assert not lane.vm.vm_bugged

    def test_api_is_the_old_one(self) -> None:
        """A registration from another mm is not refused, and a MOVE with a node drops what it tracks."""
        for policy in (ALWAYS, EAGER_OLD):
            lane = Lane(policy, release="5.10" if policy == ALWAYS else "6.1")
            lane.set(0)
            assert (lane.register(foreign_mm=True), lane.vm.users_count) == (0, 1)
            lane.hot(add(1))
            assert lane.set(0, base=100).ret == 0
            assert dict(lane.slot(0).arch.counts) == {}


class TestV2:
    """One flag, set by the first registration or shadow root, all write tracking first."""

    @pytest.mark.parametrize("host", BUILDABLE)
    def test_registration(self, host: str) -> None:
        """A registration allocates as on-demand does; where tdp is off it allocates nothing and leaves the flag alone."""
        facts, _rmaps, _eager, lazy = HOSTS[host]
        lane = three(SECOND, **facts)
        assert lane.tracked() == ([0, 1, 2] if lazy else [])
        assert lane.register() == 0
        assert (lane.tracked(), lane.tracked(1)) == ([0, 1, 2], [2])
        assert lane.vm.external_write_tracking_enabled == facts.get("tdp", True)
        assert lane.vm.users_count == 2

    @pytest.mark.parametrize("host", BUILDABLE)
    def test_root_sets_the_flag(self, host: str) -> None:
        """A first shadow root sets it too, and makes all write tracking before the first rmap; a registration finds it set."""
        facts, rmaps, _eager, lazy = HOSTS[host]
        lane = three(SECOND, **facts)
        outcome = lane.do(ShadowRootAlloc(vm=0))
        assert sites(outcome) == ([] if lazy else [ROOT] * 4) + ([] if rmaps else [RMAP] * 12)
        assert lane.vm.external_write_tracking_enabled == facts.get("tdp", True)
        numbers = [slot.arch.gfn_write_track for slot in lane.vm.slots()]
        assert lane.register() == 0
        assert [slot.arch.gfn_write_track for slot in lane.vm.slots()] == numbers

    def test_root_of_on_demand_goes_slot_by_slot(self) -> None:
        """On-demand makes rmaps and write tracking slot by slot: the order is what tells the two apart."""
        outcome = three(LAZY).do(ShadowRootAlloc(vm=0))
        assert sites(outcome) == [RMAP, RMAP, RMAP, ROOT] * 4

    def test_reference_is_taken_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """v2 holds its reference to the VM while it allocates, and drops it when that fails; on-demand takes it afterwards."""
        held: list[int] = []
        inner = page_track.write_tracking_alloc

        def alloc(vm: Vm, slot: Memslot, site: str) -> bool:
            held.append(vm.users_count)
            return inner(vm, slot, site)

        monkeypatch.setattr(page_track, "write_tracking_alloc", alloc)
        for policy, inside in ((SECOND, 2), (LAZY, 1)):
            lane = three(policy)
            held.clear()
            lane.fail(REGISTER, nth=2)
            assert (lane.register(), lane.vm.users_count, lane.vm.nodes) == (-12, 1, [])
            assert held == [inside, inside]
            assert (lane.register(), lane.vm.users_count) == (0, 2)

    @pytest.mark.parametrize("policy", [SECOND, LAZY])
    def test_partial_registration(self, policy: str) -> None:
        """A registration that fails half way keeps what it made and sets no flag, under v2 as under on-demand."""
        lane = three(policy)
        lane.fail(REGISTER, nth=3)
        assert lane.register() == -12
        assert (lane.tracked(), lane.vm.external_write_tracking_enabled) == ([0, 1], False)
        lane.set(7)
        assert lane.slot(7).arch.gfn_write_track is None
        assert lane.register() == 0
        assert (lane.tracked(), lane.tracked(1)) == (lane.order(), lane.order(1))

    def test_partial_root(self) -> None:
        """When an rmap can not be had v2 has all write tracking and its flag, on-demand that of the slots before.

        A memslot made then gets its array under v2 alone.
        """
        for policy, tracked, flag in ((SECOND, [0, 1, 2], True), (LAZY, [0], False)):
            lane = three(policy)
            lane.fail(RMAP, nth=5)
            assert lane.root() == -12
            assert (lane.tracked(), lane.vm.external_write_tracking_enabled) == (tracked, flag)
            assert not lane.vm.shadow_root_allocated
            lane.set(7)
            assert (lane.slot(7).arch.gfn_write_track is not None) == flag
            assert lane.root() == 0
            assert lane.tracked() == lane.order()

    def test_root_that_lacks_write_tracking(self) -> None:
        """When write tracking itself can not be had no rmap is made and no flag is set."""
        lane = three(SECOND)
        lane.fail(ROOT, nth=2)
        assert lane.root() == -12
        assert (lane.tracked(), lane.vm.external_write_tracking_enabled) == ([0], False)
        assert all(array is None for slot in lane.vm.slots() for array in slot.arch.rmap)

    def test_td_guest(self) -> None:
        """The refusal of TD guests came after the series: v1 and v2 register them, on-demand from 6.16 on does not."""
        for policy, ret in ((FIRST, 0), (SECOND, 0), (LAZY, -95), (IDEAL, -95)):
            lane = Lane(policy, vm_type=5, release="6.16")
            assert [lane.register(foreign_mm=True), lane.register()] == [-3, ret]
            assert Lane(policy, vm_type=5, release="6.15.9").register() == 0


class TestIdeal:
    """A lower bound: what the recording really needed."""

    def test_first_add_allocates(self) -> None:
        """Only the slot in which a gfn is tracked gets its array, at the first add; it stays until the slot goes."""
        lane = three(IDEAL)
        assert lane.register() == 0
        assert lane.tracked() == []
        found = lane.hot(query(16), add(17), add(18), remove(17), remove(18))
        assert [(piece.site, piece.event, piece.slot_id) for piece in found.taken] == [(SITE_WT_ADD, lane.number - 4, 1)]
        assert (lane.tracked(), found.log) == ([1], [])
        assert lane.set(1, flags=1).ret == 0
        assert lane.tracked() == [1]
        lane.unregister()
        assert lane.tracked() == [1]
        lane.delete(1)
        assert lane.tracked() == []
        assert lane.machine.allocator.tallies["gfn_write_track"].live == 0

    def test_shadow_paging(self) -> None:
        """A first shadow root makes rmaps alone; a shadow page from level 2 on makes its slot's array, one of level 1 none."""
        lane = three(IDEAL)
        assert sites(lane.do(ShadowRootAlloc(vm=0))) == [RMAP] * 12
        lane.hot(account(0, 1), account(16, 2), unaccount(16, 2))
        assert lane.tracked() == [1]

    def test_move(self) -> None:
        """A MOVE makes no array: the moved slot starts anew."""
        lane = three(IDEAL)
        lane.register()
        lane.hot(add(0))
        lane.unregister()
        assert lane.set(0, base=100).ret == 0
        assert lane.tracked() == []

    def test_never_fails(self) -> None:
        """No injection, limit or size makes its arrays fail, and nobody is charged; the rest of the model still can fail."""
        lane = Lane(IDEAL, total_ram_pages=2)
        lane.set(0, 3 << 12)
        lane.register()
        lane.limit(0)
        lane.fail("gfn_write_track", count=0)
        lane.hot(add(1))
        assert (lane.tracked(), lane.machine.allocator.limit_pages) == ([0], 0)
        lane.heal()
        assert lane.set(1, base=1 << 20).ret == -12
        lane.delete(0)
        assert lane.machine.allocator.limit_pages == 2  # its lpage_info, one page a level: write tracking was never charged

    def test_results_are_those_of_on_demand(self) -> None:
        """An add before any registration kills the VM, a remove of what is not tracked warns."""
        for policy in (LAZY, IDEAL):
            lane = three(policy)
            assert lane.hot(add(0)).log == [(0, BUG)]
            assert (lane.vm.vm_bugged, lane.tracked()) == (True, [])
            lane = three(policy)
            lane.register()
            assert lane.hot(remove(0)).log == [(0, UNDERFLOW)]
        assert lane.tracked() == []


class TestUserMemory:
    """Where a memslot's memory may end: the kernel's test of a pointer changed with the releases."""

    END: ClassVar = {False: (1 << 47) - 4096, True: (1 << 56) - 4096}

    @pytest.mark.parametrize("la57", [False, True])
    @pytest.mark.parametrize(
        ("release", "kind"),
        [
            ("5.10", "end"), ("6.1.192", "end"), ("6.3.13", "end"),
            ("6.4", "sign"), ("6.6.156", "sign"), ("6.8", "sign"), ("6.11.5", "sign"),
            ("6.11.6", "short"), ("6.11.10", "short"), ("6.12", "short"), ("6.12.1", "short"),
            ("6.11.11", "end"), ("6.12.2", "end"), ("6.12.117", "end"), ("6.13", "end"), ("6.18.44", "end"),
        ],
    )  # fmt: skip
    def test_ends(self, release: str, kind: str, *, la57: bool) -> None:
        """Up to the end of user memory; to the sign bit from 6.4 on; short of the end by one byte in 6.12 and 6.12.1."""
        lane, end = Lane(LAZY, release=release, la57=la57), self.END[la57]
        last = {"end": end, "sign": (1 << 63) - 4096, "short": end - 4096}[kind]
        for place, (top, ret) in enumerate(
            ((last, 0), (last + 4096, -22), (1 << 63, -22), (end + (1 << 62), 0 if kind == "sign" else -22))
        ):
            assert lane.set(place, 2, userspace_addr=top - 2 * 4096).ret == ret, hex(top)

    @pytest.mark.parametrize("release", ["6.1", "6.8", "6.12", "6.12.2"])
    def test_wrapping_is_refused(self, release: str) -> None:
        """A range that wraps around is no user memory under any of them."""
        assert Lane(LAZY, release=release).set(0, 4, userspace_addr=(1 << 64) - 2 * 4096).ret == -22

    def test_numbers(self) -> None:
        """The limits themselves, byte by byte."""
        ends = [user_ptr_end(Release.parse(release), la57=False) for release in ("6.4", "6.11.6", "6.12.1", "6.12.2")]
        assert ends == [(1 << 63) - 1, self.END[False] - 1, self.END[False] - 1, self.END[False]]
