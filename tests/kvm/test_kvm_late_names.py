"""Promises of what is named, kept or grouped late: asked for first, or never met before, it is the same."""

from typing import Any

import pytest
from lane import LAZY, Lane, P

from replay.events import MemslotSet, VmCreate
from replay.kvm import bulk_columns, slots_by_gfn
from replay.kvm.allocator import Parts
from replay.kvm.machine import Machine
from replay.kvm.policies import EAGER_6_6
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.requests import Requests
from replay.recording import frame_heads
from replay.recording.frame_heads import Head
from replay.units import Gpa, Hva


def slot(number: int, gfn: int, pages: int) -> MemslotSet:
    """Return a call that makes a memslot."""
    places: dict[str, Any] = {"guest_phys_addr": Gpa(gfn * P), "memory_size": pages * P, "userspace_addr": Hva(1 << 32)}
    return MemslotSet(vm=0, slot=number, **places)


class TestLate:
    """What is made when somebody asks."""

    @pytest.mark.parametrize("first", ["lpage_info", "rmap", "gfn_write_track"])
    def test_whichever_is_asked_for_first(self, first: str) -> None:
        """Arrays of a memslot have the same names, whichever of them is asked for first."""
        found = []
        for names in ((first, "rmap", "lpage_info", "gfn_write_track"), ("rmap", "gfn_write_track", "lpage_info")):
            machine = Machine(EAGER_6_6, Profile(release=Release(6, 8, 0), config_external_write_tracking=True, tdp=False))
            machine.step(VmCreate(vm=0, ret=0), 0)
            machine.step(slot(0, 0, 512), 1)
            arch = next(iter(machine.vms[0].slots())).arch
            read = {name: getattr(arch, name) for name in names}
            found.append([read[name] for name in ("rmap", "lpage_info", "gfn_write_track")])
        assert found[0] == found[1]
        assert len(found[0][1]) == 2
        assert None not in found[0][1]

    def test_requests_forgotten(self) -> None:
        """Requests that are forgotten are made again, and are the same."""
        asked, lane = slot(0, 0, 8), Lane(LAZY)
        requests = Requests()
        first = requests.of(asked, lane.vm)
        assert requests.of(asked, lane.vm) is first
        requests.clear()
        again = requests.of(asked, lane.vm)
        assert again is not first
        assert (again.as_id, again.npages, again.base_gfn) == (first.as_id, first.npages, first.base_gfn)

    def test_parts_free_nothing(self) -> None:
        """Memory that only comes frees nothing."""
        assert Parts((), 0).freed(None, None) == []

    def test_no_rows_are_no_groups(self) -> None:
        """Of no rows numpy makes no groups either."""
        assert bulk_columns.groups([], [[1, 2]]) == []

    @pytest.mark.parametrize("most", [0, 1 << 10])
    @pytest.mark.parametrize(
        ("gfn", "pages", "fits"), [(0, 8, False), (15, 1, False), (16, 4, True), (12, 8, False), (99, 1, True)]
    )
    def test_room(self, most: int, gfn: int, pages: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A memslot finds room between others, or none, whether these are few or many."""
        monkeypatch.setattr(slots_by_gfn, "LISTED_MOST", most)
        lane = Lane(LAZY)
        assert [lane.do(slot(number, base, 8)).ret for number, base in enumerate((0, 8, 20, 40))] == [0] * 4
        assert (lane.do(slot(9, gfn, pages)).ret == 0) == fits


class TestHeads:
    """Heads of frames that are known."""

    def test_frames_of_many_lengths(self) -> None:
        """Constant columns are as long as the frame, also when more lengths came than are kept."""
        head = Head((), (), (), (("vm", 3),), plain=True)
        for turn in range(2):
            for rows in range(1, 2 * frame_heads._LENGTHS_MOST):
                column = head.columns(rows)["vm"]
                assert (len(column), column[0]) == (rows, 3), turn
        assert len(head.by_length) <= frame_heads._LENGTHS_MOST
