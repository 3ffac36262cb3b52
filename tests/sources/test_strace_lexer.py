"""Lines of strace become records: prefixes, halves, results, ends, signals, and what is none of them."""

import pytest

from replay.sources.strace_lexer import StraceLexer, is_strace_line
from replay.sources.syscalls import BOTH, ENTER, EXIT, AttachLine, Record, SignalLine, Syscall, TaskEnd

CALL = "ioctl(3, KVM_CREATE_VM, 0) = 4"


def records(*text: str, tid: int = 0) -> list[Record]:
    """Return the records of lines."""
    return list(StraceLexer(text, tid=tid))


def one(line: str) -> Syscall:
    """Return the only record of a line, which is a call."""
    (record,) = records(line)
    assert isinstance(record, Syscall)
    return record


def counts(lexer: StraceLexer) -> list[tuple[str, str, int, str]]:
    """Return what a lexer counted, after reading all."""
    for _ in lexer:
        pass
    return [(counter.severity, counter.kind, counter.count, counter.first) for counter in lexer.tally.counters()]


class TestPrefixes:
    """What strace's options put before a call."""

    @pytest.mark.parametrize(
        ("prefix", "tid", "comm", "enter_ns"),
        [
            ("", 7, "", None),
            ("27463 ", 27463, "", None),
            ("9420  ", 9420, "", None),
            ("[pid 27463] ", 27463, "", None),
            ("[pid   463] ", 463, "", None),
            ("[pid 27463<qemu>] ", 27463, "qemu", None),
            ("28067<bash> ", 28067, "bash", None),
            ("28900<CPU 0/KVM> ", 28900, "CPU 0/KVM", None),
            ("27420 1795343273.241280 ", 27420, "", 1795343273_241280000),
            ("27504 1795343273.565176002 ", 27504, "", 1795343273_565176002),
            ("1795343273.241280 ", 7, "", 1795343273_241280000),
            ("27504 1795343273 ", 27504, "", 1795343273_000000000),
            ("1795343273 ", 7, "", 1795343273_000000000),
            ("27522      0.000000 ", 27522, "", 0),
            ("     0.000000 ", 7, "", 0),
            ("27546 10:27:53.748635 ", 27546, "", 37673_748635000),
            ("10:27:53 ", 7, "", 37673_000000000),
            ("27504 1795343273.565176 (+     0.000026) ", 27504, "", 1795343273_565176000),
            ("27632 [00007f885b892d6b] ", 27632, "", None),
            ("27632 [????????????????] ", 27632, "", None),
            ("27616 [  16] ", 27616, "", None),
            ("[pid   12] 10:27:53.748635 [00007f885b892d6b] [  16] ", 12, "", 37673_748635000),
        ],
    )
    def test_prefix(self, prefix: str, tid: int, comm: str, enter_ns: int | None) -> None:
        """Thread, comm and time are read whatever stands before the call; 7 is the tid of files without one."""
        (record,) = records(prefix + CALL, tid=7)
        assert isinstance(record, Syscall)
        assert (record.tid, record.comm, record.enter_ns, record.args, record.ret) == (
            tid,
            comm,
            enter_ns,
            "3, KVM_CREATE_VM, 0",
            4,
        )


