"""Hold a run: the hot events between two structural ones, as columns.

A recording is a stream of items, each either one structural `Event` or one `Run`. A run never crosses a structural event, so
within it slots, flags and errno outcomes are constant, which is what lets the engine fold it in bulk. A column is any
sequence of ints of the run's length: a `Constant`, a list, an array, or a memoryview cast over the bytes of a block.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, overload

import attrs

from replay.events import (
    GuestWrite,
    HotEvent,
    ShadowPageAccount,
    ShadowPageUnaccount,
    WriteTrackAdd,
    WriteTrackQuery,
    WriteTrackRemove,
)
from replay.events.base import Event, Source, Task
from replay.units import AsId, Gfn

ADD: Final = WriteTrackAdd.CODE
REMOVE: Final = WriteTrackRemove.CODE
QUERY: Final = WriteTrackQuery.CODE
GUEST_WRITE: Final = GuestWrite.CODE
ACCOUNT: Final = ShadowPageAccount.CODE
UNACCOUNT: Final = ShadowPageUnaccount.CODE

HOT_CLASSES: Final[dict[int, type[HotEvent]]] = {
    ADD: WriteTrackAdd,
    REMOVE: WriteTrackRemove,
    QUERY: WriteTrackQuery,
    GUEST_WRITE: GuestWrite,
    ACCOUNT: ShadowPageAccount,
    UNACCOUNT: ShadowPageUnaccount,
}

RUN_EVENTS_MAX: Final = 16384
"""Most events that one run holds; a longer stretch is several runs."""


@attrs.frozen(slots=False)  # with slots each field is set by a call, and a frame has eight of these
class Constant(Sequence[int]):
    """A column whose values are all the same; costs nothing a row. In a column that may hold None, number may be None."""

    number: int | Any
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "Constant": ...
    def __getitem__(self, index: int | slice) -> "int | Constant":
        if isinstance(index, slice):
            return Constant(self.number, len(range(*index.indices(self.length))))
        if not -self.length <= index < self.length:
            raise IndexError(index)
        number: int = self.number
        return number

    def __iter__(self) -> Iterator[int]:
        return iter((self.number,) * self.length)


COLUMNS: Final = ("kind", "vm", "as_id", "gfn", "level", "nested", "ret", "task", "time_ns", "file", "line", "inferred")
"""Names of the columns of a run."""


@attrs.frozen(kw_only=True, slots=False)  # with slots each field is set by a call
class Run:
    """Hot events as columns of equal length, 1 to RUN_EVENTS_MAX rows.

    `task` holds indexes into `tasks` (None: not known). `time_ns`, `file`, `line` and `ret` may hold None.
    """

    kind: Sequence[int]
    vm: Sequence[int]
    as_id: Sequence[int]
    gfn: Sequence[int]
    level: Sequence[int]
    nested: Sequence[int]
    ret: Sequence[int | None]
    task: Sequence[int | None]
    tasks: tuple[Task, ...]
    time_ns: Sequence[int | None]
    file: Sequence[int | None]
    line: Sequence[int | None]
    inferred: Sequence[int]
    _memo: dict[str, Any] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    @classmethod
    def of_columns(cls, columns: dict[str, Any], tasks: tuple[Task, ...]) -> "Run":
        """Return the run of all its columns by name; in less time than by its fields. The dict is the run's from now on."""
        run = cls.__new__(cls)
        columns["tasks"], columns["_memo"] = tasks, {}
        run.__dict__.update(columns)
        return run

    def __len__(self) -> int:
        return len(self.kind)

    def kinds(self) -> dict[int, int]:
        """Return how many rows there are of each hot kind that occurs. Cost: 1 to 3 ns a row, once.

        >>> run_of([WriteTrackAdd(vm=0, gfn=Gfn(1)), WriteTrackQuery(vm=0, gfn=Gfn(1))]).kinds()
        {64: 1, 66: 1}
        """
        found: dict[int, int] | None = self._memo.get("kinds")
        if found is None:
            found = {} if self.by_vm() else _tally(self.kind)
            for counts in self.by_vm().values():
                for kind, count in counts.items():
                    found[kind] = found.get(kind, 0) + count
            found = self._memo["kinds"] = dict(sorted(found.items()))
        return found

    def vms(self) -> tuple[int, ...]:
        """Return the numbers of the VMs that rows name, in order. Cost: 1 to 10 ns a row, once."""
        found: tuple[int, ...] | None = self._memo.get("vms")
        if found is None:
            found = self._memo["vms"] = tuple(self.by_vm() or sorted(_distinct(self.vm)))
        return found

    def by_vm(self) -> dict[int, dict[int, int]]:
        """Return `kinds()` of each VM, in order; nothing where that is not counted at once, which takes numpy and a long run."""
        found: dict[int, dict[int, int]] | None = self._memo.get("by_vm")
        if found is None:
            both = self.vm, self.kind
            long = len(self) >= _LONG and all(isinstance(column, memoryview) and column.itemsize == 1 for column in both)
            found = self._memo["by_vm"] = _BY_VM[-1](*both) if long and _BY_VM else {}
        return found

    def changes(self) -> tuple[int, int]:
        """Return how many rows ask for one write tracking more, and for one less: shadow pages from level 2 on only."""
        found: tuple[int, int] | None = self._memo.get("changes")
        if found is None:
            found = self._memo["changes"] = self._changes()
        return found

    def _changes(self) -> tuple[int, int]:
        of = self.kinds().get
        up, down = of(ACCOUNT, 0), of(UNACCOUNT, 0)
        if (up or down) and not (isinstance(self.level, Constant) and self.level.number > 1):
            deep = _bytes(self.level).translate(_DEEP)
            if 0 in deep:
                both = int.from_bytes(_bytes(self.kind).translate(_SHADOW), "little") & int.from_bytes(deep, "little")
                shadow = both.to_bytes(len(self), "little")
                up, down = shadow.count(ACCOUNT), shadow.count(UNACCOUNT)
        return of(ADD, 0) + up, of(REMOVE, 0) + down

    def recorded(self) -> tuple[int, dict[int, int]]:
        """Return how many rows have a recorded result, and those that are not 0, by row."""
        found: tuple[int, dict[int, int]] | None = self._memo.get("recorded")
        if found is None:
            found = self._memo["recorded"] = _recorded(self.ret)
        return found

    def event_at(self, row: int) -> HotEvent:
        """Return one row as an event object, for people; the engine never asks for it."""
        task, file, line = self.task[row], self.file[row], self.line[row]
        return HOT_CLASSES[self.kind[row]](
            vm=self.vm[row],
            as_id=AsId(self.as_id[row]),
            gfn=Gfn(self.gfn[row]),
            level=self.level[row],
            nested=bool(self.nested[row]),
            ret=self.ret[row],
            task=None if task is None else self.tasks[task],
            time_ns=self.time_ns[row],
            source=None if file is None or line is None else Source(file, line),
            inferred=bool(self.inferred[row]),
        )

    def events(self) -> Iterator[HotEvent]:
        """Yield every row as an event object."""
        return (self.event_at(row) for row in range(len(self)))

    def select(self, rows: Sequence[int]) -> "Run":
        """Return the run with only some of its rows, in the order given."""
        columns: dict[str, Any] = {name: _chosen(getattr(self, name), rows) for name in COLUMNS}
        return attrs.evolve(self, **columns)


