"""Make the request of a memslot call once for all lanes, and for all calls that say the same.

VMMs ask for the same slots again and again. What a request says does not depend on the VM, nor does which check of its arguments
refuses it, once the kernel is known. Source: struct kvm_userspace_memory_region2 [6.12] for what a call says.
"""

from typing import Final

from replay.events import MemslotSet
from replay.kvm.memory_region import Request
from replay.kvm.vm import Vm
from replay.units import ENOMEM

_KNOWN_MOST: Final = 4096


class Requests:
    """The requests of calls that were replayed, by what they say. Source: see the module."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Request] = {}
        self._last: tuple[MemslotSet | None, Request | None] = None, None

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._last = None, None

    def of(self, event: MemslotSet, vm: Vm) -> Request:
        """Return the request of a call as asked of a VM. It is kept; whoever is done with it takes the VM out again."""
        last, request = self._last
        if last is not event or request is None:
            request = self._look_up(event, vm)
            request.newborn = None
            self._last = event, request
        request.vm = vm
        return request

    def _look_up(self, event: MemslotSet, vm: Vm) -> Request:
        key: tuple[int, ...] = (event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.userspace_addr)
        if event.region2 or event.fault or event.foreign_mm or event.guest_memfd_offset:
            unusual = event.region2 | event.fault << 1 | event.foreign_mm << 2
            key = (*key, unusual, event.guest_memfd_offset, _bind_errno(event))
        request = self._known.get(key)
        if request is None:
            if len(self._known) >= _KNOWN_MOST:
                self._known.clear()
            request = self._known[key] = _request_of(event, vm)
        return request


REQUESTS: Final = Requests()
request_of: Final = REQUESTS.of


def _bind_errno(event: MemslotSet) -> int:
    """Return what binding a guest_memfd gave on the recorded kernel; only REGION2 carries one."""
    refused = event.region2 and event.ret is not None and event.ret < 0 and event.ret != -ENOMEM
    return event.ret if refused and event.ret is not None else 0


def _request_of(event: MemslotSet, vm: Vm) -> Request:
    return Request(
        vm,
        event.slot,
        event.flags,
        event.guest_phys_addr,
        event.memory_size,
        event.userspace_addr,
        event.guest_memfd_offset,
        region2=event.region2,
        fault=event.fault,
        foreign_mm=event.foreign_mm,
        bind_errno=_bind_errno(event),
    )
