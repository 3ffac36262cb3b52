"""Copy some VMs of a machine, so that calls can be tried on the copy, and say what of a copy decides later answers.

A copy shares nothing that a structural event changes. It does not carry the counters of gfns, which can be large, nor totals of
bytes: no result of a structural event depends on them.
Source: none in the kernel; the fields are those of `Vm`, `Memslots` and `Memslot`.
"""

import copy
from collections.abc import Iterable
from typing import Any

from replay.kvm.allocator import Allocation, Allocator
from replay.kvm.counters import NO_COUNTERS, Counters
from replay.kvm.kernel_log import KernelLog
from replay.kvm.leaves import Table
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.state import VM_FIELDS
from replay.kvm.tallies import Books, Delta
from replay.kvm.vm import Vm


def fork(machine: Machine, numbers: Iterable[int]) -> Machine:
    """Return a copy of a machine with some of its VMs, all counters and totals zero. Cost: some microseconds a memslot.

    Source: see the module.
    """
    twin = copy.copy(machine)
    twin.allocator = _fork_allocator(machine.allocator)
    twin.log = KernelLog()
    twin.gone = dict(machine.gone)
    twin.vms = {number: _fork_vm(machine.vms[number], twin) for number in numbers if number in machine.vms}
    return twin


def _fork_allocator(allocator: Allocator) -> Allocator:
    twin = copy.copy(allocator)
    twin.books = _Unkept((), "")
    twin.injections = [copy.copy(injection) for injection in allocator.injections]
    twin.counters, twin.driver_counts = Table(), Table("I")
    return twin


class _Unkept(Books):
    """Totals that nobody asks for. Source: none in the kernel."""

    def note(self, _delta: Delta, _vm: int) -> None:
        """Keep nothing. Source: none in the kernel."""


def _fork_vm(vm: Vm, machine: Machine) -> Vm:
    twin = copy.copy(vm)
    twin.allocator, twin.log = machine.allocator, machine.log
    twin.nodes = list(vm.nodes)
    twin.spaces = [_fork_space(space, vm.nas, machine.allocator.counters) for space in vm.spaces]
    twin.external_adds = Counters(machine.allocator.driver_counts)
    return twin


def _fork_space(space: Memslots, nr_as_ids: int, table: Table) -> Memslots:
    twin = Memslots(space.as_id, nr_as_ids)
    twin.restore([_fork_slot(slot, table) for slot in space], space.orders(), space.generation)
    return twin


def _fork_slot(slot: Memslot, table: Table) -> Memslot:
    arch = slot.arch
    counts = NO_COUNTERS if arch.counts is NO_COUNTERS else Counters(table, slot.base_gfn, slot.npages)
    return Memslot(
        slot.as_id,
        slot.id,
        slot.base_gfn,
        slot.npages,
        slot.flags,
        slot.userspace_addr,
        slot.born,
        slot.object,
        Arch(list(arch.rmap), list(arch.lpage_info), arch.gfn_write_track, counts),
        slot.dirty_bitmap,
    )


def answers_of(machine: Machine, numbers: Iterable[int], *, sites: bool) -> tuple[Any, ...]:
    """Return what decides the answers to later structural events on some VMs: copies with equal values answer alike.

    sites: who allocated each array counts too, because allocations are observed by site. Source: see the module.
    """
    allocator = machine.allocator
    return (
        allocator.limit_pages,
        tuple((one.vm, one.site, one.nth, one.count, one.seen) for one in allocator.injections),
        tuple(_vm_answers(machine.vms[number], sites=sites) if number in machine.vms else None for number in numbers),
    )


def _vm_answers(vm: Vm, *, sites: bool) -> tuple[Any, ...]:
    spaces = [
        (space.generation, tuple(space.inactive_order()), tuple(_slot_answers(slot, sites=sites) for slot in space))
        for space in vm.spaces
    ]
    return (*(getattr(vm, name) for name in VM_FIELDS), tuple(sorted(vm.nodes)), tuple(spaces))


def _slot_answers(slot: Memslot, *, sites: bool) -> tuple[Any, ...]:
    arch = slot.arch
    arrays = (slot.dirty_bitmap, *arch.rmap, *arch.lpage_info, arch.gfn_write_track)
    there = tuple(_array(array, sites=sites) for array in arrays)
    return (slot.id, slot.base_gfn, slot.npages, slot.flags, slot.userspace_addr, there)


def _array(array: Allocation | None, *, sites: bool) -> str:
    if array is None:
        return ""
    return array.site if sites else array.array
