"""Find out what of this machine decides what its KVM does; what can not be found out stays unknown, with a reason.

Each fact of `replay.header.Machine` has one row in a table: how it is found, and what it was found in.
"""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from replay.errors import NoKernelError
from replay.header import Machine
from replay.live.device import NEEDS, Device
from replay.live.uapi import CAP_MULTI_ADDRESS_SPACE, CAP_PRE_FAULT_MEMORY
from replay.sources.ioctls import KVM_CHECK_EXTENSION, KVM_CREATE_VM
from replay.units import PAGE_SIZE_BYTES, ret_text

_MODULES: Final = (("kvm_intel", "intel", "GenuineIntel"), ("kvm_amd", "amd", "AuthenticAMD"), ("kvm_pvm", "pvm", ""))
Found = tuple[Any, str]
"""A value, None when it is not known, and where it is from."""


Reader = Callable[[str], str | None]
"""Read a small file of the system as text; None when it can not be read."""


def read_text(path: str) -> str | None:
    """Return the text of a file, decompressed when its name ends in .gz; None when it can not be read."""
    try:
        data = Path(path).read_bytes()
        return (gzip.decompress(data) if path.endswith(".gz") else data).decode(errors="replace")
    except OSError:
        return None


@attrs.frozen
class System:
    """What is asked: files, capabilities of a VM (None: no VM to ask), and the kernel's name."""

    read: Reader
    extension: Callable[[int], int]
    release: str

    def parameter(self, module: str, name: str) -> Found:
        """Return a boolean parameter of a module."""
        path = f"/sys/module/{module}/parameters/{name}"
        text = (self.read(path) or "").strip()
        return ({"Y": True, "1": True, "N": False, "0": False}.get(text), path)

    def cpuinfo(self, pattern: str) -> str | None:
        """Return the first group of a pattern in /proc/cpuinfo."""
        match = re.search(pattern, self.read("/proc/cpuinfo") or "", re.MULTILINE)
        return match.group(1) if match else None


def _config(system: System) -> Found:
    """Read CONFIG_KVM_EXTERNAL_WRITE_TRACKING from the kernel's configuration, wherever distributions keep it."""
    for path in ("/proc/config.gz", f"/boot/config-{system.release}", f"/lib/modules/{system.release}/config"):
        text = system.read(path)
        if text is not None and "CONFIG_KVM" in text:
            return re.search(r"^CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y$", text, re.MULTILINE) is not None, path
    return None, "no /proc/config.gz and no /boot/config"


def _vendor(system: System) -> Found:
    """Return the vendor module: the one that is there; with several, the one that fits the processor."""
    there = [
        row for row in _MODULES if system.read(f"/sys/module/{row[0]}/uevent") is not None or _has_parameters(system, row[0])
    ]
    cpu = system.cpuinfo(r"^vendor_id\s*:\s*(\S+)") or ""
    fitting = [row for row in there if row[2] == cpu] if len(there) > 1 else there
    return (fitting[0][1], f"/sys/module/{fitting[0][0]}") if len(fitting) == 1 else (None, "no one vendor module of KVM")


def _has_parameters(system: System, module: str) -> bool:
    known = {"kvm_intel": "ept", "kvm_amd": "npt", "kvm_pvm": "hb_mask"}[module]
    return system.read(f"/sys/module/{module}/parameters/{known}") is not None


def _tdp(system: System) -> Found:
    """Return tdp_enabled: the vendor module's parameter, else KVM_CAP_PRE_FAULT_MEMORY, which is there with tdp only.

    Source: arch/x86/kvm/x86.c kvm_vm_ioctl_check_extension() [6.11 and later].
    """
    vendor, _where = _vendor(system)
    if vendor in ("intel", "amd"):
        return system.parameter(f"kvm_{vendor}", "ept" if vendor == "intel" else "npt")
    if system.extension(CAP_PRE_FAULT_MEMORY) > 0:
        return True, "KVM_CAP_PRE_FAULT_MEMORY"
    release = re.match(r"(\d+)\.(\d+)", system.release)
    if release and (int(release[1]), int(release[2])) >= (6, 11):
        return False, "KVM_CAP_PRE_FAULT_MEMORY"
    return None, "no vendor module says it, and no capability before 6.11"


def _smm(system: System) -> Found:
    return system.extension(CAP_MULTI_ADDRESS_SPACE) == 2, "KVM_CAP_MULTI_ADDRESS_SPACE"


def _la57(system: System) -> Found:
    flags = system.cpuinfo(r"^flags\s*:(.*)$")
    return None if flags is None else "la57" in flags.split(), "/proc/cpuinfo flags"


def _max_phys_bits(system: System) -> Found:
    bits = system.cpuinfo(r"^address sizes\s*:\s*(\d+) bits physical")
    return None if bits is None else int(bits), "/proc/cpuinfo address sizes"


def _total_ram_pages(system: System) -> Found:
    match = re.search(r"^MemTotal:\s*(\d+) kB", system.read("/proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 // PAGE_SIZE_BYTES if match else None, "/proc/meminfo MemTotal"


def _of_vendor(vendor: str, name: str) -> Callable[[System], Found]:
    def found(system: System) -> Found:
        return system.parameter(f"kvm_{vendor}", name) if _vendor(system)[0] == vendor else (None, f"of kvm_{vendor} only")

    return found


PROBES: Final[dict[str, Callable[[System], Found]]] = {
    "kernel_release": lambda system: (system.release, "uname"),
    "config_external_write_tracking": _config,
    "tdp": _tdp,
    "tdp_mmu": lambda system: system.parameter("kvm", "tdp_mmu"),
    "smm": _smm,
    "vendor": _vendor,
    "unrestricted_guest": _of_vendor("intel", "unrestricted_guest"),
    "flexpriority": _of_vendor("intel", "flexpriority"),
    "avic": _of_vendor("amd", "avic"),
    "la57": _la57,
    "max_phys_bits": _max_phys_bits,
    "total_ram_pages": _total_ram_pages,
}
"""Field of `replay.header.Machine` -> how it is found."""


def probe(system: System) -> tuple[Machine, dict[str, str]]:
    """Return the machine, and for each fact where it is from, or why it is not known."""
    found = {name: find(system) for name, find in PROBES.items()}
    facts = {name: value for name, (value, _where) in found.items()}
    return Machine(**facts), {name: where for name, (_value, where) in found.items()}


def probe_device(device: Device, release: str, read: Reader) -> tuple[Machine, dict[str, str]]:
    """Ask a device with a VM of its own, which is closed again. Raises NoKernelError when no VM can be made."""
    fd = device.ioctl(-1, KVM_CREATE_VM, 0)
    if fd < 0:
        raise NoKernelError(f"KVM_CREATE_VM gives {ret_text(fd)}", where="/dev/kvm", expected=f"a VM; {NEEDS}")
    try:
        return probe(System(read, lambda cap: device.ioctl(fd, KVM_CHECK_EXTENSION, cap), release))
    finally:
        device.close(fd)
