"""Make streams of events that collide: few slots, few gfns, bad arguments, failing allocations, in all orders.

A stream is decided by its seed alone. The generator looks at the slow model's state only to aim: half of the gfns lie in slots.
"""

import random
from typing import Any

from replay.events import (
    AllocFail,
    Event,
    GuestWrite,
    IrqchipCreate,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    ShadowPageAccount,
    ShadowPageUnaccount,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.units import AsId, Gfn, Gpa, Hva

Facts = dict[str, Any]

POLICIES = ("always", "eager-5.16", "eager-6.6", "v1", "v2", "on-demand", "ideal")
RELEASES = (
    (5, 10, 0),
    (6, 1, 0),
    (6, 1, 192),
    (6, 6, 0),
    (6, 8, 0),
    (6, 11, 6),
    (6, 12, 0),
    (6, 12, 117),
    (6, 18, 0),
    (6, 18, 50),
)
SITES = (
    "",
    "kvm_set_memory_region",
    "kvm_set_memslot(invalid)",
    "kvm_set_memslot",
    "memslot_rmap_alloc",
    "kvm_arch_prepare_memory_region",
    "kvm_page_track_create_memslot",
    "kvm_page_track_write_tracking_alloc",
    "kvm_page_track_register_notifier",
    "gfn_write_track",
    "rmap",
    "slot",
)
IDS = (0, 1, 2, 144, 288)
"""Ids 0, 144 and 288 share a bucket of the id hash, so that the order inside one matters."""
ALIGNED = {1: 4, 2: 508}
"""Pages by which the memory of a slot lies behind a multiple of 1 GiB: where a slot begins alike, large pages are possible."""
ACROSS = 2
"""The slot whose last pages are named instead of its first: some lie behind a multiple of 2 MiB."""


def facts_of(rng: random.Random) -> Facts:
    """Draw a profile."""
    return {
        "release": rng.choice(RELEASES),
        "config_external_write_tracking": rng.random() < 0.75,
        "tdp": rng.random() < 0.75,
        "tdp_mmu": rng.random() < 0.7,
        "smm": rng.random() < 0.8,
        "vendor": rng.choice(("", "intel", "intel", "amd")),
        "unrestricted_guest": rng.random() < 0.4,
        "flexpriority": rng.random() < 0.7,
        "avic": rng.random() < 0.5,
        "la57": rng.random() < 0.3,
        "max_phys_bits": rng.choice((52, 52, 32)),
        "total_ram_pages": rng.choice((0, 0, 0, 600)),
    }


class Generator:
    """Draw one event after the other; `world` is the slow model that saw the ones before."""

    def __init__(self, rng: random.Random, vms: int, *, patient: bool) -> None:
        self.rng, self.vms, self.patient = rng, vms, patient
        """patient: external adds wait for a registration, as a driver would."""
        self.kinds = (self.memslot, self.hot, self.notifier, self.root, self.failure, self.vcpu, self.destroy, self.cap)
        self.pending: list[Event] = []

    def start(self) -> list[Event]:
        """Create the VMs, now and then one of a type with one address space or one that may not be tracked."""
        types = (0, 0, 0, 0, 0, 1, 3, 5)
        created: list[Event] = [VmCreate(vm=vm, ret=0, type=self.rng.choice(types)) for vm in range(self.vms)]
        opted = [self.cap(None, vm) for vm in range(self.vms) if self.rng.random() < 0.3]
        return created + opted + (self.slip() if self.rng.random() < 0.05 else [])

    def slip(self) -> list[Event]:
        """Make a memslot that the opt-out of v1 does not see, between opting out and in, and a shadow page in it."""
        fields: Facts = {"slot": 1 << 16, "memory_size": 4 << 12, "userspace_addr": Hva(0x7F0000000000)}
        page = ShadowPageAccount(vm=0, as_id=AsId(1), gfn=Gfn(1), level=2)
        return [VmEnableCap(vm=0, cap=236, args=(0,)), MemslotSet(vm=0, **fields), VmEnableCap(vm=0, cap=236, args=(1,)), page]

    def next(self, world: Any) -> Event:
        """Draw an event; a VM that is gone is mostly followed by a new one."""
        if self.pending:
            return self.pending.pop(0)
        vm = self.rng.randrange(max(self.vms - 2, 0), self.vms)
        if vm in world.gone and self.rng.random() < 0.6:
            self.vms += 1
            return VmCreate(vm=self.vms - 1, ret=0, type=0)
        kind = self.rng.choices(self.kinds, weights=(44, 40, 6, 2, 7, 4, 1, 2))[0]
        return kind(world, vm)

    def memslot(self, world: Any, vm: int) -> Event:
        """Draw a memslot request: mostly sensible, one time in eight with one argument broken."""
        rng = self.rng
        nas = world.vms[vm]["nas"] if vm in world.vms else 2
        as_id = AsId(rng.random() < (0.35 if nas == 2 else 0.05))
        slot_id = rng.choice(IDS)
        old = world.find(world.vms[vm], as_id, slot_id) if vm in world.vms and as_id < nas else None
        flags = rng.choice((0, 0, 0, 1, 1, 1, 2))
        npages = rng.choice((1, 2, 3, 4, 6, 513)) if rng.random() < 0.97 else rng.choice((1 << 20, 5 << 18, 1 << 31))
        fields: Facts = {
            "slot": as_id << 16 | slot_id,
            "flags": flags,
            "guest_phys_addr": rng.choice((0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 508, 1024, 1 << 18)) << 12,
            "memory_size": npages << 12,
            "userspace_addr": 0x7F0000000000 + (slot_id << 32) + (ALIGNED.get(slot_id, 0) << 12),
            "region2": rng.random() < 0.15,
        }
        if old is not None and rng.random() < 0.85:
            fields |= {"guest_phys_addr": old["base"] << 12, "memory_size": old["npages"] << 12, "userspace_addr": old["hva"]}
            fields |= rng.choice(
                (
                    {"memory_size": 0},
                    {"memory_size": 0},
                    {"flags": old["flags"] ^ 1},
                    {"flags": old["flags"] ^ 1},
                    {"flags": old["flags"], "guest_phys_addr": rng.randrange(12) << 12},
                    {"flags": old["flags"] ^ 1, "guest_phys_addr": rng.randrange(12) << 12},
                    {"flags": old["flags"]},
                )
            )
        if rng.random() < 0.12:
            fields |= rng.choice(self._broken(fields))
        if fields["flags"] & 4:
            fields["ret"] = rng.choice((0, 0, None, -22, -9, -12))
        return MemslotSet(vm=vm, **fields)

    def _broken(self, good: Facts) -> tuple[Facts, ...]:
        size, gpa, hva, slot = (good[name] for name in ("memory_size", "guest_phys_addr", "userspace_addr", "slot"))
        offset = self.rng.choice((0, 4096, 7, 2**64 - 4096, 2**64 - size if size else 0))
        return (
            {"foreign_mm": True},
            {"fault": True},
            {"memory_size": size + 7},
            {"memory_size": (1 << 31) << 12, "userspace_addr": Hva(0)},
            {"guest_phys_addr": Gpa(gpa + 1)},
            {"guest_phys_addr": Gpa(2**64 - 4096)},
            {"guest_phys_addr": Gpa(1 << 52)},
            {"userspace_addr": Hva(hva + 5)},
            {"userspace_addr": Hva(2**47 - 4096)},
            {"userspace_addr": Hva(2**47 - 4096 - size)},
            {"userspace_addr": Hva(2**63 - 4096)},
            {"userspace_addr": Hva(2**64 - 4096)},
            {"flags": 4, "region2": True, "guest_memfd": 3, "guest_memfd_offset": offset},
            {"flags": 4, "region2": True, "guest_memfd": 3},
            {"flags": 5, "region2": True},
            {"flags": 4},
            {"flags": good["flags"] | 8, "region2": True},
            {"flags": 1 << 16},
            {"slot": slot | 2 << 16},
            {"slot": slot & 0x10000 | self.rng.choice((32763, 32764, 32765, 32767, 65535))},
        )

    def _place(self, world: Any, vm: int) -> tuple[AsId, Gfn]:
        as_id = AsId(self.rng.random() < 0.3)
        if vm in world.vms and self.rng.random() < 0.85:
            slots = world.walk(world.vms[vm], min(as_id, world.vms[vm]["nas"] - 1))
            if slots:
                slot = self.rng.choice(slots)
                index = self.rng.randrange(min(slot["npages"], 3))
                return as_id, Gfn(slot["base"] + (slot["npages"] - 1 - index if slot["id"] == ACROSS else index))
        return as_id, Gfn(self.rng.randrange(14))

    def hot(self, world: Any, vm: int) -> Event:
        """Draw a hot event."""
        as_id, gfn = self._place(world, vm)
        alive = vm in world.vms
        listening = alive and bool(world.vms[vm]["nodes"])
        rooted = alive and (world.vms[vm]["shadow"] or not world.facts["tdp"])
        external = (WriteTrackAdd, WriteTrackAdd, WriteTrackAdd, WriteTrackRemove, WriteTrackRemove)
        pages = (ShadowPageAccount, ShadowPageAccount, ShadowPageUnaccount)
        kinds = [WriteTrackQuery, GuestWrite]
        kinds += external if listening or not self.patient else ()
        kinds += pages if rooted or not self.patient else ()
        kind = self.rng.choice(kinds)
        level = self.rng.choice((1, 2, 2, 3)) if kind in pages else 0
        return kind(vm=vm, as_id=as_id, gfn=gfn, level=level)

    def notifier(self, _world: Any, vm: int) -> Event:
        """Draw a registration or its end."""
        rng = self.rng
        if rng.random() < 0.6:
            return NotifierRegister(vm=vm, node=rng.randrange(3), foreign_mm=rng.random() < 0.1, null_kvm=rng.random() < 0.05)
        return NotifierUnregister(vm=vm, node=rng.randrange(3), foreign_mm=rng.random() < 0.4)

    def root(self, _world: Any, vm: int) -> Event:
        """Draw a shadow root."""
        return ShadowRootAlloc(vm=vm, foreign_mm=self.rng.random() < 0.05)

    def failure(self, _world: Any, vm: int) -> Event:
        """Draw an injection, its end, or a limit of the memory cgroup."""
        rng = self.rng
        if rng.random() < 0.2:
            return MemoryLimit(limit_pages=rng.choice((None, None, rng.randrange(20))))
        where, site = rng.choice((None, None, vm)), rng.choice(SITES)
        if rng.random() < 0.35:
            return AllocFail(vm=where, site=site, off=True)
        if rng.random() < 0.5:  # arrays made late: the call that makes them follows, and once more
            site = rng.choice(
                ("", "kvm_page_track_register_notifier", "kvm_page_track_write_tracking_alloc", "memslot_rmap_alloc")
            )
            register: Event = NotifierRegister(vm=vm, node=0)
            root: Event = ShadowRootAlloc(vm=vm)
            first = register if not site or "register" in site else root
            self.pending += rng.choice(
                ([first, first], [first, first, root, register], [first, WriteTrackAdd(vm=vm, gfn=Gfn(0))])
            )
        return AllocFail(vm=where, site=site, nth=rng.choice((1, 1, 2, 2, 3, 4, 5)), count=rng.choice((0, 1, 1, 2)))

    def vcpu(self, _world: Any, vm: int) -> Event:
        """Draw what makes internal slots."""
        rng = self.rng
        return rng.choice(
            (
                IrqchipCreate(vm=vm, ret=0, foreign_mm=rng.random() < 0.05),
                VcpuCreate(vm=vm, ret=0, vcpu_id=0, foreign_mm=rng.random() < 0.05),
                TssSet(vm=vm, guest_phys_addr=Gpa(rng.choice((0x1000, 0xFFFBD000, 0xFFFFE000)))),
            )
        )

    def cap(self, _world: Any, vm: int) -> Event:
        """Draw a call of the opt-out, mostly one out of write tracking."""
        rng = self.rng
        args = (rng.choice((0, 0, 0, 1, 1, 2)),)
        return VmEnableCap(vm=vm, cap=236, args=args, flags=rng.choice((0,) * 9 + (1,)), foreign_mm=rng.random() < 0.03)

    def destroy(self, _world: Any, vm: int) -> Event:
        """Draw the end of a VM."""
        return VmDestroy(vm=vm, foreign_mm=self.rng.random() < 0.4)
