"""Damage of every kind is seen: no changed byte gives another answer, no missing byte goes unnoticed."""

import io
import random

import pytest
from kvmrwriter import EVENTS, Block, Kvmr, flipped, header, one_row, pack, payloads, recording, rows, split

from recordings import HEADER, TRAILER, kvmr, read, small_events
from replay.errors import DamagedError, HeaderError, KvmReplayError, RecordingError, VersionError
from replay.events import Event, Mark
from replay.header import TORN
from replay.recording import KvmrReader
from replay.runs import events_of

SMALL = kvmr(small_events())
TWO_BLOCKS = kvmr([Mark(text=str(number)) for number in range(16384 + 5)])


def verdict(data: bytes) -> tuple[str, list[Event], str]:
    """Return ("whole" | "torn" | "error", events that were yielded, the error)."""
    seen: list[Event] = []
    try:
        reader = KvmrReader(io.BytesIO(data))
        seen.extend(events_of(reader.items()))
    except KvmReplayError as error:
        return "error", seen, str(error)
    return ("torn" if reader.torn else "whole"), seen, ""


class TestWriterForTests:
    """The writer of broken files can write whole ones, byte for byte as the real one."""

    def test_same_bytes(self) -> None:
        """A file taken apart and put together again is the same."""
        assert b"".join(split(SMALL)) == SMALL
        blocks = payloads(SMALL)
        assert Kvmr(blocks[:-1], end=blocks[-1]).data() == SMALL

    def test_whole(self) -> None:
        """What it makes is accepted when nothing is broken."""
        assert verdict(one_row(3, 0))[0] == "whole"


class TestTruncation:
    """A file that stops early is torn, or an error when not even the header is whole."""

    def test_every_cut(self) -> None:
        """Each cut of a small recording is seen, and what was yielded is a true prefix."""
        events = small_events()
        header_end = len(b"".join(split(SMALL)[:2]))
        counts = {"whole": 0, "torn": 0, "error": 0}
        for size in range(len(SMALL)):
            found, seen, _ = verdict(SMALL[:size])
            counts[found] += 1
            assert found == ("torn" if size >= header_end else "error")
            assert seen == events[: len(seen)]
        assert counts == {"whole": 0, "torn": len(SMALL) - header_end, "error": header_end}

    def test_prefix_is_whole_blocks(self) -> None:
        """All complete blocks of a torn file are there, on and inside the next block."""
        parts = split(TWO_BLOCKS)
        at = len(b"".join(parts[:3]))
        for size, expected in ((at - 1, 0), (at, 16384), (at + 50, 16384), (len(TWO_BLOCKS) - 1, 16389)):
            found, seen, _ = verdict(TWO_BLOCKS[:size])
            assert (found, len(seen)) == ("torn", expected)

    def test_torn_is_counted(self) -> None:
        """A torn recording counts what is lost and warns, so that nobody takes it for whole."""
        events, reader = read(SMALL[:-1])
        assert reader.torn
        assert [(c.kind, c.severity, c.count) for c in reader.trailer().counters] == [(TORN, "lost", 1)]
        assert reader.trailer().events == len(events) == len(small_events())
        assert "torn" in reader.warnings()[0]

    def test_whole_warns_nothing(self) -> None:
        """A whole recording has no warning and its own trailer."""
        events, reader = read(SMALL)
        assert (reader.torn, reader.warnings(), reader.header) == (False, [], HEADER)
        assert reader.trailer().counters == TRAILER.counters
        assert reader.trailer().events == len(events)


