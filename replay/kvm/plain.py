"""Write the whole state of a lane down as plain values, and make the lane again from them: what a checkpoint is made of.

Unlike `state_of()`, which says what a state is, this keeps all that later events can ask of it. Each class has a table or a pair
of functions here; tests/kvm/test_kvm_plain.py counts the fields of each class, so that a new one is either written or named as
derived. Values are tuples of ints, texts, booleans, None and tuples; counters are bytes, each content once, in a `Shelf`.
Equal states give equal values.
Source: struct kvm, struct kvm_memslots, struct kvm_memory_slot [6.1, 6.12] for what belongs to it.
"""

from typing import Any, Final

import attrs

from replay.kvm.allocator import SLOT, Allocation, Allocator, Injection
from replay.kvm.counter_bytes import counter_bytes, fill
from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.leaves import Roots, Table
from replay.kvm.lpage_moves import REGION_SHIFT
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.state import VM_FIELDS
from replay.kvm.tallies import Tally
from replay.kvm.uapi import KVM_MEM_MAX_NR_PAGES
from replay.kvm.vm import Vm
from replay.kvm.vmalloc import kzalloc_cost, vcalloc_cost
from replay.units import U64_MAX

Plain = tuple[Any, ...]

VM_PLAIN: Final = tuple(name for name in VM_FIELDS if name not in {"number", "type"})
"""Fields of a VM that are plain values and not arguments of its making."""
SLOT_PLAIN: Final = ("id", "base_gfn", "npages", "flags", "userspace_addr", "born")
ALLOCATION_PLAIN: Final = ("number", "site", "array", "vm", "as_id", "slot_id", "event")
TALLY_PLAIN: Final = tuple(field.name for field in attrs.fields(Tally))
INJECTION_PLAIN: Final = tuple(field.name for field in attrs.fields(Injection))
ALLOCATOR_PLAIN: Final = ("limit_pages", "number")


class Shelf:
    """Bytes of counters, each content once; and, while lanes are made again, who has counted it already.

    Lanes that are made again over one shelf share their counters, as those did that agreed: see `Counters.share()`.
    """

    def __init__(self, contents: tuple[bytes, ...] = ()) -> None:
        self.contents = list(contents)
        self._places = {content: place for place, content in enumerate(contents)}
        self._counted: dict[tuple[int, int, int, Table], Counters] = {}
        self._shared: dict[Roots, int] = {}

    def put(self, counters: Counters) -> int:
        """Return the place of the content of counters, which must not change as long as the shelf is in use."""
        known = self._shared.get(counters.roots)
        if known is not None:
            return known
        content = counter_bytes(counters)
        place = self._places.setdefault(content, len(self.contents))
        if place == len(self.contents):
            self.contents.append(content)
        self._shared[counters.roots] = place
        return place

    def take(self, place: int, counters: Counters, table: Table, npages: int) -> None:
        """Let empty counters of a table count what is at a place."""
        key = (place, counters.base_gfn, npages, table)
        known = self._counted.get(key)
        if known is not None:
            counters.share(known)
            return
        fill(counters, self.contents[place])
        self._counted[key] = counters


def plain_of_machine(machine: Machine, shelf: Shelf) -> Plain:
    """Return the values of a lane's machine; policy and profile are the reader's to know. Cost: slots and counters not zero.

    Source: see above.
    """
    return (
        tuple(_plain_of_vm(vm, shelf) for vm in machine.live_vms()),
        tuple(sorted(machine.gone)),
        _plain_of_allocator(machine.allocator),
        tuple(sorted(machine.log.counts.items())),
    )


def restore_machine(machine: Machine, plain: Plain, shelf: Shelf) -> None:
    """Make a machine that has seen nothing what another one was, of the same policy and profile. Source: see above.

    Raises TypeError, ValueError, KeyError, IndexError or struct.error for values that plain_of_machine() never gives.
    """
    assert not machine.vms, "only a machine that has seen nothing is restored"
    vms, gone, allocator, log = plain
    _restore_allocator(machine.allocator, allocator)
    for vm in vms:
        made = _restored_vm(machine, vm, shelf)
        machine.vms[made.number] = made
    machine.gone.update(dict.fromkeys(gone))
    machine.log.counts.update(log)


def _values(value: Any, names: tuple[str, ...]) -> Plain:
    return tuple(getattr(value, name) for name in names)


def _plain_of_allocator(allocator: Allocator) -> Plain:
    return (
        _values(allocator, ALLOCATOR_PLAIN),
        tuple((array, _values(tally, TALLY_PLAIN)) for array, tally in allocator.tallies.items()),
        tuple((vm, _values(tally, TALLY_PLAIN)) for vm, tally in sorted(allocator.write_track_by_vm.items())),
        tuple(_values(injection, INJECTION_PLAIN) for injection in allocator.injections),
    )


