"""Make concurrent histories with known results, and try all their orders by brute force, for tests of the search for an order.

A history is made by committing calls one after the other in the model, and giving each a random time span around its commit. The
brute force knows nothing of the search: it goes through all permutations, and replays each from the beginning.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import attrs
from comparisons import thread
from lane_samples import CREATE, P, lane, machine

from replay.engine.lane import results_agree
from replay.events import DirtyLogGet, Event, MemslotSet, NotifierRegister, NotifierUnregister
from replay.events.base import VmCall
from replay.header import Header
from replay.kvm.machine import Outcome
from replay.kvm.state import structure_of
from replay.runs import items_of
from replay.stream import MemoryStream
from replay.units import EEXIST, EINVAL, ENOENT, Gpa, Hva

RELEASE = "6.12.117"
BASES = (0, 0, 2, 4, 8)
Deeds = tuple[Any, ...]


def call_of(rng: random.Random) -> VmCall:
    """Draw a call that other calls can get in the way of."""
    kind = rng.randrange(10)
    if kind == 0:
        return NotifierRegister(vm=0, node=rng.randrange(2))
    if kind == 1:
        return NotifierUnregister(vm=0, node=rng.randrange(2))
    if kind == 2:
        return DirtyLogGet(vm=0, slot=rng.randrange(3))
    slot = rng.randrange(3)
    size = 0 if kind < 5 else 4 * P
    return MemslotSet(
        vm=0,
        slot=slot,
        flags=rng.randrange(2) if size else 0,
        guest_phys_addr=Gpa(rng.choice(BASES) * P),
        memory_size=size,
        userspace_addr=Hva(0x7F00_0000_0000 + (slot << 32)),
    )


def history(rng: random.Random, calls: int, threads: int) -> list[VmCall]:
    """Return calls in recorded order, with times and the results that they had in the order in which they were committed."""
    one = lane(RELEASE, machine(RELEASE))
    one.step(CREATE, 0)
    done: list[VmCall] = []
    tids = [rng.randrange(threads) for _ in range(calls)]
    for number, tid in enumerate(tids):
        call = call_of(rng)
        outcome = one.step(call, number + 1)
        assert outcome is not None
        done.append(attrs.evolve(call, ret=outcome.ret, task=thread(tid)))
    spans = spans_of(rng, tids)
    timed = [attrs.evolve(call, enter_time_ns=enter, time_ns=leave) for call, (enter, leave) in zip(done, spans, strict=True)]
    return shuffled(rng, timed)


def spans_of(rng: random.Random, tids: Sequence[int]) -> list[tuple[int, int]]:
    """Return a time span for each commit: the nth is at n thousand, and the calls of a thread follow one another."""
    reach = rng.choice((600, 2500, 6000))
    commits = [1000 * (place + 1) for place in range(len(tids))]
    spans = []
    for place, tid in enumerate(tids):
        before = [commits[other] for other in range(place) if tids[other] == tid]
        behind = [commits[other] for other in range(place + 1, len(tids)) if tids[other] == tid]
        middle = (before[-1] + commits[place]) // 2 + 1 if before else 0
        end = (commits[place] + behind[0]) // 2 if behind else 10_000_000
        enter = max(middle, commits[place] - rng.randrange(1, reach))
        leave = min(end, commits[place] + rng.randrange(1, reach))
        spans.append((enter, leave))
    return spans


def apart(first: VmCall, second: VmCall) -> bool:
    """Tell whether two calls have an order: one thread, or one returned before the other was entered."""
    assert first.task is not None
    assert second.task is not None
    assert first.time_ns is not None
    assert second.time_ns is not None
    assert first.enter_time_ns is not None
    assert second.enter_time_ns is not None
    same = first.task.tid == second.task.tid
    return same or first.time_ns <= second.enter_time_ns or second.time_ns <= first.enter_time_ns


def shuffled(rng: random.Random, committed: Sequence[VmCall]) -> list[VmCall]:
    """Return the calls in some order that the recorder may have written them in."""
    left, order = list(committed), list[VmCall]()
    while left:
        ready = [call for place, call in enumerate(left) if not any(apart(before, call) for before in left[:place])]
        order.append(rng.choice(ready))
        left.remove(order[-1])
    return order


def spoiled(rng: random.Random, calls: Sequence[VmCall]) -> list[VmCall]:
    """Return the calls with another result of one of them."""
    place = rng.randrange(len(calls))
    results = [ret for ret in (0, -EINVAL, -EEXIST, -ENOENT) if ret != calls[place].ret]
    return [attrs.evolve(call, ret=rng.choice(results)) if n == place else call for n, call in enumerate(calls)]


def stream_of(calls: Sequence[Event]) -> MemoryStream:
    """Return a recording of the calls behind the creation of their VM."""
    return MemoryStream(Header(machine=machine(RELEASE)), items_of([CREATE, *calls]))


def admissible(calls: Sequence[VmCall]) -> Iterator[tuple[int, ...]]:
    """Yield every order of the calls that time and threads allow, as indexes."""
    fixed = [(a, b) for b in range(len(calls)) for a in range(b) if apart(calls[a], calls[b])]
    for order in permutations(range(len(calls))):
        place = {call: at for at, call in enumerate(order)}
        if all(place[a] < place[b] for a, b in fixed):
            yield order


def deed(outcome: Outcome | None) -> Deeds:
    """Return what a call did."""
    assert outcome is not None
    taken = sorted((made.site, made.slot_id, made.cost.nominal_bytes) for made in outcome.taken)
    return (outcome.ret, outcome.change, outcome.why, taken, sorted((gone.array, gone.slot_id) for gone in outcome.freed))


@attrs.frozen
class Truth:
    """What brute force says: the orders that fit, what the calls did in each, and what each led to."""

    orders: tuple[tuple[int, ...], ...]
    deeds: tuple[tuple[Deeds, ...], ...]
    ends: tuple[Any, ...]

    @property
    def matters(self) -> bool:
        """Whether the orders that fit differ in anything."""
        return any(one != self.deeds[0] for one in self.deeds) or any(end != self.ends[0] for end in self.ends)


def truth(calls: Sequence[VmCall], specs: Sequence[str] = (RELEASE,)) -> Truth:
    """Replay every admissible order from the beginning; the first lane is the recorded kernel's."""
    orders, deeds, ends = [], [], []
    for order in admissible(calls):
        lanes = [lane(spec, machine(RELEASE)) for spec in specs]
        did: dict[int, Deeds] = {}
        for one in lanes:
            one.step(CREATE, 0)
        for call in order:
            outcomes = [one.step(calls[call], call + 1) for one in lanes]
            did[call] = tuple(deed(outcome) for outcome in outcomes)
            if not _agrees(calls[call], outcomes[0]):
                break
        else:
            orders.append(order)
            deeds.append(tuple(did[call] for call in range(len(calls))))
            ends.append([_end(one.machine) for one in lanes])
    return Truth(tuple(orders), tuple(deeds), tuple(ends))


def _agrees(call: VmCall, outcome: Outcome | None) -> bool:
    assert outcome is not None
    return call.ret is None or outcome.ret is None or results_agree(call.ret, outcome.ret)


def _end(one: Any) -> Any:
    spaces = [[space.inactive_order() for space in vm.spaces] for vm in one.live_vms()]
    return [structure_of(one), [sorted(vm.nodes) for vm in one.live_vms()], [vm.users_count for vm in one.live_vms()], spaces]
