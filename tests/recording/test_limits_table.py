"""The table of limits of a recording, row by row: the largest is read and written, one beyond is refused on each side.

Where the largest is too large to be made, the row is replaced by a small one in the module that asks it.
"""

import io
from collections.abc import Callable
from types import ModuleType
from typing import Final

import attrs
import msgpack
import pytest
from kvmrwriter import EVENTS as EVENTS_BLOCK
from kvmrwriter import Block

from recordings import add, jsonl, kvmr, read_jsonl
from replay.errors import DamagedError, KvmReplayError
from replay.events import Event, Mark, Observe, ObservedCount, ObservedSlot, ObservedVm, Source, Task, VmCreate
from replay.header import Counter, Header, SourceFile, Trailer
from replay.recording import KvmrReader, ends, frames, golden_reader, jsonl_reader, jsonl_writer, limits, open_recording, writer
from replay.recording.blocks import own_header, parse_block_header
from replay.recording.codec import event_to_wire
from replay.recording.frames import encode_frame
from replay.recording.golden_lines import FIRST_LINE
from replay.recording.jsonl_reader import parse_object
from replay.recording.limits import TABLE, Limit
from replay.recording.wire import check_nesting, pack, unpack_one
from replay.runs import RUN_EVENTS_MAX, Run, items_of, run_of

Patch = Callable[[ModuleType, str, int], None]
"""Let a module ask a limit of another number."""
Side = Callable[[int, Patch], object]
"""Do something with as much as a limit allows, and `more`; raise KvmReplayError when that is refused."""

NAMES: Final = {name: limit for name, limit in vars(limits).items() if isinstance(limit, Limit)}
LINE: Final = b'{"kvm-replay": "recording/1", "hand_written": true}\n'
TEXT: Final = "x"
COUNTERS: Final = tuple(Counter(kind=TEXT * 9, count=1) for _ in range(9))


def header_of_block(more: int, **said: int) -> object:
    """Parse the header of a block of events that says a number, `more` too large."""
    said = {name: number + more for name, number in said.items()}
    events, first = said.pop("events", 1), said.pop("first_event", 0)
    data, _ = Block(EVENTS_BLOCK, b"", events, flags=int("raw_bytes" in said), **said).data(7, first)
    return parse_block_header(data, 7, first)


def header_behind(more: int, _patch: Patch) -> object:
    """Look for a block behind damage, whose last event has the largest number, or one beyond."""
    data, _ = Block(EVENTS_BLOCK, b"", 1).data(7, (1 << 48) - 2 + more)
    if own_header(data) is None:
        raise DamagedError("not taken for a block")
    return data


def golden(lines: str) -> object:
    """Read the events of a golden file."""
    return list(open_recording(io.BytesIO(f"{FIRST_LINE}\nevents:\n{lines}".encode())).items())


def marks(count: int) -> list[Event]:
    """Return some small events."""
    return [Mark(text=TEXT)] * count


def record(more: int, patch: Patch, write: Callable[[], object], size: int) -> object:
    """Write something when a record may have its very size, or `more` less."""
    for module in (ends, writer):
        patch(module, "RECORD_BYTES", size - more)
    return write()


def row(more: int, patch: Patch) -> object:
    """Write an event of as many bytes as a record may have."""
    event = Mark(text=TEXT * 1000)
    return record(more, patch, lambda: kvmr([event]), len(pack(event_to_wire(event))))


def head(more: int, patch: Patch) -> object:
    """Write a header of as many bytes as a record may have."""
    header = Header(provenance=TEXT * 1000)
    return record(more, patch, lambda: ends.header_record(header), len(ends.header_record(header)))


def tail(more: int, patch: Patch) -> object:
    """Write a trailer of as many bytes as a record may have."""
    trailer = Trailer(counters=COUNTERS)
    return record(more, patch, lambda: ends.trailer_record(trailer, 1), len(ends.trailer_record(trailer, 1)))


def events(module: ModuleType, use: Callable[[list[Event]], object]) -> Side:
    """Return a side that has five events where five are allowed, or `more`."""

    def side(more: int, patch: Patch) -> object:
        five = marks(5 + more)
        patch(module, "RECORDING_EVENTS", 5)
        return use(five)

    return side


def tasks(more: int, patch: Patch) -> object:
    """Encode a run of as many threads as are allowed."""
    patch(frames, "RUN_TASKS", 7)
    return encode_frame([run_of([add(vm=0, gfn=number, task=Task(1, number)) for number in range(7 + more)])], 0, 0)


def counts(more: int, _patch: Patch) -> object:
    """Write and read a list of as many items as are allowed."""
    slot = ObservedSlot(as_id=0, id=1, base_gfn=0, npages=1, flags=0, counts=(ObservedCount(0, 1),) * (65536 + more))
    return read_jsonl(jsonl([Observe(vm=0, state=ObservedVm(slots=(slot,)))]))


def written_line(name: str, size: Callable[[bytes], int]) -> Side:
    """Return a side that writes a line when a line may have its very size, or `more` less."""

    def side(more: int, patch: Patch) -> object:
        event = Observe(vm=0, state=ObservedVm(slots=()), label=TEXT * 250)
        patch(jsonl_writer, name, size(jsonl([event]).splitlines(keepends=True)[1]) - more)
        return jsonl([event])

    return side


