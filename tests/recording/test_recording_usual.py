"""What is usual in a frame is taken at a few looks; whatever is not goes the careful way, and is refused there."""

import pytest

from replay.errors import EventError
from replay.events import Task, WriteTrackAdd
from replay.recording.columns import Shape
from replay.recording.decode import decode_column, usual_codes
from replay.recording.frames import decode_frame, encode_frame
from replay.recording.wire import pack, unpack, unpack_one
from replay.runs import run_of
from replay.units import Gfn

GFN = Shape("gfn")
FLAG = Shape("nested", most=1, allowed=b"\0\1")
VM = Shape("vm", most=65535)


class TestUsualCodes:
    """Only a column of which nothing is in doubt is usual."""

    def test_usual(self) -> None:
        """Numbers and the place behind them, from where the column is aligned."""
        found = usual_codes(GFN, 2, memoryview(b"\xee\0\1\0\0\1"), 1, 2, 0)
        assert found is not None
        numbers, end = found
        assert (numbers.tolist(), end) == ([1, 256], 6)

    def test_first_rows_are_narrow(self) -> None:
        """A column whose first rows would be narrower is usual when a later one needs the width."""
        data = memoryview(b"\1\0" * 100 + b"\0\1")
        assert usual_codes(GFN, 2, data, 0, 101, 0) is not None

    @pytest.mark.parametrize(
        ("shape", "form", "data", "rows"),
        [
            (GFN, 1, b"", 0),
            (GFN, True, b"\1\2", 2),
            (GFN, 3, b"\1\2\3\4\5\6", 2),
            (GFN, 0x11, b"\1\0", 2),
            (GFN, 1, b"\1", 2),
            (GFN, 1, b"\1\1", 2),
            (GFN, 2, b"\1\0\2\0", 2),
            (GFN, 8, b"\1\0\0\0\0\0\0\0\2\1\1\1\0\0\0\0", 2),
            (FLAG, 1, b"\0\2", 2),
            (FLAG, 2, b"\0\0\1\1", 2),
            (VM, 4, b"\0\0\0\0\1\1\1\1", 2),
        ],
    )
    def test_unusual(self, shape: Shape, form: int, data: bytes, rows: int) -> None:
        """No rows, no such form, nulls, too few bytes, a constant, too wide, and numbers that may not be: not sure."""
        assert usual_codes(shape, form, memoryview(data), 0, rows, 0) is None

    def test_padding(self) -> None:
        """Padding that is not zero is not usual, and is refused."""
        data = memoryview(b"\xee\1\1\0\0\1")
        assert usual_codes(GFN, 2, data, 1, 2, 0) is None
        with pytest.raises(EventError, match="padding that is not zero"):
            decode_column(GFN, (2,), data, 1, 2, 0)


class TestHead:
    """A head is taken at one look only when its bytes are what the writer would write."""

    @pytest.mark.parametrize("data", [b"", b"\x91", b"\x01\x01", b"\xcc\x01", b"\x81\x01\x01", b"\xc1", b"\xdc\x00\x01\x01"])
    def test_refused_alike(self, data: bytes) -> None:
        """One value is refused in the words in which several are."""
        with pytest.raises(EventError) as one:
            unpack_one(data)
        with pytest.raises(EventError) as several:
            unpack(data, 1)
        assert str(one.value) == str(several.value)

    def test_long_list(self) -> None:
        """A list that is longer than most is read all the same."""
        value = tuple(range(1000))
        assert unpack_one(pack(value)) == value

    def test_true_is_no_task(self) -> None:
        """Tasks of an earlier frame do not stand for ones that are only equal to them: true is not 1."""
        run = run_of([WriteTrackAdd(vm=0, gfn=Gfn(gfn), task=Task(1, 1)) for gfn in (16, 4096)])
        head, body = encode_frame([run], 0, 0)
        assert decode_frame(memoryview(head + body), len(head), 2, 0).tasks == (Task(1, 1),)
        forged = head.replace(pack((Task(1, 1).pid, 1)), pack((True, 1)))
        assert forged != head
        with pytest.raises(EventError, match=r"tasks\[0\]\.pid"):
            decode_frame(memoryview(forged + body), len(forged), 2, 0)