class TestFlips:
    """A changed bit is an error, never another answer and never "torn"."""

    def test_every_single_flip(self) -> None:
        """No flip of a small recording is accepted or called torn; what was yielded before is a true prefix."""
        events = small_events()
        for bit in range(8 * len(SMALL)):
            found, seen, _ = verdict(flipped(SMALL, bit))
            assert found == "error", f"bit {bit}"
            assert seen == events[: len(seen)]

    def test_every_single_flip_of_a_compressed_one(self) -> None:
        """Nor is any flip of a compressed recording."""
        data = kvmr([Mark(text="again and again " * 20)] * 3, HEADER.__class__(compression="zlib"))
        assert payloads(data)[1].flags == 1
        assert [bit for bit in range(8 * len(data)) if verdict(flipped(data, bit))[0] != "error"] == []

    def test_double_flips(self) -> None:
        """Nor are pairs of flips, sampled with a fixed seed."""
        draw = random.Random(1)
        for _ in range(3000):
            first, second = draw.sample(range(8 * len(SMALL)), 2)
            assert verdict(flipped(flipped(SMALL, first), second))[0] == "error", f"bits {first}, {second}"

    def test_zeroed_tail(self) -> None:
        """A tail of zeros, as a lost page leaves it, is damage and says so."""
        start = len(b"".join(split(SMALL)[:3]))
        found, seen, text = verdict(SMALL[:start] + bytes(len(SMALL) - start))
        assert found == "error"
        assert "zeros" in text
        assert seen == small_events()

    def test_zeroed_piece(self) -> None:
        """Zeros in place of any four bytes that are not zero are damage."""
        for at in range(len(SMALL) - 4):
            if any(SMALL[at : at + 4]):
                assert verdict(SMALL[:at] + bytes(4) + SMALL[at + 4 :])[0] == "error", f"byte {at}"


class TestBlocksOutOfPlace:
    """Blocks that are whole in themselves but in the wrong place are damage."""

    PARTS = split(kvmr([Mark(text="x" * 4000) for _ in range(900)]))

    def test_there_are_enough(self) -> None:
        """The file of this class has magic, HEADER, four EVENTS blocks and END."""
        assert len(self.PARTS) == 7

    @pytest.mark.parametrize(
        "order",
        [
            [0, 1, 3, 2, 4, 5, 6],
            [0, 1, 2, 2, 3, 4, 5, 6],
            [0, 1, 3, 4, 5, 6],
            [0, 1, 2, 3, 4, 6],
            [0, 2, 3, 4, 5, 6],
            [0, 1, 1, 2, 3, 4, 5, 6],
            [0, 1, 6],
        ],
        ids=["swap", "repeat", "drop first", "drop last", "drop header", "repeat header", "drop all"],
    )
    def test_order(self, order: list[int]) -> None:
        """Blocks swapped, repeated or left out are damage, and so is nothing else."""
        found, _, text = verdict(b"".join(self.PARTS[number] for number in order))
        assert found == "error"
        assert "block" in text

    def test_splice(self) -> None:
        """The tail of one recording does not fit the head of another, though numbers and lengths do."""
        other = split(kvmr([Mark(text="y" * 4000) for _ in range(900)]))
        assert [len(part) for part in other] == [len(part) for part in self.PARTS]
        assert verdict(b"".join(self.PARTS[:3] + other[3:]))[0] == "error"

    def test_two_in_one(self) -> None:
        """Two recordings one behind the other are not one."""
        found, seen, text = verdict(SMALL + SMALL)
        assert found == "error"
        assert "after the END" in text
        assert seen == small_events()

    def test_unnumbered(self) -> None:
        """A block with another first event number is damage even when its checksums are right."""
        for number in (0, 2, 1 << 63):
            bad = Kvmr([header(), Block(EVENTS, rows((3, 0)), 1), Block(EVENTS, rows((3, 0)), 1, first_event=number)])
            assert "expected event 1" in verdict(bad.data())[2]


