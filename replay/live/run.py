"""Run seeded operations on a kernel, one at a time, and yield what was asked and answered as events.

Nothing runs in parallel and no vCPU enters a guest: every call is an ordinary ioctl that any VMM could make.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

import attrs

from replay.events import Event, GuestMemfdCreate, MemslotSet, Observe, VcpuCreate, VmCreate, VmDestroy
from replay.events.base import VmCall
from replay.header import Header, Trailer
from replay.live.book import SLOT_PAGES_MAX, LiveVm, affordable
from replay.live.calls import other_call
from replay.live.device import Device
from replay.live.dice import Dice
from replay.live.memslots import memslot_request
from replay.live.uapi import CAP_MULTI_ADDRESS_SPACE, Bitmap, encode
from replay.sources.ioctls import KVM_CHECK_EXTENSION, KVM_CREATE_VM
from replay.sources.vmallocinfo import Areas, changed_areas
from replay.units import U16_MAX

_TYPES: Final = ((30, 0), (1, 1), (1, 31), (1, 1000))
"""Weight and VM type: default, SW_PROTECTED where the kernel has it, and types that there are not."""


class LiveRun:
    """A stream of events that happen while it is read; see `replay.stream.Stream`.

    Closing the generator that `items()` returns closes every descriptor, so that no VM outlives it.
    """

    def __init__(self, device: Device, header: Header, *, seed: int, operations: int, vms_max: int = 2) -> None:
        self._header = header
        self._device = device
        self._dice = Dice(seed)
        self._operations = operations
        self._vms_max = vms_max
        self._bitmap = Bitmap(SLOT_PAGES_MAX)
        self._vms: list[LiveVm] = []
        self._made = 0
        self._areas: Areas | None = None
        self.stop: Callable[[], bool] = lambda: False
        """Asked before each operation whether it is enough."""
        self.operations = 0
        """Operations begun so far; one is a call, or the closing of a descriptor."""

    @property
    def header(self) -> Header:
        """What is known of this machine."""
        return self._header

    def items(self) -> Generator[Event, None, None]:
        """Perform the operations and yield each with what it changed in /proc/vmallocinfo; at the end close every VM."""
        self._areas = self._device.areas()
        try:
            # The vocabulary numbers VMs with 16 bits.
            while self.operations < self._operations and self._made < U16_MAX and not self.stop():
                yield from self._operation()
            for vm in list(self._vms):
                for fd in vm.handles():
                    yield from self._close(vm, fd)
        finally:
            for fd in [fd for vm in self._vms for fd in vm.handles()]:
                self._device.close(fd)
            self._vms = []

    def trailer(self) -> Trailer:
        """Return an empty trailer: nothing was lost."""
        return Trailer()

    def warnings(self) -> Sequence[str]:
        """Return no warnings."""
        return ()

    def _operation(self) -> Iterator[Event]:
        dice = self._dice
        usable = [vm for vm in self._vms if vm.fd is not None]
        if len(self._vms) < self._vms_max and (not usable or dice.chance(5)):
            self.operations += 1
            yield from self._create_vm()
            return
        if not usable or dice.chance(2):
            vm = dice.pick(self._vms)
            self.operations += 1
            yield from self._close(vm, dice.pick(vm.handles()))
            return
        vm = dice.pick(usable)
        call: VmCall | None = memslot_request(dice, vm) if dice.chance(72) else other_call(dice, vm)
        if isinstance(call, MemslotSet) and not affordable(call, vm, sum(other.held_bytes() for other in self._vms)):
            call = None
        if call is not None:
            self.operations += 1
            yield from self._call(vm, call)

    def _call(self, vm: LiveVm, call: VmCall) -> Iterator[Event]:
        assert vm.fd is not None
        foreign = self._dice.chance(2)
        perform = self._device.child_ioctl if foreign else self._device.ioctl
        ret = perform(vm.fd, *encode(call, self._bitmap))
        if isinstance(call, MemslotSet) and ret == 0:
            vm.note(call)
        if not foreign and ret >= 0:
            if isinstance(call, VcpuCreate):
                vm.vcpus.append(ret)
            elif isinstance(call, GuestMemfdCreate):
                vm.guest_memfds.append(ret)
        yield from self._done(attrs.evolve(call, ret=ret, foreign_mm=foreign))

    def _create_vm(self) -> Iterator[Event]:
        kind = self._dice.weighted(_TYPES)
        fd = self._device.ioctl(-1, KVM_CREATE_VM, kind)
        number = self._made
        self._made += 1
        if fd >= 0:
            # 0 where the kernel has one address space and says nothing of it: virt/kvm/kvm_main.c.
            nas = max(1, self._device.ioctl(fd, KVM_CHECK_EXTENSION, CAP_MULTI_ADDRESS_SPACE))
            self._vms.append(LiveVm(number, fd, nas))
        yield from self._done(VmCreate(vm=number, type=kind, ret=fd))

    def _close(self, vm: LiveVm, fd: int) -> Iterator[Event]:
        self._device.close(fd)
        vm.drop(fd)
        if vm.handles():
            yield from self._done()
        else:
            self._vms.remove(vm)
            yield from self._done(VmDestroy(vm=vm.number))

    def _done(self, *events: Event) -> Iterator[Event]:
        yield from events
        now = self._device.areas()
        if now is not None and self._areas is not None:
            changed = changed_areas(self._areas, now)
            self._areas = now
            yield Observe(areas=changed)
