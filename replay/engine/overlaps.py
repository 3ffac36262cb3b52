"""Find calls that overlap in time while a recording streams by: units of calls on one VM whose order is open.

Two calls of different threads overlap when each was entered before the other had returned. A unit ends where every call before
returned before every later one was entered. A call without its times or thread, hot events of the VM and whatever is no call
keep their places: no call is moved past them. Calls on different VMs do not interact, unless a limit of the memory cgroup or an
injection for any VM is shared: then all VMs count as one.
Source: virt/kvm/kvm_main.c kvm_vm_ioctl(), kvm_set_memory_region(): slots_lock of one VM [6.1, 6.12].
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Protocol

import attrs

from replay.engine.explore import Unit
from replay.events import (
    AllocFail,
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    Mark,
    MemoryLimit,
    MemslotSet,
    NotifierRegister,
    NotifierUnregister,
    NrMmuPagesSet,
    ShadowRootAlloc,
    TssSet,
    VcpuCreate,
    VmEnableCap,
)
from replay.events.base import VmCall
from replay.runs import Item, Run

AHEAD: Final = 128
"""Items that are read ahead of the one that is handed on: a call that lasts longer than this many others is met too late."""
HELD_MOST: Final = 4096
"""Most items that are held for one unit."""
ROWS_HELD_MOST: Final = 4 * 16384
"""Most hot events that are held."""
EVERY_VM: Final = -1
"""Key of the calls of all VMs, where they share an allocator's limits."""

_CALLS: Final = frozenset(
    {
        MemslotSet,
        DirtyLogGet,
        DirtyLogClear,
        NotifierRegister,
        NotifierUnregister,
        ShadowRootAlloc,
        TssSet,
        VcpuCreate,
        VmEnableCap,
        IrqchipCreate,
        IdentityMapSet,
        NrMmuPagesSet,
        GuestMemfdCreate,
    }
)
"""Calls whose place is open between entry and exit; those that are not here keep their recorded place."""


@attrs.define(eq=False)
class Span:
    """The time in which a call took effect, and its thread."""

    tid: int
    enter_ns: int
    exit_ns: int


def span_of(event: Event) -> Span | None:
    """Return the time span of a call, None for what keeps its place."""
    times = _times_of(event)
    return None if times is None or event.task is None else Span(event.task.tid, *times)


def _times_of(event: Event) -> tuple[int, int] | None:
    """Return when a call was entered and when it returned, None for what keeps its place."""
    if type(event) not in _CALLS or not isinstance(event, VmCall):
        return None
    enter_ns, exit_ns = event.enter_time_ns, event.time_ns
    if enter_ns is None or exit_ns is None or event.task is None or enter_ns > exit_ns:
        return None
    return enter_ns, exit_ns


class Timed(Protocol):
    """What ran in a thread from one time to another: `Span`, a call of hazards.Recent."""

    tid: int
    enter_ns: int
    exit_ns: int


def overlap(first: Timed, second: Timed) -> bool:
    """Tell whether two calls of different threads were both under way at some moment; touching ends do not count.

    >>> overlap(Span(1, 0, 5), Span(2, 4, 9)), overlap(Span(1, 0, 5), Span(2, 5, 9))
    (True, False)
    """
    return first.tid != second.tid and first.exit_ns > second.enter_ns and second.exit_ns > first.enter_ns


@attrs.define(eq=False)
class Held:
    """An item that is read and not yet handed on. place: its number among items; number: that of its first event.

    vms: those that see it, None for all. times: when a call whose place is open was entered, and when it returned.
    rows: number of hot events.
    """

    place: int
    number: int
    item: Item
    vms: tuple[int, ...] | None
    times: tuple[int, int] | None
    rows: int = 0

    @property
    def span(self) -> Span | None:
        """The same times with the thread."""
        return None if self.times is None or isinstance(self.item, Run) else span_of(self.item)


