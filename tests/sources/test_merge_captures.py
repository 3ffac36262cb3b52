"""Promises of the merge on excerpts of real recordings: the counts of the run, and never a counter below zero."""

from collections import Counter
from pathlib import Path

import attrs
import pytest

from replay.events import (
    Event,
    HotEvent,
    MemslotSet,
    ShadowPageAccount,
    ShadowPageUnaccount,
    ShadowRootAlloc,
    VmCall,
    VmDestroy,
)
from replay.runs import events_of
from replay.sources import open_stream

DATA = Path(__file__).parent.parent / "data" / "tracefs"


@attrs.define
class Layout:
    """A plain re-count of a stream: slots by VM, pages by VM and gfn, and what does not fit."""

    slots: dict[int, dict[int, range]] = attrs.field(factory=dict)
    counts: Counter[tuple[int, int]] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)

    def take(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, MemslotSet) and event.ret == 0:
            self._slot(event)
        elif isinstance(event, ShadowPageAccount | ShadowPageUnaccount):
            self._page(event)
        elif isinstance(event, VmDestroy):
            self.slots.pop(event.vm, None)

    def _slot(self, event: MemslotSet) -> None:
        slots = self.slots.setdefault(event.vm, {})
        old = slots.pop(event.slot, None)
        if event.memory_size == 0:
            if old is None:
                self.wrong.append(f"delete of nothing: {event}")
            return
        new = range(event.guest_phys_addr >> 12, (event.guest_phys_addr + event.memory_size) >> 12)
        if any(other.start < new.stop and new.start < other.stop for other in slots.values()):
            self.wrong.append(f"overlap: {event}")
        slots[event.slot] = new

    def _page(self, event: ShadowPageAccount | ShadowPageUnaccount) -> None:
        key = (event.vm, event.gfn)
        self.counts[key] += 1 if isinstance(event, ShadowPageAccount) else -1
        if self.counts[key] < 0:
            self.wrong.append(f"below zero: {event}")
        if not any(event.gfn in slot for slot in self.slots.get(event.vm, {}).values()):
            self.wrong.append(f"no slot: {event}")


EXPECTED = {
    "fd-dup": {"vm.create": 1, "memslot.set": 4, "vm.destroy": 1},
    "fd-reuse": {"vm.create": 2, "memslot.set": 2, "vm.destroy": 2},
    "fd-scm": {"vm.create": 1, "memslot.set": 3, "vm.destroy": 1},
    "fd-sigkill": {"vm.create": 1, "memslot.set": 3, "vm.destroy": 1},
    "fd-threads": {"vm.create": 1, "memslot.set": 85},
    "lm-mode3": {
        "vm.create": 1,
        "memslot.set": 1,
        "vcpu.create": 1,
        "shadow_root.alloc": 1,
        "shadow_page.account": 1,
        "shadow_page.unaccount": 1,
        "vm.destroy": 1,
    },
    "pd-delete": {
        "vm.create": 1,
        "memslot.set": 16,
        "vcpu.create": 1,
        "shadow_root.alloc": 1,
        "shadow_page.account": 68,
        "shadow_page.unaccount": 64,
    },
    "runsc-echo": {
        "vm.create": 1,
        "memslot.set": 6,
        "tss.set": 1,
        "vcpu.create": 6,
        "shadow_root.alloc": 1,
        "shadow_page.account": 1,
        "shadow_page.unaccount": 1,
        "vm.destroy": 1,
    },
    "two-shadow-vms": {
        "vm.create": 2,
        "memslot.set": 12,
        "vcpu.create": 2,
        "shadow_root.alloc": 2,
        "shadow_page.account": 30,
        "shadow_page.unaccount": 12,
    },
    "um-mode1": {
        "vm.create": 1,
        "memslot.set": 1,
        "vcpu.create": 1,
        "shadow_root.alloc": 1,
        "shadow_page.account": 13,
        "shadow_page.unaccount": 13,
        "vm.destroy": 1,
    },
}


def calls(paths: list[str]) -> dict[int, list[Event]]:
    """Return the events of calls and lives by thread, without times and places."""
    found: dict[int, list[Event]] = {}
    for event in events_of(open_stream(paths).items()):
        if event.task is not None and not isinstance(event, HotEvent | ShadowRootAlloc):
            bare = attrs.evolve(event, time_ns=None, source=None)
            found.setdefault(event.task.tid, []).append(
                attrs.evolve(bare, enter_time_ns=None) if isinstance(bare, VmCall) else bare
            )
    return found


class TestCaptures:
    """Real runs, recorded by strace and tracefs at once."""

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_counts(self, name: str) -> None:
        """Each run has its number of events, every page hits a live slot, no counter goes below zero, nothing is lost."""
        stream = open_stream([str(DATA / f"{name}.strace.txt"), str(DATA / f"{name}.ftrace.txt")])
        layout = Layout()
        events = list(events_of(stream.items()))
        for event in events:
            layout.take(event)
        assert layout.wrong == []
        assert Counter(event.KIND for event in events) == EXPECTED[name]
        trailer = stream.trailer()
        assert [counter for counter in trailer.counters if counter.severity != "ignored"] == []
        assert trailer.events == len(events)
        assert stream.warnings() == ()
        assert stream.header.clock == "realtime"

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_either_order(self, name: str) -> None:
        """The two files may be named in either order."""
        paths = [str(DATA / f"{name}.{kind}.txt") for kind in ("strace", "ftrace")]
        one, other = open_stream(paths), open_stream(paths[::-1])
        assert one.header == other.header
        assert list(events_of(one.items())) == list(events_of(other.items()))

    @pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"fd-threads"}))  # that one is cut inside of calls
    def test_same_calls_as_strace(self, name: str) -> None:
        """Each thread's calls are those of the strace recording alone, one by one; only times and places differ."""
        strace = str(DATA / f"{name}.strace.txt")
        alone, both = calls([strace]), calls([strace, str(DATA / f"{name}.ftrace.txt")])
        assert both == alone
        assert sum(map(len, both.values())) > 0

    @pytest.mark.parametrize("name", sorted(EXPECTED))
    def test_alone(self, name: str) -> None:
        """Without strace the same VMs and pages come out, and the memslot calls as opaque."""
        events = list(events_of(open_stream([str(DATA / f"{name}.ftrace.txt")]).items()))
        found = Counter(event.KIND for event in events)
        for kind in ("vm.create", "vcpu.create", "shadow_root.alloc", "shadow_page.account", "shadow_page.unaccount"):
            assert found[kind] == EXPECTED[name].get(kind, 0)
        assert found["opaque"] == EXPECTED[name]["memslot.set"]

    def test_two_vms_apart(self) -> None:
        """Two VMs with the same gfns keep their pages apart, by both recordings and by tracefs alone."""
        for kinds in (("strace", "ftrace"), ("ftrace",)):
            stream = open_stream([str(DATA / f"two-shadow-vms.{kind}.txt") for kind in kinds])
            pages = [event for event in events_of(stream.items()) if isinstance(event, ShadowPageAccount | ShadowPageUnaccount)]
            assert Counter((page.vm, page.task and page.task.tid) for page in pages) == {(0, 2048): 27, (1, 2047): 15}
