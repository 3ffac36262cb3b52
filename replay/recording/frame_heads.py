"""Know heads of frames again: frames of one recording have few, which differ in the first time and the first line alone.

A head that was decoded and found right is taken apart into its bytes around these two numbers. One that has the same bytes there
is right as well and says the same, and only its two numbers are to be looked at: nothing of it is decoded.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from replay.events import Task
from replay.recording.columns import TYPECODES, Shape
from replay.recording.wire import pack
from replay.runs import Constant

_LEAST: Final[dict[int, tuple[int, int]]] = {0xCC: (1, 1 << 7), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}
"""Bytes behind the first byte of a number in MessagePack, and the least number that needs them."""
_LENGTHS_MOST: Final = 64
_FIXED_MOST: Final = 0x7F


@attrs.frozen
class Step:
    """How one column that is not constant is read. form: of its numbers, 0 where only `decode_column` can tell.

    first: which of the head's numbers the column starts with, -1 for a column without differences. usual: every number of that
    width is allowed, or shape.allowed says which.
    """

    shape: Shape
    description: Any
    form: int
    first: int
    usual: bool


@attrs.define(eq=False)
class Head:
    """What all frames with such a head have alike.

    pieces: its bytes around its numbers. steps: columns that are to be read. constants: what the other columns hold.
    plain: tasks and places need no look at rows.
    """

    pieces: tuple[bytes, ...]
    tasks: tuple[Task, ...]
    steps: tuple[Step, ...]
    constants: tuple[tuple[str, Any], ...]
    plain: bool
    by_length: dict[int, dict[str, Any]] = attrs.field(factory=dict)

    def columns(self, rows: int) -> dict[str, Any]:
        """Return the constant columns of a frame of some length, in a dict of its own."""
        found = self.by_length.get(rows)
        if found is None:
            if len(self.by_length) >= _LENGTHS_MOST:
                self.by_length.clear()
            found = self.by_length[rows] = {name: Constant(number, rows) for name, number in self.constants}
        return dict(found)

    def numbers(self, head: bytes) -> list[int] | None:
        """Return the numbers between the pieces; None unless there are such pieces and unsigned canonical numbers."""
        found: list[int] = []
        at = len(self.pieces[0])
        for piece in self.pieces[1:]:
            first = head[at] if at < len(head) else 0xC0
            if first <= _FIXED_MOST:
                number, end = first, at + 1
            else:
                size, least = _LEAST.get(first, (0, 0))
                end = at + 1 + size
                number = int.from_bytes(head[at + 1 : end], "big")
                if not size or number < least:
                    return None
            if not head.startswith(piece, end):
                return None
            found.append(number)
            at = end + len(piece)
        return found if at == len(head) else None


class Heads:
    """Heads that were met, a few: when there are more, they are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: tuple[int, ...] = ()
        self._by_start: dict[bytes, list[Head]] = {}
        self._count = 0

    def find(self, data: bytes) -> tuple[Head, list[int]] | None:
        """Return the head that these bytes are, and its numbers; None for one that is new."""
        for size in self._sizes:
            for head in self._by_start.get(data[:size], ()):
                numbers = head.numbers(data)
                if numbers is not None:
                    return head, numbers
        return None

    def add(self, head: Head) -> None:
        """Keep a head."""
        if self._count >= self._most:
            self._by_start, self._sizes, self._count = {}, (), 0
        start = head.pieces[0]
        self._by_start.setdefault(start, []).append(head)
        self._sizes = tuple(sorted({*self._sizes, len(start)}))
        self._count += 1


def head_of(head: Sequence[Any], shapes: Sequence[Shape], tasks: tuple[Task, ...]) -> Head:
    """Return what is alike in frames whose head has these values, all of which were found right."""
    pieces, steps, constants = [bytes((0x90 | len(head),)) + pack(head[0])], [], []
    for shape, description in zip(shapes, head[1:], strict=True):
        first = -1
        if shape.differences and type(description[0]) is int:
            first = len(pieces) - 1
            pieces[-1] += b"\x92"
            pieces.append(pack(description[1]))
        else:
            pieces[-1] += pack(description)
        if type(description) is tuple and not (shape.differences and description == (None, None)):
            steps.append(_step(shape, description, first))
        else:
            constants.append((shape.name, None if shape.differences else description))
    return Head(tuple(pieces), tasks, tuple(steps), tuple(constants), _is_plain(head, shapes, tasks))


def _step(shape: Shape, description: Any, first: int) -> Step:
    """Return how a column is read: `form` is 0 unless a few looks at its numbers can tell that all is right."""
    codes = description[1] if first >= 0 else description
    known = type(codes) is tuple and len(codes) == 1 and codes[0] in TYPECODES and (first >= 0 or not shape.differences)
    form = codes[0] if known else 0
    usual = first >= 0 or (not shape.signed and ((1 << 8 * form) - 1 <= shape.most or (form == 1 and bool(shape.allowed))))
    return Step(shape, description, form if usual else 0, first, usual)


def _is_plain(head: Sequence[Any], shapes: Sequence[Shape], tasks: tuple[Task, ...]) -> bool:
    """Tell whether tasks are used, and files and lines both known or both not, in whatever rows have such a head."""
    by_name = {shape.name: description for shape, description in zip(shapes, head[1:], strict=True)}
    task, file, line = by_name["task"], by_name["file"], by_name["line"]
    one = (task, len(tasks)) in ((None, 0), (0, 1))
    without = file is None and line == (None, None)
    numbers = type(line[1]) is int or (type(line[1]) is tuple and line[1][0] in TYPECODES)
    known = (type(file) is int or (type(file) is tuple and file[0] in TYPECODES)) and type(line[0]) is int and numbers
    return one and (without or known)
