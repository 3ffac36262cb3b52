"""Promises of what is concluded from VFIO calls, and only when the user says so."""

from pathlib import Path

import pytest
from run_texts import Body, Exit, Item, Page, run, strace_text, threads, trace_text, vm

from replay.errors import UsageError
from replay.events import Event, NotifierRegister, NotifierUnregister, VmDestroy
from replay.header import Trailer
from replay.runs import events_of
from replay.sources import open_stream
from replay.sources.vgpu import NO_VM, REFUSED, STATED

VM: list[Item] = [*vm(100, 4, vcpu_fd=5)]
OPEN = Body(100, "ioctl(20, VFIO_GROUP_GET_DEVICE_FD, 0x7ffc00) = 21")
CLOSE = Body(100, "close(21) = 0")
END = [Body(100, "close(5) = 0"), Body(100, "close(4) = 0")]


def imported(folder: Path, items: list[Item], *, kvmgt: bool = True, trace: bool = False) -> tuple[list[Event], Trailer]:
    """Import a run from its strace, and from its tracefs text as well when trace is set."""
    (folder / "strace.txt").write_text(strace_text(items))
    names = [str(folder / "strace.txt")]
    if trace:
        (folder / "ftrace.txt").write_bytes(trace_text(items))
        names.append(str(folder / "ftrace.txt"))
    stream = open_stream(names, kvmgt=kvmgt)
    return list(events_of(stream.items())), stream.trailer()


def kinds(events: list[Event]) -> list[str]:
    """Return the kinds of the events behind the VM's first three."""
    return [event.KIND for event in events[3:]]


class TestOpenAndClose:
    """A device that is opened and closed."""

    @pytest.mark.parametrize("trace", [False, True])
    def test_register_and_unregister(self, tmp_path: Path, *, trace: bool) -> None:
        """They imply a registration and its end, both marked as inferred, of one node."""
        events, trailer = imported(tmp_path, [*VM, OPEN, CLOSE, *END], trace=trace)
        assert kinds(events) == ["notifier.register", "notifier.unregister", "vm.destroy"]
        register, unregister = events[3:5]
        assert isinstance(register, NotifierRegister)
        assert isinstance(unregister, NotifierUnregister)
        assert (register.vm, register.node, register.ret, register.inferred, register.foreign_mm) == (0, 0, 0, True, False)
        assert (unregister.vm, unregister.node, unregister.inferred) == (0, 0, True)
        assert [counter.count for counter in trailer.counters if counter.kind == STATED] == [1]

    def test_only_when_said(self, tmp_path: Path) -> None:
        """Without the user's word nothing is concluded: most VFIO devices are no vGPUs."""
        events, _ = imported(tmp_path, [*VM, OPEN, CLOSE, *END], kvmgt=False)
        assert kinds(events) == ["vm.destroy"]

    @pytest.mark.parametrize(
        "call",
        [
            "ioctl(20, 0x3b6a, 0x7ffc00) = 21",
            "ioctl(20, _IOC(_IOC_NONE, 0x3b, 0x6a, 0), 0x7ffc00) = 21",
            "ioctl(20</dev/vfio/3>, 0x3b6a /* VFIO_GROUP_GET_DEVICE_FD */, 0x7ffc00) = 21<anon_inode:[vfio-device]>",
        ],
    )
    def test_spellings(self, tmp_path: Path, call: str) -> None:
        """Each way in which strace may print the call."""
        close = Body(100, "close(21<anon_inode:[vfio-device]>) = 0")
        used = Body(100, "ioctl(21<anon_inode:[vfio-device]>, 0x3b6b, 0x7ffc00) = 0")
        assert kinds(imported(tmp_path, [*VM, Body(100, call), used, close])[0]) == ["notifier.register", "notifier.unregister"]

    def test_device_file(self, tmp_path: Path) -> None:
        """A device of its own file registers when it is bound to an iommufd."""
        bind = Body(100, "ioctl(21, _IOC(_IOC_NONE, 0x3b, 0x76, 0), 0x7ffc00) = 0")
        assert kinds(imported(tmp_path, [*VM, bind, CLOSE])[0]) == ["notifier.register", "notifier.unregister"]

    def test_copy_keeps_it(self, tmp_path: Path) -> None:
        """A duplicated fd keeps the device open."""
        items = [*VM, OPEN, Body(100, "dup(21) = 30"), CLOSE]
        assert kinds(imported(tmp_path, items)[0]) == ["notifier.register"]
        assert kinds(imported(tmp_path, [*items, Body(100, "close(30) = 0")])[0]) == ["notifier.register", "notifier.unregister"]

    def test_device_keeps_the_vm(self, tmp_path: Path) -> None:
        """VFIO holds the VM: it goes behind the device, not with its last own fd."""
        events, _ = imported(tmp_path, [*VM, OPEN, *END, CLOSE])
        assert kinds(events) == ["notifier.register", "notifier.unregister", "vm.destroy"]

    def test_killed(self, tmp_path: Path) -> None:
        """A VMM that is killed unregisters on its way out, without an mm."""
        events, _ = imported(tmp_path, [*VM, OPEN, Body(100, "+++ killed by SIGKILL +++")])
        assert kinds(events) == ["notifier.register", "notifier.unregister", "vm.destroy"]
        unregister, gone = events[-2:]
        assert isinstance(unregister, NotifierUnregister)
        assert unregister.foreign_mm
        assert isinstance(gone, VmDestroy)

    def test_two_devices(self, tmp_path: Path) -> None:
        """Two vGPUs are two nodes."""
        other = Body(100, "ioctl(20, VFIO_GROUP_GET_DEVICE_FD, 0x7ffc00) = 22")
        events, _ = imported(tmp_path, [*VM, OPEN, other, CLOSE, Body(100, "close(22) = 0")])
        assert [event.node for event in events if isinstance(event, (NotifierRegister, NotifierUnregister))] == [0, 1, 0, 1]

    def test_between_pages(self, tmp_path: Path) -> None:
        """In a merge it keeps its place among the calls."""
        items = [*VM, *threads(100, 101), OPEN, run(101, 5), Page(101, made=True, gfn=8), Exit(101), CLOSE]
        events, _ = imported(tmp_path, items, trace=True)
        assert kinds(events) == ["notifier.register", "shadow_root.alloc", "shadow_page.account", "notifier.unregister"]


