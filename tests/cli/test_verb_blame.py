"""Promises of `kvm-replay blame`."""

import json
from collections import Counter
from pathlib import Path

import pytest
from cli_samples import write_kvmr

from replay.cli import indexed, main
from replay.events import Event
from replay.header import Trailer
from replay.recording import Writer, open_recording
from replay.runs import Run, events_of, items_of

RECORDINGS = Path(__file__).resolve().parent.parent.parent / "recordings"
SMALL = [path for path in sorted(RECORDINGS.glob("**/*.kvmr")) if path.stat().st_size < 8000]
CHOSEN = SMALL[:: max(len(SMALL) // 10, 1)]

TEXT = """\
gfn 0x1 after event 10
  eager, on-demand: vm 0, memslot 0, not write-tracked, count 0, array by kvm_page_track_create_memslot()
event 10  vm 0  tid 101  unaccount_shadowed() gfn 0x1 level 4 as 0
  eager, on-demand: count 1 -> 0
event 6  vm 0  tid 101  account_shadowed() gfn 0x1 level 4 as 0
  eager, on-demand: count 0 -> 1
event 4  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 4 as 0 gpa 0x1000 size 0x1000 (4 KiB) hva 0x7f0000001000 flags 0 = -EEXIST
  eager, on-demand: -EEXIST (overlaps another slot)
event 1  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 0 as 0 gpa 0x0 size 0x80000000 (2 GiB) hva 0x7f0000000000 flags 0 = 0
  eager, on-demand: memslot 0 holds the page, gfns 0x0 to 0x7ffff; gfn_write_track allocated by kvm_page_track_create_memslot()
event 0  vm 0  tid 100  KVM_CREATE_VM type 0 = 5
  eager, on-demand: the VM is there
"""


@pytest.fixture
def boot(tmp_path: Path) -> str:
    """Return the path of a small recording."""
    return str(write_kvmr(tmp_path / "boot.kvmr"))


def blamed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what `blame --format json` prints."""
    assert main(["blame", "--format", "json", *arguments]) == 0
    return capsys.readouterr().out


class TestText:
    """Text is the page first, then its causes, the last one first."""

    def test_whole(self, boot: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Counters, memslots, arrays and refusals, lanes that agree on one line."""
        assert main(["blame", boot, "--gfn", "1", "--at", "10"]) == 0
        assert capsys.readouterr() == (TEXT, "")

    def test_last(self, boot: str, capsys: pytest.CaptureFixture[str]) -> None:
        """--last gives the last ones, and says that there are more."""
        assert main(["blame", boot, "--gfn", "0x1", "--at", "10", "--last", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:-1] == TEXT.splitlines()[:6]
        assert lines[-1].startswith("earlier events did more")

    def test_nothing(self, boot: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A page that nothing was done to, on a VM that is not there."""
        assert main(["blame", boot, "--gfn", "0x7777777", "--vm", "9"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["gfn 0x7777777 after event 13", "  no memslot holds it in any lane", "no event did anything to it"]

    def test_usage(self, boot: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Pages and events that can not be."""
        for arguments in (["--gfn", "-1"], ["--gfn", "0x10000000000000"], ["--gfn", "1", "--at", "99"], []):
            assert main(["blame", boot, *arguments]) == 2
            assert "KVR001" in capsys.readouterr().err


def in_blocks(source: Path, target: Path, each: int) -> tuple[list[Event], list[int]]:
    """Write a recording again in small blocks; return its events and the pages that it names most."""
    stream = open_recording(source)
    events = list(events_of(stream.items()))
    named: Counter[int] = Counter(event.gfn for event in events if event.HOT)  # type: ignore[attr-defined]
    with Writer(target, stream.header) as writer:
        for start in range(0, len(events), each):
            for item in items_of(events[start : start + each]):
                writer.write(item)
            writer.flush()
        writer.finish(Trailer())
    return events, [gfn for gfn, _often in named.most_common(2)] + [0x10]


class TestIndex:
    """With an index the causes are the same, though only parts are replayed."""

    @pytest.mark.parametrize("source", CHOSEN, ids=lambda source: source.stem)
    def test_like_straight(self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """For the pages named most and one of any memslot, at the end, on the way, and for the last few."""
        path = str(tmp_path / "copy.kvmr")
        events, pages = in_blocks(source, Path(path), 5)
        assert main(["index", path, "--every", "1"]) == 0
        capsys.readouterr()
        for gfn in pages:
            for more in ([], ["--at", str(len(events) // 2)], ["--last", "2"]):
                arguments = [path, "--gfn", str(gfn), *more]
                assert blamed(capsys, *arguments) == blamed(capsys, *arguments, "--no-index")

    def test_only_parts_are_replayed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of parts in which nothing concerns the page none is replayed."""
        from replay.cli import blaming

        source, path = RECORDINGS / "kernel" / "6.12-npt0" / "08-gfn.kvmr", str(tmp_path / "copy.kvmr")
        events, _pages = in_blocks(source, Path(path), 2)
        assert main(["index", path, "--every", "1"]) == 0
        replayed: list[int] = []
        real = blaming._Parts._replay

        def noted(self: blaming._Parts, part: int, end: int, asked: blaming.Asked | None = None) -> object:
            replayed.append(part)
            return real(self, part, end, asked)

        monkeypatch.setattr(blaming._Parts, "_replay", noted)
        capsys.readouterr()
        assert json.loads(blamed(capsys, path, "--gfn", "0xfff"))["causes"]
        assert 2 < len(replayed) < len(events) // 2 - 4

    def test_index_is_left(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """A long replay leaves an index, as `state` does."""
        path = tmp_path / "copy.kvmr"
        in_blocks(RECORDINGS / "kernel" / "6.12-npt0" / "08-gfn.kvmr", path, 5)
        monkeypatch.setattr(indexed, "WORTH_EVENTS", 20)
        assert main(["blame", str(path), "--gfn", "1"]) == 0
        assert "index written" in capsys.readouterr().err
        assert Path(f"{path}.idx").exists()

    def test_recordings_have_runs(self) -> None:
        """Some of the chosen recordings have hot events."""
        assert any(isinstance(item, Run) for source in CHOSEN for item in open_recording(source).items())
