"""Recorders and recoveries stopped at any byte: what was announced is there, a block is lost at most, none is called whole.

Killing a process does not tear a write into the page cache; so tears are made, by a file that fails at a byte of our choice.
"""

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from sweep import FULL, ROOT, TORN, WHOLE, Figures, blocks_file, judged, original, same

from recordings import HEADER, TRAILER, add, jsonl, small_events
from replay.errors import UnreadableError, UnwritableError
from replay.events import Event, Mark
from replay.recording import JsonlWriter, Writer, open_recording
from replay.recording.files import Output
from replay.recording.recover import RECOVER_SUFFIX, recover
from replay.runs import events_of

EVENTS: Final[list[Event]] = [
    event for number in range(6) for event in (Mark(text=f"{number}" * 30), *(add(0, 256 * number + gfn) for gfn in range(10)))
]
IN_BLOCK: Final = 11
WHOLE_FILE: Final = original(blocks_file())


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def full() -> BaseException:
    """Return what a full disk does."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> BaseException:
    """Return what a broken disk does."""
    return OSError(errno.EIO, os.strerror(errno.EIO))


FAULTS: Final[dict[str, Callable[[], BaseException]]] = {"ENOSPC": full, "EIO": broken, "kill": KilledError}


class Disk(io.RawIOBase):
    """A file that takes bytes up to a place, in pieces, and then fails for ever; what it has is in `data`."""

    def __init__(self, room: int, fault: Callable[[], BaseException] = full, piece: int = 1 << 20) -> None:
        self.room, self.fault, self.piece, self.data = room, fault, piece, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = bytes(memoryview(data)[: min(self.room - len(self.data), self.piece)])
        if not taken and len(data):
            raise self.fault()
        self.data += taken
        return len(taken)


@attrs.define
class Run:
    """What became of a recorder: how many events it had taken and had been told are safe; what stopped it."""

    taken: int = 0
    safe: int = 0
    finished: bool = False
    stopped: BaseException | None = None

    def announce(self, events: int) -> None:
        """Be told how many events are safe."""
        self.safe = events


def record(cls: type[Writer | JsonlWriter], disk: Disk) -> Run:
    """Record all events on a disk, a block after each eleventh, and return what became of it."""
    run = Run()
    try:
        with cls(disk, HEADER, announce=run.announce) as writer:  # type: ignore[arg-type]
            for event in EVENTS:
                writer.write(event)
                run.taken += 1
                if run.taken % IN_BLOCK == 0:
                    writer.flush()
            writer.finish(TRAILER)
            run.finished = True
    except (UnwritableError, KilledError) as error:
        run.stopped = error
    return run


def events_in(data: bytes) -> tuple[str, list[Event]]:
    """Return the verdict on bytes and the events in them."""
    verdict, items = judged(data)
    return verdict, list(events_of(items))


WHOLE_DISK = Disk(1 << 20)
assert record(Writer, WHOLE_DISK).finished
LINES_DISK = Disk(1 << 20)
assert record(JsonlWriter, LINES_DISK).finished


class TestRecorder:
    """A recorder that is stopped at any byte leaves a true prefix with all that was announced."""

    @pytest.mark.parametrize("cls", [Writer, JsonlWriter])
    @pytest.mark.parametrize("name", FAULTS)
    def test_every_byte(self, cls: type[Writer | JsonlWriter], name: str, figures: Figures) -> None:
        """Full, broken, killed, at each byte: torn, never whole; announced events are there; a block is lost at most."""
        whole = bytes((WHOLE_DISK if cls is Writer else LINES_DISK).data)
        most_lost, unreadable = 0, 0
        places = range(0, len(whole), 1 if FULL or cls is Writer else 7)
        for room in places:
            disk = Disk(room, FAULTS[name])
            run = record(cls, disk)
            assert isinstance(run.stopped, KilledError if name == "kill" else UnwritableError)
            assert whole.startswith(bytes(disk.data))
            verdict, events = events_in(bytes(disk.data))
            assert events == EVENTS[: len(events)]
            assert len(events) >= run.safe
            most_lost = max(most_lost, run.taken - len(events))
            assert verdict != WHOLE or (cls is JsonlWriter and room == len(whole) - 1)
            unreadable += verdict != TORN
        assert most_lost <= IN_BLOCK
        figures(f"tears by {name}, {cls.__name__}", len(places), most_events_lost=most_lost, without_a_header=unreadable)

    @pytest.mark.parametrize("piece", [1, 7, 100])
    def test_short_writes(self, piece: int) -> None:
        """A file that takes few bytes at a time gets all of them; at each byte it may fail as well."""
        disk = Disk(1 << 20, piece=piece)
        assert record(Writer, disk).finished
        assert disk.data == WHOLE_DISK.data
        for room in range(0, len(WHOLE_DISK.data), 1 if FULL else 13):
            torn = Disk(room, piece=piece)
            run = record(Writer, torn)
            events = events_in(bytes(torn.data))[1]
            assert len(torn.data) == room
            assert run.safe <= len(events) <= run.safe + IN_BLOCK
            assert events == EVENTS[: len(events)]

    def test_nothing_follows(self) -> None:
        """After a write that failed nothing more is written, though the disk has room again."""

        def once() -> BaseException:
            disk.room = 1 << 20
            return full()

        disk = Disk(700, once)
        assert isinstance(record(Writer, disk).stopped, UnwritableError)
        assert len(disk.data) == 700

    @pytest.mark.parametrize("place", [-1, 0, 1])
    def test_sync_fails(self, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A block whose sync fails is not announced, and nothing follows it."""
        count, last = 0, 4 + place

        def fsync(_handle: int) -> None:
            nonlocal count
            count += 1
            if count > last:
                raise broken()

        run = Run()
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(UnwritableError, match=os.strerror(errno.EIO).lower()):
            self.record_durably(tmp_path / "a.kvmr", run)
        assert run.safe == last - 2
        assert [path.name for path in tmp_path.iterdir()] == ["a.kvmr.part"]
        events = events_in((tmp_path / "a.kvmr.part").read_bytes())[1]
        assert run.safe <= len(events) <= run.safe + 1

    @staticmethod
    def record_durably(path: Path, run: Run) -> None:
        """Record all events, a block each, waiting for the disk."""
        with Writer(path, HEADER, durable=True, announce=run.announce) as writer:
            for event in EVENTS:
                writer.write(event)
                writer.flush()


