"""Files made to hurt: every checksum right, the content not. Refused with an error of ours, in bounded memory."""

import io
import random
import tracemalloc
import zlib

import pytest
from bombs import BOMBS, MIB
from hypothesis import given, settings
from hypothesis import strategies as st
from kvmrwriter import (
    BLOCK,
    END,
    EVENTS,
    Block,
    Kvmr,
    columns,
    events_block,
    header,
    pack,
    payloads,
    recording,
    rows,
    segment,
    zlib_header,
)

from recordings import jsonl, kvmr, kvmr_of_items, small_events
from replay.errors import DamagedError, KvmReplayError
from replay.header import Header
from replay.recording import JsonlReader, KvmrReader, open_recording
from replay.recording.blocks import parse_block_header
from replay.recording.limits import BLOCK_RAW_BYTES, TABLE
from replay.runs import events_of


def refused(data: bytes, reader: type[KvmrReader | JsonlReader] = KvmrReader) -> int:
    """Return the most memory, in bytes, that reading took until it was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(KvmReplayError):
            for _ in reader(io.BytesIO(data)).items():
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestBombs:
    """Few bytes do not become many."""

    @pytest.mark.parametrize("name", BOMBS)
    def test_bounded(self, name: str) -> None:
        """Refused, with less than 48 MiB beside the file itself."""
        data = BOMBS[name]()
        assert refused(data) < 48 * MIB + 2 * len(data)

    @pytest.mark.parametrize(
        "line",
        [
            b"[" * 500000,
            b'{"a":' * 500000,
            b"[" + b"[]," * 500000 + b"[]]",
            b"9" * (8 << 20),
            b'"' + b"\\u0041" * 2000000 + b'"',
            b"[" + b"1," * 700000 + b"1]",
        ],
        ids=["lists in lists", "objects in objects", "many lists", "digits", "escapes", "many numbers"],
    )
    def test_lines(self, line: bytes) -> None:
        """Nor do lines of JSON."""
        data = b'{"kvm-replay": "recording/1"}\n' + line + b"\n"
        assert refused(data, JsonlReader) < 48 * MIB + 12 * len(data)

    def test_constant_frames_are_small(self) -> None:
        """A block of many events that are all the same is legal; its run holds no row."""
        raw = columns(16384, (), 64, 0, 0, 0, 0, 0, None, None, [None, None], None, [None, None], 0)
        tracemalloc.start()
        (run,) = KvmrReader(io.BytesIO(recording((raw, 16384)))).items()
        assert tracemalloc.get_traced_memory()[1] < MIB
        tracemalloc.stop()
        assert len(run) == 16384  # type: ignore[arg-type]


class TestCompressed:
    """A compressed block has one reading, and only where the header allows compression."""

    RAW = rows(*[(52, "again and again")] * 9)

    def test_plain(self) -> None:
        """The block that the others are made from is read."""
        file = Kvmr([zlib_header(), events_block(self.RAW, 9, compress=True)])
        assert len(list(KvmrReader(io.BytesIO(file.data())).items())) == 9

    @pytest.mark.parametrize(
        "block",
        [
            Block(EVENTS, zlib.compress(RAW) + b"x", 9, flags=1, raw_bytes=len(RAW)),
            Block(EVENTS, zlib.compress(RAW)[:-1], 9, flags=1, raw_bytes=len(RAW)),
            Block(EVENTS, zlib.compress(RAW), 9, flags=1, raw_bytes=len(RAW) - 8),
            Block(EVENTS, zlib.compress(RAW), 9, flags=1, raw_bytes=len(RAW) + 8),
            Block(EVENTS, zlib.compress(RAW, 0), 9, flags=1, raw_bytes=len(RAW)),
            Block(EVENTS, b"not zlib", 9, flags=1, raw_bytes=len(RAW)),
            Block(END, zlib.compress(bytes(100)), flags=1, raw_bytes=100),
        ],
        ids=["more behind", "cut", "longer", "shorter", "not smaller", "no zlib", "END"],
    )
    def test_refused(self, block: Block) -> None:
        """Others are damage."""
        assert refused(Kvmr([zlib_header(), block]).data()) < MIB

    @pytest.mark.parametrize("payload_bytes", [99, 100, 101])
    def test_not_smaller(self, payload_bytes: int) -> None:
        """One that is not smaller than what is in it is refused by its header: the writer would not have compressed it."""
        data, _ = Block(EVENTS, b"", 9, flags=1, payload_bytes=payload_bytes, raw_bytes=100).data(7, 0)
        if payload_bytes < 100:
            assert parse_block_header(data, 7, 0).raw_bytes == 100
        else:
            with pytest.raises(DamagedError, match="fewer than 100"):
                parse_block_header(data, 7, 0)

    def test_not_allowed(self) -> None:
        """So is a compressed block when the header says none."""
        assert refused(Kvmr([header(), events_block(self.RAW, 9, compress=True)]).data()) < MIB


SMALL = kvmr(small_events())
ZIPPED = kvmr(small_events() * 4, Header(compression="zlib"))
LINES = jsonl(small_events())


def survives(data: bytes) -> str:
    """Return what became of the bytes: read, or the code of an error of ours; anything else escapes."""
    try:
        reader = open_recording(io.BytesIO(data))
        list(events_of(reader.items()))
        reader.warnings()
    except KvmReplayError as error:
        return error.code
    return "torn" if reader.torn else "whole"


class TestCanonical:
    """A block is refused, or is exactly what the writer writes for its events: no byte is without meaning."""

    def test_every_byte(self) -> None:
        """Change any byte of a payload, mend the checksums: it is refused, or written again as it was read."""
        blocks, read_again, draw = payloads(SMALL)[:-1], 0, random.Random(1)
        assert len(blocks) == 2
        original = blocks[1].payload
        for at in range(len(original)):
            for value in {(original[at] + 1) & 255, original[at] ^ 0x80, draw.randrange(256), 0, 0xC0} - {original[at]}:
                changed = original[:at] + bytes([value]) + original[at + 1 :]
                data = Kvmr([blocks[0], Block(EVENTS, changed, blocks[1].events)]).data()
                try:
                    reader = KvmrReader(io.BytesIO(data))
                    items = list(reader.items())
                except KvmReplayError:
                    continue
                read_again += 1
                again = payloads(kvmr_of_items(items, reader.header, reader.trailer()))
                assert again[1].payload == changed, f"byte {at}"
        assert read_again > 100

    def test_header_bytes(self) -> None:
        """So it is with the header."""
        original, rest = payloads(SMALL)[0].payload, payloads(SMALL)[1:]
        read_again = 0
        for at in range(len(original)):
            for value in range(0, 256, 5):
                changed = original[:at] + bytes([value]) + original[at + 1 :]
                try:
                    reader = KvmrReader(io.BytesIO(Kvmr([Block(1, changed), *rest[:-1]]).data()))
                except KvmReplayError:
                    continue
                if reader.schema_version == (1, 0):
                    read_again += 1
                    assert payloads(kvmr([], reader.header))[0].payload == changed
        assert read_again > 100


class TestAnyBytes:
    """No input makes anything but a recording or an error of ours."""

    @given(st.binary(max_size=300))
    def test_random(self, data: bytes) -> None:
        """Random bytes, alone and behind a right beginning."""
        for start in (b"", SMALL[:12], SMALL[: 12 + BLOCK.size], b'{"kvm-replay": "recording/1"}\n'):
            assert survives(start + data) != "whole" or b"{" in data

    @given(st.binary(max_size=200), st.integers(1, 20), st.booleans())
    def test_random_payloads(self, raw: bytes, events: int, rows_tag: bool) -> None:
        """Random content with right checksums: as block, as rows, as frame, compressed, as header and trailer."""
        tag = 1 if rows_tag else 2
        for block in (
            Block(EVENTS, raw, events),
            Block(EVENTS, segment(tag, events, raw, head_bytes=0 if rows_tag else len(raw) // 2), events),
        ):
            assert survives(Kvmr([header(), block]).data()) in {"KVR101", "KVR104", "KVR105"}
        assert survives(Kvmr([zlib_header(), Block(EVENTS, raw, events, flags=1, raw_bytes=len(raw) + 1)]).data()) == "KVR101"
        survives(Kvmr([Block(1, raw)]).data())
        survives(Kvmr([header()], end=Block(END, raw)).data())

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-5, 1 << 33) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=4)
        ),
        st.integers(1, 70),
    )
    def test_random_rows(self, value: object, code: int) -> None:
        """Random values as the fields of each kind."""
        assert survives(recording((rows([code, 0, value]), 1))) in {"whole", "KVR104", "KVR105"}
        assert survives(recording((rows([code, value, value]), 1))) in {"whole", "KVR104", "KVR105"}
        survives(Kvmr([Block(1, pack([1, 0, [value]]))]).data())

    @settings(max_examples=200)
    @given(
        st.sampled_from([SMALL, ZIPPED, LINES]),
        st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4),
    )
    def test_edited(self, data: bytes, edits: list[tuple[int, bytes, int]]) -> None:
        """Real recordings with pieces replaced, inserted and removed."""
        for at, piece, drop in edits:
            place = at % len(data)
            data = data[:place] + piece + data[place + drop :]
        survives(data)


class TestTable:
    """The limits are stated in one place."""

    def test_table(self) -> None:
        """Each once, none of them zero, a block no larger than 1 MiB."""
        assert len({(limit.of, limit.unit) for limit in TABLE}) == len(TABLE) == 13
        assert all(limit.most > 0 for limit in TABLE)
        assert BLOCK_RAW_BYTES.most == MIB
