"""Promises of the reader of what probes on KVM's functions print: KVMGT's notifiers and the gfns that it tracks."""

import pytest
from word_texts import imported_lines, in_time

from replay.events import NotifierRegister, NotifierUnregister, WriteTrackAdd, WriteTrackRemove
from replay.sources.bpftrace_lines import fact
from replay.sources.dialects import KernelCall
from replay.sources.kernel_users import OWN, UNSEEN_GFNS

KVM = "ffff888012340000"
NODE = "ffff888056780010"
VM = [
    f"900 100 100 guest VM kvm={KVM}",
    "1000 100 100 guest IOCTL fd=3 cmd=ae01 arg=0 ret=4",
]
REGISTER = f"1100 100 101 guest REGISTER kvm={KVM} node={NODE} ret=0"
UNREGISTER = f"1900 100 101 guest UNREGISTER kvm={KVM} node={NODE}"
CLOSE = "1800 100 100 guest CLOSE fd=4"


def tracked(kind: str, gfn: int, ret: int = 0, kvm: str = KVM) -> str:
    """Return a line of a gfn that a thread of the kernel adds or removes."""
    return f"1500 77 77 kworker/1:1 {kind} kvm={kvm} gfn={gfn:x} ret={ret}"


class TestLines:
    """What a line says."""

    @pytest.mark.parametrize(
        ("body", "call"),
        [
            (b"VM kvm=ffff8880", KernelCall("VM", 0xFFFF8880)),
            (b"REGISTER kvm=ffff8880 node=10 ret=-12", KernelCall("REGISTER", 0xFFFF8880, 0x10, -12)),
            (b"REGISTER kvm=ffff8880 node=10", KernelCall("REGISTER", 0xFFFF8880, 0x10)),
            (b"UNREGISTER kvm=0 node=10", KernelCall("UNREGISTER", 0, 0x10)),
            (b"WTADD kvm=ffff8880 gfn=fffff ret=0", KernelCall("WTADD", 0xFFFF8880, 0xFFFFF, 0)),
            (b"WTREMOVE kvm=ffff8880 gfn=0 ret=-22", KernelCall("WTREMOVE", 0xFFFF8880, 0, -22)),
        ],
    )
    def test_read(self, body: bytes, call: KernelCall) -> None:
        """Addresses and gfns are hex, results decimal; a function without a result has none."""
        assert fact(body) == call

    @pytest.mark.parametrize(
        "body",
        [
            b"VM fd=1",
            b"REGISTER kvm=1",
            b"WTADD kvm=1 ret=0",
            b"WTADD kvm=1 gfn=10000000000000 ret=0",
            b"WTADD kvm=1 gfn=1 ret=-5000",
        ],
    )
    def test_damaged(self, body: bytes) -> None:
        """A line without its fields, or with numbers that can not be, is not understood."""
        assert fact(body) is None


