"""Say which event is looked at: its number, kind, task and place in the trace."""

import attrs

from replay.events import Event, Task
from replay.events.base import Source
from replay.header import Header
from replay.units import ret_text


@attrs.frozen(eq=False, repr=False)
class Where:
    """An event as findings name it. task: who did it; took_ns: length of the call; both None when not known."""

    event: int
    kind: str
    place: str
    vm: int | None = None
    task: Task | None = None
    took_ns: int | None = None


def place_of(header: Header, source: Source | None) -> str:
    """Return 'file:line' of an event, empty when it is not known.

    >>> place_of(Header(), None)
    ''
    """
    if source is None:
        return ""
    name = header.sources[source.file].name if source.file < len(header.sources) else f"source {source.file}"
    return f"{name}:{source.line}"


def where(header: Header, event: Event, number: int) -> Where:
    """Return how findings name an event."""
    entered_ns = getattr(event, "enter_time_ns", None)
    took_ns = None if entered_ns is None or event.time_ns is None else max(0, event.time_ns - entered_ns)
    return Where(number, event.KIND, place_of(header, event.source), getattr(event, "vm", None), event.task, took_ns)


def slot_text(as_id: int, slot: int) -> str:
    """Name a memslot as kernel people do.

    >>> slot_text(0, 3)
    'slot 3 as 0'
    """
    return f"slot {slot} as {as_id}"


def task_text(task: Task) -> str:
    """Name a task: a process, or one of its threads.

    >>> task_text(Task(7, 7)), task_text(Task(7, 9))
    ('process 7', 'thread 9 of process 7')
    """
    return f"process {task.pid}" if task.pid == task.tid else f"thread {task.tid} of process {task.pid}"


def result_text(ret: int | None, why: str) -> str:
    """Say a result with the check that gave it."""
    return f"{ret_text(ret)} ({why})" if why else ret_text(ret)
