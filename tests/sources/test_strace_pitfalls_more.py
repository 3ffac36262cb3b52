"""More of what goes wrong with strace recordings: killed calls, cut ends, attaching, races, other releases."""

from pathlib import Path

import pytest
from strace_texts import excerpt, lines, slot_changes

from replay.events import (
    MemslotSet,
    Opaque,
    VmAttach,
    VmDestroy,
)

CREATE = "ioctl(3, KVM_CREATE_VM, 0) = 4"
SLOT = "{slot=0, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f0000000000}"
SET = f"ioctl(4, KVM_SET_USER_MEMORY_REGION, {SLOT}) = 0"
THREAD = "flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD"


class TestKilledCalls:
    """Trap 7: a call that never returns may or may not have taken effect."""

    @pytest.mark.parametrize(
        "call",
        [
            [f"{SET[:-5]} <unfinished ...>) = ?"],
            [f"{SET[:-5]} <unfinished ...>", "<... ioctl resumed> <unfinished ...>) = ?"],
            [f"{SET[:-5]} <unfinished ...>", "<... ioctl resumed>) = ?"],
            [f"{SET[:-5]} <unfinished ...>"],
            [f"{SET[:-5]} <detached ...>"],
        ],
    )
    def test_result_is_unknown(self, tmp_path: Path, call: list[str]) -> None:
        """The arguments are known, the result is not; before the VM ends with its process."""
        got = lines(tmp_path, f"10 {CREATE}", *(f"10 {line}" for line in call), "10 +++ killed by SIGKILL +++")
        assert got.kinds() == ["vm.create", "memslot.set", "vm.destroy"]
        assert (got.of(MemslotSet)[0].ret, got.of(MemslotSet)[0].memory_size) == (None, 4096)
        assert got.of(VmDestroy)[0].reason == "killed"

    def test_real_one(self) -> None:
        """QEMU killed inside KVM_RUN: its VM ends, killed."""
        got = excerpt("kill-qemu-0.25")
        assert slot_changes(got.events) == {"create": 12, "delete": 9, "peak": 6}
        assert [(e.reason, e.foreign_mm) for e in got.of(VmDestroy)] == [("killed", True)]


class TestCutEnd:
    """Trap 8: strace itself was killed, the last line stops in its middle."""

    def test_real_one(self) -> None:
        """All before the last line counts; the cut is said; the VM is still alive."""
        got = excerpt("kill-strace")
        assert slot_changes(got.events) == {"create": 13, "delete": 9, "peak": 6}
        assert got.not_understood() == ["last line is cut"]
        assert got.of(VmDestroy) == []

    @pytest.mark.parametrize("length", range(5, len(SET), 7))
    def test_every_cut_of_a_memslot_call(self, tmp_path: Path, length: int) -> None:
        """Wherever it is cut, no slot is made up: the call is whole, or opaque, or not there, and its result unknown."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {SET[:length]}", end="")
        assert all(event.ret is None and event.memory_size == 4096 for event in got.of(MemslotSet))
        assert {event.ret for event in got.of(Opaque)} <= {None}
        assert got.counted("last line is cut") == 1

    def test_whole_last_line(self, tmp_path: Path) -> None:
        """A last line without its line end but with its result is whole."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {SET}", end="")
        assert [event.ret for event in got.of(MemslotSet)] == [0]
        assert got.not_understood() == []


class TestExecOfAThread:
    """Trap 3: an execve by a thread that is not its leader's, as Go programs do it."""

    def test_real_one(self) -> None:
        """The sandbox of gVisor on 6.12, to its end by itself: its slots of 2 GiB, and its VM goes with it."""
        got = excerpt("runsc-6.12")
        calls = [(event.slot, event.memory_size, event.ret) for event in got.of(MemslotSet)]
        assert [slot for slot, _, _ in calls] == [0, 1, 2, 3]
        assert all(size <= 2 << 30 and ret == 0 for _, size, ret in calls)
        assert got.kinds()[-1] == "vm.destroy"
        assert got.counted("task superseded by execve") == 1
        assert got.not_understood() == []


class TestAttach:
    """Trap 9: strace -p on a live VM."""

    def test_real_one(self) -> None:
        """The VM is attached to before its first event; slots from before are deleted without having been created."""
        got = excerpt("attach-late")
        assert got.kinds()[0] == "vm.attach"
        assert [event.vm for event in got.of(VmAttach)] == [0]
        assert {event.vm for event in got.of(MemslotSet)} == {0}
        assert slot_changes(got.events)["delete of unseen"] == 7
        assert not got.stream.header.complete_start

    def test_process_is_the_leader(self) -> None:
        """Threads that were there before are one process, under its leader's number."""
        assert {event.task.pid for event in excerpt("attach-late").events if event.task} == {28894}

    def test_two_live_vms(self, tmp_path: Path) -> None:
        """Two fds that -y names kvm-vm are two VMs; a vCPU met first belongs to the first VM fd after it."""
        vm = f"<anon_inode:kvm-vm>, KVM_SET_USER_MEMORY_REGION, {SLOT}) = 0"
        got = lines(
            tmp_path,
            "10 ioctl(11<anon_inode:kvm-vcpu:0>, KVM_RUN, 0) = 0",
            f"10 ioctl(9{vm}",
            f"10 ioctl(20{vm}",
            "10 fcntl(1, F_GETFD) = 0",
        )
        assert [event.vm for event in got.of(MemslotSet)] == [0, 1]
        assert [event.vm for event in got.of(VmAttach)] == [0, 1]

    def test_without_notes(self, tmp_path: Path) -> None:
        """Without -y a success on an unknown fd shows that it is a VM; an EINVAL could be anything's."""
        got = lines(tmp_path, f"10 {SET.replace('= 0', '= -1 EINVAL (Invalid argument)')}", f"10 {SET}")
        assert got.kinds() == ["vm.attach", "memslot.set"]
        assert got.counted("memslot ioctl on an fd that is not a VM") == 1


