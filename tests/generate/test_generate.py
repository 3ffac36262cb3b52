"""Promises of synthetic recordings: exact length, the same bytes everywhere, valid by the model, rates of the captures."""

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from generate_page import PAGE, page
from rates import Rates, quantiles

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.analyses.info import info_of
from replay.cli import main
from replay.cli.verbs.generate import PROFILE_NAMES
from replay.engine.lanes import make_lanes
from replay.errors import UsageError
from replay.events import Event, MemslotSet, VmCreate
from replay.generate import PROFILES, generated, measured, profile_named
from replay.generate.dice import Dice
from replay.generate.qemu import BOOT, RESET
from replay.header import Trailer
from replay.recording import Writer
from replay.runs import Run, events_of

ROOT = PAGE.parent.parent
REAL = ROOT / "recordings" / "real"
NAMES = [profile.name for profile in PROFILES]
DIGEST = "49be4a1e77ee8810d373894ccdf23b3d77c1db2ef5fa5e97863554be21c05b95"
"""Of `mixed`, 3,000 events, seed 7: the same on every machine. A change of the generator changes it, and its version."""


def digest(name: str, events: int, seed: int, folder: Path) -> str:
    """Return the digest of a recording without compression."""
    stream = generated(profile_named(name), events, seed)
    path = folder / "made.kvmr"
    with Writer(path, stream.header, overwrite=True) as writer:
        for item in stream.items():
            writer.write(item)
        writer.finish(Trailer())
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestDice:
    """Numbers are those of SplitMix64, one by one or many at once."""

    def test_known_numbers(self) -> None:
        """The first numbers of a known state are those of the published algorithm, cut to a range."""
        dice = Dice(0)
        dice._state = 0
        assert [dice.below(1 << 32) for _ in range(3)] == [0xE220A839, 0x6E789E6A, 0x06C45D18]

    @pytest.mark.parametrize("limit", [1, 2, 6, 1000, (1 << 32) - 5])
    def test_many_is_one_by_one(self, limit: int) -> None:
        """An array of draws is the same draws, and the next draw follows on."""
        one, many = Dice(9, 3), Dice(9, 3)
        assert [one.below(limit) for _ in range(100)] == many.many(100, limit).tolist()
        assert one.below(1 << 30) == many.below(1 << 30)

    def test_parts_differ(self) -> None:
        """Parts of a seed, and seeds, are streams of their own."""
        streams = [tuple(Dice(seed, part).many(4, 1 << 32).tolist()) for seed in range(8) for part in range(8)]
        assert len(set(streams)) == 64


class TestLength:
    """A recording has as many events as were ordered."""

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("events", [1, 2, 777])
    def test_is_exact(self, name: str, events: int) -> None:
        """Neither more nor less, and the beginning of a longer one is the shorter one unless VMs must live longer."""
        stream = generated(profile_named(name), events, 5)
        found = list(events_of(stream.items()))
        assert len(found) == events
        assert found == list(events_of(generated(profile_named(name), 1000, 5).items()))[:events]
        assert stream.vms + stream.hot_events <= events

    def test_times_go_forward(self) -> None:
        """No event is earlier than the one before it."""
        times = [event.time_ns or 0 for event in events_of(generated(profile_named("mixed"), 4000, 2).items())]
        assert times == sorted(times)
        assert times[0] < times[-1]

    def test_numbers_of_vms_last(self) -> None:
        """A recording of many million events needs no more VMs than there are numbers: they live longer instead."""
        stream = generated(profile_named("qemu-boot"), 10**9, 1)
        first = (event for event, _ in zip(events_of(stream.items()), range(70_000), strict=False))
        vms = [event for event in first if isinstance(event, VmCreate)]
        assert len(vms) <= 2 + 70_000 * 2 // (10**9 // (1 << 15))

    @pytest.mark.parametrize(
        "order", [{"events": 0}, {"seed": -1}, {"seed": 1 << 64}, {"vms": 5000}, {"address_bits": 31}, {"address_bits": 48}]
    )
    def test_out_of_range(self, order: dict[str, int]) -> None:
        """Numbers out of range are refused."""
        with pytest.raises(UsageError):
            generated(PROFILES[0], **{"events": 10, "seed": 1, **order})

    def test_unknown_profile(self) -> None:
        """A profile that is not there is refused with the names of those that are."""
        with pytest.raises(UsageError, match="qemu-boot"):
            profile_named("boot")


