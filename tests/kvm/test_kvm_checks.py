"""Every check of a memslot request refuses alone, and the earlier one wins where two refuse."""

import itertools
from collections import Counter
from typing import Any

import pytest
import slow_region
from lane import Lane, P, hva_of
from slot_requests import GOOD, LIVE, MEMFD, lane_for, refusing, request_of

from replay.events import MemslotSet
from replay.kvm.memory_region import CHECKS
from replay.kvm.set_memslot import kvm_set_memory_region
from replay.units import errno_name

RELEASES = ("6.1", "6.8", "6.12.40", "6.12.117", "6.18.44")
SINCE_6_8 = RELEASES[1:]

ORDER = (
    ("foreign mm or dead VM", "EIO"),
    ("REGION2 is not there before 6.8", "ENOTTY"),
    ("unreadable argument", "EFAULT"),
    ("flag of REGION2 in REGION", "EINVAL"),
    ("id of an internal slot", "EINVAL"),
    ("unknown flag", "EINVAL"),
    ("memory_size not page aligned", "EINVAL"),
    ("guest_phys_addr not page aligned", "EINVAL"),
    ("userspace_addr not page aligned or not user memory", "EINVAL"),
    ("guest_memfd_offset unaligned or wraps", "EINVAL"),
    ("no such address space or id", "EINVAL"),
    ("guest_phys_addr + memory_size wraps", "EINVAL"),
    ("more pages than a slot can have", "EINVAL"),
    ("delete of a slot that is not there", "EINVAL"),
    ("delete of more pages than there are", "EIO"),
    ("page count of the VM wraps", "EINVAL"),
    ("guest_memfd slot is immutable", "EINVAL"),
    ("userspace_addr or memory_size of a live slot changes", "EINVAL"),
    ("READONLY of a live slot changes", "EINVAL"),
    ("GUEST_MEMFD of a live slot changes", "EINVAL"),
    ("overlaps another slot", "EEXIST"),
)
"""The kernel's order and errno, written down apart from the table under test."""

# Row -> releases that have it, the state it needs ("vm_type", "nr_memslot_pages", "bugged"), and the request.
ALONE: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "foreign mm or dead VM": (RELEASES, {}, GOOD | {"foreign_mm": True}),
    "REGION2 is not there before 6.8": (("6.1",), {}, GOOD | {"region2": True}),
    "unreadable argument": (RELEASES, {}, GOOD | {"fault": True}),
    "flag of REGION2 in REGION": (SINCE_6_8, {"vm_type": 1}, GOOD | {"flags": 4}),
    "id of an internal slot": (RELEASES, {}, GOOD | {"slot": 32764}),
    "unknown flag": (RELEASES, {}, GOOD | {"flags": 8, "region2": None}),
    "memory_size not page aligned": (RELEASES, {}, GOOD | {"memory_size": 4 * P + 1}),
    "guest_phys_addr not page aligned": (RELEASES, {}, GOOD | {"guest_phys_addr": 64 * P + 2048}),
    "userspace_addr not page aligned or not user memory": (RELEASES, {}, GOOD | {"userspace_addr": 1}),
    "guest_memfd_offset unaligned or wraps": (
        SINCE_6_8,
        {"vm_type": 1},
        GOOD | {"flags": 4, "region2": True, "guest_memfd_offset": 1},
    ),
    "no such address space or id": (RELEASES, {}, GOOD | {"slot": 9 | 2 << 16}),
    "guest_phys_addr + memory_size wraps": (RELEASES, {}, GOOD | {"guest_phys_addr": 2**64 - P}),
    "more pages than a slot can have": (RELEASES, {}, GOOD | {"memory_size": 2**31 * P, "userspace_addr": 0}),
    "delete of a slot that is not there": (RELEASES, {}, GOOD | {"memory_size": 0}),
    "delete of more pages than there are": (RELEASES, {"nr_memslot_pages": 3}, LIVE | {"memory_size": 0}),
    "page count of the VM wraps": (RELEASES, {"nr_memslot_pages": 2**64 - 4}, GOOD),
    "guest_memfd slot is immutable": (SINCE_6_8, {"vm_type": 1}, MEMFD),
    "userspace_addr or memory_size of a live slot changes": (RELEASES, {}, LIVE | {"userspace_addr": hva_of(5)}),
    "READONLY of a live slot changes": (RELEASES, {}, LIVE | {"flags": 2}),
    "GUEST_MEMFD of a live slot changes": (("6.12.117", "6.18.44"), {"vm_type": 1}, MEMFD | {"flags": 0}),
    "overlaps another slot": (RELEASES, {}, GOOD | {"guest_phys_addr": 19 * P}),
}


