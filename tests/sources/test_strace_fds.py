"""What keeps a VM alive and what ends it, call by call; written lines, as -f prints them."""

from pathlib import Path

import pytest
from strace_texts import Imported, lines

from replay.events import MemslotSet, VmDestroy

OPEN = 'openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 3'
CREATE = "ioctl(3, KVM_CREATE_VM, 0) = 4"
VCPU = "ioctl(4, KVM_CREATE_VCPU, 0) = 5"
FORK = "clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 11"
THREAD = "clone(child_stack=0x7f, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD) = 11"
SLOT = "{slot=0, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f0000000000}"


def memslot(fd: int, ret: str = "0") -> str:
    """Return a memslot call."""
    return f"ioctl({fd}, KVM_SET_USER_MEMORY_REGION, {SLOT}) = {ret}"


def run(folder: Path, *calls: str) -> Imported:
    """Import calls; one that does not begin with a tid is task 10's."""
    return lines(folder, *(call if call[:2] in {"10", "11", "12", "13"} else f"10 {call}" for call in (OPEN, CREATE, *calls)))


def ends(got: Imported) -> list[tuple[int, str, bool, int]]:
    """Return (VM, reason, foreign mm, line) of each VM's end."""
    return [(e.vm, e.reason, e.foreign_mm, e.source.line) for e in got.of(VmDestroy) if e.source]


class TestCopies:
    """Copies of the VM's fd: the VM ends when the last one closes."""

    @pytest.mark.parametrize(
        "copy",
        [
            "dup(4) = 7",
            "dup2(4, 7) = 7",
            "dup3(4, 7, O_CLOEXEC) = 7",
            "fcntl(4, F_DUPFD, 7) = 7",
            "fcntl(4, F_DUPFD_CLOEXEC, 7) = 7",
            "fcntl(0x4, 0x406 /* F_DUPFD_CLOEXEC */, 7) = 7",
        ],
    )
    def test_copies(self, tmp_path: Path, copy: str) -> None:
        """Each way to copy an fd keeps the VM, and calls on the copy are on it."""
        got = run(tmp_path, copy, "close(4) = 0", memslot(7), "close(7) = 0")
        assert [event.vm for event in got.of(MemslotSet)] == [0]
        assert ends(got) == [(0, "close", False, 6)]

    def test_onto_itself(self, tmp_path: Path) -> None:
        """dup2 onto the same number is no second copy."""
        assert ends(run(tmp_path, "dup2(4, 4) = 4", "close(4) = 0")) == [(0, "close", False, 4)]

    @pytest.mark.parametrize("call", ["dup2(1, 4) = 4", "dup3(1, 4, 0) = 4"])
    def test_over_it(self, tmp_path: Path, call: str) -> None:
        """Copying another file over the VM's fd closes it, on record."""
        got = run(tmp_path, call)
        assert ends(got) == [(0, "close", False, 3)]
        assert not got.of(VmDestroy)[0].inferred

    def test_open_over_it(self, tmp_path: Path) -> None:
        """open() giving the VM's number shows a close that was not recorded."""
        got = run(tmp_path, 'openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 4')
        assert [(e.reason, e.inferred) for e in got.of(VmDestroy)] == [("close", True)]

    @pytest.mark.parametrize(
        ("call", "left"),
        [
            ("close_range(3, 4294967295, 0) = 0", 1),
            ("close_range(5, 6, 0) = 0", 0),
            ("close_range(3, 4, CLOSE_RANGE_CLOEXEC) = 0", 0),
            ("close_range(0, 9, 0) = -1 EINVAL (Invalid argument)", 0),
        ],
    )
    def test_close_range(self, tmp_path: Path, call: str, left: int) -> None:
        """close_range closes what lies in it, unless it only marks, or fails."""
        assert len(ends(run(tmp_path, call))) == left

    def test_failed_calls_change_nothing(self, tmp_path: Path) -> None:
        """A dup that fails copies nothing."""
        got = run(tmp_path, "dup2(4, 99999) = -1 EBADF (Bad file descriptor)", "close(4) = 0")
        assert len(ends(got)) == 1

    def test_close_that_fails(self, tmp_path: Path) -> None:
        """close() gives the fd back even when it says EINTR."""
        assert len(ends(run(tmp_path, "close(4) = -1 EINTR (Interrupted system call)"))) == 1


