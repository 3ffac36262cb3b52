"""Hold recordings of real VMMs against what their captures hold; what policies make of them is in their golden files."""

import json
from typing import Any

import attrs
import pytest
from captured import QUESTIONS, REAL, RECORDINGS

from replay.analyses.compare import compare
from replay.analyses.info import info_of
from replay.engine.lanes import make_lanes
from replay.golden.parsed import parse
from replay.kvm.profile import parse_facts
from replay.recording import open_recording


@attrs.frozen
class Expected:
    """Counts of one capture, made from the same traces by another tool, and by hand where that tool is known to be wrong."""

    create: int
    delete: int = 0
    flags_only: int = 0
    move: int = 0
    failed: int = 0
    slots_peak: int = 0
    peak_kib: int = 0
    total_kib: int = 0


EXPECTED: dict[str, Expected] = {
    "gvisor-echo": Expected(6, slots_peak=6, peak_kib=6144, total_kib=6144),
    "qemu-std-vga-boot": Expected(22, 13, slots_peak=9, peak_kib=164, total_kib=712),
    "qemu-smp4-boot": Expected(18, 12, slots_peak=6, peak_kib=148, total_kib=692),
    "qemu-isapc-boot": Expected(8, 3, slots_peak=5, peak_kib=48, total_kib=88),
    "qemu-ovmf-boot": Expected(9, 3, slots_peak=6, peak_kib=148, total_kib=408),
    "qemu-microvm-boot": Expected(5, 1, slots_peak=4, peak_kib=140, total_kib=268),
    "qemu-migration": Expected(22, 13, 8, slots_peak=9, peak_kib=164, total_kib=712),
    "qemu-savevm": Expected(27, 18, 32, slots_peak=9, peak_kib=100, total_kib=416),
    "qemu-resets": Expected(52, 43, slots_peak=9, peak_kib=164, total_kib=1588),
    "qemu-dimm-hotplug": Expected(20, 12, slots_peak=8, peak_kib=340, total_kib=884),
    "qemu-16g-boot": Expected(30, 25, slots_peak=10, peak_kib=8228, total_kib=15452),
    "qemu-killed": Expected(12, 9, slots_peak=6, peak_kib=148, total_kib=544),
    "strace-killed": Expected(13, 9, slots_peak=6, peak_kib=148, total_kib=552),
    # fds that dup() and fcntl() made are the same VM: one slot is deleted through another fd than it was created by.
    "fd-dup": Expected(3, 1, slots_peak=2, peak_kib=8, total_kib=12),
    # 23 calls fail: 20 with EINVAL, EEXIST, EFAULT (which has no struct to count) and EBADF; two MOVEs allocate anew.
    "fd-errors": Expected(5, 0, 2, 2, 23, slots_peak=5, peak_kib=20, total_kib=28),
    "fd-fork": Expected(2, failed=1, slots_peak=2, peak_kib=8, total_kib=8),
    "fd-many": Expected(4000, 2000, slots_peak=4000, peak_kib=16000, total_kib=16000),
    # Two VMs behind one fd number, one slot each; the calls between them find /dev/null and a closed fd.
    "fd-reuse": Expected(2, failed=2, slots_peak=1, peak_kib=4, total_kib=8),
    "fd-scm": Expected(1, failed=2, slots_peak=1, peak_kib=4, total_kib=4),
    "fd-sigkill-held": Expected(2, failed=1, slots_peak=2, peak_kib=40, total_kib=40),
    "fd-threads": Expected(240, 240, slots_peak=6, peak_kib=24, total_kib=960),
    "region2": Expected(0),
    "shadow-pages-unsync": Expected(1, slots_peak=1, peak_kib=32, total_kib=32),
}
CUT_OR_UNSEEN = {"shadow-pages-roles", "shadow-pages-two-vms", "qemu-attached-late"}
"""Recordings whose whole capture is not in the repository, or whose past nobody saw."""


def info_json(name: str) -> Any:
    """Return what `info` holds of a recording."""
    with open_recording(str(REAL / f"{name}.kvmr")) as stream:
        items = list(stream.items())
        return info_of(iter(items), stream.header, stream.trailer())