class TestSameEverywhere:
    """The same order gives the same bytes."""

    def test_pinned(self, tmp_path: Path) -> None:
        """These bytes are known: any machine, release of Python and of numpy must give them."""
        assert digest("mixed", 3000, 7, tmp_path) == DIGEST

    def test_other_hash_seeds(self, tmp_path: Path) -> None:
        """Another process with another hash seed writes the same file through the command line."""
        files = []
        for hash_seed in ("0", "12345"):
            target = tmp_path / f"{hash_seed}.kvmr"
            command = [sys.executable, "-m", "replay", "generate", "mixed", "-o", str(target), "--events", "3000", "--seed", "7"]
            subprocess.run(command, cwd=ROOT, check=True, env={"PYTHONHASHSEED": hash_seed}, capture_output=True)
            files.append(hashlib.sha256(target.read_bytes()).hexdigest())
        assert files == [DIGEST, DIGEST]

    def test_seeds_differ(self, tmp_path: Path) -> None:
        """Another seed is another recording."""
        assert len({digest("nested", 500, seed, tmp_path) for seed in range(4)}) == 4


class TestValid:
    """The model agrees with every result, and compare finds what one expects of the profile."""

    @pytest.mark.parametrize("name", NAMES)
    def test_check_agrees(self, name: str) -> None:
        """Results are checked, and all agree; no counter under- or overflows."""
        stream = generated(profile_named(name), 1500, 7)
        report = check(stream)
        assert report.checked >= 8
        assert report.mismatch_count == 0
        lane = compare(stream, make_lanes(["eager", "on-demand"], stream.header.machine)).lanes[0]
        assert lane.warnings == ()

    @pytest.mark.parametrize("name", NAMES)
    def test_compare(self, name: str) -> None:
        """Where tdp is on the policies differ in bytes only, where it is off not at all."""
        stream = generated(profile_named(name), 1500, 7)
        report = compare(stream, make_lanes(["eager", "on-demand"], stream.header.machine))
        expected = ("same", "") if name == "shadow" else ("divergence", "bytes-only")
        assert (report.verdict, report.pairs[0].strongest) == expected
        assert report.uncertainties == ()

    def test_mixed_holds_everything(self) -> None:
        """The mix has calls, shadow pages and external tracking of several VMs."""
        stream = generated(profile_named("mixed"), 6000, 7)
        info = info_of(stream.items(), stream.header, stream.trailer())
        assert info.vms >= 6
        assert min(info.tracking.external_adds, info.tracking.shadow_pages_created, info.memslot_changes.create) > 50

    def test_gvisor_maps_all_of_it(self) -> None:
        """A sandbox's memslots cover its address space, each piece once, and the kernel takes each of them."""
        stream = generated(profile_named("gvisor"), 300, 3, vms=1, address_bits=38)
        calls = [event for event in events_of(stream.items()) if isinstance(event, MemslotSet) and not event.vm]
        assert len({event.userspace_addr for event in calls}) == len(calls) == 128
        assert check(generated(profile_named("gvisor"), 1200, 3, address_bits=47)).mismatch_count == 0