def torn_files() -> Iterator[tuple[str, bytes]]:
    """Yield files to be recovered: cut in a block, between blocks, damaged, and lines."""
    data = WHOLE_FILE.data
    edge = WHOLE_FILE.edges[4][0]
    yield "in a block", data[: edge + 50]
    yield "between blocks", data[:edge]
    yield "damaged", data[:edge] + b"x" + data[edge + 1 :]
    yield "lines", jsonl(small_events())[:-20]


class TestRecovery:
    """A recovery that is stopped costs nothing: the source is as it was, and the next one gives what the first would have."""

    @pytest.mark.parametrize(("what", "data"), list(torn_files()), ids=lambda value: value if isinstance(value, str) else "")
    def test_every_byte(self, what: str, data: bytes, tmp_path: Path, figures: Figures) -> None:
        """Full, broken or killed at each byte of the new file: what is there is torn, a true prefix of the right one."""
        source = tmp_path / "source"
        source.write_bytes(data)
        undisturbed = Disk(1 << 20)
        recover(source, undisturbed, durable=False)  # type: ignore[arg-type]
        right = original(bytes(undisturbed.data))
        tried = 0
        for name, fault in FAULTS.items():
            for room in range(0, len(right.data), 1 if FULL or name == "kill" else 5):
                disk = Disk(room, fault)
                with pytest.raises(KilledError if name == "kill" else UnwritableError):
                    recover(source, disk, durable=False)  # type: ignore[arg-type]
                assert right.data.startswith(bytes(disk.data))
                verdict, items = judged(bytes(disk.data))
                assert verdict != WHOLE
                assert same(items, right.true_items(room))
                tried += 1
        assert source.read_bytes() == data
        figures(f"tears of a recovery, {what}", tried, named_whole=0)

    @pytest.mark.parametrize("name", FAULTS)
    def test_files(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With real files nothing but the source is left after each, and after a kill the next recovery gives the right file."""
        source, target = tmp_path / "a.kvmr", tmp_path / "b.kvmr"
        data = dict(torn_files())["in a block"]
        source.write_bytes(data)
        recover(source, target)
        right = target.read_bytes()
        target.unlink()
        for number in range(3):
            with monkeypatch.context() as patch:
                patch.setattr(Output, "write", self.failing_write(number, FAULTS[name]))
                with pytest.raises((UnwritableError, KilledError)):
                    recover(source, target)
            assert [path.name for path in tmp_path.iterdir()] == ["a.kvmr"]
            (tmp_path / f"b.kvmr{RECOVER_SUFFIX}").write_bytes(right[: number * 100])  # as SIGKILL leaves it
            recover(source, target)
            assert target.read_bytes() == right
            assert sorted(path.name for path in tmp_path.iterdir()) == ["a.kvmr", "b.kvmr"]
            target.unlink()
        assert source.read_bytes() == data

    @staticmethod
    def failing_write(number: int, fault: Callable[[], BaseException]) -> Callable[[Output, bytes], None]:
        """Return a write of which the number-th, from 0, takes half and fails: header, events, END."""
        real, left = Output.write, number

        def write(self: Output, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                real(self, data)
                return
            real(self, data[: len(data) // 2])
            error = fault()
            raise UnwritableError("disk") if isinstance(error, OSError) else error

        return write

    def test_bad_sectors(self, figures: Figures) -> None:
        """A source that can not be read from any byte on gives up all its blocks before that."""
        tried = 0
        for bad in range(WHOLE_FILE.header_end, len(WHOLE_FILE.data), 1 if FULL else 3):
            out = io.BytesIO()
            report = recover(Failing(WHOLE_FILE.data, bad), out, durable=False)
            assert not report.complete
            assert same(list(open_recording(io.BytesIO(out.getvalue())).items()), WHOLE_FILE.true_items(bad))
            tried += 1
        with pytest.raises(UnreadableError):
            recover(Failing(WHOLE_FILE.data, 30), io.BytesIO(), durable=False)
        figures("sources that fail at a byte", tried, blocks_before_it_lost=0)


class Failing(io.BytesIO):
    """A file whose bytes from one place on can not be read."""

    def __init__(self, data: bytes, bad: int) -> None:
        super().__init__(data)
        self.bad = bad

    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > 0 and self.tell() + size > self.bad:
            raise broken()
        return super().read(size)


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from recordings import HEADER, add
from replay.recording import Writer
with Writer("a.kvmr", HEADER, durable=True, announce=lambda events: print(events, flush=True)) as writer:
    for gfn in range(1000000):
        writer.write(add(0, gfn))
        if gfn % 50 == 49:
            writer.flush()
"""


class TestKilled:
    """Real processes, really killed."""

    def test_recorder(self, tmp_path: Path, figures: Figures) -> None:
        """What a recorder announced before SIGKILL is in its .part, and recover saves it."""
        most_lost = 0
        for number in range(20 if FULL else 3):
            folder = tmp_path / str(number)
            folder.mkdir()
            path = [str(ROOT), str(ROOT / "tests" / "recording")]
            command = [sys.executable, "-c", PROGRAM.format(path=path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, text=True) as process:
                assert process.stdout is not None
                announced = [int(process.stdout.readline()) for _ in range(5 + 7 * number)]
                process.send_signal(signal.SIGKILL)
                announced += [int(line) for line in process.stdout.read().splitlines()]
            report = recover(folder / "a.kvmr.part", folder / "a.kvmr")
            assert report.events >= announced[-1] > 0
            assert report.events % 50 == 0
            most_lost = max(most_lost, announced[-1] - report.events)
            assert list(events_of(open_recording(folder / "a.kvmr").items())) == [add(0, gfn) for gfn in range(report.events)]
        figures("recorders killed", 20 if FULL else 3, announced_events_lost=max(0, most_lost))
