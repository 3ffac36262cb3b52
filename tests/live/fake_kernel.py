"""Stand in for /dev/kvm: a kernel of a few rules, written from the kernel's text and not from the model, that can be made to lie.

It is a 6.18 without two-dimensional paging, SMM and CONFIG_KVM_EXTERNAL_WRITE_TRACKING, with a vendor module that makes no
internal slots.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from replay.live import device, probe
from replay.live.uapi import Argument
from replay.sources.vmallocinfo import Areas

RELEASE = "6.18.44-fake"
FILES = {
    "/proc/config.gz": "CONFIG_KVM=y\n# CONFIG_KVM_SMM is not set\n",
    "/sys/module/kvm/parameters/tdp_mmu": "N\n",
    "/sys/module/kvm_pvm/uevent": "",
    "/sys/module/kvm_pvm/parameters/hb_mask": "8388607\n",
    "/proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\naddress sizes\t: 48 bits physical, 57 bits virtual\n",
    "/proc/meminfo": "MemTotal:       24684084 kB\n",
}
EXTENSIONS = {118: 0, 231: 1, 234: 1, 235: 1, 236: 0}
PAGE = 4096
USER_END = (1 << 47) - PAGE
TOP = 1 << 64

Slot = dict[str, int]
Lie = Callable[["FakeVm", int, Any], int | None]
"""Given the VM, the ioctl and its fields, return a wrong result, or None to leave it to the rules."""


class FakeVm:
    """A VM: its slots by the whole slot field, and what else its rules look at."""

    def __init__(self) -> None:
        self.slots: dict[int, Slot] = {}
        self.fds: set[int] = set()
        self.guest_memfds: dict[int, int] = {}
        self.vcpus: set[int] = set()
        self.ring = 0
        self.irqchip = False


def pages_of(size: int) -> int:
    """Return how many pages an array takes, without its guard."""
    return -(-size // PAGE)


def array_pages(size: int) -> list[int]:
    """Return the areas of one array in pages: itself, and a page-pointer array that is too large for the slab."""
    pages = pages_of(size)
    return [pages] if pages <= 512 else [pages, *array_pages(8 * pages)]


def arrays_of(slot: Slot) -> list[tuple[str, int]]:
    """Return the areas that a slot of this kernel has: allocating function and pages."""
    first, last = slot["gpa"] // PAGE, (slot["gpa"] + slot["size"]) // PAGE - 1
    counts = [(last >> shift) - (first >> shift) + 1 for shift in (0, 9, 18)]
    sizes = [("memslot_rmap_alloc", 8 * count) for count in counts]
    sizes += [("kvm_arch_prepare_memory_region", 4 * count) for count in counts[1:]]
    sizes += [("kvm_page_track_create_memslot", 2 * counts[0])]
    return [(site, pages) for site, size in sizes for pages in array_pages(size)]


class FakeKernel:
    """A kernel that answers by the rules below; see `replay.live.device.Device`."""

    def __init__(self, *lies: Lie, areas: bool = True, files: Mapping[str, str] | None = None) -> None:
        self.lies = lies
        self.files = FILES if files is None else files
        self.not_watched = "" if areas else "said so"
        self.shut_down = False
        self.busy = 0
        self.calls: list[tuple[int, Any]] = []
        self.pages_most = 0
        self._vms: dict[int, FakeVm] = {}
        self._areas: dict[bytes, tuple[str, int]] = {}
        self._held: dict[tuple[FakeVm, int], list[bytes]] = {}
        self._next = 100

    # What replay.live.device.Device asks for.

    def ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Answer one call."""
        if fd < 0:
            return self._system(request, argument)
        vm = self._vms[fd]
        fields = _fields(request, argument)
        self.calls.append((request, fields))
        for lie in self.lies:
            told = lie(vm, request, fields)
            if told is not None:
                return told
        return self._vm_call(vm, request, fields)

    def child_ioctl(self, fd: int, request: int, argument: Argument) -> int:
        """Answer a call from another mm: EIO before anything is read."""
        assert fd in self._vms
        assert _fields(request, argument) is not None
        return -5

    def close(self, fd: int) -> None:
        """Drop a reference; the last one frees all."""
        vm = self._vms.pop(fd)
        vm.fds.remove(fd)
        vm.guest_memfds.pop(fd, None)
        if not vm.fds:
            for slot in list(vm.slots):
                self._free(vm, slot)

    def areas(self) -> Areas | None:
        """Return a copy of the areas that are there."""
        return None if self.not_watched else dict(self._areas)

    def areas_sentence(self) -> str:
        """Say what the real one says."""
        return f"allocations are not compared: {self.not_watched}" if self.not_watched else "allocations are compared"

    def try_lock(self) -> bool:
        """Give the turn once others had it as often as `busy` says."""
        self.busy -= 1
        return self.busy < 0

    def shut(self) -> None:
        """Note that it was closed."""
        self.shut_down = True

    @property
    def open_fds(self) -> int:
        """Number of descriptors that are open."""
        return len(self._vms)

    # The rules.

    def _system(self, request: int, argument: Argument) -> int:
        if request == 0xAE00:
            return 12
        assert request == 0xAE01
        return self._opened(FakeVm()) if argument == 0 else -22

    def _opened(self, vm: FakeVm) -> int:
        self._next += 1
        vm.fds.add(self._next)
        self._vms[self._next] = vm
        return self._next

    def _vm_call(self, vm: FakeVm, request: int, fields: Any) -> int:
        if request == 0xAE03:
            return EXTENSIONS.get(fields, 0)
        if request in (0x4020AE46, 0x40A0AE49):
            return self._set_region(vm, fields, region2=request == 0x40A0AE49)
        rules: dict[int, Callable[[FakeVm, Any], int]] = {
            0x4010AE42: _get_dirty_log,
            0xC018AEC0: _clear_dirty_log,
            0xAE47: lambda _vm, address: -22 if address < 0 else 0,
            0x4008AE48: lambda vm, address: -22 if vm.vcpus else -14 if address == 0 else 0,
            0xAE44: lambda _vm, pages: -22 if pages < 64 else 0,
            0x4068AEA3: _enable_cap,
            0xAE60: _create_irqchip,
        }
        if request == 0xAE41:
            return self._create_vcpu(vm, fields)
        return self._create_guest_memfd(vm, fields) if request == 0xC040AED4 else rules[request](vm, fields)

    def _create_vcpu(self, vm: FakeVm, vcpu_id: int) -> int:
        if vcpu_id > 1023:
            return -22
        if vcpu_id in vm.vcpus:
            return -17
        vm.vcpus.add(vcpu_id)
        return self._opened(vm)

    def _create_guest_memfd(self, vm: FakeVm, fields: tuple[int, ...]) -> int:
        size, flags = fields[:2]
        if flags or size <= 0 or size % PAGE:
            return -22
        fd = self._opened(vm)
        vm.guest_memfds[fd] = size
        return fd

    def _set_region(self, vm: FakeVm, fields: Any, *, region2: bool) -> int:
        if fields == 0:
            return -14
        names = ("slot", "flags", "gpa", "size", "hva", "offset", "fd")
        asked = dict(zip(names, (*fields, 0, 0), strict=False))
        old = vm.slots.get(asked["slot"])
        errno = _refused(vm, asked, old, region2=region2)
        if errno is not None:
            return -errno
        if not asked["size"]:
            self._free(vm, asked["slot"])
            return 0
        if old is not None and (old["gpa"], old["flags"]) == (asked["gpa"], asked["flags"]):
            return 0
        if old is None and asked["flags"] & 4:
            bound = _bind(vm, asked)
            if bound:
                return bound
        if asked["gpa"] + asked["size"] > 1 << 52:
            return -22
        self._replace(vm, asked, old)
        return 0

    def _replace(self, vm: FakeVm, asked: Slot, old: Slot | None) -> None:
        key = asked["slot"]
        keys = self._held.setdefault((vm, key), [])
        kept = [area for area in keys if self._areas[area][0] == "kvm_set_memslot" and asked["flags"] & 1]
        fresh = arrays_of(asked)
        if old is not None and old["gpa"] == asked["gpa"]:  # flags only: the arrays stay
            kept += [area for area in keys if self._areas[area][0] != "kvm_set_memslot"]
            fresh = []
        logged = [area for area in kept if self._areas[area][0] == "kvm_set_memslot"]
        if asked["flags"] & 1 and not vm.ring and not logged:
            fresh += [("kvm_set_memslot", pages) for pages in array_pages(16 * -(-asked["size"] // PAGE // 64))]
        made = [self._area(site, pages) for site, pages in fresh]
        self.pages_most = max(self.pages_most, sum(pages for _site, pages in self._areas.values()))
        for area in keys:
            if area not in kept:
                del self._areas[area]
        self._held[vm, key] = kept + made
        vm.slots[key] = asked

    def _area(self, site: str, pages: int) -> bytes:
        self._next += 1
        name = b"0x%x-0x%x" % (self._next, self._next + 1)
        self._areas[name] = (site, pages)
        return name

    def _free(self, vm: FakeVm, key: int) -> None:
        del vm.slots[key]
        for area in self._held.pop((vm, key)):
            del self._areas[area]


def _fields(request: int, argument: Argument) -> Any:
    """Return what an argument holds: a number as it is, a structure as a tuple."""
    layouts = {
        0x4020AE46: "<IIQQQ",
        0x40A0AE49: "<IIQQQQI116x",
        0x4010AE42: "<I4xQ",
        0xC018AEC0: "<IIQQ",
        0x4068AEA3: "<II4Q64x",
        0xC040AED4: "<QQ48x",
        0x4008AE48: "<Q",
    }
    return argument if isinstance(argument, int) else struct.unpack(layouts[request], argument)


def _refused(vm: FakeVm, asked: Slot, old: Slot | None, *, region2: bool) -> int | None:
    """Return the errno of the first rule that an asked slot breaks, in the kernel's order."""
    flags, gpa, size, hva = asked["flags"], asked["gpa"], asked["size"], asked["hva"]
    gmem = bool(flags & 4)
    if (not region2 and flags & ~3) or asked["slot"] & 0xFFFF >= 32764 or flags & ~7 or (gmem and flags != 4):
        return 22
    if size % PAGE or gpa % PAGE or hva % PAGE or not hva <= (hva + size) % TOP <= USER_END:
        return 22
    if gmem and (asked["offset"] % PAGE or asked["offset"] + size >= TOP):
        return 22
    if asked["slot"] >> 16 or (gpa + size) % TOP < gpa or size // PAGE >= 1 << 31:
        return 22
    if not size:
        return None if old else 22
    if old is not None and (gmem or (hva, size) != (old["hva"], old["size"]) or (flags ^ old["flags"]) & 6):
        return 22
    if old is not None and (gpa, flags) == (old["gpa"], old["flags"]):
        return None
    others = [slot for key, slot in vm.slots.items() if key != asked["slot"]]
    return 17 if any(slot["gpa"] < gpa + size and gpa < slot["gpa"] + slot["size"] for slot in others) else None


def _bind(vm: FakeVm, asked: Slot) -> int:
    limit = vm.guest_memfds.get(asked["fd"])
    if limit is None:
        return -9
    end = asked["offset"] + asked["size"]
    bound = [slot for slot in vm.slots.values() if slot["flags"] & 4 and slot["fd"] == asked["fd"]]
    taken = any(slot["offset"] < end and asked["offset"] < slot["offset"] + slot["size"] for slot in bound)
    return -22 if taken or end > limit else 0


def _logged(vm: FakeVm, field: int) -> Slot | int:
    """Return the slot whose log is asked for, or the errno."""
    if vm.ring:
        return -6
    if field >> 16 or field & 0xFFFF >= 32764:
        return -22
    slot = vm.slots.get(field)
    return slot if slot is not None and slot["flags"] & 1 else -2


def _get_dirty_log(vm: FakeVm, fields: tuple[int, ...]) -> int:
    slot = _logged(vm, fields[0])
    return slot if isinstance(slot, int) else 0 if fields[1] else -14


def _clear_dirty_log(vm: FakeVm, fields: tuple[int, ...]) -> int:
    field, count, first, pointer = fields
    slot = _logged(vm, field)
    if slot in (-6, -22) or first % 64:
        return slot if isinstance(slot, int) and slot != -2 else -22
    if isinstance(slot, int):
        return slot
    rest = slot["size"] // PAGE - first
    if rest < 0 or count > rest or (count < rest and count % 64):
        return -22
    return 0 if pointer or not count else -14


def _enable_cap(vm: FakeVm, fields: tuple[int, ...]) -> int:
    cap, flags, arg = fields[:3]
    if cap == 168:
        return -22 if flags or arg not in (0, 1, 3) else 0
    if cap == 192 and not flags and arg == 4096 and not vm.ring and not vm.vcpus:
        vm.ring = arg
        return 0
    return -22


def _create_irqchip(vm: FakeVm, _fields: Any) -> int:
    if vm.irqchip:
        return -17
    if vm.vcpus:
        return -22
    vm.irqchip = True
    return 0


def install(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel) -> None:
    """Put a kernel in the place of this machine's, for the command line."""
    monkeypatch.setattr(device, "DevKvm", lambda: kernel)
    monkeypatch.setattr(device, "this_release", lambda: RELEASE)
    monkeypatch.setattr("replay.cli.live_session.others_use_kvm", lambda: False)
    monkeypatch.setattr(probe, "read_text", kernel.files.get)