class TestMeasured:
    """The numbers are those of the captures."""

    def rates(self, name: str) -> Rates:
        """Measure a recording that comes with the project."""
        rates = Rates()
        rates.read(str(REAL / f"{name}.kvmr"))
        return rates

    @pytest.mark.parametrize(
        ("name", "row", "what"),
        [
            ("qemu-resets", measured.CALL_GAPS, "structural"),
            ("qemu-migration", measured.LOGGING_GAPS, "structural"),
            ("gvisor-echo", measured.FAULT_GAPS, "structural"),
            ("shadow-pages-roles", measured.FLIP_GAPS, "hot"),
        ],
    )
    def test_gaps(self, name: str, row: measured.Measured, what: str) -> None:
        """Quantiles of the gaps are what the table says."""
        assert row.capture == name
        assert tuple(quantiles(self.rates(name).gaps[what])) == row.quantiles

    def test_stretches(self) -> None:
        """So are those of the hot events between two structural ones."""
        stretches = [count for count in self.rates("shadow-pages-two-vms").stretches if count]
        assert tuple(quantiles(stretches)) == measured.FLIP_RUNS.quantiles

    @pytest.mark.parametrize(
        ("name", "rows", "first", "last"), [("qemu-std-vga-boot", BOOT, 10, 44), ("qemu-resets", RESET, 46, 73)]
    )
    def test_calls(self, name: str, rows: tuple[tuple[int, int, int | None, int, str], ...], first: int, last: int) -> None:
        """The rows of boot and reset are the recorded calls, one by one."""
        asked = [event for event in events_of_file(REAL / f"{name}.kvmr")[first : last + 1] if isinstance(event, MemslotSet)]
        calls = [(event.slot, event.guest_phys_addr, event.memory_size, event.flags) for event in asked]
        assert len(calls) == last - first + 1
        end = max(gpa + size for _slot, gpa, size, _flags in calls if gpa < 1 << 31)
        made = [(slot, gpa, end - gpa if size is None else size, flags) for slot, gpa, size, flags, _memory in rows]
        assert made == calls

    def test_generated_rates(self) -> None:
        """What is made after a capture has its mix: as many ups as downs, all page tables touched, the middle gap."""
        stream = generated(profile_named("shadow"), 30_000, 1)
        runs = [item for item in stream.items() if isinstance(item, Run)]
        kinds = Counter[int]()
        for run in runs:
            kinds.update(run.kinds())
        up, down = kinds.values()
        assert abs(up - down) <= 3
        assert len({gfn for run in runs for gfn in run.gfn}) == measured.TABLES.one + 3
        gaps = [later - earlier for run in runs for earlier, later in pairwise(map(int, filter(None, run.time_ns)))]
        assert set(gaps) == set(measured.TABLE_GAPS.quantiles)
        assert sorted(gaps)[len(gaps) // 2] == 19_000

    def test_page(self) -> None:
        """docs/generate.md has the table: `python tests/generate/generate_page.py` renews it."""
        assert PAGE.read_text() == page(PAGE.read_text())
        assert all(row.what in PAGE.read_text() for row in measured.MEASURED)


class TestVerb:
    """The verb writes what was ordered, or nothing."""

    def test_names(self) -> None:
        """Help knows the profiles without loading them."""
        assert tuple(NAMES) == PROFILE_NAMES

    def test_forms_agree(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A .jsonl has the events of the .kvmr; the note counts them; --machine changes the header."""
        for name in ("a.kvmr", "a.jsonl"):
            order = ["generate", "nested", "--events", "400", "--machine", "kernel_release=6.8", "-o", str(tmp_path / name)]
            assert main(order) == 0
        assert "400 events" in capsys.readouterr().err
        first, second = (list(events_of_file(tmp_path / name)) for name in ("a.kvmr", "a.jsonl"))
        assert first == second
        assert len(first) == 400
        assert '"kernel_release": "6.8"' in (tmp_path / "a.jsonl").read_text()

    def test_existing_file_stays(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that is there is not replaced, and bad numbers leave none behind."""
        target = tmp_path / "a.kvmr"
        target.write_text("mine")
        assert main(["generate", "nested", "--events", "4", "-o", str(target)]) == 2
        assert target.read_text() == "mine"
        assert main(["generate", "nested", "--events", "4", "--vms", "-1", "-o", str(tmp_path / "b.kvmr")]) == 2
        assert [path.name for path in tmp_path.iterdir()] == ["a.kvmr"]
        assert capsys.readouterr().out == ""


def events_of_file(path: Path) -> list[Event]:
    """Return the events of a recording."""
    from replay.sources import open_stream

    return list(events_of(open_stream([str(path)]).items()))
