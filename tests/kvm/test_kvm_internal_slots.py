"""The slots that KVM makes for itself."""

from typing import Any

import pytest
from hosts import CREATE, INVALID, LPAGE, SLOT, sites
from lane import EAGER_NEW, LAZY, NAMES, Lane

from replay.events import IdentityMapSet, IrqchipCreate, TssSet, VcpuCreate, VmEnableCap
from replay.kvm.uapi import KVM_CAP_SPLIT_IRQCHIP
from replay.units import Gpa

TSS, APIC, IDENTITY = 32764, 32765, 32766
INTEL: dict[str, Any] = {"vendor": "intel", "unrestricted_guest": False}


def internal(lane: Lane) -> list[tuple[int, int, int, int]]:
    """Return the internal slots that are there: address space, id, base gfn, pages."""
    return sorted((slot.as_id, slot.id, slot.base_gfn, slot.npages) for slot in lane.vm.slots() if slot.id >= TSS)


class TestTss:
    """KVM_SET_TSS_ADDR makes a slot on VMX without unrestricted guest."""

    def test_three_pages_in_each_address_space(self) -> None:
        """The slot has three pages, once an address space."""
        lane = Lane(**INTEL)
        outcome = lane.tss(0xFFFBD000)
        assert outcome.ret == 0
        assert internal(lane) == [(0, TSS, 0xFFFBD, 3), (1, TSS, 0xFFFBD, 3)]
        assert sites(outcome) == [SLOT, LPAGE, LPAGE] * 2
        assert lane.vm.nr_memslot_pages == 6

    @pytest.mark.parametrize(
        "facts", [{"vendor": "intel"}, {"vendor": "amd", "unrestricted_guest": False}, {"vendor": "pvm"}, {}]
    )
    def test_elsewhere_nothing(self, facts: dict[str, Any]) -> None:
        """With unrestricted guest, on SVM and elsewhere the call returns 0 and makes nothing."""
        lane = Lane(**facts)
        outcome = lane.tss()
        assert (outcome.ret, outcome.taken, internal(lane)) == (0, [], [])

    @pytest.mark.parametrize(("gpa", "ret"), [(0xFFFFD000, 0), (0xFFFFD001, -22), (0xFFFFE000, -22)])
    @pytest.mark.parametrize("vendor", ["intel", "amd"])
    def test_largest_address(self, vendor: str, gpa: int, ret: int) -> None:
        """An address above 4 GiB less three pages is EINVAL on every vendor."""
        assert Lane(vendor=vendor, unrestricted_guest=False).tss(gpa).ret == ret

    def test_unaligned(self) -> None:
        """An unaligned address is refused by the memslot checks where a slot is made."""
        assert Lane(**INTEL).tss(0x1001).ret == -22
        assert Lane(vendor="amd").tss(0x1001).ret == 0

    def test_twice(self) -> None:
        """A second call is EEXIST."""
        lane = Lane(**INTEL)
        lane.tss()
        assert lane.tss().ret == -17

    def test_overlap_with_a_user_slot(self) -> None:
        """Internal slots and user slots exclude each other."""
        lane = Lane(**INTEL)
        lane.tss(0x10000)
        assert lane.set(1, base=0x12).ret == -17
        assert lane.set(1, base=0x13).ret == 0
        other = Lane(**INTEL)
        other.set(1, base=0x12)
        assert other.tss(0x10000).ret == -17

    @pytest.mark.parametrize(("policy", "nth", "site"), [(EAGER_NEW, 2, CREATE), (LAZY, 2, SLOT), (LAZY, 3, LPAGE)])
    def test_half_made_slot_stays(self, policy: str, nth: int, site: str) -> None:
        """A failure in address space 1 leaves the slot in 0 behind, and every retry is EEXIST."""
        lane = Lane(policy, **INTEL)
        lane.fail(site, nth=nth)
        assert lane.tss().ret == -12
        assert internal(lane) == [(0, TSS, 0xFFFBD, 3)]
        assert lane.tss().ret == -17

    def test_on_demand_can_not_fail_there(self) -> None:
        """The failure of the counters of address space 1 is one that the on-demand policy does not have."""
        lane = Lane(**INTEL)
        lane.fail(CREATE, count=0)
        assert lane.tss().ret == 0

    def test_dead_vm(self) -> None:
        """From another mm the call is EIO."""
        assert Lane(**INTEL).do(TssSet(vm=0, guest_phys_addr=Gpa(0), foreign_mm=True)).ret == -5