class TestResults:
    """What stands behind the closing bracket."""

    @pytest.mark.parametrize(
        ("tail", "ret", "errno", "note"),
        [
            ("= 4", 4, "", ""),
            ("       = 4", 4, "", ""),
            ("= 4<anon_inode:kvm-vm>", 4, "", "anon_inode:kvm-vm"),
            ("= 3</dev/kvm<char 10:232>>", 3, "", "/dev/kvm<char 10:232>"),
            ("= 3</tmp/a = b>", 3, "", "/tmp/a = b"),
            ("= 0 (KVM_EXIT_IO)", 0, "", ""),
            ("= 0x8000 (flags O_RDONLY|O_LARGEFILE)", 0x8000, "", ""),
            ("= 0x7f041f886000", 0x7F041F886000, "", ""),
            ("= 0xfffffffffffffff2", -14, "", ""),
            ("= -1 ENOTTY (Inappropriate ioctl for device)", -25, "ENOTTY", ""),
            ("= -1 EFAULT (Bad address) <0.000012>", -14, "EFAULT", ""),
            ("= -1 ENOTSUPP (Unknown error 524)", -524, "ENOTSUPP", ""),
            ("= -1 (errno 531)", -531, "errno 531", ""),
            ("= ? ERESTARTSYS (To be restarted if SA_RESTART is set)", None, "ERESTARTSYS", ""),
            ("= ?", None, "", ""),
        ],
    )
    def test_result(self, tail: str, ret: int | None, errno: str, note: str) -> None:
        """Number, errno and note are read; a failure is -errno."""
        record = one(f"27463 ioctl(3, KVM_CREATE_VM, 0) {tail}")
        assert (record.ret, record.errno, record.ret_note, record.stage) == (ret, errno, note, BOTH)
        assert record.killed == (tail == "= ?")

    def test_duration(self) -> None:
        """-T gives the time of the exit."""
        record = one("9 1795343273.565176002 ioctl(3, KVM_CREATE_VM, 0) = 4<x> <0.000104405>")
        assert (record.enter_ns, record.exit_ns) == (1795343273_565176002, 1795343273_565280407)
        assert record.time_ns == record.exit_ns

    def test_brackets_inside(self) -> None:
        """Strings and structs may hold brackets and equal signs."""
        assert one('9 openat(AT_FDCWD, "/tmp/) = 7", O_RDONLY) = 3').args == 'AT_FDCWD, "/tmp/) = 7", O_RDONLY'

    @pytest.mark.parametrize(
        "tail", ["= -1 ENOMEM (Cannot allocate memory) (INJECTED)", "= 0 (INJECTED)", "= 5 (INJECTED: args, retval)"]
    )
    def test_injected(self, tail: str) -> None:
        """A result that strace made up is marked."""
        assert one(f"9 ioctl(3, KVM_CREATE_VM, 0) {tail}").injected

    @pytest.mark.parametrize("tail", ["= 4 (DELAYED)", "= 4 (INJECTED: args)"])
    def test_not_injected(self, tail: str) -> None:
        """A call that was delayed, or ran with other arguments, did run."""
        assert not one(f"9 ioctl(3, KVM_CREATE_VM, 0) {tail}").injected

    def test_unknown_errno(self) -> None:
        """An errno without a number leaves the result unknown, and is counted."""
        lexer = StraceLexer(["9 ioctl(3, 1, 0) = -1 EMADEUP (No such error)"])
        (record,) = lexer
        assert isinstance(record, Syscall)
        assert (record.ret, record.killed) == (None, False)
        assert [(c.kind, c.count) for c in lexer.tally.counters()] == [("errno EMADEUP has no number here", 1)]


