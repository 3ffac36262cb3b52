"""What is remembered between blocks, heads of frames, tasks, memory and ways to make values, changes no answer."""

import io
import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import HOT, add, kvmr_of_items
from replay.errors import EventError, UnreadableError
from replay.events import HotEvent, MemslotSet, Source, Task, all_kinds
from replay.recording import KvmrReader, decoders, files, frames, wire
from replay.recording.codec import value_to_wire
from replay.recording.decoders import plain_value
from replay.recording.fields import fields_of
from replay.recording.files import Input, Room
from replay.recording.frame_heads import Heads
from replay.recording.frames import decode_frame, encode_frame
from replay.recording.wire import unpack
from replay.runs import COLUMNS, Run, run_of


def answer(head: int, data: bytes, rows: int) -> Any:
    """Return the events of a frame, or what is said against it."""
    try:
        run = decode_frame(memoryview(data), head, rows, 16)
    except EventError as error:
        return str(error)
    return [list(getattr(run, name)) for name in COLUMNS], run.tasks


def without_memory(head: int, data: bytes, rows: int) -> Any:
    """Return the same of who meets its first frame."""
    kept, frames._HEADS = frames._HEADS, Heads(256)  # type: ignore[misc]
    try:
        return answer(head, data, rows)
    finally:
        frames._HEADS = kept  # type: ignore[misc]


def rows_of_kind(rng: random.Random, rows: int) -> list[HotEvent]:
    """Return hot events in whose frames some columns are constant, and others of any width."""
    start, gap = rng.choice((0, 1 << 20, 1 << 40, 5)), rng.choice((0, 1, 300, 70000, 1 << 33))
    gfn, vms, lines = rng.choice((1, 200, 60000, 1 << 30, 1 << 50)), rng.choice((1, 1, 3, 300)), rng.choice((0, 1, 1, 500))
    return [
        add(
            vm=rng.randrange(vms),
            gfn=rng.randrange(gfn),
            time_ns=start + row * gap + rng.randrange(gap + 1) if gap or start else None,
            source=Source(0, 7 + row * lines) if lines else None,
            task=Task(1, 1) if vms < 3 else None,
            nested=bool(gfn > 999 and row % 3),
        )
        for row in range(rows)
    ]


class TestHeads:
    """A frame is the same to who has met such a head, and to who has not."""

    @given(st.lists(HOT, min_size=1, max_size=8))
    def test_any_frame(self, events: list[HotEvent]) -> None:
        """Of any rows, met for the first and for the second time."""
        head, body = encode_frame([run_of(events)], 0, 16)
        met = without_memory(len(head), head + body, len(events))
        assert answer(len(head), head + body, len(events)) == met
        assert answer(len(head), head + body, len(events)) == met
        assert list(decode_frame(memoryview(head + body), len(head), len(events), 16).events()) == events

    @pytest.mark.parametrize("seed", range(4))
    def test_any_change(self, seed: int) -> None:
        """Of frames with any byte changed, or with more or fewer rows: the same rows or the same complaint."""
        rng, said, read_again = random.Random(seed), set(), 0
        for _ in range(60):
            rows = rng.choice((1, 2, 3, 9, 200))
            events = rows_of_kind(rng, rows)
            head, body = encode_frame([run_of(events)], 0, 16)
            whole = head + body
            assert answer(len(head), whole, rows) == without_memory(len(head), whole, rows)
            for _ in range(60):
                changed = bytearray(whole)
                for _ in range(rng.choice((0, 1, 1, 2))):
                    place = rng.randrange(len(head) if rng.random() < 0.8 else len(whole))
                    changed[place] = rng.choice((0, 1, 2, 255, rng.randrange(256)))
                count = rows + rng.choice((0, 0, 0, 1, -1 if rows > 1 else 0))
                data = bytes(changed[: len(changed) - rng.choice((0, 0, 0, 1, 9))])
                found = answer(len(head), data, count)
                assert found == without_memory(len(head), data, count)
                read_again += not isinstance(found, str)
                said.add(found[:30] if isinstance(found, str) else "")
        assert read_again > 300
        assert len(said) > 15

    def test_found_again(self) -> None:
        """Frames that differ in the first time and the first line are of one head; a few heads are kept, not all."""
        heads = Heads(4)
        for number in range(40):
            rows = [add(vm=0, gfn=gfn, time_ns=number * 1000 + gfn, source=Source(0, number + gfn)) for gfn in (1, 3, 300)]
            head, body = encode_frame([run_of(rows)], 0, 16)
            run = decode_frame(memoryview(head + body), len(head), 3, 16)
            found = frames._HEADS.find(head)
            assert found is not None
            assert found[1] == [number * 1000 + 1, number + 1]
            assert list(run.events()) == rows
            heads.add(attrs.evolve(found[0], pieces=(bytes([number]), *found[0].pieces[1:])))
        assert 0 < sum(map(len, heads._by_start.values())) <= 4

    @pytest.mark.parametrize(
        "number", [b"\xcc\x7f", b"\xcd\x00\xff", b"\xce\x00\x00\xff\xff", b"\xcf\x00\x00\x00\x00\xff\xff\xff\xff"]
    )
    def test_longer_numbers(self, number: bytes) -> None:
        """A number in more bytes than it needs is refused also where the rest of the head is known."""
        rows = [add(vm=0, gfn=gfn, time_ns=40 + gfn) for gfn in (1, 3, 300)]
        head, body = encode_frame([run_of(rows)], 0, 0)
        decode_frame(memoryview(head + body), len(head), 3, 0)
        assert head.count(b"\x92\x29") == 1
        forged = head.replace(b"\x92\x29", b"\x92" + number)
        with pytest.raises(EventError, match="another form than the shortest"):
            decode_frame(memoryview(forged + body), len(forged), 3, 0)

    def test_time_out_of_range(self) -> None:
        """A first time that no signed number holds is refused also where the rest of the head is known."""
        rows = [add(vm=0, gfn=gfn, time_ns=(1 << 62) + gfn) for gfn in (1, 3, 300)]
        head, body = encode_frame([run_of(rows)], 0, 0)
        assert head.count(b"\xcf\x40") == 1
        forged = head.replace(b"\xcf\x40", b"\xcf\x80")
        decode_frame(memoryview(head + body), len(head), 3, 0)
        with pytest.raises(EventError, match=r"run.time_ns: found .*; expected \[first, rest\]"):
            decode_frame(memoryview(forged + body), len(forged), 3, 0)


