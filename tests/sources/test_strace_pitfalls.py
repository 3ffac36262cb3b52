"""What goes wrong with strace recordings of VMMs, one class for each trap, mostly on excerpts of real recordings."""

from pathlib import Path

import pytest
from strace_texts import excerpt, lines, slot_changes

from replay.events import (
    DirtyLogGet,
    GuestMemfdCreate,
    IdentityMapSet,
    MemslotSet,
    Opaque,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
)
from replay.units import EFAULT, EINVAL, EIO

CREATE = "ioctl(3, KVM_CREATE_VM, 0) = 4"
SLOT = "{slot=0, flags=0, guest_phys_addr=0, memory_size=4096, userspace_addr=0x7f0000000000}"
SET = f"ioctl(4, KVM_SET_USER_MEMORY_REGION, {SLOT}) = 0"
THREAD = "flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD"


class TestThreadsBeforeTheirClone:
    """Trap 1: the prefix is a thread id, and a thread's lines come before its maker's clone returns."""

    def test_threads_of_one_process(self) -> None:
        """Calls of six threads are all on the one VM of their process."""
        got = excerpt("fd-threads")
        assert {event.vm for event in got.of(MemslotSet)} == {0}
        assert {event.task.pid for event in got.events if event.task} == {27167}
        assert len(set(got.tids())) == 7

    def test_child_first(self, tmp_path: Path) -> None:
        """A thread that calls before the clone that made it has returned has its maker's fds and mm."""
        got = lines(
            tmp_path, f"10 {CREATE}", f"10 clone3({{{THREAD}}}, 88 <unfinished ...>", f"11 {SET}", "10 <... clone3 resumed>) = 11"
        )
        (event,) = got.of(MemslotSet)
        assert (event.vm, event.foreign_mm, event.task and event.task.pid) == (0, False, 10)

    def test_pid_namespaces(self) -> None:
        """Inside a pid namespace clone prints another number: gVisor's threads are found by their order."""
        got = excerpt("runsc-echo")
        assert {(e.vm, e.foreign_mm) for e in got.of(MemslotSet)} == {(0, False)}
        assert {e.task.pid for e in got.of(VcpuCreate) if e.task} == {9426}
        assert {e.task.tid for e in got.of(VcpuCreate) if e.task} == {9432}

    def test_two_processes(self) -> None:
        """Two processes with a VM each at the same fd number are two VMs."""
        got = excerpt("two-shadow-vms")
        owners = {(event.vm, event.task.pid) for event in got.of(MemslotSet) if event.task}
        assert owners == {(0, 2048), (1, 2047)}
        assert slot_changes(got.events) == {"create": 13, "delete": 9, "flags": 58, "peak": 2}


class TestOnlyIoctls:
    """Trap 1, the poor case: no clone, open or close lines at all."""

    def test_fork_by_its_answer(self) -> None:
        """A child that KVM answers with EIO has another mm; its calls change nothing."""
        got = excerpt("Y_comm")
        assert [(e.foreign_mm, e.ret) for e in got.of(MemslotSet)] == [(False, 0), (True, -EIO), (False, 0)]

    def test_threads_share_numbers(self, tmp_path: Path) -> None:
        """Without clone lines an fd number is the same VM in every thread."""
        got = lines(tmp_path, f"10 {CREATE}", f"11 {SET}", "12 ioctl(4, KVM_CREATE_VCPU, 0) = 5", "12 +++ exited with 0 +++")
        assert [event.KIND for event in got.events] == ["vm.create", "memslot.set", "vcpu.create"]
        assert {event.foreign_mm for event in got.of(MemslotSet)} == {False}

    def test_same_number_in_two_processes(self, tmp_path: Path) -> None:
        """Two threads that each created a VM at the same number mean each its own."""
        got = lines(tmp_path, f"10 {CREATE}", f"20 {CREATE}", f"10 {SET}", f"20 {SET}", f"10 {SET}")
        assert [event.vm for event in got.of(MemslotSet)] == [0, 1, 0]
        assert got.of(VmDestroy) == []

    def test_another_process_may_close_that_number(self, tmp_path: Path) -> None:
        """A close by a thread that never called the VM is another process's fd of that number."""
        got = lines(tmp_path, f"10 {CREATE}", "20 close(4) = 0", f"10 {SET}", "10 close(4) = 0")
        assert got.kinds() == ["vm.create", "memslot.set", "vm.destroy"]

    def test_end_of_all(self, tmp_path: Path) -> None:
        """The VM ends when the last task of the recording does."""
        got = lines(tmp_path, f"10 {CREATE}", f"11 {SET}", "10 +++ exited with 0 +++", "11 +++ killed by SIGKILL +++")
        assert [(e.reason, e.foreign_mm) for e in got.of(VmDestroy)] == [("killed", True)]


