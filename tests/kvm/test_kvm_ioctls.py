"""The other VM ioctls: dirty log, capabilities, limits, and a VM's birth and end."""

import itertools
from typing import Any

import attrs
import pytest
from lane import EAGER_OLD, NAMES, Lane, account, add

from replay.errors import EventError
from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    Lost,
    Mark,
    MemslotSet,
    NrMmuPagesSet,
    Observe,
    Opaque,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmAttach,
    VmCall,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    WriteTrackAdd,
)
from replay.kvm.ioctls import CLEAR_DIRTY_LOG_CHECKS, GET_DIRTY_LOG_CHECKS
from replay.kvm.state import digest_of
from replay.kvm.uapi import (
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
)
from replay.units import Gfn, Gpa, errno_name

CALLS: tuple[VmCall, ...] = (
    MemslotSet(vm=0, foreign_mm=True),
    TssSet(vm=0, guest_phys_addr=Gpa(0), foreign_mm=True),
    IdentityMapSet(vm=0, foreign_mm=True),
    NrMmuPagesSet(vm=0, nr_mmu_pages=64, foreign_mm=True),
    DirtyLogGet(vm=0, slot=1, foreign_mm=True),
    DirtyLogClear(vm=0, slot=1, foreign_mm=True),
    VcpuCreate(vm=0, vcpu_id=0, foreign_mm=True),
    IrqchipCreate(vm=0, foreign_mm=True),
    VmEnableCap(vm=0, cap=KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, foreign_mm=True),
    GuestMemfdCreate(vm=0, foreign_mm=True),
    ShadowRootAlloc(vm=0, foreign_mm=True),
)


class TestEio:
    """Every ioctl from another mm, or on a dead VM, is EIO and changes nothing."""

    @pytest.mark.parametrize("call", CALLS, ids=lambda call: call.KIND)
    def test_foreign_mm(self, call: VmCall) -> None:
        """From another mm."""
        lane = Lane()
        before = lane.vm.created_vcpus, lane.vm.irqchip_in_kernel
        assert lane.do(call).ret == -5
        assert (lane.vm.created_vcpus, lane.vm.irqchip_in_kernel) == before

    @pytest.mark.parametrize("call", CALLS, ids=lambda call: call.KIND)
    def test_dead_vm(self, call: VmCall) -> None:
        """On a VM that KVM_BUG_ON has marked."""
        lane = Lane()
        lane.set(1)
        lane.hot(add(16))
        assert lane.vm.vm_bugged
        assert lane.do(attrs.evolve(call, foreign_mm=False)).ret == -5


