"""Promises of `kvm-replay compare`: forms, status, inputs, lanes, and what a wrong command line says."""

import json
from pathlib import Path

import pytest
from cli_samples import ROOT, STRACE, kvm_replay

from replay.cli import main

CATALOGUE = ROOT / "recordings" / "catalogue"
SAME, BYTES, DEAD = (str(CATALOGUE / f"{name}.jsonl") for name in ("D26-tdp-off", "D01-bytes", "D11-add-unregistered"))
LOSSY = b"""\
{"kvm-replay":"recording/1","hand_written":true,"machine":{"kernel_release":"6.8","tdp":true}}
{"event":"vm.create","vm":0,"ret":10}
{"event":"lost","what":"a gap"}
"""


class TestStatus:
    """Exit status is the verdict's."""

    @pytest.mark.parametrize(("path", "status"), [(SAME, 0), (BYTES, 1), (DEAD, 1)])
    @pytest.mark.parametrize("form", ["text", "json", "jsonl"])
    def test_verdict(self, path: str, status: int, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        """0 for the same, 1 for any divergence, in each form; nothing is on standard error."""
        assert main(["compare", "--format", form, path]) == status
        streams = capsys.readouterr()
        assert streams.out
        assert streams.err == ""

    def test_cannot_tell(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """3 when the recording lacks what the answer needs; the report is there all the same, and says so first."""
        path = tmp_path / "lossy.jsonl"
        path.write_bytes(LOSSY)
        assert main(["compare", str(path)]) == 3
        assert capsys.readouterr().out.startswith("verdict: cannot tell\n  Cannot tell for certain: events are lost: a gap")

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["--lanes", "eagre"], "KVR300", "'eagre' is not a policy"),
            (["--lanes", "eager,eager"], "KVR300", "a lane is named twice"),
            (["--lanes", ","], "KVR300", "no lane is named"),
            (["--lanes", "eager@tdp=2"], "KVR300", "'2' is no value for tdp"),
            (["--profile", "speed=9"], "KVR300", "'speed=9' is not a fact"),
            (["--profile", "release=six"], "KVR300", "'six' is not a kernel release"),
            (["--profile", "tdp"], "KVR300", "'tdp' is not a fact"),
            (["--format", "xml"], "KVR001", "xml"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], code: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        """2 with a code and the word that is wrong, and no result."""
        assert main(["compare", *arguments, BYTES]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert streams.err.startswith("kvm-replay: ")
        assert code in streams.err
        assert words in streams.err

    def test_nothing_to_judge(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A recording without events is no pass: 2."""
        path = tmp_path / "empty.jsonl"
        path.write_bytes(LOSSY.splitlines(keepends=True)[0])
        assert main(["compare", str(path)]) == 2
        assert "KVR107" in capsys.readouterr().err


class TestForms:
    """The forms say the same."""

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One document: schema first, verdict, lanes, pairs with findings that have sides, cause, end and source."""
        assert main(["compare", "--format", "json", DEAD]) == 1
        found = json.loads(capsys.readouterr().out)
        assert next(iter(found)) == "schema"
        assert (found["schema"], found["verdict"], found["events"]) == ("kvm-replay/compare/1", "divergence", 6)
        assert [lane["name"] for lane in found["lanes"]] == ["eager", "on-demand"]
        (pair,) = found["pairs"]
        dead = next(one for one in pair["findings"] if one["divergence"] == "state-differs")
        assert (dead["event"], dead["gfn"], dead["root_cause_event"], dead["visible_event"]) == (3, 0x2A40, 2, 4)
        assert [side["lane"] for side in dead["sides"]] == ["eager", "on-demand"]

    def test_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With jsonl it is the same document on one line."""
        assert main(["compare", "--format", "json", BYTES]) == main(["compare", "--format", "jsonl", BYTES]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert json.loads("\n".join(lines[:-1])) == json.loads(lines[-1])

    def test_text_and_json_agree(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The verdict's sentence is the same words in both."""
        assert main(["compare", BYTES]) == main(["compare", "--format", "jsonl", BYTES]) == 1
        text, _, document = capsys.readouterr().out.rpartition('{"schema"')
        assert json.loads('{"schema"' + document)["sentence"] in " ".join(text.split())

    def test_color(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Colour adds sequences and changes no word."""
        assert main(["compare", BYTES]) == main(["compare", BYTES, "--color", "always"]) == 1
        whole = capsys.readouterr().out
        plain, colored = whole[: whole.index("\x1b")], whole[whole.index("\x1b") :]
        for code in (0, 1, 31, 36):
            colored = colored.replace(f"\x1b[{code}m", "")
        assert colored == plain


class TestInput:
    """Anything that is a recording can be compared."""

    def test_standard_input(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With - the recording comes from standard input, whatever its form."""
        assert main(["compare", BYTES]) == 1
        done = kvm_replay("compare", "-", stdin=Path(BYTES).read_bytes())
        assert done.returncode == 1
        assert done.stdout.decode() == capsys.readouterr().out

    def test_trace(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A trace is compared as it is; what nobody noted of its machine is assumed, and marked."""
        path = tmp_path / "strace.txt"
        path.write_text(STRACE)
        assert main(["compare", str(path)]) == 1
        assert "* assumed, neither recorded nor given with --profile: " in capsys.readouterr().out

    def test_profile(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--profile fills what is not known, and stands above what is."""
        path = tmp_path / "strace.txt"
        path.write_text(STRACE)
        assert main(["compare", "--profile", "release=6.8,config=y,tdp=1", str(path)]) == 1
        assert "eager      eager-6.6  6.8      y       y" in capsys.readouterr().out
        assert main(["compare", "--profile", "tdp=0", BYTES]) == 0
        assert capsys.readouterr().out.startswith("verdict: same\n")

    def test_lanes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """--lanes takes policies and releases, with changed facts; the first one is the reference."""
        assert main(["compare", "--lanes", "6.12,6.8,6.12@tdp=0", "--format", "json", BYTES]) == 1
        found = json.loads(capsys.readouterr().out)
        assert [lane["policy"] for lane in found["lanes"]] == ["on-demand", "eager-6.6", "on-demand"]
        assert {pair["reference"] for pair in found["pairs"]} == {"6.12"}

    def test_paranoid(self, capsys: pytest.CaptureFixture[str]) -> None:
        """--paranoid changes nothing of a sound replay's report."""
        assert main(["compare", DEAD]) == main(["compare", "--paranoid", DEAD]) == 1
        whole = capsys.readouterr().out
        assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]


class TestOutput:
    """The result goes where it is sent."""

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_file(self, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--output writes the file and keeps the status; standard output stays empty."""
        target = tmp_path / "report"
        assert main(["compare", "--format", form, BYTES]) == 1
        expected = capsys.readouterr().out
        assert main(["compare", "--format", form, "--output", str(target), BYTES]) == 1
        assert (target.read_text(), capsys.readouterr().out) == (expected, "")

    def test_no_half_file(self, tmp_path: Path) -> None:
        """A run that fails leaves no file behind."""
        bad = tmp_path / "bad.jsonl"
        bad.write_bytes(LOSSY + b'{"event":"notifier.register","vm":9}\n')
        target = tmp_path / "report"
        assert main(["compare", "--output", str(target), str(bad)]) == 2
        assert list(tmp_path.iterdir()) == [bad]
