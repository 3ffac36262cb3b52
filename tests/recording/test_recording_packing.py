"""How full blocks are, and what columns are like that are read from them."""

import io

import pytest
from kvmrwriter import payloads

from recordings import add, kvmr
from replay.events import Event, HotEvent, Mark, Source
from replay.recording import KvmrReader
from replay.recording import writer as writer_module
from replay.recording.codec import event_to_wire
from replay.recording.limits import Limit
from replay.recording.segments import LAYOUT, ROWS, padded
from replay.recording.wire import pack
from replay.runs import COLUMNS, Run, run_of


def segments(payload: bytes) -> list[tuple[int, int]]:
    """Return tag and bytes of the segments of a block."""
    found, at = [], 0
    while at < len(payload):
        tag, _zeros, _count, _head, size = LAYOUT.unpack_from(payload, at)
        found.append((tag, size))
        at += padded(LAYOUT.size + size)
    return found


def content_bytes(event: Event) -> int:
    """Return the bytes of an event's row."""
    return len(pack(event_to_wire(event)))


class TestGreedy:
    """No block is ended early: the next event would not have fitted."""

    @pytest.mark.parametrize("most", [400, 402, 405, 408, 411])
    @pytest.mark.parametrize("hot", [0, 1, 3])
    def test_rows(self, most: int, hot: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """With rows in one segment or in several, up to the last byte."""
        monkeypatch.setattr(writer_module, "BLOCK_RAW_BYTES", Limit(most, "bytes", "one block, not compressed"))
        events: list[Event] = []
        for number in range(200):
            events += [Mark(text="x" * (number * 7 % 61))] * 5 + [add(vm=0, gfn=number)] * hot
        blocks = payloads(kvmr(events))[1:-1]
        assert len(blocks) > 20
        number = 0
        for block in blocks:
            assert len(block.payload) <= most
            number += block.events
            if number < len(events) and isinstance(events[number], Mark):
                tag, size = segments(block.payload)[-1]
                more = content_bytes(events[number])
                grown = padded(LAYOUT.size + size + more) - padded(LAYOUT.size + size) if tag == ROWS else LAYOUT.size + more
                assert len(block.payload) + padded(grown) > most, number
        assert number == len(events)


class TestColumns:
    """What is read of a run is a sequence like any other."""

    @pytest.mark.parametrize("step", [(1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1])
    def test_far_apart(self, step: int) -> None:
        """Numbers may lie as far apart as they can, up and down, also further than a signed number says."""
        rows: list[HotEvent] = [add(vm=0, gfn=gfn) for gfn in (0, step, 0, step, step)]
        (run,) = [item for item in KvmrReader(io.BytesIO(kvmr(rows))).items() if isinstance(item, Run)]
        assert list(run.gfn) == [0, step, 0, step, step]

    def test_as_long_as_the_run(self) -> None:
        """Each column that is read has a row for each event, by its length, by number and in order."""
        events: list[HotEvent] = [
            add(vm=i % 3, gfn=i * i, ret=-(i % 5) * (i % 2) or None, time_ns=i * i, source=Source(i % 2, i * 3))
            for i in range(300)
        ]
        events += [add(vm=0, gfn=1 << 40, ret=-i, time_ns=(1 << 40) - i * i) for i in range(300)]
        for some in (events[:300], events[300:], events):
            (run,) = [item for item in KvmrReader(io.BytesIO(kvmr(some))).items() if isinstance(item, Run)]
            made = run_of(some)
            for name in COLUMNS:
                column, expected = getattr(run, name), list(getattr(made, name))
                assert len(column) == len(some) == len(run), name
                assert list(column) == [column[row] for row in range(len(some))] == expected, name