class TestDirtyLog:
    """The checks of the dirty-log calls, in their order."""

    GET = (("ENXIO", "ring"), ("EINVAL", "id"), ("ENOENT", "bitmap"), ("EFAULT", "fault"))
    CLEAR = (
        ("ENXIO", "ring"),
        ("EINVAL", "id"),
        ("EINVAL", "first"),
        ("ENOENT", "bitmap"),
        ("EINVAL", "range"),
        ("EFAULT", "fault"),
    )

    def test_tables(self) -> None:
        """The tables have the kernel's errno in the kernel's order."""
        assert [errno_name(errno) for errno, _refuses in GET_DIRTY_LOG_CHECKS] == [errno for errno, _why in self.GET]
        assert [errno_name(errno) for errno, _refuses in CLEAR_DIRTY_LOG_CHECKS] == [errno for errno, _why in self.CLEAR]

    @pytest.mark.parametrize("clear", [False, True])
    def test_all_combinations(self, *, clear: bool) -> None:
        """Of everything that is wrong with a call the earliest check answers."""
        table = self.CLEAR if clear else self.GET
        names = [why for _errno, why in table]
        seen = 0
        for wrong in itertools.product((False, True), repeat=len(names)):
            bad = dict(zip(names, wrong, strict=True))
            if bad["bitmap"] and bad.get("range"):
                continue  # without a bitmap the range is never looked at
            expected = next((errno for errno, why in table if bad[why]), None)
            assert self._ret(bad, clear=clear) == expected
            seen += 1
        assert seen == (48 if clear else 16)

    def _ret(self, bad: dict[str, bool], *, clear: bool) -> str | None:
        lane = Lane()
        lane.set(1, 256, base=512, flags=0 if bad["bitmap"] else 1)
        if bad["ring"]:
            lane.do(VmEnableCap(vm=0, ret=0, cap=KVM_CAP_DIRTY_LOG_RING, args=(4096,)))
        slot = 2 << 16 | 1 if bad["id"] else 1
        pages = 1000 if bad.get("range") else 64
        event = DirtyLogGet(vm=0, slot=slot, fault=bad["fault"])
        first = 1 if bad.get("first") else 0
        cleared = DirtyLogClear(vm=0, slot=slot, first_page=first, num_pages=pages, fault=bad["fault"])
        ret = lane.do(cleared if clear else event).ret
        return errno_name(ret) if ret else None

    @pytest.mark.parametrize(
        ("first", "num", "ret"),
        [
            (0, 0, 0), (0, 64, 0), (0, 128, 0), (0, 200, 0), (0, 63, -22), (0, 199, -22), (0, 201, -22), (64, 136, 0),
            (64, 64, 0), (64, 137, -22), (128, 72, 0), (192, 8, 0), (192, 0, 0), (192, 7, -22), (256, 0, -22), (1, 0, -22),
        ],
    )  # fmt: skip
    def test_ranges(self, first: int, num: int, ret: int) -> None:
        """A range starts at a multiple of 64 and ends at one or at the slot's last page; 0 pages are fine."""
        lane = Lane()
        lane.set(1, 200, base=512, flags=1)
        assert lane.do(DirtyLogClear(vm=0, slot=1, first_page=first, num_pages=num)).ret == ret

    def test_nothing_to_read(self) -> None:
        """A clear of no pages reads no bitmap, so that its pointer does not matter; a get always writes one."""
        lane = Lane()
        lane.set(1, 200, base=512, flags=1)
        assert lane.do(DirtyLogClear(vm=0, slot=1, num_pages=0, fault=True)).ret == 0
        assert lane.do(DirtyLogClear(vm=0, slot=1, num_pages=64, fault=True)).ret == -14
        assert lane.do(DirtyLogGet(vm=0, slot=1, fault=True)).ret == -14

    @pytest.mark.parametrize(("num", "ret"), [(0, 0), (64, -14), (128, -14)])
    def test_unreadable_bitmap(self, num: int, ret: int) -> None:
        """A bad pointer is EFAULT only where pages are asked for: for none nothing is read."""
        lane = Lane()
        lane.set(1, 200, base=512, flags=1)
        assert lane.do(DirtyLogClear(vm=0, slot=1, num_pages=num, fault=True)).ret == ret

    @pytest.mark.parametrize("slot", [2, 32763, 32764, 2 << 16, 65535])
    def test_ids(self, slot: int) -> None:
        """An id that could be and is not there is ENOENT, one that can not be EINVAL."""
        possible = slot in {2, 32763}
        assert Lane().do(DirtyLogGet(vm=0, slot=slot)).ret == (-2 if possible else -22)

    def test_bitmap_with_ring(self) -> None:
        """A ring that also wants bitmaps has them."""
        lane = Lane()
        lane.set(1, flags=1)
        lane.do(VmEnableCap(vm=0, ret=0, cap=KVM_CAP_DIRTY_LOG_RING_ACQ_REL, args=(4096,)))
        assert lane.do(DirtyLogGet(vm=0, slot=1)).ret == -6
        lane.do(VmEnableCap(vm=0, ret=0, cap=KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP))
        assert lane.do(DirtyLogGet(vm=0, slot=1)).ret == 0

    @pytest.mark.parametrize(("recorded", "ret"), [(None, 0), (-2, -2), (0, 0)])
    def test_unseen_arguments(self, recorded: int | None, ret: int) -> None:
        """What the recorder did not show is answered as recorded."""
        assert Lane().do(DirtyLogGet(vm=0, ret=recorded)).ret == ret
        assert Lane().do(DirtyLogClear(vm=0, ret=recorded)).ret == ret

    def test_write_tracking_is_not_touched(self) -> None:
        """Reading and clearing changes no state."""
        lane = Lane(tdp=False)
        lane.set(1, flags=1)
        lane.hot(account(16))
        before = digest_of(lane.machine)
        lane.do(DirtyLogGet(vm=0, slot=1))
        lane.do(DirtyLogClear(vm=0, slot=1, num_pages=4))
        assert digest_of(lane.machine) == before


