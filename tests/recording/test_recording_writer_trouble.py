"""The writer when it is told to flush, and when something goes wrong."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import (
    HEADER,
    HOT,
    STRUCTURAL,
    TRAILER,
    add,
    copied,
    jsonl,
    kvmr,
    names,
    read,
    read_jsonl,
    write_and_stop,
)
from replay.errors import EventError, UnwritableError
from replay.events import Event, Mark, Task
from replay.recording import JsonlReader, JsonlWriter, KvmrReader, Writer
from replay.runs import run_of


class Full(io.RawIOBase):
    """A disk with so many bytes left, that takes few at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.data = room, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(memoryview(data)[: min(self.room - len(self.data), 100)])
        if not taken:
            raise OSError(28, "No space left on device")
        self.data += taken
        return len(taken)


class TestFlush:
    """A live recorder can end a block early, at a known price."""

    @given(st.lists(st.tuples(HOT | STRUCTURAL, st.booleans()), max_size=20))
    def test_same_events(self, steps: list[tuple[Event, bool]]) -> None:
        """Wherever it is called the events are the same; a copy has the bytes of a writer that was never asked to."""
        out = io.BytesIO()
        with Writer(out, HEADER) as writer:
            for event, flush in steps:
                writer.write(event)
                if flush:
                    writer.flush()
                    assert writer.written_events == writer.events
            writer.finish(TRAILER)
        events, reader = read(out.getvalue())
        assert events == [event for event, _ in steps]
        copy, again = io.BytesIO(), KvmrReader(io.BytesIO(out.getvalue()))
        copied(again, Writer(copy, reader.header))
        assert copy.getvalue() == kvmr(events)

    def test_price(self) -> None:
        """Each costs 55 bytes among structural events, about 90 among hot ones, and none when nothing is pending."""
        rows: list[Event] = [Mark(text="x" * 10)] * 400
        hot: list[Event] = [add(0, number % 97, time_ns=number * 1700, task=Task(7, 7)) for number in range(400)]
        assert self.price(rows) in range(52, 58)
        assert self.price(hot) in range(80, 100)

    @staticmethod
    def price(events: list[Event]) -> int:
        """Return the bytes that a flush after each tenth event costs."""
        out = io.BytesIO()
        with Writer(out, HEADER) as writer:
            for number, event in enumerate(events):
                writer.write(event)
                if number % 10 == 9:
                    writer.flush()
                    writer.flush()
            writer.finish(TRAILER)
        return (len(out.getvalue()) - len(kvmr(events))) // (len(events) // 10)