class TestRefused:
    """A device that is not opened."""

    @pytest.mark.parametrize(
        ("error", "ret"), [("ENOMEM (Cannot allocate memory)", -12), ("EOPNOTSUPP (Operation not supported)", -95)]
    )
    def test_register_failed(self, tmp_path: Path, error: str, ret: int) -> None:
        """Errors that the registration gives are its result."""
        failed = Body(100, f"ioctl(20, VFIO_GROUP_GET_DEVICE_FD, 0x7ffc00) = -1 {error}")
        events, _ = imported(tmp_path, [*VM, failed, CLOSE])
        assert kinds(events) == ["notifier.register"]
        assert isinstance(events[3], NotifierRegister)
        assert events[3].ret == ret

    def test_other_errors(self, tmp_path: Path) -> None:
        """Other errors come before the registration: nothing was asked of KVM."""
        failed = Body(100, "ioctl(20, VFIO_GROUP_GET_DEVICE_FD, 0x7ffc00) = -1 EEXIST (File exists)")
        events, trailer = imported(tmp_path, [*VM, failed])
        assert kinds(events) == []
        assert [counter.severity for counter in trailer.counters if counter.kind == REFUSED] == ["ignored"]

    def test_whose(self, tmp_path: Path) -> None:
        """With two VMs in the process, or none, it is not known whose it is."""
        _, trailer = imported(tmp_path, [*VM, *vm(100, 8, vcpu_fd=9), OPEN])
        assert [counter.severity for counter in trailer.counters if counter.kind == NO_VM] == ["unknown"]

    def test_needs_strace(self, tmp_path: Path) -> None:
        """A trace without strace shows no VFIO devices."""
        (tmp_path / "a").write_bytes(trace_text(VM))
        with pytest.raises(UsageError, match="strace"):
            open_stream([str(tmp_path / "a")], kvmgt=True)