class TestCounts:
    """Recordings hold what the captures hold."""

    def test_table_names_every_recording(self) -> None:
        """No recording goes unchecked."""
        assert {real.name for real in RECORDINGS} == set(EXPECTED) | CUT_OR_UNSEEN
        assert len(EXPECTED) == 23

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_memslot_changes(self, name: str) -> None:
        """Creates, deletes, flag changes, moves, failures and live slots are those of the capture."""
        expected = EXPECTED[name]
        info = info_json(name)
        changes = info.memslot_changes
        found = (changes.create, changes.delete, changes.flags_only, changes.move, changes.failed, info.slots_peak)
        assert found == (
            expected.create,
            expected.delete,
            expected.flags_only,
            expected.move,
            expected.failed,
            expected.slots_peak,
        )
        assert changes.unknown == 0

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_eager_write_tracking(self, name: str) -> None:
        """Eager takes the capture's bytes in whole pages, at most and in all; no lane parts from a recorded result.

        But one: a memslot at the very end of user memory, which 6.8 lets through, as it looks at the pointer's sign only.
        """
        with open_recording(str(REAL / f"{name}.kvmr")) as stream:
            lanes = make_lanes(["eager", "on-demand"], stream.header.machine, parse_facts("release=6.8,config=y"))
            report = compare(stream, lanes)
        eager = report.lanes[0].write_track
        assert (eager.charged_peak_bytes, eager.charged_total_bytes) == (
            EXPECTED[name].peak_kib * 1024,
            EXPECTED[name].total_kib * 1024,
        )
        horizons = [lane.horizon and (lane.horizon.event, lane.horizon.recorded, lane.horizon.model) for lane in report.lanes]
        assert horizons == [(29, -22, 0) if name == "fd-errors" else None] * 2

    def test_attached_late(self) -> None:
        """Seven deletes of memslots that the recorder never saw created are known as such, two calls as unknown."""
        changes = info_json("qemu-attached-late").memslot_changes
        assert (changes.create, changes.delete, changes.delete_unseen, changes.flags_only, changes.unknown) == (14, 14, 7, 6, 2)

    def test_shortened_recordings(self) -> None:
        """Shortened recordings have as many events as said, and shadow pages in two VMs that never go below zero."""
        for name, vms in (("shadow-pages-roles", 1), ("shadow-pages-two-vms", 2)):
            info = info_json(name)
            assert info.events == 16_000
            assert info.vms == vms
            assert info.tracking.adds >= info.tracking.removes > 7_000


class TestGolden:
    """Every recording has a golden file that asks what it is there for."""

    def test_no_stray_file(self) -> None:
        """Every file belongs to a recording of the table."""
        expected = {f"{real.name}{end}" for real in RECORDINGS for end in (".kvmr", ".kvmr.golden")}
        assert {path.name for path in REAL.iterdir()} == expected
        assert len(expected) == 52

    @pytest.mark.parametrize("real", RECORDINGS, ids=lambda real: real.name)
    def test_golden(self, real: Any) -> None:
        """The golden file asks both questions; it is a test of its own, see pyproject.toml."""
        path = REAL / f"{real.name}.kvmr.golden"
        assert tuple(parse(path.read_text(), path.name).questions) == QUESTIONS

    def test_provenance(self) -> None:
        """Each recording says where it comes from, and is small."""
        for real in RECORDINGS:
            path = REAL / f"{real.name}.kvmr"
            with open_recording(str(path)) as stream:
                header = stream.header
            assert real.capture in header.provenance
            assert header.title == real.title
            assert path.stat().st_size < 1 << 20


class TestGvisorEcho:
    """The README's recording answers the README's question."""

    def test_six_mebibytes_against_none(self) -> None:
        """Six memslots of 2 GiB cost 6144 KiB under eager, none under on-demand; nothing was registered, no root was shadowed."""
        with open_recording(str(REAL / "gvisor-echo.kvmr")) as stream:
            lanes = make_lanes(["eager", "6.9"], stream.header.machine, parse_facts("release=6.8,config=y,tdp=1"))
            report = compare(stream, lanes)
        assert [lane.write_track.nominal_peak_bytes for lane in report.lanes] == [6144 * 1024, 0]
        assert report.verdict == "divergence"
        assert report.pairs[0].strongest == "bytes-only"
        assert len(report.pairs[0].findings) == 6
        counts = {count.name: count.count for count in report.never}
        assert counts["notifier registrations"] == counts["shadow roots"] == 0
        assert counts["memslot calls"] == 6

    def test_as_recorded(self) -> None:
        """On the recorded machine, with tdp off, the policies do not differ, and the report says why."""
        with open_recording(str(REAL / "gvisor-echo.kvmr")) as stream:
            report = compare(stream, make_lanes(["eager", "on-demand"], stream.header.machine))
        assert report.verdict == "same"
        assert "tdp is off" in report.sentence
        assert {agreement.catalogue for agreement in report.agreements} >= {"D26", "D27"}
        assert json.dumps(report.sentence).isascii()
