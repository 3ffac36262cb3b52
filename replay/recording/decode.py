"""Read the columns of a run from the bytes of a frame; the inverse of `columns`, which describes the form.

A plain column is the bytes themselves, cast. Columns with signs, nulls or differences are kept as they are and worked out
when somebody looks: the engine never asks for times and line numbers of most rows.
What is usual is told by a few looks at all its bytes (`usual_codes`); only where they do not say that all is right are the
rules gone through one by one, for the one that is broken.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Final, overload

from replay.errors import EventError
from replay.recording.columns import BIG_ENDIAN, MASK, NULLS, TYPECODES, Shape, unzigzag, wrap_signed, wrap_unsigned
from replay.recording.fields import misfit
from replay.runs import Constant
from replay.units import U64_MAX, counted


class Lazy(Sequence[int | None]):
    """A column that is worked out when it is first looked at: nulls, signs and differences cost nothing unless asked for.

    raw: what the column is worked out from, for readers that want it in bulk. nulls: some rows hold None.
    """

    __slots__ = ("_held", "_work", "length", "nulls", "raw")

    def __init__(self, length: int, raw: Sequence[int], nulls: bool, work: Callable[[], Sequence[int | None]]) -> None:
        self.length, self.raw, self.nulls, self._work = length, raw, nulls, work
        self._held: Sequence[int | None] | None = None

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int | None]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int | None] | None:
        return self._values()[index]

    def __iter__(self) -> Iterator[int | None]:
        return iter(self._values())

    def _values(self) -> Sequence[int | None]:
        if self._held is None:
            self._held = self._work()
        return self._held


def wrap_of(shape: Shape) -> Callable[[int], int]:
    """Return what brings the sums of a column into its range."""
    return wrap_signed if shape.signed else wrap_unsigned


def sums_of(first: int | None, codes: Sequence[int | None], wrap: Callable[[int], int]) -> list[int | None]:
    """Return the values that differences stand for; the inverse of `differences_of`."""
    if first is not None and None not in codes:
        steps = [(code >> 1) ^ -(code & 1) for code in codes]  # type: ignore[operator]  # no None among them
        sums = list(accumulate(steps, initial=first))
        if wrap(min(sums)) == min(sums) and wrap(max(sums)) == max(sums):
            return sums  # type: ignore[return-value]  # a list of int is only read
    values: list[int | None] = [first]
    previous = first or 0
    for code in codes:
        if code is None:
            values.append(None)
            continue
        previous = wrap(previous + ((code >> 1) ^ -(code & 1)))
        values.append(previous)
    return values


def cast(data: memoryview, width: int) -> memoryview:
    """Return little-endian bytes as unsigned numbers, without a copy where the machine is little-endian."""
    if not BIG_ENDIAN or width == 1:
        return data.cast(TYPECODES[width])  # type: ignore[call-overload,no-any-return]  # one of four known letters
    numbers = array(TYPECODES[width], data.tobytes())
    numbers.byteswap()
    return memoryview(numbers)


def check_narrow(data: memoryview, width: int, where: str) -> None:
    """Raise EventError unless a column needs its width and is not constant; costs about 1 ns a row."""
    raw = data.tobytes()
    if raw[:width] == raw[-width:] and raw == raw[:width] * (len(raw) // width):
        raise EventError("a constant column that is spelled out", where=where, expected="its value once")
    if width > 1 and not any(any(raw[place::width]) for place in range(width // 2, width)):
        raise EventError(f"a column in {width} bytes a row", where=where, expected="the narrowest form")


def column_bytes(form: int, rows: int) -> int:
    """Return how many bytes a column of a form has."""
    if form == 8 | NULLS | MASK:
        return rows + -rows % 8 + 8 * rows
    return (form & 15) * rows


_FORMS: Final = (*TYPECODES,)
_NULLABLE_FORMS: Final = (*TYPECODES, *(width | NULLS for width in TYPECODES), 8 | NULLS | MASK)


def check_form(form: object, where: str, *, nullable: bool) -> int:
    """Return the form when it is one of the known ones; raise EventError otherwise."""
    known = _NULLABLE_FORMS if nullable else _FORMS
    if type(form) is not int or form not in known:
        raise EventError(f"column form {form!r}", where=where, expected=f"one of {list(known)}")
    return form


def decode_nulls(form: int, data: memoryview, rows: int, where: str) -> Lazy:
    """Return a column in which some rows are None; raise EventError unless the form is the right one."""
    if form & MASK:
        return _decode_masked(data, rows, where)
    check_narrow(data, form & 15, where)
    codes = cast(data, form & 15)
    if 0 not in codes:
        raise EventError("a column for null without null", where=where, expected="the narrowest form")
    return Lazy(rows, codes, True, lambda: [code - 1 if code else None for code in codes])


def _decode_masked(data: memoryview, rows: int, where: str) -> Lazy:
    mask, rest, numbers = bytes(data[:rows]), bytes(data[rows : -8 * rows]), cast(data[-8 * rows :], 8)
    legal = not mask.translate(None, b"\0\1") and not any(rest) and 0 in mask
    if not legal or not all(held or not number for held, number in zip(mask, numbers, strict=True)) or max(numbers) != U64_MAX:
        raise EventError("a mask that does not fit its column", where=where, expected="1 for a value, 0 for null")
    return Lazy(rows, numbers, True, lambda: [number if held else None for held, number in zip(mask, numbers, strict=True)])


def _within(shape: Shape, codes: Sequence[int], width: int, *, nulls: bool, where: str) -> None:
    """Raise EventError when a row holds more than the column may; looks at rows only where the width allows it."""
    if shape.allowed and width == 1 and not nulls and bytes(codes).translate(None, shape.allowed):
        raise EventError("a number that no row may hold", where=where, expected=shape.expected)
    most = shape.most + nulls
    if (1 << 8 * width) - 1 > most and max(codes) > most:
        raise EventError(f"number {max(codes) - nulls}", where=where, expected=shape.expected)


def _plain_column(shape: Shape, form: int, data: memoryview, rows: int, where: str) -> Any:
    """Return the column of a form without differences."""
    width = form & 15
    if form & NULLS:
        lazy = decode_nulls(form, data, rows, where)
        if shape.differences:
            return lazy
        if not shape.signed:
            _within(shape, lazy.raw, width, nulls=not form & MASK, where=where)
            return lazy
        return Lazy(rows, lazy.raw, True, lambda: [None if code is None else unzigzag(code) for code in lazy])
    check_narrow(data, width, where)
    codes = cast(data, width)
    if shape.differences:
        return codes
    if shape.signed:
        return Lazy(rows, codes, False, lambda: [unzigzag(code) for code in codes])
    _within(shape, codes, width, nulls=False, where=where)
    return codes


def _form_of(description: Any, where: str, *, nullable: bool) -> int | None:
    """Return the form in a description, None for a constant; raise EventError for what is neither."""
    if type(description) is not tuple:
        return None
    if len(description) != 1:
        raise misfit(where, description, "a value or [form]")
    return check_form(description[0], where, nullable=nullable)


def _take(form: int, data: memoryview, at: int, rows: int, offset: int, where: str) -> tuple[memoryview, int]:
    """Return the bytes of a column and the place behind them; the padding before them must be zeros."""
    start = at + -(offset + at) % (form & 15)
    end = start + (rows if form == 1 else column_bytes(form, rows))
    if end > len(data):
        raise EventError(
            f"a column that ends {counted(end - len(data), 'byte')} behind its frame", where=where, expected="whole columns"
        )
    if at != start and any(data[at:start]):
        raise EventError("padding that is not zero", where=where, expected="zeros")
    return data[start:end], end


_PREFIX_ROWS: Final = 64
"""So many rows nearly always have one that needs the width."""


def usual_codes(shape: Shape, form: object, data: memoryview, at: int, rows: int, offset: int) -> tuple[memoryview, int] | None:
    """Return (numbers, place behind them) of a column without nulls that is as it must be; None when that is not sure.

    Cost: a microsecond, and half a nanosecond a row.
    """
    if BIG_ENDIAN or type(form) is not int or form not in TYPECODES or not rows:
        return None
    start = at + -(offset + at) % form
    end = start + form * rows
    if end > len(data) or (start != at and any(data[at:start])):
        return None
    taken = data[start:end]
    raw = taken.tobytes()
    first = raw[:form]
    if first == raw[-form:] and raw == first * rows:
        return None
    if (1 << 8 * form) - 1 > shape.most and (form > 1 or raw.translate(None, shape.allowed)):
        return None
    if form == 1:
        return taken, end
    half = form // 2
    if not any(raw[half : form * _PREFIX_ROWS : form]) and not any(any(raw[place::form]) for place in range(half, form)):
        return None
    return taken.cast(TYPECODES[form]), end  # type: ignore[call-overload]  # one of four known letters


def sure_codes(shape: Shape, form: int, data: memoryview, at: int, rows: int, offset: int) -> tuple[memoryview, int] | None:
    """Return what `usual_codes` does where a few rows show that all is right, None when that is not sure; rows is at least 1.

    form: a width, and all numbers of it are allowed, or shape.allowed has those that are. Cost: a microsecond.
    """
    start = at + -(offset + at) % form
    end = start + form * rows
    if end > len(data) or (start != at and any(data[at:start])) or BIG_ENDIAN:
        return None
    numbers = data[start:end]
    if form > 1:
        numbers = numbers.cast(TYPECODES[form])  # type: ignore[call-overload]  # one of four known letters
    first, last = numbers[0], numbers[-1]
    if first == last and numbers[rows >> 1] == first:
        raw = numbers.tobytes()
        if raw == raw[:form] * rows:
            return None
    if form == 1:
        return None if shape.allowed and numbers.tobytes().translate(None, shape.allowed) else (numbers, end)
    if (first | last) >> 4 * form or any(data[start : min(end, start + form * _PREFIX_ROWS)].tobytes()[form // 2 :: form]):
        return numbers, end
    return None


def decode_column(shape: Shape, description: Any, data: memoryview, at: int, rows: int, offset: int) -> tuple[Any, int]:
    """Return (column, place behind it) of one described column; raise EventError for any but its canonical form."""
    if shape.differences:
        return _differences(shape, description, data, at, rows, offset)
    if not shape.signed and type(description) is tuple and len(description) == 1:
        usual = usual_codes(shape, description[0], data, at, rows, offset)
        if usual is not None:
            return usual
    where = f"run.{shape.name}"
    form = _form_of(description, where, nullable=shape.nullable)
    if form is None:
        if not shape.holds(description):
            raise misfit(where, description, shape.expected)
        return Constant(description, rows), at
    taken, end = _take(form, data, at, rows, offset, where)
    return _plain_column(shape, form, taken, rows, where), end


def _differences(shape: Shape, description: Any, data: memoryview, at: int, rows: int, offset: int) -> tuple[Any, int]:
    where = f"run.{shape.name}"
    if type(description) is not tuple or len(description) != 2 or not shape.holds(description[0]):
        raise misfit(where, description, f"[first, rest], first {shape.expected}")
    first, rest = description
    wrap = wrap_of(shape)
    if first is not None and type(rest) is tuple and len(rest) == 1:
        usual = usual_codes(shape, rest[0], data, at, rows - 1, offset)
        if usual is not None:
            numbers, end = usual
            return Lazy(rows, numbers, False, partial(sums_of, first, numbers, wrap)), end
    form = _form_of(rest, where, nullable=True)
    if form is None:
        return _constant_differences(shape, first, rest, rows), at
    taken, end = _take(form, data, at, rows - 1, offset, where)
    codes = _plain_column(shape, form, taken, rows - 1, where)
    raw, nulls = (codes.raw, True) if isinstance(codes, Lazy) else (codes, first is None)
    return Lazy(rows, raw, nulls, lambda: sums_of(first, codes, wrap)), end


def _constant_differences(shape: Shape, first: int | None, rest: Any, rows: int) -> Sequence[int | None]:
    """Return a column whose rows all differ by the same from the row before, or are all None."""
    if not (rest is None or (type(rest) is int and 0 <= rest <= U64_MAX)) or (rows == 1 and rest != 0):
        raise misfit(f"run.{shape.name}", rest, "the difference of the rows, 0 for a single row")
    if rows == 1 or (first is None and rest is None) or (first is not None and rest == 0):
        return Constant(first, rows)
    codes = Constant(rest, rows - 1)
    wrap = wrap_of(shape)
    return Lazy(rows, codes, first is None or rest is None, lambda: sums_of(first, codes, wrap))


def has_nulls(column: Sequence[int | None]) -> bool:
    """Say whether some row of a decoded column is None, without working the column out."""
    if isinstance(column, Lazy):
        return column.nulls
    return isinstance(column, Constant) and column.number is None
