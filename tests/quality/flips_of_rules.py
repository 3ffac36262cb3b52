"""Make the flips of rules that are code: write tracking, slots and their order, internal slots, limits, the life of a VM."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from flips import OVERFLOW, Flip, Hand
from flips_of_memory import function, method, number

from replay.events import IdentityMapSet, NrMmuPagesSet, VcpuCreate, VmEnableCap
from replay.kvm import internal_slots, ioctls, machine, memory_region, mmu, page_track, set_memslot, vm
from replay.kvm.counters import Counters
from replay.kvm.idhash import IdHash, bucket_of
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.release import Release
from replay.kvm.vm import Vm

LA57, NPT0 = ("6.1la57-06-npt1/06-errors",), ("6.12-npt0/06-errors",)
Change = Callable[[Hand], None]


def _profiled(true: Callable[..., Any], **facts: object) -> Change:
    """Return a change by which a function sees other facts of the machine than the rest."""

    def changed(of: Any, *args: Any, **named: Any) -> Any:
        owner = of.vm if hasattr(of, "vm") else of
        profile = owner.profile
        owner.profile = attrs.evolve(profile, **facts)
        try:
            return true(of, *args, **named)
        finally:
            owner.profile = profile

    return function(true, changed)


def _with(true: Callable[..., Any], name: str, value: object) -> Change:
    """Return a change by which a function sees a VM's field with another value, which it may not write."""

    def changed(of: Vm, *args: Any, **named: Any) -> Any:
        old = getattr(of, name)
        setattr(of, name, value)
        try:
            return true(of, *args, **named)
        finally:
            setattr(of, name, old)

    return function(true, changed)


def write_tracking() -> Iterator[Flip]:
    """Change who may track, and what a registration does."""
    enabled = page_track.kvm_page_track_write_tracking_enabled
    yield Flip("tracking enabled: tdp not asked", _profiled(enabled, tdp=True))
    yield Flip("tracking enabled: shadow root not asked", _with(enabled, "shadow_root_allocated", False))
    yield Flip("tracking enabled always", function(enabled, lambda _vm: True))
    create = page_track.kvm_page_track_create_memslot
    yield Flip("a new slot never gets its array", function(create, lambda _vm, _slot: True))
    enable = page_track.kvm_enable_external_write_tracking
    yield Flip("registration: TDX guests too", _typed(enable, 0))
    yield Flip("registration: arrays made, flag not set", function(enable, functools.partial(_flagless, enable)))
    yield Flip("registration: a failure sets the flag", function(enable, functools.partial(_flagged, enable)))
    yield Flip("registration: a failure gives back what it made", function(page_track._alloc_all, _all_or_nothing))
    register = page_track.kvm_page_track_register_notifier
    yield Flip("registration: after an opt-out too", _with(register, "page_write_tracking_disabled", False))
    yield Flip("registration: a foreign mm is asked nowhere", function(register, functools.partial(_own_mm, register)))
    yield Flip("external functions without the option too", function(page_track.has_external_api, lambda _vm: True))
    flush = page_track.kvm_page_track_flush_slot
    yield Flip("flush of a slot left out", function(flush, lambda _vm, _slot: None))
    yield Flip("flush of a slot for drivers without a table too", _with(flush, "drivers_keep_table", True))
    yield Flip("a driver's table outlives its last node", function(page_track.kvm_page_track_unregister_notifier, _unregister))
    yield Flip("arrays go with the last node", function(page_track.kvm_page_track_unregister_notifier, _unregister_and_free))


def _typed(true: Callable[[Vm], int], vm_type: int) -> Change:
    return _with(true, "type", vm_type)


def _flagless(true: Callable[[Vm], int], of: Vm) -> int:
    was = of.external_write_tracking_enabled
    ret = true(of)
    of.external_write_tracking_enabled = was
    return ret


def _flagged(true: Callable[[Vm], int], of: Vm) -> int:
    ret = true(of)
    of.external_write_tracking_enabled = True
    return ret


def _all_or_nothing(of: Vm, site: str) -> bool:
    fresh = [slot for slot in of.slots() if slot.arch.gfn_write_track is None]
    if all(page_track.write_tracking_alloc(of, slot, site) for slot in of.slots()):
        return True
    for slot in fresh:
        of.allocator.free(slot.arch.gfn_write_track)
        slot.arch.gfn_write_track = None
        slot.arch.drop_counters()
    return False


def _own_mm(true: Callable[..., int], of: Vm, node: int, *, foreign_mm: bool, null_kvm: bool) -> int:
    return true(of, node, foreign_mm=False, null_kvm=null_kvm)


