"""Promises of what stands around the checks: valid flags, user memory, what is asked for, the kernel's own requests."""

import itertools
from typing import Any

import pytest
from lane import Lane, P, hva_of
from slot_requests import GOOD, LIVE, MEMFD, lane_for, refusing, request_of

from replay.events import MemslotSet
from replay.kvm.memory_region import access_ok, refusal, refused_by_arguments, valid_flags
from replay.kvm.set_memslot import kvm_set_memory_region
from replay.units import Gpa, Hva


class TestFlags:
    """Which flags are valid depends on release, VM type and the flags themselves."""

    @pytest.mark.parametrize(
        ("release", "vm_type", "flags", "valid"),
        [
            ("6.1", 0, 0, 3), ("6.7", 0, 4, 3), ("6.8", 0, 0, 3), ("6.8", 0, 4, 0), ("6.12.117", 1, 0, 7), ("6.12.117", 1, 4, 4),
            ("6.12.117", 3, 0, 1), ("6.12.117", 4, 0, 5), ("6.12.117", 4, 4, 4), ("6.18.44", 0, 0, 7), ("6.18.44", 0, 4, 4),
            ("6.18.44", 0, 5, 4), ("6.18.44", 5, 0, 5), ("6.12.117", 2, 0, 3),
        ],
    )  # fmt: skip
    def test_valid(self, release: str, vm_type: int, flags: int, valid: int) -> None:
        """LOG_DIRTY and READONLY always on 6.1; later GUEST_MEMFD where there is private memory, from 6.18 everywhere."""
        assert valid_flags(request_of(Lane(release=release, vm_type=vm_type), GOOD | {"flags": flags})) == valid


class TestAccessOk:
    """User memory ends a page before half of the address space."""

    @pytest.mark.parametrize("release", ["6.1", "6.12.117"])
    @pytest.mark.parametrize(
        ("hva", "size", "la57", "ok"),
        [
            (0x7FFF_FFFF_E000, P, False, True), (0x7FFF_FFFF_F000, P, False, False), (0x7FFF_FFFF_F000, 0, False, True),
            (0, P, False, True), (0, 2**47 - P, False, True), (P, 2**47 - P, False, False), (0x8000_0000_0000, 0, False, False),
            (2**64 - P, P, False, False), (2**64 - P, 2 * P, False, False), (0x7FFF_FFFF_F000, P, True, True),
            (2**56 - 2 * P, P, True, True), (2**56 - P, P, True, False), (0xFFFF_8000_0000_0000, P, True, False),
        ],
    )  # fmt: skip
    def test_limits(self, release: str, hva: int, size: int, *, la57: bool, ok: bool) -> None:
        """The range must end at or before the limit; wrapping round does not help."""
        lane = Lane(release=release, la57=la57)
        assert access_ok(request_of(lane, GOOD | {"userspace_addr": hva, "memory_size": size})) is ok


class TestClassify:
    """What a good request asks for."""

    @pytest.mark.parametrize(
        ("fields", "change"),
        [
            (GOOD, "create"),
            (LIVE, "unchanged"),
            (LIVE | {"flags": 1}, "flags_only"),
            (LIVE | {"guest_phys_addr": 80 * P}, "move"),
            (LIVE | {"guest_phys_addr": 80 * P, "flags": 1}, "move"),
            (LIVE | {"memory_size": 0}, "delete"),
            (LIVE | {"memory_size": 0, "flags": 1, "guest_phys_addr": 0, "userspace_addr": P}, "delete"),
            (LIVE | {"guest_phys_addr": 17 * P}, "move"),
            (LIVE | {"slot": 1 | 1 << 16}, "create"),
            (GOOD | {"userspace_addr": hva_of(1)}, "create"),
            (GOOD | {"userspace_addr": 0}, "create"),
        ],
    )
    def test_change(self, fields: dict[str, Any], change: str) -> None:
        """Size 0 deletes, another base moves whatever the flags, and a slot may move onto itself or share its memory."""
        lane = lane_for("6.12.117", {})
        assert kvm_set_memory_region(request_of(lane, fields)) == (0, change, "")