def _bytes(column: Sequence[int]) -> bytes:
    """Return a column of numbers below 256 as bytes."""
    return bytes([column.number]) * len(column) if isinstance(column, Constant) else bytes(column)


_DEEP: Final = bytes(255 if level > 1 else 0 for level in range(256))
_SHADOW: Final = bytes(kind if kind in (ACCOUNT, UNACCOUNT) else 0 for kind in range(256))


def _tally(column: Sequence[int]) -> dict[int, int]:
    """Count the rows of each number below 256, in order of the numbers."""
    if isinstance(column, Constant):
        return {column.number: len(column)}
    if isinstance(column, memoryview) and len(column) >= _LONG:
        return _OF_LONG[-1](column)
    rest = _bytes(column)
    return {number: rest.count(number) for number in sorted(set(rest))}


def _tally_bytes(rest: bytes | memoryview) -> dict[int, int]:
    rest, counts = bytes(rest), dict[int, int]()
    while rest:
        others = rest.translate(None, rest[:1])
        counts[rest[0]] = len(rest) - len(others)
        rest = others
    return dict(sorted(counts.items()))


_LONG: Final = 256
_OF_LONG: Final[list[Callable[[memoryview], dict[int, int]]]] = [_tally_bytes]
"""How long columns of bytes are tallied; who has numpy puts a faster way there."""


