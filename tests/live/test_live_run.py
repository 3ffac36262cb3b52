"""Promises of a live run, on a stand-in for the kernel: honest ones are agreed with, every lie is found, nothing stays behind."""

from typing import Any

import attrs
import pytest
from fake_kernel import FILES, RELEASE, FakeKernel, FakeVm, Lie

from replay.analyses.check import Checker, check
from replay.analyses.check_report import CheckReport
from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    Event,
    IdentityMapSet,
    MemslotSet,
    NrMmuPagesSet,
    Observe,
    ObservedArea,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.header import Header
from replay.live.book import METADATA_BYTES_MAX, SLOT_PAGES_MAX
from replay.live.probe import probe_device
from replay.live.run import LiveRun
from replay.live.uapi import Argument
from replay.sources.vmallocinfo import Areas
from replay.units import PAGE_SIZE_BYTES


def live(kernel: FakeKernel, *, seed: int = 1, operations: int = 1000, vms_max: int = 2) -> LiveRun:
    """Return a run on a kernel, with the facts of it that can be found out."""
    machine, _origins = probe_device(kernel, RELEASE, FILES.get)
    return LiveRun(kernel, Header(machine=machine), seed=seed, operations=operations, vms_max=vms_max)


def compared(kernel: FakeKernel, **more: int) -> CheckReport:
    """Run and compare."""
    run = live(kernel, **more)
    return check(run)


def counts(report: CheckReport) -> dict[str, tuple[int, int]]:
    """Return what was compared and how much of it agreed, by kind."""
    return {facet.name: (facet.checked, facet.agreed) for facet in report.facets}


class TestHonest:
    """A kernel that keeps its rules is agreed with in all."""

    @pytest.mark.parametrize("seed", range(6))
    def test_agrees(self, seed: int) -> None:
        """Results and allocations agree, with many comparisons of each."""
        report = compared(FakeKernel(), seed=seed)
        assert [mismatch.what for mismatch in report.mismatches] == []
        assert report.agreed == report.checked > 1700
        assert set(counts(report)) == {"results of calls", "allocations by site"}

    def test_without_areas(self) -> None:
        """Where allocations can not be seen, results are compared alone, and none is said to be."""
        report = compared(FakeKernel(areas=False))
        assert set(counts(report)) == {"results of calls"}
        assert report.status() == 0

    def test_all_kinds(self) -> None:
        """A long run makes every kind of call, each both succeeding and failing where it can."""
        seen: dict[type[Event], set[bool]] = {}
        for event in live(FakeKernel(), operations=3000).items():
            ret = getattr(event, "ret", None)
            seen.setdefault(type(event), set()).update([] if ret is None else [ret >= 0])
        both = {MemslotSet, DirtyLogGet, DirtyLogClear, IdentityMapSet, NrMmuPagesSet, TssSet, VcpuCreate, VmCreate, VmEnableCap}
        assert {kind for kind, results in seen.items() if results == {True, False}} >= both
        assert {VmDestroy, Observe} <= set(seen)

    def test_foreign_calls(self) -> None:
        """Some calls come from another mm, and are EIO whatever else is wrong with them."""
        events = [event for event in live(FakeKernel()).items() if getattr(event, "foreign_mm", False)]
        assert len(events) > 5
        assert {getattr(event, "ret", None) for event in events} == {-5}

    def test_several_vms(self) -> None:
        """As many VMs as allowed are there at a time, and no more; each has its own slots."""
        for vms_max in (1, 3):
            alive, most = 0, 0
            for event in live(FakeKernel(), vms_max=vms_max).items():
                alive += isinstance(event, VmCreate) and (event.ret or 0) >= 0
                alive -= isinstance(event, VmDestroy)
                most = max(most, alive)
            assert (alive, most) == (0, vms_max)