@attrs.define
class _Stretch:
    """Calls of one VM without anything between them past which a call is not moved."""

    calls: list[tuple[Held, Event, Span]] = attrs.field(factory=list)

    def units(self, reach_ns: int | None, later_ns: int | None) -> Iterator[Unit]:
        """Yield the units. reach_ns: when the last call before returned; later_ns: when the first one behind was entered."""
        latest = list(accumulate((span.exit_ns for _held, _event, span in self.calls), max))
        soonest = list(accumulate((span.enter_ns for _held, _event, span in reversed(self.calls)), min))[::-1]
        first = 0
        for index in range(1, len(self.calls) + 1):
            if index == len(self.calls) or latest[index - 1] <= soonest[index]:
                yield self._unit(first, index, reach_ns, later_ns)
                first = index

    def _unit(self, first: int, end: int, reach_ns: int | None, later_ns: int | None) -> Unit:
        calls = self.calls[first:end]
        spans = [span for _held, _event, span in calls]
        after = [sum(1 << i for i in range(j) if not overlap(spans[i], spans[j])) for j in range(len(spans))]
        early = reach_ns is not None and any(span.enter_ns < reach_ns for span in spans)
        late = later_ns is not None and any(span.exit_ns > later_ns for span in spans)
        return Unit(
            places=tuple(held.place for held, _event, _span in calls),
            numbers=tuple(held.number for held, _event, _span in calls),
            events=tuple(event for _held, event, _span in calls),
            after=tuple(after),
            untried=early or late,
        )


Piece = Unit | Held
"""What a VM sees in order: a unit, or an item that keeps its place."""


