"""Promises of the merge of strace and tracefs: arguments from one, places from the other, nothing lost between them."""

from pathlib import Path

import pytest
from run_texts import (
    BASE_NS,
    STEP_NS,
    Body,
    Enter,
    Exit,
    Item,
    Page,
    memslot,
    merged,
    run,
    slots,
    strace_text,
    threads,
    trace_text,
    vm,
)
from run_texts import imported_run as both

from replay.events import Lost, MemslotSet, ShadowRootAlloc, VmCreate, VmDestroy
from replay.runs import HOT_CLASSES
from replay.sources import ioctls
from replay.sources.merge_calls import FOREIGN_CALL
from replay.sources.tracefs_pages import AFTER_END, AMBIGUOUS, OUTSIDE, UNSEEN

HOT = tuple(HOT_CLASSES.values())
START: list[Item] = [*vm(100, 4, vcpu_fd=5), *threads(100, 101, 102)]
FIRST = ["vm.create", "memslot.set", "vcpu.create"]


class TestPlaces:
    """A memslot call is written where KVM commits it."""

    def test_zaps_come_before_the_delete(self, tmp_path: Path) -> None:
        """The pages that a DELETE zaps go while the slot is still there."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=0x10), Exit(101), memslot(100, 4, 0, 0, 0)]
        items += [Page(100, made=False, gfn=0x10), Exit(100)]
        assert merged(tmp_path, items).kinds() == [
            *FIRST,
            "shadow_root.alloc",
            "shadow_page.account 10",
            "shadow_page.unaccount 10",
            "memslot.set",
        ]

    def test_zaps_come_before_the_move(self, tmp_path: Path) -> None:
        """So do the pages that a MOVE zaps, whoever zaps them."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=0x10), memslot(100, 4, 0, 0x2000, 1024)]
        items += [Page(100, made=False, gfn=0x10), Exit(100), Page(101, made=True, gfn=0x2010), Exit(101)]
        assert merged(tmp_path, items).kinds()[4:] == [
            "shadow_page.account 10",
            "shadow_page.unaccount 10",
            "memslot.set",
            "shadow_page.account 2010",
        ]

    def test_create_comes_before_its_first_use(self, tmp_path: Path) -> None:
        """A page that another thread makes in the new slot shows the CREATE to be done; its time is that of the page."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=0x10), memslot(100, 4, 1, 0x4000, 16)]
        items += [Page(101, made=True, gfn=0x4001), Page(101, made=True, gfn=0x11), Exit(100), Exit(101)]
        result = merged(tmp_path, items)
        assert result.kinds()[4:] == [
            "shadow_page.account 10",
            "memslot.set",
            "shadow_page.account 4001",
            "shadow_page.account 11",
        ]
        event = result.events[5]
        assert isinstance(event, MemslotSet)
        assert (event.time_ns, event.enter_time_ns, event.ret) == (BASE_NS + 12 * STEP_NS, BASE_NS + 11 * STEP_NS, 0)

    @pytest.mark.parametrize("call", [memslot(100, 4, 1, 0x4000, 16), memslot(100, 4, 0, 0, 1024, flags=1)])
    def test_unused_it_comes_at_the_exit(self, tmp_path: Path, call: Enter) -> None:
        """Without such a page a CREATE, and a change of flags always, is written at the exit."""
        items = [*START, run(101, 5), call, Page(101, made=True, gfn=0x11), Exit(100), Page(101, made=True, gfn=0x12), Exit(101)]
        assert merged(tmp_path, items).kinds()[4:] == ["shadow_page.account 11", "memslot.set", "shadow_page.account 12"]

    def test_exits_out_of_order(self, tmp_path: Path) -> None:
        """A CREATE that can only have worked after a DELETE still under way is written after it."""
        items = [*START, memslot(100, 4, 0, 0, 0), memslot(101, 4, 1, 0, 512), Exit(101), Exit(100)]
        assert slots(merged(tmp_path, items).events) == [(0, 0), (0, 0), (1, 0)]

    def test_create_that_found_the_place_taken(self, tmp_path: Path) -> None:
        """A call that failed with EEXIST is written after the CREATE under way that it met."""
        items = [*START, memslot(100, 4, 1, 0x4000, 16), memslot(101, 4, 2, 0x4000, 16), Exit(101, -17), Exit(100)]
        assert slots(merged(tmp_path, items).events) == [(0, 0), (1, 0), (2, -17)]

    def test_failed_delete_after_the_delete(self, tmp_path: Path) -> None:
        """Of two racing DELETEs of one slot, the one that failed is written second."""
        items = [*START, memslot(100, 4, 0, 0, 0), memslot(101, 4, 0, 0, 0), Exit(101, -22), Exit(100)]
        assert slots(merged(tmp_path, items).events) == [(0, 0), (0, 0), (0, -22)]

    def test_times(self, tmp_path: Path) -> None:
        """Entry and result are stamped by the trace's clock."""
        event = merged(tmp_path, START).events[1]
        assert isinstance(event, MemslotSet)
        assert (event.enter_time_ns, event.time_ns) == (BASE_NS + 3 * STEP_NS, BASE_NS + 4 * STEP_NS)


