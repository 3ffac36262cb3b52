"""Every cut is seen, no changed byte is another answer, and no damage inside is taken for a tear; with figures.

The share that is tried in every run is large enough to find a mistake in the format; KVM_REPLAY_SWEEP=full tries all.
"""

import random
from itertools import combinations, permutations
from pathlib import Path

import pytest
from kvmrwriter import split
from sweep import (
    ERROR,
    FULL,
    TORN,
    WHOLE,
    Figures,
    Original,
    Tally,
    blocks_file,
    drawn_flips,
    files,
    judged,
    original,
    same,
    share,
    small_file,
    with_bits,
)

from replay.recording import open_recording
from replay.runs import events_of

SMALL = original(small_file())
BLOCKS = original(blocks_file())
ZIPPED = original(blocks_file(compression="zlib"))
REAL = original((files("region2.kvmr", small=True)[0]).read_bytes())
LARGE = [original(path.read_bytes()) for path in files("*.kvmr", small=False)]


class TestCuts:
    """A file that stops early is never called clean, and what is read of it is a true prefix."""

    @pytest.mark.parametrize("path", files("*.kvmr", small=True), ids=lambda path: f"{path.parent.name}/{path.stem}")
    def test_kvmr(self, path: Path) -> None:
        """Each cut is torn with exactly the events of its whole blocks, or an error inside the header."""
        whole = original(path.read_bytes())
        places = range(len(whole.data)) if FULL else self.few(whole)
        for size in places:
            verdict, seen = judged(whole.data[:size])
            assert verdict == (ERROR if size < whole.header_end else TORN), size
            assert same(seen, whole.true_items(size)), size

    @staticmethod
    def few(whole: Original) -> list[int]:
        """Return the places around each edge, and every 193rd between."""
        near = {at + by for at, _ in whole.edges for by in (-36, -1, 0, 1, 35, 36, 37)}
        return sorted(size for size in {*near, *range(0, len(whole.data), 193)} if 0 <= size < len(whole.data))

    def test_figure_of_kvmr(self, figures: Figures) -> None:
        """All small recordings were cut at all places, or at enough of them."""
        recordings = [original(path.read_bytes()) for path in files("*.kvmr", small=True)]
        tried = sum(len(whole.data) if FULL else len(self.few(whole)) for whole in recordings)
        assert len(recordings) >= 180
        assert tried >= (280_000 if FULL else 4_000)
        figures(f"cuts of {len(recordings)} small .kvmr", tried, called_clean=0, with_untrue_events=0)

    def test_every_cut_of_a_few(self, figures: Figures) -> None:
        """Each cut of three recordings, one of them compressed, in every run."""
        tried = 0
        for whole in (SMALL, BLOCKS, ZIPPED):
            for size in range(len(whole.data)):
                verdict, seen = judged(whole.data[:size])
                assert verdict == (ERROR if size < whole.header_end else TORN), size
                assert same(seen, whole.true_items(size)), size
                tried += 1
        figures("every cut of three .kvmr", tried, called_clean=0, with_untrue_events=0)

    def test_large(self, figures: Figures) -> None:
        """Cuts of the large recordings at and around each edge, and at drawn places."""
        tried = 0
        for number, whole in enumerate(LARGE):
            near = {at + by for at, _ in whole.edges for by in (-1, 0, 1)}
            dice = random.Random(number)
            few = {dice.randrange(len(whole.data)) for _ in range(share(2000, 40))}
            for size in sorted(size for size in near | few if size < len(whole.data)):
                verdict, seen = judged(whole.data[:size])
                assert verdict == (ERROR if size < whole.header_end else TORN), size
                assert same(seen, whole.true_items(size)), size
                tried += 1
        assert len(LARGE) >= 4
        figures("cuts of the large .kvmr", tried, called_clean=0, with_untrue_events=0)

    def test_jsonl(self, figures: Figures) -> None:
        """Each cut of lines: of a machine's file torn; of one by hand an error, or clean at the end of a line and there alone."""
        tried, clean = 0, 0
        for path in files("*.jsonl", small=True):
            data = path.read_bytes()
            events = list(events_of(open_recording(path).items()))
            for size in range(0, len(data), 1 if FULL else 41):
                verdict, seen = judged(data[:size])
                given = list(events_of(seen))
                assert given == events[: len(given)]
                tried += 1
                if verdict != ERROR:
                    assert self.ends_a_line(data, size), (path, size)
                    clean += 1
        assert tried > 500
        figures("cuts of hand-written .jsonl", tried, at_the_end_of_a_line_and_therefore_clean=clean)

    @staticmethod
    def ends_a_line(data: bytes, size: int) -> bool:
        """Say whether a cut takes nothing but whole lines, comments, blanks or the last line end."""
        last = data[:size].rpartition(b"\n")[2].strip()
        return not last or last.startswith(b"#") or data[size : size + 1] == b"\n"