class TestVcpu:
    """A vCPU brings the APIC access page and the identity map."""

    @pytest.mark.parametrize(
        ("facts", "irqchip", "made"),
        [
            ({"vendor": "intel"}, True, {APIC}),
            ({"vendor": "intel"}, False, set()),
            ({"vendor": "intel", "flexpriority": False}, True, set()),
            (INTEL, True, {APIC, IDENTITY}),
            (INTEL, False, {IDENTITY}),
            (INTEL | {"flexpriority": False}, True, {IDENTITY}),
            (INTEL | {"tdp": False}, True, {APIC}),
            (INTEL | {"tdp": False, "flexpriority": False}, True, set()),
            ({"vendor": "amd", "avic": True}, True, {APIC}),
            ({"vendor": "amd", "avic": True}, False, set()),
            ({"vendor": "amd", "unrestricted_guest": False}, True, set()),
            ({"vendor": "pvm", "avic": True, "unrestricted_guest": False}, True, set()),
            ({}, True, set()),
        ],
    )
    @pytest.mark.parametrize("smm", [True, False])
    def test_which(self, facts: dict[str, Any], made: set[int], *, irqchip: bool, smm: bool) -> None:
        """Flexpriority with an in-kernel APIC, AVIC, and EPT without unrestricted guest: nothing else makes slots."""
        lane = Lane(smm=smm, **facts)
        if irqchip:
            lane.irqchip()
        assert lane.vcpu() == 0
        assert {slot_id for _as_id, slot_id, _base, _npages in internal(lane)} == made
        assert len(internal(lane)) == len(made) * (2 if smm else 1)

    def test_once(self) -> None:
        """Further vCPUs make no further slots."""
        lane = Lane(**INTEL)
        lane.irqchip()
        lane.vcpu()
        before = lane.machine.allocator.number
        assert (lane.vcpu(), lane.machine.allocator.number, lane.vm.created_vcpus) == (0, before, 2)

    def test_places(self) -> None:
        """The APIC page lies at 0xfee00000, the identity map at its default."""
        lane = Lane(smm=False, **INTEL)
        lane.irqchip()
        lane.vcpu()
        assert internal(lane) == [(0, APIC, 0xFEE00, 1), (0, IDENTITY, 0xFFFBC, 1)]

    @pytest.mark.parametrize(("gpa", "base"), [(0x5000, 5), (0, 0xFFFBC), (None, 0xFFFBC)])
    def test_identity_map_address(self, gpa: int | None, base: int) -> None:
        """The stored address is used; 0 means the default."""
        lane = Lane(smm=False, **INTEL)
        assert lane.do(IdentityMapSet(vm=0, guest_phys_addr=None if gpa is None else Gpa(gpa))).ret == 0
        lane.vcpu()
        assert internal(lane) == [(0, IDENTITY, base, 1)]

    def test_split_irqchip_counts(self) -> None:
        """A split irqchip is in the kernel as far as the APIC goes; one that failed is not."""
        for ret, made in ((0, 2), (-22, 0)):
            lane = Lane(vendor="intel")
            lane.do(VmEnableCap(vm=0, ret=ret, cap=KVM_CAP_SPLIT_IRQCHIP, args=(24,)))
            lane.vcpu()
            assert len(internal(lane)) == made

    def test_failed_irqchip_does_not_count(self) -> None:
        """An irqchip whose creation failed is not there."""
        lane = Lane(vendor="intel")
        assert lane.do(IrqchipCreate(vm=0, ret=-17)).ret == -17
        lane.vcpu()
        assert internal(lane) == []

    @pytest.mark.parametrize(("slot_id", "first_failing"), [(APIC, 4), (IDENTITY, 10)])
    def test_half_made_slot_stays(self, slot_id: int, first_failing: int) -> None:
        """When address space 1 fails, the vCPU fails; later vCPUs get EEXIST for ever."""
        lane = Lane(**INTEL)
        lane.irqchip()
        lane.fail(nth=first_failing)  # each slot is three allocations an address space
        assert lane.vcpu() == -12
        assert [entry[:2] for entry in internal(lane)].count((0, slot_id)) == 1
        assert (1, slot_id) not in [entry[:2] for entry in internal(lane)]
        assert [lane.vcpu(), lane.vcpu()] == [-17, -17]
        assert lane.vm.created_vcpus == 0

    def test_recorded_failure_makes_nothing(self) -> None:
        """A vCPU that failed for reasons that are not modelled makes no slots."""
        lane = Lane(**INTEL)
        assert lane.do(VcpuCreate(vm=0, ret=-22, vcpu_id=1 << 20)).ret == -22
        assert (internal(lane), lane.vm.created_vcpus) == ([], 0)

    def test_recorded_failure_after_the_slots(self) -> None:
        """An id that is taken, or a vCPU that runs out of memory itself, is noticed when the slots are made already."""
        lane = Lane(**INTEL)
        assert lane.vcpu() == 0
        made = internal(lane)
        assert [lane.do(VcpuCreate(vm=0, ret=ret, vcpu_id=0)).ret for ret in (-17, -12)] == [-17, -12]
        assert (internal(lane), lane.vm.created_vcpus) == (made, 1)

    def test_recorded_shortage_of_another_lane(self) -> None:
        """Where the recording says what fails, a vCPU whose slots can be had succeeds whatever was recorded."""
        lane = Lane(**INTEL)
        lane.fail("kvm_page_track_create_memslot")
        assert lane.do(VcpuCreate(vm=0, ret=-12, vcpu_id=0)).ret == 0
        assert lane.vm.created_vcpus == 1

    def test_recorded_fd_is_kept(self) -> None:
        """The new file descriptor is the recorded one."""
        assert Lane().do(VcpuCreate(vm=0, ret=17, vcpu_id=0)).ret == 17