class TestOtherFiles:
    """vCPU, device, stats and guest_memfd files and mappings keep a VM as well."""

    def test_vcpu(self, tmp_path: Path) -> None:
        """The vCPU's fd keeps the VM after its own is closed."""
        got = run(tmp_path, VCPU, "close(4) = 0", "ioctl(5, KVM_RUN, 0) = 0", "close(5) = 0")
        assert ends(got) == [(0, "close", False, 6)]

    def test_mapping(self, tmp_path: Path) -> None:
        """kvm_run is mapped from the vCPU's file: the VM stays until it is unmapped."""
        mapped = "mmap(NULL, 12288, PROT_READ|PROT_WRITE, MAP_SHARED, 5, 0) = 0x7f0000001000"
        closed = (VCPU, mapped, "close(5) = 0", "close(4) = 0")
        assert ends(run(tmp_path, *closed)) == []
        assert ends(run(tmp_path, *closed, "munmap(0x7f0000001000, 4096) = 0")) == []
        assert ends(run(tmp_path, *closed, "munmap(0x7f0000001000, 12288) = 0")) == [(0, "close", False, 7)]
        assert ends(run(tmp_path, *closed, "+++ exited with 0 +++")) == [(0, "exit", True, 7)]

    @pytest.mark.parametrize(
        "call", ["ioctl(4, KVM_GET_STATS_FD, 0) = 6", "ioctl(4, _IOC(_IOC_READ|_IOC_WRITE, 0xae, 0xd4, 0x40), 0x7f) = 6"]
    )
    def test_files_made_of_it(self, tmp_path: Path, call: str) -> None:
        """A stats fd and a guest_memfd hold the VM."""
        assert ends(run(tmp_path, call, "close(4) = 0")) == []
        assert ends(run(tmp_path, call, "close(4) = 0", "close(6) = 0")) == [(0, "close", False, 5)]

    def test_device(self, tmp_path: Path) -> None:
        """A device's fd is not printed by KVM_CREATE_DEVICE: its first use shows it."""
        made = ("ioctl(4, KVM_CREATE_DEVICE, 0x7ffd) = 0", "ioctl(6, KVM_SET_DEVICE_ATTR, 0x7ffd) = 0", "close(4) = 0")
        assert ends(run(tmp_path, *made)) == []
        assert ends(run(tmp_path, *made, "close(6) = 0")) == [(0, "close", False, 6)]

    def test_dev_kvm_does_not(self, tmp_path: Path) -> None:
        """/dev/kvm itself is not a reference of a VM."""
        assert len(ends(run(tmp_path, "close(4) = 0"))) == 1


