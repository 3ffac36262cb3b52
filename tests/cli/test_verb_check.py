"""Promises of `kvm-replay check`."""

import json
from pathlib import Path

import pytest
from cli_samples import ROOT, write_kvmr

from replay.cli import main

KERNEL = ROOT / "recordings" / "kernel"


class TestCheck:
    """The exit status is the answer."""

    def test_agreement(self, capsys: pytest.CaptureFixture[str]) -> None:
        """0 when the recorded kernel does what the model says."""
        assert main(["check", str(KERNEL / "6.12-npt1" / "03-lifecycle.kvmr")]) == 0
        assert "agree in all 93 comparisons" in capsys.readouterr().out

    def test_contradiction(self, capsys: pytest.CaptureFixture[str]) -> None:
        """1 when it does not, with the first places."""
        path = str(KERNEL / "6.12eager-npt1" / "03-lifecycle.kvmr")
        assert main(["check", path]) == 1
        assert "the kernel contradicts the model" in capsys.readouterr().out
        assert main(["check", "--policy", "eager", path]) == 0

    def test_profile(self) -> None:
        """Facts given with --profile stand above the header's."""
        path = str(KERNEL / "6.12-npt1" / "03-lifecycle.kvmr")
        assert main(["check", "--profile", "tdp=0", path]) == 1

    def test_cut_short(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What a torn recording lacks lies behind its end: an earlier mismatch stands, all that agrees is no agreement."""
        torn = tmp_path / "torn.kvmr"
        cases = {"6.12-npt1": (3, "only the front of the recording is there"), "6.12eager-npt1": (1, "the kernel contradicts")}
        for folder, (status, sentence) in cases.items():
            torn.write_bytes((KERNEL / folder / "03-lifecycle.kvmr").read_bytes()[:-1])
            saved = tmp_path / f"{folder}.kvmr"
            assert main(["recover", str(torn), "-o", str(saved)]) == 3
            for path in (torn, saved):
                capsys.readouterr()
                assert main(["check", str(path)]) == status
                assert sentence in capsys.readouterr().out.splitlines()[1]
            assert main(["pack", str(saved), "--scrub", "-o", str(saved), "--force"]) == 2
            scrubbed = tmp_path / f"{folder}-scrubbed.kvmr"
            assert main(["pack", str(saved), "--scrub", "-o", str(scrubbed)]) == 3
            assert "1 lost: torn recording" in capsys.readouterr().err
            assert main(["check", str(scrubbed)]) == status

    def test_cannot_tell(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """3 when nothing can be compared."""
        assert main(["check", str(write_kvmr(tmp_path / "empty.kvmr", []))]) == 3
        assert "cannot tell" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [["--policy", "lazy"], ["--profile", "tdp=maybe"], ["--profile", "x=1"]])
    def test_trouble(self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """2 for a policy or a fact that there is not."""
        assert main(["check", *arguments, str(write_kvmr(tmp_path / "boot.kvmr"))]) == 2
        assert "KVR300" in capsys.readouterr().err

    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_json(self, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        """The JSON has every number of the report, under its schema's name."""
        main(["check", "--format", form, str(KERNEL / "6.12-npt1" / "03-lifecycle.kvmr")])
        out = capsys.readouterr().out
        found = json.loads(out)
        assert (found["schema"], found["checked"], found["agreed"], found["mismatches"]) == ("kvm-replay/check/1", 93, 93, [])
        assert sum(facet["checked"] for facet in found["facets"]) == 93
        assert sum(reason["count"] for reason in found["reasons"]) == found["not_checkable"]
        assert (out.count("\n") == 1) is (form == "jsonl")

    def test_output_file(self, tmp_path: Path) -> None:
        """The report can go to a file."""
        target = tmp_path / "report.txt"
        assert main(["check", "--output", str(target), str(KERNEL / "6.12-npt1" / "03-lifecycle.kvmr")]) == 0
        assert "agree in all" in target.read_text()
