"""Recover saves the longest true prefix into a new, complete recording that says what it lacks, and touches nothing else."""

import io
from pathlib import Path
from typing import Any

import pytest
from kvmrwriter import EVENTS, Block, Kvmr, flipped, header, payloads, rows, split

from recordings import HEADER, TRAILER, add, jsonl, kvmr, small_events
from replay.errors import HeaderError, KvmReplayError, UnreadableError, UnwritableError, UsageError
from replay.events import Event, Mark
from replay.header import Counter, Header, Trailer
from replay.recording import open_recording
from replay.recording.recover import RECOVER_SUFFIX, recover
from replay.runs import events_of
from replay.soundness import DAMAGED, REFUSED, SOUND, TORN, RecoverReport

SMALL = kvmr(small_events())
LINES = jsonl(small_events())
MANY_EVENTS: list[Event] = [Mark(text=f"{number}" + "x" * 4000) for number in range(900)]
MANY = kvmr(MANY_EVENTS)
PARTS = split(MANY)
IN_BLOCK = payloads(MANY)[1].events
"""Events in each full block of it."""


def contents(data: bytes) -> tuple[list[Event], Header, Trailer]:
    """Return what a complete recording holds."""
    reader = open_recording(io.BytesIO(data))
    events = list(events_of(reader.items()))
    assert not reader.torn
    return events, reader.header, reader.trailer()


def recovered(folder: Path, data: bytes, name: str = "saved.kvmr") -> tuple[RecoverReport, bytes]:
    """Recover bytes as a file in a folder; return the report and the new file, after looking that all else is as it was."""
    source, target = folder / "source", folder / name
    source.write_bytes(data)
    report = recover(source, target, overwrite=True, durable=False)
    assert source.read_bytes() == data
    assert sorted(path.name for path in folder.iterdir()) == sorted(["source", name])
    assert report.output == str(target)
    return report, target.read_bytes()


