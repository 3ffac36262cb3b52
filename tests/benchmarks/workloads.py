"""Draw the recordings that the benchmarks replay: seeded, of any length, with lifetimes, skew and mistakes like real ones.

A profile says how many hot events come between two structural ones, and how the guest's memory is used. Four VMs with two
address spaces each; two of them are tracked by an external user, two by shadow pages. 37 % guest writes, 32 % adds, 31 %
removes; 1.2 % of the events lie in no memslot, 0.4 % of the removes have no add.
"""

from collections.abc import Iterator
from typing import Any, Final

import attrs
import numpy as np

from replay.events import MemslotSet, NotifierRegister, ShadowRootAlloc, Task, VmCreate
from replay.runs import ACCOUNT, ADD, GUEST_WRITE, REMOVE, UNACCOUNT, Constant, Item, Run
from replay.units import Gpa, Hva

VMS: Final = 4
SIZES: Final = ((1 << 20, 1 << 18, 1 << 16, 4096, 512, 160, 64, 16), (1 << 18, 1024, 64))
"""Pages of the memslots of address space 0 and 1; there is a hole of one page behind each."""
LARGE: Final = ((1 << 27, 1 << 27), (1 << 27,))


@attrs.frozen
class Profile:
    """One kind of recording. skew: 1 touches memory evenly, more means that few pages get most events.

    registered: VMs whose external user is registered; the others' lanes part when adds come without it.
    level: of the shadow pages.
    """

    name: str
    events: int
    run_events: int = 5000
    sizes: tuple[tuple[int, ...], ...] = SIZES
    skew: float = 4.0
    registered: tuple[int, ...] = (0, 1)
    level: int = 2
    seed: int = 1


