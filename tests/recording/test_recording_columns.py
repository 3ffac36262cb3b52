"""Columns and frames: every value comes back, in the narrowest form, and only that form is read."""

import io
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings import add, kvmr_of_items
from replay.errors import EventError
from replay.events import Source
from replay.recording import KvmrReader
from replay.recording import columns as columns_module
from replay.recording import decode as decode_module
from replay.recording.columns import MASK, NULLS, Shape, encode_column, is_constant, unzigzag, wrap_signed, wrap_unsigned, zigzag
from replay.recording.decode import Lazy, decode_column
from replay.runs import Constant, Run, run_of

BIG = (1 << 64) - 1
LOW = -(1 << 63)
GFN, RET = Shape("gfn"), Shape("ret", signed=True, nullable=True)
LINE, TIME = Shape("line", nullable=True, differences=True), Shape("time_ns", signed=True, nullable=True, differences=True)
ANY = Shape("any", nullable=True)
U64 = (
    st.integers(0, BIG) | st.integers(0, 300) | st.sampled_from([0, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, BIG - 1, BIG])
)
S64 = st.integers(LOW, (1 << 63) - 1) | st.integers(-3, 3) | st.sampled_from([LOW, LOW + 1, (1 << 63) - 1])


def there_and_back(shape: Shape, values: list[Any]) -> tuple[Any, Any]:
    """Return (description, decoded column) of values."""
    description, data = encode_column(shape, values)
    column, end = decode_column(shape, description, memoryview(data), 0, len(values), 0)
    assert end == len(data)
    return description, column


