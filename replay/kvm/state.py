"""Say the whole state of a lane as a plain value, and as a digest: the same state gives the same text on every machine.

Only numbers, words, lists and dicts with word keys; nothing is in the order of a set or a hash. Two lanes that give equal
values answer every later event alike, which is why the order of the inactive slot set and the pending injections belong to it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import attrs

from replay.kvm.allocator import DIRTY_BITMAP, GFN_WRITE_TRACK, LPAGE_INFO, RMAP, SLOT, Allocation
from replay.kvm.leaves import mix
from replay.kvm.machine import Machine
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.vm import Vm
from replay.units import U64_MAX

DIGEST_BYTES: Final = 16

# Fields of Vm that are not values by themselves: what the lane is, and what `vm_state()` writes in its own way.
_NOT_PLAIN: Final = ("policy", "profile", "allocator", "log", "spaces", "nodes", "check_facts", "known", "external_adds")
VM_FIELDS: Final = tuple(field.name for field in attrs.fields(Vm) if field.name not in _NOT_PLAIN)
"""Flags and counters of a VM that the state holds as they are. Source: struct kvm, struct kvm_arch [6.1, 6.12]."""

_FLAG_FIELDS: Final = ("shadow_root_allocated", "external_write_tracking_enabled", "vm_bugged")


def state_of(machine: Machine) -> dict[str, Any]:
    """Return the state of the lane as a plain value. Cost: proportional to slots and counters that are not zero.

    Source: struct kvm, struct kvm_memslots, struct kvm_memory_slot [6.1, 6.12] for what belongs to it.
    """
    allocator = machine.allocator
    return {
        "policy": machine.policy.name,
        "profile": machine.profile.facts(),
        "vms": [vm_state(vm) for vm in machine.live_vms()],
        "gone": sorted(machine.gone),
        "allocator": {
            "number": allocator.number,
            "limit_pages": allocator.limit_pages,
            "tallies": {array: attrs.asdict(tally) for array, tally in allocator.tallies.items()},
            "write_track_by_vm": {str(vm): attrs.asdict(tally) for vm, tally in sorted(allocator.write_track_by_vm.items())},
            "injections": [attrs.asdict(injection) for injection in allocator.injections],
        },
        "log": dict(sorted(machine.log.counts.items())),
    }


def vm_state(vm: Vm) -> dict[str, Any]:
    """Return the state of one VM. Source: struct kvm, struct kvm_arch [6.1, 6.12]."""
    state: dict[str, Any] = {name: getattr(vm, name) for name in VM_FIELDS}
    state["nodes"] = list(vm.nodes)
    state["external_adds"] = _pairs(vm.external_adds)
    state["spaces"] = [_space_state(space) for space in vm.spaces]
    return state


def _space_state(space: Memslots) -> dict[str, Any]:
    return {
        "as_id": space.as_id,
        "generation": space.generation,
        "slots": [slot_state(slot) for slot in space],
        "inactive_order": space.inactive_order(),
    }


def slot_state(slot: Memslot) -> dict[str, Any]:
    """Return one memslot with its arrays and the counters that are not zero. Source: struct kvm_memory_slot [6.1, 6.12]."""
    arch = slot.arch
    return {
        "as_id": slot.as_id,
        "id": slot.id,
        "base_gfn": slot.base_gfn,
        "npages": slot.npages,
        "flags": slot.flags,
        "userspace_addr": slot.userspace_addr,
        "born": slot.born,
        SLOT: _array_state(slot.object),
        DIRTY_BITMAP: _array_state(slot.dirty_bitmap),
        RMAP: [_array_state(array) for array in arch.rmap],
        LPAGE_INFO: [_array_state(array) for array in arch.lpage_info],
        GFN_WRITE_TRACK: _array_state(arch.gfn_write_track),
        "counts": _pairs(arch.counts),
        "lpage_moves": [list(pair) for pair in arch.lpage_moves.items()],
    }


def _array_state(array: Allocation | None) -> dict[str, Any] | None:
    """Return an allocation with its own facts; None is a NULL pointer."""
    if array is None:
        return None
    cost = array.cost
    return {
        "number": array.number,
        "site": array.site,
        "event": array.event,
        "nominal_bytes": cost.nominal_bytes,
        "charged_bytes": cost.charged_bytes,
        "real_bytes": cost.real_bytes,
    }


def _pairs(counts: Mapping[int, int]) -> list[list[int]]:
    return [[key, count] for key, count in counts.items()]


def structure_of(machine: Machine) -> list[Any]:
    """Return only what a structural event can change: flags, slots, and which arrays are there; no counters, no history.

    Comparable between lanes, as it says nothing of who allocated and when. Cost: proportional to slots.
    Source: struct kvm_memslots, struct kvm_arch_memory_slot [6.1, 6.12].
    """
    return [
        [
            vm.number,
            *(int(getattr(vm, name)) for name in _FLAG_FIELDS),
            vm.nr_memslot_pages,
            len(vm.nodes),
            [[space.generation, *(_slot_structure(slot) for slot in space)] for space in vm.spaces],
        ]
        for vm in machine.live_vms()
    ]


def _slot_structure(slot: Memslot) -> list[Any]:
    arch = slot.arch
    there = [array is not None for array in (slot.dirty_bitmap, *arch.rmap, *arch.lpage_info, arch.gfn_write_track)]
    return [slot.as_id, slot.id, slot.base_gfn, slot.npages, slot.flags, slot.userspace_addr, "".join("01"[bit] for bit in there)]


def digest_of(machine: Machine) -> str:
    """Return a digest of `state_of()`: equal for equal states, whatever the process or the hash seed.

    Source: none in the kernel; blake2b over the value as JSON with sorted keys.
    """
    return _digest(state_of(machine))


def structure_digest_of(machine: Machine) -> str:
    """Return a digest of `structure_of()`: the cheap one. Source: as for `digest_of()`."""
    return _digest(structure_of(machine))


def keep_digests(machine: Machine) -> None:
    """Have the counters of a machine, and of those that share its tables, keep digests; before it has any VM.

    Source: none in the kernel.
    """
    assert not machine.vms, "digests are kept from the start"
    machine.allocator.counters.digesting = True


def counters_digest_of(machine: Machine) -> int:
    """Return the digest of all counters that `keep_digests()` keeps: a sum modulo 2^64, so no proof against malice.

    It says what the counters are and not how they came about; what structural events do is in `structure_digest_of()`.
    Cost: 0.6 us a memslot. Source: none in the kernel.
    """
    total = 0
    for vm in machine.vms.values():
        for space in vm.spaces:
            for slot in space.by_base():
                arch = slot.arch
                digest = arch.counts.roots.digest + arch.lpage_moves.digest
                if digest:
                    total += digest * _place_mix(vm.number << 32 | slot.as_id << 16 | slot.id)
    return total & U64_MAX


@lru_cache(1 << 16)
def _place_mix(place: int) -> int:
    return mix(place)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode("ascii"), digest_size=DIGEST_BYTES).hexdigest()