class TestTrouble:
    """When the disk or an event is bad, what was written is a true prefix and nothing follows."""

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_every_full_disk(self, cls: type[Writer | JsonlWriter]) -> None:
        """A disk that fills up at any byte leaves a torn recording, or none when not even the header fitted."""
        events: list[Event] = [Mark(text=f"{number}" * 400) for number in range(300)]
        whole = kvmr(events) if cls is Writer else jsonl(events)
        seen = set()
        for room in [*range(0, 400, 7), *range(400, len(whole), 9973)]:
            disk = Full(room)
            with pytest.raises(UnwritableError, match="no space left on device"):
                write_and_stop(cls, disk, events)
            assert whole.startswith(bytes(disk.data))
            seen.add(len(disk.data) == room)
        assert seen == {True}

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_bad_event(self, cls: type[Writer | JsonlWriter]) -> None:
        """An event that does not fit is named by its number; the one before it is still written."""
        out = io.BytesIO()
        with pytest.raises(EventError, match=r"event 1, mark.text: found 5") as caught:
            write_and_stop(cls, out, [Mark(text="good"), Mark(text=5)])  # type: ignore[arg-type]
        assert caught.value.found == "found 5"
        reading = read if cls is Writer else read_jsonl
        assert reading(out.getvalue())[0] == [Mark(text="good")]

    def test_bad_run(self) -> None:
        """A run with a bad row is not written, nor is anything after it; what was before stays a true prefix."""
        out = io.BytesIO()
        bad = run_of([add(vm=0, gfn=gfn) for gfn in (1, 2, -1)])
        with pytest.raises(EventError, match=r"event 3, write_track.add.gfn: found -1"):
            write_and_stop(Writer, out, [Mark(text="good"), bad, Mark(text="never")])
        events, reader = read(out.getvalue())
        assert events == [Mark(text="good")]
        assert reader.torn

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    def test_nothing_follows_a_full_disk(self, cls: type[Writer | JsonlWriter]) -> None:
        """Behind half a block or half a line nothing is written, also when there is room again."""
        disk = Full(2000)
        writer = cls(disk, HEADER)  # type: ignore[arg-type]  # as much of a file as is needed
        writer.write(Mark(text="x" * 4000))
        with pytest.raises(UnwritableError):
            writer.flush()
        disk.room = 1 << 20
        with pytest.raises(AssertionError, match="nothing may follow"):
            writer.write(Mark(text="never"))
        with pytest.raises(AssertionError, match="nothing may follow"):
            writer.flush()
        with pytest.raises(AssertionError, match="nothing may follow"):
            writer.finish(TRAILER)
        assert len(disk.data) == 2000

    def test_nothing_follows_a_bad_run(self) -> None:
        """Who writes on after the complaint is stopped: the numbers of the events would be others."""
        bad = run_of([add(vm=0, gfn=gfn) for gfn in (1, 2, -1)])
        for use in (lambda writer: writer.write(Mark(text="never")), Writer.flush, lambda writer: writer.finish(TRAILER)):
            writer = Writer(io.BytesIO(), HEADER)
            writer.write(bad)
            with pytest.raises(EventError):
                writer.flush()
            with pytest.raises(AssertionError, match="nothing may follow"):
                use(writer)

    def test_would_block(self) -> None:
        """A pipe that takes nothing, and a disk that can not be synced or renamed on, are said as trouble."""

        class Blocked(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: Any) -> None:
                return None

        with pytest.raises(UnwritableError, match="would block"):
            Writer(Blocked(), HEADER)  # type: ignore[arg-type]
        with pytest.raises(UnwritableError, match="fileno"):
            Writer(io.BytesIO(), HEADER, durable=True)

    def test_rename(self, tmp_path: Path) -> None:
        """When the file can not get its name, .part stays as it is."""
        writer = Writer(tmp_path / "a", HEADER)
        (tmp_path / "a").mkdir()
        with pytest.raises(UnwritableError, match="a: is a directory"):
            writer.finish(TRAILER)
        assert names(tmp_path) == ["a", "a.part"]
        for cls in (Writer, JsonlWriter):
            with pytest.raises(UnwritableError, match="is a directory"):
                self.finish_too_late(cls, tmp_path / cls.__name__)

    @staticmethod
    def finish_too_late(writing: type[Writer | JsonlWriter], target: Path) -> None:
        """Finish a recording whose name is taken meanwhile."""
        with writing(target, HEADER, durable=True) as writer:
            target.mkdir()
            writer.finish(TRAILER)

    def test_misuse(self, tmp_path: Path) -> None:
        """Leaving without finish, writing after it and reading twice are programmer errors."""
        with pytest.raises(AssertionError, match="finish"), Writer(tmp_path / "a", HEADER):
            pass
        assert names(tmp_path) == ["a.part"]
        with pytest.raises(AssertionError, match="finish"), JsonlWriter(tmp_path / "b", HEADER):
            pass
        for cls in (Writer, JsonlWriter):
            writer = cls(io.BytesIO(), HEADER)
            writer.finish(TRAILER)
            with pytest.raises(AssertionError, match="finished"):
                writer.write(Mark(text=""))
            with pytest.raises(AssertionError, match="finished"):
                writer.finish(TRAILER)
            with pytest.raises(AssertionError, match="finished"):
                writer.flush()
        for reader in (KvmrReader(io.BytesIO(kvmr([]))), JsonlReader(io.BytesIO(jsonl([])))):
            with pytest.raises(AssertionError, match="exhausted"):
                reader.trailer()
            assert list(reader.items()) == []
            with pytest.raises(AssertionError, match="once"):
                list(reader.items())
