"""Keep book of what exists: VMs, their slots, vCPUs and guest_memfds, as far as the kernel's own answers tell.

The book decides what is worth asking next and how much memory may still be asked for. It is no model: whether a call
succeeded is what the kernel said.
"""

from typing import Final

import attrs

from replay.events import MemslotSet
from replay.units import PAGE_SHIFT

METADATA_BYTES_MAX: Final = 64 << 20
"""Most kernel memory that the slots of a run may hold at any time, old and new arrays of a MOVE counted both."""
SLOT_PAGES_MAX: Final = (1 << 20) + 1024
"""Largest slot: a little over 4 GiB, whose gfn_write_track needs a page-pointer array of its own."""
SLOTS_MAX: Final = 48
"""Most slots of a VM: enough for every bucket order, few enough for a quick look at /proc/vmallocinfo."""


def metadata_bytes(npages: int) -> int:
    """Return more than the kernel memory that the arrays of one slot can take, whatever kernel and configuration.

    A page costs at most 8 bytes of rmap, 2 of write tracking, a quarter of dirty bitmap and the upper levels' 1/512 of 12
    bytes; page-pointer arrays add 1/512; seven arrays are rounded up to pages, and so are their pointer arrays.
    """
    return 11 * npages + (64 << 10)


@attrs.define
class LiveSlot:
    """A memslot that the kernel said it made."""

    as_id: int
    id: int
    base_gfn: int
    npages: int
    flags: int
    userspace_addr: int

    @property
    def slot(self) -> int:
        """The slot field of a request for it."""
        return self.as_id << 16 | self.id


@attrs.define
class LiveVm:
    """A VM of the run. fd is None once it was closed: then vCPUs or guest_memfds keep the VM alive."""

    number: int
    fd: int | None
    nas: int
    slots: dict[int, LiveSlot] = attrs.field(factory=dict)
    vcpus: list[int] = attrs.field(factory=list)
    guest_memfds: list[int] = attrs.field(factory=list)

    def handles(self) -> list[int]:
        """List the descriptors that keep the VM alive."""
        return [*([] if self.fd is None else [self.fd]), *self.vcpus, *self.guest_memfds]

    def drop(self, fd: int) -> None:
        """Forget a descriptor that was closed."""
        if fd == self.fd:
            self.fd = None
        for held in (self.vcpus, self.guest_memfds):
            if fd in held:
                held.remove(fd)

    def note(self, event: MemslotSet) -> None:
        """Write down a memslot request that succeeded."""
        if not event.memory_size:
            self.slots.pop(event.slot, None)
            return
        self.slots[event.slot] = LiveSlot(
            event.slot >> 16,
            event.slot & 0xFFFF,
            event.guest_phys_addr >> PAGE_SHIFT,
            event.memory_size >> PAGE_SHIFT,
            event.flags,
            event.userspace_addr,
        )

    def held_bytes(self) -> int:
        """Return an upper bound of the kernel memory that its slots hold."""
        return sum(metadata_bytes(slot.npages) for slot in self.slots.values())


def affordable(event: MemslotSet, vm: LiveVm, held_bytes: int) -> bool:
    """Tell whether a request is harmless, even to a kernel that lets pass what it should refuse.

    held_bytes: what all slots of all VMs hold already. A request may name more pages than SLOT_PAGES_MAX only for a slot that
    is there with fewer: no check at all would have to fail before memory is taken, since a live slot can not be resized.
    """
    npages = event.memory_size >> PAGE_SHIFT
    old = vm.slots.get(event.slot)
    if npages > SLOT_PAGES_MAX:
        return old is not None
    if old is None and npages and len(vm.slots) >= SLOTS_MAX:
        return False
    return held_bytes + metadata_bytes(npages) <= METADATA_BYTES_MAX
