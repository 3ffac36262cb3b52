"""Tell whether a VM is the same in two lanes as far as hot events can tell, and let such lanes share its counters.

What a hot event does is decided by: is tracking enabled, which slots are there with which counters, and a few rules of the
policy. Everything else in which lanes differ (who allocated which array when) does not matter within a run.
"""

from collections.abc import Sequence

from replay.engine.lane import Lane
from replay.kvm.counters import Counters
from replay.kvm.memory_region import Newborn
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled, reads_all_address_spaces
from replay.kvm.vm import Vm


def share_tables(lanes: Sequence[Lane]) -> None:
    """Let lanes that have replayed nothing keep their counters in the tables of the first one."""
    first = lanes[0].machine.allocator
    for lane in lanes[1:]:
        if not lane.machine.vms:
            lane.machine.allocator.counters = first.counters
            lane.machine.allocator.driver_counts = first.driver_counts


def agree(a: Lane, b: Lane, number: int, *, spaces_matter: bool) -> bool:
    """Tell whether a VM answers every run alike in two lanes, and counts alike.

    spaces_matter: external users named an address space other than 0. Cost: a microsecond a memslot, and what is touched of
    counters that are not shared.
    """
    if a.policy.at_first_add or b.policy.at_first_add:
        return False  # such a lane makes arrays within a run, which is not what others take over
    if a.left_out != b.left_out or a.machine.allocator.counters is not b.machine.allocator.counters:
        return False
    one, other = a.machine.vms.get(number), b.machine.vms.get(number)
    if one is None or other is None:
        return one is other and (number in a.machine.gone) == (number in b.machine.gone)
    return (
        _rules(one, spaces_matter=spaces_matter) == _rules(other, spaces_matter=spaces_matter)
        and all(_slots_agree(*spaces) for spaces in zip(one.spaces, other.spaces, strict=True))
        and one.external_adds.equal(other.external_adds)
    )


def _rules(vm: Vm, *, spaces_matter: bool) -> tuple[object, ...]:
    enabled = kvm_page_track_write_tracking_enabled(vm)
    return (
        vm.nas,
        enabled,
        vm.vm_bugged,
        vm.indirect_shadow_pages,
        enabled or vm.policy.bug_when_disabled,
        vm.nas > 1 and reads_all_address_spaces(vm),
        vm.lpage_warned,
        spaces_matter and vm.policy.register_checks_mm,
    )


def _slots_agree(one: Memslots, other: Memslots) -> bool:
    return len(one) == len(other) and all(map(_slot_agrees, one.by_base(), other.by_base()))


def _slot_agrees(a: Memslot, b: Memslot) -> bool:
    return (
        a.base_gfn == b.base_gfn
        and a.npages == b.npages
        and a.userspace_addr == b.userspace_addr
        and (a.arch.raw_write_track is None) == (b.arch.raw_write_track is None)
        and a.arch.counts.equal(b.arch.counts)
        and a.arch.lpage_moves.equal(b.arch.lpage_moves)
    )


def share_counters(group: Sequence[Lane], number: int) -> None:
    """Let the lanes of a group, which agree, share what they count of a VM, with nobody else."""
    vms = [lane.machine.vms[number] for lane in group if number in lane.machine.vms]
    if not vms:
        return
    _share([vm.external_adds for vm in vms])
    for spaces in zip(*(vm.spaces for vm in vms), strict=True):
        for slots in zip(*(space.by_base() for space in spaces), strict=True):
            _share_arch([slot.arch for slot in slots])


def all_share(newborn: Newborn, lanes: int) -> bool:
    """Tell whether all of some lanes share what they count of a memslot that they have just made. Cost: none to speak of."""
    untracked, tracked = newborn
    if tracked is None:
        return untracked is not None and untracked.lpage_moves.owners == lanes
    return tracked.lpage_moves.owners == tracked.counts.roots.owners == lanes


def share_slot(slots: Sequence[Memslot | None]) -> bool:
    """Let one new slot of lanes that agree otherwise share its counters; False when the lanes part in its array."""
    archs = [slot.arch for slot in slots if slot is not None]
    untracked = [arch.raw_write_track is None for arch in archs]
    if len(archs) < len(slots) or untracked.count(untracked[0]) < len(slots):
        return False
    _share_arch(archs)
    return True


def _share_arch(archs: Sequence[Arch]) -> None:
    lead = archs[0]
    if lead.raw_write_track is not None:
        _share([arch.counts for arch in archs])
    moves = lead.lpage_moves
    if moves.owners != len(archs) or [arch.lpage_moves for arch in archs].count(moves) < len(archs):
        if moves.owners > 1:
            lead.lpage_moves = moves = moves.copy()
        for arch in archs[1:]:
            arch.lpage_moves.owners -= 1
            arch.lpage_moves = moves
        moves.owners = len(archs)


def _share(counters: Sequence[Counters]) -> None:
    lead, roots = counters[0], counters[0].roots
    if roots.owners == len(counters) and [one.roots for one in counters].count(roots) == len(counters):
        return
    if roots.owners > 1:
        lead.own()
    for one in counters[1:]:
        one.share(lead)