class Workload:
    """The items of one profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._rng = np.random.default_rng(profile.seed)
        self._slots = [
            (vm, as_id, slot) for vm in range(VMS) for as_id, sizes in enumerate(profile.sizes) for slot in range(len(sizes))
        ]
        self._bases = [list(np.cumsum([0, *(size + 1 for size in sizes)])[:-1]) for sizes in profile.sizes]
        self._pool = np.empty((0, 3), np.int64)  # vm, address space, gfn of what is tracked
        self._now_ns = 0
        self._gone: tuple[int, int, int] | None = None

    def items(self) -> Iterator[Item]:
        """Yield all items; the same profile gives the same items."""
        yield from self._start()
        done, turn = 0, 0
        while done < self.profile.events:
            count = min(self.profile.run_events, self.profile.events - done)
            for first in range(0, count, 16384):
                yield self._run(min(16384, count - first))
            done, turn = done + count, turn + 1
            yield self._structural(turn)

    def _start(self) -> Iterator[Item]:
        for vm in range(VMS):
            yield VmCreate(vm=vm, ret=0)
        for vm, as_id, slot in self._slots:
            yield self._memslot(vm, as_id, slot)
        yield from (NotifierRegister(vm=vm, node=0) for vm in self.profile.registered)
        yield from (ShadowRootAlloc(vm=vm, ret=0) for vm in (2, 3))

    def _memslot(self, vm: int, as_id: int, slot: int, *, flags: int = 0, delete: bool = False) -> MemslotSet:
        return MemslotSet(
            vm=vm,
            slot=as_id << 16 | slot,
            flags=flags,
            guest_phys_addr=Gpa(int(self._bases[as_id][slot]) << 12),
            memory_size=0 if delete else self.profile.sizes[as_id][slot] << 12,
            userspace_addr=Hva(0x100000000000 + (slot << 40)),
            ret=0,
        )

    def _structural(self, turn: int) -> Item:
        """Delete a small memslot and make it again, or toggle dirty logging of one."""
        if self._gone is not None:
            back, self._gone = self._gone, None
            return self._memslot(*back)
        vm, as_id = turn % VMS, turn // VMS % 2
        slot = len(self.profile.sizes[as_id]) - 1
        if self.profile.sizes[as_id][slot] > 4096 or turn % 3:
            return self._memslot(vm, as_id, slot, flags=turn // 8 % 2)
        self._gone = (vm, as_id, slot)
        base, pages = self._bases[as_id][slot], self.profile.sizes[as_id][slot]
        inside = (
            (self._pool[:, 0] == vm)
            & (self._pool[:, 1] == as_id)
            & (self._pool[:, 2] >= base)
            & (self._pool[:, 2] < base + pages)
        )
        self._pool = self._pool[~inside]
        return self._memslot(vm, as_id, slot, delete=True)

    def _places(self, count: int) -> Any:
        """Draw (vm, address space, gfn) of pages, some of them in holes."""
        rng = self._rng
        chosen = np.array(self._slots)[(len(self._slots) * rng.random(count) ** 1.5).astype(np.int64)]
        chosen[chosen[:, 0] < 2, 1] = 0  # external users know address space 0 only
        slots = chosen[:, 2] % np.array([len(sizes) for sizes in self.profile.sizes])[chosen[:, 1]]
        width = max(map(len, self.profile.sizes))
        pages = np.array([[*sizes, *[1] * (width - len(sizes))] for sizes in self.profile.sizes])[chosen[:, 1], slots]
        bases = np.array([[*base, *[0] * (width - len(base))] for base in self._bases])[chosen[:, 1], slots]
        inside = (pages * rng.random(count) ** self.profile.skew).astype(np.int64)
        inside[rng.random(count) < 0.012] = -1
        gfns = np.where(inside < 0, bases + pages, bases + inside)
        return np.stack([chosen[:, 0], chosen[:, 1], gfns], axis=1)

    def _run(self, count: int) -> Run:
        rng = self._rng
        adds, removes = int(0.32 * count), min(int(0.31 * count), len(self._pool))
        places, step = np.empty((count, 3), np.int64), np.zeros(count, np.int64)
        order = rng.permutation(count)
        new = self._places(adds)
        at = rng.permutation(len(self._pool))
        recent = rng.random(len(at)) < 0.5
        at = np.concatenate([at[recent & (at >= len(at) - 4 * adds)], at[~(recent & (at >= len(at) - 4 * adds))]])[:removes]
        old = self._pool[at]
        keep = np.ones(len(self._pool), bool)
        keep[at] = False
        self._pool = np.concatenate([self._pool[keep], new])[-2_000_000:]
        wrong = rng.random(removes) < 0.004
        old[wrong] = self._places(int(wrong.sum()))
        writes = self._places(count - adds - removes)
        if len(self._pool):
            known = rng.random(len(writes)) < 0.8
            writes[known] = self._pool[(len(self._pool) * rng.random(int(known.sum()))).astype(np.int64)]
        places[order[:adds]], step[order[:adds]] = new, 1
        places[order[adds : adds + removes]], step[order[adds : adds + removes]] = old, -1
        places[order[adds + removes :]] = writes
        return self._as_run(places, step)

    def _as_run(self, places: Any, step: Any) -> Run:
        count, external = len(step), places[:, 0] < 2
        kind = np.where(
            step == 0, GUEST_WRITE, np.where(step > 0, np.where(external, ADD, ACCOUNT), np.where(external, REMOVE, UNACCOUNT))
        )
        self._now_ns += int(self._rng.integers(1, 9000))
        times = self._now_ns + np.cumsum(self._rng.integers(50, 9000, count))
        self._now_ns = int(times[-1])
        return Run(
            kind=kind.astype(np.uint8).data,
            vm=memoryview(places[:, 0].astype(np.uint8)),
            as_id=memoryview(places[:, 1].astype(np.uint8)),
            gfn=memoryview(places[:, 2].astype(np.uint32)),
            level=np.where(kind >= ACCOUNT, self.profile.level, 0).astype(np.uint8).data,
            nested=(kind >= ACCOUNT).astype(np.uint8).data,
            ret=Constant(None, count),
            task=memoryview(places[:, 0].astype(np.uint8) * 0),
            tasks=(Task(1, 1),),
            time_ns=times.tolist(),
            file=Constant(None, count),
            line=Constant(None, count),
            inferred=Constant(0, count),
        )
