"""The writer: same events, same bytes; nothing half-written ever has the name of a recording."""

import io
import os
import stat
from itertools import pairwise
from pathlib import Path
from string import ascii_letters

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvmrwriter import payloads

from recordings import (
    EVENTS,
    HEADER,
    HEADERS,
    HOT,
    TRAILER,
    TRAILERS,
    add,
    copied,
    jsonl,
    kvmr,
    kvmr_of_items,
    names,
    read,
    read_jsonl,
    small_events,
    write_and_stop,
)
from replay.errors import HeaderError, UnwritableError
from replay.events import Event, HotEvent, Mark, Task, VmDestroy
from replay.header import Header, Trailer
from replay.recording import JsonlReader, JsonlWriter, KvmrReader, Writer
from replay.recording.limits import BLOCK_EVENTS, BLOCK_RAW_BYTES
from replay.recording.writer import slice_run
from replay.runs import Item, Run, events_of, items_of, run_of


class TestLossless:
    """What goes in comes out, through either file and through both."""

    @given(EVENTS, HEADERS, TRAILERS)
    def test_round_trip(self, events: list[Event], header: Header, trailer: Trailer) -> None:
        """Random recordings come back equal: header, events in order, trailer."""
        for data, reading in ((kvmr(events, header, trailer), read), (jsonl(events, header, trailer), read_jsonl)):
            found, reader = reading(data)
            assert found == events
            assert reader.header == header
            assert reader.trailer() == attrs.evolve(trailer, events=len(events))

    @given(EVENTS, HEADERS, TRAILERS)
    def test_twin(self, events: list[Event], header: Header, trailer: Trailer) -> None:
        """.kvmr to .jsonl to .kvmr gives the same bytes, and so does .jsonl to .kvmr to .jsonl."""
        binary = kvmr(events, header, trailer)
        text = io.BytesIO()
        reader = KvmrReader(io.BytesIO(binary))
        copied(reader, JsonlWriter(text, reader.header))
        assert text.getvalue() == jsonl(events, header, trailer)
        back = io.BytesIO()
        lines = JsonlReader(io.BytesIO(text.getvalue()))
        copied(lines, Writer(back, lines.header))
        assert back.getvalue() == binary


def regroup(events: list[Event], cuts: list[int]) -> list[Item]:
    """Return items in which runs are cut at other places, and some hot events stand alone."""
    items: list[Item] = []
    for item in items_of(events):
        if isinstance(item, Event):
            items.append(item)
            continue
        edges = sorted({0, len(item), *(cut % len(item) for cut in cuts)})
        for start, stop in pairwise(edges):
            piece = slice_run(item, start, stop)
            items += list(piece.events()) if start % 3 == 1 else [piece]
    return items


