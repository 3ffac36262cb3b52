"""Check what must hold of a lane between two events, whatever happened: a broken one is a bug of the model.

Each invariant is a row with its sentence and its source. Some need the past (a sticky flag must not fall, a generation must
grow) or a second count of the counters: `past.remember()` and `past.Ledger` keep that little between two calls.
The numbering goes from I1 to I13; I2, I3 speak of readers that race with writers, which a sequential model has not.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from replay.kvm.allocator import ARRAYS, Allocation
from replay.kvm.machine import Machine
from replay.kvm.memslot import Memslot
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.past import Ledger, Past, VmPast, slot_name
from replay.kvm.vm import Vm
from replay.units import U16_MAX


def _say(vm: Vm, slot: Memslot | None = None) -> str:
    return f"VM {vm.number}" + (f" slot {slot.as_id}:{slot.id}" if slot is not None else "")


@attrs.define
class _Scene:
    """What an invariant may look at: the lane now with its slots in order, what was remembered, and the second count."""

    machine: Machine
    past: Past | None
    ledger: Ledger | None
    vms: list[tuple[Vm, list[Memslot]]] = attrs.field(init=False)
    slots: list[tuple[Vm, Memslot]] = attrs.field(init=False)
    pasts: list[tuple[Vm, list[Memslot], VmPast]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        vms = [(vm, list(vm.slots())) for vm in self.machine.live_vms()]
        known = self.past.vms if self.past is not None else {}
        self.vms = vms
        self.slots = [(vm, slot) for vm, slots in vms for slot in slots]
        self.pasts = [(vm, slots, known[vm.number]) for vm, slots in vms if vm.number in known]


def _waits(vm: Vm, slot: Memslot) -> bool:
    """Tell whether a slot may be without its array though write tracking is enabled, or have it though not.

    ideal: until the first add. v1: its opt-out looks at address space 0 only, so that slots of the other one can slip through.
    """
    return vm.policy.at_first_add or (vm.policy.opt_out and slot.as_id > 0)


def _enabled_has_arrays(scene: _Scene) -> Iterator[str]:
    for vm, slot in scene.slots:
        array = slot.arch.gfn_write_track
        if array is None and kvm_page_track_write_tracking_enabled(vm) and not _waits(vm, slot):
            yield f"{_say(vm, slot)} has no gfn_write_track though write tracking is enabled"
        elif array is not None and array.cost.nominal_bytes != 2 * slot.npages:
            yield f"{_say(vm, slot)} has {array.cost.nominal_bytes} bytes of gfn_write_track for {slot.npages} pages"


def _flags_stay(scene: _Scene) -> Iterator[str]:
    for vm, _slots, past in scene.pasts:
        for name in ("shadow_root_allocated", "external_write_tracking_enabled", "vm_bugged"):
            if getattr(past, name) and not getattr(vm, name):
                yield f"{_say(vm)} {name} fell from true to false"


def _registration_is_whole(scene: _Scene) -> Iterator[str]:
    for vm, _slots, past in scene.pasts:
        more_nodes, more_users = len(vm.nodes) - past.nodes, vm.users_count - past.users_count
        expected = more_nodes if vm.policy.register_checks_mm else 0
        expected -= vm.destroyed and not past.destroyed
        if more_users != expected:
            yield f"{_say(vm)} users_count changed by {more_users} with {more_nodes} more nodes"
        newly = vm.external_write_tracking_enabled and not past.external_write_tracking_enabled
        if newly and more_nodes <= 0 and not vm.policy.root_enables:
            yield f"{_say(vm)} external_write_tracking_enabled was set without a new node"
    for vm, _slots in scene.vms:
        sets = vm.policy.has_ext_flag and not (vm.policy.root_enables and not vm.profile.tdp)
        if sets and vm.nodes and not vm.external_write_tracking_enabled:
            yield f"{_say(vm)} has a node but external_write_tracking_enabled is false"


def _pieces(scene: _Scene) -> list[Allocation]:
    found: list[Allocation] = []
    for _vm, slot in scene.slots:
        found += [slot.object, *slot.arch.arrays()]
        found += [slot.dirty_bitmap] if slot.dirty_bitmap is not None else []
    return found


def _freed_once(scene: _Scene) -> Iterator[str]:
    allocator, pieces = scene.machine.allocator, _pieces(scene)
    numbers = {piece.number for piece in pieces}
    freed = {piece.number for piece in allocator.freed}
    if len(numbers) != len(pieces):
        yield "an allocation hangs on two places"
    if len(freed) != len(allocator.freed) or freed & numbers:
        yield "an allocation was freed twice, or is still in use"
    sums = dict.fromkeys(ARRAYS, (0, 0, 0, 0))
    for piece in pieces:
        count, nominal, charged, real = sums[piece.array]
        cost = piece.cost
        sums[piece.array] = count + 1, nominal + cost.nominal_bytes, charged + cost.charged_bytes, real + cost.real_bytes
    for array, held in sums.items():
        tally = allocator.tallies[array]
        counted = tally.live, tally.nominal_now, tally.charged_now, tally.real_now
        if held != counted:
            yield f"{array}: slots hold (count, nominal, charged, real) {held}, the allocator counts {counted}"


def _counters_add_up(scene: _Scene) -> Iterator[str]:
    for vm, slot in scene.slots if scene.ledger is not None else ():
        array, expected = slot.arch.gfn_write_track, {}
        if array is not None and scene.ledger is not None:
            expected = scene.ledger.counts_of(array)
        if slot.arch.counts != expected:
            yield f"{_say(vm, slot)} counters {slot.arch.counts}, adds less removes {expected}"


def _counters_in_range(scene: _Scene) -> Iterator[str]:
    for vm, slot in scene.slots:
        if slot.arch.counts and slot.arch.gfn_write_track is None:
            yield f"{_say(vm, slot)} counts without an array"
        for index, count in sorted(slot.arch.counts.items()):
            if not 0 < count <= U16_MAX or not 0 <= index < slot.npages:
                yield f"{_say(vm, slot)} counter {index} of {slot.npages} is {count}"


def _generation_grows(scene: _Scene) -> Iterator[str]:
    for vm, _slots in scene.vms:
        for space in vm.spaces:
            if space.generation % vm.nas != space.as_id or space.generation >> 63:
                yield f"{_say(vm)} address space {space.as_id} has generation {space.generation}"
    for vm, _slots, past in scene.pasts:
        for space, before in zip(vm.spaces, past.generations, strict=True):
            if space.generation < before:
                yield f"{_say(vm)} address space {space.as_id} went from generation {before} to {space.generation}"


def _pages_add_up(scene: _Scene) -> Iterator[str]:
    for vm, slots in scene.vms:
        total = sum(slot.npages for slot in slots)
        if vm.nr_memslot_pages != total:
            yield f"{_say(vm)} nr_memslot_pages {vm.nr_memslot_pages}, slots have {total}"


def _references_add_up(scene: _Scene) -> Iterator[str]:
    for vm, _slots in scene.vms:
        expected = int(not vm.destroyed) + (len(vm.nodes) if vm.policy.register_checks_mm else 0)
        if vm.users_count != expected or vm.users_count < 1:
            yield f"{_say(vm)} users_count {vm.users_count}, fd and nodes are {expected}"


def _failure_keeps_arrays(scene: _Scene) -> Iterator[str]:
    for vm, slots, past in scene.pasts:
        for slot in slots:
            before, now = past.write_tracks.get(slot_name(slot)), slot.arch.gfn_write_track
            if before is not None and (now is None or now.number != before):
                yield f"{_say(vm, slot)} lost its gfn_write_track while it stayed"


def _no_more_than_eager(scene: _Scene) -> Iterator[str]:
    for vm, slots in scene.vms:
        waits = any(_waits(vm, slot) for slot in slots)
        arrays = [slot.arch.gfn_write_track for slot in slots]
        held = sum(array.cost.nominal_bytes for array in arrays if array is not None)
        eager = sum(2 * slot.npages for slot in slots)
        enabled = kvm_page_track_write_tracking_enabled(vm)
        if held > eager or (enabled and held != eager and not waits):
            yield f"{_say(vm)} has {held} bytes of write tracking, eager allocation has {eager}"
        refused = scene.machine.allocator.refused or (scene.past is not None and scene.past.refused)
        if held and not enabled and scene.past is not None and not refused and not waits:
            yield f"{_say(vm)} has {held} bytes of write tracking that nothing asked for"


def _sets_agree(scene: _Scene) -> Iterator[str]:
    for vm, _slots in scene.vms:
        for space in vm.spaces:
            slots = sorted(space, key=lambda slot: slot.base_gfn)
            if sorted(space.inactive_order()) != sorted(slot.id for slot in slots) or len(space) != len(slots):
                yield f"{_say(vm)} address space {space.as_id}: the two sets hold different slots"
            for slot, after in itertools.pairwise(slots):
                if slot.end_gfn > after.base_gfn:
                    yield f"{_say(vm, slot)} overlaps slot {after.id}"
            for slot in slots:
                if space.by_id(slot.id) is not slot or space.by_gfn(slot.base_gfn) is not slot:
                    yield f"{_say(vm, slot)} is not found by its id or its gfn"


@attrs.frozen
class Invariant:
    """One thing that always holds. Source: the field `source`."""

    name: str
    sentence: str
    source: str
    broken: Callable[[_Scene], Iterator[str]]


_TRACK: Final = "arch/x86/kvm/mmu/page_track.c"
_MAIN: Final = "virt/kvm/kvm_main.c"

INVARIANTS: Final[tuple[Invariant, ...]] = (
    Invariant(
        "I1",
        "while write tracking is enabled, every slot has its array, 2 bytes a page",
        f"{_TRACK} kvm_page_track_create_memslot(), kvm_enable_external_write_tracking() [6.12]",
        _enabled_has_arrays,
    ),
    Invariant("I4", "flags of a VM never fall", f"{_TRACK} smp_store_release() of the two flags [6.12]", _flags_stay),
    Invariant(
        "I5",
        "a registration is whole or nothing: node, reference and flag together",
        f"{_TRACK} kvm_page_track_register_notifier() [6.6, 6.12]",
        _registration_is_whole,
    ),
    Invariant(
        "I6", "each allocation has one owner and is freed once", f"{_MAIN} kvm_commit_memory_region() [6.1, 6.12]", _freed_once
    ),
    Invariant(
        "I7",
        "a counter is adds less removes since its array was made",
        f"{_TRACK} update_gfn_write_track() [6.12]; mmu.c account_shadowed(), unaccount_shadowed()",
        _counters_add_up,
    ),
    Invariant(
        "I8", "a counter has 16 bits and lies in its slot", f"{_TRACK} update_gfn_write_track() [6.12]", _counters_in_range
    ),
    Invariant(
        "I9",
        "a generation keeps its remainder, has no update in progress, and never falls",
        f"{_MAIN} kvm_swap_active_memslots() [6.1, 6.12]",
        _generation_grows,
    ),
    Invariant(
        "I10", "nr_memslot_pages is the sum over all slots", f"{_MAIN} kvm_commit_memory_region() [6.1, 6.12]", _pages_add_up
    ),
    Invariant(
        "I11", "each node holds a reference to the VM", f"{_TRACK} kvm_get_kvm() in register [6.6, 6.12]", _references_add_up
    ),
    Invariant(
        "I12",
        "an array stays as long as its slot stays in its place, also when an enable failed",
        f"{_TRACK} kvm_enable_external_write_tracking() [6.12]",
        _failure_keeps_arrays,
    ),
    Invariant(
        "I13",
        "write tracking takes no more than eager allocation would, the same once enabled, nothing before",
        f"{_TRACK} kvm_page_track_write_tracking_enabled() [6.8, 6.12]",
        _no_more_than_eager,
    ),
    Invariant(
        "sets",
        "both sets of an address space hold the same slots, apart from each other",
        f"{_MAIN} kvm_set_memslot() [6.1, 6.12]",
        _sets_agree,
    ),
)


def check_invariants(machine: Machine, past: Past | None = None, ledger: Ledger | None = None) -> list[str]:
    """Return a sentence for each invariant that does not hold, with its name in front; none for a sound state.

    past: `remember()` of the state before the last event; without it nothing is said of changes. ledger: the second count;
    without it nothing is said of I7. Cost: proportional to slots and counters. Source: the rows of `INVARIANTS`.
    """
    scene = _Scene(machine, past, ledger)
    return [f"{row.name}: {what}" for row in INVARIANTS for what in row.broken(scene)]
