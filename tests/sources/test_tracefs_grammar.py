"""Promises of the line grammar of tracefs text: every column layout and spelling says the same."""

import pytest

from replay.runs import ACCOUNT, UNACCOUNT
from replay.sources.tracefs_grammar import (
    USUAL_COLUMNS,
    LostLine,
    PageEvent,
    SyscallEnter,
    SyscallExit,
    event_name,
    lost_line,
    overwritten,
    page_event,
    syscall_of,
    task_line,
)

NEW = b"kvm_mmu_get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new"
LINE = b"         pdguest-15412   [000] ...1. 1795341862.263814: " + NEW


class TestTaskLine:
    """The part of a line before the event."""

    @pytest.mark.parametrize(
        "prefix",
        [
            b"         pdguest-15412   [000] ...1. 7.000250: ",
            b"         pdguest-15412   (  15412) [000] ...1. 7.000250: ",
            b"         pdguest-15412   (-------) [000] ...1. 7.000250: ",
            b"         pdguest-15412   [000]     7.000250: ",
            b"         pdguest-15412   [000] .... 7.000250: ",
            b"pdguest-15412 [000] dNh3. 7.000250000: ",
            b"  pdguest-15412     0...1. 7000250us : ",
            b"  pdguest-15412    12d.h1. 7000250us!: ",
        ],
    )
    def test_every_column_layout(self, prefix: bytes) -> None:
        """All layouts give the same thread, time and body."""
        task = task_line(prefix + NEW)
        assert task is not None
        assert (task.tid, task.time_ns, task.body, task.comm) == (15412, 7_000_250_000, NEW, b"pdguest")

    @pytest.mark.parametrize("comm", [b"a b", b"a-1", b"a-1 [000]", b"[x]-7", b"<...>", b"-", b"", b"a] ..... 1.2"])
    def test_comm_with_anything(self, comm: bytes) -> None:
        """The thread id is found from the right, whatever the name holds."""
        task = task_line(comm.rjust(16) + b"-77      [001] ..... 1.000002: sys_ioctl -> 0x0")
        assert task is not None
        assert (task.tid, task.comm, task.body) == (77, comm.strip(), b"sys_ioctl -> 0x0")

    def test_tgid(self) -> None:
        """Option record-tgid gives the process; dashes mean that the kernel does not know it."""
        known = task_line(b"             x-12      (     10) [000] ..... 1.000000: e: ")
        unknown = task_line(b"             x-12      (-------) [000] ..... 1.000000: e: ")
        assert known is not None
        assert unknown is not None
        assert (known.tgid, unknown.tgid) == (10, None)

    def test_counter_clock_is_no_time(self) -> None:
        """A clock that counts gives no time."""
        task = task_line(b"               x-12      [000] .....       12345: sys_ioctl -> 0x0")
        assert task is not None
        assert task.time_ns is None

    @pytest.mark.parametrize("line", [b"", b"# tracer: nop", b"CPU:0 [LOST 3 EVENTS]", b"x-1 [0", b"x [000] ..... 1.0: e: "])
    def test_no_task(self, line: bytes) -> None:
        """Other lines are none."""
        assert task_line(line) is None


