"""Keep checkpoints of a replay in a file of their own, beside the recording: a cache that is checked whole or not used.

The file is a signature, a digest of all bytes behind it, and one MessagePack array: version of this form, digest of the
recording (`BlockMap.digest`), who made it, the lanes, and the checkpoints as bytes that are somebody else's business. So every
flipped bit and every cut shows before anything in it is looked at. Nothing in it is needed: it can be removed at any time.
"""

import hashlib
from bisect import bisect_right
from typing import Any, Final

import attrs
import msgpack

SIGNATURE: Final = b"\x89KVMRIX\n"
VERSION: Final = 2
DIGEST_BYTES: Final = 16
SUFFIX: Final = ".idx"
_START: Final = len(SIGNATURE) + DIGEST_BYTES


class UnusableIndexError(Exception):
    """An index that is not to be used, and why: damaged, of another recording, or made by another version."""


@attrs.frozen
class IndexedLane:
    """One lane that checkpoints hold. key: what it is; name: how it was called when the index was made."""

    key: str
    name: str


@attrs.frozen
class Checkpoint:
    """The state of all lanes before an event. doubts: what events before it say is not known, b"" for nothing."""

    event: int
    state: bytes = attrs.field(repr=False)
    doubts: bytes = attrs.field(default=b"", repr=False)

    @property
    def size_bytes(self) -> int:
        """How much of the file it takes, within a few bytes."""
        return len(self.state) + len(self.doubts)


@attrs.frozen
class Index:
    """Checkpoints of one recording, by event. maker: which code made them, for other code may make others."""

    recording: str
    maker: str
    lanes: tuple[IndexedLane, ...]
    checkpoints: tuple[Checkpoint, ...] = ()

    def before(self, event: int | None) -> Checkpoint | None:
        """Return the last checkpoint that is not behind an event, the last one there is for None."""
        place = len(self.checkpoints)
        if event is not None:
            place = bisect_right(self.checkpoints, event, key=lambda checkpoint: checkpoint.event)
        return self.checkpoints[place - 1] if place else None

    def holds(self, keys: frozenset[str]) -> bool:
        """Tell whether checkpoints hold all lanes of these keys."""
        return keys <= {lane.key for lane in self.lanes}


def index_bytes(index: Index) -> bytes:
    """Return the bytes of an index: the same for the same index."""
    lanes = tuple((lane.key, lane.name) for lane in index.lanes)
    checkpoints = tuple((checkpoint.event, checkpoint.state, checkpoint.doubts) for checkpoint in index.checkpoints)
    packed: bytes = msgpack.packb((VERSION, index.recording, index.maker, lanes, checkpoints), use_bin_type=True)
    return SIGNATURE + _digest(packed) + packed


def _digest(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()


def is_index(data: bytes) -> bool:
    """Tell whether a file that starts so is an index of ours, or what is left of one."""
    return data[: len(SIGNATURE)] == SIGNATURE[: len(data)]


def index_of_bytes(data: bytes, recording: str, maker: str) -> Index:
    """Return the index in a file's bytes; raise UnusableIndexError unless it is whole, of this recording and by this maker."""
    if not is_index(data):
        raise UnusableIndexError("it is no index")
    packed = data[_START:]
    if _digest(packed) != data[len(SIGNATURE) : _START]:
        raise UnusableIndexError("it is damaged")
    version, its_recording, its_maker, lanes, checkpoints = _unpacked(packed)
    if version != VERSION or its_maker != maker:
        raise UnusableIndexError("another version made it")
    if its_recording != recording:
        raise UnusableIndexError("it is of another recording, or this one has changed")
    return Index(its_recording, its_maker, *_lanes_and_checkpoints(lanes, checkpoints))


def _lanes_and_checkpoints(lanes: Any, checkpoints: Any) -> tuple[tuple[IndexedLane, ...], tuple[Checkpoint, ...]]:
    """Return both as values; what has another form was written by nobody whose digest is ours."""
    try:
        indexed = tuple(IndexedLane(*lane) for lane in lanes)
        kept = tuple(Checkpoint(*checkpoint) for checkpoint in checkpoints)
    except TypeError:
        raise UnusableIndexError("another version made it") from None
    texts = all(isinstance(text, str) for lane in indexed for text in (lane.key, lane.name))
    forms = all(type(point.event) is int and isinstance(point.state, bytes) and isinstance(point.doubts, bytes) for point in kept)
    if not texts or not forms or sorted(point.event for point in kept) != [point.event for point in kept]:
        raise UnusableIndexError("another version made it")
    return indexed, kept


def _unpacked(packed: bytes) -> tuple[Any, ...]:
    """Return the five values; what has the right digest and not them was made by a version of other values."""
    try:
        values = msgpack.unpackb(packed, use_list=False)
    except (ValueError, msgpack.UnpackException):
        raise UnusableIndexError("another version made it") from None
    if type(values) is not tuple or len(values) != 5:
        raise UnusableIndexError("another version made it")
    return values
