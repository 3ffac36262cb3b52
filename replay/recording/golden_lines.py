"""Say the facts of a recording in lines of a golden file: what it is of, its machine, its losses; tasks and times of its events.

    kvm-replay golden/1
    recording: boot.kvmr
    title: boot of a guest
    machine: kernel_release=6.8.0 tdp=y
    events: 2
      vm.create vm=0  # 5
      vm.destroy vm=0
    counter: count=3 severity=lost kind="trace lines that were cut"

Nothing here differs between two readers of one recording, and as little as possible between two recordings of one workload:
tasks are numbered as they come (`task=PROCESS/THREAD`), and of times only the order is kept: `entered=3` says that a call was
under way when event 3 took effect.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, Final

import attrs

from replay.errors import EventError, GoldenError
from replay.events import Event
from replay.events.base import Task, VmCall
from replay.header import Counter, Header, Machine, Trailer
from replay.recording.event_lines import EventLine, line_of_event, value_of_word, word_of, words_of
from replay.recording.fields import Field, fields_of, shown
from replay.recording.named import nearest

FIRST_LINE: Final = "kvm-replay golden/1"
PREFIX: Final = "kvm-replay golden/"
INDENT: Final = "  "
RECORDING: Final = "recording"
TITLE: Final = "title"
MACHINE: Final = "machine"
PAST: Final = "past"
EVENTS: Final = "events"
COUNTER: Final = "counter"
HEAD: Final = (RECORDING, TITLE, MACHINE, PAST, EVENTS, COUNTER)
"""Labels of the lines that say what the recording is, in their order."""
QUESTIONS: Final = ("compare", "check")
"""Labels of the lines that ask something of it; what stands indented below is the answer."""
UNKNOWN_PAST: Final = "unknown"
NOT_LISTED: Final = "not listed"


def head_lines(header: Header, recording: str = "") -> Iterator[str]:
    """Yield the lines before the events. recording: name of the file that the golden is of, "" when it holds the events."""
    yield FIRST_LINE
    if recording:
        yield f"{RECORDING}: {_text(recording)}"
    if header.title:
        yield f"{TITLE}: {_text(header.title)}"
    words = _known(header.machine)
    if words:
        yield f"{MACHINE}: {words}"
    if not header.complete_start:
        yield f"{PAST}: {UNKNOWN_PAST}"


def tail_lines(trailer: Trailer) -> Iterator[str]:
    """Yield the lines behind the events: what was counted while it was recorded or imported."""
    for counter in trailer.counters:
        yield f"{COUNTER}: {_known(counter)}"


def _known(held: Machine | Counter) -> str:
    words = ((field, getattr(held, field.name)) for field in fields_of(type(held)))
    return " ".join(_fact(field, value) for field, value in words if not field.is_default(value))


def _fact(field: Field, value: Any) -> str:
    """Return a fact as a word; a known yes is written out, for these flags know a third state."""
    return f"{field.name}={'y' if value else 'n'}" if field.spec.shape == "bool" else word_of(field, value, MACHINE)


def _text(text: str) -> str:
    """Return a text as it is, in JSON when it could be taken for something else."""
    return text if text.isprintable() and text == text.strip() and text[:1] != '"' else json.dumps(text)


class Canon:
    """Number tasks as they come, and keep the order of times: what stands behind the fields of an event's line."""

    def __init__(self) -> None:
        self._processes: dict[int, int] = {}
        self._threads: dict[tuple[int, int], int] = {}
        self._exits_ns: list[int] = []
        self._numbers: list[int] = []

    def line(self, event: Event, number: int) -> str:
        """Return the line of an event. number: its own, from 0; events come in order."""
        return line_of_event(event, " ".join(filter(None, (self._task(event.task), self._entered(event, number)))))

    def _task(self, task: Task | None) -> str:
        if task is None:
            return ""
        process = self._processes.setdefault(task.pid, len(self._processes) + 1)
        thread = self._threads.setdefault((task.pid, task.tid), len(self._threads) + 1)
        return f"task={process}/{thread}"

    def _entered(self, event: Event, number: int) -> str:
        """Say which call was the first still under way when this one was entered, "" when none was."""
        if event.time_ns is None or not isinstance(event, VmCall):
            return ""
        entered_ns = event.enter_time_ns
        before = None if entered_ns is None else bisect_right(self._exits_ns, entered_ns)
        word = "" if before is None or before == len(self._exits_ns) else f"entered={self._numbers[before]}"
        # Events stand in their order; should a time go back, the call is taken to have lasted until the latest one before.
        self._exits_ns.append(max(event.time_ns, self._exits_ns[-1] if self._exits_ns else event.time_ns))
        self._numbers.append(number)
        return word