def _unregister(of: Vm, node: int) -> None:
    if node in of.nodes:
        of.nodes.remove(node)
        of.users_count -= of.policy.register_checks_mm


def _unregister_and_free(of: Vm, node: int) -> None:
    _unregister(of, node)
    for slot in of.slots() if not of.nodes else ():
        of.allocator.free(slot.arch.gfn_write_track)
        slot.arch.gfn_write_track = None
        slot.arch.drop_counters()


def counting() -> Iterator[Flip]:
    """Change what is counted, where, and how far."""
    ends = ("6.12-npt1/" + OVERFLOW, "6.1-npt1/" + OVERFLOW)
    yield Flip("counters end at 65534", number("U16_MAX", 65534), ends)
    yield Flip("a counter at 65535 does not warn", _silent, ends)
    yield Flip("counters do not go below 1", method(Counters, "bump", _floor))
    yield Flip("shadow pages of level 1 are tracked", _levels(1))
    yield Flip("shadow pages of level 2 are not tracked", _levels(-1))
    yield Flip("shadow pages are accounted in address space 0", _account_in_0)
    yield Flip("a MOVE takes its counters along", function(set_memslot.kvm_arch_prepare_memory_region, _move_counts))
    track = page_track.external_track
    yield Flip("external users in the given address space", function(track, functools.partial(_tracked_in, track)))
    reads = page_track.reads_all_address_spaces
    yield Flip("reads look into both address spaces always", function(reads, lambda _vm: True))
    yield Flip("reads look into one address space always", function(reads, lambda _vm: False))
    yield Flip("reads: no stable release has the fix", function(reads, lambda of: of.profile.release.at_least(7, 2)))
    yield Flip("reads while tracking is not enabled", function(page_track.kvm_gfn_is_write_tracked, lambda *_: False))


TRUE_BUMP = Counters.bump


def _silent(hand: Hand) -> None:
    hand.put(
        Counters,
        "bump",
        lambda self, index, delta, most: self.get(index, 0) + delta == most + 1 or TRUE_BUMP(self, index, delta, most),
    )


def _floor(self: Counters, index: int, delta: int, most: int) -> bool:
    return self.get(index, 0) + delta > 0 and TRUE_BUMP(self, index, delta, most)


def _levels(more: int) -> Change:
    true = mmu.account_shadowed
    return function(true, lambda of, as_id, gfn, level, delta: true(of, as_id, gfn, level + more, delta))


def _account_in_0(hand: Hand) -> None:
    true = mmu.account_shadowed
    hand.everywhere(true, lambda of, _as_id, gfn, level, delta: true(of, 0, gfn, level, delta))


def _move_counts(of: Vm, old: Memslot | None, new: Memslot, change: str) -> tuple[int, str]:
    ret = TRUE_ARCH_PREPARE(of, old, new, change)
    if old is not None and change == memory_region.MOVE and not ret[0] and new.arch.gfn_write_track is not None:
        for index, count in old.arch.counts.items():
            new.arch.counts[index] = count
    return ret


TRUE_ARCH_PREPARE = set_memslot.kvm_arch_prepare_memory_region


def _tracked_in(true: Callable[..., int], of: Vm, as_id: int, gfn: int, delta: int) -> int:
    if of.spaces[min(as_id, of.nas - 1)].by_gfn(gfn) is None:
        return -22
    return true(of, as_id, gfn, delta)


def slots() -> Iterator[Flip]:
    """Change the order of slots, generations, what is published and taken back."""
    yield Flip("id hash with another constant", number("GOLDEN_RATIO_32", 0x9E370001))
    yield Flip("id hash of 256 buckets", number("ID_HASH_BITS", 8))
    yield Flip("id hash: a new slot at the tail", method(IdHash, "link", _link_last))
    yield Flip("id hash: one that is there keeps its place", method(IdHash, "link", _link_once))
    yield Flip("slots walked by gfn", method(Memslots, "__iter__", lambda self: iter(self.by_base())))
    yield Flip("both sets have one order", method(Memslots, "_inactive", lambda self: self._orders[self._active]))
    yield Flip("generation grows by one", method(Memslots, "_swap", _swap_by_one))
    yield Flip("generation does not grow", method(Memslots, "_swap", lambda self: setattr(self, "_active", self._active ^ 1)))
    yield Flip("a failed delete or move is not taken back", method(Memslots, "revert", lambda _self, _slot: None))
    yield Flip("taken back without a link", method(Memslots, "revert", lambda self, _slot: self._swap()))
    yield Flip("no INVALID copy is published", method(Memslots, "invalidate", lambda _self, _slot: None))
    yield Flip("a VM dies in the order of set 0", method(Memslots, "drop_all", _drop_set_0))
    yield Flip("by gfn: the end is in the slot", method(Memslots, "by_gfn", _by_gfn_end))
    classify = memory_region.classify
    for old, new in (("move", "flags_only"), ("flags_only", "unchanged"), ("unchanged", "flags_only")):
        changed = functools.partial(_classified, classify, old, new)
        yield Flip(f"classified {new} instead of {old}", function(classify, changed))
    prepare = set_memslot.kvm_arch_prepare_memory_region
    yield Flip("MOVE with a notifier", function(prepare, functools.partial(_unwatched, prepare)))
    yield Flip("nr_memslot_pages not counted", function(set_memslot.kvm_commit_memory_region, _uncounted))
    yield Flip("dirty bitmaps with a dirty ring too", method(Vm, "bitmap_mode", lambda _self: True))