class TestHalves:
    """Calls that strace splits because another thread spoke in between."""

    def test_same_object_twice(self) -> None:
        """The first half comes as ENTER, the second as EXIT of the same object, with both halves' arguments."""
        stages = []
        seen = []
        for record in StraceLexer(
            ["9 1.5 clone(a <unfinished ...>", "8 1.6 close(3) = 0", "9 1.7 <... clone resumed>, tls=0x1) = 10"]
        ):
            assert isinstance(record, Syscall)
            stages.append((record.name, record.stage, record.ret))
            seen.append(record)
        assert stages == [("clone", ENTER, None), ("close", BOTH, 0), ("clone", EXIT, 10)]
        assert seen[0] is seen[2]
        assert (seen[0].args, seen[0].line, seen[0].exit_line) == ("a, tls=0x1", 1, 3)
        assert seen[0].exit_ns is not None

    def test_pending_by_thread(self) -> None:
        """Threads are in different calls at the same time."""
        text = [
            "1 ioctl(1, A <unfinished ...>",
            "2 ioctl(2, B <unfinished ...>",
            "1 <... ioctl resumed>) = 1",
            "2 <... ioctl resumed>) = 2",
        ]
        done = [r for r in StraceLexer(text) if isinstance(r, Syscall) and r.stage == EXIT]
        assert [(r.args, r.ret) for r in done] == [("1, A", 1), ("2, B", 2)]

    def test_second_half_alone(self) -> None:
        """A second half without its first is counted, for it could have been anything; of a mapping it does not matter."""
        lexer = StraceLexer(["9 <... ioctl resumed>) = 0", "9 <... mmap resumed>) = 0x7f", "9 <... read resumed>) = 0"])
        assert counts(lexer) == [("unknown", "second half of ioctl without its first half", 1, "strace:1")]

    @pytest.mark.parametrize(
        "text",
        [
            ["9 ioctl(4, KVM_RUN <unfinished ...>) = ?"],
            ["9 ioctl(4, KVM_RUN <unfinished ...>", "9 <... ioctl resumed> <unfinished ...>) = ?"],
        ],
    )
    def test_killed_inside(self, text: list[str]) -> None:
        """A call that the thread's end cut off is marked, with no result."""
        record = records(*text)[-1]
        assert isinstance(record, Syscall)
        assert (record.killed, record.ret, record.args, record.done) == (True, None, "4, KVM_RUN", True)

    def test_exec_changes_the_thread(self) -> None:
        """A thread that execs becomes its leader: the second half comes under the leader's number."""
        found = records(
            "11 execve(x <pid changed to 10 ...>", "10 +++ superseded by execve in pid 11 +++", "10 <... execve resumed>) = 0"
        )
        assert [type(r).__name__ for r in found] == ["Syscall", "TaskEnd", "Syscall"]
        assert isinstance(found[2], Syscall)
        assert (found[2].tid, found[2].ret, found[2].args) == (10, 0, "x")

    def test_exec_of_a_thread_between_others(self) -> None:
        """So it does when other threads' lines parted the halves; it has succeeded, whatever strace prints as its result."""
        lexer = StraceLexer(
            [
                "11 execve(x <unfinished ...>",
                "12 +++ exited with 0 +++",
                "10 +++ superseded by execve in pid 11 +++",
                "10 --- SIGURG {si_signo=SIGURG} ---",
                "10 <... execve resumed>) = -1 (errno 18446744073709551458)",
            ]
        )
        last = list(lexer)[-1]
        assert isinstance(last, Syscall)
        assert (last.tid, last.ret, last.args, last.errno) == (10, 0, "x", "")
        assert lexer.tally.counters() == ()


class TestOtherLines:
    """Ends, signals, attaches, and what is counted."""

    @pytest.mark.parametrize(
        ("line", "killed", "by"),
        [
            ("9 +++ exited with 0 +++", False, None),
            ("9 1.2 +++ killed by SIGKILL +++", True, None),
            ("9 +++ killed by SIGSEGV (core dumped) +++", True, None),
            ("9 +++ superseded by execve in pid 12 +++", False, 12),
            ("9 [????????????????] +++ exited with 1 +++", False, None),
        ],
    )
    def test_ends(self, line: str, killed: bool, by: int | None) -> None:
        """The ways in which a task ends."""
        (record,) = records(line)
        assert isinstance(record, TaskEnd)
        assert (record.tid, record.killed, record.superseded_by) == (9, killed, by)

    def test_signal(self) -> None:
        """A signal line keeps its text."""
        (record,) = records("9 --- SIGCHLD {si_signo=SIGCHLD, si_pid=12} ---")
        assert isinstance(record, SignalLine)
        assert record.text == "SIGCHLD {si_signo=SIGCHLD, si_pid=12}"

    def test_attached(self) -> None:
        """Strace says which threads it attached to."""
        found = records("strace: Process 28896 attached", "strace: Process 5 attached with 3 threads")
        assert [r.tid for r in found if isinstance(r, AttachLine)] == [28896, 5]

    def test_uninteresting_calls_are_passed_over(self) -> None:
        """Calls that can not matter are no records and no counts."""
        lexer = StraceLexer(["9 read(3, 0x7f, 5) = 5", "9 futex(0x7f <unfinished ...>", "9 mmap(NULL, 8, 3, 2, -1, 0) = 0x7f"])
        assert counts(lexer) == []
        assert lexer.calls == 0

    def test_counts(self) -> None:
        """What is no line of strace is counted by kind, with its place."""
        lexer = StraceLexer(["hello", " VCPU:0> {}", "strace: Can't do that", "", "9 close(3", "9 close(4) = 0"], name="a.txt")
        assert counts(lexer) == [
            ("unknown", "line not understood", 2, "a.txt:1"),
            ("ignored", "continuation line", 1, "a.txt:2"),
            ("ignored", "message of strace", 1, "a.txt:3"),
        ]

    def test_cut_end(self) -> None:
        """A last line without a result is a cut: the call was begun, its result is not known."""
        lexer = StraceLexer(["9 close(3) = 0", "9 ioctl(4, KVM_RUN"])
        found = [r for r in lexer if isinstance(r, Syscall)]
        assert [(r.args, r.stage) for r in found] == [("3", BOTH), ("4, KVM_RUN", ENTER)]
        assert [c.kind for c in lexer.tally.counters()] == ["last line is cut"]

    def test_summary(self) -> None:
        """The table of -c is recognised and its lines are no noise."""
        lexer = StraceLexer(
            [
                "% time     seconds  usecs/call     calls    errors syscall",
                "------ ------",
                "100.00    0.014187         886        16           total",
            ]
        )
        assert counts(lexer) == []
        assert lexer.summary