class TestTable:
    """The table is the kernel's list."""

    def test_rows_in_order(self) -> None:
        """The rows have the kernel's order and errno."""
        assert [(row.name, errno_name(row.errno)) for row in CHECKS] == list(ORDER)

    def test_rows_are_sourced(self) -> None:
        """Each row says where the kernel has it."""
        assert [row.name for row in CHECKS if "kvm_main.c" not in row.source and "x86.c" not in row.source] == []

    def test_stages_come_in_order(self) -> None:
        """Rows of one stage stand together, so that the order of the table is the order of the checks."""
        assert [stage for stage, _rows in itertools.groupby(row.stage for row in CHECKS)] == [
            "ioctl",
            "region",
            "delete",
            "create",
            "change",
            "place",
        ]

    def test_every_row_has_a_case(self) -> None:
        """No row goes untested."""
        assert list(ALONE) == [row.name for row in CHECKS]


class TestEachRow:
    """For each row there is a request that it alone refuses, on each kernel that has it."""

    @pytest.mark.parametrize("release", RELEASES)
    @pytest.mark.parametrize("name", ALONE)
    def test_alone(self, name: str, release: str) -> None:
        """Exactly this row refuses, the call returns its errno, and nothing changes; kernels without the row accept."""
        releases, state, fields = ALONE[name]
        lane = lane_for(release, state)
        before = lane.generations(), lane.order(), lane.machine.allocator.number
        request = request_of(lane, fields)
        assert refusing(request) == ([name] if release in releases else self._without(name, release))
        if release in releases:
            ret, change, why = kvm_set_memory_region(request)
            assert (errno_name(ret), change, why) == (dict(ORDER)[name], "failed", name)
            assert (lane.generations(), lane.order(), lane.machine.allocator.number) == before

    def _without(self, name: str, release: str) -> list[str]:
        """Return what a kernel without the row says to its request."""
        if name in {"REGION2 is not there before 6.8", "GUEST_MEMFD of a live slot changes"} and release != "6.1":
            return []
        assert release == "6.1"
        if name == "GUEST_MEMFD of a live slot changes":
            return ["REGION2 is not there before 6.8"]
        return ["unknown flag"] if name == "flag of REGION2 in REGION" else ["REGION2 is not there before 6.8", "unknown flag"]

    def test_dead_vm(self) -> None:
        """A dead VM answers EIO to what would else succeed, also before the argument is read."""
        lane = lane_for("6.12.117", {})
        lane.vm.vm_bugged = True
        for fields in (GOOD, GOOD | {"fault": True}, LIVE):
            assert refusing(request_of(lane, fields))[0] == "foreign mm or dead VM"

    @pytest.mark.parametrize("release", ["6.12.63", "6.12.64", "6.13", "6.17.9", "6.18.2", "6.18.3", "6.19"])
    def test_guest_memfd_toggle_by_release(self, release: str) -> None:
        """Taking GUEST_MEMFD off is refused from 6.12.64 in 6.12 and from 6.18.3 on, and passes between."""
        lane = lane_for(release, {"vm_type": 1})
        refused = refusing(request_of(lane, MEMFD | {"flags": 0}))
        assert bool(refused) is (release in {"6.12.64", "6.18.3", "6.19"})


