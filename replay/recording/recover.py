"""Save the longest true prefix of a torn or damaged recording into a new, complete one that says what it lacks.

The source is only read. The new file is NAME.recover.part until it is complete: NAME.part may be the very source.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from replay.errors import UsageError
from replay.header import DAMAGED, PARTIAL, Header, Trailer
from replay.recording.ends import lossy_trailer
from replay.recording.files import Readable, Writable
from replay.recording.jsonl_reader import JsonlReader
from replay.recording.jsonl_writer import JsonlWriter
from replay.recording.open import open_kept
from replay.recording.verify import Reader, read_through, soundness
from replay.recording.writer import Writer
from replay.soundness import REFUSED, SOUND, RecoverReport

RECOVER_SUFFIX: Final = ".recover.part"


def recover(source: Readable, target: Writable, *, overwrite: bool = False, durable: bool = True) -> RecoverReport:
    """Write the true prefix of a recording into a new one, and return what was saved and what was lost.

    Whole blocks (.kvmr) or lines (.jsonl) are saved, up to the first that is not; of a sound recording, all. What is lost is a
    counter of severity "lost" in the trailer, so that no verdict covers it. The target's name decides its form. Raises what
    opening the source raises, UsageError when the target is the source, UnwritableError, LimitError; then there is no target.
    """
    reader = open_kept(source)
    with reader, _writer(target, reader.header, [source], overwrite=overwrite, durable=durable) as writer:
        trouble = read_through(reader, writer.write)
        found = soundness(reader, source, trouble)
        writer.finish(_trailer(reader, found.state))
        return RecoverReport(output=writer.name, events=writer.events, complete=found.state == SOUND, source=found)


def _trailer(reader: Reader, state: str) -> Trailer:
    if state == SOUND or reader.torn:
        return reader.trailer()
    prefix, name = reader.prefix, Path(reader.name).name
    line = isinstance(reader, JsonlReader)
    first = f"{name}:{prefix.pieces + 1}" if line else f"{name}, block {prefix.pieces} at byte {prefix.size_bytes}"
    counters = () if prefix.trailer is None else prefix.trailer.counters
    return lossy_trailer(prefix.events, PARTIAL if state == REFUSED else DAMAGED, first, counters)


@contextmanager
def _writer(
    target: Writable, header: Header, sources: list[Readable], *, overwrite: bool, durable: bool
) -> Iterator[Writer | JsonlWriter]:
    """Give a writer whose file goes away on an error: the source is still there."""
    if not isinstance(target, str | os.PathLike):
        with Writer(target, header) as writer:
            yield writer
        return
    part = Path(f"{os.fspath(target)}{RECOVER_SUFFIX}")
    for path in (Path(target), part):
        _refuse_source(path, sources)
    _remove(part)  # of a run that was killed: the source still has all of it
    kind = JsonlWriter if os.fspath(target).endswith(".jsonl") else Writer
    if kind is JsonlWriter:
        header = attrs.evolve(header, compression="none")
    try:
        with kind(target, header, overwrite=overwrite, durable=durable, part_suffix=RECOVER_SUFFIX) as writer:
            yield writer
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    with suppress(OSError, ValueError):  # what is in the way is said by whoever opens it
        part.unlink()


def _refuse_source(path: Path, sources: list[Readable]) -> None:
    for source in sources:
        if isinstance(source, str | os.PathLike) and source != "-" and path.exists() and path.samefile(source):
            raise UsageError(f"{path} is the recording to be recovered", expected="another name for the output")
