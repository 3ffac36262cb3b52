"""Promises of the import of vmalloc areas from bpftrace lines: what an observation says, and when none is made."""

import json
from collections.abc import Iterator

import pytest
from run_texts import Imported
from word_texts import imported_lines

from replay.analyses.check import check
from replay.analyses.check_report import CheckReport
from replay.events import AllocFail, Observe, ObservedArea
from replay.kvm.profile import parse_facts
from replay.sources.area_book import FREED_UNSEEN, UNPLACED
from replay.sources.bpftrace_lines import BPFTRACE, BPFTRACE_JSON
from replay.sources.word_walk import WordImport

LPAGE = ("kvm_arch_prepare_memory_region", "kvm_set_memslot", "kvm_set_memory_region", "kvm_vm_ioctl")
RMAP = ("memslot_rmap_alloc", *LPAGE)
ROOT = ("mmu_first_shadow_root_alloc", "kvm_mmu_load", "vcpu_enter_guest")
VM = ["1000 100 100 guest IOCTL fd=3 cmd=ae01 arg=0 ret=4"]
CLOSE = "8000 100 100 guest CLOSE fd=4"
EXIT = "8000 100 100 guest EXIT code=0"
FACTS = "release=6.8,config=n,smm=0"
ROW = ObservedArea("kvm_arch_prepare_memory_region", 2, 2, 0, 0)


def area(time: int, address: int, *frames: str, tid: int = 100, failed: int = 0) -> list[str]:
    """Return the lines of an area of one page that is taken."""
    stack = [f"        {frame}+123" for frame in ("alloc_vmap_area", "__vmalloc_node", *frames)]
    return [f"{time} 100 {tid} guest VMAP addr={address:x} size=2000 failed={failed} ", *stack, ""]


def freed(time: int, *addresses: int, tid: int = 100) -> list[str]:
    """Return the lines of areas that are given back."""
    return [f"{time} 100 {tid} guest VFREE addr={address:x}" for address in addresses]


def enter(time: int, slot: int = 0, size: int = 0x100000, tid: int = 100) -> str:
    """Return the line of a memslot call's entry."""
    gpa = slot << 24 if size else 0
    return f"{time} 100 {tid} guest ENTER fd=4 cmd=4020ae46 arg=7ff w={slot:x},{gpa:x},{size:x},7f160171a000,0,0"


def leave(time: int, tid: int = 100, ret: int = 0) -> str:
    """Return the line of its result."""
    return f"{time} 100 {tid} guest IOCTL fd=4 cmd=4020ae46 arg=7ff ret={ret}"


def create(time: int, slot: int, address: int, tid: int = 100) -> list[str]:
    """Return the lines of a slot of a MiB that is made where tdp is on: two arrays, a page each."""
    areas = [*area(time + 1, address, *LPAGE, tid=tid), *area(time + 2, address + 1, *LPAGE, tid=tid)]
    return [enter(time, slot, tid=tid), *areas, leave(time + 9, tid)]


def observed(found: Imported) -> list[tuple[ObservedArea, ...] | None]:
    """Return what the observations say."""
    return [event.areas for event in found.events if isinstance(event, Observe)]


def checked(lines: list[str], facts: str) -> CheckReport:
    """Hold the model against lines."""
    text = "".join(line + "\n" for line in lines).encode()
    return check(WordImport(iter([text]), BPFTRACE), parse_facts(facts))


def root_arrays() -> list[str]:
    """Return the lines of what a first shadow root takes for a slot of a MiB."""
    sites = [*["memslot_rmap_alloc"] * 3, "kvm_page_track_write_tracking_alloc"]
    return [line for number, site in enumerate(sites) for line in area(4000 + number, 0x30 + number, site, *ROOT)]


