"""Promises of `kvm-replay minimise`."""

import json
import shlex
from pathlib import Path

import pytest
from cli_samples import ROOT, boot, kvm_replay, write_kvmr

from replay.analyses.minimise import BUDGET_EVENTS
from replay.cli import main
from replay.cli.verbs import minimise
from replay.recording import open_recording
from replay.runs import events_of

EDGES = str(ROOT / "recordings" / "catalogue" / "D07-limit-edges.jsonl")
CONTRADICTED = str(ROOT / "recordings" / "kernel" / "6.12eager-npt1" / "03-lifecycle.kvmr")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def reported(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    """Return what `minimise --format json` says of a recording that can be told of."""
    assert main(["minimise", *arguments, "--format", "json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


class TestMinimise:
    """A recording that fits in a mail."""

    @pytest.mark.parametrize("name", ["small.kvmr", "small.jsonl"])
    def test_command_shows_it(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """The command line in the report finds the same class in the new recording, which is sound and says what it is."""
        report = reported(capsys, EDGES, "-o", name)
        program, *arguments = shlex.split(str(report["command"]))
        assert program == "kvm-replay"
        verdicts = []
        for words in (["compare", EDGES], arguments):
            assert main([*words, "--format", "json"]) == 1
            found = json.loads(capsys.readouterr().out)
            verdicts.append((found["verdict"], found["pairs"][0]["strongest"]))
        assert verdicts[0] == verdicts[1] == (report["verdict"], "enomem-gone")
        assert main(["verify", name]) == 0
        assert main(["info", name]) == 0
        assert "minimised from" in capsys.readouterr().out
        assert len(list(events_of(open_recording(name).items()))) == report["events"]

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The text says how much is left, what it shows, and how to see it."""
        assert main(["minimise", EDGES, "-o", "small.kvmr", "--lanes", "6.8,6.9"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "small.kvmr: 6 of 11 events; each of them is needed"
        assert lines[1].startswith("  divergence, as before: 6.8; 6.9; enomem-gone; ")
        assert lines[-1] == "  kvm-replay compare small.kvmr --lanes 6.8,6.9"

    def test_mismatch(self, capsys: pytest.CaptureFixture[str]) -> None:
        """--keep mismatch keeps what `check` says."""
        report = reported(capsys, CONTRADICTED, "-o", "small.jsonl", "--keep", "mismatch")
        assert report["verdict"] == "contradicted"
        assert main(shlex.split(str(report["command"]))[1:]) == 1

    def test_same_bytes(self) -> None:
        """The same command line gives the same bytes, from a file and from standard input."""
        for name in ("one.kvmr", "two.kvmr"):
            assert main(["minimise", EDGES, "-o", name]) == 0
        done = kvm_replay("minimise", "-", "-o", str(Path("three.kvmr").resolve()), stdin=Path(EDGES).read_bytes())
        assert done.returncode == 0
        assert Path("one.kvmr").read_bytes() == Path("two.kvmr").read_bytes() == Path("three.kvmr").read_bytes()

    def test_lossy(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What the old one lacks the new one lacks: neither can be told of, and both say so."""
        write_kvmr(Path("boot.kvmr"), boot())
        assert main(["minimise", "boot.kvmr", "-o", "small.kvmr", "--profile", "tdp=1"]) == 3
        said = capsys.readouterr()
        assert "it lacks what the old one lacks" in said.out
        assert "3 lost: ring buffer overrun" in said.err
        assert main(["compare", "small.kvmr", "--profile", "tdp=1"]) == 3

    def test_scrubbed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What is packed for others says as well that events were left out, and shows the same."""
        assert main(["minimise", EDGES, "-o", "small.kvmr"]) == 0
        assert main(["pack", "--scrub", "small.kvmr", "-o", "sent.kvmr"]) == 0
        assert main(["info", "sent.kvmr"]) == 0
        assert "events left out by minimise" in capsys.readouterr().out
        assert main(["compare", "sent.kvmr"]) == 1

    def test_budget(self) -> None:
        """The default of the option is that of the search, which help does not load."""
        assert minimise.BUDGET_EVENTS == BUDGET_EVENTS


class TestTrouble:
    """What can not be done is not begun."""

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            ([EDGES, "-o", "small.kvmr", "--profile", "tdp=0"], "it shows no divergence"),
            ([EDGES, "-o", "small.kvmr", "--keep", "mismatch"], "it shows no mismatch"),
            ([EDGES, "-o", "small.kvmr", "--policy", "eager"], "--policy without --keep mismatch"),
            ([EDGES, "-o", "small.kvmr", "--budget", "0"], "budget"),
            ([EDGES, "-o", "small.txt"], "ends in neither"),
            ([EDGES, "-o", "-"], "the report goes to standard output"),
            (["missing.kvmr", "-o", "small.kvmr"], "missing.kvmr"),
        ],
    )
    def test_refused(self, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing to keep, options that can not be meant, no input, no place: an error, and no file."""
        assert main(["minimise", *arguments]) == 2
        assert why in capsys.readouterr().err
        assert list(Path.cwd().iterdir()) == []