class TestFlips:
    """A changed bit is an error, never another answer and never a tear."""

    @pytest.mark.parametrize("whole", [SMALL, REAL, ZIPPED], ids=["small", "real", "compressed"])
    def test_every_flip(self, whole: Original, figures: Figures, request: pytest.FixtureRequest) -> None:
        """Each single bit of a recording."""
        tally = Tally().all_of(whole, ((f"bit {bit}", with_bits(whole.data, [bit])) for bit in range(8 * len(whole.data))))
        self.held(tally, 8 * len(whole.data))
        figures(f"every flip of one bit, {request.node.callspec.id}", tally.tried, accepted=0, called_torn=0)

    @staticmethod
    def held(tally: Tally, tried: int) -> None:
        """Hold a sweep to its promise."""
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        assert tally.tried == tally.errors == tried

    def test_large(self, figures: Figures) -> None:
        """Drawn bits of the large recordings."""
        tally = Tally()
        for number, whole in enumerate(LARGE):
            tally.all_of(whole, drawn_flips(whole, number, share(5000, 60)))
        self.held(tally, len(LARGE) * share(5000, 60))
        figures(f"flips of {len(LARGE)} large recordings", tally.tried, accepted=0, called_torn=0)

    def test_all_small(self, figures: Figures) -> None:
        """Drawn bits of every small recording."""
        tally, paths = Tally(), files("*.kvmr", small=True)
        for number, path in enumerate(paths):
            whole = original(path.read_bytes())
            tally.all_of(whole, drawn_flips(whole, number, share(5500, 12)))
        self.held(tally, len(paths) * share(5500, 12))
        figures(f"flips of {len(paths)} small recordings", tally.tried, accepted=0, called_torn=0)

    def test_double(self, figures: Figures) -> None:
        """Pairs of bits: all pairs of neighbours, and drawn ones."""
        last = 8 * len(SMALL.data) - 1
        tally = Tally().all_of(SMALL, ((f"bit {bit}", with_bits(SMALL.data, [bit, bit + 1])) for bit in range(last)))
        count = share(300_000, 3000)
        tally.all_of(BLOCKS, drawn_flips(BLOCKS, 1, count, bits=2))
        self.held(tally, last + count)
        figures("flips of two bits", tally.tried, accepted=0, called_torn=0)


class TestBytes:
    """Bytes in other places, zeros and pieces of other files are errors."""

    def test_swaps(self, figures: Figures) -> None:
        """Each two neighbours that differ, and drawn pairs."""
        data = BLOCKS.data
        pairs = [(at, at + 1) for at in range(len(data) - 1) if data[at] != data[at + 1]]
        tally = Tally().all_of(BLOCKS, (self.swap(data, *pair) for pair in pairs))
        dice = random.Random(2)
        drawn = (sorted(dice.sample(range(len(data)), 2)) for _ in range(share(100_000, 1500)))
        tally.all_of(BLOCKS, (self.swap(data, *pair) for pair in drawn))
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        assert tally.tried > len(pairs) > 500
        figures("swaps of two bytes", tally.tried, accepted=0, called_torn=0)

    @staticmethod
    def swap(data: bytes, first: int, second: int) -> tuple[str, bytes]:
        """Return a copy with two bytes swapped."""
        parts = data[:first], data[second : second + 1], data[first + 1 : second], data[first : first + 1], data[second + 1 :]
        return f"bytes {first}, {second}", b"".join(parts)

    @pytest.mark.parametrize("whole", [SMALL, BLOCKS, ZIPPED], ids=["small", "blocks", "compressed"])
    def test_zeroed_tail(self, whole: Original, figures: Figures, request: pytest.FixtureRequest) -> None:
        """From each byte on nothing but zeros, as pages that never reached the disk."""
        size = len(whole.data)
        tally = Tally().all_of(whole, ((f"from {at}", whole.data[:at] + bytes(size - at)) for at in range(size)))
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        assert tally.tried >= size - 3
        figures(f"zeroed tails, {request.node.callspec.id}", tally.tried, accepted=0, called_torn=0)

    def test_zeroed_pages(self, figures: Figures) -> None:
        """Each sector of the large recordings lost."""
        tally = Tally()
        for whole in LARGE:
            places = range(0, len(whole.data), 512 if FULL else 4096)
            tally.all_of(whole, ((f"at {at}", self.hole(whole.data, at, 512)) for at in places))
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        figures("zeroed sectors of large recordings", tally.tried, accepted=0, called_torn=0)

    @staticmethod
    def hole(data: bytes, at: int, size: int) -> bytes:
        """Return a copy with zeros in a place."""
        return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]

    def test_splices(self, figures: Figures) -> None:
        """The head of one recording and the tail of another of the same shape, parted at each byte."""
        other = original(blocks_file("ijklmnop"))
        assert [at for at, _ in other.edges] == [at for at, _ in BLOCKS.edges]
        tally, whole_other = Tally(), 0
        for at in range(1, len(BLOCKS.data)):
            spliced = BLOCKS.data[:at] + other.data[at:]
            if spliced == other.data:
                whole_other += 1
                continue
            tally.take(BLOCKS, spliced, f"at {at}")
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        assert whole_other + tally.tried >= len(BLOCKS.data) - 40
        assert tally.tried > 0.9 * (len(BLOCKS.data) - BLOCKS.header_end)
        figures("splices of two recordings", tally.tried, accepted=0, called_torn=0)

    def test_joined(self, figures: Figures) -> None:
        """Two recordings one behind the other, and one with a byte more, are errors though the first is whole."""
        tally = Tally()
        for whole in (SMALL, BLOCKS, ZIPPED, REAL):
            for more in (whole.data, SMALL.data, b"\0", b"\n", bytes(4096)):
                tally.take(whole, whole.data + more, f"{len(more)} more")
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], [])
        figures("bytes behind the end", tally.tried, accepted=0, called_torn=0)


