"""Frames: runs as columns, whatever pieces they come in; frames that no writer makes are refused."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvmrwriter import columns, pack, recording, segment

from recordings import HOT, add, kvmr_of_items, read
from replay.errors import EventError, LimitError
from replay.events import HotEvent, Task
from replay.recording import KvmrReader
from replay.recording.frames import SHAPES, decode_frame, encode_frame
from replay.runs import Constant, Run, run_of

BIG = (1 << 64) - 1
LOW = -(1 << 63)


class TestFrame:
    """A run as a frame."""

    @given(st.lists(HOT, min_size=1, max_size=20), st.integers(0, 9))
    def test_round_trip(self, events: list[HotEvent], offset: int) -> None:
        """Random hot events come back equal, wherever the frame begins."""
        head, body = encode_frame([run_of(events)], 0, offset)
        run = decode_frame(memoryview(head + body), len(head), len(events), offset)
        assert list(run.events()) == events

    @given(st.lists(HOT, min_size=2, max_size=20), st.integers(1, 19))
    def test_joined(self, events: list[HotEvent], cut: int) -> None:
        """Two runs that touch give the bytes of one, whatever tables of tasks they bring."""
        cut = min(cut, len(events) - 1)
        assert encode_frame([run_of(events[:cut]), run_of(events[cut:])], 0, 0) == encode_frame([run_of(events)], 0, 0)

    def test_no_copy(self) -> None:
        """Arrays of numpy see the bytes of the block itself, aligned to their width."""
        import numpy as np

        events = [add(vm=i % 300, gfn=i << 30, level=i % 2, task=Task(i, i)) for i in range(300)]
        (run,) = KvmrReader(io.BytesIO(kvmr_of_items([run_of(events)]))).items()
        assert isinstance(run, Run)
        for column, dtype in ((run.gfn, np.uint64), (run.vm, np.uint16), (run.level, np.uint8)):
            assert isinstance(column, memoryview)
            array = np.frombuffer(column, dtype)
            assert array.flags.aligned
            assert not array.flags.owndata
            assert array.tolist() == list(column)

    def test_constants_that_differ(self) -> None:
        """Runs of constants give the bytes of the lists that they stand for."""
        events = [add(0, 1), add(0, 1), add(0, 2)]
        runs = list(map(run_of, (events[:2], events[2:])))
        constant = [Run(tasks=(), **{s.name: Constant(getattr(run, s.name)[0], len(run)) for s in SHAPES}) for run in runs]
        assert encode_frame(constant, 0, 0) == encode_frame([run_of(events)], 0, 0)
        assert encode_frame(constant[:1], 0, 0) == encode_frame([run_of(events[:2])], 0, 0)

    def test_half_a_place(self) -> None:
        """A row with a file and no line has no place; neither half is kept."""
        events = [add(vm=0, gfn=1), add(vm=0, gfn=2)]
        run = run_of(events)
        halves = Run(**{**{s.name: getattr(run, s.name) for s in SHAPES}, "tasks": (), "file": [0, None], "line": [None, 5]})
        assert encode_frame([halves], 0, 0) == encode_frame([run], 0, 0)

    def test_tasks(self) -> None:
        """Unused and repeated tasks are dropped, the others stand in order of first use."""
        used = [
            add(vm=0, gfn=1, task=Task(2, 2)),
            add(vm=0, gfn=1, task=Task(1, 1)),
            add(vm=0, gfn=1),
        ]
        run = run_of(used)
        odd = Run(
            **{
                **{s.name: getattr(run, s.name) for s in SHAPES},
                "tasks": (Task(1, 1), Task(9, 9), Task(2, 2), Task(1, 1)),
                "task": [2, 3, None],
            }
        )
        assert list(odd.events()) == used
        assert encode_frame([odd], 0, 0) == encode_frame([run], 0, 0)

    @pytest.mark.parametrize(
        ("column", "rows", "message"),
        [
            ("gfn", [1, -1], "event 8, write_track.add.gfn: found -1; expected 0 to 18446744073709551615"),
            ("gfn", [1, BIG + 1], "event 8, write_track.add.gfn: found"),
            ("gfn", [1, 1.5], "event 8, write_track.add.gfn: found 1.5"),
            ("gfn", [None, 1], "event 7, write_track.add.gfn: found None"),
            ("kind", [64, 63], "event 8, run.kind: found 63"),
            ("kind", [64, 70], "event 8, run.kind: found 70"),
            ("vm", [0, 65536], "event 8, write_track.add.vm: found 65536; expected 0 to 65535"),
            ("as_id", [256, 256], "event 7, write_track.add.as_id: found 256"),
            ("nested", [2, 2], "event 7, write_track.add.nested: found 2; expected 0 to 1"),
            ("ret", [1 << 63, None], "event 7, write_track.add.ret: found 9223372036854775808; expected signed 64-bit or null"),
            ("file", [4096, 0], "event 7, write_track.add.file: found 4096"),
            ("task", [0, 1], "run.task: found 1; expected an index into its 1 tasks, or null"),
            ("task", [0, -1], "run.task: found -1"),
        ],
    )
    @pytest.mark.parametrize("length", [2, 200])
    def test_misfits(self, column: str, rows: list[Any], message: str, length: int) -> None:
        """A row that does not fit is named by event number and field."""
        run = run_of([add(vm=0, gfn=1, task=Task(1, 1))] * length)
        bad = Run(
            **{**{s.name: getattr(run, s.name) for s in SHAPES}, "tasks": run.tasks, column: rows + rows[1:] * (length - 2)}
        )
        with pytest.raises(EventError) as caught:
            encode_frame([bad], 7, 0)
        assert str(caught.value).startswith(message)

    def test_task_misfit(self) -> None:
        """A task that is none is refused."""
        with pytest.raises(EventError, match=r"task.pid: found -1"):
            encode_frame([run_of([add(vm=0, gfn=1, task=Task(-1, 0))])], 0, 0)


def frame(*, events: int = 2, tasks: tuple[Any, ...] = (), data: bytes = b"", **changed: Any) -> bytes:
    """Return a file with one frame: constant columns but for those that are given."""
    constant: dict[str, Any] = {shape.name: 0 for shape in SHAPES}
    constant |= {"kind": 64, "ret": None, "task": None, "time_ns": [None, None], "file": None, "line": [None, None]}
    return recording((columns(events, tasks, *(constant | changed).values(), data=data), events))


class TestFramesInFiles:
    """Frames that no writer makes are refused."""

    def test_plain(self) -> None:
        """The frame that the others are made from is read."""
        assert read(frame())[0] == [add(vm=0, gfn=0)] * 2

    @pytest.mark.parametrize(
        "data",
        [
            frame(data=b"\0"),
            frame(tasks=((1, 2),)),
            frame(tasks=((1, 2), (3, 4)), task=1),
            frame(tasks=((1, 2), (1, 2)), task=0),
            frame(tasks=((1,),), task=0),
            frame(tasks=((1, 1 << 32),), task=0),
            frame(tasks=(5,), task=0),
            frame(task=0),
            frame(tasks=((1, 2),), task=1),
            frame(file=0),
            frame(line=[5, 0]),
            frame(events=1, time_ns=[None, 1], line=[None, 0]),
            frame(nested=2),
            frame(nested=True),
            frame(kind=63),
            frame(kind=1),
            frame(vm=65536),
            frame(gfn=1.5),
            frame(gfn=[1], data=b"\1\1"),
            frame(extra=0),
        ],
    )
    def test_refused(self, data: bytes) -> None:
        """Each is an EventError with block and event number."""
        with pytest.raises(EventError, match="block 1 at byte 52, event 0, run"):
            read(data)

    def test_task_order(self) -> None:
        """Tasks stand in the order of first use, in narrow and in wide columns."""
        for count in (3, 300):
            tasks, right = [(i, i) for i in range(count)], list(range(count))
            width = 1 if count < 256 else 2

            def file_of(order: list[int], tasks: list[tuple[int, int]] = tasks, width: int = width) -> bytes:
                raw = b"".join(i.to_bytes(width, "little") for i in order)
                return wide_frame(tasks, width, raw)

            assert read(file_of(right))[0] == [add(vm=0, gfn=0, task=Task(i, i)) for i in right]
            for wrong in ([1, 0, *right[2:]], [*right[:-1], 0], [*right[:-1], count]):
                with pytest.raises(EventError, match=r"order of first use|expected one of|0 to"):
                    read(file_of(wrong))

    def test_neighbours(self) -> None:
        """Two frames, or two segments of rows, one behind the other in a block are refused: they are one."""
        one = columns(1, (), 64, 0, 0, 0, 0, 0, None, None, [None, 0], None, [None, 0], 0)
        assert len(read(recording((one, 1)))[0]) == 1
        with pytest.raises(EventError, match="tag 2 after 2"):
            read(recording((one + one, 2)))


def wide_frame(tasks: list[tuple[int, int]], width: int, raw: bytes) -> bytes:
    """Return a file with one frame of constant columns but for the tasks, which have these bytes."""
    head = pack([tasks, 64, 0, 0, 0, 0, 0, None, [width], [None, None], None, [None, None], 0])
    pad = bytes(-(16 + len(head)) % width)
    return recording((segment(2, len(raw) // width, head + pad + raw, head_bytes=len(head)), len(raw) // width))


class TestLimitsOfRuns:
    """A run has at most 16384 rows and as many tasks."""

    def test_most_tasks(self) -> None:
        """16384 tasks in a run are read again; the frame stays within a block."""
        events = [
            add(vm=i * 3, gfn=BIG - i, as_id=i % 256, level=i % 256, ret=LOW + i, task=Task(i, (1 << 32) - 1))
            for i in range(16384)
        ]
        data = kvmr_of_items([run_of(events)])
        assert read(data)[0] == events

    def test_one_more(self) -> None:
        """A frame of more tasks is refused by the reader."""
        tasks = tuple((i, i) for i in range(16385))
        with pytest.raises((EventError, LimitError)):
            read(frame(tasks=tasks, task=0))
