"""What an allocation costs, and which one fails."""

import pytest
from lane import Lane
from slow_memory import vcalloc_pages, vcalloc_real_bytes

from replay.events import MemslotSet, VmCreate
from replay.kvm.allocator import ARRAYS, GFN_WRITE_TRACK, RMAP, Allocator, Injection
from replay.kvm.memslot import lpages
from replay.kvm.release import Release
from replay.kvm.tallies import Tally
from replay.kvm.vmalloc import KMALLOC_CLASSES_BYTES, kmalloc_class_bytes, slot_object_cost, vcalloc_cost

P = 4096


class TestVcallocCost:
    """An array costs whole pages, a pointer array, and above 512 pages a second area."""

    @pytest.mark.parametrize("nominal", [1, 2, 4095, 4096])
    def test_smallest_is_a_page(self, nominal: int) -> None:
        """A slot of one page pays a whole page for its write tracking, and 8 bytes for the pointer to it."""
        cost = vcalloc_cost(nominal)
        assert (cost.pages, cost.areas, cost.area_pages, cost.real_bytes, cost.charged_bytes) == (1, 1, 1, P + 8, P)

    def test_512_pages_have_no_nested_array(self) -> None:
        """The write tracking of exactly 4 GiB: 512 pages, pointers in one slab page."""
        cost = vcalloc_cost(2 << 20)
        assert (cost.pages, cost.areas, cost.area_pages, cost.real_bytes) == (512, 1, 512, 512 * P + P)

    def test_513_pages_have_one(self) -> None:
        """One guest page more: 513 pages and two more for the pointers."""
        cost = vcalloc_cost((2 << 20) + 2)
        assert (cost.pages, cost.areas, cost.area_pages, cost.real_bytes) == (513, 2, 515, 513 * P + 2 * P + 16)

    def test_8_gib_slot(self) -> None:
        """4 MiB of write tracking: 1024 pages and a nested array of 2."""
        cost = vcalloc_cost(4 << 20)
        assert (cost.pages, cost.area_pages) == (1024, 1026)

    def test_39_bit_slot(self) -> None:
        """2^27 guest pages: 256 MiB, charged as such, and 65664 pages in areas: 256.5 MiB."""
        cost = vcalloc_cost(2 << 27)
        assert (cost.nominal_bytes, cost.pages, cost.areas, cost.area_pages) == (256 << 20, 65536, 2, 65664)
        assert cost.charged_bytes == 256 << 20

    def test_nesting_can_nest(self) -> None:
        """A pointer array above 512 pages has a pointer array in an area of its own."""
        cost = vcalloc_cost(513 * 512 * P)
        assert cost.areas == 3
        assert cost.area_pages == 513 * 512 + 513 + 2

    @pytest.mark.parametrize(
        "pages", [1, 2, 3, 4, 5, 8, 9, 16, 17, 24, 25, 32, 33, 64, 65, 128, 129, 256, 257, 511, 512, 513, 262144, 262656, 262657]
    )
    def test_as_counted_slowly(self, pages: int) -> None:
        """Around every limit the price is the one that the slow model counts."""
        for nominal in (pages * P - 1, pages * P, pages * P + 1):
            cost = vcalloc_cost(nominal)
            assert (cost.nominal_bytes, cost.pages, cost.real_bytes) == (
                nominal,
                vcalloc_pages(nominal),
                vcalloc_real_bytes(nominal),
            )

    def test_kmalloc_classes(self) -> None:
        """A size goes into the smallest class that holds it; 96 and 192 are classes."""
        assert [kmalloc_class_bytes(size) for size in (1, 8, 9, 65, 97, 129, 193, 4096)] == [8, 8, 16, 96, 128, 192, 256, 4096]
        for size in KMALLOC_CLASSES_BYTES:
            assert kmalloc_class_bytes(size) == size

    @pytest.mark.parametrize(
        ("release", "size"), [("5.0", 264), ("6.1.192", 264), ("6.7.99", 264), ("6.8", 280), ("6.12.117", 280)]
    )
    def test_slot_object(self, release: str, size: int) -> None:
        """A slot object is 264 bytes, from 6.8 on 280, in a class of 512, and nothing of it is an area."""
        cost = slot_object_cost(Release.parse(release))
        assert (cost.nominal_bytes, cost.real_bytes, cost.pages, cost.areas) == (size, 512, 0, 0)


class TestLpages:
    """How many huge pages a slot touches."""

    @pytest.mark.parametrize(
        ("base", "npages", "level", "count"),
        [
            (0, 1, 1, 1), (7, 5, 1, 5), (0, 512, 2, 1), (1, 512, 2, 2), (511, 2, 2, 2), (512, 512, 2, 1),
            (0, 513, 2, 2), (0, 1 << 18, 3, 1), (1, 1 << 18, 3, 2), ((1 << 18) - 1, 2, 3, 2), (0, 1 << 27, 3, 512),
        ],
    )  # fmt: skip
    def test_count(self, base: int, npages: int, level: int, count: int) -> None:
        """Partly covered huge pages count."""
        assert lpages(base, npages, level) == count