class TestSameBytes:
    """The bytes are a function of header, events and trailer."""

    @given(st.lists(HOT | st.just(VmDestroy(vm=0)), max_size=30), st.lists(st.integers(0, 30), max_size=8))
    def test_chunks(self, events: list[Event], cuts: list[int]) -> None:
        """It does not matter in which pieces runs are handed over."""
        assert kvmr_of_items(regroup(events, cuts)) == kvmr(events)

    @pytest.mark.parametrize("size", [1, 1000, 16383, 16384, 16385, 20000])
    def test_chunks_over_blocks(self, size: int) -> None:
        """Nor does it where runs go on from block to block."""
        events: list[HotEvent] = [add(vm=0, gfn=i % 1000, task=Task(i % 3, 0), time_ns=3 * i) for i in range(40000)]
        whole = kvmr([Mark(text="first"), *events])
        pieces = [run_of(events[at : at + size]) for at in range(0, len(events), size)]
        assert kvmr_of_items([Mark(text="first"), *pieces]) == whole
        assert [block.events for block in payloads(whole)] == [0, 1, 16384, 16384, 7232, 0]

    def test_one_by_one(self) -> None:
        """Nor does it when every event comes alone."""
        events = [add(0, number % 7) for number in range(20000)]
        assert kvmr_of_items(events) == kvmr(events)

    def test_decoded_columns(self) -> None:
        """Runs that come from a reader are written as runs of lists are, compressed or not."""
        events: list[HotEvent] = [add(vm=i % 2, gfn=i % 1000, ret=-(i % 5), time_ns=i * i) for i in range(20000)]
        for compression in ("none", "zlib"):
            data = kvmr(events, Header(compression=compression))
            reader, out = KvmrReader(io.BytesIO(data)), io.BytesIO()
            copied(reader, Writer(out, reader.header))
            assert out.getvalue() == data

    def test_compression(self) -> None:
        """Compressed blocks are smaller and hold the same; a block that would grow is stored."""
        events: list[Event] = [Mark(text="again " * 50)] * 9
        plain, packed = kvmr(events, Header()), kvmr(events, Header(compression="zlib"))
        assert len(packed) < len(plain) / 4
        assert read(packed)[0] == read(plain)[0] == events
        assert [block.flags for block in payloads(packed)] == [0, 1, 0]
        assert [block.flags for block in payloads(kvmr([Mark(text=ascii_letters)], Header(compression="zlib")))] == [0, 0, 0]

    def test_block_bytes(self) -> None:
        """Every block stays within its limits, and as few as possible are written."""
        events: list[Event] = [Mark(text="x" * 4096) for _ in range(600)]
        found = payloads(kvmr(events))
        assert [block.events for block in found] == [0, 255, 255, 90, 0]
        assert all(len(block.payload) <= BLOCK_RAW_BYTES.most for block in found)

    def test_frame_that_does_not_fit(self) -> None:
        """A frame that would take a block over its limit begins the next one."""
        rows: list[Event] = [Mark(text="x" * 4096) for _ in range(200)]
        hot: list[Event] = [add(vm=0, gfn=(1 << 63) + i * 12345678901, time_ns=i * i << 30) for i in range(16000)]
        data = kvmr([*rows, *hot, *rows])
        assert read(data)[0] == [*rows, *hot, *rows]
        assert [block.events for block in payloads(data)] == [0, 200, 16193, 7, 0]

    @pytest.mark.parametrize("hot", [1, 5, 5000, 8192, 8193, 16383, 16384])
    def test_runs_stay_whole(self, hot: int) -> None:
        """A run that fits a block is never cut: where it would go on behind the end of a block, it begins the next one."""
        columns = run_of([add(vm=0, gfn=i) for i in range(hot)])
        rounds = max(3, 40000 // hot) if hot > 5 else 3
        items = [item for number in range(rounds) for item in (Mark(text=str(number)), columns)]
        data = kvmr_of_items(items)
        runs = [item for item in KvmrReader(io.BytesIO(data)).items() if isinstance(item, Run)]
        assert [len(run) for run in runs] == [hot] * rounds
        events = [block.events for block in payloads(data)][1:-1]
        assert (sum(events), max(events) <= BLOCK_EVENTS.most) == (rounds * (hot + 1), True)
        assert all(events[at] + 1 + hot > BLOCK_EVENTS.most for at in range(len(events) - 1)), "blocks are as full as they can be"

    def test_what_can_not_follow_is_written(self) -> None:
        """A block that a run can not join any more is written at once: no more than two blocks of events are ever held."""
        announced: list[int] = []
        with Writer(io.BytesIO(), HEADER, announce=announced.append) as writer:
            for item in (run_of([add(vm=0, gfn=1)] * 10000), Mark(text=""), run_of([add(vm=0, gfn=1)] * 6383)):
                writer.write(item)
            assert announced == []
            writer.write(add(vm=0, gfn=1))
            writer.write(run_of([add(vm=0, gfn=1)]))
            assert announced == [10001]
            writer.finish(TRAILER)
        assert announced == [10001, 16386]

    def test_most_events(self) -> None:
        """A block ends at its 16384th event, rows and runs together."""
        events: list[Event] = [Mark(text="") if i % 4 == 0 else add(vm=0, gfn=i) for i in range(2 * BLOCK_EVENTS.most + 1)]
        data = kvmr(events)
        assert [block.events for block in payloads(data)] == [0, 16384, 16384, 1, 0]
        assert read(data)[0] == events


class TestFile:
    """The name of a recording belongs to whole ones."""

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_part(self, cls: type[Writer | JsonlWriter], tmp_path: Path) -> None:
        """NAME.part until finish, NAME afterwards; what it holds can be read."""
        path = tmp_path / "boot.rec"
        with cls(path, HEADER) as writer:
            for item in items_of(small_events()):
                writer.write(item)
            assert names(tmp_path) == ["boot.rec.part"]
            assert (writer.events, writer.name) == (len(small_events()), str(path))
            writer.finish(TRAILER)
        assert names(tmp_path) == ["boot.rec"]
        reading = KvmrReader if cls is Writer else JsonlReader
        with reading(path) as reader:
            assert list(events_of(reader.items())) == small_events()
            assert reader.name == str(path)

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_exception(self, cls: type[Writer | JsonlWriter], tmp_path: Path) -> None:
        """An exception leaves .part: torn, with every event so far."""
        path = tmp_path / "boot.rec"
        with pytest.raises(RuntimeError, match="stop"):
            write_and_stop(cls, path, small_events(), RuntimeError("stop"))
        assert names(tmp_path) == ["boot.rec.part"]
        reading = read if cls is Writer else read_jsonl
        events, reader = reading((tmp_path / "boot.rec.part").read_bytes())
        assert events == small_events()
        assert reader.torn
        assert reader.trailer().total("lost") == 1

    def test_exists(self, tmp_path: Path) -> None:
        """A file that is there is not overwritten, nor is a .part, unless asked for."""
        path = tmp_path / "boot.kvmr"
        path.write_bytes(b"old")
        with pytest.raises(UnwritableError, match=r"boot.kvmr: exists"):
            Writer(path, HEADER)
        path.rename(tmp_path / "boot.kvmr.part")
        with pytest.raises(UnwritableError, match=r"boot.kvmr.part: exists; .*recover"):
            Writer(path, HEADER)
        with Writer(path, HEADER, overwrite=True) as writer:
            writer.finish(TRAILER)
        assert read(path.read_bytes())[0] == []

    @pytest.mark.parametrize("name", ["missing/boot.kvmr", "nul\0", "."])
    def test_unwritable(self, name: str, tmp_path: Path) -> None:
        """A place where nothing can be written is an UnwritableError."""
        with pytest.raises(UnwritableError):
            Writer(tmp_path / name, HEADER)

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_durable(self, cls: type[Writer | JsonlWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With durable=True the name, each block, and the rename at the end reach the disk before events are announced."""
        order: list[str | int] = []

        def fsync(handle: int) -> None:
            order.append("dir" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

        monkeypatch.setattr(os, "fsync", fsync)
        with cls(tmp_path / "a.kvmr", HEADER, durable=True, announce=order.append) as writer:
            assert order == (["dir", "file"] if cls is Writer else ["dir"])
            order.clear()
            writer.write(Mark(text="x"))
            assert (order, writer.written_events) == ([], 0)
            writer.flush()
            assert (order, writer.written_events) == (["file", 1], 1)
            writer.finish(TRAILER)
        assert order == ["file", 1, "file", "dir"]

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_not_durable(self, cls: type[Writer | JsonlWriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody waits for the disk who was not asked to."""
        monkeypatch.setattr(os, "fsync", pytest.fail)
        with cls(tmp_path / "a.kvmr", HEADER) as writer:
            writer.write(Mark(text="x"))
            writer.flush()
            writer.finish(TRAILER)

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_announced(self, cls: type[Writer | JsonlWriter]) -> None:
        """What is announced is there: the file so far, read as it is, has at least as many events."""
        out, announced = io.BytesIO(), []
        reading = read if cls is Writer else read_jsonl

        def announce(events: int) -> None:
            announced.append(events)
            assert len(reading(out.getvalue())[0]) == events

        with cls(out, HEADER, announce=announce) as writer:
            for number in range(700):
                writer.write(Mark(text="x" * 4000) if number % 3 else add(0, number))
            writer.finish(TRAILER)
        assert announced == sorted(set(announced))
        assert (announced[-1], writer.written_events) == (700, 700)
        assert len(announced) == (2 if cls is Writer else 28)

    def test_device(self) -> None:
        """A device is written in place: it has no .part and is not renamed."""
        with Writer("/dev/null", HEADER) as writer:
            writer.finish(TRAILER)
        assert not Path("/dev/null.part").exists()

    def test_standard_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The name - is standard output, and standard input of a reader."""
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out))
        with Writer("-", HEADER) as writer:
            writer.finish(TRAILER)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(out.getvalue())))
        reader = KvmrReader("-")
        assert list(reader.items()) == []
        assert reader.name == "standard input"

    def test_header_is_checked_first(self, tmp_path: Path) -> None:
        """A header that can not be written leaves no file at all."""
        for cls in (Writer, JsonlWriter):
            with pytest.raises(HeaderError, match=r"header.title: found 1; expected text"):
                cls(tmp_path / "a", Header(title=1))  # type: ignore[arg-type]
            with pytest.raises(HeaderError, match=r"schema 2.0; expected schema 1.0"):
                cls(tmp_path / "a", Header(schema_major=2))
        assert names(tmp_path) == []
