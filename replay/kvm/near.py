"""Remember where the rows of short runs lie, so that the scalar rule looks a memslot up once and not in each run anew.

What is remembered of an address space is good until its slots, or the roots of their counters, change. Source: struct
kvm_memslots [6.1, 6.12] for what is looked up.
"""

from bisect import bisect_right
from typing import Final

import attrs

from replay.kvm.counters import Counters
from replay.kvm.kernel_log import GONE
from replay.kvm.machine import Machine
from replay.kvm.memslots import Memslots
from replay.kvm.page_track import has_external_api, kvm_page_track_write_tracking_enabled, reads_all_address_spaces
from replay.kvm.vm import Vm
from replay.runs import ADD, REMOVE, Run

OWN_SPACE: Final = "own"
BOTH_SPACES: Final = "both"

Place = tuple[Vm, int, bool, str]
"""VM; bias of the slot's counters; external users may track here; which spaces reads look into, "" where a row is unusual."""
Known = tuple[list[int], list[Place | None]]
"""First gfns of slots and of what follows them, in order; the place behind each of them, with one before the first."""


def _nothing() -> Known:
    return [], [None]


def unusual(vm: Vm) -> Place:
    """Return the place of a gfn whose rows are left to the functions that model the kernel's. Source: see the module."""
    return vm, 0, False, ""


@attrs.define(eq=False)
class NearSpace:
    """What is known of one address space, as rows of one as_id find it; top_gfn: behind the last slot that is known."""

    generation: int
    epoch: int
    known: Known = attrs.field(factory=_nothing)
    counters: list[tuple[Counters, int]] = attrs.field(factory=list)
    top_gfn: int = 0

    def holds(self, space: Memslots, epoch: int) -> bool:
        """Tell whether it is still so."""
        if self.generation != space.generation:
            return False
        if self.epoch != epoch:
            for counts, bias in self.counters:
                if counts.bias != bias:
                    return False
            self.epoch = epoch
        return True


class Near:
    """Where the rows of one run lie. spaces: what is known, by VM number << 8 | as_id.

    Between runs it is kept only where the engine says that one sharer of counters writes for all (`Table.together`).
    """

    def __init__(self, machine: Machine, run: Run) -> None:
        kinds = run.kinds()
        self.spaces: dict[int, Known] = {}
        self._of: dict[int, NearSpace] = {}
        self._machine = machine
        self._external = ADD in kinds or REMOVE in kinds

    def find(self, number: int, as_id: int, gfn: int) -> Place | None:
        """Look a gfn up and remember its place; None, and it is logged, for a VM that is gone.

        Raises EventError for a VM that was never there.
        """
        machine, key = self._machine, number << 8 | as_id
        if number in machine.gone:
            machine.log.counts[GONE] = machine.log.counts.get(GONE, 0) + 1
            return None
        vm = machine.vm(number)
        if key not in self.spaces:
            self._open(vm, as_id, key)
            edges, places = self.spaces[key]
            place = places[bisect_right(edges, gfn)]
            if place is not None:
                return place
        return self._look_up(vm, as_id, gfn)

    def _open(self, vm: Vm, as_id: int, key: int) -> None:
        """Take up what earlier runs left of an address space, if it still holds."""
        table, space = vm.allocator.counters, vm.spaces[min(as_id, vm.nas - 1)]
        near: NearSpace | None = space.near.get(as_id) if table.together else None
        if near is None or not near.holds(space, table.epoch) or not kvm_page_track_write_tracking_enabled(vm):
            near = NearSpace(space.generation, table.epoch)
            if table.together:
                space.near[as_id] = near
        elif self._external and near.top_gfn and _tracks(vm, as_id):
            vm.external_adds.own()
            vm.external_adds.cover(near.top_gfn - 1)
        self._of[key], self.spaces[key] = near, near.known

    def _look_up(self, vm: Vm, as_id: int, gfn: int) -> Place:
        """Return the place of a gfn and remember it, unless something is unusual there."""
        slot = vm.spaces[min(as_id, vm.nas - 1)].by_gfn(gfn)
        if slot is None or slot.arch.gfn_write_track is None or not kvm_page_track_write_tracking_enabled(vm):
            return unusual(vm)
        if vm.allocator.counters.digesting:
            return unusual(vm)  # Counters.bump() keeps the digest
        reads = BOTH_SPACES if vm.nas > 1 and reads_all_address_spaces(vm) else OWN_SPACE
        tracks, counts, end_gfn = _tracks(vm, as_id), slot.arch.counts, slot.end_gfn
        if tracks and self._external:
            vm.external_adds.own()
            vm.external_adds.cover(end_gfn - 1)
        key = vm.number << 8 | as_id
        if counts.own():
            self.spaces.clear()
            self._open(vm, as_id, key)
        place, near = (vm, counts.bias, tracks, reads), self._of[key]
        edges, places = near.known
        index = bisect_right(edges, slot.base_gfn)
        edges[index:index] = (slot.base_gfn, end_gfn)
        places[index + 1 : index + 1] = (place, None)
        near.counters.append((counts, place[1]))
        near.top_gfn = max(near.top_gfn, end_gfn)
        return place


def _tracks(vm: Vm, as_id: int) -> bool:
    """Tell whether external users may track gfns of an address space."""
    return has_external_api(vm) and not (as_id and vm.policy.register_checks_mm)
