"""Run one stream through the model and the slow model, and say the first thing in which they differ."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from slow_model import SlowWorld
from slow_slots import Dict
from streams import Facts

from replay.events import Event, MemslotSet
from replay.events.write_track import GuestWrite, HotEvent
from replay.kvm.allocator import Allocation
from replay.kvm.fold import fold_run
from replay.kvm.invariants import check_invariants
from replay.kvm.kernel_log import GONE
from replay.kvm.lpages import disallow_lpage, moved_lpages
from replay.kvm.machine import Machine
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.past import Ledger, remember
from replay.kvm.policies import POLICIES, Policy
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.vm import Vm
from replay.runs import items_of, run_of

_POLICIES = {policy.name: policy for policy in POLICIES}


def policy_by_name(name: str) -> Policy:
    """Return a policy by its own name."""
    return _POLICIES[name]


def profile_from(facts: Facts) -> Profile:
    """Make the model's profile from the slow model's facts."""
    return Profile(**{**facts, "release": Release(*facts["release"])})


class Lockstep:
    """Both models of one lane, side by side; `met` counts what the stream did, to show that it did something.

    paranoid: check the invariants after every event too.
    """

    def __init__(self, policy: str, facts: Facts, *, paranoid: bool = True) -> None:
        self.machine = Machine(policy_by_name(policy), profile_from(facts))
        self.slow = SlowWorld(policy, facts)
        self.met: Counter[str] = Counter()
        self.ledger = Ledger()
        self.past = remember(self.machine)
        self.number = 0
        self.paranoid = paranoid

    def apply(self, event: Event) -> str:
        """Apply one event to both; return what differs, "" when nothing does."""
        expected = self.slow.apply(event)
        found, log, change = step(self.machine, event, self.number, self.ledger)
        self.number += 1
        self._meet(event, found, log, change)
        if found != expected:
            return f"result {found}, slow model {expected}"
        if log != self.slow.log:
            return f"log {log}, slow model {self.slow.log}"
        parts = zip(("VMs", "memory", "failed", "gone"), view(self.machine), slow_view(self.slow), strict=True)
        for what, fast, slow in parts:
            if fast != slow:
                return f"{what}\n  model {fast}\n  slow  {slow}"
        if not self.paranoid:
            return ""
        broken = check_invariants(self.machine, self.past, self.ledger)
        self.past = remember(self.machine, self.past)
        return "; ".join(broken)

    def _meet(self, event: Event, ret: int | None, log: list[str], change: str) -> None:
        self.met[f"{event.KIND} {ret}"] += 1
        self.met.update(log)
        if isinstance(event, MemslotSet):
            self.met[change] += 1


def step(machine: Machine, event: Event, number: int, ledger: Ledger) -> tuple[int | None, list[str], str]:
    """Apply one event to the model, a hot one as a run of its own; return result, warnings and change."""
    if not isinstance(event, HotEvent):
        outcome = machine.step(event, number)
        ledger.note_event(machine, event)
        return outcome.ret, outcome.log, outcome.change
    run = fold_run(machine, run_of([event]), number)
    ledger.note_run(machine, run_of([event]), run)
    log = [reason for _row, reason in run.log]
    if log == [GONE]:
        return None, log, ""
    if isinstance(event, GuestWrite):
        return int(bool(run.tracked_writes)), log, ""
    return run.rets.get(0, None if event.KIND.startswith("shadow_page") else 0), log, ""


def whole(policy: str, facts: Facts, events: Sequence[Event]) -> Machine:
    """Run a stream through the model with its runs whole, as the engine does."""
    machine, number = Machine(policy_by_name(policy), profile_from(facts)), 0
    for item in items_of(events):
        if isinstance(item, Event):
            machine.step(item, number)
            number += 1
        else:
            fold_run(machine, item, number)
            number += len(item)
    return machine


def view(machine: Machine) -> tuple[Any, ...]:
    """Return what the model must share with the slow one."""
    memory = {
        name: [tally.live, tally.nominal_now, tally.charged_now, tally.real_now]
        for name, tally in sorted(machine.allocator.tallies.items())
        if tally.live
    }
    failed = [site for site, _array, _bytes in machine.allocator.refused]
    return [_vm(vm) for vm in machine.live_vms()], (memory, machine.allocator.number), failed, list(machine.gone)


def _vm(vm: Vm) -> tuple[Any, ...]:
    return (
        *(vm.number, vm.type, vm.shadow_root_allocated, vm.external_write_tracking_enabled, vm.vm_bugged),
        *(vm.page_write_tracking_disabled, vm.nr_memslot_pages, vm.indirect_shadow_pages, vm.users_count, vm.destroyed, vm.nodes),
        *(vm.created_vcpus, vm.irqchip_in_kernel, vm.apic_access_memslot_enabled, vm.external_adds),
        [_space(space) for space in vm.spaces],
    )


def _space(space: Memslots) -> tuple[Any, ...]:
    return space.generation, [_slot(slot) for slot in space], space.inactive_order()


def _piece(array: Allocation | None) -> tuple[str, int] | None:
    return None if array is None else (array.site, array.cost.nominal_bytes)


def _slot(slot: Memslot) -> tuple[Any, ...]:
    arch = slot.arch
    arrays = (slot.object, slot.dirty_bitmap, *arch.rmap, *arch.lpage_info, arch.gfn_write_track)
    return (
        *(slot.as_id, slot.id, slot.base_gfn, slot.npages, slot.flags, slot.userspace_addr),
        *(_piece(array) for array in arrays),
        arch.counts,
        [_disallowed(slot, shift) for shift in (9, 18)],
    )


def _disallowed(slot: Memslot, shift: int) -> dict[int, int]:
    """Return disallow_lpage of the slot's first and last regions, and of those where it moved."""
    ends = (slot.base_gfn >> shift, slot.end_gfn - 1 >> shift)
    return {region: disallow_lpage(slot, shift, region) for region in sorted({*ends, *moved_lpages(slot, shift)})}


