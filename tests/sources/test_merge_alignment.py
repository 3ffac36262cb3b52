"""Promises of the merge on recordings that do not lie exactly beside each other: begun apart, other clocks, halves of calls."""

from pathlib import Path
from typing import ClassVar

import pytest
from run_texts import Body, Enter, Exit, Item, Page, Raw, memslot, merged, run, slots, strace_text, threads, trace_text, vm
from run_texts import imported_run as both

from replay.errors import PairingError
from replay.events import Lost, Opaque
from replay.sources import ioctls
from replay.sources.merge_calls import ONLY_TRACE, RET_DIFFERS
from replay.sources.strace_feed import AFTER, BEFORE, ONLY_STRACE
from replay.sources.tracefs_calls import LOST_EXIT

START: list[Item] = [*vm(100, 4, vcpu_fd=5), *threads(100, 101, 102)]


class TestAlignment:
    """How the two recordings lie to each other."""

    ITEMS: ClassVar[list[Item]] = [
        *START,
        run(101, 5),
        Page(101, made=True, gfn=0x10),
        Exit(101),
        memslot(100, 4, 1, 0x4000, 16),
        Exit(100),
        run(101, 5),
        Page(101, made=True, gfn=0x4001),
        Page(101, made=False, gfn=0x10),
        Exit(101, -4),
        memslot(100, 4, 1, 0x4000, 0),
        Exit(100),
    ]

    @pytest.mark.parametrize("offset_s", [0, 37, -37, 5, -1_000_000, 86_400 * 365])
    def test_any_clock(self, tmp_path: Path, offset_s: int) -> None:
        """However far the clocks are apart, the events and their times are the same."""
        expected = merged(tmp_path, self.ITEMS).events
        assert len(expected) == 9
        assert merged(tmp_path, self.ITEMS, offset_ns=offset_s * 10**9).events == expected

    def test_no_clock(self, tmp_path: Path) -> None:
        """Without stamps the calls are paired by order."""
        assert merged(tmp_path, self.ITEMS, stamps=False).events == merged(tmp_path, self.ITEMS).events

    @pytest.mark.parametrize("offset_s", [0, 5])
    @pytest.mark.parametrize("cut", range(len(START), len(START) + 9))
    def test_late_trace(self, tmp_path: Path, cut: int, offset_s: int) -> None:
        """A trace that began late leaves no memslot call out, and says that shadow pages are not known."""
        strace, whole = strace_text(self.ITEMS, offset_ns=offset_s * 10**9), trace_text(self.ITEMS).split(b"\n")
        missing = sum(1 for item in self.ITEMS[:cut] if isinstance(item, Body))
        result = both(tmp_path, strace, b"\n".join(whole[cut - missing :]))
        assert slots(result.events) == [(0, 0), (1, 0), (1, 0)]
        ran = any(isinstance(item, Enter) and item.cmd == ioctls.KVM_RUN for item in self.ITEMS[:cut])
        assert any(isinstance(event, Lost) and event.affects == "shadow_pages" for event in result.events) == ran
        assert result.count(ONLY_STRACE) == 0 or offset_s
        assert result.count(BEFORE) > 0

    @pytest.mark.parametrize("offset_s", [0, 5])
    def test_trace_that_ended_early(self, tmp_path: Path, offset_s: int) -> None:
        """What strace alone has at the end is taken as well."""
        lines = trace_text(self.ITEMS).split(b"\n")
        result = both(tmp_path, strace_text(self.ITEMS, offset_ns=offset_s * 10**9), b"\n".join(lines[:9]) + b"\n")
        assert slots(result.events) == [(0, 0), (1, 0), (1, 0)]
        assert result.count(AFTER) == 3
        assert sum(isinstance(event, Lost) for event in result.events) == 1

    def test_late_strace(self, tmp_path: Path) -> None:
        """What the trace alone has is taken with what it says: the calls, not what their pointers point to."""
        lines = strace_text(self.ITEMS).splitlines(keepends=True)
        result = both(tmp_path, "".join(lines[6:]), trace_text(self.ITEMS))
        assert result.kinds()[:3] == ["vm.create", "opaque", "vcpu.create"]
        assert [event.ret for event in result.events if isinstance(event, Opaque)] == [0]
        assert result.count(BEFORE) == 3
        assert slots(result.events) == [(1, 0), (1, 0)]

    def test_other_run(self, tmp_path: Path) -> None:
        """Recordings of two runs are refused."""
        other = [*vm(200, 4, vcpu_fd=5), run(200, 5), Exit(200)]
        with pytest.raises(PairingError, match="no thread id is in both"):
            both(tmp_path, strace_text(self.ITEMS), trace_text(other))

    def test_no_syscall_events(self, tmp_path: Path) -> None:
        """A trace without ioctls can not be paired, and the message says which events to enable."""
        pages = [Page(101, made=True, gfn=0x10), Page(101, made=False, gfn=0x10)]
        with pytest.raises(PairingError, match="sys_enter_ioctl"):
            both(tmp_path, strace_text(self.ITEMS), trace_text(pages))

    def test_different_results(self, tmp_path: Path) -> None:
        """Results that differ are counted; when most do, the recordings are refused."""
        few = [*self.ITEMS, run(101, 5), Exit(101, 0, trace_ret=-4)]
        assert merged(tmp_path, few).count(RET_DIFFERS) == 1
        many = [*START, *[item for _ in range(40) for item in (run(101, 5), Exit(101, 0, trace_ret=-4))]]
        with pytest.raises(PairingError, match="different results"):
            merged(tmp_path, [*many, *self.ITEMS[len(START) :]], stamps=False)

    def test_damaged_stamp(self, tmp_path: Path) -> None:
        """A stamp that is damaged costs the pair of its own call, no other."""
        strace = strace_text(self.ITEMS).replace("100 1795341862.001160 ioctl(4", "100 8795341862.001160 ioctl(4")
        result = both(tmp_path, strace, trace_text(self.ITEMS))
        assert slots(result.events) == [(0, 0), (1, 0), (1, 0)]
        assert (result.count(ONLY_STRACE), result.count(ONLY_TRACE)) == (1, 1)
        assert result.kinds().count("shadow_page.account 4001") == 1