class TestAllocator:
    """All memory goes through one place that counts and can fail."""

    def test_tallies_balance(self) -> None:
        """What is taken and given back is counted now, at its peak and in total."""
        allocator = Allocator()
        first = allocator.vcalloc("a", GFN_WRITE_TRACK, 2 * P, 0, (0, 0))
        second = allocator.vcalloc("a", GFN_WRITE_TRACK, P, 0, (0, 1))
        allocator.free(first)
        allocator.free(None)
        tally = allocator.tallies[GFN_WRITE_TRACK]
        assert second is not None
        assert (second.number, tally.count, tally.live) == (2, 2, 1)
        assert (tally.nominal_now, tally.nominal_peak, tally.nominal_total) == (P, 3 * P, 3 * P)
        assert (tally.charged_now, tally.charged_peak, tally.charged_total) == (P, 3 * P, 3 * P)
        assert (tally.real_now, tally.real_peak, tally.real_total) == (P + 8, 3 * P + 24, 3 * P + 24)
        assert [allocator.tallies[array] for array in ARRAYS if array != GFN_WRITE_TRACK] == [Tally()] * 4

    def test_begin_forgets_effects(self) -> None:
        """Effects are those of the current event; the serial number goes on."""
        allocator = Allocator()
        allocator.begin(5)
        made = allocator.kzalloc("a", 0, (0, 0))
        allocator.free(made)
        assert (len(allocator.taken), len(allocator.freed)) == (1, 1)
        allocator.begin(6)
        assert (allocator.taken, allocator.freed, allocator.refused, allocator.number) == ([], [], [], 1)
        assert made is not None
        assert made.event == 5

    def test_total_ram_limits_one_array(self) -> None:
        """An array of more pages than the machine has fails at once; one of as many does not."""
        allocator = Allocator(total_ram_pages=10)
        assert allocator.vcalloc("a", RMAP, 11 * P, 0, (0, 0)) is None
        assert allocator.vcalloc("a", RMAP, 10 * P, 0, (0, 0)) is not None
        assert allocator.refused == [("a", RMAP, 11 * P)]

    def test_limit_is_charged_and_returned(self) -> None:
        """A limit falls with each charge, rises with each free, and lets slot objects pass."""
        lane = Lane(tdp=False)
        lane.limit(5)
        assert lane.set(0, 1).ret == -12
        assert lane.machine.allocator.limit_pages == 5
        lane.limit(6)
        assert lane.set(0, 1).ret == 0
        assert lane.machine.allocator.limit_pages == 0
        lane.delete(0)
        assert lane.machine.allocator.limit_pages == 6
        lane.limit(None)
        assert lane.set(0, 1 << 20).ret == 0

    def test_forced_failure(self) -> None:
        """A caller may refuse one allocation by who asks and for what; the rest goes on."""
        lane = Lane(tdp=False)
        asked: list[tuple[str, str]] = []

        def forced(site: str, array: str) -> bool:
            asked.append((site, array))
            return array == "lpage_info"

        lane.machine.allocator.forced = forced
        outcome = lane.set(1)
        assert (outcome.ret, outcome.why) == (-12, "lpage_info")
        assert asked == [
            ("kvm_set_memory_region", "slot"),
            *[("memslot_rmap_alloc", "rmap")] * 3,
            ("kvm_arch_prepare_memory_region", "lpage_info"),
        ]
        assert len(outcome.freed) == len(outcome.taken) == 4

    def test_write_tracking_by_vm(self) -> None:
        """Write tracking is also tallied by VM, and stays known when the VM is gone."""
        lane = Lane(tdp=False)
        lane.do(VmCreate(vm=1, ret=0))
        lane.set(1, 1 << 12)
        lane.do(MemslotSet(vm=1, memory_size=P))
        lane.destroy()
        tallies = lane.machine.allocator.write_track_by_vm
        assert {vm: (tally.nominal_now, tally.nominal_peak) for vm, tally in tallies.items()} == {0: (0, 1 << 13), 1: (2, 2)}


class TestInjection:
    """A chosen allocation fails."""

    @pytest.mark.parametrize(
        ("nth", "count", "pattern"),
        [(1, 1, "x...."), (2, 1, ".x..."), (2, 2, ".xx.."), (3, 0, "..xxx"), (6, 0, ".....")],
    )
    def test_nth_and_count(self, nth: int, count: int, pattern: str) -> None:
        """The nth matching allocation fails and count - 1 after it; 0: all after it."""
        injection = Injection(None, "", nth, count)
        assert "".join("x" if injection.hits("any", RMAP, 0) else "." for _ in range(5)) == pattern

    def test_site_may_be_an_array(self) -> None:
        """A site is the allocating function, or the kind of array."""
        for site in ("memslot_rmap_alloc", RMAP, ""):
            assert Injection(None, site, 1, 1).hits("memslot_rmap_alloc", RMAP, 3)
        assert not Injection(None, "slot", 1, 1).hits("memslot_rmap_alloc", RMAP, 3)

    def test_other_vms_are_not_counted(self) -> None:
        """An injection into one VM does not see the allocations of another."""
        injection = Injection(1, "", 1, 1)
        assert not injection.hits("a", RMAP, 0)
        assert injection.seen == 0
        assert injection.hits("a", RMAP, 1)

    def test_same_place_replaces(self) -> None:
        """A second injection at a site starts that site anew; another site stands beside it."""
        lane = Lane()
        lane.fail("slot", nth=5)
        lane.fail("slot", nth=1)
        lane.fail("lpage_info", nth=2)
        assert [(i.site, i.nth) for i in lane.machine.allocator.injections] == [("slot", 1), ("lpage_info", 2)]
        assert lane.set(0).ret == -12
        assert lane.set(0).ret == -12
        assert lane.set(0).ret == 0

    def test_heal(self) -> None:
        """Off at no site stops them all."""
        lane = Lane()
        lane.fail("slot", count=0)
        lane.fail("lpage_info", count=0)
        assert lane.set(0).ret == -12
        lane.heal()
        assert lane.machine.allocator.injections == []
        assert lane.set(0).ret == 0