class TestRoots:
    """A VM's shadow root."""

    def test_once_a_vm(self, tmp_path: Path) -> None:
        """It is inferred before the first accounted page of each VM, and only then."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=1, direct=True), Page(101, made=True, gfn=0x10)]
        items += [Page(101, made=True, gfn=0x11), Exit(101)]
        result = merged(tmp_path, items)
        assert result.kinds()[3:] == ["shadow_root.alloc", "shadow_page.account 10", "shadow_page.account 11"]
        root = result.events[3]
        assert isinstance(root, ShadowRootAlloc)
        assert (root.inferred, root.ret, root.vm) == (True, 0, 0)


class TestAccounting:
    """Which pages are accounted."""

    @pytest.mark.parametrize(
        ("page", "kinds"),
        [
            (Page(101, made=True, gfn=1), ["shadow_page.account 1"]),
            (Page(101, made=True, gfn=1, level=1), ["shadow_page.account 1"]),
            (Page(101, made=True, gfn=1, level=4), ["shadow_page.account 1"]),
            (Page(101, made=True, gfn=1, direct=True), []),
            (Page(101, made=True, gfn=1, existing=True), []),
            (Page(101, made=False, gfn=0x77), ["shadow_page.unaccount 77"]),
            (Page(101, made=False, gfn=0x77, direct=True), []),
            (Page(101, made=False, gfn=0x77, invalid=True), []),
        ],
    )
    def test_the_rule(self, tmp_path: Path, page: Page, kinds: list[str]) -> None:
        """New and not direct, zapped and not direct and not invalid yet; all else is counted as ignored."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=0x77), page, Exit(101)]
        result = merged(tmp_path, items)
        assert result.kinds()[5:] == kinds
        assert result.count("kvm_mmu_") == (not kinds)

    def test_unseen(self, tmp_path: Path) -> None:
        """A page that goes and never came is given all the same, and counted as a loss."""
        result = merged(tmp_path, [*START, run(101, 5), Page(101, made=False, gfn=9), Exit(101)])
        assert result.kinds()[4:] == ["shadow_page.unaccount 9"]
        assert result.count(UNSEEN) == 1