class TestSaved:
    """What is whole is saved, all of it and nothing else."""

    def test_sound(self, tmp_path: Path) -> None:
        """A sound recording comes out as it went in, byte for byte, and nothing is lost."""
        for data, name in ((SMALL, "a.kvmr"), (MANY, "a.kvmr"), (LINES, "a.jsonl")):
            folder = tmp_path / str(len(data))
            folder.mkdir()
            report, saved = recovered(folder, data, name)
            assert saved == data
            assert report.complete
            assert report.source is not None
            assert report.source.state == SOUND

    def test_every_cut(self, tmp_path: Path) -> None:
        """Of each cut every whole block is saved; the loss is counted where the original would count it."""
        starts = [len(b"".join(PARTS[: number + 1])) for number in range(len(PARTS))]
        for size in sorted({*starts[1:-1], *(start - 1 for start in starts[2:]), *(start + 50 for start in starts[1:-2])}):
            report, saved = recovered(tmp_path, MANY[:size])
            events, found_header, trailer = contents(saved)
            whole = IN_BLOCK * (sum(start <= size for start in starts) - 2)
            assert (events, found_header) == (MANY_EVENTS[: min(whole, 900)], HEADER)
            assert not report.complete
            assert report.source is not None
            assert (report.source.state, report.events) == (TORN, len(events))
            assert [(counter.kind, counter.severity) for counter in trailer.counters] == [("torn recording", "lost")]

    def test_same_as_read(self, tmp_path: Path) -> None:
        """The saved recording says the same as the torn one read as it is: header, events, trailer."""
        for size in range(len(b"".join(split(SMALL)[:2])), len(SMALL)):
            _, saved = recovered(tmp_path, SMALL[:size])
            reader = open_recording(tmp_path / "source")
            events = list(events_of(reader.items()))
            assert contents(saved) == (events, reader.header, reader.trailer())

    def test_damage(self, tmp_path: Path) -> None:
        """Of a damaged recording the blocks before the damage are saved; the loss names the place, without any folder."""
        at = len(b"".join(PARTS[:3]))
        report, saved = recovered(tmp_path, flipped(MANY, 8 * (at + 100)))
        events, _, trailer = contents(saved)
        assert events == MANY_EVENTS[:IN_BLOCK]
        assert trailer.counters == (
            Counter(kind="damaged recording", count=1, first=f"source, block 2 at byte {at}", severity="lost"),
        )
        assert report.source is not None
        assert (report.source.state, report.source.loss and report.source.loss.events) == (DAMAGED, 900 - IN_BLOCK)

    def test_behind_the_end(self, tmp_path: Path) -> None:
        """Bytes behind END cost no event and no counter, but are lost."""
        for data, name in ((SMALL + b"x", "a.kvmr"), (LINES + b"{}\n", "a.jsonl")):
            folder = tmp_path / name
            folder.mkdir()
            report, saved = recovered(folder, data, name)
            events, _, trailer = contents(saved)
            assert events == small_events()
            assert [counter.kind for counter in trailer.counters] == ["damaged recording", "ioctl 0xae9a"]
            assert not report.complete

    def test_most_counters(self, tmp_path: Path) -> None:
        """A trailer that is full has room for the loss all the same."""
        full = Trailer(counters=tuple(Counter(kind=str(number), count=1) for number in range(4096)))
        _, saved = recovered(tmp_path, kvmr([], trailer=full) + b"x")
        counters = contents(saved)[2].counters
        assert (len(counters), counters[0].severity) == (4096, "lost")

    def test_lines(self, tmp_path: Path) -> None:
        """Of lines every one before the bad one is saved, in either form; a hand-written file becomes a counted one."""
        lines = jsonl([add(0, gfn) for gfn in range(100)], hand_written=True).splitlines(keepends=True)
        damaged = b"".join([*lines[:51], b"{}\n", *lines[51:]])
        for name in ("a.kvmr", "a.jsonl"):
            folder = tmp_path / name
            folder.mkdir()
            _, saved = recovered(folder, damaged, name)
            events, _, trailer = contents(saved)
            assert events == [add(0, gfn) for gfn in range(50)]
            assert [counter.first for counter in trailer.counters] == ["source:52"]

    def test_other_form(self, tmp_path: Path) -> None:
        """A compressed recording can be saved as lines."""
        data = kvmr(small_events(), Header(title="t", compression="zlib"))
        _, saved = recovered(tmp_path, data[:-1], "saved.jsonl")
        assert contents(saved)[:2] == (small_events(), Header(title="t"))

    def test_newer(self, tmp_path: Path) -> None:
        """Of a recording that needs a newer release the part before that is saved, and is not called damaged."""
        report, saved = recovered(tmp_path, Kvmr([header(), Block(EVENTS, rows((3, 0)), 1), Block(9, b"")]).data())
        events, _, trailer = contents(saved)
        assert len(events) == 1
        assert [counter.kind for counter in trailer.counters] == ["recording read only in part"]
        assert report.source is not None
        assert report.source.state == REFUSED

    def test_again(self, tmp_path: Path) -> None:
        """What was saved is sound; saving it again changes no byte and keeps the loss."""
        _, saved = recovered(tmp_path, MANY[:-1])
        report, again = recovered(tmp_path, saved)
        assert again == saved
        assert report.complete
        assert report.source is not None
        assert report.source.recorded_losses == 1

    def test_streams(self) -> None:
        """Open streams are recovered from and to."""
        out = io.BytesIO()
        assert recover(io.BytesIO(MANY[:-1]), out, durable=False).events == 900
        assert contents(out.getvalue())[0] == MANY_EVENTS

    def test_long_name(self) -> None:
        """Of a place with a very long name the end is kept, as much as fits."""
        stream, out = io.BytesIO(MANY[:-1]), io.BytesIO()
        stream.name = "x" * 400
        recover(stream, out, durable=False)
        (lost,) = contents(out.getvalue())[2].counters
        assert len(lost.first) == 300
        assert lost.first.startswith("xxx")
        assert " at byte " in lost.first

    def test_bad_disk(self, tmp_path: Path) -> None:
        """A disk that fails half way gives up what was read before."""

        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > len(MANY) // 2:
                    raise OSError(5, "Input/output error")
                return super().read(size)

        report = recover(Failing(MANY), tmp_path / "saved.kvmr")
        assert (report.events, report.complete) == (2 * IN_BLOCK, False)
        assert contents((tmp_path / "saved.kvmr").read_bytes())[0] == MANY_EVENTS[: 2 * IN_BLOCK]


