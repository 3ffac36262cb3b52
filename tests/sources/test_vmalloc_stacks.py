"""Promises of the import of vmalloc areas with their stacks."""

from pathlib import Path

import pytest

from replay.analyses.check import check
from replay.errors import EmptyError
from replay.events import AllocFail, Event, MemslotSet, Observe, ObservedArea
from replay.header import Trailer
from replay.kvm.profile import parse_facts
from replay.runs import events_of
from replay.sources import open_stream
from replay.sources.vmalloc_stacks import FREED_UNSEEN, NO_SITE, VmallocImport

REAL = Path(__file__).resolve().parent.parent / "data" / "formats" / "slots.vmalloc.txt"
FACTS = parse_facts("release=6.18,tdp=0,smm=0")
CALL = "10 7 SETMEM fd=5 slot=0 flags=0 gpa=0x0 size=0x400000 hva=0x7f3b0ca00000"


def imported(*lines: str) -> tuple[list[Event], Trailer]:
    """Import lines."""
    stream = VmallocImport(lines, name="v.txt")
    return list(events_of(stream.items())), stream.trailer()


def area(kind: str, address: int, *frames: str, size: int = 8192, failed: int = 0) -> list[str]:
    """Return the lines of one area."""
    rest = f" size={size} failed={failed} " if kind == "VMAP" else " "
    return [f"11 7 {kind} addr={address:#x}{rest}", *(f"        {frame}+123" for frame in frames), ""]


def areas(events: list[Event]) -> list[tuple[ObservedArea, ...] | None]:
    """Return the areas of all observations."""
    return [event.areas for event in events if isinstance(event, Observe)]


class TestReal:
    """A real recording."""

    def test_every_call_is_observed(self) -> None:
        """Four calls, each with what it took and gave back by function."""
        events, trailer = imported(*REAL.read_text().splitlines())
        assert sum(isinstance(event, MemslotSet) for event in events) == 4
        first, _, deletion, _ = areas(events)
        assert first == (
            ObservedArea("kvm_arch_prepare_memory_region", 2, 2, 0, 0),
            ObservedArea("kvm_page_track_create_memslot", 1, 1, 0, 0),
            ObservedArea("memslot_rmap_alloc", 3, 4, 0, 0),
        )
        assert deletion is not None
        assert sum(row.areas_freed for row in deletion) == 6
        assert sum(row.areas_added for row in deletion) == 0
        assert trailer.total("lost") + trailer.total("unknown") == 0

    def test_check_finds_the_model_right(self) -> None:
        """With the line that says when the VM was made, the model gives what the kernel allocated."""
        lines = ["1 31756 CREATE_VM ret=5", *REAL.read_text().splitlines()]
        report = check(VmallocImport(lines), FACTS)
        assert (report.checked, report.agreed, report.mismatch_count) == (8, 8, 0)

    def test_check_can_fail(self) -> None:
        """An allocation that the kernel did not make shows."""
        lines = REAL.read_text().replace("kvm_page_track_create_memslot", "memslot_rmap_alloc").splitlines()
        report = check(VmallocImport(["1 31756 CREATE_VM ret=5", *lines]), FACTS)
        assert (report.checked, report.mismatch_count) == (8, 4)

    def test_opened_by_content(self) -> None:
        """It is recognised."""
        stream = open_stream([str(REAL)])
        assert stream.header.sources[0].format == "vmalloc stacks"
        assert sum(1 for _ in stream.items()) == 9