def _restore_allocator(allocator: Allocator, plain: Plain) -> None:
    own, tallies, by_vm, injections = plain
    for name, value in zip(ALLOCATOR_PLAIN, own, strict=True):
        setattr(allocator, name, value)
    allocator.books.restore(*({name: _restored_tally(tally) for name, tally in some} for some in (tallies, by_vm)))
    allocator.injections = [Injection(**dict(zip(INJECTION_PLAIN, one, strict=True))) for one in injections]


def _restored_tally(plain: Plain) -> Tally:
    if not all(0 <= number < 1 << 62 for number in plain):
        raise ValueError("totals that no recording can reach")
    return Tally(**dict(zip(TALLY_PLAIN, plain, strict=True)))


def _plain_of_vm(vm: Vm, shelf: Shelf) -> Plain:
    spaces = tuple(_plain_of_space(space, shelf) for space in vm.spaces)
    return (vm.number, vm.type, _values(vm, VM_PLAIN), tuple(vm.nodes), shelf.put(vm.external_adds), spaces)


def _restored_vm(machine: Machine, plain: Plain, shelf: Shelf) -> Vm:
    number, vm_type, own, nodes, external_adds, spaces = plain
    vm = Vm(number, vm_type, machine.policy, machine.profile, machine.allocator, machine.log)
    for name, value in zip(VM_PLAIN, own, strict=True):
        setattr(vm, name, value)
    vm.nodes = list(nodes)
    shelf.take(external_adds, vm.external_adds, machine.allocator.driver_counts, 0)
    for space, made in zip(spaces, vm.spaces, strict=True):
        _restore_space(made, space, machine.allocator.counters, shelf)
    return vm


def _plain_of_space(space: Memslots, shelf: Shelf) -> Plain:
    first, second, active = space.orders()
    slots = tuple(_plain_of_slot(slot, shelf) for slot in space.by_base())
    return (space.generation, tuple(first), tuple(second), active, slots)


def _restore_space(space: Memslots, plain: Plain, table: Table, shelf: Shelf) -> None:
    generation, first, second, active, slots = plain
    _whole_numbers(generation, active, *first, *second)
    made = [_restored_slot(space.as_id, slot, table, shelf) for slot in slots]
    if not sorted(first) == sorted(second) == sorted(slot.id for slot in made):
        raise ValueError("orders of other slots")
    space.restore(made, (list(first), list(second), active), generation)


def _whole_numbers(*values: Any) -> None:
    """Raise TypeError unless all are numbers: a text would be repeated where a number is multiplied."""
    if not all(isinstance(value, int) and 0 <= value <= U64_MAX for value in values):
        raise TypeError("a number is expected")


def _plain_of_slot(slot: Memslot, shelf: Shelf) -> Plain:
    arch = slot.arch
    arrays = (slot.object, slot.dirty_bitmap, *arch.rmap, *arch.lpage_info, arch.gfn_write_track)
    counted = None if arch.counts is NO_COUNTERS else shelf.put(arch.counts)
    moved = tuple(number for pair in arch.lpage_moves.items() for number in pair)
    return (_values(slot, SLOT_PLAIN), tuple(_plain_of_allocation(array) for array in arrays), counted, moved)


def _restored_slot(as_id: int, plain: Plain, table: Table, shelf: Shelf) -> Memslot:
    own, arrays, counted, moved = plain
    _whole_numbers(*own)
    piece, dirty, *others, track = (_restored_allocation(array) for array in arrays)
    levels = len(Arch().rmap)
    arch = Arch(rmap=others[:levels], lpage_info=others[levels:], gfn_write_track=track)
    assert piece is not None, "a slot is an object"
    slot = Memslot(as_id=as_id, object=piece, arch=arch, dirty_bitmap=dirty, **dict(zip(SLOT_PLAIN, own, strict=True)))
    assert 0 < slot.npages <= KVM_MEM_MAX_NR_PAGES, "a slot has so many pages"
    if counted is not None:
        arch.counts = Counters(table, slot.base_gfn, slot.npages)
        shelf.take(counted, arch.counts, table, slot.npages)
    if moved:
        low, high = slot.base_gfn >> REGION_SHIFT, slot.end_gfn - 1 >> REGION_SHIFT
        assert all(type(count) is int and count for count in moved[1::2]), "moves are numbers"
        assert all(type(region) is int and low <= region <= high for region in moved[::2]), "and lie in the slot"
        arch.lpage_moves.set(zip(moved[::2], moved[1::2], strict=True), digesting=table.digesting)
    return slot


def _plain_of_allocation(allocation: Allocation | None) -> Plain | None:
    """Return the values of an allocation; its cost follows from its bytes."""
    return None if allocation is None else (*_values(allocation, ALLOCATION_PLAIN), allocation.cost.nominal_bytes)


def _restored_allocation(plain: Plain | None) -> Allocation | None:
    if plain is None:
        return None
    number, site, array, vm, as_id, slot_id, event, nominal_bytes = plain
    cost = kzalloc_cost(nominal_bytes) if array == SLOT else vcalloc_cost(nominal_bytes)
    return Allocation(number, site, array, cost, vm, as_id, slot_id, event)