def golden_containers(more: int, patch: Patch) -> object:
    """Read a line of a golden file that opens two, when so many are allowed, or `more` less."""
    patch(golden_reader, "LINE_CONTAINERS", 2 - more)
    return golden('  observe state={"slots":[]}\n')


FIVE_LINES: Final = jsonl(marks(5), hand_written=True), jsonl(marks(6), hand_written=True)
SIDES: Final[dict[str, dict[str, Side]]] = {
    "BLOCK_RAW_BYTES": {"read": lambda more, _: header_of_block(more, raw_bytes=1 << 20)},
    "BLOCK_EVENTS": {"read": lambda more, _: header_of_block(more, events=RUN_EVENTS_MAX)},
    "RECORD_BYTES": {"write": row, "write a header": head, "write a trailer": tail},
    "RUN_TASKS": {"write": tasks},
    "RECORDING_EVENTS": {
        "read": lambda more, _: header_of_block(more, first_event=(1 << 48) - 2),
        "look behind damage": header_behind,
        "write": events(writer, kvmr),
        "write lines": events(jsonl_writer, jsonl),
        "read lines": events(jsonl_reader, lambda five: read_jsonl(FIVE_LINES[len(five) - 5])),
        "read a golden file": events(golden_reader, lambda five: golden("  mark text=x\n" * len(five))),
    },
    "VM_NUMBER": {
        "write": lambda more, _: kvmr([VmCreate(vm=65535 + more)]),
        "write a run": lambda more, _: kvmr([add(vm=65535 + more, gfn=1)]),
        "write lines": lambda more, _: jsonl([VmCreate(vm=65535 + more)]),
        "read lines": lambda more, _: read_jsonl(LINE + b'{"event": "vm.create", "vm": %d}\n' % (65535 + more)),
        "read a golden file": lambda more, _: golden(f"  vm.create vm={65535 + more}\n"),
        "read a golden file's hot event": lambda more, _: golden(f"  write_track.add vm={65535 + more} gfn=0x1\n"),
    },
    "SOURCE_FILES": {
        "write": lambda more, _: kvmr([], Header(sources=(SourceFile(name="a", format="b"),) * (4096 + more))),
        "write its number": lambda more, _: kvmr([VmCreate(vm=0, source=Source(4095 + more, 1))]),
        "write it in a run": lambda more, _: kvmr([add(vm=0, gfn=1, source=Source(4095 + more, 1))]),
    },
    "NESTING": {"read": lambda more, _: check_nesting(b"\x91" * (8 + more) + b"\x01")},
    "ARRAY_ITEMS": {
        "read": lambda more, _: unpack_one(msgpack.packb([0] * (65536 + more))),
        "write and read lines": counts,
    },
    "TEXT_BYTES": {"read": lambda more, _: unpack_one(msgpack.packb(TEXT * (16384 + more)))},
    "LINE_BYTES": {
        "write": written_line("LINE_BYTES", len),
        "read lines": lambda more, _: read_jsonl(LINE + b"# ".ljust((16 << 20) + more - 1, b"x") + b"\n"),
        "read a golden file": lambda more, _: golden("# ".ljust((16 << 20) + more - 1, "x") + "\n"),
    },
    "LINE_CONTAINERS": {
        "write": written_line("LINE_CONTAINERS", lambda line: line.count(b"{") + line.count(b"[")),
        "read lines": lambda more, _: parse_object(b'{"a": [' + b"[]," * ((1 << 19) - 3 + more) + b"[]]}"),
        "read a golden file": golden_containers,
    },
}
"""Limit -> who keeps it. What they are given is legal but for the limit."""

NOT_REFUSED: Final = {"RUN_EVENTS"}
"""Limits that are kept by parting what is too long."""


class TestTable:
    """Every limit is where the table says, on every side that keeps it."""

    def test_every_row(self) -> None:
        """No row of the table is without a trial."""
        assert tuple(NAMES.values()) == TABLE
        assert {*SIDES, *NOT_REFUSED} == set(NAMES)

    @pytest.mark.parametrize(("name", "side"), [(name, side) for name, sides in SIDES.items() for side in sides])
    def test_limit(self, name: str, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As much as is allowed goes through; one more is an error of ours."""

        def patch(module: ModuleType, limit: str, most: int) -> None:
            monkeypatch.setattr(module, limit, attrs.evolve(NAMES[limit], most=most))

        SIDES[name][side](0, patch)
        monkeypatch.undo()
        with pytest.raises(KvmReplayError) as caught:
            SIDES[name][side](1, patch)
        assert type(caught.value).__module__ == "replay.errors"

    def test_run_events(self) -> None:
        """A run holds as many events as it may, and one more makes another run; so do the blocks of a file."""
        rows: list[Event] = [add(vm=0, gfn=number) for number in range(RUN_EVENTS_MAX + 1)]
        lengths = [[RUN_EVENTS_MAX], [RUN_EVENTS_MAX, 1]]
        for some, expected in zip((rows[:-1], rows), lengths, strict=True):
            assert [len(run) for run in items_of(some) if isinstance(run, Run)] == expected
            assert [len(run) for run in KvmrReader(io.BytesIO(kvmr(some))).items() if isinstance(run, Run)] == expected
