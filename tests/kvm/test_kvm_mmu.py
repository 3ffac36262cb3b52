"""The first shadow root, and shadow pages that count."""

import itertools

import pytest
from hosts import RMAP, ROOT, sites
from lane import EAGER_NEW, EAGER_OLD, LAZY, NAMES, Lane, account, add, query, unaccount

from replay.events import ShadowRootAlloc
from replay.kvm.kernel_log import BUG, DISABLED, NO_SLOT, OVERFLOW, UNDERFLOW
from replay.units import U16_MAX

BOOLS = (False, True)


class TestFirstShadowRoot:
    """The first shadow root allocates rmaps and write tracking where they are missing, slot by slot."""

    def with_slots(self, policy: str, *, tdp: bool = True, tdp_mmu: bool = True, config: bool = True, ext: bool = False) -> Lane:
        """Return a lane with slots 1 and 2, and slot 1 in address space 1; ext: after a registration."""
        lane = Lane(policy, tdp=tdp, tdp_mmu=tdp_mmu, config_external_write_tracking=config)
        if ext:
            lane.register()
        for slot_id, as_id in ((1, 0), (2, 0), (1, 1)):
            lane.set(slot_id, as_id=as_id)
        return lane

    @pytest.mark.parametrize("policy", NAMES)
    @pytest.mark.parametrize(("tdp", "tdp_mmu", "config", "ext"), list(itertools.product(BOOLS, repeat=4)))
    def test_combinations(self, policy: str, *, tdp: bool, tdp_mmu: bool, config: bool, ext: bool) -> None:
        """Per slot: rmaps unless there were any, then counters unless there were any; nothing where both are there."""
        lane = self.with_slots(policy, tdp=tdp, tdp_mmu=tdp_mmu, config=config, ext=ext)
        has_rmaps = not (tdp and tdp_mmu)
        tracked = not tdp or (config and (ext or policy != LAZY))
        outcome = lane.do(ShadowRootAlloc(vm=0))
        assert outcome.ret == 0
        each = ([] if has_rmaps else [RMAP] * 3) + ([] if tracked else [ROOT])
        assert sites(outcome) == each * 3
        assert lane.vm.shadow_root_allocated
        assert all(slot.arch.gfn_write_track and all(slot.arch.rmap) for slot in lane.vm.slots())

    def test_order(self) -> None:
        """Address space 0 in the order of the id hash, then 1; in each slot rmaps first."""
        outcome = self.with_slots(LAZY).do(ShadowRootAlloc(vm=0))
        assert [(piece.as_id, piece.slot_id, piece.site) for piece in outcome.taken] == [
            (as_id, slot_id, site) for as_id, slot_id in ((0, 1), (0, 2), (1, 1)) for site in (RMAP, RMAP, RMAP, ROOT)
        ]

    @pytest.mark.parametrize("policy", NAMES)
    def test_second_root_does_nothing(self, policy: str) -> None:
        """Only the first root of a VM allocates; slots made later get everything at creation."""
        lane = self.with_slots(policy)
        lane.root()
        assert lane.do(ShadowRootAlloc(vm=0)).taken == []
        lane.set(5)
        assert lane.slot(5).arch.gfn_write_track is not None
        assert None not in lane.slot(5).arch.rmap

    @pytest.mark.parametrize("nth", range(1, 13))
    def test_partial_failure(self, nth: int) -> None:
        """What earlier slots got stays; a failing rmap takes the slot's own rmaps with it; no flag; the retry does the rest."""
        lane = self.with_slots(LAZY)
        lane.fail(nth=nth)
        outcome = lane.do(ShadowRootAlloc(vm=0))
        slot, step = divmod(nth - 1, 4)
        lost = step if step < 3 else 0  # rmaps of this slot, freed again
        assert outcome.ret == -12
        assert (len(outcome.taken), len(outcome.freed)) == (nth - 1, lost)
        assert not lane.vm.shadow_root_allocated
        kept = 4 * slot + (3 if step == 3 else 0)
        assert sum(len([a for a in s.arch.arrays() if a.array != "lpage_info"]) for s in lane.vm.slots()) == kept
        retry = lane.do(ShadowRootAlloc(vm=0))
        assert (retry.ret, len(retry.taken)) == (0, 12 - kept)

    def test_fails_for_ever(self) -> None:
        """While counters can not be had each root fails, with the first slot's rmaps kept and nothing piling up."""
        lane = self.with_slots(LAZY)
        lane.fail(ROOT, count=0)
        assert [lane.root() for _ in range(3)] == [-12, -12, -12]
        assert lane.machine.allocator.tallies["rmap"].live == 3
        assert lane.machine.allocator.tallies["gfn_write_track"].live == 0

    @pytest.mark.parametrize("policy", [EAGER_OLD, EAGER_NEW])
    def test_eager_failure_is_about_rmaps(self, policy: str) -> None:
        """Under an eager policy the root needs rmaps only."""
        lane = self.with_slots(policy)
        lane.fail(nth=4)
        outcome = lane.do(ShadowRootAlloc(vm=0))
        assert (outcome.ret, sites(outcome), outcome.refused[0][0]) == (-12, [RMAP] * 3, RMAP)

    def test_after_a_partial_registration(self) -> None:
        """Arrays kept by a failed registration are not made again."""
        lane = self.with_slots(LAZY)
        lane.fail("kvm_page_track_register_notifier", nth=2)
        assert lane.register() == -12
        assert sites(lane.do(ShadowRootAlloc(vm=0))) == [RMAP] * 3 + [RMAP, RMAP, RMAP, ROOT] * 2

    def test_foreign_mm(self) -> None:
        """KVM_RUN from another mm is EIO and loads no root."""
        lane = self.with_slots(LAZY)
        assert lane.do(ShadowRootAlloc(vm=0, foreign_mm=True)).ret == -5
        assert not lane.vm.shadow_root_allocated


