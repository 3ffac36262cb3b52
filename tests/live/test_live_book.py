"""Promises of the book and of the requests: never more memory than was said, every kind of request, every row of the checks."""

import attrs
import pytest

from replay.events import MemslotSet
from replay.kvm.allocator import Allocator
from replay.kvm.kernel_log import KernelLog
from replay.kvm.memory_region import CHECKS, Request
from replay.kvm.policies import EAGER_6_6
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.set_memslot import kvm_set_memory_region
from replay.kvm.vm import Vm
from replay.live.book import METADATA_BYTES_MAX, SLOT_PAGES_MAX, SLOTS_MAX, LiveSlot, LiveVm, affordable, metadata_bytes
from replay.live.calls import CALLS, other_call
from replay.live.dice import Dice
from replay.live.memslots import ANEW, MUTATIONS, ON_SLOT, memslot_request
from replay.units import PAGE_SHIFT, PAGE_SIZE_BYTES, Gpa, Hva


def model_vm() -> Vm:
    """Return a VM of the model in which every array of a slot is allocated; two address spaces, guest_memfd allowed."""
    return Vm(0, 0, EAGER_6_6, Profile(release=Release(6, 18, 44), tdp=False), Allocator(), KernelLog())


def real_bytes(base_gfn: int, npages: int) -> int:
    """Return what the arrays of a slot with dirty logging take in the model, page-pointer arrays included."""
    vm = model_vm()
    ret, _change, _why = kvm_set_memory_region(Request(vm, 0, 1, base_gfn << PAGE_SHIFT, npages << PAGE_SHIFT, 1 << 44))
    assert ret == 0
    return sum(made.cost.real_bytes for made in vm.allocator.taken)


class TestBudget:
    """What a run can make a kernel allocate is bounded."""

    @pytest.mark.parametrize("npages", [1, 2, 511, 512, 513, 4096, 100_000, 1 << 18, (1 << 18) + 1, 1 << 20, SLOT_PAGES_MAX])
    @pytest.mark.parametrize("base_gfn", [0, 1, 511, (1 << 18) - 1])
    def test_bound_holds(self, base_gfn: int, npages: int) -> None:
        """The estimate is never below what every array together takes, and not absurdly above for large slots."""
        real = real_bytes(base_gfn, npages)
        assert real <= metadata_bytes(npages)
        assert metadata_bytes(npages) <= 2 * real + (64 << 10)

    def test_largest_slot_is_worth_it(self) -> None:
        """The largest slot's write tracking needs a page-pointer array of its own, and a move of it is still affordable."""
        assert 2 * SLOT_PAGES_MAX > 512 * PAGE_SIZE_BYTES
        assert 3 * metadata_bytes(SLOT_PAGES_MAX) < METADATA_BYTES_MAX

    def test_affordable(self) -> None:
        """A new slot is refused when the budget or the number of slots is used up; a delete never is."""
        vm = LiveVm(0, 5, 1)
        small = MemslotSet(vm=0, slot=1, memory_size=PAGE_SIZE_BYTES)
        assert affordable(small, vm, 0)
        assert not affordable(small, vm, METADATA_BYTES_MAX)
        vm.slots = {number: LiveSlot(0, number, number, 1, 0, 0) for number in range(2, 2 + SLOTS_MAX)}
        assert not affordable(small, vm, 0)
        assert affordable(attrs.evolve(small, slot=2, memory_size=0), vm, METADATA_BYTES_MAX - metadata_bytes(0))

    def test_huge_slots(self) -> None:
        """More pages than the largest slot has are asked for only where a slot is there already."""
        vm = LiveVm(0, 5, 1)
        huge = MemslotSet(vm=0, slot=1, memory_size=1 << 43)
        assert not affordable(huge, vm, 0)
        assert not affordable(attrs.evolve(huge, memory_size=(SLOT_PAGES_MAX + 1) << PAGE_SHIFT), vm, 0)
        vm.slots[1] = LiveSlot(0, 1, 0, 4, 0, 0)
        assert affordable(huge, vm, 0)