class TestNotifiers:
    """Registration and its end."""

    def test_register_and_unregister(self) -> None:
        """They are events of the VM that KVM_CREATE_VM made under that pointer, with their results, and not inferred."""
        events = imported_lines([*VM, REGISTER, UNREGISTER], "bpftrace").events
        assert [event.KIND for event in events] == ["vm.create", "notifier.register", "notifier.unregister"]
        register, unregister = events[1:]
        assert isinstance(register, NotifierRegister)
        assert isinstance(unregister, NotifierUnregister)
        assert (register.vm, register.node, register.ret, register.foreign_mm, register.inferred) == (0, 0, 0, False, False)
        assert (unregister.vm, unregister.node, unregister.ret) == (0, 0, None)

    def test_failed(self) -> None:
        """A registration that failed has its errno, and holds nothing."""
        events = imported_lines([*VM, REGISTER.replace("ret=0", "ret=-12"), CLOSE], "bpftrace").events
        assert [event.KIND for event in events] == ["vm.create", "notifier.register", "vm.destroy"]
        assert isinstance(events[1], NotifierRegister)
        assert events[1].ret == -12

    def test_device_holds_its_vm(self) -> None:
        """A VM whose fds are closed lives until its notifier goes."""
        events = imported_lines([*VM, REGISTER, CLOSE, UNREGISTER], "bpftrace").events
        assert [event.KIND for event in events] == ["vm.create", "notifier.register", "notifier.unregister", "vm.destroy"]

    def test_two_vms(self) -> None:
        """Pointers tell VMs of one process apart, and nodes get numbers in their order."""
        other = [line.replace(KVM, "ffff99").replace("ret=4", "ret=9") for line in VM]
        lines = [*VM, *other, REGISTER.replace(KVM, "ffff99"), REGISTER.replace(NODE, "abc")]
        events = [event for event in imported_lines(in_time(lines), "bpftrace").events if isinstance(event, NotifierRegister)]
        assert [(event.vm, event.node) for event in events] == [(1, 0), (0, 1)]

    @pytest.mark.parametrize("first", [0, 2])
    def test_own_notifier(self, first: int) -> None:
        """Before 6.6 KVM registers one of its own on every VM, and takes it back when the VM goes: it is counted only."""
        own = KVM[:-4] + "92e8"
        lines = [
            VM[0],
            REGISTER.replace(NODE, own).replace("101", "100").removesuffix(" ret=0"),
            VM[1],
            REGISTER.removesuffix(" ret=0"),
            UNREGISTER,
            CLOSE,
            UNREGISTER.replace(NODE, own),
        ]
        lines = lines[:1] * (first == 0) + lines[first or 1 :]  # also when its registration was not recorded
        result = imported_lines(in_time(lines), "bpftrace")
        kinds = ["vm.create", "notifier.register", "lost", "notifier.unregister", "vm.destroy"]
        assert [event.KIND for event in result.events] == kinds
        assert result.count(OWN) == (2 if first == 0 else 1)
        assert result.count(UNSEEN_GFNS) == result.trailer.total("lost") == 1
        assert result.trailer.total("unknown") == 0

    def test_pointer_used_again(self) -> None:
        """A pointer means the VM that it was given to last."""
        lines = [*VM, CLOSE, *VM, REGISTER]
        events = [event for event in imported_lines(in_time(lines), "bpftrace").events if isinstance(event, NotifierRegister)]
        assert [event.vm for event in events] == [1]

    def test_unknown_pointer(self) -> None:
        """Without the line of its making a pointer means the only VM of its process; of two, none, and that is counted."""
        events = imported_lines([*VM[1:], REGISTER], "bpftrace").events
        assert [event.KIND for event in events] == ["vm.create", "notifier.register"]
        result = imported_lines([VM[1], VM[1].replace("ret=4", "ret=9"), REGISTER], "bpftrace")
        assert [event.KIND for event in result.events] == ["vm.create", "vm.create"]
        assert result.count("kvm_page_track_register_notifier() on a VM that is not known") == 1

    def test_failed_creation(self) -> None:
        """A VM that is not made after all gets no pointer."""
        lines = [VM[0], VM[1].replace("ret=4", "ret=-12"), VM[1], tracked("WTADD", 1)]
        result = imported_lines(in_time(lines), "bpftrace")
        assert [event.KIND for event in result.events] == ["vm.create"]
        assert result.count("kvm_write_track_add_gfn() on a VM that is not known") == 1


class TestTracking:
    """gfns that the external user tracks."""

    def test_adds_and_removes(self) -> None:
        """They are hot events of the VM, in order with pages, with gfn and result, whatever thread makes them."""
        page = "1200 100 100 guest GETPAGE gfn=7 role=3704 created=1"
        run = "1150 100 100 guest RUN fd=5"
        lines = [*VM, REGISTER, tracked("WTADD", 1), tracked("WTADD", 2, -22), run, page, tracked("WTREMOVE", 1)]
        events = imported_lines(in_time(lines), "bpftrace").events
        kinds = [event.KIND for event in events][2:]
        hot = ["write_track.add", "write_track.add", "shadow_root.alloc", "shadow_page.account", "write_track.remove"]
        assert kinds == hot
        adds = [event for event in events if isinstance(event, WriteTrackAdd)]
        assert [(event.vm, event.gfn, event.ret) for event in adds] == [(0, 1, 0), (0, 2, -22)]
        removes = [event for event in events if isinstance(event, WriteTrackRemove)]
        assert [(event.gfn, event.ret, event.task and event.task.tid) for event in removes] == [(1, 0, 77)]
