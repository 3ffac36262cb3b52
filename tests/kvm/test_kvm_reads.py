"""Whether a gfn is write-tracked, as faults and guest writes ask, and how the policies end alike."""

import pytest
from lane import EAGER_NEW, LAZY, NAMES, Lane, account, add, query, unaccount, write

from replay.kvm.page_track import reads_all_address_spaces

FIXED_READS = (
    ("6.1.186", False),
    ("6.1.187", True),
    ("6.6.155", False),
    ("6.6.156", True),
    ("6.8", False),
    ("6.11.9", False),
    ("6.12.107", False),
    ("6.12.108", True),
    ("6.13", False),
    ("6.18.48", False),
    ("6.18.49", True),
    ("6.19", False),
    ("7.1.9", False),
    ("7.2", True),
    ("7.3.1", True),
)


class TestQuery:
    """Whether a gfn is write-tracked."""

    @pytest.mark.parametrize(("release", "both"), FIXED_READS)
    def test_which_kernels_read_both(self, release: str, *, both: bool) -> None:
        """The fix of 2026 is in these stable releases and in 7.2."""
        assert reads_all_address_spaces(Lane(release=release).vm) is both

    @pytest.mark.parametrize("release", ["6.12.107", "6.12.108"])
    @pytest.mark.parametrize("policy", NAMES)
    def test_both_address_spaces(self, policy: str, release: str) -> None:
        """A gfn tracked in one address space is seen from the other only with the fix; from its own always."""
        lane = Lane(policy, release=release)
        lane.set(1)
        lane.set(1, as_id=1)
        lane.register()
        lane.hot(add(16))
        lane.root()
        lane.hot(account(17, as_id=1))
        fixed = release == "6.12.108"
        result = lane.hot(query(16, 0), query(16, 1), query(17, 0), query(17, 1), query(18, 0), query(18, 1))
        assert sorted(result.rets) == ([0, 1, 2, 3] if fixed else [0, 3])
        assert result.log == []

    def test_own_slot_must_be_there(self) -> None:
        """Without a slot of its own an address space says no, even if the other one tracks."""
        lane = Lane()
        lane.set(1)
        lane.register()
        lane.hot(add(16))
        assert lane.hot(query(16, 1)).rets == {}

    def test_one_address_space_takes_all(self) -> None:
        """A kernel without SMM looks in its only address space."""
        lane = Lane(smm=False)
        lane.set(1)
        lane.register()
        lane.hot(add(16))
        assert lane.hot(query(16, 0), query(16, 1)).rets == {0: 1, 1: 1}

    @pytest.mark.parametrize("policy", NAMES)
    def test_not_enabled(self, policy: str) -> None:
        """While nothing is enabled, and where no slot is, the answer is no."""
        lane = Lane(policy)
        assert lane.hot(query(16)).rets == {}
        lane.set(1)
        assert lane.hot(query(16), write(16)).rets == {}

    def test_guest_writes(self) -> None:
        """Guest writes to tracked gfns are named, others are not."""
        lane = Lane(EAGER_NEW)
        lane.set(1)
        lane.hot(add(16))
        result = lane.hot(write(16), write(17), write(99), write(16))
        assert (result.tracked_writes, result.rets) == ([0, 3], {})


class TestConvergence:
    """All policies end alike."""

    @pytest.mark.parametrize("facts", [{}, {"tdp": False}, {"tdp_mmu": False}])
    def test_after_registration(self, facts: dict[str, bool]) -> None:
        """From the first registration on slots have the same arrays under the policies with the new API."""
        shapes = []
        for policy in (EAGER_NEW, LAZY):
            lane = Lane(policy, **facts)
            lane.set(1)
            lane.register()
            lane.set(2)
            lane.hot(add(16), account(32), unaccount(32))
            shapes.append([[piece.array for piece in slot.arch.arrays()] for slot in lane.vm.slots()])
        assert shapes[0] == shapes[1]
