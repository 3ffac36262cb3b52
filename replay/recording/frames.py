"""Turn the hot events between two structural ones into one frame of columns, and back.

A frame is a head (canonical MessagePack: the tasks, then one description a column, in the order of SHAPES) and the columns'
bytes, each aligned to its own width and padded with zeros. `columns` says how one column is described.
Tasks stand in the order in which rows first use them, and none is unused; a row without a file has no line and the other
way round. So a frame's bytes depend only on its events, not on how they were handed over.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final

from replay.errors import EventError
from replay.events import Task
from replay.recording.codec import value_of_wire, value_to_wire
from replay.recording.columns import Shape, encode_column, is_constant
from replay.recording.decode import Lazy, decode_column, has_nulls, sums_of, sure_codes, wrap_of
from replay.recording.fields import misfit
from replay.recording.frame_heads import Heads, Step, head_of
from replay.recording.limits import RUN_TASKS, SOURCE_FILES, VM_NUMBER, keep
from replay.recording.wire import pack, unpack_one
from replay.runs import HOT_CLASSES, Constant, Run
from replay.units import counted

FLAG_BYTES: Final = b"\0\1"

SHAPES: Final[tuple[Shape, ...]] = (
    Shape("kind", most=max(HOT_CLASSES), allowed=bytes(sorted(HOT_CLASSES))),
    Shape("vm", most=VM_NUMBER.most),
    Shape("as_id", most=255),
    Shape("gfn"),
    Shape("level", most=255),
    Shape("nested", most=1, allowed=FLAG_BYTES),
    Shape("ret", signed=True, nullable=True),
    Shape("task", most=RUN_TASKS.most - 1, nullable=True),
    Shape("time_ns", signed=True, nullable=True, differences=True),
    Shape("file", most=SOURCE_FILES.most - 1, nullable=True),
    Shape("line", nullable=True, differences=True),
    Shape("inferred", most=1, allowed=FLAG_BYTES),
)

_FEW_TASKS: Final = 4
_TASKS_KEPT: Final = 64
_ONE_TASK: Final = ((None, 0), (0, 1))
"""Index and number of tasks where all rows are of one task, known or not."""

_HEADS: Final = Heads(256)

Values = Constant | list[Any]


def _flat(parts: Sequence[Sequence[Any]]) -> Values:
    """Return the parts of a column as one: a Constant where every row is the same, otherwise a list."""
    if all(isinstance(part, Constant) for part in parts):
        numbers = {part[0] for part in parts}
        if len(numbers) == 1:
            return Constant(numbers.pop(), sum(map(len, parts)))
    rows = list(chain.from_iterable(part.tolist() if hasattr(part, "tolist") else part for part in parts))
    return Constant(rows[0], len(rows)) if is_constant(rows) else rows


def _tasks_of(runs: Sequence[Run]) -> tuple[Values, tuple[Task, ...]]:
    """Return the task column of several runs over one table of tasks, in order of first use."""
    table: dict[Task, int] = {}
    parts: list[Sequence[Any]] = []
    for run in runs:
        used = (run.task[0],) if isinstance(run.task, Constant) else dict.fromkeys(run.task)
        new: dict[int | None, int | None] = {}
        for index in used:
            if index is not None and not 0 <= index < len(run.tasks):
                raise misfit("run.task", index, f"an index into its {len(run.tasks)} tasks, or null")
            new[index] = None if index is None else table.setdefault(run.tasks[index], len(table))
        parts.append(run.task if all(old == index for old, index in new.items()) else [new[index] for index in run.task])
    return _flat(parts), tuple(table)


def _paired(file: Values, line: Values) -> tuple[Values, Values]:
    """Return file and line with None in both where either is: half a place is no place."""
    if not any(column.number is None if isinstance(column, Constant) else None in column for column in (file, line)):
        return file, line
    rows = [(None, None) if f is None or n is None else (f, n) for f, n in zip(file, line, strict=True)]
    files, lines = zip(*rows, strict=True)
    return _flat([files]), _flat([lines])


def _legal(shape: Shape, value: object) -> bool:
    return shape.holds(int(value) if type(value) is bool else value)


def _all_legal(shape: Shape, values: Values) -> bool:
    if isinstance(values, Constant):
        return _legal(shape, values.number)
    if len(values) <= 64 or not set(map(type, values)) <= {int, bool}:
        return all(_legal(shape, value) for value in values)
    if shape.allowed:
        return all(_legal(shape, value) for value in dict.fromkeys(values))
    return _legal(shape, min(values)) and _legal(shape, max(values))


def _check(shape: Shape, values: Values, kinds: Values, first_event: int) -> None:
    if _all_legal(shape, values):
        return
    row = next(row for row, value in enumerate(values) if not _legal(shape, value))
    cls = HOT_CLASSES.get(kinds[row])
    path = f"event {first_event + row}, {cls.KIND if cls else 'run'}.{shape.name}"
    raise misfit(path, values[row], shape.expected)


def _columns_of(runs: Sequence[Run], first_event: int) -> tuple[list[Values], tuple[Task, ...]]:
    columns: dict[str, Values] = {
        shape.name: _flat([getattr(run, shape.name) for run in runs]) for shape in SHAPES if shape.name != "task"
    }
    columns["task"], tasks = _tasks_of(runs)
    keep(RUN_TASKS, len(tasks), f"event {first_event}")
    for shape in SHAPES:
        _check(shape, columns[shape.name], columns["kind"], first_event)
    columns["file"], columns["line"] = _paired(columns["file"], columns["line"])
    return [columns[shape.name] for shape in SHAPES], tasks


def _plain(description: Any) -> Any:
    """Return a description with booleans as the integers they stand for."""
    if isinstance(description, tuple):
        return tuple(map(_plain, description))
    return int(description) if isinstance(description, bool) else description


def encode_frame(runs: Sequence[Run], first_event: int, offset: int) -> tuple[bytes, bytes]:
    """Return (head, columns) of adjacent runs as one frame.

    offset: bytes before the head, counted from a multiple of 8. Raises EventError with number and field of the first misfit.
    """
    columns, tasks = _columns_of(runs, first_event)
    encoded = [encode_column(shape, values) for shape, values in zip(SHAPES, columns, strict=True)]
    rows = tuple(value_to_wire(Task, task, f"event {first_event}, task") for task in tasks)
    head = pack((rows, *(_plain(description) for description, _ in encoded)))
    body = bytearray()
    for description, data in encoded:
        if data:
            body += bytes(-(offset + len(head) + len(body)) % width_of(description))
            body += data
    return head, bytes(body)


def width_of(description: Any) -> int:
    """Return the bytes a row, and so the alignment, of a described column that is not constant."""
    form: int = description[-1][0] if isinstance(description[-1], tuple) else description[0]
    return form & 15


def decode_frame(data: memoryview, head_bytes: int, rows: int, offset: int) -> Run:
    """Return the run of a frame whose head and columns are the data; refuse every byte that the writer would not write.

    offset as in `encode_frame`. Raises EventError; the caller knows block and event numbers.
    """
    raw = data[:head_bytes].tobytes()
    known = _HEADS.find(raw) if rows > 1 else None
    if known is None:
        return _unknown_frame(raw, data, rows, offset)
    head, numbers = known
    columns = head.columns(rows)
    at = head_bytes
    for step in head.steps:
        columns[step.shape.name], at = _known_column(step, numbers, data, at, rows, offset)
    _check_end(data, at)
    if not head.plain:
        _check_tasks(columns["task"], head.tasks)
        _check_places(columns["file"], columns["line"])
    return Run.of_columns(columns, head.tasks)


def _known_column(step: Step, numbers: Sequence[int], data: memoryview, at: int, rows: int, offset: int) -> tuple[Any, int]:
    """Return (column, place behind it) of one that is described as in a head that is known."""
    shape, form = step.shape, step.form
    if step.first < 0:
        sure = sure_codes(shape, form, data, at, rows, offset) if form else None
        return sure or decode_column(shape, step.description, data, at, rows, offset)
    first = numbers[step.first]
    sure = sure_codes(shape, form, data, at, rows - 1, offset) if form and shape.holds(first) else None
    if sure is None:
        return decode_column(shape, (first, step.description[1]), data, at, rows, offset)
    return Lazy(rows, sure[0], False, partial(sums_of, first, sure[0], wrap_of(shape))), sure[1]


def _unknown_frame(raw: bytes, data: memoryview, rows: int, offset: int) -> Run:
    """Return the run of a frame with such a head, which is remembered if all is right."""
    head = unpack_one(raw)
    if type(head) is not tuple or len(head) != 1 + len(SHAPES) or type(head[0]) is not tuple:
        raise misfit("run", head, f"the tasks and {len(SHAPES)} columns")
    tasks = _known_tasks(pack(head[0])) if len(head[0]) <= _FEW_TASKS else _tasks_of_wire(head[0])
    columns: dict[str, Any] = {}
    at = len(raw)
    for shape, description in zip(SHAPES, head[1:], strict=True):
        columns[shape.name], at = decode_column(shape, description, data, at, rows, offset)
    _check_end(data, at)
    _check_tasks(columns["task"], tasks)
    _check_places(columns["file"], columns["line"])
    if rows > 1 and len(tasks) <= _FEW_TASKS:
        known = head_of(head, SHAPES, tasks)
        if known.numbers(raw) is not None:
            _HEADS.add(known)
    return Run.of_columns(columns, tasks)


def _check_end(data: memoryview, at: int) -> None:
    """Raise EventError unless the columns end where the frame does."""
    if at != len(data):
        raise EventError(f"{counted(len(data) - at, 'byte')} after the last column", where="run", expected="none")


def _tasks_of_wire(rows: Sequence[Any]) -> tuple[Task, ...]:
    return tuple(value_of_wire(Task, task, f"run.tasks[{index}]") for index, task in enumerate(rows))


@lru_cache(maxsize=_TASKS_KEPT)
def _known_tasks(packed: bytes) -> tuple[Task, ...]:
    """Return the few tasks of a frame, which are often those of the frame before."""
    return _tasks_of_wire(unpack_one(packed))


def _check_tasks(column: Sequence[int | None], tasks: tuple[Task, ...]) -> None:
    """Raise EventError unless every task is there once and rows use all of them, in order of first use."""
    if isinstance(column, Constant) and (column.number, len(tasks)) in _ONE_TASK:
        return
    if len(set(tasks)) != len(tasks):
        raise EventError("a task twice", where="run.tasks", expected="each once")
    if isinstance(column, memoryview) and column.itemsize == 1:
        raw = column.tobytes()
        places = [raw.find(index) for index in range(min(len(tasks), 256))]
        known = bytes(range(min(len(tasks), 256)))
        legal = len(tasks) <= 256 and -1 not in places and places == sorted(places) and not raw.translate(None, known)
    else:
        used = [column[0]] if isinstance(column, Constant) else list(dict.fromkeys(column))
        legal = [index for index in used if index is not None] == list(range(len(tasks)))
    if not legal:
        raise EventError(f"rows that do not use its {len(tasks)} tasks in order", where="run.task", expected="order of first use")


def _check_places(file: Sequence[int | None], line: Sequence[int | None]) -> None:
    """Raise EventError when a row has a file and no line, or a line and no file."""
    if not has_nulls(file) and not has_nulls(line):
        return
    if isinstance(file, Constant) and isinstance(line, Constant) and file.number is line.number:
        return  # no row has either
    if any((f is None) != (n is None) for f, n in zip(file, line, strict=True)):
        raise EventError("half a place", where="run.line", expected="file and line both known or both null")