def _bucket(of: IdHash, slot_id: int) -> list[int]:
    return of._buckets.setdefault(bucket_of(slot_id), [])


def _link_last(self: IdHash, slot_id: int) -> None:
    bucket = _bucket(self, slot_id)
    if slot_id in bucket:
        bucket.remove(slot_id)
    bucket.append(slot_id)


def _link_once(self: IdHash, slot_id: int) -> None:
    bucket = _bucket(self, slot_id)
    if slot_id not in bucket:
        bucket.insert(0, slot_id)


def _swap_by_one(self: Memslots) -> None:
    self._active ^= 1
    self.generation += 1


TRUE_DROP_ALL = Memslots.drop_all
TRUE_COMMIT = set_memslot.kvm_commit_memory_region


def _drop_set_0(self: Memslots) -> list[Memslot]:
    self._hashes = (self._hashes[1], self._hashes[0])
    return TRUE_DROP_ALL(self)


def _by_gfn_end(self: Memslots, gfn: int) -> Memslot | None:
    return next((slot for slot in self.by_base() if slot.base_gfn <= gfn <= slot.end_gfn), None)


def _classified(true: Callable[..., str], old: str, new: str, request: Any) -> str:
    found = true(request)
    return new if found == old else found


def _unwatched(true: Callable[..., tuple[int, str]], of: Vm, *rest: Any) -> tuple[int, str]:
    nodes, of.nodes = of.nodes, []
    try:
        return true(of, *rest)
    finally:
        of.nodes = nodes


def _uncounted(of: Vm, *rest: Any) -> None:
    pages = of.nr_memslot_pages
    TRUE_COMMIT(of, *rest)
    of.nr_memslot_pages = pages


def limits() -> Iterator[Flip]:
    """Change the limits of a memslot request."""
    most = mmu.kvm_mmu_max_gfn
    yield Flip("largest gfn: one more", function(most, lambda of: most(of) + 1))
    yield Flip("largest gfn: one less", function(most, lambda of: most(of) - 1))
    yield Flip("largest gfn: tdp not asked", _profiled(most, tdp=True), NPT0)
    yield Flip("largest gfn: 52 bits always", _profiled(most, tdp=False))
    size = memory_region.task_size_max
    yield Flip("user memory: a page more", function(size, lambda *, la57: size(la57=la57) + 4096))
    yield Flip("user memory: a page less", function(size, lambda *, la57: size(la57=la57) - 4096))
    yield Flip("user memory: five-level paging not asked", function(size, lambda **_: size(la57=False)), LA57)
    end = memory_region.user_ptr_end
    yield Flip("user memory: only the sign is tested from 6.4 on", function(end, lambda *_, **__: (1 << 63) - 1))
    yield Flip(
        "user memory: the correction of 6.12.2 left out", function(end, lambda release, *, la57: end(release, la57=la57) - 1)
    )
    yield Flip("user memory: 6.1 like 6.12", _released(memory_region.access_ok, Release(6, 12, 117)))
    yield Flip("user memory: 6.12 like 6.1", _released(memory_region.access_ok, Release(6, 1, 192)))
    yield Flip("valid flags: 6.1 like 6.12", _released(memory_region.valid_flags, Release(6, 12, 117)))
    yield Flip("valid flags: 6.12 like 6.1", _released(memory_region.valid_flags, Release(6, 1, 192)))
    for name in ("KVM_MEM_SLOTS_NUM", "KVM_USER_MEM_SLOTS", "KVM_MEM_MAX_NR_PAGES", "KVM_MIN_ALLOC_MMU_PAGES", "TSS_ADDR_MAX"):
        value = vars(memory_region).get(name) or vars(ioctls).get(name) or vars(internal_slots)[name]
        yield Flip(f"{name}: one more", number(name, value + 1))
        yield Flip(f"{name}: one less", number(name, value - 1), NPT0)


