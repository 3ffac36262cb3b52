"""Promises of replay.recording.block_map: any event is found by block headers alone, and nothing is passed over unseen."""

import random
from pathlib import Path

import pytest

from recordings import HEADER
from replay.errors import DamagedError
from replay.events import Event, Mark, WriteTrackAdd
from replay.header import Trailer
from replay.recording import KvmrReader, Writer
from replay.recording.block_map import BlockMap, map_file
from replay.recording.blocks import LAYOUT, MAGIC_LAYOUT
from replay.runs import events_of, items_of
from replay.units import Gfn


def many(count: int = 90) -> list[Event]:
    """Return events of both sorts."""
    return [Mark(text=str(i)) if i % 7 == 0 else WriteTrackAdd(vm=0, gfn=Gfn(i)) for i in range(count)]


def blocks_file(path: Path, events: list[Event], each: int = 9) -> Path:
    """Write a recording of many small blocks."""
    with Writer(path, HEADER) as writer:
        for start in range(0, len(events), each):
            for item in items_of(events[start : start + each]):
                writer.write(item)
            writer.flush()
        writer.finish(Trailer())
    return path


def mapped(path: Path) -> BlockMap:
    """Return the map of a whole file."""
    found = map_file(str(path))
    assert found is not None
    return found


def read_from(path: Path, event: int) -> tuple[int, list[Event]]:
    """Return the number of the first event that is read, and all from there."""
    with KvmrReader(path) as reader:
        place = mapped(path).place_of(event)
        reader.skip_to(place)
        found = list(events_of(reader.items()))
        assert reader.trailer().events == 90
        return place.first_event, found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a recording of 90 events in ten blocks."""
    return blocks_file(tmp_path / "many.kvmr", many())


class TestMap:
    """Where the blocks are."""

    def test_places(self, path: Path) -> None:
        """Ten blocks of nine events, numbered behind the header's."""
        blocks = mapped(path)
        assert (blocks.events, blocks.size_bytes) == (90, path.stat().st_size)
        assert [(place.number, place.first_event) for place in blocks.places] == [(i + 1, 9 * i) for i in range(10)]
        assert [blocks.place_of(event).first_event for event in (0, 8, 9, 89, 90, 10**12)] == [0, 0, 9, 81, 81, 81]

    def test_every_event(self, path: Path) -> None:
        """From each event on, what is read is the rest of the recording, and END still counts right."""
        events = many()
        for event in range(90):
            first, found = read_from(path, event)
            assert first <= event < first + 9
            assert found == events[first:]

    def test_digest(self, path: Path, tmp_path: Path) -> None:
        """The same recording has the same digest wherever it is; one event more or less, or other blocks, another."""
        others = [many(89), many(91), [*many(89), Mark(text="other")]]
        digests = {mapped(blocks_file(tmp_path / f"{i}.kvmr", events)).digest for i, events in enumerate(others)}
        digests.add(mapped(blocks_file(tmp_path / "cut.kvmr", many(), each=10)).digest)
        copy = tmp_path / "copy.kvmr"
        copy.write_bytes(path.read_bytes())
        assert mapped(copy).digest == mapped(path).digest
        assert len(digests | {mapped(path).digest}) == 5

    def test_no_events(self, tmp_path: Path) -> None:
        """A recording without events has no place to start at."""
        assert map_file(str(blocks_file(tmp_path / "none.kvmr", []))) is None

    def test_other_files(self, tmp_path: Path) -> None:
        """What is no .kvmr file, or not there, has no map."""
        other = tmp_path / "other"
        other.write_text("{}\n")
        assert [map_file(str(name)) for name in (other, tmp_path, tmp_path / "missing")] == [None, None, None]


class TestDamage:
    """What the walk sees, and what only a reader does."""

    def test_cuts(self, path: Path) -> None:
        """A file that stops early, or goes on behind its END, has no map."""
        data = path.read_bytes()
        edges = {place.at for place in mapped(path).places} | {len(data) - 1}
        for size in sorted({*range(0, len(data), 9), *edges}):
            path.write_bytes(data[:size])
            assert map_file(str(path)) is None, size
        path.write_bytes(data + b"\0")
        assert map_file(str(path)) is None

    def test_flips(self, path: Path) -> None:
        """A flipped bit in magic, a header or END leaves no map or another digest; one in a payload is seen when it is read."""
        data, whole = path.read_bytes(), mapped(path)
        heads = {at for place in whole.places for at in range(place.at, place.at + LAYOUT.size)}
        heads |= {*range(MAGIC_LAYOUT.size + LAYOUT.size)}
        passed = 0
        for at in [*sorted(heads), *random.Random(4).sample(range(len(data)), 200)]:
            flipped = bytearray(data)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            found = map_file(str(path))
            assert at not in heads or found is None or found.digest != whole.digest
            if found is not None and found.digest == whole.digest:
                passed += 1
                with pytest.raises(DamagedError):
                    list(KvmrReader(path).items())
        assert passed > 50

    def test_read_after_a_skip(self, path: Path) -> None:
        """A block that is read after others were passed over is checked like any other; one that was passed over is not read."""
        data, blocks = bytearray(path.read_bytes()), mapped(path)
        data[blocks.places[4].at + LAYOUT.size + 3] ^= 4
        path.write_bytes(data)
        for event, sees in ((0, True), (36, True), (44, True), (45, False)):
            reader = KvmrReader(path)
            reader.skip_to(blocks.place_of(event))
            if sees:
                with pytest.raises(DamagedError, match="block 5 at byte"):
                    list(reader.items())
            else:
                assert sum(1 for _event in events_of(reader.items())) == 45