class TestCalls:
    """What memslot calls take and give back."""

    def test_behind_its_call(self) -> None:
        """Each call is followed by what it took by function; the model agrees; frames and thread stacks are no trouble."""
        lines = [*VM, *area(1500, 0x77, "dup_task_struct", "copy_process"), *create(2000, 0, 0x10), *create(3000, 1, 0x20)]
        found = imported_lines(lines, "bpftrace")
        assert [event.KIND for event in found.events] == ["vm.create", *["memslot.set", "observe"] * 2]
        assert observed(found) == [(ROW,), (ROW,)]
        assert found.trailer.total("unknown") == found.trailer.total("lost") == 0
        report = checked(lines, FACTS + ",tdp=1")
        assert (report.checked, report.agreed) == (4, 4)

    def test_model_is_contradicted(self) -> None:
        """An array that the kernel did not take is a mismatch."""
        lines = [*VM, enter(2000), *area(2001, 0x10, *LPAGE), leave(2009)]
        assert checked(lines, FACTS + ",tdp=1").mismatch_count == 1

    def test_deletion(self) -> None:
        """What is given back has the function that took it."""
        lines = [*VM, *create(2000, 0, 0x10), enter(3000, size=0), *freed(3001, 0x10, 0x11), leave(3009)]
        assert observed(imported_lines(lines, "bpftrace"))[1] == (ObservedArea(ROW.site, 0, 0, 2, 2),)
        assert checked(lines, FACTS + ",tdp=1").agreed == 4

    def test_two_threads(self) -> None:
        """What a call has taken that has not returned is in no observation before it returns."""
        other = [enter(2001, 1, tid=101), *area(2002, 0x20, *LPAGE, tid=101), *area(2003, 0x21, *LPAGE, tid=101)]
        lines = [*VM, "1100 100 100 guest FORK child=101 thread=1", *other, *create(2004, 0, 0x10)]
        found = imported_lines([*lines, leave(2100, 101)], "bpftrace")
        assert observed(found) == [(ROW,), (ROW,)]
        assert found.trailer.total("unknown") == 0

    def test_failed(self) -> None:
        """An allocation that failed is an event before its call; what the call had taken by then, and gave back, is nothing."""
        areas = [*area(2001, 0x10, *LPAGE), *area(2002, 0, *LPAGE, failed=1), *freed(2003, 0x10)]
        found = imported_lines([*VM, enter(2000), *areas, leave(2009, ret=-12)], "bpftrace")
        assert [event.KIND for event in found.events] == ["vm.create", "alloc.fail", "memslot.set", "observe"]
        assert isinstance(found.events[1], AllocFail)
        assert (found.events[1].site, found.events[1].nth) == (ROW.site, 2)
        assert observed(found) == [()]

    def test_freed_but_not_seen_before(self) -> None:
        """A call that frees what nobody saw taken is not observed; the next one is."""
        lines = [*VM, *create(2000, 0, 0x10), enter(3000, size=0), *freed(3001, 0x10, 0x99), leave(3009), *create(4000, 1, 0x20)]
        found = imported_lines(lines, "bpftrace")
        assert observed(found) == [(ROW,), None, (ROW,)]
        assert found.count(FREED_UNSEEN) == 1

    def test_line_of_another_cpu(self) -> None:
        """An area that is printed behind its call is of that call, and its frames are its own."""
        late = area(2005, 0x12, *LPAGE)
        found = imported_lines([*VM, *create(2000, 0, 0x10), *late, *create(3000, 1, 0x20)], "bpftrace")
        assert observed(found) == [(ObservedArea(ROW.site, 3, 3, 0, 0),), (ROW,)]
        assert found.trailer.total("unknown") == 0

    def test_no_areas(self) -> None:
        """Without one line of an area nothing is observed."""
        assert observed(imported_lines([*VM, enter(2000), leave(2009)], "bpftrace")) == []