class TestEnableCap:
    """Capabilities that matter are checked, others believed."""

    @pytest.mark.parametrize(
        ("args", "flags", "ret"),
        [((0,), 0, 0), ((1,), 0, 0), ((3,), 0, 0), ((2,), 0, -22), ((4,), 0, -22), ((5,), 0, -22), ((1,), 1, -22), ((), 0, 0)],
    )
    def test_manual_protect(self, args: tuple[int, ...], flags: int, ret: int) -> None:
        """INITIALLY_SET needs ENABLE; other bits and flags are EINVAL and store nothing."""
        lane = Lane()
        lane.do(VmEnableCap(vm=0, cap=KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, args=(1,)))
        assert lane.do(VmEnableCap(vm=0, cap=KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, args=args, flags=flags)).ret == ret
        assert lane.vm.manual_dirty_log_protect == ((args or (0,))[0] if not ret else 1)

    @pytest.mark.parametrize(("recorded", "ret"), [(None, 0), (0, 0), (-22, -22), (-7, -7)])
    def test_others_as_recorded(self, recorded: int | None, ret: int) -> None:
        """A capability that the model does not know answers as recorded; one that failed is not on."""
        lane = Lane()
        assert lane.do(VmEnableCap(vm=0, cap=999, ret=recorded)).ret == ret
        assert lane.do(VmEnableCap(vm=0, cap=KVM_CAP_DIRTY_LOG_RING, ret=recorded)).ret == ret
        assert lane.vm.dirty_ring is (ret == 0)


class TestLimits:
    """Numbers at their limits."""

    @pytest.mark.parametrize(("pages", "ret"), [(0, -22), (63, -22), (64, 0), (1 << 40, 0)])
    def test_nr_mmu_pages(self, pages: int, ret: int) -> None:
        """Less than 64 shadow pages are EINVAL."""
        assert Lane().do(NrMmuPagesSet(vm=0, nr_mmu_pages=pages)).ret == ret

    def test_identity_map_order(self) -> None:
        """After a vCPU it is EINVAL, also when the argument is unreadable; before that EFAULT."""
        lane = Lane()
        assert lane.do(IdentityMapSet(vm=0, fault=True)).ret == -14
        assert lane.do(IdentityMapSet(vm=0, guest_phys_addr=Gpa(4096))).ret == 0
        assert lane.vm.identity_map_addr == 4096
        lane.vcpu()
        assert lane.do(IdentityMapSet(vm=0, fault=True)).ret == -22
        assert lane.vm.identity_map_addr == 4096

    @pytest.mark.parametrize(
        ("release", "recorded", "ret"), [("6.7", 5, -25), ("6.8", 5, 5), ("6.8", -22, -22), ("6.8", None, 0)]
    )
    def test_guest_memfd(self, release: str, recorded: int | None, ret: int) -> None:
        """Before 6.8 there is no guest_memfd; later its creation is as recorded."""
        assert Lane(release=release).do(GuestMemfdCreate(vm=0, ret=recorded)).ret == ret