class TestRacingCalls:
    """Trap 10: the first half has the arguments, the second the result; the effect lies between."""

    def test_order_of_results(self, tmp_path: Path) -> None:
        """Calls come out in the order in which they returned, each with both of its times."""
        first, second = SET, SET.replace("slot=0", "slot=1")
        got = lines(
            tmp_path,
            f"10 1795343273.000001 {CREATE}",
            f"10 1795343273.000002 clone({THREAD}) = 11",
            f"10 1795343273.000003 {first[:-5]} <unfinished ...>",
            f"11 1795343273.000004 {second}",
            "10 1795343273.000009 <... ioctl resumed>) = 0",
        )
        done = got.of(MemslotSet)
        assert [event.slot for event in done] == [1, 0]
        assert [(event.enter_time_ns, event.time_ns) for event in done] == [
            (None, 1795343273_000004000),
            (1795343273_000003000, 1795343273_000009000),
        ]
        assert [place.split(":")[1] for place in got.places()] == ["1", "4", "3"]

    def test_fd_is_looked_up_at_entry(self, tmp_path: Path) -> None:
        """A call is on the file that its fd was when it began, and holds it: closing meanwhile ends the VM after the call."""
        got = lines(
            tmp_path,
            f"10 {CREATE}",
            f"10 clone({THREAD}) = 11",
            f"10 {SET[:-5]} <unfinished ...>",
            "11 close(4) = 0",
            '11 openat(AT_FDCWD, "/dev/null", O_RDONLY) = 4',
            "10 <... ioctl resumed>) = 0",
        )
        assert got.kinds() == ["vm.create", "memslot.set", "vm.destroy"]

    def test_close_takes_effect_at_entry(self, tmp_path: Path) -> None:
        """The number is free as soon as close() has begun, though its line is not complete."""
        got = lines(
            tmp_path,
            f"10 {CREATE}",
            f"10 clone({THREAD}) = 11",
            "10 close(4 <unfinished ...>",
            f"11 {CREATE}",
            "10 <... close resumed>) = 0",
            f"11 {SET}",
        )
        assert [(e.KIND, getattr(e, "vm", None)) for e in got.events] == [
            *[("vm.create", 0), ("vm.destroy", 0), ("vm.create", 1), ("memslot.set", 1)]
        ]


class TestInheritedDevice:
    """Trap 12: /dev/kvm may come with the process, no line opens it."""

    def test_no_open(self, tmp_path: Path) -> None:
        """A create on a number that was never opened is a create."""
        assert lines(tmp_path, "10 ioctl(17, KVM_CREATE_VM, 0) = 4", f"10 {SET}").kinds() == ["vm.create", "memslot.set"]


class TestNewerStrace:
    """Trap 13: later releases print more lines and older kernels shorter names."""

    def test_continuation_lines(self, tmp_path: Path) -> None:
        """Lines of exit structs that begin with a space are passed over and counted."""
        got = lines(
            tmp_path,
            f"10 {CREATE}",
            "10 ioctl(5<anon_inode:kvm-vcpu>, KVM_RUN, 0) = 0",
            " VCPU:0> {exit_reason=KVM_EXIT_IO}",
            f"10 {SET}",
        )
        assert got.kinds() == ["vm.create", "memslot.set"]
        assert got.counted("continuation line") == 1
        assert got.not_understood() == []

    def test_vcpu_without_a_number(self, tmp_path: Path) -> None:
        """A vCPU's name may lack its number, or have one that is none."""
        names = ["kvm-vcpu", "kvm-vcpu:", "kvm-vcpu:\xb2", "kvm-vcpu:x", "kvm-vcpu:99999999"]
        got = lines(tmp_path, f"10 {CREATE}", *(f"10 ioctl(5<anon_inode:{name}>, KVM_RUN, 0) = 0" for name in names))
        assert got.kinds() == ["vm.create"]
        assert got.counted("KVM_RUN") == len(names)

    def test_unknown_lines(self, tmp_path: Path) -> None:
        """What is no line of strace is counted as not understood, with its place, and the rest is read."""
        got = lines(tmp_path, f"10 {CREATE}", "Booting from Hard Disk...", f"10 {SET}")
        (counter,) = (c for c in got.stream.trailer().counters if c.severity == "unknown")
        assert (counter.kind, counter.count, counter.first) == ("line not understood", 1, "strace.txt:2")
        assert slot_changes(got.events) == {"create": 1, "peak": 1}


class TestFaultInjection:
    """Strace's own -e inject=: a call that the kernel never saw."""

    @pytest.mark.parametrize("tail", ["-1 ENOMEM (Cannot allocate memory) (INJECTED)", "0 (INJECTED)"])
    def test_no_event(self, tmp_path: Path, tail: str) -> None:
        """An injected result changes nothing in KVM: no event, a count."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {SET.replace('= 0', f'= {tail}')}")
        assert got.kinds() == ["vm.create"]
        assert got.counted("ioctl answered by strace's fault injection, not by KVM") == 1
