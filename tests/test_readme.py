"""Hold README.md to what the project does: its commands, its tables, its length."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from replay.cli import main
from replay.cli.verb import STATUS_MEANINGS
from replay.cli.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
MARKER = "<!-- the tests -->"


def blocks() -> list[str]:
    """Return the shell blocks of the page, in order."""
    return re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


class TestCommands:
    """The two commands are one line each, and do what the page says."""

    def test_each_is_one_line(self) -> None:
        """Each sets up everything by itself, and the second follows the marker that the CI script looks for."""
        first, second = blocks()[:2]
        for command in (first, second):
            assert command.count("\n") == 1
            assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert f"{MARKER}\n```sh\n{second}```\n" in README
        assert README.count(MARKER) == 1
        assert " -m pytest" in second

    def test_ci_extracts_the_second(self) -> None:
        """The CI script finds exactly that line, and is a program that bash can read."""
        script = ROOT / ".ci" / "run"
        program = re.findall(r"awk '(.*?)' README.md", script.read_text())
        assert len(program) == 1
        found = subprocess.run(["awk", program[0], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert found == blocks()[1]
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)

    def test_first_prints_a_report(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The main job gives a verdict on a recording that comes with the project, and a report worth reading."""
        monkeypatch.chdir(ROOT)
        program, *arguments = shlex.split(blocks()[0].split("&&")[-1])
        assert program == ".venv/bin/kvm-replay"
        assert main(arguments) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "verdict: divergence, bytes-only"
        assert any(line.strip().startswith("source: arch/x86/kvm/mmu/page_track.c ") for line in lines)


class TestTables:
    """The tables are those of the program."""

    def test_verbs(self) -> None:
        """The table of verbs has each verb, in the order of the help, and no other."""
        assert re.findall(r"^\| `([a-z]+)[^`]*` \|", README, re.MULTILINE) == [verb.name for verb in VERBS]

    def test_exit_status(self) -> None:
        """The table of exit status is the program's, word for word."""
        rows = re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE)
        assert {int(status): meaning for status, meaning in rows} == dict(STATUS_MEANINGS)

    def test_options_that_are_named_exist(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each long option of kvm-replay that the page names is in the help of some verb."""
        for verb in VERBS:
            assert main([verb.name, "--help"]) == 0
        pages = capsys.readouterr().out
        lines = [line for block in blocks() for line in block.splitlines() if "kvm-replay " in line]
        options = {option for line in lines for option in re.findall(r"(?<=\s)--[a-z]+", line.split("kvm-replay ")[-1])}
        assert options
        assert [option for option in sorted(options) if option not in pages] == []


class TestShape:
    """The page starts with what it is and for whom."""

    def test_ten_lines(self) -> None:
        """What it is and for whom takes ten lines at most."""
        introduction = README.split("\n## ")[0].splitlines()[1:]
        assert 3 <= len([line for line in introduction if line]) <= 10
