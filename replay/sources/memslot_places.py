"""Place memslot calls where KVM commits them, between entry and exit of their ioctl.

A DELETE or MOVE zaps the slot's shadow pages before it commits, so its place is behind those zaps: at the exit. A CREATE or a
change of flags takes effect somewhere before the exit; it is placed there too, unless another thread is seen to use the new
slot before, or another call's result shows that this one was committed first.
Source: virt/kvm/kvm_main.c kvm_set_memslot(): kvm_invalidate_memslot() before kvm_prepare_memory_region() and commit;
slots_lock is held throughout, so that calls on one VM commit one after another, while their exits may come in any order.
"""

from typing import Final

import attrs

from replay.events import MemslotSet
from replay.sources.ioctls import KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2
from replay.sources.strace_args import ioctl_args, region_of
from replay.sources.strace_queue import Entry
from replay.sources.syscalls import Syscall
from replay.units import EEXIST, EINVAL, PAGE_SHIFT

MEMSLOT_CMDS: Final = frozenset({KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2})
CHAIN_MAX: Final = 3
"""Most calls under way whose order is searched for an explanation of another's result."""
Layout = dict[int, tuple[int, int]]
"""First gfn and the one behind the last, by slot number (id and address space, as in the call)."""


@attrs.define(eq=False)
class OpenCall:
    """A KVM call that was entered and has not returned; entry is None for one that strace does not have.

    adopted: it was under way when the trace began, so far as strace's lines can tell. text: what its pointer points to, where the
    trace says it.
    """

    record: Syscall
    entry: Entry | None
    cmd: int
    vm: int | None
    committed: bool = False
    adopted: bool = False
    text: str = ""


@attrs.frozen
class Region:
    """What a memslot call asks for, in frames, and its recorded result."""

    slot: int
    first: int
    end: int
    ret: int | None

    @property
    def deletes(self) -> bool:
        """Whether it is a deletion."""
        return self.first == self.end


def region(record: Syscall) -> Region | None:
    """Return what a memslot call asks for; None when strace does not show it."""
    args = ioctl_args(record.args)
    fields = None if args is None else region_of(args.arg)
    if fields is None:
        return None
    first = fields["guest_phys_addr"] >> PAGE_SHIFT
    return Region(fields["slot"], first, first + (fields["memory_size"] >> PAGE_SHIFT), record.ret)


def apply(layout: Layout, wanted: Region) -> None:
    """Change a layout as a successful call does."""
    if wanted.deletes:
        layout.pop(wanted.slot, None)
    else:
        layout[wanted.slot] = (wanted.first, wanted.end)


def agrees(layout: Layout, wanted: Region) -> bool:
    """Say whether a call's recorded result is one that this layout gives, as far as the layout decides it.

    Source: virt/kvm/kvm_main.c __kvm_set_memory_region(), kvm_check_memslot_overlap().
    """
    old = layout.get(wanted.slot)
    if wanted.deletes:
        return wanted.ret not in {0, -EINVAL} or (old is not None) == (wanted.ret == 0)
    as_id = wanted.slot >> 16
    overlaps = any(
        slot != wanted.slot and slot >> 16 == as_id and first < wanted.end and wanted.first < end
        for slot, (first, end) in layout.items()
    )
    if wanted.ret == 0:
        return not overlaps and (old is None or old[1] - old[0] == wanted.end - wanted.first)
    return wanted.ret != -EEXIST or overlaps


@attrs.define
class MemslotPlaces:
    """The slots of each VM as the calls made them, and the memslot calls under way."""

    layouts: dict[int, Layout] = attrs.field(factory=dict)
    under_way: dict[int, list[OpenCall]] = attrs.field(factory=dict)

    def opened(self, call: OpenCall) -> bool:
        """Take the entry of a call; True when it is a memslot call of a VM, that has to be watched from here on."""
        if call.vm is None or call.entry is None or call.cmd not in MEMSLOT_CMDS:
            return False
        self.under_way.setdefault(call.vm, []).append(call)
        return True

    def closed(self, call: OpenCall) -> bool:
        """Take the exit of a call; True when no more memslot calls of its VM are under way."""
        calls = self.under_way.get(call.vm, []) if call.vm is not None else []
        if call not in calls:
            return False
        calls.remove(call)
        return not calls

    def happened(self, event: MemslotSet) -> None:
        """Note a memslot event that is written now."""
        if event.ret != 0 or event.fault:
            return
        first = event.guest_phys_addr >> PAGE_SHIFT
        wanted = Region(event.slot, first, first + (event.memory_size >> PAGE_SHIFT), 0)
        apply(self.layouts.setdefault(event.vm, {}), wanted)

    def others(self, vm: int | None, call: OpenCall | None = None) -> list[OpenCall]:
        """List the memslot calls of a VM that are under way and not committed, except one."""
        return [
            other for other in self.under_way.get(vm if vm is not None else -1, []) if other is not call and not other.committed
        ]

    def used(self, vm: int, gfn: int) -> OpenCall | None:
        """Return the call under way that must be committed by now, because a page in its slot is used; None mostly."""
        if any(first <= gfn < end for first, end in self.layouts.get(vm, {}).values()):
            return None
        for other in self.others(vm):
            wanted = region(other.record)
            if wanted is not None and wanted.ret == 0 and wanted.first <= gfn < wanted.end:
                return other
        return None

    def first_before(self, call: OpenCall) -> OpenCall | None:
        """Return the call under way that has to be committed before this one; None when none has to.

        Either its commit explains this one's result, alone or with others after it; or it failed, and after this one it
        could not have. Ask again after each. One that succeeded is never taken for the second reason: what makes it possible
        may be a call that is entered later.
        """
        others = self.others(call.vm, call)
        wanted = region(call.record) if others else None
        if wanted is None:
            return None
        layout = self.layouts.get(call.vm, {}) if call.vm is not None else {}
        known = [(other, asked) for other in others if (asked := region(other.record)) is not None and asked.ret is not None]
        chain = explaining(layout, wanted, [asked for _, asked in known])
        if chain:
            return next(other for other, asked in known if asked is chain[0])
        after = applied(layout, wanted)
        for other, asked in known:
            rest = [left for _, left in known if left is not asked]
            if asked.ret != 0 and agrees(layout, asked) and explaining(after, asked, rest) is None:
                return other
        return None


def applied(layout: Layout, done: Region) -> Layout:
    """Return the layout after a call."""
    after = dict(layout)
    if done.ret == 0:
        apply(after, done)
    return after


def explaining(layout: Layout, wanted: Region, others: list[Region], depth: int = CHAIN_MAX) -> list[Region] | None:
    """Return the shortest order of other calls after which one's result is possible; [] when it is now, None when none is."""
    if agrees(layout, wanted):
        return []
    best: list[Region] | None = None
    for other in others if depth else ():
        if other.ret != 0 or not agrees(layout, other):
            continue
        rest = [left for left in others if left is not other]
        chain = explaining(applied(layout, other), wanted, rest, depth - 1)
        if chain is not None and (best is None or len(chain) + 1 < len(best)):
            best = [other, *chain]
    return best
