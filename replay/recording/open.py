"""Open a recording by what it holds, whatever it is called."""

from replay.errors import EmptyError
from replay.recording.blocks import SIGNATURE
from replay.recording.files import Input, Readable
from replay.recording.golden_reader import SIGNATURE as GOLDEN_SIGNATURE
from replay.recording.golden_reader import GoldenReader, is_golden
from replay.recording.jsonl_reader import JsonlReader
from replay.recording.reader import KvmrReader


def is_kvmr(start: bytes) -> bool:
    """Say whether a file that starts so is a container of ours, or the beginning of one, by its first bytes."""
    return bool(start) and start[: len(SIGNATURE)] == SIGNATURE[: len(start)]


def open_recording(what: Readable) -> KvmrReader | JsonlReader | GoldenReader:
    """Return the stream of a recording: .kvmr, .jsonl, or a golden file that lists its events.

    what: a path, "-" for standard input, or an open binary stream. Only the first bytes are looked at before one of the readers
    takes over, so pipes will do. Raises UnreadableError, EmptyError, UnknownFormatError, HeaderError, VersionError, GoldenError
    or DamagedError.
    """
    source, start = _begun(what)
    if is_kvmr(start):
        return KvmrReader(source)
    return GoldenReader(source) if is_golden(start) else JsonlReader(source)


def open_kept(what: Readable) -> KvmrReader | JsonlReader:
    """Return the stream of what recorders write, .kvmr or .jsonl, as `open_recording`; for those who judge the file itself."""
    source, start = _begun(what)
    return KvmrReader(source) if is_kvmr(start) else JsonlReader(source)


def _begun(what: Readable) -> tuple[Input, bytes]:
    """Return an input and its first bytes."""
    source = Input(what)
    try:
        start = source.peek(len(GOLDEN_SIGNATURE))
    except BaseException:
        source.close()
        raise
    if not start:
        source.close()
        raise EmptyError("an empty file", where=source.name, expected="a recording")
    return source, start
