"""Make the text of a golden file from a recording: its facts, its events when they are few, and the answers to its questions."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import attrs

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.errors import GoldenError, KvmReplayError
from replay.events import VmAttach, VmCreate
from replay.golden.answers import FINDINGS_SHOWN, check_lines, compare_lines
from replay.golden.questions import COMPARE, Question
from replay.header import Header, Trailer
from replay.kvm.profile import parse_facts
from replay.policy_file import answered_for, own_policies
from replay.recording.golden_lines import COUNTER, EVENTS, INDENT, NOT_LISTED, Canon, head_lines, tail_lines
from replay.runs import HOT_CLASSES, Item, Run, events_of
from replay.stream import Stream

EVENTS_LISTED_MAX: Final = 200
"""Most events that a new golden file lists, unless it is told otherwise."""
LISTING_BYTES_MAX: Final = 1 << 18

Opener = Callable[[], AbstractContextManager[Stream]]
"""Open the recording from its start, as often as it is asked: once a question."""

Warn = Callable[[str], None]
"""Is told in a sentence what else was met while reading."""


@attrs.frozen
class Form:
    """How a golden file is to be written.

    recording: name of the file that it is of, "" when the events in it are the recording. listed_max, listed_bytes_max: most
    events to list, and most text of them; None for no limit. folder: where policy files are.
    """

    questions: Sequence[Question]
    recording: str = ""
    listed_max: int | None = EVENTS_LISTED_MAX
    listed_bytes_max: int | None = LISTING_BYTES_MAX
    folder: str = ""


@attrs.define
class Listing:
    """Gather the lines of the events while they pass, until they are too many; count them by kind all the same."""

    listed_max: int | None
    bytes_max: int | None
    events: int = 0
    vms: int = 0
    kinds: dict[str, int] = attrs.field(factory=dict)
    lines: list[str] | None = attrs.field(factory=list)
    _size_bytes: int = 0
    _canon: Canon = attrs.field(factory=Canon)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items as they are, having looked at them."""
        for item in items:
            first = self.events
            self._count(item)
            if self.lines is not None:
                self._list(item, first, self.lines)
            yield item

    def _count(self, item: Item) -> None:
        if isinstance(item, Run):
            self.events += len(item)
            for code, count in item.kinds().items():
                kind = HOT_CLASSES[code].KIND
                self.kinds[kind] = self.kinds.get(kind, 0) + count
            return
        self.events += 1
        self.vms += isinstance(item, (VmCreate, VmAttach))
        self.kinds[item.KIND] = self.kinds.get(item.KIND, 0) + 1

    def _list(self, item: Item, first: int, lines: list[str]) -> None:
        if self.listed_max is not None and self.events > self.listed_max:
            self.lines = None
            return
        for number, event in enumerate(events_of((item,)), first):
            lines.append(INDENT + self._canon.line(event, number))
            self._size_bytes += len(lines[-1])
        if self.bytes_max is not None and self._size_bytes > self.bytes_max:
            self.lines = None

    def section(self) -> Iterator[str]:
        """Yield the lines of the events: each, or how many there are of each kind."""
        vms = f"{self.events}, {self.vms} VM{'' if self.vms == 1 else 's'}"
        if self.lines is not None:
            yield f"{EVENTS}: {vms}"
            yield from self.lines
            return
        yield f"{EVENTS}: {vms}, {NOT_LISTED}"
        yield from (f"{INDENT}{kind}: {count}" for kind, count in sorted(self.kinds.items()))


def golden_text(opener: Opener, form: Form, warn: Warn | None = None) -> str:
    """Return the text of a golden file without comments. Raises GoldenError when it asks nothing, and what the input raises.

    warn: is told what else was met while reading, such as a torn end.
    Cost: one replay a question, and no look at a hot event that is not listed.
    """
    if not form.questions:
        raise GoldenError("no question", expected="at least one line such as 'compare: --lanes eager,on-demand'")
    listing, header, trailer = Listing(form.listed_max, form.listed_bytes_max), Header(), Trailer()
    answers: list[tuple[Question, list[str]]] = []
    for place, question in enumerate(form.questions):
        with opener() as stream:
            watched = _Passing(stream, listing) if place == 0 else stream
            found = answer(watched, question, form.folder, shown=lambda: None if listing.lines is not None else FINDINGS_SHOWN)
            header, trailer = stream.header, stream.trailer()
            if warn is not None and place == 0:
                for sentence in stream.warnings():
                    warn(sentence)
        answers.append((question, found))
    lines = [*head_lines(header, form.recording), "", *listing.section(), *tail_lines(trailer)]
    for question, found in answers:
        lines += ["", question.line(), *(f"{INDENT}{line}" for line in found)]
    return "\n".join(lines) + "\n"


class _Passing:
    """A stream whose items a listing looks at."""

    def __init__(self, stream: Stream, listing: Listing) -> None:
        self._stream, self._listing = stream, listing
        self.header = stream.header
        self.trailer = stream.trailer
        self.warnings = stream.warnings

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        return self._listing.over(self._stream.items())


def answer(stream: Stream, question: Question, folder: str, *, shown: Callable[[], int | None]) -> list[str]:
    """Return the lines that answer one question. shown: asked at the end, how many findings are to be listed, None for all."""
    try:
        own = own_policies(question.specs(), folder)
        facts = parse_facts(question.profile)
        with answered_for(own):
            if question.verb == COMPARE:
                lanes = make_lanes(question.specs(), stream.header.machine, facts, own=own)
                return compare_lines(compare(stream, lanes), shown())
            named = own.get(question.policy, question.policy or None)
            return check_lines(check(stream, facts, policy=named), shown())
    except KvmReplayError as error:
        raise error.at(question.line()) if not error.where else error from None


def file_opener(path: str) -> Opener:
    """Return what opens a file, of whatever format that verbs read, from its start."""

    def opened() -> AbstractContextManager[Stream]:
        return _Closing(path)

    return opened


class _Closing:
    """A stream that is closed when its block ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stream: Stream | None = None

    def __enter__(self) -> Stream:
        from replay.sources import open_stream  # importers are loaded by whoever reads a trace only

        self._stream = open_stream([self._path])
        return self._stream

    def __exit__(self, *_error: object) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def folder_of(path: str) -> str:
    """Return the folder of a file, as policy files are named from there."""
    return os.fspath(Path(path).parent)


__all__ = ["COUNTER", "EVENTS_LISTED_MAX", "Form", "Opener", "answer", "file_opener", "folder_of", "golden_text"]