class TestOwners:
    """Whose page it is."""

    TWO = (*vm(100, 4, vcpu_fd=5), *vm(100, 6, vcpu_fd=7), *threads(100, 101, 102))

    def test_call_decides(self, tmp_path: Path) -> None:
        """Inside a call the VM of its fd owns the page, also when the thread runs another VM's vCPU."""
        items: list[Item] = [
            *self.TWO,
            run(101, 5),
            Page(101, made=True, gfn=1),
            Exit(101),
            run(102, 7),
            Page(102, made=True, gfn=1),
        ]
        items += [Exit(102), memslot(101, 6, 0, 0, 0), Page(101, made=False, gfn=1), Exit(101)]
        events = merged(tmp_path, items).events
        assert [(event.KIND, event.vm) for event in events if isinstance(event, HOT)] == [
            ("shadow_page.account", 0),
            ("shadow_page.account", 1),
            ("shadow_page.unaccount", 1),
        ]

    def test_page_decides(self, tmp_path: Path) -> None:
        """Outside of calls, of several VMs of the process the only one that has the page owns it."""
        items: list[Item] = [*self.TWO, run(102, 7), Page(102, made=True, gfn=8), Exit(102), Page(101, made=False, gfn=8)]
        events = merged(tmp_path, items).events
        assert [(event.KIND, event.vm) for event in events if isinstance(event, HOT)][1:] == [("shadow_page.unaccount", 1)]

    def test_ambiguous(self, tmp_path: Path) -> None:
        """When two VMs have it, the page is left out, counted, and a loss of shadow pages is marked, once."""
        items: list[Item] = [
            *self.TWO,
            run(101, 5),
            Page(101, made=True, gfn=8),
            Exit(101),
            run(102, 7),
            Page(102, made=True, gfn=8),
        ]
        items += [Exit(102), Page(101, made=False, gfn=8), Page(101, made=False, gfn=8)]
        result = merged(tmp_path, items)
        lost = [event for event in result.events if isinstance(event, Lost)]
        assert [(event.what, event.affects) for event in lost] == [(AMBIGUOUS, "shadow_pages")]
        assert result.count(AMBIGUOUS) == 2
        assert sum(1 for event in result.events if isinstance(event, HOT)) == 2

    def test_strangers(self, tmp_path: Path) -> None:
        """Another VM on the host, unknown to strace, changes nothing, even where its gfns are ours."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=8), Exit(101)]
        noise: list[Item] = [
            Enter(900, 9, ioctls.KVM_RUN),
            Page(900, made=True, gfn=8),
            Page(900, made=False, gfn=8),
            Exit(900, 0),
        ]
        result = both(tmp_path, strace_text(items), trace_text([*items, *noise]))
        assert result.kinds()[4:] == ["shadow_page.account 8"]
        assert (result.count(FOREIGN_CALL), result.count(OUTSIDE)) == (1, 2)

    def test_reclaim(self, tmp_path: Path) -> None:
        """A page zapped by a kernel thread is its only holder's."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=8), Exit(101), Page(77, made=False, gfn=8)]
        result = merged(tmp_path, items)
        assert result.kinds()[4:] == ["shadow_page.account 8", "shadow_page.unaccount 8"]

    def test_after_the_end(self, tmp_path: Path) -> None:
        """A page zapped after its VM's end is counted, not given to another VM."""
        items = [
            *START,
            run(101, 5),
            Page(101, made=True, gfn=8),
            Exit(101),
            Body(100, "close(5) = 0"),
            Body(100, "close(4) = 0"),
        ]
        items += [Enter(100, 3, ioctls.KVM_CREATE_VM), Exit(100, 4), Body(100, "close(4) = 0")]
        items += [Enter(100, 3, ioctls.KVM_CHECK_EXTENSION), Exit(100, 1), Page(101, made=False, gfn=8)]
        result = merged(tmp_path, items)
        assert result.count(AFTER_END) == 1
        assert result.kinds()[4:] == ["shadow_page.account 8", "vm.destroy", "vm.create", "vm.destroy"]


class TestLives:
    """Tasks, fds and VMs between the calls."""

    def test_exit_ends_the_vm(self, tmp_path: Path) -> None:
        """The pages zapped on the way out go before the VM, which ends with its process."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=8), Exit(101), Body(100, "exit_group(0) = ?")]
        items += [Page(100, made=False, gfn=8), Body(102, "+++ exited with 0 +++"), Body(101, "+++ exited with 0 +++")]
        items += [Body(100, "+++ exited with 0 +++")]
        result = merged(tmp_path, items)
        assert result.kinds()[4:] == ["shadow_page.account 8", "shadow_page.unaccount 8", "vm.destroy"]
        last = result.events[-1]
        assert isinstance(last, VmDestroy)
        assert (last.reason, last.foreign_mm) == ("exit", True)

    def test_missing_teardown(self, tmp_path: Path) -> None:
        """A trace that misses the zaps of the end is whole all the same: the VM's end is the end of its pages."""
        items = [*START, run(101, 5), Page(101, made=True, gfn=8), Exit(101), Body(100, "+++ killed by SIGKILL +++")]
        items += [Body(101, "+++ killed by SIGKILL +++"), Body(102, "+++ killed by SIGKILL +++")]
        result = merged(tmp_path, items)
        assert result.kinds()[4:] == ["shadow_page.account 8", "vm.destroy"]
        assert [c for c in result.trailer.counters if c.severity != "ignored"] == []

    def test_fd_number_used_again(self, tmp_path: Path) -> None:
        """A close between two calls is taken between them, so that the fd's next VM is another one."""
        items = [*START, Body(100, "close(5) = 0"), Body(100, "close(4) = 0"), *vm(100, 4, vcpu_fd=5)[1:]]
        events = merged(tmp_path, items).events
        assert [event.vm for event in events if isinstance(event, (VmCreate, VmDestroy))] == [0, 0, 1]
        assert [event.vm for event in events if isinstance(event, MemslotSet)] == [0, 1]

    def test_zaps_inside_the_close(self, tmp_path: Path) -> None:
        """The last close of a VM ends it only after the pages that it zaps."""
        items = [
            *START,
            run(101, 5),
            Page(101, made=True, gfn=8),
            Exit(101),
            Body(100, "close(5) = 0"),
            Body(100, "close(4) = 0"),
        ]
        items += [Page(100, made=False, gfn=8), Enter(101, 3, ioctls.KVM_CHECK_EXTENSION), Exit(101, 1)]
        assert merged(tmp_path, items).kinds()[4:] == ["shadow_page.account 8", "shadow_page.unaccount 8", "vm.destroy"]