class TestSeed:
    """The seed decides the run."""

    def test_same_seed(self) -> None:
        """The same seed on the same kernel is the same recording, another seed another one."""
        assert list(live(FakeKernel()).items()) == list(live(FakeKernel()).items())
        assert list(live(FakeKernel()).items()) != list(live(FakeKernel(), seed=2).items())

    def test_shorter_run(self) -> None:
        """A shorter run is the beginning of a longer one, up to the closing of all at its end."""
        short, long = list(live(FakeKernel(), operations=50).items()), list(live(FakeKernel(), operations=100).items())
        same = next(index for index, (a, b) in enumerate(zip(short, long, strict=False)) if a != b)
        assert same > 80
        assert sum(not isinstance(event, (Observe, VmDestroy)) for event in short[same:]) == 0

    def test_stop(self) -> None:
        """A run that is told that it is enough closes all and says how far it came."""
        run = live(FakeKernel())
        run.stop = lambda: run.operations >= 10
        events = list(run.items())
        assert run.operations == 10
        assert isinstance(events[-2], VmDestroy)


class TestBounds:
    """A run takes little of the kernel and gives all back."""

    @pytest.mark.parametrize("seed", range(4))
    def test_memory(self, seed: int) -> None:
        """The arrays of all slots, both sets of a MOVE included, stay below 64 MiB, and come near enough to mean something."""
        kernel = FakeKernel()
        list(live(kernel, seed=seed, operations=3000, vms_max=4).items())
        assert (8 << 20) < kernel.pages_most * PAGE_SIZE_BYTES <= METADATA_BYTES_MAX

    def test_slot_sizes(self) -> None:
        """No slot is created with more pages than said, and the largest needs a page-pointer array for its counters."""
        runs = [live(FakeKernel(), seed=seed, operations=2000) for seed in range(4)]
        made = [event for run in runs for event in run.items() if isinstance(event, MemslotSet) and event.ret == 0]
        assert max(event.memory_size // PAGE_SIZE_BYTES for event in made) == SLOT_PAGES_MAX

    def test_nothing_stays(self) -> None:
        """At the end every descriptor is closed and every area is gone, and the last observation says so."""
        kernel = FakeKernel()
        *_events, last = live(kernel).items()
        assert (kernel.open_fds, kernel.areas()) == (0, {})
        assert isinstance(last, Observe)

    def test_abandoned(self) -> None:
        """A reader that goes away leaves no VM behind."""
        kernel = FakeKernel()
        items = live(kernel).items()
        for _ in range(60):
            next(items)
        assert kernel.open_fds
        items.close()
        assert (kernel.open_fds, kernel.areas()) == (0, {})


def on_region(rule: str) -> Lie:
    """Return a lie about a memslot request."""

    def lie(vm: FakeVm, request: int, fields: Any) -> int | None:
        if request not in (0x4020AE46, 0x40A0AE49) or fields == 0:
            return None
        slot, flags, gpa, size, _hva = fields[:5]
        old = vm.slots.get(slot)
        move = old is not None and size == old["size"] and gpa != old["gpa"]
        lies = {
            "every delete fails": -16 if size == 0 and old else None,
            "overlap is EINVAL": -22 if _overlaps(vm, slot, gpa, size) and not gpa % 4096 and not size % 4096 else None,
            "moves are not supported": -95 if move else None,
            "unaligned sizes are fine": 0 if size % 4096 and slot < 32764 and not old else None,
            "no READONLY": -22 if flags == 2 and not old and size else None,
        }
        return lies[rule]

    return lie


def _overlaps(vm: FakeVm, slot: int, gpa: int, size: int) -> bool:
    return slot not in vm.slots and any(
        other["gpa"] < gpa + size and gpa < other["gpa"] + other["size"] for other in vm.slots.values()
    )


def on_call(number: int, ret: int) -> Lie:
    """Return a lie about one kind of call."""
    return lambda _vm, request, _fields: ret if request == number else None


class Leaky(FakeKernel):
    """A kernel whose readings of /proc/vmallocinfo are changed by a rule."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.leaked: dict[bytes, tuple[str, int]] = {}

    def ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Answer honestly, and leak where the rule says so."""
        ret = super().ioctl(fd, request, argument)
        if self.rule == "a refused call leaks" and ret == -17:
            self.leaked[b"leak %d" % len(self.leaked)] = ("memslot_rmap_alloc", 1)
        return ret

    def areas(self) -> Areas | None:
        """Return the areas as the rule has them."""
        found = super().areas() or {}
        if self.rule == "no write tracking":
            return {place: area for place, area in found.items() if area[0] != "kvm_page_track_create_memslot"}
        if self.rule == "another function":
            renamed = {"kvm_set_memslot": "kvm_alloc_dirty_bitmap"}
            return {place: (renamed.get(area[0], area[0]), area[1]) for place, area in found.items()}
        if self.rule == "a page more":
            return {place: (area[0], area[1] + (area[1] > 512)) for place, area in found.items()}
        return {**found, **self.leaked}


class TestLies:
    """Every wrong answer is found, with the place where the model has its rule."""

    @pytest.mark.parametrize(
        ("rule", "expected", "observed"),
        [
            ("every delete fails", "0", "-EBUSY"),
            ("overlap is EINVAL", "-EEXIST", "-EINVAL"),
            ("moves are not supported", "0", "-EOPNOTSUPP"),
            ("unaligned sizes are fine", "-EINVAL", "0"),
            ("no READONLY", "0", "-EINVAL"),
        ],
    )
    def test_memslots(self, rule: str, expected: str, observed: str) -> None:
        """A lie about memslots."""
        found = compared(FakeKernel(on_region(rule)), operations=2000).mismatches
        assert found[0].what == "memslot.set"
        assert "kvm_main.c" in found[0].source
        assert (expected, observed) in {(mismatch.expected, mismatch.observed) for mismatch in found}

    @pytest.mark.parametrize(
        ("number", "what"),
        [
            (0x4010AE42, "dirty_log.get"),
            (0xC018AEC0, "dirty_log.clear"),
            (0xAE44, "nr_mmu_pages.set"),
            (0xAE47, "tss.set"),
            (0x4008AE48, "identity_map.set"),
            (0x4068AEA3, "vm.enable_cap"),
        ],
    )
    def test_other_calls(self, number: int, what: str) -> None:
        """A lie about another call, which touches nothing else."""
        report = compared(FakeKernel(on_call(number, -1)))
        assert report.mismatch_count > 3
        assert {mismatch.what for mismatch in report.mismatches} == {what}

    @pytest.mark.parametrize("rule", ["a refused call leaks", "no write tracking", "another function", "a page more"])
    def test_allocations(self, rule: str) -> None:
        """Memory that is not what the model says, while every result is right."""
        report = compared(Leaky(rule), operations=2000)
        assert {mismatch.what for mismatch in report.mismatches} == {"areas"}
        checked, agreed = counts(report)["results of calls"]
        assert checked == agreed > 1000

    def test_another_mm(self) -> None:
        """A kernel that lets another mm in."""

        class Open(FakeKernel):
            def child_ioctl(self, fd: int, request: int, argument: Argument) -> int:
                return self.ioctl(fd, request, argument)

        report = compared(Open(), operations=2000)
        assert {mismatch.rule for mismatch in report.mismatches} >= {"foreign mm or dead VM"}


class TestForesees:
    """Whether an observation fits can be asked before it is taken."""

    def test_before_it_is_taken(self) -> None:
        """It agrees with what taking it finds, and changes nothing."""
        run = live(FakeKernel(), operations=200)
        checker = Checker(run.header)
        stray = ObservedArea("memslot_rmap_alloc", 1, 1, 0, 0)
        asked = 0
        for event in run.items():
            if isinstance(event, Observe):
                assert event.areas is not None
                assert checker.foresees(event)
                assert not checker.foresees(attrs.evolve(event, areas=(*event.areas, stray)))
                assert checker.foresees(attrs.evolve(event, areas=None))
                asked += 1
            checker.take(event)
        assert asked > 150
        assert checker.mismatch_count == 0