class TestRememberedAnswers:
    """What the arguments alone decide is worked out once."""

    def test_are_those_of_the_rows(self) -> None:
        """For each release, kind of VM, life of the VM and argument, in any order, and asked again."""
        lanes = [lane_for(release, {"vm_type": kind}) for release in ("6.1", "6.8", "6.12.117", "6.18.44") for kind in (0, 1)]
        changes: list[dict[str, Any]] = [
            {},
            {"flags": 4},
            {"flags": 8},
            {"flags": 2},
            {"fault": True},
            {"foreign_mm": True},
            {"region2": True},
            {"slot": 1 << 16},
            {"slot": 0x7FFF},
            {"memory_size": 1},
            {"memory_size": 1 << 44},
            {"guest_phys_addr": 1},
            {"guest_phys_addr": (1 << 64) - P},
            {"userspace_addr": 1 << 47},
            {"flags": 4, "guest_memfd_offset": 1, "region2": True},
        ]
        named = set()
        for dead, _again in itertools.product((False, True), range(2)):
            for lane, change, internal in itertools.product(lanes, changes, (False, True)):
                lane.vm.vm_bugged = dead
                request = request_of(lane, GOOD | change, internal=internal)
                row = (None if internal else refusal(request, "ioctl")) or refusal(request, "region")
                assert refused_by_arguments(request) is row
                named.add("" if row is None else row.name)
        assert len(named) > 8


class TestInternalRequests:
    """The kernel's own slots pass by the checks of the ioctl."""

    def test_skip_the_entry(self) -> None:
        """A dead VM, a foreign mm and an internal id do not matter; alignment does."""
        lane = lane_for("6.12.117", {})
        lane.vm.vm_bugged = True
        good = GOOD | {"slot": 32766, "foreign_mm": True}
        assert refusing(request_of(lane, good, internal=True)) == []
        assert refusal(request_of(lane, good | {"guest_phys_addr": 1}, internal=True), "region") is not None

    def test_id_out_of_range(self) -> None:
        """32767 is no id, even for the kernel."""
        lane = lane_for("6.12.117", {})
        assert refusing(request_of(lane, GOOD | {"slot": 32767}, internal=True)) == ["no such address space or id"]

    @pytest.mark.parametrize(("release", "exempt"), [("6.13", False), ("6.14", True)])
    def test_size_exemption(self, release: str, *, exempt: bool) -> None:
        """From 6.14 on internal slots may have more pages than others."""
        lane = lane_for(release, {})
        huge = GOOD | {"slot": 32766, "memory_size": 2**31 * P, "userspace_addr": Hva(0), "guest_phys_addr": Gpa(64 * P)}
        assert refusing(request_of(lane, huge, internal=True)) == ([] if exempt else ["more pages than a slot can have"])


class TestGuestMemfdBind:
    """The guest_memfd itself is not modelled: its bind fails as recorded."""

    @pytest.mark.parametrize(("recorded", "ret"), [(-9, -9), (-22, -22), (0, 0), (None, 0), (-12, 0)])
    def test_as_recorded(self, recorded: int | None, ret: int) -> None:
        """A recorded failure that no check explains is the bind's; -ENOMEM is left to the model. Nothing is kept."""
        lane = lane_for("6.12.117", {"vm_type": 1})
        fields = MEMFD | {"slot": 4, "guest_phys_addr": 64 * P}
        outcome = lane.do(MemslotSet(vm=0, ret=recorded, **fields))
        assert outcome.ret == ret
        assert outcome.why == ("guest_memfd bind" if ret else "")
        assert len(outcome.taken) - len(outcome.freed) == (0 if ret else 3)

    @pytest.mark.parametrize("region2", [False, True])
    def test_recorded_failure_of_an_ordinary_slot_is_not_believed(self, *, region2: bool) -> None:
        """Without GUEST_MEMFD the model decides alone, whichever call it was."""
        lane = lane_for("6.12.117", {})
        assert lane.do(MemslotSet(vm=0, ret=-22, region2=region2, **GOOD)).ret == 0
        again = {"slot": 10, "guest_phys_addr": 96 * P, "region2": region2, "bind_errno": -22}
        assert kvm_set_memory_region(request_of(lane, GOOD | again)) == (0, "create", "")

    @pytest.mark.parametrize("offset", [1, (1 << 64) - P])
    def test_offset_counts_with_the_flag_alone(self, offset: int) -> None:
        """An offset that no guest_memfd could have is not looked at without GUEST_MEMFD."""
        lane = lane_for("6.12.117", {"vm_type": 1})
        wrong = {"region2": True, "guest_memfd_offset": offset}
        assert refusing(request_of(lane, GOOD | wrong)) == []
        assert refusing(request_of(lane, GOOD | wrong | {"flags": 4})) == ["guest_memfd_offset unaligned or wraps"]
