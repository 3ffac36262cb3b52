"""Promises of the search for calls that overlap in time, in a stream that is read once."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import attrs
import pytest
from lane_samples import slot

from replay.engine import overlaps as module
from replay.engine.explore import Unit
from replay.engine.overlaps import EVERY_VM, Held, Overlaps, Span, overlap
from replay.events import AllocFail, Event, Mark, MemoryLimit, Opaque, ShadowPageAccount, Task, VmDestroy
from replay.runs import COLUMNS, Constant, Item, items_of, run_of
from replay.units import Gfn

PAGE = ShadowPageAccount(vm=0, gfn=Gfn(1), level=2)
TIMED = Opaque(vm=0, cmd=1, name="x", task=Task(1, 9), enter_time_ns=1, time_ns=2)
"""A call with its times that keeps its place."""


def call(tid: int, enter: int, leave: int, **more: Any) -> Event:
    """Return a call of a thread with its times."""
    fields: dict[str, Any] = {"task": Task(1, tid), "enter_time_ns": enter, "time_ns": leave, "ret": 0}
    return slot(**(fields | more))


def units(events: Sequence[Event], **more: Any) -> list[Unit]:
    """Return the units of a stream, each settled where it is met; every item must come out once, in order."""
    return [found for _key, found in keyed(events, **more)]


def keyed(events: Sequence[Event], ahead: int = 8) -> list[tuple[int, Unit]]:
    """Return the same with their keys."""
    overlaps = Overlaps(items_of(events), ahead)
    found = []
    places = count()
    for head in overlaps:
        assert head.place == next(places)
        at = overlaps.unit_at(head)
        if at is not None:
            if len(at[1].places) > 1:
                overlaps.settle(*at)
            found.append(at)
    assert next(places) == len(list(items_of(events)))
    return found


def shape(found: Sequence[Unit]) -> list[tuple[int, ...]]:
    """Return the numbers of the events of units."""
    return [one.numbers for one in found]


class Counted:
    """A stream that counts how many of its items were asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self.count += 1
            yield item