class TestShadowPages:
    """A shadow page with guest entries counts its gfn from level 2 on."""

    @pytest.mark.parametrize("policy", NAMES)
    def test_levels(self, policy: str) -> None:
        """Level 1 counts as a shadow page only; each level above tracks its gfn once."""
        lane = Lane(policy)
        lane.set(1)
        lane.root()
        result = lane.hot(*[account(16 + level % 4, level) for level in (1, 2, 3, 4, 5)])
        assert (lane.vm.indirect_shadow_pages, result.adds, result.log) == (5, 4, [])
        assert lane.slot(1).arch.counts == {0: 1, 1: 1, 2: 1, 3: 1}

    def test_quadrants(self) -> None:
        """Four shadow pages of one gfn count four."""
        lane = Lane(tdp=False)
        lane.set(1)
        lane.hot(*[account(16)] * 4)
        assert lane.slot(1).arch.counts == {0: 4}

    @pytest.mark.parametrize("policy", NAMES)
    def test_mirror(self, policy: str) -> None:
        """The zap takes back what the creation counted."""
        lane = Lane(policy, tdp=False)
        lane.set(1)
        pages = [(16, 2), (16, 2), (17, 1), (19, 4)]
        lane.hot(*[account(*page) for page in pages])
        result = lane.hot(*[unaccount(*page) for page in reversed(pages)])
        assert (lane.vm.indirect_shadow_pages, dict(lane.slot(1).arch.counts), result.removes) == (0, {}, 3)

    def test_address_spaces(self) -> None:
        """A page of SMM counts in address space 1; a kernel with one address space counts all in it."""
        for smm, expected in ((True, [{0: 1}, {0: 2}]), (False, [{0: 3}])):
            lane = Lane(tdp=False, smm=smm)
            for as_id in range(lane.vm.nas):
                lane.set(1, as_id=as_id)
            lane.hot(account(16), account(16, as_id=1), account(16, as_id=1))
            assert [lane.slot(1, as_id).arch.counts for as_id in range(lane.vm.nas)] == expected

    def test_no_slot(self) -> None:
        """A page without a slot is said, counts as a shadow page, and is no tracking."""
        lane = Lane(tdp=False)
        result = lane.hot(account(16), unaccount(16), unaccount(16))
        assert result.log == [(0, NO_SLOT), (1, NO_SLOT), (2, NO_SLOT)]
        assert (lane.vm.indirect_shadow_pages, result.adds, result.removes) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("policy", "reason", "bugged"), [(EAGER_OLD, DISABLED, False), (EAGER_NEW, BUG, True), (LAZY, BUG, True)]
    )
    def test_not_enabled(self, policy: str, reason: str, *, bugged: bool) -> None:
        """With tdp and no shadow root a page from level 2 on is a bug of the caller; level 1 is not."""
        lane = Lane(policy, config_external_write_tracking=False)
        lane.set(1)
        assert lane.hot(account(16, 1)).log == []
        assert lane.hot(account(16, 2)).log == [(0, reason)]
        assert (lane.vm.vm_bugged, lane.vm.indirect_shadow_pages, dict(lane.slot(1).arch.counts)) == (bugged, 2, {})

    def test_shares_the_counter_with_external_users(self) -> None:
        """Shadow pages and external users count in one counter."""
        lane = Lane(tdp=False)
        lane.set(1)
        lane.register()
        lane.hot(account(16), add(16), unaccount(16))
        assert lane.slot(1).arch.counts == {0: 1}
        assert lane.hot(query(16)).rets == {0: 1}

    def test_limits(self) -> None:
        """Below 0 and above 65535 the counter stays and the kernel warns."""
        lane = Lane(tdp=False)
        lane.set(1)
        assert lane.hot(unaccount(16)).log == [(0, UNDERFLOW)]
        assert lane.hot(*[account(16)] * (U16_MAX + 1)).log == [(U16_MAX, OVERFLOW)]
        assert lane.slot(1).arch.counts == {0: U16_MAX}
