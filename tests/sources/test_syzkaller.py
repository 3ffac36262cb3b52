"""Promises of the import of syzkaller programs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.errors import EmptyError
from replay.events import (
    AllocFail,
    DirtyLogClear,
    Event,
    GuestMemfdCreate,
    Lost,
    MemslotSet,
    Opaque,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.header import Trailer
from replay.runs import events_of
from replay.sources import open_stream
from replay.sources.syz_lines import DEPTH_MAX, Call, Name, Pointer, call_of
from replay.sources.syzkaller import ASYNC, FAIL_NTH, RERUNS_MAX, SETUP, SyzImport

START = """\
r0 = openat$kvm(0xffffffffffffff9c, &(0x7f0000000280)='/dev/kvm\\x00', 0x0, 0x0)
r1 = ioctl$KVM_CREATE_VM(r0, 0xae01, 0x0)
"""
SLOT = (
    "ioctl$KVM_SET_USER_MEMORY_REGION(r1, 0x4020ae46, &(0x7f0000000180)={0x1, 0x3, 0x3000, 0x2000, &(0x7f0000fec000/0x2000)=nil})"
)


def imported(text: str) -> tuple[list[Event], Trailer]:
    """Import a program."""
    stream = SyzImport(text.splitlines(), name="p.syz")
    return list(events_of(stream.items())), stream.trailer()


def counts(trailer: Trailer, severity: str) -> dict[str, int]:
    """Return the counts of one severity by kind."""
    return {counter.kind: counter.count for counter in trailer.counters if counter.severity == severity}


class TestLanguage:
    """Lines of the language."""

    @pytest.mark.parametrize(
        ("line", "call"),
        [
            ("close(r0)", Call("", "close", "", (Name("r0"),), {})),
            ("r1 = dup(r0) (async)", Call("r1", "dup", "", (Name("r0"),), {"async": 1})),
            ("a$b(0x10, 7, nil) (fail_nth: 3, async)", Call("", "a", "b", (16, 7, Name("nil")), {"fail_nth": 3, "async": 1})),
            ("a(&(0x7f00/0x2000)=nil)", Call("", "a", "", (Pointer(0x7F00, None),), {})),
            ("a(&(0x7f00))", Call("", "a", "", (Pointer(0x7F00, None),), {})),
            ("a(&AUTO={0x1, [0x2, {0x3}], 'x, )\\''})", Call("", "a", "", (Pointer(None, (1, (2, (3,)), "'x, )\\''")),), {})),
            ('a(@u=0x1, @v, <r5=>0x9, "00ff"/4)', Call("", "a", "", (1, Name("v"), 9, '"00ff"/4'), {})),
            ('a(&(0x7f00)=ANY=[@ANYBLOB="0102"], 0x1)', Call("", "a", "", (Pointer(0x7F00, Name("ANY")), 1), {})),
        ],
    )
    def test_values(self, line: str, call: Call) -> None:
        """Each kind of value, and properties."""
        assert call_of(line) == call

    @pytest.mark.parametrize(
        "line",
        [
            "hello",
            "r0 = ",
            "a(0x1",
            "a(0x1) x",
            "a({0x1)",
            "a(0x1 0x2)",
            "a(&(zz)",
            "a(<r1)",
            "a('x)",
            "a(" + "{" * (DEPTH_MAX + 2),
        ],
    )
    def test_no_call(self, line: str) -> None:
        """What is no call is none."""
        assert call_of(line) is None

    @given(st.text(alphabet="r01=abc$(){}[]&@<>,'\"\\ x:ANYUTO", max_size=80))
    def test_never_raises(self, text: str) -> None:
        """Any text is a call or none."""
        found = call_of("ioctl$KVM_RUN(" + text)
        assert found is None or found.name == "ioctl"


class TestEvents:
    """What calls become."""

    def test_program(self) -> None:
        """A VM, a slot, its end with the process; nothing has a result, all is inferred."""
        events, trailer = imported(START + SLOT)
        assert [type(event) for event in events] == [VmCreate, MemslotSet, VmDestroy]
        slot = events[1]
        assert isinstance(slot, MemslotSet)
        assert (slot.slot, slot.flags, slot.guest_phys_addr, slot.memory_size) == (1, 3, 0x3000, 0x2000)
        assert (slot.userspace_addr, slot.ret, slot.source and slot.source.line) == (0x7F0000FEC000, None, 3)
        assert all(event.inferred for event in events)
        assert trailer.counters == ()

    def test_number_beats_variant(self) -> None:
        """The command's number decides, and the variant only where that is AUTO."""
        events, _ = imported(START + "ioctl$KVM_RUN(r1, 0xae41, 0x2)\nioctl$KVM_CREATE_VCPU(r1, AUTO, 0x3)")
        assert [event.vcpu_id for event in events if isinstance(event, VcpuCreate)] == [2, 3]

    def test_structs(self) -> None:
        """Arguments behind pointers are known, which strace does not show."""
        events, _ = imported(
            START
            + "ioctl$KVM_ENABLE_CAP(r1, 0x4068aea3, &(0x7f00)={0x79, 0x0, [0x18, 0x1]})\n"
            + "ioctl$KVM_CLEAR_DIRTY_LOG(r1, 0xc018aec0, &(0x7f00)={0x1, 0x40, 0x80, &(0x7f01)})\n"
            + "ioctl$KVM_CREATE_GUEST_MEMFD(r1, 0xc040aed4, &(0x7f00)={0x4000, 0x1})\n"
        )
        cap, clear, memfd = events[1:4]
        assert isinstance(cap, VmEnableCap)
        assert (cap.cap, cap.args) == (0x79, (0x18, 1, 0, 0))
        assert isinstance(clear, DirtyLogClear)
        assert (clear.slot, clear.num_pages, clear.first_page) == (1, 0x40, 0x80)
        assert isinstance(memfd, GuestMemfdCreate)
        assert (memfd.size_bytes, memfd.flags) == (0x4000, 1)

    def test_pointers(self) -> None:
        """No pointer faults; one to memory that the line does not fill is opaque."""
        events, _ = imported(
            START + SLOT.replace("&(0x7f0000000180)={0x1, 0x3, 0x3000, 0x2000, &(0x7f0000fec000/0x2000)=nil}", "0x0")
        )
        assert isinstance(events[1], MemslotSet)
        assert events[1].fault
        events, _ = imported(START + "ioctl$KVM_SET_USER_MEMORY_REGION(r1, 0x4020ae46, &(0x7f0000000180))")
        assert isinstance(events[1], Opaque)

    def test_fail_nth(self) -> None:
        """The nth allocation of the call fails, and of no later call."""
        events, trailer = imported(START + SLOT + " (fail_nth: 5)\n" + SLOT)
        kinds = [type(event) for event in events[1:-1]]
        assert kinds == [AllocFail, MemslotSet, AllocFail, MemslotSet]
        on, off = events[1], events[3]
        assert isinstance(on, AllocFail)
        assert isinstance(off, AllocFail)
        assert ((on.nth, on.count, on.off), (off.site, off.off)) == ((5, 1, False), ("", True))
        assert counts(trailer, "ignored") == {FAIL_NTH: 1}

    def test_async(self) -> None:
        """An async call is counted: its order is not known."""
        events, trailer = imported(START + SLOT + " (async)")
        assert len(events) == 3
        assert counts(trailer, "unknown") == {ASYNC: 1}

    def test_rerun(self) -> None:
        """A call that is repeated comes as often, within reason."""
        events, _ = imported(START + SLOT + " (rerun: 4)")
        assert sum(isinstance(event, MemslotSet) for event in events) == 5
        events, _ = imported(START + SLOT + " (rerun: 99999999)")
        assert sum(isinstance(event, MemslotSet) for event in events) == RERUNS_MAX + 1

    def test_lifetime(self) -> None:
        """A VM goes with the last of its fds: copies and vCPUs keep it."""
        text = (
            START
            + "r2 = dup(r1)\nr3 = ioctl$KVM_CREATE_VCPU(r2, 0xae41, 0x0)\nclose(r1)\nclose(r2)\n"
            + SLOT
            + "\nclose(r3)\nclose(r3)"
        )
        events, trailer = imported(text)
        assert [type(event) for event in events] == [VmCreate, VcpuCreate, VmDestroy]
        assert counts(trailer, "ignored") == {"KVM_SET_USER_MEMORY_REGION on an fd that is not a VM": 1}

    def test_two_vms(self) -> None:
        """Two VMs in one program are two; the one that is left goes with the process."""
        events, _ = imported(START + START.replace("r1", "r4").replace("r0", "r3") + "close(r1)")
        assert [(event.vm, event.reason) for event in events if isinstance(event, VmDestroy)] == [(0, "close"), (1, "exit")]

    def test_setup_cpu(self) -> None:
        """The pseudo-call that makes memslots by itself leaves the VM's layout unknown."""
        events, trailer = imported(START + "syz_kvm_setup_cpu$x86(r1, r2, &(0x7f00/0x18000)=nil, 0x0, 0x0, 0x0, 0x0, 0x0)")
        lost = events[1]
        assert isinstance(lost, Lost)
        assert (lost.vm, lost.affects) == (0, "everything")
        assert counts(trailer, "unknown") == {SETUP: 1}

    def test_what_is_not_understood(self) -> None:
        """Lines and properties that are not known are counted with their place."""
        _, trailer = imported(START + "12:00 executing\n" + SLOT + " (magic: 2)")
        assert counts(trailer, "unknown") == {"line not understood": 1, "property magic": 1}
        assert [counter.first for counter in trailer.counters] == ["p.syz:3", "p.syz:4"]

    def test_no_kvm(self) -> None:
        """A program without a VM is nothing to judge."""
        with pytest.raises(EmptyError):
            imported("r0 = open(&(0x7f00)='x', 0x0, 0x0)")

    def test_opened_by_content(self, tmp_path: Path) -> None:
        """A program is recognised and opened, comments first."""
        (tmp_path / "a").write_text("# found on a sunday\n" + START + SLOT)
        stream = open_stream([str(tmp_path / "a")])
        assert len(list(stream.items())) == 3
        assert len(stream.warnings()) == 1