class TestShadowRoots:
    """What a VM takes when it first needs a shadow root, inside KVM_RUN."""

    RUN = "3500 100 100 guest RUN fd=5"
    VCPU = "3400 100 100 guest IOCTL fd=4 cmd=ae41 arg=0 ret=5"
    PAGE = "4100 100 100 guest GETPAGE gfn=1 role=23704 created=1"

    def test_with_its_page(self) -> None:
        """It is observed behind the root that the first page implies; with tdp, for a nested guest, the model agrees."""
        lines = [*VM, *create(2000, 0, 0x10), self.VCPU, self.RUN, *root_arrays(), self.PAGE]
        found = imported_lines(lines, "bpftrace")
        assert [event.KIND for event in found.events][-3:] == ["shadow_root.alloc", "shadow_page.account", "observe"]
        assert observed(found)[-1] == (
            ObservedArea("kvm_page_track_write_tracking_alloc", 1, 1, 0, 0),
            ObservedArea("memslot_rmap_alloc", 3, 3, 0, 0),
        )
        assert found.trailer.total("unknown") == 0
        report = checked(lines, FACTS + ",tdp=1")
        assert (report.mismatch_count, [facet.agreed for facet in report.facets]) == (0, [2, 2])

    def test_call_of_another_thread_in_between(self) -> None:
        """A memslot call that ends between the root's arrays and its page is not charged with them."""
        other = create(4050, 1, 0x20, tid=101)
        lines = [*VM, "1100 100 100 guest FORK child=101 thread=1", self.VCPU, self.RUN, *root_arrays(), *other, self.PAGE]
        rows = observed(imported_lines(lines, "bpftrace"))
        assert [len(row or ()) for row in rows] == [1, 2]

    def test_without_a_page(self) -> None:
        """Arrays of a root that no page follows are explained by nothing: the next call is not observed, and that is counted."""
        found = imported_lines([*VM, self.VCPU, self.RUN, *root_arrays(), *create(5000, 1, 0x20)], "bpftrace")
        assert observed(found) == [None]
        assert found.count(UNPLACED) == 1


class TestEnds:
    """What goes with a VM."""

    @pytest.mark.parametrize("lines", [[CLOSE, *freed(8001, 0x10, 0x11)], [EXIT, *freed(8001, 0x10, 0x11)]])
    def test_observed_when_all_is_back(self, lines: list[str]) -> None:
        """A VM that is closed, or dies with its process, gives back all that it had, and is observed once."""
        lines = [*VM, *create(2000, 0, 0x10), *lines]
        found = imported_lines(lines, "bpftrace")
        assert [event.KIND for event in found.events][-2:] == ["vm.destroy", "observe"]
        assert observed(found)[1:] == [(ObservedArea(ROW.site, 0, 0, 2, 2),)]
        assert checked(lines, FACTS + ",tdp=1").agreed == 3

    @pytest.mark.parametrize("end", [CLOSE, EXIT])
    def test_not_before(self, end: str) -> None:
        """While something of it has not been seen to go nothing is said, of other VMs neither."""
        second = [*VM, *create(9000, 0, 0x20)] if end is CLOSE else []
        found = imported_lines([*VM, *create(2000, 0, 0x10), end, *freed(8001, 0x10), *second], "bpftrace")
        assert len(observed(found)) == 1


class TestJson:
    """The same lines inside the objects of -f json."""

    def test_stack_in_the_same_string(self) -> None:
        """Frames are behind the line, in one string; the observations are those of the text."""

        def objects() -> Iterator[str]:
            text = "\n".join([*VM, *create(2000, 0, 0x10), enter(3000, size=0), *freed(3001, 0x10, 0x11), leave(3009)])
            for data in text.replace("\n        ", "\0").replace("\n\n", "\0\n").split("\n"):
                yield json.dumps({"type": "printf", "data": data.replace("\0", "\n        ").rstrip(" ") + "\n"}) + "\n"

        stream = WordImport(iter(["".join(objects()).encode()]), BPFTRACE_JSON)
        found = [item.areas for item in stream.items() if isinstance(item, Observe)]
        assert found == [(ROW,), (ObservedArea(ROW.site, 0, 0, 2, 2),)]
        assert stream.trailer().total("unknown") == 0