def _released(true: Callable[..., Any], release: Release) -> Change:
    return _profiled(true, release=release)


def internal() -> Iterator[Flip]:
    """Change when the kernel makes slots for itself, and where."""
    vcpu, tss = internal_slots.vcpu_internal_slots, internal_slots.kvm_vm_ioctl_set_tss_addr
    yield Flip("TSS: vendor not asked", _profiled(tss, vendor="intel", unrestricted_guest=False))
    yield Flip("TSS: unrestricted guest not asked", _profiled(tss, unrestricted_guest=False))
    yield Flip("TSS: never", function(tss, lambda _vm, _gpa: 0))
    for fact, value in (("flexpriority", True), ("flexpriority", False), ("avic", True), ("avic", False)):
        yield Flip(f"APIC access page: {fact} taken for {value}", _profiled(vcpu, **{fact: value}))
    yield Flip("APIC access page: irqchip not asked", _with(vcpu, "irqchip_in_kernel", True))
    yield Flip("APIC access page: once a vCPU", _with(vcpu, "apic_access_memslot_enabled", False))
    yield Flip("identity map: unrestricted guest not asked", _profiled(vcpu, unrestricted_guest=False))
    yield Flip("identity map: tdp not asked", _profiled(vcpu, tdp=True))
    yield Flip("identity map: never", _with(vcpu, "ept_identity_pagetable_done", True))
    yield Flip("identity map: its address not asked", _with(vcpu, "identity_map_addr", 0))
    yield Flip("internal slots in address space 0 only", function(internal_slots.x86_set_memory_region, _in_space_0))
    yield Flip(
        "internal slots stay until the others go", function(internal_slots.kvm_arch_destroy_internal_slots, lambda _vm: None)
    )
    spaces = vm.kvm_arch_nr_memslot_as_ids
    yield Flip("address spaces: always two", function(spaces, lambda _profile, _type: 2))
    yield Flip("address spaces: always one", function(spaces, lambda _profile, _type: 1))
    yield Flip("address spaces: private memory not asked", function(spaces, lambda profile, _type: spaces(profile, 0)))


def _in_space_0(of: Vm, slot_id: int, gpa: int, size_bytes: int) -> int:
    if of.spaces[0].by_id(slot_id) is not None:
        return -17
    request = memory_region.Request(of, slot_id, 0, gpa, size_bytes, 0x7F00_0000_0000, internal=True)
    return set_memslot.kvm_set_memory_region(request)[0]


def calls() -> Iterator[Flip]:
    """Change the other calls and the life of a VM."""
    yield Flip("a dead VM answers", function(ioctls.dead, lambda _vm, *, foreign_mm: foreign_mm))
    yield Flip("a foreign mm is answered", function(ioctls.dead, lambda of, **_: of.vm_bugged))
    yield Flip(
        "identity map address: after a vCPU too", _step(IdentityMapSet, ioctls.kvm_set_identity_map_addr, "created_vcpus", 0)
    )
    yield Flip("nr_mmu_pages: never refused", _answers(NrMmuPagesSet, 0))
    yield Flip("vCPU: always as recorded", _recorded(VcpuCreate))
    yield Flip("capability: always as recorded", _recorded(VmEnableCap))
    yield Flip("a VM ends while a notifier is there", method(Vm, "__attrs_post_init__", _no_references))


TRUE_POST_INIT = Vm.__attrs_post_init__


def _no_references(self: Vm) -> None:
    TRUE_POST_INIT(self)
    self.users_count = 0


def _step(event: type, true: Callable[..., int], name: str, value: object) -> Change:
    def call(of: Any, one: Any, outcome: Any) -> None:
        owner = of.vm(one.vm)
        old = getattr(owner, name)
        setattr(owner, name, value)
        try:
            outcome.ret = true(owner, one)
        finally:
            setattr(owner, name, old)

    return lambda hand: hand.item(machine._STEPS, event, call)


def _answers(event: type, ret: int) -> Change:
    return lambda hand: hand.item(machine._STEPS, event, lambda _machine, _one, outcome: setattr(outcome, "ret", ret))


def _recorded(event: type) -> Change:
    def call(_machine: Any, one: Any, outcome: Any) -> None:
        outcome.ret = ioctls.as_recorded(one.ret)

    return lambda hand: hand.item(machine._STEPS, event, call)


def rule_flips() -> list[Flip]:
    """Return the flips of rules that are code."""
    return [*write_tracking(), *counting(), *slots(), *limits(), *internal(), *calls()]