class TestUnits:
    """What belongs together."""

    def test_nothing_overlaps(self) -> None:
        """Calls that follow one another, or touch, are no unit."""
        assert units([call(n % 2, n, n + 1) for n in range(50)]) == []

    @pytest.mark.parametrize(("other", "expected"), [(4, True), (5, False), (6, False)])
    def test_touching_ends(self, other: int, *, expected: bool) -> None:
        """Two calls that touch do not overlap, whichever is named first, nor do two of one thread."""
        one, two = Span(1, 0, 5), Span(2, other, 9)
        assert [overlap(one, two), overlap(two, one)] == [expected] * 2
        assert not overlap(one, Span(1, other, 9))

    def test_alone_before_a_unit(self) -> None:
        """A call that overlaps none is no unit, also where a unit of its VM follows."""
        found = units([call(1, 0, 5), call(1, 10, 20), call(2, 15, 25), call(1, 30, 40)])
        assert shape(found) == [(1, 2)]

    def test_overlaps_what_was_handed_on(self) -> None:
        """A call that overlaps one that was handed on before it was read is a unit whose orders were not all tried."""
        marks = [Mark(text="x")] * 20
        found = units([call(1, 0, 100), *marks, call(2, 50, 60), call(1, 110, 120)], ahead=2)
        assert shape(found) == [(21,)]
        assert found[0].untried

    @pytest.mark.parametrize("ahead", range(2, 9))
    def test_units_of_two_vms_interleaved(self, ahead: int) -> None:
        """Units that lie within one another in the recording are found once each, however far ahead is read."""
        pairs = [(vm, 20 * n + 5 * place, 20 * n + 5 * place + 7) for n in range(4) for place in (0, 1) for vm in (0, 1)]
        events = [call(10 * vm + place % 4 // 2, enter, leave, vm=vm) for place, (vm, enter, leave) in enumerate(pairs)]
        found = shape(units(events, ahead=ahead))
        assert found == [(base + vm, base + vm + 2) for base in range(0, 16, 4) for vm in (0, 1)]

    def test_nothing_is_kept(self) -> None:
        """Of a long stream in which units come and go, nothing is kept but when the last call returned."""
        events = [call(n % 2, 20 * (n // 2) + n % 2, 20 * (n // 2) + 9) for n in range(400)]
        overlaps, settled = Overlaps(items_of(events), 8), 0
        for head in overlaps:
            at = overlaps.unit_at(head)
            if at is not None:
                overlaps.settle(*at)
                settled += 1
        assert settled == 200
        assert (overlaps._tangled, overlaps._settled) == ({}, {})

    def test_transitive(self) -> None:
        """Calls that overlap by way of others are one unit; those behind are another."""
        spans = [(0, 10), (5, 20), (15, 30), (30, 40), (35, 45)]
        found = units([call(n, *span) for n, span in enumerate(spans)])
        assert shape(found) == [(0, 1, 2), (3, 4)]
        assert [one.after for one in found] == [(0, 0, 1), (0, 0)]

    def test_one_long_call(self) -> None:
        """A call that returns last belongs to all that it overlaps, though they are over when it is read."""
        found = units([*(call(1, n * 10, n * 10 + 5) for n in range(6)), call(2, 0, 100)])
        assert shape(found) == [(0, 1, 2, 3, 4, 5, 6)]
        assert found[0].after == (0, 1, 3, 7, 15, 31, 0)

    def test_vms_are_apart(self) -> None:
        """Calls on different VMs are units of their own, however they lie in the stream."""
        events = [call(n, 0, 10, vm=n % 2) for n in range(6)]
        assert [(key, one.numbers) for key, one in keyed(events)] == [(0, (0, 2, 4)), (1, (1, 3, 5))]

    @pytest.mark.parametrize("sharing", [MemoryLimit(limit_pages=5), AllocFail(nth=3)])
    def test_shared_limits(self, sharing: Event) -> None:
        """Where VMs share an allocator's limits their calls are one unit."""
        events = [sharing, *(call(n, 0, 10, vm=n % 2) for n in range(4))]
        assert [(key, one.numbers) for key, one in keyed(events)] == [(EVERY_VM, (1, 2, 3, 4))]

    def test_shared_from_here_on(self) -> None:
        """Calls that overlap before VMs share anything are found as well, and so are those behind."""
        before, behind = [call(n, 0, 10) for n in range(2)], [call(n, 20, 30, vm=n % 2) for n in range(2)]
        found = keyed([*before, MemoryLimit(limit_pages=5), *behind])
        assert [(key, one.numbers) for key, one in found] == [(EVERY_VM, (0, 1)), (EVERY_VM, (3, 4))]

    @pytest.mark.parametrize("harmless", [MemoryLimit(limit_pages=None), AllocFail(vm=0), AllocFail(off=True), Mark(text="x")])
    def test_not_shared(self, harmless: Event) -> None:
        """A limit that is lifted, or an injection for one VM, leaves them apart."""
        events = [harmless, *(call(n, 0, 10, vm=n % 2) for n in range(2))]
        assert keyed(events) == []

    @pytest.mark.parametrize("between", [PAGE, Opaque(vm=0, cmd=1, name="x"), TIMED, slot(), MemoryLimit(limit_pages=None)])
    def test_what_keeps_its_place(self, between: Event) -> None:
        """Hot events of the VM and whatever has no time span part calls; those that overlap across it are marked."""
        events = [call(1, 0, 10), call(2, 0, 12), between, call(3, 5, 20), call(4, 30, 40)]
        found = units(events)
        assert shape(found) == [(0, 1), (3,)]
        assert [one.untried for one in found] == [True, True]

    def test_what_does_not(self) -> None:
        """Remarks, and whatever is of another VM, part nothing."""
        other = ShadowPageAccount(vm=1, gfn=Gfn(1), level=2)
        events = [call(1, 0, 10), Mark(text="x"), other, VmDestroy(vm=1), call(2, 0, 12)]
        found = units(events)
        assert shape(found) == [(0, 4)]
        assert not found[0].untried


class TestStream:
    """Reading ahead."""

    def test_numbers_count_rows(self) -> None:
        """Numbers are those of events, places those of items."""
        found = units([PAGE, PAGE, PAGE, call(1, 0, 10), call(2, 0, 10)])
        assert (found[0].numbers, found[0].places) == ((3, 4), (1, 2))

    def test_read_ahead_is_bounded(self) -> None:
        """No more is read than twice as far ahead as is asked for, where nothing overlaps."""
        asked = []

        def stream() -> Iterator[Item]:
            for n in range(100):
                asked.append(n)
                yield call(1, 10 * n, 10 * n + 5)

        handed = 0
        for head in Overlaps(stream(), 8):
            assert len(asked) <= head.place + 17
            handed += 1
        assert handed == 100

    def test_default(self) -> None:
        """Unless said otherwise 128 items at least are read ahead, 255 at most."""
        calls = [call(1, 10 * n, 10 * n + 5) for n in range(1000)]
        asked = Counted(calls)
        held = [asked.count - head.place - 1 for head in Overlaps(asked)][:600]
        assert (min(held), max(held), held[0]) == (128, 255, 255)

    @pytest.mark.parametrize(("rows", "runs"), [(16384, 4), (16385, 4), (16383, 5), (1 << 16, 1), ((1 << 16) - 1, 2)])
    def test_rows_are_bounded(self, rows: int, runs: int) -> None:
        """Of hot events no more than 65,536 are held before no more is read, and all are handed on."""
        run = run_of([PAGE])
        columns: dict[str, Any] = {name: Constant(getattr(run, name)[0], rows) for name in COLUMNS}
        asked = Counted([attrs.evolve(run, **columns)] * 12)
        heads = [(head.place, head.number, asked.count) for head in Overlaps(asked)]
        assert heads == [(n, n * rows, min(n + runs, 12)) for n in range(12)]

    def test_items_are_bounded(self) -> None:
        """However far ahead one wants to read, 4,096 items are the most that are held."""
        asked = Counted([Mark(text="x")] * 5000)
        next(iter(Overlaps(asked, 5000)))
        assert asked.count == 4096

    def test_a_unit_is_read_to_its_end(self) -> None:
        """A unit longer than the read-ahead is found whole."""
        found = units([call(n, n * 10, n * 10 + 15) for n in range(100)])
        assert shape(found) == [tuple(range(100))]

    @pytest.mark.parametrize(("last", "late"), [(last, last + 8) for last in range(2, 12)])
    def test_reads_on_behind_a_unit(self, last: int, late: int) -> None:
        """A call of the unit that comes within the read-ahead behind the last one that is known is found."""
        calls = [call(1, 0, 100), *(call(9, 200 * n, 200 * n + 1, vm=1) for n in range(1, late)), call(3, 50, 60)]
        calls[last] = call(2, 5, 90)
        assert shape(units(calls, ahead=8)) == [(0, last, late)]

    def test_a_unit_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One that is longer than may be held is cut; both parts are marked."""
        monkeypatch.setattr(module, "HELD_MOST", 20)
        found = units([call(n, n * 10, n * 10 + 15) for n in range(30)])
        assert shape(found) == [tuple(range(21)), tuple(range(21, 30))]
        assert [one.untried for one in found] == [True, True]

    def test_arrange(self) -> None:
        """Calls are handed on in the order that is asked for; what lies between stays."""
        mark = Mark(text="x")
        overlaps = Overlaps(items_of([call(1, 0, 10), mark, call(2, 0, 12), call(3, 0, 13)]), 8)
        handed: list[Held] = []
        for head in overlaps:
            at = overlaps.unit_at(head)
            if at is None:
                handed.append(head)
                continue
            overlaps.settle(*at)
            handed.append(overlaps.arrange(head, at[1], [2, 0, 1]))
        assert [(held.place, held.number) for held in handed] == [(0, 3), (1, 1), (2, 0), (3, 2)]

    def test_behind(self) -> None:
        """What follows a unit in its VM is told in order, units whole; other VMs are left out."""
        events = [call(1, 0, 10), call(2, 0, 10), PAGE, call(1, 20, 30), call(1, 40, 50), call(2, 40, 50), call(3, 0, 99, vm=1)]
        overlaps = Overlaps(items_of(events), 8)
        at = overlaps.unit_at(next(iter(overlaps)))
        assert at is not None
        told = [piece.numbers if isinstance(piece, Unit) else piece.number for piece in overlaps.behind(*at)]
        assert told == [2, (3,), (4, 5)]
        assert overlaps.all_read

    @pytest.mark.parametrize("ahead", [4, 8, 16])
    def test_behind_what_is_open(self, ahead: int) -> None:
        """While more is to come, of what follows a unit the last quarter of the read-ahead is left out: it may change."""
        calls = [call(1, 0, 10), call(2, 0, 10), *(call(1, 20 * n, 20 * n + 9) for n in range(1, 200))]
        overlaps = Overlaps(items_of(calls), ahead)
        at = overlaps.unit_at(next(iter(overlaps)))
        assert at is not None
        assert not overlaps.all_read
        told = [piece.places for piece in overlaps.behind(*at) if isinstance(piece, Unit)]
        assert told == [(place,) for place in range(2, 2 * ahead - ahead // 4)]

    def test_behind_one_call(self) -> None:
        """What follows a unit of one call, which overlaps one past which it is not moved, is told as well."""
        overlaps = Overlaps(items_of([call(1, 0, 10), PAGE, call(2, 5, 20), call(1, 30, 40)]), 8)
        found = [(overlaps.unit_at(head), head) for head in overlaps]
        told = [
            [piece.places if isinstance(piece, Unit) else piece.place for piece in overlaps.behind(*at)] for at, _ in found if at
        ]
        assert [at[1].untried for at, _ in found if at] == [True, True]
        assert told == [[1, (2,), (3,)], [(3,)]]
