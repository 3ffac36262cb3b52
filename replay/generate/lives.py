"""Tell what each kind of VM does from its creation to its end: calls, stretches of hot events, waits."""

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from replay.events import Event, MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc, TssSet
from replay.generate import measured
from replay.generate.measured import Measured
from replay.generate.pages import Habit, Pages
from replay.generate.qemu import RAM_MIB, RESET, asked, booted
from replay.generate.vmm import GIB, LOG, MIB, Vmm
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT
from replay.units import PAGE_SIZE_BYTES, Gpa

KEEP, DROP, TOUCH = "keep", "drop", "touch"


@attrs.define
class Hot:
    """A stretch of hot events: all of `keep` or `drop`, or `touch` of so many events."""

    pages: Pages
    what: str
    count: int = 0


@attrs.frozen
class Wait:
    """Time that goes by."""

    time_ns: int


Act = Event | Hot | Wait
Life = Callable[[Vmm], Iterator[Act]]

NESTED: Final = Habit(
    up=ACCOUNT,
    down=UNACCOUNT,
    kept=3,
    pairs_permille=measured.FLIP_PAIRS.one,
    gaps=measured.FLIP_GAPS,
    nested=True,
)
SHADOW: Final = Habit(up=ACCOUNT, down=UNACCOUNT, kept=3, pairs_permille=1000, gaps=measured.TABLE_GAPS)
VGPU: Final = Habit(
    up=ADD,
    down=REMOVE,
    kept=measured.VGPU_KEPT.one,
    pairs_permille=0,
    gaps=measured.VGPU_GAPS,
    writes_permille=measured.VGPU_WRITES.one,
)
_TABLE_GFN: Final = 0x800  # as in the captures
_VGPU_GFN: Final = 0x4000
_SMALL_SLOT: Final = 6  # of a booted pc: 32 KiB of firmware
DIMM_GPA: Final = 4 * GIB
DIMM_SLOT: Final = 16
SLOTS_MOST: Final = 32764
"""KVM_USER_MEM_SLOTS. Source: include/linux/kvm_host.h, arch/x86/include/asm/kvm_host.h KVM_INTERNAL_MEM_SLOTS [6.12]."""


def _ram_bytes(vmm: Vmm) -> int:
    return vmm.dice.one_of(RAM_MIB) * MIB


def qemu_boot(vmm: Vmm) -> Iterator[Act]:
    """Boot, reset some times, exit."""
    ram = _ram_bytes(vmm)
    yield from booted(vmm, ram)
    resets = measured.RESETS.one + vmm.dice.below(4)
    while resets > 0 or not vmm.worn:
        resets -= 1
        yield vmm.get_dirty_log(3)
        yield from asked(vmm, RESET, ram)
    yield vmm.destroy()


def migration(vmm: Vmm) -> Iterator[Act]:
    """Boot, then migrate: dirty logging of all memslots on, the log read and cleared in rounds, off again for the next try."""
    yield from booted(vmm, _ram_bytes(vmm))
    tries = 1 + vmm.dice.below(8)
    while True:
        tries -= 1
        changed = [slot.slot for slot in vmm.slots.values() if not slot.flags & LOG]
        for slot in sorted(changed):
            yield vmm.log_slot(slot, on=True)
        for _ in range(measured.GET_ROUNDS.one):
            for call in (vmm.get_dirty_log, vmm.clear_dirty_log):
                for slot in sorted(vmm.slots):
                    yield call(slot)
        if tries <= 0 and vmm.worn:
            break
        for slot in sorted(changed):
            yield vmm.log_slot(slot, on=False)
    yield vmm.destroy()


def hotplug(vmm: Vmm) -> Iterator[Act]:
    """Boot, then plug and unplug DIMMs: one call each, no other memslot moves."""
    yield from booted(vmm, _ram_bytes(vmm))
    changes = 2 + vmm.dice.below(6)
    while changes > 0 or not vmm.worn:
        changes -= 1
        yield Wait(measured.DIMM_NS.one)
        place = vmm.dice.below(measured.DIMMS.one)
        if DIMM_SLOT + place in vmm.slots:
            yield vmm.delete_slot(DIMM_SLOT + place)
        else:
            size = vmm.dice.one_of(measured.DIMM_SIZES.quantiles) * MIB
            gpa = DIMM_GPA + place * 256 * MIB
            yield vmm.set_slot(DIMM_SLOT + place, gpa, size, vmm.ram_base + gpa)
    yield vmm.destroy()


def gvisor(vmm: Vmm) -> Iterator[Act]:
    """Map an address space piece by piece, each when a fault comes: a new memslot a fault, in no order, until all are there."""
    bits = vmm.address_bits
    pieces = 1 << (bits - 31)
    step, start = 2 * vmm.dice.below(1 << 24) + 1, vmm.dice.below(1 << 24)
    yield vmm.create()
    most = min(pieces, SLOTS_MOST)
    for number in range(most):
        if number == min(measured.SANDBOX_FIRST.one, most):
            yield TssSet(vm=vmm.vm, guest_phys_addr=Gpa(0xFFFFD000), ret=0, task=vmm.main)
            for vcpu in range(measured.SANDBOX_VCPUS.one):
                yield vmm.add_vcpu(vcpu)
        piece = (step * number + start) % pieces
        yield _piece(vmm, number, piece, last=piece == pieces - 1)
    yield vmm.destroy()


