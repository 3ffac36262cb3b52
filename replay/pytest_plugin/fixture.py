"""Replay recordings in tests: `assert kvm_replay("boot.kvmr") == kvm_replay.golden("boot.kvmr")`.

A recording is a file, or the events that a test made. Paths are relative to the test's folder.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from replay.analyses.check import check
from replay.analyses.check_report import CheckReport
from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.golden_report import DIFFERS, MISSING, SAME, TROUBLE, WRITTEN, GoldenFile
from replay.engine.lanes import make_lanes
from replay.errors import KvmReplayError
from replay.events import Event
from replay.golden.differences import differences
from replay.golden.document import EVENTS_LISTED_MAX, Form, Opener, file_opener, golden_text
from replay.golden.files import SUFFIX, golden_of, read_text, write_text
from replay.golden.merge import carried
from replay.golden.parsed import Parsed, parse
from replay.golden.questions import Question, question_of
from replay.header import Header, Trailer
from replay.kvm.profile import parse_facts
from replay.policy_file import answered_for, own_policies
from replay.pytest_plugin.goldens import PROPERTY, failure_lines
from replay.pytest_plugin.settings import Settings
from replay.runs import items_of
from replay.stream import MemoryStream, Stream

Recording = str | os.PathLike[str] | Iterable[Event]


@attrs.frozen(eq=False)
class Replayed:
    """A recording that is replayed when it is held against a golden file. name: of its file, "" for events of a test."""

    name: str
    opener: Opener
    questions: tuple[Question, ...]
    folder: str

    def text(self, old: Parsed | None, settings: Settings) -> str:
        """Return what its golden file should say; old: what it says, for its questions and its form."""
        questions = self.questions or (tuple(old.questions) if old is not None else ()) or settings.wish.default
        listed_max = settings.wish.new_listed_max
        listed: int | None = EVENTS_LISTED_MAX if listed_max is None else listed_max
        if old is not None:
            listed = None if old.listed else 0
        return golden_text(self.opener, Form(questions, self.name, None if not self.name else listed, folder=self.folder))

    def __eq__(self, other: object) -> bool:
        return other == self if isinstance(other, GoldenOf) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to what a file says at the moment


@attrs.define(eq=False)
class GoldenOf:
    """A golden file; equal to a replay of which it says what is found. With --kvm-update it is written, and equal."""

    path: str
    settings: Settings
    properties: list[tuple[str, object]]
    file: GoldenFile | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Replayed):
            return NotImplemented
        try:
            self.file = self._held_against(other)
        except KvmReplayError as error:
            self.file = self._as(TROUBLE, code=error.code, trouble=str(error))
        return self.file.state in {SAME, WRITTEN}

    __hash__ = None  # type: ignore[assignment]  # see Replayed

    def _held_against(self, replayed: Replayed) -> GoldenFile:
        there = Path(self.path).exists()
        text = read_text(self.path) if there else ""
        old = parse(text, self.path) if there else None
        writes = self.settings.update and not (there and self.settings.wish.new_only)
        if old is None and not writes:
            return self._as(MISSING, trouble="no such golden file; --kvm-update-new-only writes it")
        new_text = replayed.text(old, self.settings)
        new = parse(new_text, self.path)
        if writes:
            return self._written(text, new_text if old is None else carried(text, old, new_text, new))
        assert old is not None
        found = differences(old, new, events_too=True)
        return attrs.evolve(self._as(DIFFERS if found else SAME), differences=tuple(found), difference_count=len(found))

    def _written(self, text: str, new_text: str) -> GoldenFile:
        if new_text == text:
            return self._as(SAME)
        write_text(self.path, new_text)
        self.properties.append((PROPERTY, self.path))
        return self._as(WRITTEN)

    def _as(self, state: str, *, code: str = "", trouble: str = "") -> GoldenFile:
        return GoldenFile(golden=self.path, recording=self.path.removesuffix(SUFFIX), state=state, code=code, trouble=trouble)


class KvmReplay:
    """What the fixture gives. folder: of the test; paths and policy files are relative to it."""

    def __init__(self, folder: Path, settings: Settings, properties: list[tuple[str, object]]) -> None:
        self._folder = folder
        self._settings = settings
        self._properties = properties

    def __call__(self, recording: Recording, *questions: str, header: Header | None = None) -> Replayed:
        """Return a replay to be held against a golden file. questions: those of the golden file when there are none.

        recording: a file, or events; header: of these. Raises GoldenError for a question that is none.
        """
        asked = tuple(question_of(text) for text in questions)
        name, opener = self._opened(recording, header)
        return Replayed(name, opener, asked, str(self._folder))

    def golden(self, recording: str | os.PathLike[str]) -> GoldenOf:
        """Return the golden file of a recording, or the one of this name."""
        return GoldenOf(golden_of(str(self._folder / recording)), self._settings, self._properties)

    def compare(
        self, recording: Recording, lanes: str = "eager,on-demand", profile: str = "", *, header: Header | None = None
    ) -> CompareReport:
        """Return the report of `kvm-replay compare`."""
        specs = [spec.strip() for spec in lanes.split(",")]
        own = own_policies(specs, str(self._folder))
        with self._opened(recording, header)[1]() as stream, answered_for(own):
            return compare(stream, make_lanes(specs, stream.header.machine, parse_facts(profile), own=own))

    def check(self, recording: Recording, policy: str = "", profile: str = "", *, header: Header | None = None) -> CheckReport:
        """Return the report of `kvm-replay check`."""
        own = own_policies([policy], str(self._folder))
        with self._opened(recording, header)[1]() as stream, answered_for(own):
            return check(stream, parse_facts(profile), policy=own.get(policy, policy or None))

    def _opened(self, recording: Recording, header: Header | None) -> tuple[str, Opener]:
        """Return the name of a recording, and what opens it."""
        if isinstance(recording, str | os.PathLike):
            path = self._folder / recording
            return path.name, file_opener(str(path))
        events = list(recording)

        @contextlib.contextmanager
        def opened() -> Iterator[Stream]:
            yield MemoryStream(header or Header(), items_of(events), Trailer(events=len(events)))

        return "", opened


def explained(left: object, right: object) -> list[str] | None:
    """Return what is said of a comparison that failed: the golden file, and each place that differs."""
    for side in (left, right):
        if isinstance(side, GoldenOf) and side.file is not None:
            return failure_lines(side.file)
    return None
