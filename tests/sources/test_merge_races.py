"""Promises of the merge on races: a small kernel makes runs with many threads, and every one of them must come out possible."""

from pathlib import Path

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_texts import Enter, Exit, Item, Page, memslot, merged, run, threads, vm

from replay.events import HotEvent, MemslotSet, ShadowPageAccount

TIDS = (100, 101, 102, 103)
RANGES = {1: range(0x1000, 0x1008), 2: range(0x1004, 0x100C), 3: range(0x2000, 0x2008), 4: range(0x2008, 0x2010)}
"""Slots that the threads create and delete; 1 and 2 overlap."""
RIVALS = {1: {1, 2}, 2: {1, 2}, 3: {3}, 4: {4}}


@attrs.define
class Call:
    """A memslot call under way; ret None: not committed yet."""

    slot: int
    create: bool
    ret: int | None = None


@attrs.define
class SmallKernel:
    """Runs threads in the order of choices: slots commit between entry and exit, pages live in slots."""

    items: list[Item] = attrs.field(factory=list)
    slots: set[int] = attrs.field(factory=set)
    pages: list[int] = attrs.field(factory=list)
    calls: dict[int, Call | None] = attrs.field(factory=dict)

    def step(self, tid: int, choice: int) -> None:
        """Let a thread do one thing."""
        if tid not in self.calls:
            self._begin(tid, choice)
            return
        call = self.calls[tid]
        if call is None:
            self._in_run(tid, choice)
        elif call.ret is None:
            call.ret = self._commit(tid, call)
        else:
            self.items.append(Exit(tid, call.ret))
            del self.calls[tid]

    def _begin(self, tid: int, choice: int) -> None:
        if choice % 3 == 0:
            self.calls[tid] = None
            self.items.append(run(tid, 5))
            return
        slot, create = 1 + choice // 3 % 4, choice % 3 == 1
        if any(call is not None and call.slot in RIVALS[slot] for call in self.calls.values()):
            return  # calls on one slot at once can be told apart by nothing when several orders are possible
        self.calls[tid] = Call(slot, create)
        gfns = RANGES[slot]
        self.items.append(memslot(tid, 4, slot, gfns.start, len(gfns) if create else 0))

    def _in_run(self, tid: int, choice: int) -> None:
        gfns = [gfn for slot in sorted(self.slots) for gfn in RANGES[slot]]
        if choice % 3 == 0 and gfns:
            gfn = gfns[choice // 3 % len(gfns)]
            self.pages.append(gfn)
            self.items.append(Page(tid, made=True, gfn=gfn))
        elif choice % 3 == 1 and self.pages:
            self.items.append(Page(tid, made=False, gfn=self.pages.pop(choice // 3 % len(self.pages))))
        else:
            self.items.append(Exit(tid, -4))
            del self.calls[tid]

    def _commit(self, tid: int, call: Call) -> int:
        gfns = RANGES[call.slot]
        if call.create:
            taken = any(set(RANGES[slot]) & set(gfns) for slot in self.slots - {call.slot})
            if not taken:
                self.slots.add(call.slot)
            return -17 if taken else 0
        if call.slot not in self.slots:
            return -22
        for gfn in [page for page in self.pages if page in gfns]:
            self.pages.remove(gfn)
            self.items.append(Page(tid, made=False, gfn=gfn))
        self.slots.remove(call.slot)
        return 0

    def finish(self) -> None:
        """Let every call return."""
        while self.calls:
            for tid in sorted(self.calls):
                self.step(tid, 2)


def impossible(events: list[object]) -> list[str]:
    """Say what could not have been in this order: results, pages without a slot, counters below zero."""
    slots: set[int] = {0}
    counts: dict[int, int] = {}
    wrong = []
    for event in events:
        if isinstance(event, MemslotSet) and event.slot:
            taken = any(set(RANGES[slot]) & set(RANGES[event.slot]) for slot in slots - {0, event.slot})
            there = 0 if event.slot in slots else -22
            expected = there if not event.memory_size else -17 if taken else 0
            if event.ret != expected:
                wrong.append(f"slot {event.slot} size {event.memory_size}: {event.ret} instead of {expected}")
            if event.ret == 0:
                (slots.add if event.memory_size else slots.discard)(event.slot)
        elif isinstance(event, HotEvent):
            counts[event.gfn] = counts.get(event.gfn, 0) + (1 if isinstance(event, ShadowPageAccount) else -1)
            if counts[event.gfn] < 0 or not any(event.gfn in RANGES[slot] for slot in slots - {0}):
                wrong.append(f"{event.KIND} {event.gfn:x} {counts[event.gfn]}")
    return wrong


class TestRaces:
    """Threads that race on one VM's slots."""

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.sampled_from(TIDS), st.integers(0, 47)), max_size=60))
    def test_every_order_is_possible(self, tmp_path: Path, choices: list[tuple[int, int]]) -> None:
        """Whatever the threads do, the events come in an order in which each had the result that it had."""
        kernel = SmallKernel([*vm(100, 4, vcpu_fd=5, npages=16), *threads(100, *TIDS[1:])])
        for tid, choice in choices:
            kernel.step(tid, choice)
        kernel.finish()
        result = merged(tmp_path, kernel.items)
        calls = sum(isinstance(item, Enter) and item.fd == 4 and "slot=" in item.arg for item in kernel.items)
        assert sum(isinstance(event, MemslotSet) for event in result.events) == calls
        assert sum(isinstance(event, HotEvent) for event in result.events) == sum(isinstance(i, Page) for i in kernel.items)
        assert impossible(list(result.events)) == []
