"""Promises of `kvm-replay index` and of what uses an index: a cache that is right, or dropped and made anew."""

import json
import random
from pathlib import Path

import pytest
from cli_samples import kvm_replay

from replay.cli import indexed, main
from replay.cli.maker import maker
from replay.events import Event
from replay.header import Header, Trailer
from replay.recording import JsonlWriter, Writer, open_recording
from replay.runs import events_of, items_of

RECORDINGS = Path(__file__).resolve().parent.parent.parent / "recordings"
FILES = sorted(RECORDINGS.glob("**/*.kvmr")) + sorted(RECORDINGS.glob("**/*.jsonl"))
SMALL = [path for path in FILES if path.stat().st_size < 8000 and "overflow" not in path.stem]
"""Recordings of few bytes; those of an overflow have 65,000 events in them."""
CHOSEN = SMALL[:: max(len(SMALL) // 16, 1)]
EACH = 7


def blocks_file(path: Path, header: Header, events: list[Event], trailer: Trailer) -> Path:
    """Write a recording with a block for every few events."""
    with Writer(path, header, overwrite=True) as writer:
        for start in range(0, len(events), EACH):
            for item in items_of(events[start : start + EACH]):
                writer.write(item)
            writer.flush()
        writer.finish(trailer)
    return path


def copied(source: Path, folder: Path) -> tuple[Path, list[Event]]:
    """Return a recording again, with small blocks, and its events."""
    stream = open_recording(source)
    events = list(events_of(stream.items()))
    return blocks_file(folder / "copy.kvmr", stream.header, events, stream.trailer()), events


def state(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Return what `state --format json` prints to both streams; the status says as it does whether that is certain."""
    status = main(["state", "--format", "json", *arguments])
    found = capsys.readouterr()
    assert status == (0 if json.loads(found.out)["certain"] else 3)
    return found.out, found.err


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return a recording of some blocks that has an index with a checkpoint at each."""
    source = RECORDINGS / "kernel" / "6.12-npt0" / "08-gfn.kvmr"
    name = str(copied(source, tmp_path)[0])
    assert main(["index", name, "--every", "1"]) == 0
    capsys.readouterr()
    return name


class TestSeek:
    """The state by way of a checkpoint is the state."""

    @pytest.mark.parametrize("source", CHOSEN, ids=lambda source: source.stem)
    def test_like_straight(self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """After sampled events of the small recordings: from a checkpoint, straight, and from the JSON Lines twin."""
        path, events = copied(source, tmp_path)
        stream = open_recording(path)
        with JsonlWriter(tmp_path / "twin.jsonl", stream.header) as twin:
            for item in stream.items():
                twin.write(item)
            twin.finish(stream.trailer())
        assert main(["index", str(path), "--every", "1", "--format", "json", "--lanes", "all"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["checkpoints"] == (len(events) - 1) // EACH
        sample = sorted(random.Random(len(events)).sample(range(len(events)), min(3, len(events))))
        for at in [*map(str, sample), "end"]:
            by_seek, said = state(capsys, str(path), "--at", at, "--lanes", "all")
            assert not [line for line in said.splitlines() if "index" in line]
            assert by_seek == state(capsys, str(path), "--at", at, "--lanes", "all", "--no-index")[0]
            assert by_seek == state(capsys, str(tmp_path / "twin.jsonl"), "--at", at, "--lanes", "all")[0]

    def test_enough_are_chosen(self) -> None:
        """There are recordings of all sorts among them."""
        assert len(CHOSEN) >= 16

    def test_some_lanes(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Some of the lanes of an index are served by it; for another one the replay is straight, and that is said."""
        found, said = state(capsys, path, "--at", "20", "--lanes", "on-demand")
        assert (found, said) == state(capsys, path, "--at", "20", "--lanes", "on-demand", "--no-index")
        found, said = state(capsys, path, "--at", "20", "--lanes", "on-demand,v1")
        assert said == "kvm-replay: the index has the lanes eager, on-demand, not these: replayed from the start\n"
        assert found == state(capsys, path, "--at", "20", "--lanes", "on-demand,v1", "--no-index")[0]
        said = state(capsys, path, "--at", "20", "--profile", "tdp=1")[1]
        assert "not these" in said

    def test_no_such_event(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """An event behind the end is the same usage error by either road."""
        assert main(["state", path, "--at", "100000"]) == 2
        by_seek = capsys.readouterr().err
        assert main(["state", path, "--at", "100000", "--no-index"]) == 2
        assert capsys.readouterr().err == by_seek


class TestDropped:
    """An index that does not fit is never trusted."""

    def damaged(self, path: str, data: bytes, why: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Put other bytes in the place of an index: the answer is the same, a warning says so, and a whole one is made."""
        expected = state(capsys, path, "--at", "30", "--no-index")[0]
        index = Path(f"{path}.idx")
        index.write_bytes(data)
        found, said = state(capsys, path, "--at", "30")
        assert found == expected
        assert f"warning: {index}: index dropped: {why}" in said
        assert "index written" in said
        assert state(capsys, path, "--at", "30") == (expected, "")

    def test_damaged(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Flipped or cut behind its signature: dropped, made anew."""
        data = Path(f"{path}.idx").read_bytes()
        rng = random.Random(5)
        for _ in range(6):
            flipped = bytearray(data)
            flipped[rng.randrange(8, len(data))] ^= 1 << rng.randrange(8)
            self.damaged(path, bytes(flipped), "it is damaged", capsys)
            self.damaged(path, data[: rng.randrange(len(data))], "it is damaged", capsys)

    def test_of_another_recording(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """That of another recording is dropped, made anew."""
        other = tmp_path / "other"
        other.mkdir()
        source = next(name for name in SMALL if name.suffix == ".kvmr" and name.stem != "08-gfn")
        name = str(copied(source, other)[0])
        assert main(["index", name, "--every", "1"]) == 0
        capsys.readouterr()
        self.damaged(path, Path(f"{name}.idx").read_bytes(), "it is of another recording, or this one has changed", capsys)

    def test_of_other_code(self, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """One that other code made is dropped, made anew."""
        data = Path(f"{path}.idx").read_bytes()
        monkeypatch.setattr(indexed, "maker", lambda: "0.2.0+00")
        self.damaged(path, data, "another version made it", capsys)

    def test_recording_changed(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """When the recording was written anew with one event less, its old index is dropped."""
        stream = open_recording(path)
        events = list(events_of(stream.items()))
        blocks_file(Path(path), stream.header, events[:-1], Trailer())
        found, said = state(capsys, path, "--at", "30")
        assert "it is of another recording, or this one has changed" in said
        assert found == state(capsys, path, "--at", "30", "--no-index")[0]

    def test_no_index(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """--no-index looks at none, and leaves a damaged one as it is."""
        Path(f"{path}.idx").write_bytes(b"\x89KVMRIX\nrubbish")
        assert state(capsys, path, "--at", "30", "--no-index")[1] == ""
        assert Path(f"{path}.idx").read_bytes() == b"\x89KVMRIX\nrubbish"

    def test_not_ours(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A file of that name that is no index is left alone; the index goes to the cache, and is found there."""
        Path(f"{path}.idx").write_text("notes of mine")
        said = state(capsys, path, "--at", "30")[1]
        assert "index dropped: it is no index" in said
        assert "not written: a file that is no index has its name" in said
        assert Path(f"{path}.idx").read_text() == "notes of mine"
        assert len(list((tmp_path / "cache" / "kvm-replay").iterdir())) == 1


class TestIndex:
    """Making one."""

    def test_same_bytes(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """An index is decided by recording, lanes and code alone; the recording is not touched."""
        before, recording = Path(f"{path}.idx").read_bytes(), Path(path).read_bytes()
        assert main(["index", path, "--every", "1"]) == 0
        assert Path(f"{path}.idx").read_bytes() == before
        assert Path(path).read_bytes() == recording

    def test_text(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """It says where it is, how large, and what it holds; a short recording needs no checkpoints."""
        assert main(["index", path]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{path}.idx: ")
        assert "0 checkpoints: it is too short to need any" in lines[1]
        assert lines[2] == "lanes: eager, on-demand"

    def test_folder_that_can_not_be_written(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Then it is in the user's cache, under the recording's digest, and is used from there."""
        Path(f"{path}.idx").unlink()
        Path(f"{path}.idx").mkdir()  # stands for a folder without permission, which root would not notice
        assert main(["index", path, "--every", "1"]) == 0
        (made,) = (tmp_path / "cache" / "kvm-replay").iterdir()
        assert capsys.readouterr().out.startswith(f"{made}: ")
        assert state(capsys, path, "--at", "30") == state(capsys, path, "--at", "30", "--no-index")

    def test_nowhere(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """When no place will do, `index` fails, and `state` answers all the same."""
        Path(f"{path}.idx").unlink()
        Path(f"{path}.idx").mkdir()
        (tmp_path / "cache").write_text("a file")
        assert main(["index", path]) == 2
        assert "index not written" in capsys.readouterr().err
        assert main(["state", path]) == 0

    def test_refused(self, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """JSON Lines, a torn recording and one without events have no index."""
        torn, twin, empty = tmp_path / "torn.kvmr", tmp_path / "twin.jsonl", tmp_path / "empty.kvmr"
        torn.write_bytes(Path(path).read_bytes()[:-20])
        twin.write_text('{"kvm-replay": "recording/1"}\n{"event": "mark", "text": "x"}\n{"end": {"events": 1}}\n')
        blocks_file(empty, Header(), [], Trailer())
        for name, code in ((torn, "KVR102"), (twin, "KVR001"), (empty, "KVR102")):
            assert main(["index", str(name)]) == 2
            assert code in capsys.readouterr().err
            assert not Path(f"{name}.idx").exists()

    def test_standard_input(self, path: str) -> None:
        """Standard input has no index, and that is what is said."""
        done = kvm_replay("index", "-", cwd=Path.cwd(), stdin=Path(path).read_bytes())
        said = b"kvm-replay: KVR001 bad usage: -: standard input has no index; expected a .kvmr file\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)

    def test_forged(self, path: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One with the right digest and checkpoints that are none is an error that says what to do, not a traceback."""
        from replay.recording.block_map import map_file
        from replay.recording.index_file import Checkpoint, index_bytes, index_of_bytes

        index, blocks = Path(f"{path}.idx"), map_file(path)
        assert blocks is not None
        real = index_of_bytes(index.read_bytes(), blocks.digest, maker())
        state = real.checkpoints[0].state
        forged = [Checkpoint(EACH, b"rubbish"), Checkpoint(EACH - 1, state)]
        forged += [Checkpoint(EACH, state, doubts) for doubts in (b"rubbish", b"[7, 7]", b"[[[7]], []]", b"[" * 10_000)]
        for checkpoint in forged:
            index.write_bytes(index_bytes(type(real)(real.recording, real.maker, real.lanes, (checkpoint,))))
            assert main(["state", path, "--at", "30"]) == 2
            assert "Remove the index, or give --no-index" in capsys.readouterr().err


class TestFirstUse:
    """A recording gets its index when it is worth it."""

    def test_made_and_grown(self, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A long replay leaves one up to its event, a longer one makes it longer; the end is what `index` makes."""
        from replay.engine import placing

        index = Path(f"{path}.idx")
        whole = index.read_bytes()
        index.unlink()
        for name, value in (("EVENTS_LEAST", 1), ("EVENTS_MOST", 1), ("SHARE", 0)):
            monkeypatch.setattr(placing, name, value)
        assert state(capsys, path, "--at", "30")[1] == ""
        assert not index.exists()
        monkeypatch.setattr(indexed, "WORTH_EVENTS", 20)
        assert f"kvm-replay: index written: {index}, 4 checkpoints" in state(capsys, path, "--at", "30")[1]
        assert state(capsys, path, "--at", "40")[1] == ""
        monkeypatch.setattr(indexed, "WORTH_EVENTS", 1)
        assert "index written" in state(capsys, path)[1]
        assert index.read_bytes() == whole
