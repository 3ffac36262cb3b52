"""Turn a call into the bytes that KVM reads. Source of the layouts: include/uapi/linux/kvm.h [6.12], little endian.

Numbers beyond the ioctls of `replay.sources.ioctls`: capabilities and flags, from the same header.
"""

import struct
from array import array
from collections.abc import Callable
from typing import Any, Final

from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    MemslotSet,
    NrMmuPagesSet,
    TssSet,
    VcpuCreate,
    VmEnableCap,
)
from replay.events.base import VmCall
from replay.sources.ioctls import (
    KVM_CLEAR_DIRTY_LOG,
    KVM_CREATE_GUEST_MEMFD,
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_DIRTY_LOG,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_SET_NR_MMU_PAGES,
    KVM_SET_TSS_ADDR,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
)

KVM_GET_API_VERSION: Final = 0xAE00
KVM_API_VERSION: Final = 12

LOG_DIRTY_PAGES: Final = 1
READONLY: Final = 2
GUEST_MEMFD: Final = 4

CAP_MULTI_ADDRESS_SPACE: Final = 118
CAP_SPLIT_IRQCHIP: Final = 121
CAP_MANUAL_DIRTY_LOG_PROTECT2: Final = 168
CAP_DIRTY_LOG_RING: Final = 192
CAP_USER_MEMORY2: Final = 231
CAP_GUEST_MEMFD: Final = 234
CAP_VM_TYPES: Final = 235
CAP_PRE_FAULT_MEMORY: Final = 236

USER_SLOTS: Final = 32764
"""Ids below this are userspace's; see KVM_CAP_NR_MEMSLOTS."""

_REGION: Final = struct.Struct("<IIQQQ")
_REGION2: Final = struct.Struct("<IIQQQQII14Q")
_DIRTY_LOG: Final = struct.Struct("<IIQ")
_CLEAR_DIRTY_LOG: Final = struct.Struct("<IIQQ")
_ENABLE_CAP: Final = struct.Struct("<II4Q64x")
_GUEST_MEMFD: Final = struct.Struct("<QQ6Q")
_U64: Final = struct.Struct("<Q")

NULL: Final = 0
"""A pointer that no process can read: nothing is mapped at 0 (vm.mmap_min_addr)."""

Argument = int | bytearray
"""What an ioctl is given: a number below 2^31 or below 0, or a structure."""


class Bitmap:
    """Memory that the dirty-log calls read and write: room for the largest slot there can be, whatever the call asks for."""

    def __init__(self, pages_max: int) -> None:
        self._words = array("Q", bytes(8 * (pages_max // 64 + 1)))

    @property
    def address(self) -> int:
        """Where it is in this process."""
        return self._words.buffer_info()[0]


def _memslot(event: MemslotSet, _bitmap: Bitmap) -> tuple[int, Argument]:
    request = KVM_SET_USER_MEMORY_REGION2 if event.region2 else KVM_SET_USER_MEMORY_REGION
    if event.fault:
        return request, NULL
    head = (event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.userspace_addr)
    if not event.region2:
        return request, bytearray(_REGION.pack(*head))
    return request, bytearray(_REGION2.pack(*head, event.guest_memfd_offset, event.guest_memfd or 0, 0, *[0] * 14))


def _dirty_log(event: DirtyLogGet, bitmap: Bitmap) -> tuple[int, Argument]:
    return KVM_GET_DIRTY_LOG, bytearray(_DIRTY_LOG.pack(event.slot or 0, 0, NULL if event.fault else bitmap.address))


def _clear_dirty_log(event: DirtyLogClear, bitmap: Bitmap) -> tuple[int, Argument]:
    pointer = NULL if event.fault else bitmap.address
    return KVM_CLEAR_DIRTY_LOG, bytearray(_CLEAR_DIRTY_LOG.pack(event.slot or 0, event.num_pages, event.first_page, pointer))


def _enable_cap(event: VmEnableCap, _bitmap: Bitmap) -> tuple[int, Argument]:
    args = (*event.args, 0, 0, 0, 0)[:4]
    return KVM_ENABLE_CAP, bytearray(_ENABLE_CAP.pack(event.cap, event.flags, *args))


def _identity_map(event: IdentityMapSet, _bitmap: Bitmap) -> tuple[int, Argument]:
    return KVM_SET_IDENTITY_MAP_ADDR, NULL if event.fault else bytearray(_U64.pack(event.guest_phys_addr or 0))


def _guest_memfd(event: GuestMemfdCreate, _bitmap: Bitmap) -> tuple[int, Argument]:
    return KVM_CREATE_GUEST_MEMFD, bytearray(_GUEST_MEMFD.pack(event.size_bytes or 0, event.flags, *[0] * 6))


def by_value(number: int) -> int:
    """Return a 32-bit number as the C int that Python hands to an ioctl: from 2^31 on it is negative.

    Whether its upper half arrives as zeros or ones is up to the compiler, so only calls that are refused either way use it.
    """
    return number - (1 << 32) if number >= 1 << 31 else number


_ENCODERS: Final[dict[type[VmCall], Callable[[Any, Bitmap], tuple[int, Argument]]]] = {
    MemslotSet: _memslot,
    DirtyLogGet: _dirty_log,
    DirtyLogClear: _clear_dirty_log,
    VmEnableCap: _enable_cap,
    IdentityMapSet: _identity_map,
    GuestMemfdCreate: _guest_memfd,
    TssSet: lambda event, _bitmap: (KVM_SET_TSS_ADDR, by_value(event.guest_phys_addr)),
    NrMmuPagesSet: lambda event, _bitmap: (KVM_SET_NR_MMU_PAGES, event.nr_mmu_pages),
    VcpuCreate: lambda event, _bitmap: (KVM_CREATE_VCPU, event.vcpu_id),
    IrqchipCreate: lambda _event, _bitmap: (KVM_CREATE_IRQCHIP, 0),
}


def encode(event: VmCall, bitmap: Bitmap) -> tuple[int, Argument]:
    """Return the ioctl number and the argument of a call that was not made yet."""
    return _ENCODERS[type(event)](event, bitmap)