class TestColumn:
    """One column, alone."""

    @given(st.lists(U64, min_size=1, max_size=40))
    def test_unsigned(self, values: list[int]) -> None:
        """Unsigned values up to 2^64-1 come back."""
        assert list(there_and_back(GFN, values)[1]) == values

    @given(st.lists(U64 | st.none(), min_size=1, max_size=40))
    def test_nullable(self, values: list[int | None]) -> None:
        """So do values mixed with None, plain and as differences."""
        assert list(there_and_back(ANY, values)[1]) == values
        assert list(there_and_back(LINE, values)[1]) == values

    @given(st.lists(S64 | st.none(), min_size=1, max_size=40))
    def test_signed(self, values: list[int | None]) -> None:
        """So do signed values from -2^63 to 2^63-1."""
        assert list(there_and_back(RET, values)[1]) == values
        assert list(there_and_back(TIME, values)[1]) == values

    @pytest.mark.parametrize(
        ("shape", "values", "description"),
        [
            (GFN, [7, 7, 7], 7),
            (GFN, [7], 7),
            (GFN, [0, 255], (1,)),
            (GFN, [0, 256], (2,)),
            (GFN, [0, 65536], (4,)),
            (GFN, [0, 1 << 32], (8,)),
            (GFN, [0, BIG], (8,)),
            (RET, [None, None], None),
            (RET, [-22, -22], -22),
            (RET, [0, -1], (1,)),
            (RET, [None, 0], (1 | NULLS,)),
            (RET, [None, LOW], (8 | NULLS | MASK,)),
            (ANY, [None, 254], (1 | NULLS,)),
            (ANY, [None, 255], (2 | NULLS,)),
            (ANY, [None, BIG - 1], (8 | NULLS,)),
            (ANY, [None, BIG], (8 | NULLS | MASK,)),
            (LINE, [10, 11, 12], (10, 2)),
            (LINE, [10, 10, 10], (10, 0)),
            (LINE, [10], (10, 0)),
            (LINE, [None], (None, 0)),
            (LINE, [None, None], (None, None)),
            (LINE, [5, 4], (5, 1)),
            (LINE, [5, 7, 6], (5, (1,))),
            (LINE, [5, None, 6], (5, (1 | NULLS,))),
            (LINE, [0, BIG, 0], (0, (1,))),
            (TIME, [LOW, (1 << 63) - 1], (LOW, 1)),
            (TIME, [0, LOW, 0], (0, BIG)),
            (TIME, [0, LOW, None], (0, (8 | NULLS | MASK,))),
        ],
    )
    def test_description(self, shape: Shape, values: list[int | None], description: Any) -> None:
        """These columns are described so, and come back."""
        found, column = there_and_back(shape, values)
        assert found == description
        assert list(column) == values

    @pytest.mark.parametrize(
        ("shape", "description", "data", "rows"),
        [
            (GFN, (1,), b"\7\7", 2),  # constant
            (GFN, (2,), b"\7\0\7\0", 2),
            (GFN, (2,), b"\7\0\x08\0", 2),  # wider than needed
            (GFN, (4,), b"\7\0\0\0\x08\1\0\0", 2),
            (GFN, (8,), b"\7\0\0\0\0\0\0\0\x08\1\2\3\0\0\0\0", 2),
            (GFN, (1,), b"\7", 1),  # a single row is a constant
            (GFN, (1,), b"\7", 2),  # too short
            (GFN, (3,), b"\7\7\7\1\1\1", 2),
            (GFN, (0,), b"", 2),
            (GFN, (1 | NULLS,), b"\0\1", 2),  # not nullable
            (GFN, (1, 1), b"\0\1", 2),
            (GFN, (), b"", 2),
            (GFN, (True,), b"\0\1", 2),
            (GFN, None, b"", 2),
            (GFN, -1, b"", 2),
            (GFN, BIG + 1, b"", 2),
            (GFN, True, b"", 2),
            (GFN, "7", b"", 2),
            (RET, (1 | NULLS,), b"\1\2", 2),  # null without null
            (RET, (8 | NULLS | MASK,), b"\0\1" + bytes(6) + bytes(8) + b"\7" + bytes(7), 2),  # a mask where +1 would do
            (RET, (8 | NULLS | MASK,), b"\0\2" + bytes(6) + bytes(8) + b"\xff" * 8, 2),
            (RET, (8 | NULLS | MASK,), b"\0\1" + bytes(5) + b"\1" + bytes(8) + b"\xff" * 8, 2),
            (RET, (8 | NULLS | MASK,), b"\0\1" + bytes(6) + b"\1" + bytes(7) + b"\xff" * 8, 2),
            (RET, (8 | NULLS | MASK,), b"\1\1" + bytes(6) + bytes(8) + b"\xff" * 8, 2),
            (LINE, 7, b"", 2),
            (LINE, (7,), b"", 2),
            (LINE, (-1, 0), b"", 2),
            (LINE, (7, 1), b"", 1),
            (LINE, (7, None), b"", 1),
            (LINE, (7, -1), b"", 2),
            (LINE, (7, BIG + 1), b"", 2),
            (LINE, (7, True), b"", 2),
            (LINE, (7, (1,)), b"\1", 2),
            (LINE, (7, (1,)), b"\1\1", 3),
            (TIME, (1 << 63, 0), b"", 2),
            (Shape("kind", most=69, allowed=b"\x40\x41"), 66, b"", 2),
            (Shape("kind", most=69, allowed=b"\x40\x41"), (1,), b"\x40\x42", 2),
            (Shape("vm", most=65535), (4,), b"\0\0\0\0\0\0\1\0", 2),
            (Shape("file", most=4095, nullable=True), (2,), b"\0\0\0\x10", 2),
            (Shape("file", most=4095, nullable=True), (2 | NULLS,), b"\0\0\1\x10", 2),
        ],
    )
    def test_refused(self, shape: Shape, description: Any, data: bytes, rows: int) -> None:
        """Anything but the one form of a column is an EventError."""
        with pytest.raises(EventError, match=f"run.{shape.name}"):
            decode_column(shape, description, memoryview(data), 0, rows, 0)

    def test_padding(self) -> None:
        """A column starts at a multiple of its width; what lies before is zero."""
        column, end = decode_column(GFN, (2,), memoryview(b"\xee\0\1\0\0\1"), 1, 2, 0)
        assert (list(column), end) == ([1, 256], 6)
        with pytest.raises(EventError, match="padding"):
            decode_column(GFN, (2,), memoryview(b"\xee\1\1\0\0\1"), 1, 2, 0)

    def test_file_limit(self) -> None:
        """File 4095 is the last one."""
        shape = Shape("file", most=4095, nullable=True)
        for values in ([0, 4095], [None, 4095]):
            assert list(there_and_back(shape, list(values))[1]) == values

    @given(st.lists(U64 | st.none(), min_size=2, max_size=20))
    def test_big_endian(self, values: list[int | None]) -> None:
        """On a big-endian machine numbers are turned round on the way out and in; simulated here, both turns are seen."""
        plain = encode_column(ANY, values)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(columns_module, "BIG_ENDIAN", sys.byteorder == "little")
            patch.setattr(decode_module, "BIG_ENDIAN", sys.byteorder == "little")
            description, data = encode_column(ANY, values)
            assert description == plain[0]
            if isinstance(description, tuple) and not description[0] & MASK and sys.byteorder == "little":
                width = description[0] & 15
                turned = b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
                assert turned == plain[1]
                numbers = decode_module.cast(memoryview(data), width)
                assert [int(number) for number in numbers] == [
                    int.from_bytes(data[at : at + width], "big") for at in range(0, len(data), width)
                ]

    @given(S64, U64)
    def test_codes(self, signed: int, unsigned: int) -> None:
        """Zigzag codes fit 64 bits and come back; wrapping is what 64-bit registers do."""
        assert 0 <= zigzag(signed) <= BIG
        assert unzigzag(zigzag(signed)) == signed
        assert wrap_signed(signed + (1 << 64)) == signed
        assert wrap_unsigned(unsigned - (1 << 64)) == unsigned

    def test_constant(self) -> None:
        """Constant and equal lists are constant, others are not."""
        assert is_constant([])
        assert is_constant([None, None])
        assert is_constant(Constant(3, 9))
        assert not is_constant([None, 0])


class TestLazy:
    """A column that is worked out when it is looked at."""

    def test_sequence(self) -> None:
        """It has a length, rows, slices and iteration, and is worked out once."""
        calls: list[int] = []

        def work() -> list[int | None]:
            calls.append(1)
            return [5, None, 6]

        column = Lazy(3, [1, 2, 3], True, work)
        assert len(column) == 3
        assert calls == []
        assert (column[0], column[-1], column[1:], list(column)) == (5, 6, [None, 6], [5, None, 6])
        assert calls == [1]

    def test_reading_does_not_look(self) -> None:
        """Reading a recording works out neither times nor lines nor results."""
        events = [add(vm=0, gfn=i, time_ns=i * i, source=Source(0, i * i), ret=-(i % 3)) for i in range(100)]
        (run,) = KvmrReader(io.BytesIO(kvmr_of_items([run_of(events)]))).items()
        assert isinstance(run, Run)
        for column in (run.time_ns, run.line, run.ret):
            assert isinstance(column, Lazy)
            assert column._held is None
        assert list(run.events()) == events