class TestOrder:
    """Where two rows refuse one request, the earlier one answers."""

    @pytest.mark.parametrize("release", RELEASES)
    def test_all_combinations(self, release: str) -> None:
        """Over all combinations of good and bad arguments the first row wins, and the slow model agrees on the errno."""
        pairs, winners, requests = self._enumerate(release)
        position = {name: index for index, (name, _errno) in enumerate(ORDER)}
        assert all(position[first] < position[second] for first, second in pairs)
        assert (requests, len(pairs), len(winners)) == COUNTS[release]

    def _enumerate(self, release: str) -> tuple[set[tuple[str, str]], Counter[str], int]:
        pairs: set[tuple[str, str]] = set()
        winners: Counter[str] = Counter()
        requests = 0
        for state in ({}, {"vm_type": 1}, {"nr_memslot_pages": 0}, {"nr_memslot_pages": 2**64 - 1}):
            lane = lane_for(release, state)
            for fields in combinations():
                request = request_of(lane, fields)
                names = refusing(request)
                if not names:
                    continue
                ret, _change, why = kvm_set_memory_region(request)
                assert why == names[0], fields
                if "nr_memslot_pages" not in state:
                    assert -ret == slow_errno(lane, fields), fields
                requests += 1
                winners[why] += 1
                pairs.update((why, other) for other in names[1:])
        return pairs, winners, requests


def combinations() -> list[dict[str, Any]]:
    """List requests made of all values that matter to some row; every seventh also from a foreign mm or unreadable."""
    values: dict[str, tuple[Any, ...]] = {
        "region2": (False, True),
        "slot": (1, 2, 9, 32764, 9 | 2 << 16, 32767 | 2 << 16),
        "flags": (0, 2, 4, 8, 10),
        "guest_phys_addr": (16 * P, 48 * P, 19 * P + 1, 2**64 - P, 2**64 - 1),
        "memory_size": (0, 1, 4 * P, 2**31 * P, 2**31 * P + 1),
        "userspace_addr": (hva_of(1), hva_of(2), 1),
        "guest_memfd_offset": (0, 1),
    }
    plain = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    entry: tuple[dict[str, Any], ...] = ({"foreign_mm": True}, {"fault": True}, {"foreign_mm": True, "fault": True})
    return plain + [fields | broken for fields in plain[::7] for broken in entry]


def slow_errno(lane: Lane, fields: dict[str, Any]) -> int:
    """Return the errno that the slow model's plain `if`s give."""
    release = lane.vm.profile.release
    facts = {"release": (release.major, release.minor, release.patch), "la57": False}
    vm = {"bugged": lane.vm.vm_bugged, "type": lane.vm.type, "nas": lane.vm.nas}
    event = MemslotSet(vm=0, **fields)
    size, gpa, hva = event.memory_size, event.guest_phys_addr, event.userspace_addr
    errno = slow_region.entry_errno(vm, facts, event)
    errno = errno or slow_region.request_errno(vm, facts, event.slot, event.flags, gpa, size, hva, event)
    if errno:
        return errno
    slots = [
        {"id": slot.id, "base": slot.base_gfn, "npages": slot.npages, "flags": slot.flags, "hva": slot.userspace_addr}
        for slot in lane.vm.spaces[event.slot >> 16]
    ]
    own = next((slot for slot in slots if slot["id"] == event.slot & 0xFFFF), None)
    others = [slot for slot in slots if slot is not own]
    answer = slow_region.change_of(vm, facts, own, others, event.flags, gpa >> 12, size >> 12, hva)
    return answer if isinstance(answer, int) else 0


COUNTS = {
    "6.1": (51352, 111, 17),
    "6.8": (51212, 137, 19),
    "6.12.40": (51212, 137, 19),
    "6.12.117": (51212, 151, 20),
    "6.18.44": (51200, 150, 20),
}
"""Requests refused, pairs (row that answered, row that would have), rows that answered: a change here is one of reach."""
