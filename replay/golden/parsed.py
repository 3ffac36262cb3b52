"""Read the text of a golden file: what it is of, what it asks, and each line with the path of labels that leads to it.

Two golden files of one recording are held against each other, and comments are carried from one to the next, by these paths and
never by line numbers.
"""

import re
from collections.abc import Iterator
from typing import Final

import attrs

from replay.errors import GoldenError, RecordingError
from replay.events import by_kind, specs
from replay.golden.questions import Question, question_of
from replay.recording.golden_lines import (
    COUNTER,
    EVENTS,
    FIRST_LINE,
    NOT_LISTED,
    PREFIX,
    QUESTIONS,
    Head,
    Line,
    known_label,
    said,
)

Path = tuple[str, ...]
_COMMENT: Final = re.compile(r"\s+#\s*([^\"]*)$")
DEPTH_MAX: Final = 8


@attrs.frozen
class Entry:
    """One line: the labels that lead to it, its own last; its value; its line number. remark: of an event, what people added."""

    path: Path
    value: str
    number: int
    remark: str = ""


@attrs.define
class Parsed:
    """A golden file. entries: all its lines that say something but the first, in order, paths unique."""

    head: Head
    questions: list[Question]
    entries: list[Entry]
    listed: bool = True

    @property
    def recording(self) -> str:
        """Name of the file that it is of, "" when its own events are the recording."""
        return self.head.recording


def parse(text: str, name: str) -> Parsed:
    """Return what a golden file says. name: of the file, for messages. Raises GoldenError or EventError. Cost: O(lines)."""
    parsed = Parsed(Head(), [], [])
    lines = said(text.splitlines())
    first = next(lines, None)
    if first is None or first.number != 1 or first.text != FIRST_LINE:
        found = "another version" if first is not None and first.text.startswith(PREFIX) else "another first line"
        raise GoldenError(found, where=f"{name}:1", expected=FIRST_LINE)
    paths = _Paths()
    for line in lines:
        try:
            _take(line, paths, parsed)
        except RecordingError as error:
            raise error.at(f"{name}:{line.number}") from None
    return parsed


def _take(line: Line, paths: "_Paths", parsed: Parsed) -> None:
    if line.indent:
        parsed.entries.append(paths.below(line))
        return
    label, value = known_label(line)
    if label in QUESTIONS:
        question = question_of(line.text)
        parsed.questions.append(question)
        parsed.entries.append(paths.top(line, question.line(), ""))
        return
    parsed.head.take(label, value)
    if label == EVENTS:
        parsed.listed = not value.endswith(NOT_LISTED)
    parsed.entries.append(paths.top(line, line.text if label == COUNTER else label, "" if label == COUNTER else value))


class _Paths:
    """Give each line its path; lines that begin alike below one label are numbered."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, str]] = []
        self._seen: dict[Path, int] = {}

    def top(self, line: Line, label: str, value: str) -> Entry:
        """Return the entry of a line that is not indented."""
        self._stack = []
        return Entry(self._path(label, 0), value, line.number)

    def below(self, line: Line) -> Entry:
        """Return the entry of an indented line. Raises GoldenError when there is nothing above that it can belong to."""
        while self._stack and self._stack[-1][0] >= line.indent:
            self._stack.pop()
        if not self._stack or len(self._stack) > DEPTH_MAX:
            raise GoldenError("an indented line", expected="one that is not, above it")
        if self._stack[0][1] == EVENTS and by_kind(line.text.partition(" ")[0]) is not None:
            bare, value, remark = event_parts(line.text)
            return Entry(self._path(bare, line.indent), value, line.number, remark)
        label, _, value = line.text.partition(": ")
        return Entry(self._path(label.removesuffix(":"), line.indent), value.strip(), line.number)

    def _path(self, label: str, indent: int) -> Path:
        above = tuple(label for _indent, label in self._stack)
        count = self._seen[*above, label] = self._seen.get((*above, label), 0) + 1
        own = f"{label} ({count})" if count > 1 else label
        self._stack.append((indent, own))
        return (*above, own)


def event_parts(text: str) -> tuple[str, str, str]:
    """Return an event's line without comment, its result as it stands there, "" for none, and the remark behind that.

    >>> event_parts("vm.create vm=0  # 10 the only one")
    ('vm.create vm=0', '10', 'the only one')
    """
    found = _COMMENT.search(text)
    if found is None:
        return text, "", ""
    cls = by_kind(text.partition(" ")[0])
    if cls is None or "ret" not in specs(cls):
        return text[: found.start()], "", found.group(1).strip()
    result, _, remark = found.group(1).partition(" ")
    return text[: found.start()], result, remark.strip()


def comments(text: str) -> Iterator[tuple[list[str], int]]:
    """Yield each block of comment lines with the number of the line that it stands before; 0 when none follows.

    An empty line that parted the block from what is above belongs to it, and so do those between its lines.
    """
    block: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("#"):
            block.append(line.rstrip())
        elif not stripped:
            block.append("")
        else:
            if any(block):
                yield _trimmed(block), number
            block = []
    if any(block):
        yield _trimmed(block), 0


def _trimmed(block: list[str]) -> list[str]:
    """Return a block with at most one empty line in front, and none behind."""
    last = max(index for index, line in enumerate(block) if line)
    first = min(index for index, line in enumerate(block) if line)
    return [*block[max(0, first - 1) : first], *block[first : last + 1]]