BODIES = [
    (b"get_page: sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync new", PageEvent(ACCOUNT, 0x8B0, 2, "get_page new")),
    (b"get_page: sp gen 0 gfn 0 l1 8-byte q0 direct -ux nxe ad root 0 sync new", PageEvent(0, 0, 1, "get_page direct new")),
    (b"get_page: sp gen 0 gfn 0 l1 8-byte q0 -ux nxe ad root 0 unsync existing", PageEvent(0, 0, 1, "get_page existing")),
    (b"prepare_zap_page: sp gen 255 gfn 1 l4 8-byte q0 wux nxe ad root 1 sync", PageEvent(UNACCOUNT, 1, 4, "prepare_zap_page")),
    (b"prepare_zap_page: sp gen 1 gfn 1 l2 4-byte q3 --- !nxe !ad root 1 unsync", PageEvent(UNACCOUNT, 1, 2, "prepare_zap_page")),
    (
        b"prepare_zap_page: sp gen 1 gfn 1 l4 8-byte q0 wux invalid nxe ad root 0 sync",
        PageEvent(0, 1, 4, "prepare_zap_page invalid"),
    ),
    (b"sync_page: sp gen 0 gfn 9 l1 8-byte q0 wux nxe ad root 0 unsync", PageEvent(0, 9, 1, "sync_page")),
    (b"unsync_page: sp gen 0 gfn 9 l1 8-byte q0 wux nxe ad root 0 sync", PageEvent(0, 9, 1, "unsync_page")),
    (b"get_page: sp gfn 83d 2 pae q0 wux nxe root 0 sync new", PageEvent(ACCOUNT, 0x83D, 2, "get_page new")),
    (b"get_page: sp gfn 83d 2 !pae q1 direct w-x !nxe root 0 sync new", PageEvent(0, 0x83D, 2, "get_page direct new")),
    (
        b"prepare_zap_page: sp gen 1f gfn 83d 4 q0 wux invalid nxe ad root 1 sync",
        PageEvent(0, 0x83D, 4, "prepare_zap_page invalid"),
    ),
]


class TestPageEvent:
    """Shadow-page events."""

    @pytest.mark.parametrize(("body", "expected"), BODIES)
    def test_every_spelling(self, body: bytes, expected: PageEvent) -> None:
        """All spellings of a page from 4.x to 6.18 are read, and only what is accounted has a kind."""
        page = page_event(b"kvm_mmu_" + body)
        assert page is not None
        assert (page.kind, page.gfn, page.level) == (expected.kind, expected.gfn, expected.level)
        assert page.words == "kvm_mmu_" + expected.words

    @pytest.mark.parametrize("body", [body for body, _ in BODIES])
    def test_damage_is_not_read(self, body: bytes) -> None:
        """An event that is cut anywhere is no event, nor is one with a byte changed to one that no release prints."""
        whole = b"kvm_mmu_" + body
        assert [cut for cut in range(len(whole)) if page_event(whole[:cut]) is not None] == []
        assert [at for at in range(len(whole)) if page_event(whole[:at] + b"?" + whole[at + 1 :]) is not None] == []

    @pytest.mark.parametrize("tail", [b"", b" new", b" existing"])
    def test_get_page_says_what_it_made(self, tail: bytes) -> None:
        """get_page ends with what it made, a zap never does."""
        words = b": sp gen 0 gfn 8b0 l2 8-byte q0 wux nxe ad root 0 sync" + tail
        assert (page_event(b"kvm_mmu_get_page" + words) is None) == (tail == b"")
        assert (page_event(b"kvm_mmu_prepare_zap_page" + words) is None) == (tail != b"")


TASK = b"         pdguest-15412   "


class TestUsualColumns:
    """The columns of nearly every trace."""

    @pytest.mark.parametrize(
        ("line", "groups"),
        [
            (b"         pdguest-15412   [000] ...1. 7.000250: x", (TASK, b"15412", b"7", b"000250")),
            (b"         pdguest-15412   (  15412) [001] 17.000250: x", (TASK, b"15412", b"17", b"000250")),
            (b"         pdguest-15412   [1000] d.h3. 1795341862.263814: x", (TASK, b"15412", b"1795341862", b"263814")),
            (b"  a-1 [0] ..b:  -7       [000] ..... 7.000250: x", (b"  a-1 [0] ..b:  -7       ", b"7", b"7", b"000250")),
            (b"         pdguest-15412   [000]       7.000250: x", (TASK, b"15412", b"7", b"000250")),
        ],
    )
    def test_parts(self, line: bytes, groups: tuple[bytes, ...]) -> None:
        """Thread and time are found by columns, whatever the name holds."""
        match = USUAL_COLUMNS.match(line)
        assert match is not None
        assert match.groups() == groups
        assert line[match.end() :] == b"x"

    @pytest.mark.parametrize(
        "line",
        [
            b"pdguest-15412 [000] 7.000250: x",
            b"         pdguest-15412   [000] ...1. 9999999999.000250: x",
            b"         pdguest-15412   [000] ...1. 12345: x",
            b" pdguest-15412     0...1. 7000250us : x",
        ],
    )
    def test_others(self, line: bytes) -> None:
        """Other columns, and times that no clock shows, are left to the slow way."""
        assert USUAL_COLUMNS.match(line) is None