_ByVm = Callable[[Sequence[int], Sequence[int]], dict[int, dict[int, int]]]
_BY_VM: Final[list[_ByVm]] = []


def tally_long_by(way: Callable[[memoryview], dict[int, int]], by_vm: _ByVm) -> None:
    """Have long columns of bytes tallied another way from now on: number -> rows, in order of the numbers.

    by_vm: counts two columns, VMs and kinds, at once; {} for those that it does not take.
    """
    _OF_LONG[:], _BY_VM[:] = [way], [by_vm]


def _distinct(column: Sequence[int]) -> Iterable[int]:
    if isinstance(column, Constant):
        return (column.number,)
    if isinstance(column, memoryview) and column.itemsize == 1 and len(column) >= _LONG:
        return _tally(column)
    return set(column)


def _chosen(column: Sequence[Any], rows: Sequence[int]) -> Sequence[Any]:
    """Return some rows of a column."""
    if isinstance(column, Constant):
        return Constant(column.number, len(rows))
    return [column[row] for row in rows]


def _recorded(column: Sequence[int | None]) -> tuple[int, dict[int, int]]:
    """Return how many rows are not None, and those that are not 0 either."""
    if isinstance(column, Constant):
        known = 0 if column.number is None else len(column)
        return known, dict.fromkeys(range(known), column.number) if column.number else {}
    values = list(column)
    return len(values) - values.count(None), {row: value for row, value in enumerate(values) if value}


Item = Event | Run


def run_of(events: Iterable[HotEvent]) -> Run:
    """Gather event objects into a run; for tests, hand-written recordings and JSON Lines."""
    rows = list(events)
    tasks: dict[Task, int] = {}
    for row in rows:
        if row.task is not None:
            tasks.setdefault(row.task, len(tasks))
    return Run(
        kind=[row.CODE for row in rows],
        vm=[row.vm for row in rows],
        as_id=[row.as_id for row in rows],
        gfn=[row.gfn for row in rows],
        level=[row.level for row in rows],
        nested=[int(row.nested) for row in rows],
        ret=[row.ret for row in rows],
        task=[None if row.task is None else tasks[row.task] for row in rows],
        tasks=tuple(tasks),
        time_ns=[row.time_ns for row in rows],
        file=[None if row.source is None else row.source.file for row in rows],
        line=[None if row.source is None else row.source.line for row in rows],
        inferred=[int(row.inferred) for row in rows],
    )


def items_of(events: Iterable[Event]) -> Iterator[Item]:
    """Turn a stream of event objects into items: runs of at most RUN_EVENTS_MAX hot events, structural events alone."""
    pending: list[HotEvent] = []
    for event in events:
        if isinstance(event, HotEvent):
            pending.append(event)
            if len(pending) < RUN_EVENTS_MAX:
                continue
        if pending:
            yield run_of(pending)
            pending = []
        if not isinstance(event, HotEvent):
            yield event
    if pending:
        yield run_of(pending)


def events_of(items: Iterable[Item]) -> Iterator[Event]:
    """Turn a stream of items back into event objects, in order."""
    for item in items:
        if isinstance(item, Run):
            yield from item.events()
        else:
            yield item
