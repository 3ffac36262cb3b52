"""Promises of the reader of bpftrace's lines, those of the recorder that comes with the tool among them."""

import pytest
from word_texts import imported_lines, imported_words, in_time

from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    GuestMemfdCreate,
    IdentityMapSet,
    Lost,
    MemslotSet,
    Opaque,
    VmCreate,
    VmDestroy,
    VmEnableCap,
)
from replay.sources import ioctls
from replay.sources.bpftrace_lines import LINE, fact, thread
from replay.sources.dialects import Ended, Forked
from replay.sources.struct_text import struct_text
from replay.sources.tracefs_pages import AFTER_END

VM = [
    "1000 100 100 guest IOCTL fd=3 cmd=ae01 arg=0 ret=4",
    "1100 100 100 guest MEMSLOT fd=4 slot=0 flags=0 gpa=0 size=1000000 hva=7f0000000000",
    "1200 100 100 guest IOCTL fd=4 cmd=4020ae46 arg=7ffc0000 ret=0",
]


def enter(cmd: int, *words: int, fd: int = 4) -> str:
    """Return a line of the entry of an ioctl with the words of its struct."""
    padded = [*words, *(0 for _ in range(6 - len(words)))]
    return f"1300 100 100 guest ENTER fd={fd} cmd={cmd:x} arg=7ffc0000 w={','.join(f'{word:x}' for word in padded)}"


def leave(cmd: int, ret: int = 0, fd: int = 4) -> str:
    """Return a line of its exit."""
    return f"1400 100 100 guest IOCTL fd={fd} cmd={cmd:x} arg=7ffc0000 ret={ret}"


class TestLines:
    """The columns."""

    @pytest.mark.parametrize("comm", ["guest", "CPU 0/KVM", "my IOCTL", "a b  c", "kvm-nx-lpage-re", "ZAP"])
    def test_comm_may_be_anything(self, comm: str) -> None:
        """A command name with spaces, or like a kind, does not shift the columns."""
        match = LINE.match(f"123 7 8 {comm} ZAP gfn=8ab role=3702".encode())
        assert match is not None
        found = thread(match["head"])
        assert found is not None
        assert (found.tgid, found.tid, found.comm.decode()) == (7, 8, comm)
        assert fact(match["body"]) == fact(b"ZAP gfn=8ab role=3702")

    @pytest.mark.parametrize(
        "body",
        [
            b"GETPAGE gfn=1 role=3704",
            b"GETPAGE gfn=1 created=1",
            b"ZAP gfn=xyz role=3702",
            b"ZAP",
            b"MEMSLOT fd=4 slot=0",
            b"FORK",
            b"IOCTL fd=4",
        ],
    )
    def test_cut_fields(self, body: bytes) -> None:
        """A line that lacks a field says nothing."""
        assert fact(body) is None