class TestSyscalls:
    """Syscall events in trace_pipe form."""

    @pytest.mark.parametrize(
        ("body", "call"),
        [
            (b"sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)", SyscallEnter("ioctl", {"fd": 3, "cmd": 0xAE01, "arg": 0})),
            (
                b"sys_ioctl(fd: 0xc, cmd: 0x4020ae46, arg: 0x7ffcc95f1cc0)",
                SyscallEnter("ioctl", {"fd": 12, "cmd": 0x4020AE46, "arg": 0x7FFCC95F1CC0}),
            ),
            (
                b"sys_ioctl(unsigned int fd: 3, unsigned int cmd: 0xae80, unsigned long arg: 0)",
                SyscallEnter("ioctl", {"fd": 3, "cmd": 0xAE80, "arg": 0}),
            ),
            (b"sys_close(fd: 4)", SyscallEnter("close", {"fd": 4})),
            (b"sys_ioctl -> 0x0", SyscallExit("ioctl", 0)),
            (b"sys_ioctl -> 0xffffffffffffffe7", SyscallExit("ioctl", -25)),
            (b"sys_ioctl -> 0x3000", SyscallExit("ioctl", 0x3000)),
            (b"sys_ioctl(fd: 3, cmd: zz)", SyscallEnter("ioctl", {"fd": 3})),
            (
                b"sys_ioctl(fd: 10, cmd: 4020ae46, arg: 7ffcc95f1cc0)",  # 6.12
                SyscallEnter("ioctl", {"fd": 16, "cmd": 0x4020AE46, "arg": 0x7FFCC95F1CC0}),
            ),
            (b"sys_ioctl(fd: 007)", SyscallEnter("ioctl", {"fd": 7})),
            (b"sys_ioctl(fd: 12345678901234567)", SyscallEnter("ioctl", {})),
            (b"sys_ioctl -> zz", None),
            (b"kvm_exit: x", None),
        ],
    )
    def test_bodies(self, body: bytes, call: SyscallEnter | SyscallExit | None) -> None:
        """Arguments by the kernel's names, results as signed numbers, anything else is none."""
        assert syscall_of(body) == call


class TestOthers:
    """Losses, header lines, event names, recognition."""

    def test_lost(self) -> None:
        """A ring overrun is read with and without a count."""
        assert lost_line(b"CPU:0 [LOST 1234 EVENTS]") == LostLine(0, 1234)
        assert lost_line(b"CPU:31 [LOST EVENTS]") == LostLine(31, None)
        assert lost_line(b"CPU:0 [LOST x EVENTS]") is None

    def test_overwritten(self) -> None:
        """The header of the trace file says how many events were overwritten."""
        assert overwritten(b"# entries-in-buffer/entries-written: 140080/250280   #P:4") == 110200
        assert overwritten(b"# entries-in-buffer/entries-written: 7/7   #P:4") == 0
        assert overwritten(b"# tracer: nop") == 0

    def test_event_names(self) -> None:
        """An event is named by what stands before its colon."""
        names = [event_name(body) for body in (b"kvm_mmu_zap_all_fast: gen 1", b"a <-b", b"?", b"kvmmmu:x: y")]
        assert names == ["kvm_mmu_zap_all_fast", "function", "other", "kvmmmu:x"]
