"""Promise of docs/tutorial.md: its commands, one block after the other in an empty folder, give what the page shows."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"(?:<!-- exit (\d+) -->\n)?^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "kvm-replay": "-m replay",
    "pytest": "-m pytest -p no:kvm_replay -p replay.pytest_plugin -p no:cacheprovider",
}


@attrs.define
class Step:
    """Commands, the status that they end with, and lines that are shown of their output; "..." stands for others."""

    commands: str
    status: int
    shown: list[str] = attrs.field(factory=list)


def steps(page: str) -> list[Step]:
    """Return the steps of the page; a text block shows the output of the commands before it."""
    found: list[Step] = []
    for status, language, text in BLOCK.findall(page):
        if language == "sh":
            found.append(Step(text, int(status or 0)))
        else:
            found[-1].shown = text.splitlines()
    return found


def missing(shown: list[str], output: str) -> list[str]:
    """Return the lines that are shown and do not follow one another in the output; a line may be a part of one."""
    lines = iter(output.splitlines())
    wanted = [line for line in shown if line != "..."]
    return [line for line in wanted if not any(line in other for other in lines)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the page's programs are those of this checkout."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, arguments in PROGRAMS.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "PYTEST_ADDOPTS", "COLUMNS"}}
    return {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


class TestTutorial:
    """The page is true."""

    def test_runs(self, tmp_path: Path, environment: dict[str, str]) -> None:
        """Each step ends as the page says, and shows what the page shows."""
        folder = tmp_path / "project"
        folder.mkdir()
        done = steps(PAGE)
        for step in done:
            run = subprocess.run(
                ["bash", "-e", "-c", step.commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert run.returncode == step.status, run.stdout + run.stderr
            assert missing(step.shown, run.stdout) == [], run.stdout
        assert [step.status for step in done] == [0, 0, 0, 0, 1, 0]
        assert sum(len(step.shown) for step in done) >= 20

    def test_another_output_shows(self) -> None:
        """A line that is not there, or in another order, is found."""
        assert missing(["a", "...", "b"], "xa\nc\nb") == []
        assert missing(["b", "a"], "a\nb") == ["a"]