class TestLife:
    """VMs are made, end, and are not made twice."""

    @pytest.mark.parametrize("again", [VmCreate(vm=0, ret=0), VmAttach(vm=0)])
    def test_twice(self, again: Event) -> None:
        """A number is used once."""
        with pytest.raises(EventError, match="VM 0 is created twice"):
            Lane().do(again)

    def test_never_reused(self) -> None:
        """Also after the end."""
        lane = Lane()
        lane.destroy()
        assert lane.do(VmCreate(vm=1, ret=0)).ret == 0
        assert lane.do(VmCreate(vm=0, ret=0)).log == ["the VM is gone"]

    def test_unknown(self) -> None:
        """An event on a VM that never was says what is missing."""
        with pytest.raises(EventError, match=r"VM 3 is not there.*expected a vm\.create or vm\.attach"):
            Lane().do(MemslotSet(vm=3))

    def test_failed_creation(self) -> None:
        """A creation that failed makes no VM."""
        lane = Lane()
        assert lane.do(VmCreate(vm=1, ret=-12)).ret == -12
        assert list(lane.machine.vms) == [0]

    def test_gone(self) -> None:
        """On a VM that is gone nothing happens, and that is said."""
        lane = Lane()
        lane.destroy()
        outcome = lane.set(1)
        assert (outcome.ret, outcome.why, outcome.log) == (None, "the VM is gone", ["the VM is gone"])
        assert lane.hot(account(16), add(16)).log == [(0, "the VM is gone"), (1, "the VM is gone")]
        assert lane.machine.log.counts == {"the VM is gone": 3}

    @pytest.mark.parametrize("policy", NAMES)
    def test_end_frees_all(self, policy: str) -> None:
        """Nothing of a VM outlives it."""
        lane = Lane(policy, tdp=False)
        for slot_id in range(5):
            lane.set(slot_id, flags=1)
            lane.set(slot_id, as_id=1)
        lane.hot(account(16))
        lane.destroy()
        assert all(tally.live == tally.real_now == 0 for tally in lane.machine.allocator.tallies.values())

    def test_counters_are_given_back(self) -> None:
        """Forty slots and VMs one after the other take the storage of one: freed counters are used again."""
        lane = Lane(tdp=False)
        allocator = lane.machine.allocator
        sizes = []
        for number in range(1, 41):
            lane.do(VmCreate(vm=number, ret=0))
            lane.do(MemslotSet(vm=number, memory_size=4096))
            lane.hot(*[WriteTrackAdd(vm=number, gfn=Gfn(0))] * 2)
            lane.do(MemslotSet(vm=number))
            lane.do(VmDestroy(vm=number))
            sizes.append([len(table.roots) + len(table.homes) for table in (allocator.counters, allocator.driver_counts)])
        assert sizes[-1] == sizes[1]

    @pytest.mark.parametrize(
        ("facts", "vm_type", "nas"),
        [
            ({"release": "6.1", "smm": False}, 0, 2), ({"release": "6.2", "smm": False}, 0, 1), ({"release": "6.2"}, 0, 2),
            ({}, 0, 2), ({}, 1, 1), ({}, 2, 2), ({}, 3, 2), ({}, 4, 1), ({}, 5, 1), ({"smm": False}, 4, 1),
        ],
    )  # fmt: skip
    def test_address_spaces(self, facts: dict[str, Any], vm_type: int, nas: int) -> None:
        """Two with SMM, one without, one with private memory, always two before 6.2."""
        assert Lane(vm_type=vm_type, **facts).vm.nas == nas

    @pytest.mark.parametrize(
        "event", [Opaque(vm=0, cmd=1, name="x"), Observe(), Lost(what="x"), Mark(text="x")], ids=lambda e: e.KIND
    )
    def test_evidence_changes_nothing(self, event: Event) -> None:
        """Evidence and remarks leave the state alone."""
        lane = Lane(EAGER_OLD)
        lane.set(1)
        before = digest_of(lane.machine)
        outcome = lane.do(event)
        assert (outcome.ret, outcome.taken, digest_of(lane.machine)) == (None, [], before)