class Overlaps:
    """Read a stream ahead, and say of each item which unit begins there. Memory: the items that are held."""

    def __init__(self, items: Iterable[Item], ahead: int = AHEAD) -> None:
        self._items = iter(items)
        self._ahead = ahead
        self._held: deque[Held] = deque()
        self._places = self._numbers = self._rows = 0
        self._ended = self._shared = self._stale = False
        self._settled: dict[int, None] = {}
        self._reach: dict[int, int] = {}  # by VM: when the last call returned whose place is settled
        self._read_reach: dict[int, int] = {}  # by VM: when the last call returned that was read
        self._tangled: dict[int, int] = {}  # by VM: place of the last call that overlaps an earlier one
        self._pieces: dict[int, list[Piece]] = {}
        self._starts: dict[int, tuple[int, Unit]] = {}

    def __iter__(self) -> Iterator[Held]:
        """Yield the items in recorded order, each when enough of what follows is read."""
        while True:
            if len(self._held) <= self._ahead:
                self._read(2 * self._ahead)
            if not self._held:
                return
            head = self._held.popleft()
            self._rows -= head.rows
            yield head
            if self._tangled or self._settled:
                self._pass(head)
            elif head.times is not None:
                self._settle(self._key(head), head.times[1])

    def _read(self, until: int) -> None:
        queue, items = self._held, self._items
        while len(queue) < until and not self._full:
            item = next(items, None)
            if item is None:
                self._ended = True
                return
            held = held_of(self._places, self._numbers, item)
            queue.append(held)
            self._stale = True
            self._places += 1
            if held.rows:
                self._numbers += held.rows
                self._rows += held.rows
                continue
            self._numbers += 1
            if held.times is not None:
                self._note(held, held.times)
            elif type(item) in _SHARING and _shares(item):
                self._share()

    def _note(self, held: Held, times: tuple[int, int]) -> None:
        """Note whether a call was entered before all that were read earlier had returned."""
        key, (enter_ns, exit_ns) = self._key(held), times
        before = self._read_reach.get(key)
        if before is not None and enter_ns < before:
            self._tangled[key] = held.place
        if before is None or exit_ns > before:
            self._read_reach[key] = exit_ns

    def _share(self) -> None:
        """Take all VMs for one from here on."""
        self._shared = True
        for table in (self._reach, self._read_reach, self._tangled):
            if table:
                table[EVERY_VM] = max(table.values())

    @property
    def _full(self) -> bool:
        return self._ended or self._rows >= ROWS_HELD_MOST or len(self._held) >= HELD_MOST

    def _pass(self, head: Held) -> None:
        """Note that an item was handed on."""
        for key in [key for key, last in self._tangled.items() if last <= head.place] if self._tangled else ():
            del self._tangled[key]
        if head.place in self._settled:
            del self._settled[head.place]
        elif head.times is not None:
            self._settle(self._key(head), head.times[1])

    def _settle(self, key: int, exit_ns: int) -> None:
        before = self._reach.get(key)
        if before is None or exit_ns > before:
            self._reach[key] = exit_ns

    def _key(self, call: Held) -> int:
        """Return the key of the VM of a call with its times."""
        assert call.vms
        return EVERY_VM if self._shared else call.vms[0]

    def _keys(self, held: Held, known: Iterable[int] = ()) -> tuple[int, ...]:
        """Return the keys of the VMs that see an item; known: keys of all VMs."""
        if held.vms is None:
            return tuple(known)
        return (EVERY_VM,) if self._shared and held.vms else held.vms

    def unit_at(self, head: Held) -> tuple[int, Unit] | None:
        """Return the unit that begins at the item that was yielded last, and its key; None when its place is not open.

        A unit of one call is returned only when it overlaps a call past which it is not moved.
        """
        if not self._tangled or head.times is None or head.place in self._settled:
            return None
        while True:
            if self._stale:
                self._look(head)
            found = self._starts.get(head.place)
            if found is None or self._ended or found[1].places[-1] < self._places - self._ahead:
                return found
            if self._full:
                return found[0], attrs.evolve(found[1], untried=True)  # it may go on beyond what can be held
            self._read(len(self._held) + self._ahead)

    def settle(self, key: int, unit: Unit) -> None:
        """Note that the order of a unit is settled."""
        for place, event in zip(unit.places, unit.events, strict=True):
            self._settled[place] = None
            times = _times_of(event)
            assert times is not None
            self._settle(key, times[1])

    def behind(self, key: int, unit: Unit) -> Iterator[Piece]:
        """Yield what follows a unit in its VM, as far as it is read and calls that are still to come can not change it."""
        last, end = unit.places[-1], self._places - (0 if self._ended else self._ahead // 4)
        for piece in self._pieces.get(key, ()):
            first, behind = (piece.places[0], piece.places[-1]) if isinstance(piece, Unit) else (piece.place, piece.place)
            if first > last and behind < end:
                yield piece

    @property
    def all_read(self) -> bool:
        """Whether the stream has ended: `behind()` yields all that there is."""
        return self._ended

    def arrange(self, head: Held, unit: Unit, order: Sequence[int]) -> Held:
        """Hand the calls of a unit that begins at head on in another order; return the one that comes first."""
        base = head.place + 1
        held = [head, *(self._held[place - base] for place in unit.places[1:])]
        moved = [attrs.evolve(held[i], place=place) for place, i in zip(unit.places, order, strict=True)]
        for one in moved[1:]:
            self._held[one.place - base] = one
        return moved[0]

    def _look(self, head: Held) -> None:
        """Work out the units of what is held, of VMs in which something overlaps."""
        self._stale = False
        self._pieces, self._starts = {}, {}
        stretches: dict[int, list[_Stretch | Held]] = {key: [] for key in self._tangled}
        for held in (head, *self._held) if stretches else ():
            if held.place not in self._settled:
                for key in self._keys(held, stretches):
                    if key in stretches:
                        _append(stretches[key], held)
        for key, found in stretches.items():
            self._pieces[key] = pieces = list(_pieces(found, self._reach.get(key)))
            for piece in pieces:
                if isinstance(piece, Unit) and (len(piece.places) > 1 or piece.untried):
                    self._starts[piece.places[0]] = key, piece


def held_of(place: int, number: int, item: Item) -> Held:
    """Return an item with what is to be known of it."""
    if type(item) is MemslotSet:
        return Held(place, number, item, (item.vm,), _times_of(item))
    if isinstance(item, Run):
        return Held(place, number, item, item.vms(), None, len(item))
    if isinstance(item, Mark):
        return Held(place, number, item, (), None)
    vm: int | None = getattr(item, "vm", None)
    return Held(place, number, item, None if vm is None else (vm,), _times_of(item))


_SHARING: Final = frozenset({MemoryLimit, AllocFail})
"""Kinds of events of which some make VMs share what they are allowed."""


def _shares(item: Item) -> bool:
    """Tell whether allocations of one VM decide those of another from here on."""
    if isinstance(item, MemoryLimit):
        return item.limit_pages is not None
    return isinstance(item, AllocFail) and item.vm is None and not item.off


def _append(found: list["_Stretch | Held"], held: Held) -> None:
    span = held.span
    if span is None or isinstance(held.item, Run):
        found.append(held)
        return
    if not found or isinstance(found[-1], Held):
        found.append(_Stretch())
    last = found[-1]
    assert isinstance(last, _Stretch)
    last.calls.append((held, held.item, span))


def _pieces(found: Sequence["_Stretch | Held"], reach_ns: int | None) -> Iterator[Piece]:
    """Yield the units of the stretches of one VM, and what lies between."""
    later: list[int | None] = []
    soonest: int | None = None
    for one in reversed(found):
        later.append(soonest)
        if isinstance(one, _Stretch):
            enter_ns = min(span.enter_ns for _held, _event, span in one.calls)
            soonest = enter_ns if soonest is None else min(soonest, enter_ns)
    for one, later_ns in zip(found, reversed(later), strict=True):
        if isinstance(one, Held):
            yield one
            continue
        yield from one.units(reach_ns, later_ns)
        exit_ns = max(span.exit_ns for _held, _event, span in one.calls)
        reach_ns = exit_ns if reach_ns is None else max(reach_ns, exit_ns)
