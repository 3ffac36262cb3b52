"""The order of memslots, and how they are found."""

import pytest
from lane import EAGER_OLD, LAZY, Lane

from replay.kvm.idhash import IdHash, bucket_of

SAME_BUCKET = (0, 144, 288)


class TestBucket:
    """The id hash is the kernel's."""

    def test_first_ids(self) -> None:
        """Ids 0 to 11 go where the kernel puts them."""
        assert [bucket_of(slot_id) for slot_id in range(12)] == [0, 48, 97, 18, 67, 116, 37, 86, 7, 56, 104, 25]

    def test_internal_ids(self) -> None:
        """So do TSS, APIC access page and identity map."""
        assert [bucket_of(slot_id) for slot_id in (32764, 32765, 32766)] == [94, 14, 63]

    def test_range(self) -> None:
        """Every id has one of 128 buckets, and all are used."""
        assert sorted({bucket_of(slot_id) for slot_id in range(32767)}) == list(range(128))

    def test_walk(self) -> None:
        """Of ids 0 to 7 the walk is the one that real kernels showed."""
        order = IdHash()
        for slot_id in range(8):
            order.link(slot_id)
        assert list(order) == [0, 3, 6, 1, 4, 7, 2, 5]

    def test_newest_first(self) -> None:
        """Within a bucket the last one linked comes first; linking again moves it there; unlinking takes it out."""
        order = IdHash()
        assert {bucket_of(slot_id) for slot_id in SAME_BUCKET} == {0}
        for slot_id in SAME_BUCKET:
            order.link(slot_id)
        assert list(order) == [288, 144, 0]
        order.link(144)
        assert list(order) == [144, 288, 0]
        order.unlink(288)
        assert list(order) == [144, 0]


class TestBothSets:
    """The order is kept for each of the two sets, and a change relinks in the sets that it touches."""

    def three(self, policy: str = LAZY) -> Lane:
        """Return a lane whose slots share a bucket."""
        lane = Lane(policy)
        for slot_id in SAME_BUCKET:
            lane.set(slot_id)
        assert self.orders(lane) == ([288, 144, 0], [288, 144, 0])
        return lane

    def orders(self, lane: Lane) -> tuple[list[int], list[int]]:
        """Return the active and the inactive order of address space 0."""
        return lane.order(), lane.vm.spaces[0].inactive_order()

    def test_flags(self) -> None:
        """A change of flags relinks in both."""
        lane = self.three()
        assert lane.set(0, flags=1).change == "flags_only"
        assert self.orders(lane) == ([0, 288, 144], [0, 288, 144])

    def test_move(self) -> None:
        """So does a move."""
        lane = self.three()
        assert lane.set(144, base=0).ret == -17
        assert lane.set(144, base=5000).change == "move"
        assert self.orders(lane) == ([144, 288, 0], [144, 288, 0])

    def test_failed_move(self) -> None:
        """A move that fails in prepare puts the old slot first in the set that held the INVALID copy: the inactive one."""
        lane = self.three()
        lane.fail("lpage_info")
        assert lane.set(0, base=5000).ret == -12
        assert self.orders(lane) == ([288, 144, 0], [0, 288, 144])

    def test_failed_move_decides_later_walks(self) -> None:
        """The next change of another slot publishes that set, and with it the other order."""
        lane = self.three()
        lane.register()
        assert lane.set(0, base=5000).ret == -22
        lane.set(1)
        assert self.orders(lane) == ([0, 288, 144, 1], [288, 144, 0, 1])

    def test_refused_before_prepare(self) -> None:
        """What fails before the INVALID copy is published relinks nothing."""
        lane = self.three()
        lane.fail("kvm_set_memslot(invalid)")
        assert lane.delete(0).ret == -12
        assert self.orders(lane) == ([288, 144, 0], [288, 144, 0])

    def test_delete(self) -> None:
        """A deleted slot is in neither."""
        lane = self.three()
        lane.delete(144)
        assert self.orders(lane) == ([288, 0], [288, 0])

    def test_spaces_are_apart(self) -> None:
        """Each address space has its own sets."""
        lane = self.three()
        lane.set(0, as_id=1)
        lane.set(144, as_id=1)
        assert (lane.order(0), lane.order(1)) == ([288, 144, 0], [144, 0])

    def test_destruction_walks_set_one(self) -> None:
        """At the end the slots are freed in the order of set 1."""
        lane = self.three(EAGER_OLD)
        lane.fail("lpage_info")
        assert lane.set(0, base=5000).ret == -12  # five swaps by now: set 1 is active, and set 0 has the other order
        active = lane.order()
        freed = [piece.slot_id for piece in lane.destroy().freed if piece.array == "slot"]
        assert active == [288, 144, 0]
        assert freed == active


class TestLookup:
    """A slot is found by id and by gfn."""

    @pytest.fixture
    def lane(self) -> Lane:
        """Return a lane with slots at 16-19 and 32-33."""
        lane = Lane()
        lane.set(1, 4)
        lane.set(2, 2)
        return lane

    @pytest.mark.parametrize(
        ("gfn", "slot_id"), [(15, None), (16, 1), (19, 1), (20, None), (31, None), (32, 2), (33, 2), (34, None)]
    )
    def test_by_gfn(self, lane: Lane, gfn: int, slot_id: int | None) -> None:
        """First and last page belong to it, the ones beside do not."""
        slot = lane.vm.spaces[0].by_gfn(gfn)
        assert (slot.id if slot else None) == slot_id

    @pytest.mark.parametrize(
        ("base", "end", "but", "overlaps"),
        [
            (0, 16, 9, False), (0, 17, 9, True), (19, 20, 9, True), (20, 32, 9, False), (20, 33, 9, True), (33, 99, 9, True),
            (34, 99, 9, False), (0, 99, 9, True), (16, 20, 1, False), (17, 33, 1, True), (10, 32, 1, False),
        ],
    )  # fmt: skip
    def test_overlap(self, lane: Lane, base: int, end: int, but: int, *, overlaps: bool) -> None:
        """A range overlaps a slot that it shares a page with, unless that is the slot itself."""
        assert lane.vm.spaces[0].overlaps(base, end, but) is overlaps

    def test_moved_slot_is_found_in_its_new_place(self, lane: Lane) -> None:
        """After a move the old place is empty."""
        lane.set(1, 4, base=100)
        assert lane.vm.spaces[0].by_gfn(16) is None
        assert lane.vm.spaces[0].by_gfn(100) is lane.slot(1)
        assert len(lane.vm.spaces[0]) == 2


class TestLargest:
    """The most pages that a slot may have: KVM_MEM_MAX_NR_PAGES, include/linux/kvm_host.h [6.1, 6.12]."""

    def test_pages(self) -> None:
        """2^31 - 1 pages are a slot, one more is -EINVAL."""
        assert Lane().set(1, (1 << 31) - 1).ret == 0
        assert Lane().set(1, 1 << 31).ret == -22
