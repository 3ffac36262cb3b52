"""What is fuzzed: one function a reader or importer, that takes any bytes and lets nothing escape but what is a bug.

An error of ours (`KvmReplayError`) is a right answer. Wrong are any other exception, a stream that can not be written as a
recording, and a sound recording that is another one after a copy.
"""

import atexit
import contextlib
import hashlib
import io
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kvmrwriter import MAGIC, Block, Kvmr

from replay.engine.checkpoint import MisfitError, restore
from replay.engine.lanes import make_lanes
from replay.errors import KvmReplayError
from replay.golden.parsed import parse
from replay.header import Header, Machine, Trailer
from replay.recording import JsonlWriter, Writer, open_recording
from replay.recording.index_file import DIGEST_BYTES, SIGNATURE, UnusableIndexError, index_of_bytes
from replay.recording.verify import verify
from replay.runs import Item, Run, events_of
from replay.soundness import DAMAGED, REFUSED, SOUND, TORN
from replay.sources import open_stream
from replay.sources.files import Input, chunks
from replay.sources.lab import open_lab
from replay.sources.merge import MergedImport
from replay.sources.strace_import import StraceImport
from replay.sources.tracefs import TracefsImport
from replay.stream import Stream

Target = Callable[[bytes], None]

FIRST_LINE: Final = b'{"kvm-replay": "recording/1"}\n'
GOLDEN_LINE: Final = b"kvm-replay golden/1\n"
SEPARATOR: Final = b"\n====\n"
"""Parts an input of `merged` into the strace and the tracefs text."""
BLOCK: Final = struct.Struct("<BBHH")
"""Kind, flags, events and bytes of each block of an input of `mended`."""

COPIED_EVENTS_MAX: Final = 1000

_FOLDER: Final = tempfile.TemporaryDirectory(prefix="fuzz-")
atexit.register(_FOLDER.cleanup)


def _kept(data: bytes, name: str = "input") -> str:
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    return str(path)


def read(stream: Stream) -> list[Item]:
    """Return all items of a stream, after asking it everything else."""
    items = list(stream.items())
    stream.trailer()
    stream.warnings()
    return items


def kvmr(data: bytes) -> None:
    """Read bytes as a recording, verify them, and hold the two answers together; copy what is sound and small."""
    found = verify(io.BytesIO(data))
    try:
        reader = open_recording(io.BytesIO(data))
        items = read(reader)
        state = TORN if reader.torn else SOUND
    except KvmReplayError:
        assert found.state in {DAMAGED, REFUSED}, found
        return
    assert (found.state, found.events) == (state, sum(len(item) if isinstance(item, Run) else 1 for item in items)), found
    if state == SOUND and found.events <= COPIED_EVENTS_MAX:
        _copied(items, reader.header, reader.trailer())


def _copied(items: list[Item], header: Header, trailer: Trailer) -> None:
    """Write items as either form; what is read of that must be what was written."""
    events = list(events_of(items))
    for kind in (Writer, JsonlWriter):
        out = io.BytesIO()
        with kind(out, header) as writer:
            for item in items:
                writer.write(item)
            writer.finish(trailer)
        assert list(events_of(open_recording(io.BytesIO(out.getvalue())).items())) == events


def mended(data: bytes) -> None:
    """Read blocks whose checksums, chain and numbers are put right: what is behind the checksums must hold by itself."""
    blocks: list[Block] = []
    at = 0
    while at + BLOCK.size <= len(data) and len(blocks) < 20:
        kind, flags, events, size = BLOCK.unpack_from(data, at)
        at += BLOCK.size
        raw_bytes = size + (events & 0xFF) if flags & 1 else None
        blocks.append(Block(kind, data[at : at + size], events if kind == 2 else 0, flags=flags & 1, raw_bytes=raw_bytes))
        at += size
    kvmr(Kvmr(blocks, magic=MAGIC).data())


def jsonl(data: bytes) -> None:
    """Read lines, behind a right first one and alone."""
    kvmr(data if data.startswith(b'{"kvm-replay"') else FIRST_LINE + data)


def imported(stream: Stream) -> None:
    """Import all of a trace, and write it: an importer must not give what a recording can not hold."""
    items = read(stream)
    try:
        with Writer(io.BytesIO(), stream.header) as writer:
            for item in items:
                writer.write(item)
            writer.finish(stream.trailer())
    except KvmReplayError as error:
        raise AssertionError(f"imported, but can not be written: {error}") from error


def _import(opened: Callable[[], Stream]) -> None:
    try:
        imported(opened())
    except KvmReplayError:
        return


def golden(data: bytes) -> None:
    """Read a golden file, as a recording and as answers."""
    data = data if data.startswith(GOLDEN_LINE) else GOLDEN_LINE + data
    with contextlib.suppress(KvmReplayError):
        parse(data.decode("latin-1"), "input")
    _import(lambda: open_recording(io.BytesIO(data)))


def index(data: bytes) -> None:
    """Read an index whose digest fits, and make lanes of a checkpoint whose bytes were never a lane's."""
    packed = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() + data
    with contextlib.suppress(UnusableIndexError):
        found = index_of_bytes(SIGNATURE + packed, "recording", "maker")
        assert found.before(None) in (None, *found.checkpoints)
    with contextlib.suppress(MisfitError):
        restore(make_lanes(["eager", "on-demand"], Machine()), zlib.compress(data, 1))


def strace(data: bytes) -> None:
    """Import strace text, whatever it looks like."""
    _import(lambda: StraceImport([Input(_kept(data))]))


def tracefs(data: bytes) -> None:
    """Import tracefs text."""
    _import(lambda: TracefsImport(chunks(Input(_kept(data))), name="input"))


def merged(data: bytes) -> None:
    """Import strace and tracefs text of one run."""
    first, _, second = data.partition(SEPARATOR)
    _import(lambda: MergedImport([Input(_kept(first, "strace"))], Input(_kept(second, "tracefs"))))


def lab(data: bytes) -> None:
    """Import results of slotprobe."""
    _import(lambda: open_lab(_kept(data)))


def any_input(data: bytes) -> None:
    """Import whatever it is taken for, compressed or not."""
    _import(lambda: open_stream([_kept(data)]))


TARGETS: Final[dict[str, Target]] = {
    "kvmr": kvmr,
    "mended": mended,
    "jsonl": jsonl,
    "golden": golden,
    "index": index,
    "strace": strace,
    "tracefs": tracefs,
    "merged": merged,
    "lab": lab,
    "any": any_input,
}