class TestBlockHeaders:
    """Each lie of a block header is refused although its checksum is right."""

    @pytest.mark.parametrize(
        ("block", "error"),
        [
            (Block(EVENTS, rows((3, 0)), 1, reserved=1), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, flags=2), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, flags=1), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, raw_bytes=5), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, payload_checksum=0), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, previous=0), DamagedError),
            (Block(EVENTS, rows((3, 0)), 1, checksum=0), DamagedError),
            (Block(EVENTS, rows((3, 0)), 0), DamagedError),
            (Block(EVENTS, rows((3, 0)), 2), RecordingError),
            (Block(EVENTS, b"", 0), DamagedError),
            (Block(EVENTS, b"", 16385), DamagedError),
            (Block(EVENTS, bytes((1 << 20) + 8), 1), DamagedError),
            (Block(0x81, b"", 1), DamagedError),
            (Block(4, b""), VersionError),
            (Block(0, b""), VersionError),
            (Block(0x7F, b""), VersionError),
            (header(), DamagedError),
        ],
    )
    def test_refused(self, block: Block, error: type[KvmReplayError]) -> None:
        """The right error names block and byte."""
        with pytest.raises(error, match="block 1 at byte") as caught:
            read(Kvmr([header(), block]).data())
        assert "stream" in caught.value.where

    def test_skippable(self) -> None:
        """A block of an unknown kind from 0x80 is passed over, with a warning, and counts as a block."""
        file = Kvmr([header(), Block(0x80, b"an index"), Block(EVENTS, rows((3, 0)), 1), Block(0x80, b"", flags=1, raw_bytes=9)])
        events, reader = read(file.data())
        assert len(events) == 1
        assert reader.warnings() == ["stream: blocks of kind 0x80 were passed over: a newer release wrote them"]

    def test_skippable_is_checked(self) -> None:
        """What is passed over is held against its checksum all the same."""
        with pytest.raises(DamagedError):
            read(Kvmr([header(), Block(0x80, b"an index", payload_checksum=1)]).data())

    def test_advice(self) -> None:
        """Damage behind whole events says how to save them."""
        file = Kvmr([header(), Block(EVENTS, rows((3, 0)), 1), Block(EVENTS, rows((3, 0)), 1, payload_checksum=0)])
        with pytest.raises(DamagedError, match=r"`kvm-replay recover stream` saves what is whole before it, 1 event$"):
            read(file.data())


class TestFirstBlock:
    """Without a header there is no recording."""

    @pytest.mark.parametrize(
        "data", [b"", b"\x89KV", b"{}", b"\x7fELF" + bytes(60), SMALL[:11], SMALL[:12], SMALL[:47], SMALL[:60]]
    )
    def test_no_header(self, data: bytes) -> None:
        """A file that stops before the end of its header, or is something else, is an error."""
        with pytest.raises(HeaderError):
            read(data)

    def test_events_first(self) -> None:
        """A file must not begin with events."""
        with pytest.raises(HeaderError, match="HEADER first"):
            read(Kvmr([Block(EVENTS, rows((3, 0)), 1)]).data())

    @pytest.mark.parametrize("major", [0, 2, 65535])
    def test_other_container(self, major: int) -> None:
        """Another major version of the container is refused before anything else is looked at."""
        magic = SMALL[:8] + major.to_bytes(2, "little") + b"\0\0"
        with pytest.raises(VersionError, match=f"container version {major}.0"):
            read(Kvmr([header()], magic=magic).data())

    def test_newer_minor_container(self) -> None:
        """A newer minor version of the container is read."""
        magic = SMALL[:8] + b"\1\0\7\0"
        assert len(read(Kvmr([header(), Block(EVENTS, rows((3, 0)), 1)], magic=magic).data())[0]) == 1


class TestEnd:
    """END counts what came before it."""

    @pytest.mark.parametrize(
        "record", [[2, [2]], [2, []], [1, [1]], [3, [1]], [2], [2, [1], 0], "end", [2, [1, [], 0]], [2, [1, []]], 7]
    )
    def test_wrong_end(self, record: object) -> None:
        """An END that counts other blocks or events, or is not an END, is damage."""
        end = Block(3, pack(record))
        with pytest.raises(RecordingError, match="block 2 at byte"):
            read(Kvmr([header(), Block(EVENTS, rows((3, 0)), 1)], end=end).data())

    def test_right_end(self) -> None:
        """The one that counts right is accepted."""
        end = Block(3, b"\x92\x02\x91\x01")
        events, reader = read(Kvmr([header(), Block(EVENTS, rows((3, 0)), 1)], end=end).data())
        assert (len(events), reader.trailer().events) == (1, 1)

    def test_empty_recording(self) -> None:
        """A recording without events is whole; whether nothing can be judged is not the container's question."""
        assert verdict(recording()) == ("whole", [], "")