class TestReusedNumbers:
    """Trap 2: an fd number is a VM, then another file, then another VM."""

    def test_reuse(self) -> None:
        """Each create is a new VM; calls between and after are on none, and counted."""
        got = excerpt("fd-reuse")
        assert [(e.KIND, getattr(e, "vm", None)) for e in got.events] == [
            *[("vm.create", 0), ("memslot.set", 0), ("vm.destroy", 0)],
            *[("vm.create", 1), ("memslot.set", 1), ("vm.destroy", 1)],
        ]
        assert got.counted("memslot ioctl on an fd that is not a VM") == 2

    def test_create_over_a_live_number(self, tmp_path: Path) -> None:
        """Without close lines, a create that returns a live number shows that the VM there was closed."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {SET}", f"10 {CREATE}", f"10 {SET}")
        assert got.kinds() == ["vm.create", "memslot.set", "vm.destroy", "vm.create", "memslot.set"]
        (gone,) = got.of(VmDestroy)
        assert (gone.vm, gone.reason, gone.inferred, gone.foreign_mm) == (0, "close", True, False)

    @pytest.mark.parametrize("answer", ["ENOTTY (Inappropriate ioctl for device)", "EBADF (Bad file descriptor)"])
    def test_answers_of_other_files(self, tmp_path: Path, answer: str) -> None:
        """ENOTTY and EBADF say that the number is no VM any more."""
        got = lines(tmp_path, f"10 {CREATE}", f"10 {SET.replace('= 0', f'= -1 {answer}')}", f"10 {SET}")
        assert got.kinds()[:2] == ["vm.create", "vm.destroy"]
        assert got.counted("memslot ioctl on an fd that is not a VM") == 1

    def test_unknown_call_of_a_vm(self, tmp_path: Path) -> None:
        """ENOTTY to a call that an older kernel does not have says nothing of the fd."""
        got = lines(
            tmp_path, f"10 {CREATE}", "10 ioctl(4, _IOC(_IOC_WRITE, 0xae, 0x49, 0xa0), 0x7f00) = -1 ENOTTY (Inapp)", f"10 {SET}"
        )
        assert got.kinds() == ["vm.create", "opaque", "memslot.set"]

    def test_note_disagrees(self, tmp_path: Path) -> None:
        """A note of -y that names another file goes before what the numbers say."""
        got = lines(
            tmp_path,
            "10 ioctl(3</dev/kvm>, KVM_CREATE_VM, 0) = 4<anon_inode:kvm-vm>",
            f"10 ioctl(4</tmp/x>, KVM_SET_USER_MEMORY_REGION, {SLOT}) = -1 ENOTTY (Inappropriate ioctl for device)",
        )
        assert got.kinds() == ["vm.create", "vm.destroy"]


class TestReferences:
    """Trap 3: dup, SCM_RIGHTS, fork and exec keep a VM alive, and other mms are refused."""

    def test_dup(self) -> None:
        """Through fcntl(F_DUPFD_CLOEXEC) and dup2 it stays one VM, until the last copy closes."""
        got = excerpt("fd-dup")
        assert got.kinds() == ["vm.create", *["memslot.set"] * 4, "vm.destroy"]
        assert slot_changes(got.events) == {"create": 3, "delete": 1, "peak": 2}
        assert got.of(VmDestroy)[0].reason == "close"

    def test_fork(self) -> None:
        """A forked child's call is foreign and fails with EIO; the parent's later one is not."""
        got = excerpt("fd-fork")
        assert [(e.foreign_mm, e.ret) for e in got.of(MemslotSet)] == [(False, 0), (True, -EIO), (False, 0)]
        assert [(e.reason, e.foreign_mm) for e in got.of(VmDestroy)] == [("exit", True)]

    def test_message(self) -> None:
        """The receiver of the fd is another mm; the VM lives on in it after its creator exits, and ends at its close."""
        got = excerpt("fd-scm")
        assert [(e.vm, e.foreign_mm, e.ret) for e in got.of(MemslotSet)] == [(0, False, 0), (0, True, -EIO), (0, True, -EIO)]
        (gone,) = got.of(VmDestroy)
        assert (gone.reason, gone.foreign_mm, gone.task and gone.task.pid) == ("close", True, 26782)

    def test_killed_while_another_holds_it(self) -> None:
        """A VM outlives its killed VMM in the process that has its fd."""
        got = excerpt("fd-sigkill_fdheld")
        assert [(e.vm, e.foreign_mm, e.ret) for e in got.of(MemslotSet)] == [(0, False, 0), (0, False, 0), (0, True, -EIO)]
        (gone,) = got.of(VmDestroy)
        assert (gone.reason, gone.foreign_mm, gone.task and gone.task.pid) == ("close", True, 26828)


class TestErrors:
    """Trap 11 and the table of errors: every answer of KVM_SET_USER_MEMORY_REGION."""

    def test_counts(self) -> None:
        """33 calls: 2 on fds that are no VM, the others by what they did."""
        got = excerpt("fd-errors")
        assert slot_changes(got.events) == {"create": 5, "flags": 2, "move": 2, "same": 1, "failed": 21, "peak": 5}
        assert got.counted("memslot ioctl on an fd that is not a VM") == 2

    def test_bad_pointer(self) -> None:
        """EFAULT prints a bare pointer: a memslot.set whose arguments are unknown, not an opaque call."""
        (event,) = (e for e in excerpt("fd-errors").of(MemslotSet) if e.fault)
        assert (event.ret, event.slot, event.memory_size) == (-EFAULT, 0, 0)
        assert excerpt("fd-errors").of(Opaque) == []

    def test_argument_words(self, tmp_path: Path) -> None:
        """Unknown flag bits are hex, joined by `|`; slots carry the address space in the upper half."""
        words = ["KVM_MEM_LOG_DIRTY_PAGES|0x8", "0x8 /* KVM_MEM_??? */", "KVM_MEM_LOG_DIRTY_PAGES|KVM_MEM_READONLY", "0"]
        calls = [SET.replace("flags=0", f"flags={word}").replace("slot=0", "slot=65541") for word in words]
        got = lines(tmp_path, f"10 {CREATE}", *(f"10 {call}" for call in calls))
        assert [event.flags for event in got.of(MemslotSet)] == [9, 8, 3, 0]
        assert {event.slot for event in got.of(MemslotSet)} == {0x10005}

    def test_largest_values(self) -> None:
        """Addresses up to 2^64 are exact."""
        gpas = {e.guest_phys_addr for e in excerpt("fd-errors").of(MemslotSet)}
        assert {0xFFFFFFFFFF000, 0x10000000000000, 0xFFFFFFFFFFFFF000} <= gpas
        assert all(e.ret == -EINVAL for e in excerpt("fd-errors").of(MemslotSet) if e.guest_phys_addr >= 1 << 52)


class TestUndecodedCalls:
    """Trap 6: calls whose arguments strace does not decode."""

    def test_region2(self) -> None:
        """KVM_SET_USER_MEMORY_REGION2 is opaque, with its number; guest_memfd's fd keeps the VM."""
        got = excerpt("mem2")
        assert [(e.cmd, e.name, e.ret) for e in got.of(Opaque)] == [(0x40A0AE49, "KVM_SET_USER_MEMORY_REGION2", 0)] * 2
        assert [(e.ret, e.size_bytes) for e in got.of(GuestMemfdCreate)] == [(5, None)]
        assert [e.reason for e in got.of(VmDestroy)] == ["exit"]

    def test_creates_that_fail(self) -> None:
        """A KVM_CREATE_VM that fails creates none; it is counted."""
        got = excerpt("mem2")
        assert len(got.of(VmCreate)) == 1
        assert got.counted("KVM_CREATE_VM that failed") == 3

    def test_pointers_of_others(self, tmp_path: Path) -> None:
        """Dirty logs and the identity map address come by pointer: known to be called, no more; TSS comes by value."""
        got = lines(
            tmp_path,
            f"10 {CREATE}",
            "10 ioctl(4, KVM_SET_TSS_ADDR, 0xfffbd000) = 0",
            "10 ioctl(4, KVM_SET_IDENTITY_MAP_ADDR, 0x7ffd) = 0",
            "10 ioctl(4, KVM_GET_DIRTY_LOG, 0x7ffd) = -1 ENOENT (No such file or directory)",
            "10 ioctl(4, KVM_GET_DIRTY_LOG, 0x1) = -1 EFAULT (Bad address)",
            "10 ioctl(4, KVM_ENABLE_CAP, 0x7ffd) = 0",
            "10 ioctl(4, KVM_SET_NR_MMU_PAGES, 0x40) = 0",
        )
        assert got.of(TssSet)[0].guest_phys_addr == 0xFFFBD000
        assert got.of(IdentityMapSet)[0].guest_phys_addr is None
        assert [(e.slot, e.ret, e.fault) for e in got.of(DirtyLogGet)] == [(None, -2, False), (None, -EFAULT, True)]
        assert [e.name for e in got.of(Opaque)] == ["KVM_ENABLE_CAP"]
        assert got.kinds()[-1] == "nr_mmu_pages.set"

    def test_later_strace_decodes_it(self, tmp_path: Path) -> None:
        """A strace that prints REGION2's struct gives a whole memslot.set."""
        slot = SLOT.replace("}", ", guest_memfd_offset=0x2000, guest_memfd=5<anon_inode:[kvm-gmem]>}").replace(
            "flags=0", "flags=KVM_MEM_GUEST_MEMFD"
        )
        got = lines(tmp_path, f"10 {CREATE}", f"10 ioctl(4, KVM_SET_USER_MEMORY_REGION2, {slot}) = 0")
        (event,) = got.of(MemslotSet)
        assert (event.region2, event.flags, event.guest_memfd, event.guest_memfd_offset) == (True, 4, 5, 0x2000)
