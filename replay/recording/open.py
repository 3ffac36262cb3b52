"""Open a recording by what it holds, whatever it is called."""

from replay.errors import EmptyError
from replay.recording.blocks import SIGNATURE
from replay.recording.files import Input, Readable
from replay.recording.jsonl_reader import JsonlReader
from replay.recording.reader import KvmrReader


def is_kvmr(start: bytes) -> bool:
    """Say whether a file that starts so is a container of ours, or the beginning of one, by its first bytes."""
    return bool(start) and start[: len(SIGNATURE)] == SIGNATURE[: len(start)]


def open_recording(what: Readable) -> KvmrReader | JsonlReader:
    """Return the stream of a .kvmr or .jsonl recording: a path, "-" for standard input, or an open binary stream.

    Only the first bytes are looked at before one of the readers takes over, so pipes will do. Raises UnreadableError,
    EmptyError, UnknownFormatError, HeaderError, VersionError or DamagedError.
    """
    source = Input(what)
    try:
        start = source.peek(len(SIGNATURE))
    except BaseException:
        source.close()
        raise
    if not start:
        source.close()
        raise EmptyError("an empty file", where=source.name, expected="a recording")
    return KvmrReader(source) if is_kvmr(start) else JsonlReader(source)
