"""open_stream takes any input that is read, alone or together."""

from pathlib import Path

import pytest
from strace_texts import EXCERPTS

from replay.errors import EmptyError, UnknownFormatError, UsageError
from replay.events import Event, VmCreate
from replay.header import Header, Trailer
from replay.recording import JsonlWriter, Writer
from replay.sources import FACTORIES, SEVERAL, SNAPSHOTS, open_stream
from replay.sources.detect import FORMATS

TRACE = b"         pdguest-27420   [000] ..... 1795343273.241300: sys_ioctl(fd: 3, cmd: 0xae01, arg: 0)\n"


def events(*paths: Path) -> list[Event]:
    """Return the events of inputs."""
    return [item for item in open_stream([str(path) for path in paths]).items() if isinstance(item, Event)]


class TestOneInput:
    """Each format alone."""

    @pytest.mark.parametrize("writer", [Writer, JsonlWriter])
    def test_recordings(self, tmp_path: Path, writer: type[Writer] | type[JsonlWriter]) -> None:
        """A recording, of either kind, is read as what it is, whatever its name."""
        event = VmCreate(vm=0, ret=4)
        with writer(tmp_path / "a.txt", Header(title="t")) as out:
            out.write(event)
            out.finish(Trailer(events=1))
        stream = open_stream([str(tmp_path / "a.txt")])
        assert (stream.header.title, list(stream.items())) == ("t", [event])

    def test_strace(self) -> None:
        """Strace text is imported."""
        assert len(events(EXCERPTS / "f_ttt.txt")) == 9

    def test_folder_of_separate_files(self, tmp_path: Path) -> None:
        """A folder of strace -ff is one run; empty files of idle threads do not matter."""
        for path in (EXCERPTS / "ff").iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "ff.txt.99999").touch()
        assert events(tmp_path) == events(*(EXCERPTS / "ff").iterdir())
        assert len(events(tmp_path)) == 62

    def test_empty(self, tmp_path: Path) -> None:
        """An empty file is nothing to judge."""
        (tmp_path / "a.txt").touch()
        with pytest.raises(EmptyError):
            open_stream([str(tmp_path / "a.txt")])


class TestSeveralInputs:
    """What goes together and what does not."""

    def test_table_names_known_formats(self) -> None:
        """Every format that is recognised has someone to open it, and no other is named."""
        assert {name for names in FACTORIES for name in names} == set(FORMATS) - {SNAPSHOTS}
        assert all(tuple(sorted(names)) == names for names in FACTORIES)
        assert set(SEVERAL) <= {name for names in FACTORIES for name in names}

    def test_two_tracefs(self, tmp_path: Path) -> None:
        """Two traces of one kind that can not be merged are refused, and named."""
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_bytes(TRACE)
        with pytest.raises(UsageError, match=r"tracefs: \S+/a.txt \S+/b.txt"):
            open_stream([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])

    def test_recording_and_trace(self, tmp_path: Path) -> None:
        """A recording and a trace do not go together."""
        (tmp_path / "a.jsonl").write_text('{"kvm-replay": "recording/1"}\n')
        with pytest.raises(UsageError, match="do not go together"):
            open_stream([str(tmp_path / "a.jsonl"), str(EXCERPTS / "f_ttt.txt")])

    def test_unknown_among_them(self, tmp_path: Path) -> None:
        """A file of no known format is named, not passed over."""
        (tmp_path / "notes").write_text("remember the milk\n")
        with pytest.raises(UnknownFormatError, match="notes"):
            open_stream([str(EXCERPTS / "f_ttt.txt"), str(tmp_path / "notes")])