def event_at(line: EventLine, number: int) -> Event:
    """Return the event of a line with its task and its times, in steps of two a number. Raises EventError."""
    changes: dict[str, Any] = {}
    if "task" in line.own:
        changes["task"] = _task_of(line.own["task"])
    entered = line.own.get("entered", str(number))
    if not (entered.isascii() and entered.isdecimal() and len(entered) < 16 and int(entered) <= number):
        raise EventError(shown(entered), where="entered", expected=f"the number of an event before this one, {number}")
    if isinstance(line.event, VmCall):
        changes |= {"time_ns": 2 * (number + 1), "enter_time_ns": 2 * int(entered)}
    elif "entered" in line.own:
        raise EventError("entered", where=line.event.KIND, expected="it at a call on a VM only")
    return attrs.evolve(line.event, **changes) if changes else line.event


def _task_of(text: str) -> Task:
    process, slash, thread = text.partition("/")
    if not (slash and all(part.isascii() and part.isdecimal() and 0 < len(part) < 10 for part in (process, thread))):
        raise EventError(shown(text), where="task", expected="PROCESS/THREAD, such as 1/2")
    return Task(int(process), int(thread))


@attrs.frozen
class Line:
    """One line that says something: its number in the file, whether it is indented, and its text without that."""

    number: int
    indent: int
    text: str

    def labelled(self) -> tuple[str, str]:
        """Return label and value of `label: value`; the label alone when there is no colon."""
        label, _, value = self.text.partition(":")
        return label, value.strip()


def said(lines: Iterable[str]) -> Iterator[Line]:
    """Yield the lines of a golden file that say something: not empty ones, not comments."""
    for number, text in enumerate(lines, 1):
        stripped = text.strip()
        if stripped and not stripped.startswith("#"):
            yield Line(number, len(text) - len(text.lstrip()), stripped)


def known_label(line: Line) -> tuple[str, str]:
    """Return label and value of a line that is not indented. Raises GoldenError for a label that there is not."""
    label, value = line.labelled()
    if label in HEAD or label in QUESTIONS:
        return label, value
    advice = nearest(label, (*HEAD, *QUESTIONS)) or "events and answers stand behind two spaces"
    raise GoldenError(f"a line {shown(line.text)}", expected=f"one of {', '.join((*HEAD, *QUESTIONS))}", advice=advice)


class Head:
    """Gather the facts of the recording from the lines of a golden file."""

    def __init__(self) -> None:
        self.recording = ""
        self._facts: dict[str, Any] = {}
        self.counters: list[Counter] = []

    @property
    def header(self) -> Header:
        """The header that the lines said so far make."""
        return Header(**self._facts)

    def take(self, label: str, value: str) -> None:
        """Take one line. Raises EventError or GoldenError for a value that does not fit."""
        if label == COUNTER:
            self.counters.append(_facts_of(Counter, value))
        elif label == RECORDING:
            self.recording = _text_of(value)
        elif label == TITLE:
            self._facts["title"] = _text_of(value)
        elif label == MACHINE:
            self._facts["machine"] = _facts_of(Machine, value)
        elif label == PAST:
            if value != UNKNOWN_PAST:
                raise GoldenError(shown(value), where=PAST, expected=UNKNOWN_PAST)
            self._facts["complete_start"] = False


def _text_of(value: str) -> str:
    if value[:1] != '"':
        return value
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    if type(found) is not str:
        raise GoldenError(shown(value), expected="a text, or one in JSON")
    return found


def _facts_of(cls: type[Any], value: str) -> Any:
    """Return a machine or a counter from `name=value` words."""
    fields = {field.name: field for field in fields_of(cls)}
    where, held = cls.__name__.lower(), dict[str, Any]()
    for name, word in words_of(value, where):
        if name not in fields:
            found = f"unknown fact {shown(name)}"
            raise EventError(found, where=where, expected=f"one of {', '.join(fields)}", advice=nearest(name, fields))
        if name in held:
            raise EventError("twice on one line", where=f"{where}.{name}")
        held[name] = value_of_word(fields[name], word, where)
    for field in fields.values():
        if field.required and field.name not in held:
            raise EventError("missing", where=f"{where}.{field.name}")
    return cls(**held)
