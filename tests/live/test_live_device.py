"""Promises of how a live run touches the system: what it opens, how a child asks, what is said where there is no KVM."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.errors import NoKernelError
from replay.live import device
from replay.live.device import DevKvm, others_use_kvm, this_release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LIVE TESTS SKIPPED: /dev/kvm is Linux's")

FIONREAD = 0x541B
"""Answers on a pipe what waits in it: an ioctl that any process may make."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give a pipe with three bytes in it."""
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[DevKvm]:
    """Give a device that is another file, whose version is believed."""
    ioctl = DevKvm.ioctl
    monkeypatch.setattr(DevKvm, "ioctl", lambda *_call: 12)
    kvm = DevKvm("/dev/null")
    monkeypatch.setattr(DevKvm, "ioctl", ioctl)
    yield kvm
    kvm.shut()


class TestOpening:
    """What can not be asked is refused before anything is done."""

    def test_missing(self, tmp_path: Path) -> None:
        """A missing device says what is needed."""
        with pytest.raises(NoKernelError, match=r"No such file or directory; expected Linux on x86-64.*group kvm"):
            DevKvm(str(tmp_path / "kvm"))

    def test_not_kvm(self) -> None:
        """Another device does not know KVM_GET_API_VERSION; nothing of it stays open."""
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(NoKernelError, match="KVM_GET_API_VERSION gives -25"):
            DevKvm("/dev/null")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    @pytest.mark.parametrize(("platform", "machine"), [("darwin", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64")])
    def test_other_systems(self, platform: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other systems and processors are named."""
        monkeypatch.setattr("replay.live.device.sys.platform", platform)
        monkeypatch.setattr("replay.live.device.platform.machine", lambda: machine)
        with pytest.raises(NoKernelError, match=f"this is {platform} on {machine}"):
            this_release()

    def test_this_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Elsewhere the release is the running kernel's."""
        monkeypatch.setattr("replay.live.device.sys.platform", "linux")
        monkeypatch.setattr("replay.live.device.platform.machine", lambda: "x86_64")
        monkeypatch.setattr("replay.live.device.platform.release", lambda: "6.9.1")
        assert this_release() == "6.9.1"


def children() -> list[str]:
    """Return the children of this process that were not waited for; other tests may have left a server of processes."""
    return Path("/proc/thread-self/children").read_text().split()


class TestCalls:
    """Results are what the system says, from this process and from a child."""

    def test_result(self, opened: DevKvm, pipe: tuple[int, int]) -> None:
        """A structure is filled, success is 0, failure is -errno."""
        answer = bytearray(4)
        assert opened.ioctl(pipe[0], FIONREAD, answer) == 0
        assert answer[0] == 3
        assert opened.ioctl(pipe[0], 0xAE00, 0) == -25
        assert opened.ioctl(-1, 0xAE00, 0) == -25

    def test_child(self, opened: DevKvm, pipe: tuple[int, int]) -> None:
        """A child asks with its own copy of the argument; its result arrives, it does not stay."""
        before = children()
        answer = bytearray(4)
        assert opened.child_ioctl(pipe[0], FIONREAD, answer) == 0
        assert answer == bytearray(4)
        assert opened.child_ioctl(pipe[0], 0xAE00, 0) == -25
        assert children() == before

    def test_lock(self, opened: DevKvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two runs on one device take turns; closing it gives the turn away."""
        path = tmp_path / "kvm"
        path.touch()
        ioctl = DevKvm.ioctl
        monkeypatch.setattr(DevKvm, "ioctl", lambda *_call: 12)
        first, second = DevKvm(str(path)), DevKvm(str(path))
        monkeypatch.setattr(DevKvm, "ioctl", ioctl)
        assert first.try_lock()
        assert not second.try_lock()
        first.shut()
        assert second.try_lock()
        second.shut()

    def test_close(self, opened: DevKvm, pipe: tuple[int, int]) -> None:
        """Closing a descriptor closes it."""
        copy = os.dup(pipe[0])
        opened.close(copy)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


class TestAreas:
    """Why allocations can not be seen is said."""

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (None, "not compared: {}: No such file or directory"),
            ("0x0000000000000000-0x0000000000000000 8192 kvm_set_memslot+0x1/0x2 pages=1 vmalloc\n", "hides addresses"),
            ("0x1-0x2 8192 kvm_set_memslot+0x1/0x2 pages=1 vmalloc\n", "compared by function after every operation"),
        ],
    )
    def test_sentence(
        self, text: str | None, sentence: str, opened: DevKvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Missing, hidden, there."""
        path = tmp_path / "vmallocinfo"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(device, "VMALLOCINFO", str(path))
        assert sentence.format(path) in opened.areas_sentence()
        assert (opened.areas() is not None) == ("every operation" in sentence)

    def test_not_watched(self, opened: DevKvm) -> None:
        """A run that has a reason not to look does not, and says it."""
        opened.not_watched = "another one runs"
        assert opened.areas() is None
        assert opened.areas_sentence() == "allocations are not compared: another one runs"


class TestOthers:
    """Other processes with VMs are seen by their descriptors."""

    @pytest.mark.parametrize(
        ("link", "seen"),
        [
            ("anon_inode:kvm-vm", True),
            ("anon_inode:kvm-vcpu:0", True),
            ("anon_inode:[eventpoll]", False),
            ("/dev/kvm", False),
            ("/tmp/kvm-vm", False),
        ],
    )
    def test_links(self, link: str, seen: bool, tmp_path: Path) -> None:
        """A VM or a vCPU counts; /dev/kvm alone does not, it may be a library that looks what there is."""
        for pid, target in (("1", "socket:[7]"), ("77", link)):
            (tmp_path / pid / "fd").mkdir(parents=True)
            (tmp_path / pid / "fd" / "3").symlink_to(target)
        (tmp_path / "sys").mkdir()
        assert others_use_kvm(tmp_path) is seen

    def test_own_and_gone(self, tmp_path: Path) -> None:
        """Our own VMs do not count, nor does a process that may not be looked at or is gone."""
        own = tmp_path / str(os.getpid()) / "fd"
        own.mkdir(parents=True)
        (own / "3").symlink_to("anon_inode:kvm-vm")
        (tmp_path / "99").mkdir()
        assert not others_use_kvm(tmp_path)