class TestMaking:
    """Values of classes that are made often are made another way, and are the same."""

    @pytest.mark.parametrize("often", [1, 3])
    def test_as_before(self, often: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are equal, of the class itself, with the same hash, and nobody can write to them."""
        monkeypatch.setattr(decoders, "_OFTEN", often)
        monkeypatch.setattr(decoders, "_MAKERS", {})
        monkeypatch.setattr(decoders, "_SHAPES", {})
        event = MemslotSet(vm=0, slot=3, memory_size=4096, ret=0, task=Task(1, 2), time_ns=-5, source=Source(0, 7))
        packed = value_to_wire(MemslotSet, event, "here")
        for _ in range(5):
            found = plain_value(MemslotSet, packed)
            assert found == event
            assert found is not None
            assert (type(found), hash(found), repr(found)) == (MemslotSet, hash(event), repr(event))
            assert type(found.source) is Source
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                found.slot = 4  # type: ignore[misc]
            assert attrs.evolve(found, slot=5).slot == 5
        assert decoders._MAKERS[MemslotSet].twin is not None

    @pytest.mark.parametrize("cls", [*(cls for cls in all_kinds() if not cls.HOT), Task, Source])
    def test_every_class(self, cls: type[Any]) -> None:
        """A value of each class can be made so: no field is forgotten, none stands in another's place."""
        twin, fields = decoders._twin(cls), fields_of(cls)
        made = twin(*range(len(fields)))
        made.__class__ = cls
        assert [getattr(made, field.name) for field in fields] == list(range(len(fields)))
        short = twin()
        assert [getattr(short, field.name) for field in fields] == [field.default for field in fields]

    def test_tasks_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that comes again is the one before; true is no number of a task; not all are kept."""
        monkeypatch.setattr(decoders, "_SHAPES", {})
        monkeypatch.setattr(decoders, "_KEPT_MOST", 8)
        first = plain_value(Task, (1, 1))
        assert first == Task(1, 1)
        assert plain_value(Task, (1, 1)) is first
        assert plain_value(Task, (True, 1)) is None
        assert plain_value(Task, (1 << 32, 1)) is None
        for number in range(30):
            assert plain_value(Task, (number, 1)) == Task(number, 1)
        (shape,) = [shape for shape in decoders._SHAPES.values() if shape is not None]
        assert shape.kept is not None
        assert 0 < len(shape.kept) <= 8


class TestFewValues:
    """A few values are taken at one look only when they are what the writer would write."""

    BAD = (b"", b"\x01", b"\x01\x01\x01", b"\x01\xcc\x01", b"\x81\x01\x01", b"\xc1\x01", b"\x01\xa1", b"\x91", b"\x01\xa1\xff")

    @pytest.mark.parametrize("data", BAD)
    def test_refused_alike(self, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """The others are refused in the words of the careful way."""
        with pytest.raises(EventError) as one:
            unpack(data, 2)
        monkeypatch.setattr(wire, "_few", lambda _raw, _count: None)
        with pytest.raises(EventError) as other:
            unpack(data, 2)
        assert str(one.value) == str(other.value)

    @pytest.mark.parametrize("count", [0, 1, 15, 16, 300])
    def test_any_count(self, count: int) -> None:
        """However many there are, they come back."""
        values = [(number, "x" * number) for number in range(count)]
        assert unpack(b"".join(map(wire.pack, values)), count) == values

    def test_packer_after_trouble(self) -> None:
        """What can not be packed leaves nothing behind."""
        for odd in ((1, 1 << 64), (1, "\ud800"), (1, object())):
            with pytest.raises((OverflowError, UnicodeEncodeError, TypeError)):
                wire.pack(odd)
            assert wire.pack((1, 2)) == b"\x92\x01\x02"


class _Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        piece = self._data.read(min(7, len(room)))
        room[: len(piece)] = piece
        return len(piece)


class _OnlyRead:
    """A stream that can read, and no more."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(size)


class _Broken(io.BytesIO):
    """A stream whose second half can not be read."""

    def readinto(self, room: Any) -> int:
        if self.tell() > 40:
            raise OSError(5, "Input/output error")
        return super().readinto(room)


class TestRoom:
    """Memory is used again when nobody looks into it, and never before."""

    def test_used_again(self) -> None:
        """The next block takes the place of one that is gone; one that is looked into keeps its bytes."""
        room = Room()
        first = room.take(10)
        place = first.obj
        first.release()
        again = room.take(20)
        assert again.obj is place
        again[:3] = b"abc"
        column = again[:3].cast("B")
        others = [room.take(size) for size in (5, 0, 100000, 7, 1 << 20, 1)]
        for other in others:
            other[:] = b"x" * len(other)
        assert column.tobytes() == b"abc"
        assert [len(other) for other in others] == [5, 0, 100000, 7, 1 << 20, 1]
        assert len({id(other.obj) for other in (again, *others)}) == 7
        assert len(room._pieces) == files._PIECES_MOST

    def test_larger(self) -> None:
        """A piece that is too small is given up for a larger one."""
        room = Room()
        for size in (1, 1 << 16, (1 << 16) + 1, 1 << 20, 3):
            assert len(room.take(size)) == size
        assert [len(piece) for piece in room._pieces] == [1 << 20]

    def test_other_pythons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where Python does not say who looks, nothing is used again."""
        monkeypatch.setattr("sys.implementation", type("Other", (), {"name": "other"}))
        room = Room()
        first = room.take(1).obj
        assert room.take(1).obj is not first

    def test_runs_that_are_kept(self) -> None:
        """Whoever keeps all runs of a long recording has them as they were, and so has who keeps some."""
        import numpy as np

        items = [
            run_of([add(vm=number % 5, gfn=row * 7 + number, time_ns=row * row) for row in range(16384)]) for number in range(8)
        ]
        data = kvmr_of_items(items)
        every = [[list(getattr(run, name)) for name in COLUMNS] for run in items]
        for kept in (range(8), (0, 5), ()):
            runs: dict[int, Run] = {}
            arrays: dict[int, Any] = {}
            for number, item in enumerate(KvmrReader(io.BytesIO(data)).items()):
                assert isinstance(item, Run)
                if number in kept:
                    runs[number] = item
                else:
                    assert isinstance(item.gfn, memoryview)
                    arrays[number] = np.frombuffer(item.gfn, f"u{item.gfn.itemsize}")
            for number, run in runs.items():
                assert [list(getattr(run, name)) for name in COLUMNS] == every[number]
            for number, array in arrays.items():
                assert array.tolist() == every[number][COLUMNS.index("gfn")]
            del runs, arrays

    @pytest.mark.parametrize("stream", [_Dribble, _OnlyRead, io.BytesIO, lambda data: io.BufferedReader(_Dribble(data), 5)])
    def test_any_stream(self, stream: Callable[[bytes], Any]) -> None:
        """A stream that gives bytes in pieces, or that knows only how to read, is read as any other."""
        events = [add(vm=0, gfn=gfn) for gfn in range(10000)]
        data = kvmr_of_items([run_of(events)])
        source = Input(stream(data))
        assert source.peek(9) == data[:9]
        piece = bytearray(5)
        assert (source.read_into(memoryview(piece)), source.position, bytes(piece)) == (5, 5, data[:5])
        piece = bytearray(20)
        assert (source.read_into(memoryview(piece)), source.position, bytes(piece)) == (20, 25, data[5:25])
        piece = bytearray(len(data))
        assert (source.read_into(memoryview(piece)), source.position) == (len(data) - 25, len(data))
        (run,) = KvmrReader(stream(data)).items()
        assert isinstance(run, Run)
        assert list(run.events()) == events

    def test_trouble(self) -> None:
        """What the system can not read is said with its place."""
        data = kvmr_of_items([run_of([add(vm=0, gfn=gfn) for gfn in range(10000)])])
        with pytest.raises(UnreadableError, match="byte 163: input/output error"):
            list(KvmrReader(_Broken(data)).items())