def slow_view(slow: SlowWorld) -> tuple[Any, ...]:
    """Return the same of the slow model."""
    vms = [_slow_vm(slow, slow.vms[number]) for number in sorted(slow.vms)]
    return vms, (slow.memory.totals(), slow.memory.made), slow.memory.failed, slow.gone


def _slow_vm(slow: SlowWorld, vm: Dict) -> tuple[Any, ...]:
    names = ["number", "type", "shadow", "ext", "bugged", "disabled", "pages", "indirect", "users", "destroyed", "nodes"]
    names += ["vcpus", "irqchip", "apic", "table"]
    return *(vm[name] for name in names), [_slow_space(slow, vm, as_id) for as_id in range(vm["nas"])]


def _slow_space(slow: SlowWorld, vm: Dict, as_id: int) -> tuple[Any, ...]:
    space = vm["spaces"][as_id]
    other = [slot["id"] for chain in space["sets"][1 - space["active"]] for slot in chain]
    return space["gen"], [_slow_slot(slow, slot) for slot in slow.walk(vm, as_id)], other


def _slow_slot(slow: SlowWorld, slot: Dict) -> tuple[Any, ...]:
    arrays = (slot["object"], slot["dirty"], *slot["rmap"], *slot["lpage"], slot["wt"])
    return (
        *(slot[name] for name in ("as", "id", "base", "npages", "flags", "hva")),
        *(None if piece is None else (piece["caller"], piece["bytes"]) for piece in arrays),
        {gfn - slot["base"]: count for gfn, count in slot["counts"].items() if count},
        [_slow_disallowed(slow, slot, size) for size in (512, 512 * 512)],
    )


def _slow_disallowed(slow: SlowWorld, slot: Dict, size: int) -> dict[int, int]:
    fresh: Dict = {**slot, "disallow": {}}
    slow.first_disallow(fresh)
    reasons, first = slot["disallow"][size], slot["base"] // size
    ends = {0, (slot["base"] + slot["npages"] - 1) // size - first}
    moved = {place for place in list(reasons) if reasons[place] != fresh["disallow"][size][place]}
    return {first + place: reasons[place] for place in sorted(ends | moved)}