class TestBlocks:
    """Blocks that are whole in themselves but in the wrong place are errors."""

    PARTS = split(BLOCKS.data)

    def test_moved(self, figures: Figures) -> None:
        """Each swap of two blocks, each order of five neighbours, each block moved to each place, repeated, or left out."""
        count = len(self.PARTS)
        orders: dict[tuple[int, ...], None] = {}
        for first, second in combinations(range(1, count), 2):
            swapped = list(range(count))
            swapped[first], swapped[second] = swapped[second], swapped[first]
            orders[tuple(swapped)] = None
        for five in permutations(range(3, 8)):
            orders[0, 1, 2, *five, *range(8, count)] = None
        for number in range(1, count):
            rest = [index for index in range(count) if index != number]
            for place in range(1, count + 1):
                orders[*rest[:place], number, *rest[place:]] = None
                orders[*range(place), number, *range(place, count)] = None
            orders[tuple(rest)] = None
        del orders[tuple(range(count))]
        tally = Tally()
        for order in orders:
            tally.take(BLOCKS, b"".join(self.PARTS[index] for index in order), f"{order}")
        # Without END, and with nothing else amiss, a file is torn: it is a cut.
        assert tally.torn == [f"{tuple(range(count - 1))}"]
        assert (tally.accepted, tally.untrue) == ([], [])
        assert tally.tried == len(orders) > 250
        figures("blocks swapped, moved, repeated, left out", tally.tried, accepted=0, called_torn=0)

    def test_from_elsewhere(self, figures: Figures) -> None:
        """Each block replaced by its like from a recording of the same shape and the same header."""
        other = split(blocks_file("ijklmnop"))
        tally = Tally()
        for number in range(2, len(self.PARTS)):
            parts = list(self.PARTS)
            parts[number] = other[number]
            tally.take(BLOCKS, b"".join(parts), f"block {number}")
        # With the first block the file is the other recording up to there: a true prefix of that one.
        assert (tally.accepted, tally.torn, tally.untrue) == ([], [], ["block 2"])
        assert tally.tried == len(self.PARTS) - 2
        figures("blocks of another recording", tally.tried, accepted=0, called_torn=0)


class TestTheSweepItself:
    """The judge can say everything that it is asked for."""

    def test_verdicts(self) -> None:
        """Whole, torn, error; and untrue events are seen."""
        verdict, seen = judged(SMALL.data)
        assert verdict == WHOLE
        assert same(seen, SMALL.items)
        assert not same(seen, SMALL.items[1:])
        assert not same(seen[1:], SMALL.items[:-1])
        assert judged(SMALL.data[:-1])[0] == TORN
        assert judged(SMALL.data[:-1] + b"x")[0] == ERROR
        tally = Tally()
        wrong = Original(SMALL.data + b"x", list(reversed(SMALL.items)), SMALL.edges)
        assert tally.take(wrong, SMALL.data, "another recording") == WHOLE
        assert tally.take(wrong, SMALL.data[:-1], "cut") == TORN
        assert (tally.accepted, tally.torn, tally.untrue) == (["another recording"], ["cut"], ["another recording", "cut"])
        assert tally.take(SMALL, SMALL.data, "unchanged") == WHOLE
        assert tally.tried == 2

    def test_edges(self) -> None:
        """Where blocks end is known, with how many events are before."""
        assert len(BLOCKS.edges) == 10
        assert BLOCKS.edges[-1] == (len(BLOCKS.data), len(BLOCKS.items))
        assert [count for _, count in BLOCKS.edges[:3]] == [0, 2, 4]
        assert len(list(events_of(BLOCKS.items))) == 8 * 21
