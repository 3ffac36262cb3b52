"""Verify says of every file what it is: sound, torn, damaged or refused; what of it is whole, and what is lost."""

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kvmrwriter import BLOCK, EVENTS, Block, Kvmr, flipped, header, payloads, rows, split

from recordings import TRAILER, add, jsonl, kvmr, small_events
from replay.events import Mark
from replay.header import Counter, Header, Trailer
from replay.recording.verify import state_of, verify
from replay.soundness import AT_LEAST, DAMAGED, EXACT, REFUSED, SOUND, TORN, UNKNOWN, Loss, Soundness

SMALL = kvmr(small_events())
LINES = jsonl(small_events())
MANY = kvmr([Mark(text="x" * 4000) for _ in range(900)])
PARTS = split(MANY)
IN_BLOCK = payloads(MANY)[1].events
"""Events in each full block of it."""


@pytest.fixture(name="found")
def _found(tmp_path: Path) -> "Found":
    return Found(tmp_path)


class Found:
    """Verify bytes as a file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.kvmr"

    def __call__(self, data: bytes) -> Soundness:
        self.path.write_bytes(data)
        return verify(self.path)


class TestSound:
    """Whole recordings are sound, and all of them is counted."""

    def test_kvmr(self, found: Found) -> None:
        """Blocks, events and bytes are those of the file; each byte is under a checksum."""
        sound = found(MANY)
        assert (sound.state, sound.form, sound.checksums, sound.schema_version) == (SOUND, "kvmr", True, "1.0")
        assert (sound.pieces, sound.events, sound.size_bytes) == (len(PARTS) - 1, 900, len(MANY))
        assert (sound.code, sound.trouble, sound.loss, sound.remarks) == ("", "", None, "")

    def test_jsonl(self, found: Found) -> None:
        """Lines, events and bytes are those of the file; there are no checksums."""
        sound = found(LINES)
        assert (sound.state, sound.form, sound.checksums) == (SOUND, "jsonl", False)
        assert (sound.pieces, sound.events, sound.size_bytes) == (LINES.count(b"\n"), len(small_events()), len(LINES))
        by_hand = jsonl([Mark(text="a")], hand_written=True).splitlines(keepends=True)[:-1]
        open_end = found(b"".join(by_hand) + b"# the end\n")
        assert (open_end.state, open_end.pieces) == (SOUND, len(by_hand) + 1)
        assert open_end.size_bytes == len(b"".join(by_hand)) + 10
        torn = found(b"".join(LINES.splitlines(keepends=True)[:3]) + b"# the end\n")
        assert (torn.state, torn.pieces, torn.events) == (TORN, 3, 2)
        behind = found(LINES + b"\n# the end\n")
        assert (behind.state, behind.pieces, behind.size_bytes) == (SOUND, LINES.count(b"\n") + 2, len(LINES) + 11)

    def test_recorded_losses(self, found: Found) -> None:
        """What the recorder lost is no damage of the file, and is said."""
        trailer = Trailer(counters=(Counter(kind="overrun", count=3, severity="lost"), *TRAILER.counters))
        assert found(kvmr(small_events(), trailer=trailer)).recorded_losses == 3
        assert found(SMALL).recorded_losses == 0

    def test_remarks(self, found: Found) -> None:
        """What a newer release put into it is said as well."""
        sound = found(Kvmr([header(), Block(0x80, b"an index"), Block(EVENTS, rows((3, 0)), 1)]).data())
        assert sound.state == SOUND
        assert "kind 0x80 were passed over" in sound.remarks

    def test_stream(self) -> None:
        """An open stream is verified as a file is."""
        assert verify(io.BytesIO(SMALL)).events == len(small_events())


class TestTorn:
    """A file that stops early is torn; whole block headers behind the tear say how much is lost at least."""

    def test_every_cut(self, found: Found) -> None:
        """Each cut behind the header is torn, with prefix and rest that make up the file; before it, there is no recording."""
        header_end = len(b"".join(split(SMALL)[:2]))
        states = dict.fromkeys((SOUND, TORN, DAMAGED, REFUSED), 0)
        for size in range(len(SMALL)):
            torn = found(SMALL[:size])
            states[torn.state] += 1
            assert torn.code == ("KVR102" if size >= header_end else "KVR107" if not size else "KVR106")
            if torn.loss is not None:
                assert torn.size_bytes + (torn.loss.size_bytes or 0) == size
        assert states == {SOUND: 0, TORN: len(SMALL) - header_end, DAMAGED: 0, REFUSED: header_end}

    def test_every_cut_of_lines(self, found: Found) -> None:
        """So with lines: torn behind the first, except where only the last line end is missing."""
        first = LINES.index(b"\n")
        states = [found(LINES[:size]).state for size in range(len(LINES))]
        assert states == [REFUSED] * first + [TORN] * (len(LINES) - 1 - first) + [SOUND]

    def test_loss(self, found: Found) -> None:
        """In the middle of a block its header tells of its events; between blocks nothing is known."""
        at = len(b"".join(PARTS[:3]))
        inside = found(MANY[: at + 100])
        assert (inside.events, inside.pieces) == (IN_BLOCK, 2)
        assert inside.loss == Loss(size_bytes=100, pieces=1, events=IN_BLOCK, counted=AT_LEAST)
        between = found(MANY[:at])
        assert between.loss == Loss(size_bytes=0, pieces=0, events=None, counted=UNKNOWN)
        assert found(MANY[: at + 20]).loss == Loss(size_bytes=20, pieces=0, events=None, counted=UNKNOWN)

    def test_loss_of_a_stream(self) -> None:
        """Of what can be read only once nothing is known."""
        assert verify(io.BytesIO(MANY[:-1])).loss == Loss()


class TestDamaged:
    """A changed byte is damage, with its place; END behind it counts exactly what is lost."""

    def test_every_flip(self, found: Found) -> None:
        """Each flip of a bit is damage, or no recording at all, and never torn; prefix and rest make up the file."""
        for bit in range(0, 8 * len(SMALL), 3):
            bad = found(flipped(SMALL, bit))
            assert bad.state in ({REFUSED} if bit < 10 * 8 else {DAMAGED}), bit
            if bad.loss is not None:
                assert bad.size_bytes + (bad.loss.size_bytes or 0) == len(SMALL)

    def test_loss_in_a_payload(self, found: Found) -> None:
        """A damaged payload: all headers behind it are whole, and END tells how many events there were."""
        at = len(b"".join(PARTS[:3]))
        bad = found(flipped(MANY, 8 * (at + 5000)))
        assert (bad.state, bad.code, bad.events, bad.pieces, bad.size_bytes) == (DAMAGED, "KVR101", IN_BLOCK, 2, at)
        assert bad.loss == Loss(size_bytes=len(MANY) - at, pieces=4, events=900 - IN_BLOCK, counted=EXACT)
        assert "block 2 at byte" in bad.trouble

    def test_loss_in_a_header(self, found: Found) -> None:
        """A damaged header is found to be the only one: those behind it are looked for byte by byte."""
        at = len(b"".join(PARTS[:3]))
        bad = found(flipped(MANY, 8 * (at + 6)))
        assert bad.loss == Loss(size_bytes=len(MANY) - at, pieces=3, events=900 - IN_BLOCK, counted=EXACT)
        cut = found(flipped(MANY, 8 * (at + 6))[:-1])
        assert cut.loss == Loss(size_bytes=len(MANY) - at - 1, pieces=3, events=900 - IN_BLOCK, counted=AT_LEAST)

    @given(st.integers(0, 70), st.integers(0, 40))
    def test_headers_over_chunks(self, before: int, cut: int) -> None:
        """Headers are found wherever the edge of what is read at once falls."""
        import replay.recording.verify as module

        whole = Kvmr([header(), Block(EVENTS, rows((3, 0)), 1), Block(EVENTS, rows((3, 0)), 1)]).data()
        behind = module._Behind()
        data = bytes([1]) * before + b"".join(split(whole)[1:]) + bytes(cut)
        old, module._CHUNK_BYTES = module._CHUNK_BYTES, 41  # type: ignore[misc]
        try:
            places = [at for at, _ in module._headers(io.BytesIO(data), behind)]
        finally:
            module._CHUNK_BYTES = old  # type: ignore[misc]
        sizes = [len(part) for part in split(whole)[1:]]
        assert places == [before + sum(sizes[:number]) for number in range(len(sizes))]
        assert behind.size_bytes == len(data)

    def test_behind_the_end(self, found: Found) -> None:
        """Bytes behind END are damage, and tell nothing of this recording."""
        bad = found(SMALL + SMALL)
        assert (bad.state, bad.events, bad.size_bytes) == (DAMAGED, len(small_events()), len(SMALL))
        assert bad.loss == Loss(size_bytes=len(SMALL), pieces=3, events=None, counted=UNKNOWN)
        lines = found(LINES + LINES)
        assert (lines.state, lines.events, lines.size_bytes) == (DAMAGED, len(small_events()), len(LINES))
        assert lines.loss == Loss(size_bytes=len(LINES), pieces=LINES.count(b"\n"), events=None, counted=UNKNOWN)

    def test_lines(self, found: Found) -> None:
        """A bad line is damage; the lines behind it, and the count at the end, say what is lost."""
        lines = LINES.splitlines(keepends=True)
        bad = found(b"".join([*lines[:3], b'{"event": "nonsense"}\n', *lines[3:]]))
        assert (bad.state, bad.code, bad.events, bad.pieces) == (DAMAGED, "KVR105", 2, 3)
        assert bad.loss is not None
        assert (bad.loss.events, bad.loss.counted) == (len(small_events()) - 2, EXACT)
        torn = found(b"".join([*lines[:3], b"{{\n", *lines[3:-1]]))
        assert torn.loss is not None
        assert (torn.loss.events, torn.loss.counted) == (len(small_events()) - 2, AT_LEAST)

    def test_hot_events_before_a_bad_line(self, found: Found) -> None:
        """Events that wait to become a run are not lost to an error behind them."""
        lines = jsonl([add(0, gfn) for gfn in range(100)]).splitlines(keepends=True)
        assert found(b"".join([*lines[:51], b"{}\n", *lines[51:]])).events == 50

    def test_wrong_count(self, found: Found) -> None:
        """An end that counts fewer events than there are tells nothing of what is lost."""
        bad = found(LINES.replace(b'{"end": {"events": 33', b'{"end": {"events": 32'))
        assert (bad.state, bad.events) == (DAMAGED, len(small_events()))
        assert bad.loss is not None
        assert (bad.loss.events, bad.loss.counted) == (None, UNKNOWN)

    def test_repeated_block(self, found: Found) -> None:
        """A repeated block is no loss: END says that all events there were are before it or behind it."""
        bad = found(b"".join([*PARTS[:4], PARTS[3], *PARTS[4:]]))
        assert (bad.state, bad.events) == (DAMAGED, 2 * IN_BLOCK)
        assert bad.loss is not None
        assert (bad.loss.events, bad.loss.counted) == (900 - 2 * IN_BLOCK, EXACT)

    def test_lying_headers(self, found: Found) -> None:
        """A header that claims more events than a recording can have is none."""
        head = BLOCK.pack(2, 0, 0, 0, 0, 1, (1 << 64) - 1, 0, 0, 0)[:-4]
        data = SMALL[:-1] + head + struct.pack("<I", zlib.crc32(head))
        loss = found(data).loss
        assert loss is not None
        assert (loss.events, loss.counted) == (None, UNKNOWN)


class TestRefused:
    """What is no recording, or can not be read, is refused with the error's own code."""

    @pytest.mark.parametrize(
        ("data", "code"),
        [(b"", "KVR107"), (b"hello\n", "KVR003"), (SMALL[:20], "KVR106"), (SMALL[:8] + b"\2\0\0\0" + SMALL[12:], "KVR103")],
    )
    def test_no_recording(self, data: bytes, code: str, found: Found) -> None:
        """Nothing, prose, half a header, another version."""
        refused = found(data)
        assert (refused.state, refused.code, refused.events, refused.loss) == (REFUSED, code, 0, None)

    def test_header(self, found: Found) -> None:
        """A damaged header is damage: it was a recording."""
        assert found(flipped(SMALL, 8 * 60)).state == DAMAGED

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there."""
        refused = verify(tmp_path / "missing")
        assert (refused.state, refused.code, refused.name) == (REFUSED, "KVR002", str(tmp_path / "missing"))

    def test_newer_block(self, found: Found) -> None:
        """A recording that needs a newer release is refused where it does, not called damaged."""
        refused = found(Kvmr([header(), Block(EVENTS, rows((3, 0)), 1), Block(9, b"")]).data())
        assert (refused.state, refused.code, refused.events) == (REFUSED, "KVR103", 1)

    def test_bad_disk(self) -> None:
        """A disk that fails half way is no damage of the recording."""

        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > len(MANY) // 2:
                    raise OSError(5, "Input/output error")
                return super().read(size)

        refused = verify(Failing(MANY))
        assert (refused.state, refused.code, refused.events) == (REFUSED, "KVR002", 2 * IN_BLOCK)

    def test_states(self) -> None:
        """Without an error a file is torn or sound."""
        assert (state_of(None, torn=True), state_of(None, torn=False)) == (TORN, SOUND)

    def test_name(self, tmp_path: Path) -> None:
        """A name that is no text, and a very long one, fit the report."""
        assert verify(tmp_path / "\udcff").name.endswith("\\udcff")
        assert len(verify("x" * 10000).name) == 8192
        assert payloads(kvmr([], Header()))