class TestExec:
    """execve: a new mm, and fds marked close-on-exec are gone."""

    EXEC = 'execve("/bin/true", ["true"], 0x7f /* 3 vars */) = 0'

    def test_closes_the_vm(self, tmp_path: Path) -> None:
        """KVM gives its fds O_CLOEXEC: exec ends the VM, with the new mm already in place."""
        assert ends(run(tmp_path, VCPU, self.EXEC)) == [(0, "exec", True, 4)]

    @pytest.mark.parametrize("call", ["fcntl(4, F_SETFD, 0) = 0", "ioctl(4, FIONCLEX) = 0"])
    def test_kept_fd(self, tmp_path: Path, call: str) -> None:
        """A VM fd without the mark survives, but its calls come from a foreign mm."""
        got = run(tmp_path, call, self.EXEC, memslot(4, "-1 EIO (Input/output error)"), "close(4) = 0")
        assert [(e.vm, e.foreign_mm) for e in got.of(MemslotSet)] == [(0, True)]
        assert ends(got) == [(0, "close", True, 6)]

    @pytest.mark.parametrize("call", ["dup(4) = 7", "fcntl(4, F_DUPFD, 7) = 7"])
    def test_copy_without_mark(self, tmp_path: Path, call: str) -> None:
        """A plain copy has no mark."""
        assert ends(run(tmp_path, call, self.EXEC)) == []

    def test_copy_with_mark(self, tmp_path: Path) -> None:
        """F_SETFD marks a copy."""
        got = run(tmp_path, "dup(4) = 7", "fcntl(7, F_SETFD, FD_CLOEXEC) = 0", self.EXEC)
        assert len(ends(got)) == 1

    def test_failed_exec(self, tmp_path: Path) -> None:
        """An exec that fails changes nothing."""
        got = run(tmp_path, 'execve("/x", ["x"], 0x7f) = -1 ENOENT (No such file or directory)', memslot(4))
        assert [event.foreign_mm for event in got.of(MemslotSet)] == [False]
        assert ends(got) == []

    def test_child_execs(self, tmp_path: Path) -> None:
        """A forked child that execs (QEMU's helpers) leaves its parent's VM alone."""
        got = run(tmp_path, FORK, f"11 {self.EXEC}", "11 +++ exited with 0 +++", memslot(4))
        assert ends(got) == []
        assert [event.foreign_mm for event in got.of(MemslotSet)] == [False]

    def test_vfork_child_execs(self, tmp_path: Path) -> None:
        """A vfork child shares the mm until it execs, never the fds."""
        got = run(
            tmp_path,
            "vfork( <unfinished ...>",
            f"11 {memslot(4)}",
            "11 close(4) = 0",
            f"11 {self.EXEC}",
            "<... vfork resumed>) = 11",
        )
        assert [event.foreign_mm for event in got.of(MemslotSet)] == [False]
        assert ends(got) == []

    def test_thread_execs(self, tmp_path: Path) -> None:
        """A thread that execs goes on under its leader's number, and the others are gone."""
        got = run(
            tmp_path,
            THREAD,
            '11 execve("/bin/true", ["true"], 0x7f <pid changed to 10 ...>',
            "10 +++ superseded by execve in pid 11 +++",
            "10 <... execve resumed>) = 0",
            "10 +++ exited with 0 +++",
        )
        assert ends(got) == [(0, "exec", True, 6)]


class TestExit:
    """The end of tasks: fds go with the last task that has the table, after the mm."""

    def test_last_thread(self, tmp_path: Path) -> None:
        """The VM ends with the last thread, not the first."""
        got = run(tmp_path, THREAD, "10 +++ exited with 0 +++", f"11 {memslot(4)}", "11 +++ exited with 0 +++")
        assert ends(got) == [(0, "exit", True, 6)]

    def test_fork_copies_keep_it(self, tmp_path: Path) -> None:
        """A forked child's copies keep the VM after the parent is gone; without its mm."""
        got = run(tmp_path, FORK, "10 +++ killed by SIGKILL +++", "11 close(4) = 0", "11 +++ exited with 0 +++")
        assert ends(got) == [(0, "close", True, 5)]

    def test_fork_after_close(self, tmp_path: Path) -> None:
        """A child forked after the close has no copy, even when its first line comes late."""
        got = run(tmp_path, "close(4) = 0", FORK, "11 +++ exited with 0 +++")
        assert ends(got) == [(0, "close", False, 3)]

    def test_fork_before_close(self, tmp_path: Path) -> None:
        """A child forked before the close has a copy, even when its first line comes after it."""
        got = run(tmp_path, FORK, "close(4) = 0", "11 +++ exited with 0 +++")
        assert ends(got) == [(0, "exit", True, 5)]

    def test_shared_table_of_two_processes(self, tmp_path: Path) -> None:
        """CLONE_FILES without CLONE_THREAD: one table, two processes and two mms."""
        got = run(
            tmp_path,
            "clone(child_stack=0x7f, flags=CLONE_FILES|SIGCHLD) = 11",
            "11 close(4) = 0",
            memslot(4, "-1 EBADF (Bad file)"),
        )
        assert ends(got) == [(0, "close", True, 4)]

    def test_unshare(self, tmp_path: Path) -> None:
        """unshare(CLONE_FILES) ends the sharing."""
        got = run(tmp_path, THREAD, "11 unshare(CLONE_FILES) = 0", "11 close(4) = 0", memslot(4))
        assert ends(got) == []
        assert len(got.of(MemslotSet)) == 1

    def test_exit_group_without_exit_lines(self, tmp_path: Path) -> None:
        """With -qqq no line says the end: exit_group does, at the end of the recording."""
        assert [(vm, why) for vm, why, *_ in ends(run(tmp_path, THREAD, "exit_group(0) = ?"))] == [(0, "exit")]

    def test_alive_at_the_end(self, tmp_path: Path) -> None:
        """A VM whose process was not seen to end is left alive."""
        assert ends(run(tmp_path, memslot(4))) == []

    def test_tid_used_again(self, tmp_path: Path) -> None:
        """A task id that comes a second time is another task, with what its own maker has."""
        got = run(
            tmp_path,
            FORK,
            "11 close(4) = 0",
            "11 +++ exited with 0 +++",
            THREAD,
            f"11 {memslot(4)}",
            "11 +++ exited with 0 +++",
            "10 +++ exited with 0 +++",
        )
        assert [(e.vm, e.foreign_mm) for e in got.of(MemslotSet)] == [(0, False)]
        assert ends(got) == [(0, "exit", True, 9)]