class TestStructs:
    """What is behind the pointer."""

    def test_region2(self) -> None:
        """KVM_SET_USER_MEMORY_REGION2 has its arguments, with the guest_memfd only where the flag says so."""
        cmd = ioctls.KVM_SET_USER_MEMORY_REGION2
        lines = [enter(cmd, 4 << 32 | 1 << 16 | 2, 0x3000, 0x2000, 0x7F0000000000, 0x1000, 9), leave(cmd)]
        lines += [enter(cmd, 3, 0x8000, 0x2000, 0x7F0000000000, 0xFFFF, 0xFFFF), leave(cmd)]
        first, second = imported_lines(in_time([*VM, *lines]), "bpftrace").events[2:]
        assert isinstance(first, MemslotSet)
        assert isinstance(second, MemslotSet)
        assert (first.slot, first.flags, first.guest_memfd, first.guest_memfd_offset, first.region2) == (
            0x10002,
            4,
            9,
            0x1000,
            True,
        )
        assert (second.slot, second.guest_memfd, second.guest_memfd_offset) == (3, None, 0)

    def test_others(self) -> None:
        """So have capabilities, dirty logs, the identity map and guest_memfd."""
        lines = []
        for cmd, words in (
            (ioctls.KVM_ENABLE_CAP, (0x79, 0x18, 1)),
            (ioctls.KVM_GET_DIRTY_LOG, (0x10001,)),
            (ioctls.KVM_CLEAR_DIRTY_LOG, (64 << 32 | 1, 128)),
            (ioctls.KVM_SET_IDENTITY_MAP_ADDR, (0xFEFFC000,)),
            (ioctls.KVM_CREATE_GUEST_MEMFD, (0x4000, 1)),
        ):
            lines += [enter(cmd, *words), leave(cmd)]
        cap, get, clear, idmap, memfd = imported_lines(in_time([*VM, *lines]), "bpftrace").events[2:]
        assert isinstance(cap, VmEnableCap)
        assert (cap.cap, cap.flags, cap.args) == (0x79, 0, (0x18, 1, 0, 0))
        assert isinstance(get, DirtyLogGet)
        assert get.slot == 0x10001
        assert isinstance(clear, DirtyLogClear)
        assert (clear.slot, clear.num_pages, clear.first_page) == (1, 64, 128)
        assert isinstance(idmap, IdentityMapSet)
        assert idmap.guest_phys_addr == 0xFEFFC000
        assert isinstance(memfd, GuestMemfdCreate)
        assert (memfd.size_bytes, memfd.flags) == (0x4000, 1)

    def test_unknown_command(self) -> None:
        """A command whose struct is not needed has no text."""
        assert struct_text(0xAE80, [0] * 6) == ""
        assert struct_text(ioctls.KVM_ENABLE_CAP, [0] * 5) == ""

    def test_efault(self) -> None:
        """What bpftrace read of a bad pointer is nothing; the kernel could not read it either."""
        cmd = ioctls.KVM_SET_USER_MEMORY_REGION
        event = imported_lines([*VM, enter(cmd), leave(cmd, -14)], "bpftrace").events[-1]
        assert isinstance(event, MemslotSet)
        assert (event.fault, event.ret) == (True, -14)

    def test_call_whose_entry_is_lost(self) -> None:
        """Without the line of its entry a memslot call is opaque."""
        event = imported_lines([*VM, leave(ioctls.KVM_SET_USER_MEMORY_REGION)], "bpftrace").events[-1]
        assert isinstance(event, Opaque)

    def test_entry_of_another_call(self) -> None:
        """A call that never returned does not lend its arguments to the next one."""
        lines = [enter(ioctls.KVM_SET_USER_MEMORY_REGION, 5, 0x9000000, 0x1000), leave(ioctls.KVM_CREATE_VCPU, 7)]
        result = imported_lines(in_time([*VM, *lines]), "bpftrace")
        slot, vcpu = result.events[-2:]
        assert isinstance(slot, MemslotSet)
        assert (slot.slot, slot.ret, vcpu.KIND) == (5, None, "vcpu.create")