def _piece(vmm: Vmm, slot: int, piece: int, *, last: bool) -> MemslotSet:
    size = measured.SANDBOX_MIB.one * MIB
    hva = piece * size + PAGE_SIZE_BYTES
    return vmm.set_slot(slot, hva + 4 * GIB, size - 2 * PAGE_SIZE_BYTES if last else size, hva)


def nested(vmm: Vmm) -> Iterator[Act]:
    """Boot, then shadow the page tables of a nested guest; memslot calls drop all shadow pages, and the roots come back."""
    import numpy as np

    yield from booted(vmm, _ram_bytes(vmm))
    tables = measured.FLIP_TABLES.one - NESTED.kept
    twice = tables // 2  # some gfns are shadowed under two roles at once
    gfns = np.concatenate([np.arange(1, 4), _TABLE_GFN + np.arange(tables), _TABLE_GFN + np.arange(twice)])
    levels = np.full(len(gfns), 2, np.uint8)
    levels[:3] = 4, 3, 2
    levels[3 + vmm.dice.many(max(1, len(gfns) * measured.LEAVES.one // 1000), tables).astype(np.int64)] = 1
    pages = Pages(vmm.vm, vmm.dice, NESTED, gfns, levels)
    yield ShadowRootAlloc(vm=vmm.vm, nested=True, ret=0, task=vmm.vcpu)
    groups = measured.FLIP_GROUPS.one
    while True:
        groups -= 1
        yield Hot(pages, KEEP)
        yield Hot(pages, TOUCH, vmm.dice.one_of(measured.FLIP_RUNS.quantiles))
        yield Hot(pages, DROP)
        if groups <= 0 and vmm.worn:
            break
        yield from _rearranged(vmm, _SMALL_SLOT, 0)
    yield vmm.destroy()


def _rearranged(vmm: Vmm, slot: int, logged: int) -> Iterator[Act]:
    """Delete a memslot and make it again, switch another one's dirty logging on and off, as the captures do."""
    old = vmm.slots[slot]
    yield vmm.delete_slot(slot)
    yield vmm.set_slot(slot, old.gpa, old.size, old.hva)
    yield vmm.log_slot(logged, on=True)
    yield vmm.log_slot(logged, on=False)


def shadow(vmm: Vmm) -> Iterator[Act]:
    """Track and untrack page tables, one after the other, with a group of memslot calls now and then: the largest capture."""
    import numpy as np

    yield vmm.create()
    slots = measured.TABLE_SLOTS.one
    for slot in range(slots):
        yield vmm.set_slot(slot, slot * 32 * MIB, 32 * MIB, vmm.ram_base + slot * 32 * MIB)
    yield vmm.add_vcpu(0)
    yield ShadowRootAlloc(vm=vmm.vm, ret=0, task=vmm.main)
    gfns = np.concatenate([np.arange(1, 4), _TABLE_GFN + np.arange(measured.TABLES.one)])
    levels = np.full(len(gfns), 2, np.uint8)
    levels[:3] = 4, 3, 2
    pages = Pages(vmm.vm, vmm.dice, SHADOW, gfns, levels)
    groups = measured.TABLE_GROUPS.one
    while True:
        groups -= 1
        yield Hot(pages, KEEP)
        yield Hot(pages, TOUCH, measured.TABLE_RUN.one - 2 * SHADOW.kept)
        yield Hot(pages, DROP)
        if groups <= 0 and vmm.worn:
            break
        yield from _rearranged(vmm, slots - 1, 0)
    yield vmm.destroy()


def gvtg(vmm: Vmm) -> Iterator[Act]:
    """Boot, then open a vGPU, let it track page tables and see guest writes, close it, again and again."""
    import numpy as np

    yield from booted(vmm, _ram_bytes(vmm))
    gfns = _VGPU_GFN + 3 * np.arange(VGPU.kept + measured.VGPU_TABLES.one)
    pages = Pages(vmm.vm, vmm.dice, VGPU, gfns, np.zeros(len(gfns), np.uint8))
    opens = 1 + vmm.dice.below(8)
    while True:
        opens -= 1
        yield NotifierRegister(vm=vmm.vm, node=0, ret=0, task=vmm.main)
        yield Hot(pages, KEEP)
        yield Hot(pages, TOUCH, measured.VGPU_RUN.one // 2 + vmm.dice.below(measured.VGPU_RUN.one))
        yield Hot(pages, DROP)
        yield NotifierUnregister(vm=vmm.vm, node=0, task=vmm.main)
        if opens <= 0 and vmm.worn:
            break
        yield Wait(measured.DIMM_NS.one)
    yield vmm.destroy()


GAPS: Final[dict[Life, Measured]] = {
    qemu_boot: measured.CALL_GAPS,
    migration: measured.LOGGING_GAPS,
    hotplug: measured.CALL_GAPS,
    gvisor: measured.FAULT_GAPS,
    nested: measured.CALL_GAPS,
    shadow: measured.CALL_GAPS,
    gvtg: measured.CALL_GAPS,
}
"""What goes by before each call of a life."""