class TestClocks:
    """Times that need the lines before."""

    def test_relative_counts_every_line(self) -> None:
        """With -r the stamps of lines that are passed over count as well."""
        found = records("     0.000000 read(3) = 1", "     0.000100 read(3) = 1", "     0.000020 close(3) = 0")
        assert [r.enter_ns for r in found if isinstance(r, Syscall)] == [120_000]

    def test_midnight(self) -> None:
        """Time of day goes on counting after midnight."""
        found = records("23:59:59.5 close(3) = 0", "00:00:00.5 close(3) = 0", "00:00:01 close(3) = 0")
        times = [r.enter_ns for r in found if isinstance(r, Syscall) and r.enter_ns is not None]
        assert [time - times[0] for time in times] == [0, 1_000_000_000, 1_500_000_000]

    @pytest.mark.parametrize(
        ("first", "second"), [("1795343273.5", "10:00:00"), ("10:00:00", "1795343273.5"), ("0.5", "10:00:00")]
    )
    def test_another_clock(self, first: str, second: str) -> None:
        """A stamp of another clock, from a file put together, is no time; it is counted."""
        lexer = StraceLexer([f"9 {first} close(3) = 0", f"9 {second} close(4) = 0"])
        times = [r.enter_ns is None for r in lexer if isinstance(r, Syscall)]
        assert times == [False, True]
        assert [c.kind for c in lexer.tally.counters()] == ["time of another clock than the first one's"]

    def test_digits_that_are_none(self) -> None:
        """Superscript digits are letters here."""
        (record,) = records("9 +++ superseded by execve in pid \xb2 +++")
        assert isinstance(record, TaskEnd)
        assert record.superseded_by is None

    def test_hostile_numbers(self) -> None:
        """No number in a line can grow beyond what an event holds."""
        found = records(f"9 {'9' * 400}.{'9' * 400} close({'9' * 400}) = {'9' * 400}", f"9 close(3) = 0 <{'9' * 400}>")
        assert len(found) == 2
        for record in found:
            assert isinstance(record, Syscall)
            assert record.enter_ns is None or 0 <= record.enter_ns < 1 << 63
            assert record.ret is None or -(1 << 63) <= record.ret < 1 << 63


class TestRecognition:
    """Which text is strace's at all."""

    @pytest.mark.parametrize(
        "line",
        [
            "9 read(3, x) = 5",
            "read(3) = -1 EINTR (x)",
            "[pid 9] <... futex resumed>) = 0",
            "9 +++ exited with 0 +++",
            "9 f(1 <unfinished ...>",
        ],
    )
    def test_lines(self, line: str) -> None:
        """Any call, half, end or signal."""
        assert is_strace_line(line)

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "main(argc) called",
            "x-12 [000] ..... 1.5: sys_ioctl(fd: 3)",
            "--- a/file",
            "+++ b/file",
            "r0 = open(3)",
            '{"a": 1}',
        ],
    )
    def test_others(self, line: str) -> None:
        """Program text, diffs, and other tools' lines are not."""
        assert not is_strace_line(line)
