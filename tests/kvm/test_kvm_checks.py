"""Every check of a memslot request refuses alone, and the earlier one wins where two refuse."""

import itertools
from collections import Counter
from typing import Any

import pytest
import slow_region
from lane import LAZY, Lane, P, hva_of

from replay.events import MemslotSet
from replay.kvm.memory_region import (
    CHECKS,
    DELETE,
    MOVE,
    Request,
    access_ok,
    classify,
    refusal,
    refused_by_arguments,
    valid_flags,
)
from replay.kvm.set_memslot import kvm_set_memory_region
from replay.units import Gpa, Hva, errno_name

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

GOOD: dict[str, Any] = {"slot": 9, "guest_phys_addr": 64 * P, "memory_size": 4 * P, "userspace_addr": hva_of(9)}
LIVE: dict[str, Any] = {"slot": 1, "guest_phys_addr": 16 * P, "memory_size": 4 * P, "userspace_addr": hva_of(1)}
MEMFD: dict[str, Any] = {**LIVE, "slot": 2, "guest_phys_addr": 32 * P, "userspace_addr": hva_of(2), "flags": 4, "region2": True}

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


def lane_for(release: str, state: dict[str, Any]) -> Lane:
    """Return a lane with slots at gfns 16-19 and 48-51, with guest_memfd one at 32-35, and the state that a row needs."""
    lane = Lane(LAZY, release=release, vm_type=state.get("vm_type", 0))
    assert lane.do(MemslotSet(vm=0, **LIVE)).ret == 0
    assert lane.set(3, base=48).ret == 0
    if state.get("vm_type") == 1 and release != "6.1":
        assert lane.do(MemslotSet(vm=0, **MEMFD)).ret == 0
    lane.vm.nr_memslot_pages = state.get("nr_memslot_pages", lane.vm.nr_memslot_pages)
    return lane


def request_of(lane: Lane, fields: dict[str, Any], *, internal: bool = False) -> Request:
    """Return a request, not yet looked up; region2 None: the newest call that the kernel has."""
    newest = {"region2": lane.vm.profile.release.at_least(6, 8)} if fields.get("region2", False) is None else {}
    return Request(lane.vm, **({"flags": 0, "internal": internal} | fields | newest))


def refusing(request: Request) -> list[str]:
    """Return every row on the request's way that refuses it, as if each were alone."""
    stages = ["region"] if request.internal else ["ioctl", "region"]
    if request.as_id < request.vm.nas:
        request.old = request.vm.spaces[request.as_id].by_id(request.id)
        change = classify(request)
        later = {DELETE: ["delete"], "create": ["create", "place"], MOVE: ["change", "place"]}
        stages += later.get(change, ["change"])
    return [row.name for row in CHECKS if row.stage in stages and row.applies(request.release) and row.refuses(request)]


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

    def test_recorded_failure_of_an_ordinary_slot_is_not_believed(self) -> None:
        """Without GUEST_MEMFD the model decides alone."""
        assert lane_for("6.12.117", {}).do(MemslotSet(vm=0, ret=-22, **GOOD)).ret == 0
