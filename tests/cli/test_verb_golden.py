"""Promises of `kvm-replay golden`, of policy files in it, and of the forms for test runners."""

import json
from pathlib import Path

import jsonschema
import pytest
from cli_samples import write_kvmr
from golden_samples import CASE, D02, D08, POLICY, TERM_LINE, copied, replaced
from ktap_reader import read_ktap
from report_schemas import report_schema

from replay.cli import main
from replay.recording import open_recording
from replay.runs import events_of


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class TestGolden:
    """Write, change, see, accept."""

    def test_a_life(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Missing, written, right, wrong with the place and both sides, written again."""
        copied(Path(), D02, golden=False)
        assert main(["golden", "check", "."]) == 3
        assert "D02-register.jsonl.golden: missing" in capsys.readouterr().out
        Path("mine.py").write_text(POLICY)
        ask = ["--ask", "compare --lanes on-demand,./mine.py", "--ask", "check"]
        assert main(["golden", "update", *ask, D02.name]) == 0
        assert main(["golden", "check", "."]) == 0
        replaced(Path("mine.py"), (TERM_LINE, "    return config\n"))
        capsys.readouterr()
        assert main(["golden", "check", D02.name]) == 1
        found = capsys.readouterr().out.splitlines()
        assert found[:6] == [
            "D02-register.jsonl.golden: differs in 5 places",
            "  compare: --lanes on-demand,./mine.py",
            "    new: ./mine.py against on-demand, event 1 memslot.set vm 0 slot 0 as 0, D2",
            "                 bytes-only, +320 bytes (+4096 charged), also D29 D30",
            "      on-demand  event 3 notifier.register, kvm_page_track_register_notifier(), the same, notifier.register",
            "      ./mine.py  event 1 memslot.set, kvm_page_track_create_memslot(), 320 B of gfn_write_track, memslot.set",
        ]
        assert found[found.index("    verdict (line 17)") :][1:3] == ["      before  same", "      after   divergence"]
        assert main(["golden", "update", "."]) == 0
        assert main(["golden", "check", "."]) == 0

    def test_forms(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every form says the same: one file right, one wrong."""
        (path, _other) = copied(Path(), D02, D08)
        replaced(path, ("verdict: divergence", "verdict: same"))
        found = {}
        for form in ("text", "json", "ktap", "github"):
            assert main(["golden", "check", "--format", form, "."]) == 1
            found[form] = capsys.readouterr().out
        assert "D02-register.jsonl.golden: differs in 1 place\n" in found["text"]
        report = json.loads(found["json"])
        assert (report["same"], report["differs"]) == (1, 1)
        assert list(jsonschema.Draft202012Validator(report_schema("golden")).iter_errors(report)) == []
        assert report["files"][0]["differences"][0]["details"] == [{"what": "", "before": "same", "after": "divergence"}]
        assert [(one.ok, one.description) for one in read_ktap(found["ktap"].splitlines())] == [
            (False, "D02-register.jsonl.golden"),
            (True, "D08-partial-register.jsonl.golden"),
        ]
        assert found["github"].count("::error file=D02-register.jsonl.golden,line=17,") == 1

    @pytest.mark.parametrize("arguments", [["golden", "check"], ["golden", "update"], ["fleet"]], ids=" ".join)
    def test_standard_input(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """A golden file lies beside a file, and many are read more than once: standard input is refused in as many words."""
        assert main([*arguments, "-"]) == 2
        said = "kvm-replay: KVR001 bad usage: -: standard input can not be read here; expected files or folders"
        assert capsys.readouterr().err.startswith(said)

    def test_torn(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Who makes a golden file of a torn recording is told, once a file, and so is who holds it against it."""
        Path("torn.kvmr").write_bytes(write_kvmr(Path("whole.kvmr")).read_bytes()[:-1])
        for action in ("update", "check"):
            capsys.readouterr()
            assert main(["golden", action, "torn.kvmr"]) == 0
            said = capsys.readouterr().err.splitlines()
            assert [line.startswith("kvm-replay: warning: torn.kvmr: torn recording: stops at ") for line in said] == [True]

    def test_by_hand(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A case by hand is an input to other verbs as well."""
        Path("case.golden").write_text(CASE)
        assert main(["golden", "update", "case.golden"]) == 0
        assert main(["compare", "case.golden"]) == 1
        assert main(["check", "case.golden"]) == 0
        assert main(["dump", "case.golden"]) == 0
        assert main(["import", "case.golden", "-o", "case.kvmr"]) == 0
        assert "kvm_page_track_register_notifier() node 0 = 0" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments",
        [
            ["golden", "check"],
            ["golden", "look", "."],
            ["golden", "check", "--ask", "check", "."],
            ["golden", "check", "--new-only", "."],
            ["golden", "update", "--events-max", "-1", "."],
            ["golden", "update", "--ask", "cost", "."],
            ["golden", "check", "empty"],
        ],
    )
    def test_trouble(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """What can not be meant is 2, and so is a folder with nothing to check; with --bisect 125."""
        Path("empty").mkdir()
        assert main(arguments) == 2
        assert "kvm-replay: KVR" in capsys.readouterr().err
        assert main([*arguments, "--bisect"]) == 125

    def test_trouble_in_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that can not be read is trouble above all else, said on both streams; the others are checked."""
        (path, other) = copied(Path(), D02, D08)
        replaced(path, ("recording: D02", "recording: D03"))
        replaced(other, ("verdict: divergence", "verdict: same"))
        assert main(["golden", "check", "."]) == 2
        streams = capsys.readouterr()
        assert "KVR108 bad golden file" in streams.err
        assert "2 golden files: 1 differs, 1 trouble" in streams.out


class TestDump:
    """The canonical text of one recording."""

    def test_is_a_recording(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What dump --format golden prints is read back, and prints itself."""
        assert main(["dump", "--format", "golden", str(D08)]) == 0
        text = capsys.readouterr().out
        Path("again").write_text(text)
        with open_recording("again") as stream:
            assert len(list(events_of(stream.items()))) == 7
        assert main(["dump", "--format", "golden", "again"]) == 0
        assert capsys.readouterr().out == text

    @pytest.mark.parametrize("choice", [["--from", "1"], ["--to", "1"], ["--kind", "mark"], ["--vm", "0"]])
    def test_whole(self, choice: list[str]) -> None:
        """It is of a whole recording."""
        assert main(["dump", "--format", "golden", *choice, str(D08)]) == 2
