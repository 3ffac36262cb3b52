"""Talk to /dev/kvm: open, ioctl, an ioctl from a forked child, close. Nothing else of this room touches the system.

VMs die with the process that made them, and no file is made, so a run that is killed leaves nothing behind.
"""

import errno
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Final, Protocol

from replay.errors import NoKernelError
from replay.live.uapi import KVM_API_VERSION, KVM_GET_API_VERSION, Argument
from replay.sources.vmallocinfo import Areas, parse_areas

DEV_KVM: Final = "/dev/kvm"
VMALLOCINFO: Final = "/proc/vmallocinfo"
NEEDS: Final = "Linux on x86-64 with KVM, and /dev/kvm open to you (often: membership of the group kvm)"


def this_release() -> str:
    """Return the running kernel's release. Raises NoKernelError where there is no KVM for x86."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NoKernelError(f"this is {sys.platform} on {platform.machine()}", expected=NEEDS)
    return platform.release()


class Device(Protocol):
    """What a run needs of a kernel; tests bring their own."""

    def ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Return the result of an ioctl: 0, a number, or -errno. fd -1 is /dev/kvm itself."""
        ...

    def child_ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Return the result of the same ioctl from a forked child, which has another mm."""
        ...

    def close(self, fd: int) -> None:
        """Close a descriptor that an ioctl gave."""
        ...

    def areas(self) -> Areas | None:
        """Return the vmalloc areas that KVM's functions hold; None where that can not be read."""
        ...

    def areas_sentence(self) -> str:
        """Say how allocations are watched, or why not."""
        ...


class DevKvm:
    """This machine's /dev/kvm; raises NoKernelError when there is none that can be asked.

    not_watched: why /proc/vmallocinfo is not looked at, "" when it is.
    """

    def __init__(self, path: str = DEV_KVM) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NoKernelError(error.strerror or str(error), where=path, expected=NEEDS) from None
        self.not_watched = ""
        version = self.ioctl(-1, KVM_GET_API_VERSION, 0)
        if version != KVM_API_VERSION:
            self.shut()
            raise NoKernelError(f"KVM_GET_API_VERSION gives {version}", where=path, expected=f"{KVM_API_VERSION}; {NEEDS}")

    def ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Return the result of an ioctl: 0, a number, or -errno."""
        import fcntl  # there on Unix only

        try:
            result = fcntl.ioctl(self._fd if fd < 0 else fd, request, argument)
        except OSError as error:
            return -(error.errno or errno.EIO)
        assert isinstance(result, int)
        return result

    def child_ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Return the result of the same ioctl from a forked child; it has copies of all descriptors until it ends."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.write(writer, struct.pack("<i", self.ioctl(fd, request, argument)))
            finally:
                os._exit(0)
        os.close(writer)
        answer = os.read(reader, 4)
        os.close(reader)
        os.waitpid(child, 0)
        assert len(answer) == 4, "the child was killed before it answered"
        return int(struct.unpack("<i", answer)[0])

    def close(self, fd: int) -> None:
        """Close a descriptor that an ioctl gave."""
        os.close(fd)

    def areas(self) -> Areas | None:
        """Return the vmalloc areas that KVM's functions hold; None where that can not be read."""
        return self._watch()[0]

    def areas_sentence(self) -> str:
        """Say how allocations are watched, or why not."""
        return self._watch()[1]

    def _watch(self) -> tuple[Areas | None, str]:
        if self.not_watched:
            return None, f"allocations are not compared: {self.not_watched}"
        try:
            found = parse_areas(Path(VMALLOCINFO).read_bytes())
        except OSError as error:
            return None, f"allocations are not compared: {VMALLOCINFO}: {error.strerror}"
        if found is None:
            return None, f"allocations are not compared: {VMALLOCINFO} hides addresses (sysctl kernel.kptr_restrict)"
        return found, f"allocations are compared by function after every operation, from {VMALLOCINFO}"

    def try_lock(self) -> bool:
        """Take turns with other runs of this program: their VMs would show in /proc/vmallocinfo. False: another one runs."""
        import fcntl

        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def shut(self) -> None:
        """Close /dev/kvm."""
        os.close(self._fd)


def others_use_kvm(proc: Path = Path("/proc")) -> bool:
    """Tell whether another process that can be seen from here has a VM open: then areas may come and go that are not ours."""
    for entry in sorted(proc.iterdir()):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            names = [link.readlink().name for link in (entry / "fd").iterdir()]
        except OSError:
            continue  # gone meanwhile, or not ours to look at
        if any(name.startswith(("anon_inode:kvm-vm", "anon_inode:kvm-vcpu")) for name in names):
            return True
    return False