class TestDestruction:
    """Internal slots go first when the VM's own mm destroys it."""

    def full(self, policy: str = LAZY) -> Lane:
        """Return a lane with all internal slots and a user slot."""
        lane = Lane(policy, **INTEL)
        lane.irqchip()
        lane.tss()
        lane.vcpu()
        lane.set(1)
        return lane

    @pytest.mark.parametrize("policy", NAMES)
    def test_own_mm(self, policy: str) -> None:
        """APIC, identity map, TSS, each in address space 0 and 1, with an INVALID copy each; then the user slots."""
        outcome = self.full(policy).destroy()
        assert sites(outcome) == [INVALID] * 6
        objects = [(piece.as_id, piece.slot_id) for piece in outcome.freed if piece.site == SLOT]
        assert objects == [(as_id, slot_id) for slot_id in (APIC, IDENTITY, TSS) for as_id in (0, 1)] + [(0, 1)]

    @pytest.mark.parametrize("policy", NAMES)
    def test_foreign_mm(self, policy: str) -> None:
        """From another mm all slots are just freed."""
        lane = self.full(policy)
        outcome = lane.destroy(foreign_mm=True)
        assert outcome.taken == []
        assert all(tally.live == 0 for tally in lane.machine.allocator.tallies.values())

    def test_last_node_decides_the_mm(self) -> None:
        """When a notifier outlives the fd, the mm of the unregister counts."""
        for foreign, copies in ((False, 6), (True, 0)):
            lane = self.full()
            lane.register()
            lane.destroy(foreign_mm=True)
            assert len(lane.unregister(foreign_mm=foreign).taken) == copies

    def test_failing_deletion(self) -> None:
        """When the INVALID copy of address space 0 fails, 1 is not tried; the slots are freed with the rest."""
        lane = self.full()
        lane.fail(INVALID, nth=1)
        outcome = lane.destroy()
        assert len(outcome.taken) == 4
        assert all(tally.live == 0 for tally in lane.machine.allocator.tallies.values())

    def test_half_made_slot(self) -> None:
        """A slot that is only in address space 0 is deleted there; the missing one is no trouble."""
        lane = Lane(**INTEL)
        lane.fail(SLOT, nth=2)
        assert lane.tss().ret == -12
        assert sites(lane.destroy()) == [INVALID]