class TestRefused:
    """Nothing is written where nothing can be saved, or where it would cost the source."""

    def test_nothing(self, tmp_path: Path) -> None:
        """Without a header there is nothing to save, and no file."""
        (tmp_path / "a").write_bytes(SMALL[:30])
        with pytest.raises(HeaderError, match="nothing to recover"):
            recover(tmp_path / "a", tmp_path / "b.kvmr")
        with pytest.raises(UnreadableError):
            recover(tmp_path / "missing", tmp_path / "b.kvmr")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_onto_itself(self, tmp_path: Path) -> None:
        """The source is never the target, under whatever name, nor what the target is called while it is written."""
        source = tmp_path / "a.kvmr"
        source.write_bytes(SMALL[:-1])
        (tmp_path / "link.kvmr").symlink_to(source)
        (tmp_path / f"b.kvmr{RECOVER_SUFFIX}").hardlink_to(source)
        for name in ("a.kvmr", "link.kvmr", "../" + tmp_path.name + "/a.kvmr", "b.kvmr"):
            with pytest.raises(UsageError, match="is the recording to be recovered"):
                recover(source, tmp_path / name, overwrite=True)
        assert source.read_bytes() == SMALL[:-1]

    def test_exists(self, tmp_path: Path) -> None:
        """A file that is there is replaced only when asked for."""
        (tmp_path / "a.kvmr").write_bytes(SMALL[:-1])
        (tmp_path / "b.kvmr").write_bytes(b"precious")
        with pytest.raises(UnwritableError, match="exists"):
            recover(tmp_path / "a.kvmr", tmp_path / "b.kvmr")
        assert (tmp_path / "b.kvmr").read_bytes() == b"precious"
        assert recover(tmp_path / "a.kvmr", tmp_path / "b.kvmr", overwrite=True).events == len(small_events())

    def test_part_of_a_recorder(self, tmp_path: Path) -> None:
        """NAME.part of a recorder that was killed is recovered as NAME, and stays."""
        (tmp_path / "a.kvmr.part").write_bytes(SMALL[:-1])
        recover(tmp_path / "a.kvmr.part", tmp_path / "a.kvmr")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.kvmr", "a.kvmr.part"]
        assert (tmp_path / "a.kvmr.part").read_bytes() == SMALL[:-1]

    def test_part_of_a_recovery(self, tmp_path: Path) -> None:
        """What a recovery that was killed left behind is in nobody's way."""
        (tmp_path / "a.kvmr").write_bytes(SMALL[:-1])
        (tmp_path / f"b.kvmr{RECOVER_SUFFIX}").write_bytes(SMALL[:100])
        recover(tmp_path / "a.kvmr", tmp_path / "b.kvmr")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.kvmr", "b.kvmr"]

    @pytest.mark.parametrize("name", ["missing/b.kvmr", "nul\0.kvmr", "folder"])
    def test_unwritable(self, name: str, tmp_path: Path) -> None:
        """A place where nothing can be written is said, and nothing is left."""
        (tmp_path / "a.kvmr").write_bytes(SMALL[:-1])
        (tmp_path / "folder").mkdir()
        with pytest.raises(UnwritableError):
            recover(tmp_path / "a.kvmr", tmp_path / name)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.kvmr", "folder"]

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that fills up meanwhile leaves nothing but the source."""
        from replay.recording.files import Output

        def full(_self: Output, _data: bytes) -> None:
            raise UnwritableError("no space left on device")

        (tmp_path / "a.kvmr").write_bytes(MANY[:-1])
        monkeypatch.setattr(Output, "write", full)
        with pytest.raises(KvmReplayError, match="no space"):
            recover(tmp_path / "a.kvmr", tmp_path / "b.kvmr")
        assert [path.name for path in tmp_path.iterdir()] == ["a.kvmr"]

    def test_too_large_for_the_other_form(self, tmp_path: Path) -> None:
        """A line that no block can hold is said; the same source can be saved as lines."""
        big: Any = b'{"event": "observe", "vm": 0, "state": {"slots": [' + b", ".join(
            b'{"as_id": 0, "id": 1, "base_gfn": 1152921504606846976, "npages": 1152921504606846976, "flags": 4294967295}'
            for _ in range(50000)
        )
        lines = LINES.splitlines(keepends=True)
        (tmp_path / "a.jsonl").write_bytes(b"".join([lines[0], big + b"]}}\n", lines[1]]))
        with pytest.raises(KvmReplayError, match="for one structural event"):
            recover(tmp_path / "a.jsonl", tmp_path / "b.kvmr")
        assert recover(tmp_path / "a.jsonl", tmp_path / "b.jsonl").events == 2
        assert TRAILER.counters
