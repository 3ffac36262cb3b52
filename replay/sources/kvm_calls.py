"""Turn one KVM call on a VM, with its arguments as text, into its event; a table of what each call becomes.

A call whose arguments the recorder did not show becomes `Opaque` when it may have changed what is modelled.
"""

import re
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
    Opaque,
    TssSet,
    VcpuCreate,
    VmCall,
    VmEnableCap,
)
from replay.sources import ioctls
from replay.sources.strace_args import number_of, region_of
from replay.units import EFAULT, U32_MAX, U64_MAX, Gpa, Hva

Builder = Callable[[int, str, dict[str, Any]], VmCall]
"""Make an event of (ioctl number, third argument as text, the fields that all calls have)."""


_MEMBER: Final = re.compile(r"(\w+)=(0x[0-9a-f]{1,16}|\d{1,20})(?=[,}])")
_CAP: Final = re.compile(r"\{cap=(\d{1,10}), flags=(0x[0-9a-f]{1,8}), args=\[(0x[0-9a-f]{1,16}(?:, 0x[0-9a-f]{1,16}){3})\]\}")


def members(arg: str) -> dict[str, int]:
    """Return the members of a struct that a recorder read; none for a pointer, which is all that strace prints of most.

    >>> members("{slot=1, num_pages=64, first_page=0}")["num_pages"]
    64
    """
    if arg[:1] != "{" or arg[-1:] != "}":
        return {}
    found = {name: int(text, 16 if text[1:2] == "x" else 10) for name, text in _MEMBER.findall(arg)}
    return found if all(number <= U64_MAX for number in found.values()) else {}


def opaque(cmd: int, _arg: str, base: dict[str, Any]) -> VmCall:
    """Say that a call was made whose arguments are not known."""
    return Opaque(cmd=cmd & U32_MAX, name=ioctls.ioctl_name(cmd), **base)


def memslot_set(cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_SET_USER_MEMORY_REGION(2): the struct, or a pointer that the kernel could not read either (EFAULT)."""
    region2 = cmd == ioctls.KVM_SET_USER_MEMORY_REGION2
    if base["ret"] == -EFAULT:
        return MemslotSet(fault=True, region2=region2, **base)
    region = region_of(arg)
    if region is None or region["slot"] > U32_MAX or region["flags"] > U32_MAX or region.get("guest_memfd", 0) > U32_MAX:
        return opaque(cmd, arg, base)
    return MemslotSet(
        slot=region["slot"],
        flags=region["flags"],
        guest_phys_addr=Gpa(region["guest_phys_addr"]),
        memory_size=region["memory_size"],
        userspace_addr=Hva(region["userspace_addr"]),
        guest_memfd=region.get("guest_memfd"),
        guest_memfd_offset=region.get("guest_memfd_offset", 0),
        region2=region2,
        **base,
    )


def vcpu_create(cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_CREATE_VCPU: the id by value."""
    vcpu_id = _value(arg, U32_MAX)
    return opaque(cmd, arg, base) if vcpu_id is None else VcpuCreate(vcpu_id=vcpu_id, **base)


def tss_set(cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_SET_TSS_ADDR: the address by value."""
    address = _value(arg)
    return opaque(cmd, arg, base) if address is None else TssSet(guest_phys_addr=Gpa(address), **base)


def nr_mmu_pages_set(cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_SET_NR_MMU_PAGES: the number by value."""
    pages = _value(arg)
    return opaque(cmd, arg, base) if pages is None else NrMmuPagesSet(nr_mmu_pages=pages, **base)


def enable_cap(cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_ENABLE_CAP: a struct that strace does not follow, and the bpftrace recorder does."""
    match = _CAP.fullmatch(arg)
    if match is None or int(match[1]) > U32_MAX or base["ret"] == -EFAULT:
        return opaque(cmd, arg, base)
    args = tuple(int(word, 16) for word in match[3].split(", "))
    return VmEnableCap(cap=int(match[1]), flags=int(match[2], 16), args=args, **base)


def identity_map_set(_cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_SET_IDENTITY_MAP_ADDR: a pointer to the address, which strace does not follow; `[ADDRESS]` by others."""
    address = _value(arg[1:-1]) if arg[:1] == "[" and base["ret"] != -EFAULT else None
    return IdentityMapSet(guest_phys_addr=None if address is None else Gpa(address), fault=base["ret"] == -EFAULT, **base)


def irqchip_create(_cmd: int, _arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_CREATE_IRQCHIP."""
    return IrqchipCreate(**base)


def dirty_log_get(_cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_GET_DIRTY_LOG: a pointer that strace does not follow."""
    fault = base["ret"] == -EFAULT
    return DirtyLogGet(slot=None if fault else _slot(members(arg)), fault=fault, **base)


def dirty_log_clear(_cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_CLEAR_DIRTY_LOG: a pointer that strace does not follow."""
    found, fault = members(arg), base["ret"] == -EFAULT
    if fault or _slot(found) is None:
        return DirtyLogClear(fault=fault, **base)
    first_page, num_pages = found.get("first_page", 0), found.get("num_pages", 0)
    return DirtyLogClear(slot=_slot(found), first_page=first_page, num_pages=num_pages, **base)


def guest_memfd_create(_cmd: int, arg: str, base: dict[str, Any]) -> VmCall:
    """Read KVM_CREATE_GUEST_MEMFD: a pointer that strace does not follow."""
    found = members(arg)
    return GuestMemfdCreate(size_bytes=found.get("size"), flags=found.get("flags", 0), **base)


def _slot(found: dict[str, int]) -> int | None:
    slot = found.get("slot")
    return slot if slot is not None and slot <= U32_MAX else None


def _value(arg: str, maximum: int = (1 << 64) - 1) -> int | None:
    number = number_of(arg)
    return number if number is not None and 0 <= number <= maximum else None


VM_CALLS: Final[dict[int, Builder]] = {
    ioctls.KVM_SET_USER_MEMORY_REGION: memslot_set,
    ioctls.KVM_SET_USER_MEMORY_REGION2: memslot_set,
    ioctls.KVM_CREATE_VCPU: vcpu_create,
    ioctls.KVM_SET_TSS_ADDR: tss_set,
    ioctls.KVM_SET_IDENTITY_MAP_ADDR: identity_map_set,
    ioctls.KVM_SET_NR_MMU_PAGES: nr_mmu_pages_set,
    ioctls.KVM_CREATE_IRQCHIP: irqchip_create,
    ioctls.KVM_GET_DIRTY_LOG: dirty_log_get,
    ioctls.KVM_CLEAR_DIRTY_LOG: dirty_log_clear,
    ioctls.KVM_CREATE_GUEST_MEMFD: guest_memfd_create,
    ioctls.KVM_ENABLE_CAP: enable_cap,
}
"""What a call on a VM fd becomes; a call that is not here changes nothing that is modelled."""

MEMSLOT_CALLS: Final = frozenset({ioctls.KVM_SET_USER_MEMORY_REGION, ioctls.KVM_SET_USER_MEMORY_REGION2})

ALWAYS_THERE: Final = frozenset(
    {
        ioctls.KVM_SET_USER_MEMORY_REGION,
        ioctls.KVM_CREATE_VCPU,
        ioctls.KVM_CHECK_EXTENSION,
        ioctls.KVM_GET_DIRTY_LOG,
        ioctls.KVM_RUN,
    }
)
"""Calls that every VM or vCPU knows: ENOTTY says that the fd is not one. REGION2 and GET_NR_MMU_PAGES give ENOTTY on a VM too."""
