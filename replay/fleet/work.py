"""Replay one recording, or some, in whatever process it happens to be; the result is plain values that can be sent."""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import attrs

from replay.analyses.compare import compare
from replay.analyses.fleet import recording_of
from replay.analyses.fleet_report import TEXT_MAX, TROUBLE, FleetRecording
from replay.engine.lanes import make_lanes
from replay.errors import KvmReplayError, UnreadableError
from replay.fleet.find import shown
from replay.header import Machine
from replay.kvm.profile import parse_facts
from replay.sources import open_stream
from replay.version import VERSION

_ANSWERING: Final = ("analyses", "engine", "events", "fleet", "kvm", "recording", "sources")
"""Rooms whose code decides what a row holds."""
THE_FILE: Final = "the file"


@attrs.frozen
class Question:
    """What is asked of every recording: lanes and profile as the command line has them."""

    lanes: tuple[str, ...]
    profile: str = ""

    @property
    def text(self) -> str:
        """Return it as one word, the key of results: facts in order of their names, as the text may not be."""
        facts = ",".join(f"{name}={value}" for name, value in sorted(parse_facts(self.profile).items()))
        return ",".join(self.lanes) + (f" {facts}" if facts else "")

    def checked(self) -> "Question":
        """Return it if it can be meant. Raises ProfileError for what is no lane or no fact."""
        make_lanes(self.lanes, Machine(), parse_facts(self.profile))
        return self


@attrs.frozen
class Result:
    """What came of one path: its row, or None when its digest is among the known ones. certain: no need to try again."""

    path: str
    digest: str
    size_bytes: int
    row: FleetRecording | None
    certain: bool = True


@cache
def engine_version() -> str:
    """Return the release and a digest of the code that answers: results of other code are not taken for this one's.

    Without the source files (a zip, compiled modules alone) the release has to do. Cost: some ms, once a process.
    """
    digest, root = hashlib.sha256(), Path(__file__).resolve().parent.parent
    files = sorted(path for room in _ANSWERING for path in (root / room).glob("**/*.py"))
    files += [*sorted(root.glob("*.py")), *sorted(root.glob("native/*.[cp]*"))]
    for path in files if root.is_dir() else ():
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{VERSION}+{digest.hexdigest()[:12]}" if files else VERSION


def file_digest(path: str) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file. Raises UnreadableError."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 - paths stay text, some are no UTF-8
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return digest, os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise UnreadableError(reason.lower(), where=path, expected="a readable file") from None


def replay_one(path: str, question: Question, known: frozenset[str] = frozenset()) -> Result:
    """Return what becomes of one recording; bad input and bugs of ours are rows as well, nothing is raised but interruptions.

    known: digests whose results are there already.
    """
    name = shown(path)
    try:
        digest, size_bytes = file_digest(path)
    except UnreadableError as error:
        return Result(path, "", 0, _bad(path, "", 0, error), certain=False)
    if digest in known:
        return Result(path, digest, size_bytes, None)
    try:
        return Result(path, digest, size_bytes, _compared(path, name, digest, size_bytes, question))
    except KvmReplayError as error:
        return Result(
            path, digest, size_bytes, _bad(path, digest, size_bytes, error), certain=not isinstance(error, UnreadableError)
        )
    except (MemoryError, OSError) as error:
        return Result(path, digest, size_bytes, _bad(path, digest, size_bytes, error), certain=False)
    except Exception as error:  # noqa: BLE001 - one bad file never stops the rest: a bug of ours is a row, called one
        return Result(path, digest, size_bytes, _bad(path, digest, size_bytes, error))


def _compared(path: str, name: str, digest: str, size_bytes: int, question: Question) -> FleetRecording:
    stream = open_stream([path])
    try:
        lanes = make_lanes(question.lanes, stream.header.machine, parse_facts(question.profile))
        return recording_of(name, digest, size_bytes, stream.header, compare(stream, lanes, listed=False))
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def _bad(path: str, digest: str, size_bytes: int, error: Exception) -> FleetRecording:
    """Return the row of a recording in trouble; the sentence does not name the file, as copies of it share the row."""
    code = error.code if isinstance(error, KvmReplayError) else KvmReplayError.code
    text = str(error) if isinstance(error, KvmReplayError) else f"{type(error).__name__}: {error}"
    if not isinstance(error, KvmReplayError | OSError | MemoryError):
        text = f"internal error: {text}. This is a bug, please report it with the input"
    text = text.replace(path, THE_FILE).replace(Path(path).name, THE_FILE)
    text = text.encode("utf-8", "backslashreplace").decode()[:TEXT_MAX]
    return FleetRecording(name=shown(path), digest=digest, size_bytes=size_bytes, status=TROUBLE, code=code, trouble=text)


def replay_chunk(paths: Sequence[str], question: Question, known: frozenset[str]) -> tuple[str, list[Result]]:
    """Return the results of some recordings, and the version of the code that made them."""
    return engine_version(), [replay_one(path, question, known) for path in paths]


def lost(path: str, tries: int) -> Result:
    """Return what becomes of a recording over which processes died."""
    trouble = f"the process that replayed it died, {tries} times"
    row = FleetRecording(name=shown(path), status=TROUBLE, code="KVR600", trouble=trouble)
    return Result(path, "", 0, row, certain=False)
