"""Promises of replay.recording.index_file: an index is whole, of this recording and of this code, or it is not used."""

import hashlib

import msgpack
import pytest

from replay.recording.index_file import (
    DIGEST_BYTES,
    SIGNATURE,
    VERSION,
    Checkpoint,
    Index,
    IndexedLane,
    UnusableIndexError,
    index_bytes,
    index_of_bytes,
    is_index,
)

INDEX = Index(
    "aa",
    "0.1+bb",
    (IndexedLane("k1", "eager"), IndexedLane("k2", "lazy")),
    (Checkpoint(9, b"nine", b"doubts"), Checkpoint(18, b"")),
)
DATA = index_bytes(INDEX)


class TestIndexFile:
    """Bytes and back."""

    def test_round_trip(self) -> None:
        """What is written is read, and gives the same bytes."""
        assert index_of_bytes(DATA, "aa", "0.1+bb") == INDEX
        assert index_bytes(index_of_bytes(DATA, "aa", "0.1+bb")) == DATA
        assert is_index(DATA)

    def test_every_cut(self) -> None:
        """Cut anywhere, or with a byte more, it is unusable."""
        for data in [DATA[:size] for size in range(len(DATA))] + [DATA + b"\0"]:
            with pytest.raises(UnusableIndexError):
                index_of_bytes(data, "aa", "0.1+bb")

    def test_every_flip(self) -> None:
        """Any one bit changed, it is unusable."""
        flips = 0
        for at in range(len(DATA)):
            for bit in range(8):
                data = bytearray(DATA)
                data[at] ^= 1 << bit
                with pytest.raises(UnusableIndexError):
                    index_of_bytes(bytes(data), "aa", "0.1+bb")
                flips += 1
        assert flips == 8 * len(DATA) > 500

    def test_foreign(self) -> None:
        """That of another recording or of other code is unusable, and says which."""
        with pytest.raises(UnusableIndexError, match="another recording, or this one has changed"):
            index_of_bytes(DATA, "ab", "0.1+bb")
        with pytest.raises(UnusableIndexError, match="another version"):
            index_of_bytes(DATA, "aa", "0.1+bc")

    @pytest.mark.parametrize("values", [(VERSION - 1, "aa", "0.1+bb", (), ()), (VERSION, "aa", "0.1+bb", ()), 7, {"a": 1}])
    def test_other_forms(self, values: object) -> None:
        """A whole file of another form was made by another version; so was one that is no MessagePack."""
        for packed in (msgpack.packb(values), b"\xc1"):
            digest = hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()
            with pytest.raises(UnusableIndexError, match="another version"):
                index_of_bytes(SIGNATURE + digest + packed, "aa", "0.1+bb")

    @pytest.mark.parametrize(
        ("lanes", "checkpoints"),
        [
            ((("k1",),), ()),
            ((("k1", 2),), ()),
            (((1, "eager"),), ()),
            (7, ()),
            ((), ((9,),)),
            ((), (("9", b"nine"),)),
            ((), ((True, b"nine"),)),
            ((), ((9, "nine"),)),
            ((), ((9, b"nine", "doubts"),)),
            ((), ((9, b"nine", b"", b""),)),
            ((), ((9, b""), (8, b""))),
        ],
    )
    def test_other_values(self, lanes: object, checkpoints: object) -> None:
        """So was one whose lanes are no texts, or whose checkpoints are no events with bytes in rising order."""
        packed = msgpack.packb((VERSION, "aa", "0.1+bb", lanes, checkpoints))
        digest = hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()
        with pytest.raises(UnusableIndexError, match="another version"):
            index_of_bytes(SIGNATURE + digest + packed, "aa", "0.1+bb")

    def test_before(self) -> None:
        """The last checkpoint that is not behind an event."""
        found = [INDEX.before(event) for event in (0, 8, 9, 17, 18, 10**9, None)]
        assert [checkpoint and checkpoint.event for checkpoint in found] == [None, None, 9, 9, 18, 18, 18]

    def test_holds(self) -> None:
        """Some of the lanes are held, others are not."""
        assert INDEX.holds(frozenset({"k2"}))
        assert not INDEX.holds(frozenset({"k2", "k3"}))
