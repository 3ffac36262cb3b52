"""Hold what QEMU 7.2 asks while a pc with std VGA boots and resets, call by call, as the captures have it.

A row is (slot, guest physical address, size, flags, memory); size 0 deletes, None is "up to the end of RAM". memory says what
is mapped: "ram" at its own address, the others by an offset of theirs. Source: recordings/real/qemu-std-vga-boot.kvmr, events
10 to 44; recordings/real/qemu-resets.kvmr, events 46 to 73.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.events import Event
from replay.generate.vmm import LOG, MIB, READONLY, Vmm

Row = tuple[int, int, int | None, int, str]
_OFFSETS: Final = {"ram": 0, "bios": 1 << 37, "rom": (1 << 37) + (4 << 20), "vga": (1 << 37) + (64 << 20)}
RAM_MIB: Final = (128, 256, 512, 1024, 2048)
_VGA: Final = 0xFD000000
_OPTION_ROM: Final = 0xFEBE0000
_BIOS: Final = 0xFFFC0000

_DELETE: Final = 0
_SPLIT: Final[tuple[Row, ...]] = (
    (2, 0xC0000, 0xA000, 0, "ram"),
    (4, 0xCA000, 0x3000, 0, "ram"),
    (5, 0xCD000, 0x3000, 0, "ram"),
    (6, 0xD0000, 0x20000, 0, "ram"),
    (7, 0xF0000, 0x10000, 0, "ram"),
    (8, 0x100000, None, 0, "ram"),
    (5, 0xCD000, _DELETE, 0, "ram"),
    (6, 0xD0000, _DELETE, 0, "ram"),
    (5, 0xCD000, 0x1B000, 0, "ram"),
    (6, 0xE8000, 0x8000, 0, "ram"),
)
"""The firmware is done: it write-protects what it copied to RAM, and QEMU splits the memslot around that."""
_DEVICES: Final[tuple[Row, ...]] = (
    (3, _VGA, 16 * MIB, LOG, "vga"),
    (4, _OPTION_ROM, 0x10000, READONLY, "rom"),
    (4, _OPTION_ROM, _DELETE, 0, "rom"),
    (2, 0xC0000, _DELETE, 0, "ram"),
    *_SPLIT,
)
BOOT: Final[tuple[Row, ...]] = (
    (0, 0, None, 0, "ram"),
    (1, _BIOS, 0x40000, READONLY, "bios"),
    (0, 0, _DELETE, 0, "ram"),
    (0, 0, 0xC0000, 0, "ram"),
    (2, 0xC0000, 0x20000, READONLY, "rom"),
    (3, 0xE0000, 0x20000, READONLY, "bios"),
    (4, 0x100000, None, 0, "ram"),
    (0, 0, _DELETE, 0, "ram"),
    (0, 0, 0xA0000, 0, "ram"),
    (2, 0xC0000, _DELETE, 0, "rom"),
    (3, 0xE0000, _DELETE, 0, "bios"),
    (4, 0x100000, _DELETE, 0, "ram"),
    (2, 0xC0000, 0x10000, 0, "ram"),
    (3, 0xD0000, 0x10000, READONLY, "rom"),
    (4, 0xE0000, 0x10000, READONLY, "bios"),
    (5, 0xF0000, None, 0, "ram"),
    (2, 0xC0000, _DELETE, 0, "ram"),
    (3, 0xD0000, _DELETE, 0, "rom"),
    (4, 0xE0000, _DELETE, 0, "bios"),
    (5, 0xF0000, _DELETE, 0, "ram"),
    (2, 0xC0000, None, 0, "ram"),
    *_DEVICES,
)
RESET: Final[tuple[Row, ...]] = (
    (3, _VGA, _DELETE, 0, "vga"),
    (2, 0xC0000, _DELETE, 0, "ram"),
    (4, 0xCA000, _DELETE, 0, "ram"),
    (5, 0xCD000, _DELETE, 0, "ram"),
    (6, 0xE8000, _DELETE, 0, "ram"),
    (7, 0xF0000, _DELETE, 0, "ram"),
    (8, 0x100000, _DELETE, 0, "ram"),
    (2, 0xC0000, 0x10000, 0, "ram"),
    (3, 0xD0000, 0x18000, 0, "ram"),
    (4, 0xE8000, None, 0, "ram"),
    (2, 0xC0000, _DELETE, 0, "ram"),
    (3, 0xD0000, _DELETE, 0, "ram"),
    (4, 0xE8000, _DELETE, 0, "ram"),
    (2, 0xC0000, None, 0, "ram"),
    *_DEVICES,
)


def asked(vmm: Vmm, rows: Sequence[Row], ram_bytes: int) -> Iterator[Event]:
    """Yield the calls of some rows; from the first deletion on they are the vCPU's, as its exits cause them."""
    for slot, gpa, size, flags, memory in rows:
        if size == _DELETE:
            yield vmm.delete_slot(slot, task=vmm.vcpu)
        else:
            hva = vmm.ram_base + _OFFSETS[memory] + (gpa if memory == "ram" else 0)
            yield vmm.set_slot(slot, gpa, ram_bytes - gpa if size is None else size, hva, flags, task=vmm.vcpu)


def booted(vmm: Vmm, ram_bytes: int) -> Iterator[Event]:
    """Yield a VM's creation and boot."""
    yield vmm.create()
    yield from vmm.prologue()
    yield from asked(vmm, BOOT, ram_bytes)
