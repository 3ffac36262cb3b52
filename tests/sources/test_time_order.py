"""Promises of the order of bpftrace's lines: by time, each with its number, whatever the order in which they were printed."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.sources import time_order
from replay.sources.tally import Tally
from replay.sources.time_order import LATE, SILENT_ROUNDS, TimeOrder


def numbered(order: TimeOrder) -> list[tuple[int, bytes]]:
    """Return the lines with their numbers as they are given."""
    return [(number, line) for block in order for number, line in enumerate(block.lines, block.first_line)]


def lines_of(times: list[int]) -> list[bytes]:
    """Return a line for each time."""
    return [b"%d 1 1 guest ZAP gfn=%x role=0" % (time, place) for place, time in enumerate(times)]


def ordered(lines: list[bytes], *, pieces: int = 1) -> tuple[list[tuple[int, bytes]], Tally]:
    """Return lines in their order, read in blocks of that many lines, and what was counted."""
    tally = Tally()
    texts = [b"".join(line + b"\n" for line in lines[at : at + pieces]) for at in range(0, len(lines), pieces)]
    chunks = [chunk for text in texts for chunk in (text, b"")]  # an empty piece makes a block of what there is
    return numbered(TimeOrder(chunks, tally, "bt.txt")), tally


class TestOrder:
    """What comes first."""

    @given(st.lists(st.integers(min_value=1, max_value=40), max_size=60), st.integers(min_value=1, max_value=9))
    def test_by_time(self, times: list[int], pieces: int) -> None:
        """Lines come by their times, those of one time as they stand, and keep their numbers; none is lost."""
        lines = lines_of(times)
        found, tally = ordered(lines, pieces=pieces)
        assert found == sorted(enumerate(lines, 1), key=lambda row: times[row[0] - 1])
        assert tally.counters() == ()

    def test_two_cpus(self) -> None:
        """What a thread did on two CPUs, printed buffer by buffer, comes as it was done, over many blocks."""
        dice, times = random.Random(7), list(range(1000, 61000))
        cpus: list[list[int]] = [[], []]
        for time in times:
            cpus[dice.random() < 0.4].append(time)
        printed = []
        while any(cpus):
            cpu = cpus[dice.random() < 0.5]
            count = dice.randrange(1, 6000)
            printed += cpu[:count]
            del cpu[:count]
        found, _ = ordered(lines_of(printed), pieces=1000)
        assert [int(line.split()[0]) for _, line in found] == times

    def test_json(self) -> None:
        """The lines of -f json as well."""
        lines = [b'{"type": "printf", "data": "%d 1 1 guest CLOSE fd=3\\n"}' % time for time in (5, 9, 7)]
        assert [number for number, _ in ordered(lines)[0]] == [1, 3, 2]

    def test_frames_stay(self) -> None:
        """Lines without a time stay behind theirs, also when a block parts them and others have the same time."""
        lines = [b"5 1 1 a VMAP addr=1", b"        one+1", b"        two+2", b"", b"5 2 2 b CLOSE fd=3", b"3 2 2 b CLOSE fd=4"]
        for pieces in range(1, 7):
            assert [number for number, _ in ordered(lines, pieces=pieces)[0]] == [6, 1, 2, 3, 4, 5]


class TestDamage:
    """Times that can not be."""

    @pytest.mark.parametrize("place", [0, 1, 2, 3])
    @pytest.mark.parametrize("time", [1, 10**18])
    def test_far_away(self, place: int, time: int) -> None:
        """A line whose time is far from its neighbours' stays where it is, unless it is the first."""
        times = [10**12 + number for number in range(5)]
        times[place] = time
        found = [number for number, _ in ordered(lines_of(times))[0]]
        assert found == [1, 2, 3, 4, 5]

    def test_another_clock(self) -> None:
        """Behind a reboot, or in a second recording of the same file, lines stay behind those before it."""
        times = [10**15, 10**15 + 2, 10**15 + 1, 10**15 + 3, 5, 6]
        assert [number for number, _ in ordered(lines_of(times))[0]] == [1, 3, 2, 4, 5, 6]

    def test_too_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line that comes when later ones are given already is counted as not understood; what is held is bounded."""
        monkeypatch.setattr(time_order, "HELD_BYTES_MAX", 400)
        found, tally = ordered(lines_of([*range(100, 150), 101, 149]))
        assert len(found) == 52
        (counter,) = tally.counters()
        assert (counter.kind, counter.count, counter.severity, counter.first) == (LATE, 1, "unknown", "bt.txt:51")


class TestGrowing:
    """Text that grows."""

    def test_given_when_nothing_comes(self) -> None:
        """A second of silence gives all; a little, what is older than the newest by a second."""
        asked: list[int] = []

        def chunks() -> Iterator[bytes]:
            yield b"".join(line + b"\n" for line in lines_of([1, 3, 2]))
            yield b""
            yield b"".join(line + b"\n" for line in lines_of([2_000_000_000]))
            for number in range(SILENT_ROUNDS + 5):
                asked.append(number)
                yield b""

        blocks = iter(TimeOrder(chunks(), Tally(), "bt.txt"))
        first = [next(blocks) for _ in range(3)]
        assert [block.first_line for block in first] == [1, 3, 2]
        assert asked[-1] == 2  # the first makes the block
        assert next(blocks).lines[0].startswith(b"2000000000 ")
        assert asked[-1] == SILENT_ROUNDS
