"""Find recordings and their golden files, hold each against what is found now, and write them anew.

The golden file of boot.kvmr is boot.kvmr.golden beside it. One without a line `recording:` is a case by itself: its events are
the recording.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from replay.analyses.golden_report import (
    DIFFERENCES_MAX,
    DIFFERS,
    KEPT,
    MISSING,
    SAME,
    TROUBLE,
    UNUSED,
    WRITTEN,
    GoldenFile,
)
from replay.errors import EmptyError, GoldenError, KvmReplayError, UnreadableError, UnwritableError, UsageError
from replay.golden.differences import differences
from replay.golden.document import EVENTS_LISTED_MAX, Form, Warn, file_opener, folder_of, golden_text
from replay.golden.merge import carried
from replay.golden.parsed import Parsed, parse
from replay.golden.questions import DEFAULT, Question

SUFFIX: Final = ".golden"
RECORDINGS: Final = (".kvmr", ".jsonl")
"""Endings of files that need a golden file when a folder is given; other traces need one when they have one."""
BYTES_MAX: Final = 64 << 20
"""Largest golden file that is read as a whole."""


@attrs.frozen
class Wish:
    """What is asked for beside what stands in the files. questions: None for those of the file, or DEFAULT for a new one.

    listed_max: most events to list; None for what the file does, and for a new one new_listed_max, or EVENTS_LISTED_MAX.
    """

    questions: tuple[Question, ...] | None = None
    default: tuple[Question, ...] = DEFAULT
    listed_max: int | None = None
    new_listed_max: int | None = None
    new_only: bool = False


def golden_of(path: str) -> str:
    """Return the golden file of a recording; a golden file's own name as it is.

    >>> golden_of("a/boot.kvmr")
    'a/boot.kvmr.golden'
    """
    return path if path.endswith(SUFFIX) else path + SUFFIX


def found_in(paths: Sequence[str]) -> list[str]:
    """Return the golden files that paths stand for, there or not, each once and sorted within a folder.

    A folder stands for the recordings and golden files in it and below. Raises UnreadableError for a path that is not there,
    EmptyError when all together stand for nothing.
    """
    found: dict[str, None] = {}
    for path in paths:
        if Path(path).is_dir():
            found.update(dict.fromkeys(_below(path)))
        elif Path(path).exists() or Path(golden_of(path)).exists():
            found[golden_of(path)] = None
        else:
            raise UnreadableError("no such file or folder", where=path)
    if not found:
        raise EmptyError(
            "no recording and no golden file", where=", ".join(paths), expected="files that end in .kvmr, .jsonl or .golden"
        )
    return list(found)


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        golden = {golden_of(name) for name in names if name.endswith((SUFFIX, *RECORDINGS))}
        yield from (str(Path(parent, name)) for name in sorted(golden))


def check_golden(path: str, warn: Warn | None = None) -> GoldenFile:
    """Return whether a golden file says what is found now. path: of the golden file. Never raises for bad input."""
    try:
        return _checked(path, warn)
    except KvmReplayError as error:
        return _file(path, TROUBLE, code=error.code, trouble=str(error)[:8000])


def update_golden(path: str, wish: Wish, warn: Warn | None = None) -> GoldenFile:
    """Write a golden file anew where it says something else, or for the first time; comments stay. Never raises for bad input."""
    try:
        return _updated(path, wish, warn)
    except KvmReplayError as error:
        return _file(path, TROUBLE, code=error.code, trouble=str(error)[:8000])


def _file(path: str, state: str, *, recording: str = "", code: str = "", trouble: str = "") -> GoldenFile:
    return GoldenFile(golden=path, recording=recording or path.removesuffix(SUFFIX), state=state, code=code, trouble=trouble)


def _checked(path: str, warn: Warn | None) -> GoldenFile:
    if not Path(path).exists():
        advice = "`kvm-replay golden update` writes it"
        return _file(path, MISSING, trouble=f"{path}: no such golden file. {advice[:1].upper()}{advice[1:]}")
    text = read_text(path)
    old = parse(text, path)
    recording = _recording(path, old)
    if not Path(recording).exists():
        return _file(path, UNUSED, recording=recording, trouble=f"{path}: it is of {recording}, which is not there")
    new_text = fresh(path, old, Wish(), warn)
    found = differences(old, parse(new_text, path), events_too=bool(old.recording))
    return attrs.evolve(
        _file(path, DIFFERS if found else SAME, recording=recording),
        differences=tuple(found[:DIFFERENCES_MAX]),
        difference_count=len(found),
    )


def _updated(path: str, wish: Wish, warn: Warn | None) -> GoldenFile:
    there = Path(path).exists()
    if there and wish.new_only:
        return _file(path, KEPT)
    text = read_text(path) if there else ""
    old = parse(text, path) if there else None
    recording = path.removesuffix(SUFFIX) if old is None else _recording(path, old)
    if not Path(recording).exists():
        return _file(path, UNUSED, recording=recording, trouble=f"{path}: it is of {recording}, which is not there")
    new_text = fresh(path, old, wish, warn)
    if old is not None:
        new_text = carried(text, old, new_text, parse(new_text, path))
    if new_text == text:
        return _file(path, KEPT, recording=recording)
    write_text(path, new_text)
    return _file(path, WRITTEN, recording=recording)


def _recording(path: str, old: Parsed) -> str:
    """Return the recording of a golden file that is there: the file that its name says, or itself."""
    if not old.recording:
        return path
    named = str(Path(path).with_name(old.recording))
    if Path(named) != Path(path.removesuffix(SUFFIX)):
        advice = f"name it {old.recording}{SUFFIX}, or take the line out when its events are the recording"
        raise GoldenError(f"it is of {old.recording}", where=path, expected=Path(path).name.removesuffix(SUFFIX), advice=advice)
    return named


def fresh(path: str, old: Parsed | None, wish: Wish, warn: Warn | None = None) -> str:
    """Return what a golden file should say now, without comments. warn: as of `golden_text`."""
    questions = wish.questions or (tuple(old.questions) if old is not None else ()) or wish.default
    folder = folder_of(path)
    if old is not None and not old.recording:
        form = Form(questions, "", None, None, folder)
        return golden_text(file_opener(path), form, warn)
    name = path.removesuffix(SUFFIX)
    listed_max: int | None = next(
        (most for most in (wish.listed_max, wish.new_listed_max) if most is not None), EVENTS_LISTED_MAX
    )
    if old is not None and wish.listed_max is None:
        listed_max = None if old.listed else 0
    return golden_text(file_opener(name), Form(questions, Path(name).name, listed_max, folder=folder), warn)


def read_text(path: str) -> str:
    """Return the text of a golden file. Raises UnreadableError or GoldenError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError((error.strerror or str(error)).lower(), where=path) from None
    if len(data) > BYTES_MAX:
        raise GoldenError(f"{len(data):,} bytes", where=path, expected=f"at most {BYTES_MAX:,}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise GoldenError(f"byte 0x{data[error.start]:02x} at {error.start}", where=path, expected="UTF-8") from None


def write_text(path: str, text: str) -> None:
    """Write a golden file so that it is whole whenever it is there. Raises UnwritableError."""
    if Path(path).exists() and not Path(path).is_file():
        raise UsageError("not a file", where=path)
    part = Path(f"{path}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise UnwritableError((error.strerror or str(error)).lower(), where=path) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
