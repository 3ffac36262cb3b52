"""Remember what the invariants must know of the state before: flags, generations, arrays, and a second count of the counters.

A caller that checks after each event keeps a `Past` and a `Ledger`; see invariants.check_invariants().
"""

from typing import Final

import attrs

from replay.events import Event, MemslotSet
from replay.kvm.allocator import Allocation
from replay.kvm.kernel_log import LPAGE
from replay.kvm.machine import Machine
from replay.kvm.memslot import Memslot
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.vm import Vm
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Run

_DELTAS: Final = {ADD: 1, REMOVE: -1, ACCOUNT: 1, UNACCOUNT: -1}

SlotName = tuple[int, int, int, int]
"""A slot for as long as it stays in its place: address space, id, event that created it, base gfn."""


@attrs.frozen
class VmPast:
    """What of a VM must be remembered. Source: struct kvm, struct kvm_arch [6.1, 6.12] for the fields."""

    shadow_root_allocated: bool
    external_write_tracking_enabled: bool
    vm_bugged: bool
    users_count: int
    destroyed: bool
    nodes: int
    generations: tuple[int, ...]
    write_tracks: dict[SlotName, int]


@attrs.frozen
class Past:
    """The lane at the check before. refused: an allocation has failed since the beginning. Source: see `VmPast`."""

    vms: dict[int, VmPast] = attrs.field(factory=dict)
    refused: bool = False


def remember(machine: Machine, before: Past | None = None) -> Past:
    """Return what the next check must know of now; before: what this one knew. Cost: proportional to slots.

    Source: see `VmPast`.
    """
    refused = bool(machine.allocator.refused) or (before is not None and before.refused)
    return Past({vm.number: _vm_past(vm) for vm in machine.live_vms()}, refused)


def _vm_past(vm: Vm) -> VmPast:
    return VmPast(
        vm.shadow_root_allocated,
        vm.external_write_tracking_enabled,
        vm.vm_bugged,
        vm.users_count,
        vm.destroyed,
        len(vm.nodes),
        tuple(space.generation for space in vm.spaces),
        {slot_name(slot): slot.arch.gfn_write_track.number for slot in vm.slots() if slot.arch.gfn_write_track is not None},
    )


def slot_name(slot: Memslot) -> SlotName:
    """Return what names a slot while it stays in its place. Source: struct kvm_memory_slot [6.1, 6.12]."""
    return (slot.as_id, slot.id, slot.born, slot.base_gfn)


class Ledger:
    """A second count of every counter, by array: adds less removes since the array was made. Source: invariant I7."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[int, int]] = {}

    def note_event(self, machine: Machine, event: Event) -> None:
        """Forget arrays that a structural event freed; call it after the event was applied."""
        for allocation in machine.allocator.freed:
            self._counts.pop(allocation.number, None)
        if machine.policy.flush_slot and isinstance(event, MemslotSet) and event.vm in machine.vms:
            # A DELETE or MOVE that failed has dropped what drivers tracked: page_track.c kvm_page_track_flush_slot() [6.1].
            for slot in machine.vms[event.vm].slots():
                if slot.arch.gfn_write_track is not None:
                    self._counts[slot.arch.gfn_write_track.number] = dict(slot.arch.counts)

    def note_run(self, machine: Machine, run: Run, outcome: RunOutcome) -> None:
        """Count the rows of a run that was applied and that neither failed nor warned."""
        warned = {row for row, reason in outcome.log if reason != LPAGE} | set(outcome.rets)
        for row, kind in enumerate(run.kind):
            if row in warned or kind not in _DELTAS or (kind >= ACCOUNT and run.level[row] < 2):
                continue
            vm = machine.vms[run.vm[row]]
            lowest = kind < ACCOUNT and vm.policy.register_checks_mm  # external users: address space 0 from 6.6 on
            slot = vm.spaces[0 if lowest else min(run.as_id[row], vm.nas - 1)].by_gfn(run.gfn[row])
            if slot is not None and slot.arch.gfn_write_track is not None:
                counts = self._counts.setdefault(slot.arch.gfn_write_track.number, {})
                index = run.gfn[row] - slot.base_gfn
                counts[index] = counts.get(index, 0) + _DELTAS[kind]

    def counts_of(self, array: Allocation) -> dict[int, int]:
        """Return the counts of an array that are not zero."""
        return {index: count for index, count in self._counts.get(array.number, {}).items() if count}