class TestSites:
    """Which function an area is of."""

    @pytest.mark.parametrize(
        "frames",
        [
            (
                "alloc_vmap_area",
                "__get_vm_area_node",
                "__vmalloc_node_range_noprof",
                "__vmalloc_node_noprof",
                "memslot_rmap_alloc",
            ),
            (
                "alloc_vmap_area",
                "__get_vm_area_node",
                "__vmalloc_node_range",
                "__vmalloc_node",
                "vcalloc",
                "memslot_rmap_alloc.isra.0",
            ),
            ("alloc_vmap_area", "__kvmalloc_node_noprof", "__vcalloc_noprof", "memslot_rmap_alloc"),
        ],
    )
    def test_first_frame_behind_the_allocators(self, frames: tuple[str, ...]) -> None:
        """The caller of whatever the release calls its allocators."""
        events, _ = imported(CALL, *area("VMAP", 0x1000, *frames), "12 7 SETMEM_RET 0")
        assert areas(events) == [(ObservedArea("memslot_rmap_alloc", 1, 1, 0, 0),)]

    def test_no_frames(self) -> None:
        """An area without a stack makes the observation unknown."""
        events, trailer = imported(CALL, *area("VMAP", 0x1000), "12 7 SETMEM_RET 0")
        assert areas(events) == []
        assert [(counter.kind, counter.count) for counter in trailer.counters] == [(NO_SITE, 1)]

    def test_free_is_of_who_took_it(self) -> None:
        """A freed area is its taker's; one that was not seen taken makes the observation unknown."""
        taken = area("VMAP", 0x1000, "alloc_vmap_area", "kvm_page_track_create_memslot", size=12288)
        freed = area("VFREE", 0x1000, "free_vmap_area_noflush", "kvm_page_track_free_memslot")
        later = [line.replace("10 7", "20 7").replace("11 7", "21 7") for line in (CALL, *freed)]
        events, _ = imported(CALL, *taken, "12 7 SETMEM_RET 0", *later, "22 7 SETMEM_RET 0")
        assert areas(events)[1] == (ObservedArea("kvm_page_track_create_memslot", 0, 0, 1, 2),)
        events, trailer = imported(CALL, *freed, "12 7 SETMEM_RET 0")
        assert areas(events) == []
        assert trailer.counters[0].kind == FREED_UNSEEN


class TestFailures:
    """What fails or is missing."""

    def test_failed_allocation(self) -> None:
        """A failed one becomes an injection before its call; what the call had taken before and gave back is none of either."""
        lines = area("VMAP", 0x1000, "alloc_vmap_area", "memslot_rmap_alloc")
        lines += area("VMAP", 0x2000, "alloc_vmap_area", "memslot_rmap_alloc", failed=1)
        lines += area("VFREE", 0x1000, "free_vmap_area_noflush", "memslot_rmap_alloc")
        events, _ = imported("1 7 CREATE_VM ret=5", CALL, *lines, "12 7 SETMEM_RET -12")
        fail = events[1]
        assert isinstance(fail, AllocFail)
        assert (fail.site, fail.nth, fail.count) == ("memslot_rmap_alloc", 2, 1)
        assert areas(events) == [()]

    @pytest.mark.parametrize(
        ("lines", "kind"),
        [
            (["12 7 SETMEM_RET 0"], "result of a call that was not recorded"),
            (["10 7 SETMEM fd=5 slot=0 flags=0 gpa=0x0"], "damaged SETMEM"),
            ([CALL, "12 7 SETMEM_RET x"], "damaged SETMEM_RET"),
            ([CALL, "11 7 VMAP addr=0x1000"], "damaged VMAP"),
            ([CALL], "call of thread 7 without a result"),
            (["hello"], "line not understood"),
            (["Lost 3 events"], "bpftrace lost events"),
        ],
    )
    def test_counted(self, lines: list[str], kind: str) -> None:
        """Whatever is missing or damaged is counted."""
        _, trailer = imported(CALL.replace(" 7 ", " 8 "), "12 8 SETMEM_RET 0", *lines)
        assert kind in [counter.kind for counter in trailer.counters if counter.severity != "ignored"]

    def test_empty(self) -> None:
        """No call at all is nothing to judge."""
        with pytest.raises(EmptyError):
            imported("Attaching 4 probes...", "")