class TestGaps:
    """Calls that one of the recordings has only half."""

    def test_killed_inside(self, tmp_path: Path) -> None:
        """A call that strace saw no result of has the trace's."""
        items = [*START, memslot(100, 4, 1, 0x4000, 16), Exit(100, None, trace_ret=0)]
        assert slots(merged(tmp_path, items).events) == [(0, 0), (1, 0)]

    def test_never_resumed(self, tmp_path: Path) -> None:
        """So has one whose second half strace never wrote."""
        items = [*START, memslot(100, 4, 1, 0x4000, 16), Body(101, "+++ exited with 0 +++"), Exit(100)]
        strace = strace_text(items).replace("100 1795341862.001160 <... ioctl resumed>) = 0\n", "")
        assert "<unfinished" in strace
        assert slots(both(tmp_path, strace, trace_text(items)).events) == [(0, 0), (1, 0)]

    def test_lost_exit(self, tmp_path: Path) -> None:
        """A call without a result in the trace has strace's, placed before the thread's next call."""
        items = [*START, memslot(100, 4, 1, 0x4000, 16), Exit(100), memslot(100, 4, 1, 0x4000, 0), Exit(100)]
        lines = trace_text(items).split(b"\n")
        del lines[7]
        result = both(tmp_path, strace_text(items), b"\n".join(lines))
        assert slots(result.events) == [(0, 0), (1, 0), (1, 0)]
        assert result.count(LOST_EXIT) == 1

    def test_lost_entry(self, tmp_path: Path) -> None:
        """A call whose entry the trace lost is strace's alone."""
        items = [*START, memslot(100, 4, 1, 0x4000, 16), Exit(100), memslot(100, 4, 1, 0x4000, 0), Exit(100)]
        lines = trace_text(items).split(b"\n")
        del lines[6]
        result = both(tmp_path, strace_text(items), b"\n".join(lines))
        assert slots(result.events) == [(0, 0), (1, 0), (1, 0)]
        assert result.count(ONLY_STRACE) == 1

    def test_ring_overrun(self, tmp_path: Path) -> None:
        """A loss that the trace reports is a loss of shadow pages: the calls are in strace."""
        items = [*START, run(101, 5), Raw(b"CPU:0 [LOST 12 EVENTS]"), Page(101, made=True, gfn=8), Exit(101)]
        result = merged(tmp_path, items)
        lost = [event for event in result.events if isinstance(event, Lost)]
        assert [(event.count, event.affects) for event in lost] == [(12, "shadow_pages")]
        assert result.trailer.total("lost") == 12

    def test_split_calls(self, tmp_path: Path) -> None:
        """Calls that strace splits in halves are paired like whole ones."""
        items = [*START, run(101, 5), run(102, 5), Page(101, made=True, gfn=8), memslot(100, 4, 1, 0x4000, 16), Exit(102, -4)]
        items += [Exit(100), Page(101, made=False, gfn=8), Exit(101)]
        assert strace_text(items).count("<unfinished") == 3
        result = merged(tmp_path, items)
        assert result.kinds()[3:] == ["shadow_root.alloc", "shadow_page.account 8", "memslot.set", "shadow_page.unaccount 8"]
        assert [c for c in result.trailer.counters if c.severity != "ignored"] == []