class TestBook:
    """The book follows the kernel's answers."""

    def test_note(self) -> None:
        """A slot is written down with its place, again when it moves, and not any more when it is deleted."""
        vm = LiveVm(0, 5, 2)
        made = MemslotSet(vm=0, slot=0x10003, flags=1, guest_phys_addr=Gpa(8192), memory_size=4096, userspace_addr=Hva(1 << 44))
        vm.note(made)
        assert vm.slots == {0x10003: LiveSlot(1, 3, 2, 1, 1, 1 << 44)}
        assert vm.slots[0x10003].slot == 0x10003
        vm.note(attrs.evolve(made, guest_phys_addr=Gpa(0)))
        assert vm.slots[0x10003].base_gfn == 0
        assert vm.held_bytes() == metadata_bytes(1)
        vm.note(attrs.evolve(made, memory_size=0))
        assert vm.slots == {}

    def test_handles(self) -> None:
        """A VM lives until its own descriptor, its vCPUs and its guest_memfds are closed."""
        vm = LiveVm(0, 5, 1, vcpus=[6, 7], guest_memfds=[8])
        assert vm.handles() == [5, 6, 7, 8]
        for fd in (6, 5, 8):
            vm.drop(fd)
        assert (vm.fd, vm.handles()) == (None, [7])


class TestRequests:
    """What is asked for is worth asking."""

    def test_every_row_of_the_checks(self) -> None:
        """Each check that a program can fail is failed by some request, seen by a model that lets the right ones pass.

        Three can not be reached: REGION2 on an old kernel, and two that only a broken count of pages would meet.
        """
        vm, book, dice = model_vm(), LiveVm(0, 5, 2), Dice(1)
        seen: dict[str, int] = {}
        for _ in range(6000):
            book.guest_memfds = [9]
            asked = memslot_request(dice, book)
            if not affordable(asked, book, book.held_bytes()):
                continue
            request = Request(
                vm,
                asked.slot,
                asked.flags,
                asked.guest_phys_addr,
                asked.memory_size,
                asked.userspace_addr,
                asked.guest_memfd_offset,
                region2=asked.region2,
                fault=asked.fault,
                foreign_mm=dice.chance(1),
            )
            vm.allocator.begin(0)
            ret, change, why = kvm_set_memory_region(request)
            seen[why or change] = seen.get(why or change, 0) + 1
            if ret == 0:
                book.note(asked)
        unreachable = {"REGION2 is not there before 6.8", "delete of more pages than there are", "page count of the VM wraps"}
        assert {row.name for row in CHECKS} - set(seen) == unreachable
        assert {"create", "delete", "move", "flags_only", "unchanged", "beyond the largest gfn"} <= set(seen)
        assert set(seen) >= {row.name for row in CHECKS} - unreachable

    @pytest.mark.parametrize("seed", range(5))
    def test_never_a_huge_slot(self, seed: int) -> None:
        """No request that would be carried out by a kernel without any check of sizes takes more than the largest slot."""
        book, dice = LiveVm(0, 5, 1, slots={3: LiveSlot(0, 3, 9, 4, 0, 1 << 44)}), Dice(seed)
        huge = 0
        for _ in range(3000):
            asked = memslot_request(dice, book)
            if asked.memory_size >> PAGE_SHIFT > SLOT_PAGES_MAX and affordable(asked, book, 0):
                assert asked.slot in book.slots
                huge += 1
        assert huge > 5

    def test_tables(self) -> None:
        """Every row of the tables has a weight, and every maker is listed once."""
        for table in (ON_SLOT, ANEW, MUTATIONS, CALLS):
            assert all(weight > 0 for weight, _maker in table)
            assert len({maker for _weight, maker in table}) == len(table)

    def test_other_calls(self) -> None:
        """Every other call comes up; of vCPUs and guest_memfds no more than a few a VM."""
        dice, vm = Dice(2), LiveVm(0, 5, 1)
        kinds = {type(call).__name__ for call in (other_call(dice, vm) for _ in range(500)) if call is not None}
        assert len(kinds) == len(CALLS)
        vm.vcpus, vm.guest_memfds = [1, 2, 3], [4, 5, 6]
        full = {type(call).__name__ for call in (other_call(dice, vm) for _ in range(500)) if call is not None}
        assert kinds - full == {"VcpuCreate", "GuestMemfdCreate"}