class TestLives:
    """Tasks and fds, as the tool's own recorder prints them."""

    def test_close_ends_the_vm(self) -> None:
        """The last close ends it, a copy keeps it."""
        lines = ["1500 100 100 guest DUP old=4 new=9", "1600 100 100 guest CLOSE fd=4", "1700 100 100 guest CLOSE fd=9"]
        assert imported_lines([*VM, *lines[:2]], "bpftrace").kinds()[-1] == "memslot.set"
        last = imported_lines([*VM, *lines], "bpftrace").events[-1]
        assert isinstance(last, VmDestroy)
        assert (last.reason, last.time_ns) == ("close", 1700)

    def test_exit(self) -> None:
        """A process that exits, or is killed, takes its VM along; a thread does not."""
        lines = ["1500 100 100 guest FORK child=101 thread=1", "1600 100 101 guest EXIT code=0"]
        assert imported_lines(in_time([*VM, *lines]), "bpftrace").kinds()[-1] == "memslot.set"
        last = imported_lines([*VM, *lines, "1700 100 100 guest EXIT code=9"], "bpftrace").events[-1]
        assert isinstance(last, VmDestroy)
        assert (last.reason, last.foreign_mm) == ("killed", True)

    def test_child_holds_the_vm(self) -> None:
        """A forked child holds the VM after its parent's death, and its call is refused as another mm's."""
        lines = ["1500 100 100 guest FORK child=200 thread=0", "1600 100 100 guest EXIT code=9"]
        lines += [
            enter(ioctls.KVM_SET_USER_MEMORY_REGION, 0).replace("100 100", "200 200"),
            leave(ioctls.KVM_SET_USER_MEMORY_REGION, -5).replace("100 100", "200 200"),
        ]
        lines += ["1700 200 200 guest EXIT code=0"]
        events = imported_lines(in_time([*VM, *lines]), "bpftrace").events
        refused, gone = events[-2:]
        assert isinstance(refused, MemslotSet)
        assert (refused.foreign_mm, refused.ret) == (True, -5)
        assert isinstance(gone, VmDestroy)

    def test_exec(self) -> None:
        """An exec closes the VM's fd, which has the flag."""
        last = imported_lines([*VM, "1500 100 100 guest EXEC"], "bpftrace").events[-1]
        assert isinstance(last, VmDestroy)
        assert last.reason == "exec"

    def test_zaps_on_the_way_out(self) -> None:
        """A task's end is printed when it begins: what it zaps after that belongs to its VM, which goes last."""
        lines = [
            "1450 100 100 guest GETPAGE gfn=1 role=3704 created=1",
            "1500 100 100 guest EXIT code=0",
            "1600 100 100 guest ZAP gfn=1 role=3704",
        ]
        result = imported_lines(in_time([*VM, *lines]), "bpftrace")
        assert [event.KIND for event in result.events][-2:] == ["shadow_page.unaccount", "vm.destroy"]
        assert result.count(AFTER_END) == 0

    def test_zaps_after_the_end(self) -> None:
        """Pages zapped behind the end of a process, when its number has been heard of again, are counted, not lost."""
        lines = [
            "1450 100 100 guest GETPAGE gfn=1 role=3704 created=1",
            "1500 100 100 guest EXIT code=0",
            "1550 100 100 other CLOSE fd=3",
            "1600 100 100 guest ZAP gfn=1 role=3704",
        ]
        result = imported_lines(in_time([*VM, *lines]), "bpftrace")
        assert result.count(AFTER_END) == 1
        assert result.trailer.total("lost") + result.trailer.total("unknown") == 0

    def test_ends_wait_a_second(self) -> None:
        """A line of another process a second later ends a task that is on its way out."""
        lines = [
            "1500 100 100 guest EXIT code=0",
            "2000001500 200 200 other EXEC",
            "2000001600 100 100 guest ZAP gfn=1 role=3704",
        ]
        result = imported_lines([*VM, "1450 100 100 guest GETPAGE gfn=1 role=3704 created=1", *lines], "bpftrace")
        assert result.count(AFTER_END) == 1

    def test_facts(self) -> None:
        """The lines say what they say."""
        assert fact(b"EXIT code=9") == Ended(killed=True)
        assert fact(b"EXIT code=256") == Ended(killed=False)  # exit(1): the status is in the second byte
        assert fact(b"FORK child=12 thread=1") == Forked(12, thread=True)

    def test_fd_number_used_again(self) -> None:
        """Without lines of closes a VM fd that is made again is another VM, and the first one's end is inferred."""
        events = imported_lines(in_time([*VM, VM[0]]), "bpftrace").events
        assert [event.KIND for event in events][2:] == ["vm.destroy", "vm.create"]
        assert events[2].inferred
        assert isinstance(events[3], VmCreate)


class TestLosses:
    """What bpftrace says of its own losses."""

    @pytest.mark.parametrize(
        ("line", "name"),
        [("Lost 17 events", "bpftrace"), ('{"type": "lost_events", "data": {"events": 17}}', "bpftrace json")],
    )
    def test_lost_events(self, line: str, name: str) -> None:
        """They are an event of loss and a counter, of everything."""
        lines = VM if name == "bpftrace" else [f'{{"type": "printf", "data": "{text}\\n"}}' for text in VM]
        result = imported_lines([*lines[:1], line, *lines[1:]], name)
        (lost,) = [event for event in result.events if isinstance(event, Lost)]
        assert (lost.count, lost.affects) == (17, "everything")
        assert result.trailer.total("lost") == 17

    @pytest.mark.parametrize(
        "line",
        [
            "{",
            '{"type": "printf"}',
            '{"type": "printf", "data": 7}',
            '{"type": 3, "data": {}}',
            "[]",
            '{"type": "new", "data": 1}',
        ],
    )
    def test_odd_objects(self, line: str) -> None:
        """Objects that are none of bpftrace's are counted."""
        text = "".join(f'{{"type": "printf", "data": "{one}\\n"}}\n' for one in VM)
        assert imported_words(f"{text}{line}\n", "bpftrace json").count("line not understood") == 1
