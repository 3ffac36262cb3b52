"""Who made whom: calls that make tasks are matched to the tasks that appear."""

import pytest

from replay.sources.lineage import Birth, Lineage, clone_flags
from replay.sources.strace_scan import Scanner

THREAD = "flags=CLONE_VM|CLONE_FILES|CLONE_THREAD"


def lineage(*lines: str) -> Lineage:
    """Return what a first pass over lines finds."""
    scanner = Scanner()
    scanner.scan(["".join(f"{line}\n" for line in lines)])
    return scanner.finish().lineage


def births(*lines: str) -> list[tuple[int, int, str]]:
    """Return (task, maker, "thread", "process", with a ? when it is concluded) by task."""
    found = sorted((b for many in lineage(*lines).births.values() for b in many), key=lambda b: (b.tid, b.call))
    return [(b.tid, b.parent, ("thread" if b.thread else "process") + "?" * b.inferred) for b in found]


class TestNumbers:
    """The printed number names the task."""

    def test_thread_and_process(self) -> None:
        """Flags say what is shared."""
        assert births(f"10 clone({THREAD}) = 11", "10 fork() = 12", "11 close(1) = 0", "12 close(1) = 0") == [
            (11, 10, "thread"),
            (12, 10, "process"),
        ]

    def test_child_first(self) -> None:
        """A task that appears before the call returns is matched all the same."""
        assert births(f"10 clone3({{{THREAD}}} <unfinished ...>", "11 close(1) = 0", "10 <... clone3 resumed>, 88) = 11") == [
            (11, 10, "thread")
        ]

    def test_number_used_again(self) -> None:
        """A number that is made twice is two births, in order."""
        assert births("10 fork() = 11", "11 +++ exited with 0 +++", f"10 clone({THREAD}) = 11", "11 close(1) = 0") == [
            (11, 10, "process"),
            (11, 10, "thread"),
        ]

    def test_failed_call(self) -> None:
        """A call that fails makes nobody."""
        assert births("10 fork() = -1 EAGAIN (Resource temporarily unavailable)", "10 close(1) = 0") == []

    def test_unseen_child(self) -> None:
        """Without -f a child never appears: no birth."""
        assert births("10 fork() = 4000", "10 close(1) = 0") == []


class TestOrder:
    """Inside a pid namespace the number is another: what is left is matched in order."""

    def test_by_rising_ids(self) -> None:
        """The calls in their order made the tasks in order of their ids."""
        found = births(
            "100 clone(flags=CLONE_NEWPID) = 101",
            f"101 clone({THREAD}) = 2",
            f"101 clone({THREAD}) = 3",
            "103 close(1) = 0",
            "102 close(1) = 0",
        )
        assert found == [(101, 100, "process"), (102, 101, "thread?"), (103, 101, "thread?")]

    def test_not_before_the_call(self) -> None:
        """A task that was there before the call is not its child."""
        assert births("10 close(1) = 0", "9 close(1) = 0", f"10 clone({THREAD}) = 2") == []


class TestWithoutCalls:
    """Calls that make tasks may not be recorded, or not all of them."""

    def test_sigchld(self) -> None:
        """SIGCHLD names a child process of its receiver."""
        found = births(
            "10 close(1) = 0", "11 close(1) = 0", "10 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=11} ---"
        )
        assert found == [(11, 10, "process?")]
        assert not lineage("10 close(1) = 0").makers_recorded

    def test_exec(self) -> None:
        """A task of unknown origin that execs is a process of its own (a vfork that was not recorded)."""
        assert births("10 close(1) = 0", '11 execve("/bin/cat", ["cat"], 0x7f) = 0') == [(11, 10, "process?")]
        assert births('10 execve("/bin/cat", ["cat"], 0x7f) = 0') == []

    def test_attached(self) -> None:
        """Threads that strace attached to were there before."""
        found = lineage("strace: Process 11 attached", "10 close(1) = 0", "11 close(1) = 0")
        assert (found.attached, found.births) == ({11}, {})
        assert found.root_pid(11) == 10


class TestLineage:
    """The result of a first pass."""

    def test_take_in_order(self) -> None:
        """Births of one number are taken one after the other."""
        births_of = Lineage()
        first, second = Birth(7, 1), Birth(7, 2)
        births_of.add(first)
        births_of.add(second)
        assert [births_of.take(7), births_of.take(7), births_of.take(7)] == [first, second, None]

    def test_child_of_a_call(self) -> None:
        """A call's line leads to the task it made."""
        assert lineage("10 fork() = 11", "11 close(1) = 0").child_of(0, 1) == 11
        assert lineage("10 fork() = 11", "11 close(1) = 0").child_of(0, 2) is None

    @pytest.mark.parametrize(
        ("name", "args", "flags"),
        [
            ("fork", "", 0),
            ("vfork", "", 0x4100),
            ("clone", "child_stack=NULL, flags=CLONE_VM|CLONE_FILES|CLONE_THREAD|SIGCHLD", 0x10500),
            ("clone", "child_stack=NULL, flags=0x3d0f00", 0x3D0F00),
            ("clone3", "{flags=0x100 /* CLONE_VM */, exit_signal=SIGCHLD}", 0x100),
            ("clone", "child_stack", 0),
        ],
    )
    def test_flags(self, name: str, args: str, flags: int) -> None:
        """Flags as words, as numbers (-X raw), or implied by the call."""
        assert clone_flags(name, args) == flags


class TestFacts:
    """What the recording says of its machine."""

    @pytest.mark.parametrize(
        ("line", "facts"),
        [
            ("KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE) = 0", {"smm": False}),
            ("KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE) = 2", {"smm": True}),
            ("KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE) = 1", {}),
            ("KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM) = 1", {"smm": True}),
            ("KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM) = 0", {}),
            ("KVM_CHECK_EXTENSION, 0xec /* KVM_CAP_??? */) = 1", {"tdp": True}),
            ("KVM_CHECK_EXTENSION, 0xec /* KVM_CAP_??? */) = 0", {}),
            ("0xae03, 0x76) = 2", {"smm": True}),
            ("0xae03 /* KVM_CHECK_EXTENSION */, 0x76 /* KVM_CAP_MULTI_ADDRESS_SPACE */) = 2", {"smm": True}),
            ("KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) = 1", {}),
        ],
    )
    def test_capabilities(self, line: str, facts: dict[str, object]) -> None:
        """An answer that can mean two things is no fact."""
        scanner = Scanner()
        scanner.scan([f"10 ioctl(4, {line}\n"])
        assert scanner.finish().facts == facts

    def test_release(self) -> None:
        """An unabbreviated uname names the kernel."""
        scanner = Scanner()
        scanner.scan(['10 uname({sysname="Linux", nodename="x", release="6.12.90", version="#1"}) = 0\n'])
        assert scanner.finish().facts == {"kernel_release": "6.12.90"}