class TestPassing:
    """Fds that go from process to process."""

    SEND = "sendmsg(8, {msg_control=[{cmsg_len=20, cmsg_type=SCM_RIGHTS, cmsg_data=[4]}], msg_controllen=24}, 0) = 1"
    RECEIVE = "11 recvmsg(8, {msg_control=[{cmsg_len=20, cmsg_type=SCM_RIGHTS, cmsg_data=[6]}], msg_controllen=24}, 0) = 1"

    def test_without_notes(self, tmp_path: Path) -> None:
        """Numbers only: the receiver's fd is the file of the message that is on its way."""
        got = lines(
            tmp_path,
            f"10 {FORK}",
            f"10 {OPEN}",
            f"10 {CREATE}",
            f"10 {self.SEND}",
            "10 close(4) = 0",
            self.RECEIVE,
            f"11 {memslot(6, '-1 EIO (Input/output error)')}",
            "11 close(6) = 0",
        )
        assert [(e.vm, e.foreign_mm) for e in got.of(MemslotSet)] == [(0, True)]
        assert ends(got) == [(0, "close", True, 8)]

    def test_in_flight(self, tmp_path: Path) -> None:
        """A message that nobody has received yet holds the VM."""
        got = lines(tmp_path, f"10 {FORK}", f"10 {CREATE}", f"10 {self.SEND}", "10 close(4) = 0")
        assert ends(got) == []

    def test_failed_send(self, tmp_path: Path) -> None:
        """A message that was not sent holds nothing."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {self.SEND.replace('= 1', '= -1 EPIPE (Broken pipe)')}", "10 close(4) = 0")
        assert len(ends(got)) == 1

    def test_message_that_is_never_received(self, tmp_path: Path) -> None:
        """When all tasks are gone, so are messages between them."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {self.SEND}", "10 close(4) = 0", "10 +++ exited with 0 +++")
        assert [why for _, why, *_ in ends(got)] == ["exit"]

    def test_pidfd_getfd(self, tmp_path: Path) -> None:
        """pidfd_getfd takes another process's file by its number there."""
        got = lines(
            tmp_path,
            f"10 {FORK}",
            "10 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>",
            "11 pidfd_getfd(7<anon_inode:[pidfd]>, 4<anon_inode:kvm-vm>, 0) = 5<anon_inode:kvm-vm>",
            f"11 {memslot(5, '-1 EIO (Input/output error)')}",
            "10 +++ exited with 0 +++",
            "11 +++ exited with 0 +++",
        )
        assert [(e.vm, e.foreign_mm) for e in got.of(MemslotSet)] == [(0, True)]
        assert ends(got) == [(0, "exit", True, 6)]


class TestKernelIsRight:
    """Where the recording's tasks are not known well enough, KVM's answers decide."""

    def test_not_refused(self, tmp_path: Path) -> None:
        """A call that KVM carries out comes from the VM's mm, whatever the lines say; said once, then known."""
        got = run(tmp_path, FORK, f"11 {memslot(4)}", f"11 {memslot(4)}")
        assert [event.foreign_mm for event in got.of(MemslotSet)] == [False, False]
        assert len(got.not_understood()) == 1

    def test_refused_in_its_own_mm(self, tmp_path: Path) -> None:
        """EIO to the creator itself is a VM that KVM gave up, not a foreign mm."""
        got = run(tmp_path, memslot(4, "-1 EIO (Input/output error)"))
        assert [event.foreign_mm for event in got.of(MemslotSet)] == [False]
