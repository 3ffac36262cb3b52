"""Remember where the rows of short runs lie, so that the scalar rule looks a memslot up once and not in each run anew.

What is remembered of an address space is good until its slots, or the roots of their counters, change. Source: struct
kvm_memslots [6.1, 6.12] for what is looked up.
"""

from bisect import bisect_right
from typing import Final

import attrs

from replay.kvm.counters import Counters
from replay.kvm.kernel_log import GONE
from replay.kvm.lpages import may_warn, own_moves
from replay.kvm.machine import Machine
from replay.kvm.memslot import Arch, Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.page_track import has_external_api, kvm_page_track_write_tracking_enabled, reads_all_address_spaces
from replay.kvm.vm import Vm

OWN_SPACE: Final = "own"
BOTH_SPACES: Final = "both"

Place = tuple[Vm, int, bool, str, Arch]
"""VM; bias of the slot's counters; external users may track here; which spaces reads look into, "" where a row is unusual; the
slot's arrays."""
Known = tuple[list[int], list[Place | None]]
"""First gfns of slots and of what follows them, in order; the place behind each of them, with one before the first."""


_NOWHERE: Final[Known] = ([], [None])
"""What is known of an address space of which nothing is known."""
_ROWS_A_SLOT: Final = 4
"""All memslots of an address space are looked up at once for a run of so many rows a slot."""

_NO_ARCH: Final = Arch()


def _nothing() -> Known:
    return [], [None]


def unusual(vm: Vm) -> Place:
    """Return the place of a gfn whose rows are left to the functions that model the kernel's. Source: see the module."""
    return vm, 0, False, "", _NO_ARCH


@attrs.define(eq=False)
class NearSpace:
    """What is known of one address space, as rows of one as_id find it; top_gfn: behind the last slot that is known."""

    generation: int
    epoch: int
    known: Known = attrs.field(factory=_nothing)
    counters: list[tuple[Counters, int]] = attrs.field(factory=list)
    top_gfn: int = 0
    archs: list[Arch] = attrs.field(factory=list)

    def holds(self, vm: Vm, space: Memslots, epoch: int) -> bool:
        """Tell whether it is still so."""
        if self.generation != space.generation:
            return False
        if self.epoch != epoch:
            for counts, bias in self.counters:
                if counts.bias != bias:
                    return False
            self.epoch = epoch
        return vm.lpage_warned or not any(arch.lpage_moves.fallen for arch in self.archs)


class Near(dict[int, Known]):
    """Where the rows of one run lie: what is known of address spaces, by VM number << 8 | as_id, worked out when asked for.

    Between runs it is kept only where the engine says that one sharer of counters writes for all (`Table.together`).
    """

    def __init__(self, machine: Machine, rows: int, *, external: bool) -> None:
        """rows: how many there are; external: some may be of external users."""
        super().__init__()
        self._of: dict[int, NearSpace] = {}
        self._machine, self._rows, self._external = machine, rows, external

    def __missing__(self, key: int) -> Known:
        """Take up what earlier runs left of an address space, if it still holds, or work it out anew."""
        vm, as_id = self._machine.vms.get(key >> 8), key & 255
        if vm is None:
            return _NOWHERE
        table, space = vm.allocator.counters, vm.spaces[min(as_id, vm.nas - 1)]
        if table.digesting or not kvm_page_track_write_tracking_enabled(vm):
            unusual_all: Known = ([], [unusual(vm)])  # Counters.bump() keeps the digest
            self[key] = unusual_all
            return unusual_all
        near: NearSpace | None = space.near.get(as_id) if table.together else None
        if near is None or not near.holds(vm, space, table.epoch):
            near = _looked_up(vm, as_id, space, self._rows)
            if table.together:
                space.near[as_id] = near
        self._of[key], self[key] = near, near.known
        self._make_room(vm, as_id, near)
        return near.known

    def _make_room(self, vm: Vm, as_id: int, near: NearSpace) -> None:
        """See to it that external users have counters of all gfns that are known."""
        if self._external and near.top_gfn and tracks(vm, as_id):
            vm.external_adds.own()
            vm.external_adds.cover(near.top_gfn - 1)

    def forget(self) -> None:
        """Look all up anew: a slot is unusual from here on."""
        for near in self._of.values():
            near.generation = -1
        self.clear()

    def find(self, number: int, as_id: int, gfn: int) -> Place | None:
        """Look up a gfn of which nothing is known and remember its place; None, and it is logged, for a VM that is gone.

        Raises EventError for a VM that was never there.
        """
        machine, key = self._machine, number << 8 | as_id
        if number in machine.gone:
            machine.log.counts[GONE] = machine.log.counts.get(GONE, 0) + 1
            return None
        vm = machine.vm(number)
        slot = vm.spaces[min(as_id, vm.nas - 1)].by_gfn(gfn)
        if slot is None or slot.arch.raw_write_track is None or may_warn(vm, slot):
            return unusual(vm)
        if slot.arch.counts.own():
            self.clear()  # biases that are known may be those of before
            self.__missing__(key)
        near = self._of[key]
        place = _remember(near, vm, slot, as_id)
        self._make_room(vm, as_id, near)
        return place


def _looked_up(vm: Vm, as_id: int, space: Memslots, rows: int) -> NearSpace:
    """Return what is to be known of an address space: all of it where slots are few and all count, else nothing yet."""
    slots = space.by_base()
    if len(slots) * _ROWS_A_SLOT > rows or any(slot.arch.raw_write_track is None or may_warn(vm, slot) for slot in slots):
        return NearSpace(space.generation, vm.allocator.counters.epoch)
    may_track, reads, gap = tracks(vm, as_id), _reads(vm), unusual(vm)
    edges, counters = list[int](), list[tuple[Counters, int]]()
    places: list[Place | None] = [gap]
    for slot in slots:
        counts = slot.arch.counts
        counts.own()
        own_moves(slot.arch, vm.allocator.counters)
        bias, end_gfn = counts.bias, slot.end_gfn
        edges += (slot.base_gfn, end_gfn)
        places += ((vm, bias, may_track, reads, slot.arch), gap)
        counters.append((counts, bias))
    near = NearSpace(space.generation, vm.allocator.counters.epoch, (edges, places), counters, edges[-1] if edges else 0)
    near.archs = [slot.arch for slot in slots]
    return near


def _remember(near: NearSpace, vm: Vm, slot: Memslot, as_id: int) -> Place:
    """Note a slot that counts; what follows it is not known."""
    counts, end_gfn = slot.arch.counts, slot.end_gfn
    own_moves(slot.arch, vm.allocator.counters)
    place = (vm, counts.bias, tracks(vm, as_id), _reads(vm), slot.arch)
    edges, places = near.known
    index = bisect_right(edges, slot.base_gfn)
    edges[index:index] = (slot.base_gfn, end_gfn)
    places[index + 1 : index + 1] = (place, None)
    near.counters.append((counts, place[1]))
    near.archs.append(slot.arch)
    near.top_gfn = max(near.top_gfn, end_gfn)
    return place


def reads_both_spaces(vm: Vm) -> bool:
    """Tell whether reads look into both address spaces. Source: page_track.kvm_gfn_is_write_tracked()."""
    return vm.nas > 1 and reads_all_address_spaces(vm)


def _reads(vm: Vm) -> str:
    """Say which address spaces reads look into."""
    return BOTH_SPACES if reads_both_spaces(vm) else OWN_SPACE


def tracks(vm: Vm, as_id: int) -> bool:
    """Tell whether external users may track gfns of an address space. Source: page_track.external_track()."""
    return has_external_api(vm) and not (as_id and vm.policy.register_checks_mm)
