"""git as docs/goldens.md says: recordings are shown as their events, and bisect finds the commit that breaks a policy file."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_samples import D02, POLICY, ROOT, TERM_LINE

from replay.cli import main

KERNEL = ROOT / "recordings" / "kernel" / "6.12-npt1" / "03-lifecycle.kvmr"
PAGE = (ROOT / "docs" / "goldens.md").read_text()
WRONG = POLICY.replace(TERM_LINE, "    return config\n")
HISTORY = (POLICY, f"# a remark\n{POLICY}", POLICY, "BASE = (\n", f"{POLICY}# another\n", WRONG, f"{WRONG}# more\n")
"""A policy file commit by commit: right, broken once on the way, wrong from the sixth on."""


def program() -> str:
    """Return what stands for kvm-replay in a shell."""
    return f"{shlex.quote(sys.executable)} -m replay"


def page_commands(title: str) -> list[str]:
    """Return the command lines of a shell block that holds a text, with kvm-replay as it is called here."""
    (block,) = [found for found in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if title in found]
    return [
        line.replace("kvm-replay check", f"{program()} check").replace("'kvm-replay dump", f"'{program()} dump")
        for line in block.splitlines()
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return an empty repository."""
    run(tmp_path, "git init -q -b main")
    return tmp_path


def run(folder: Path, command: str) -> str:
    """Run a shell command in a folder and return what it prints."""
    who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    env = {**os.environ, **who, **nobody, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-e", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestGit:
    """A real repository, with the page's own commands."""

    def test_textconv(self, repository: Path) -> None:
        """A diff of a recording shows the events that changed, and a header line of none of them."""
        attributes, config = page_commands("textconv")
        run(repository, attributes)
        run(repository, config)
        source = repository / "boot.jsonl"
        shutil.copy(D02, source)
        assert main(["import", str(source), "-o", str(repository / "boot.kvmr")]) == 0
        run(repository, "git add -A && git commit -q -m one")
        source.write_text(source.read_text().replace('"gfn": 10816', '"gfn": 10817'))
        assert main(["import", str(source), "-o", str(repository / "boot.kvmr"), "--force"]) == 0
        changed = [line for line in run(repository, "git diff boot.kvmr").splitlines() if line[:1] in "+-"][2:]
        assert changed == [
            "-  write_track.add vm=0 gfn=0x2a40  # 0",
            "-  write_track.remove vm=0 gfn=0x2a40  # 0",
            "+  write_track.add vm=0 gfn=0x2a41  # 0",
            "+  write_track.remove vm=0 gfn=0x2a41  # 0",
        ]

    def test_bisect(self, repository: Path) -> None:
        """The first commit whose policy contradicts the recorded kernel is found, past one whose file is broken."""
        shutil.copy(KERNEL, repository / "boot.kvmr")
        for number, text in enumerate(HISTORY, 1):
            (repository / "my_policy.py").write_text(text)
            run(repository, f"git add -A && git commit -q -m 'commit {number}'")
        start, bisect = page_commands("git bisect start")
        run(repository, start.replace("BAD", "HEAD").replace("GOOD", "HEAD~6"))
        out = run(repository, bisect)
        assert re.search(r"is the first bad commit\n(?:.*\n)*?    commit 6\n", out)
        assert "git bisect skip" in run(repository, "git bisect log")

    @pytest.mark.parametrize(("text", "status"), [(POLICY, 0), (WRONG, 1), ("BASE = (\n", 125)])
    def test_status(self, text: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """0 is good, 1 is bad, and a file that can not be tried is to be passed over."""
        monkeypatch.chdir(tmp_path)
        Path("my_policy.py").write_text(text)
        assert main(["check", "--bisect", "--policy", "./my_policy.py", str(KERNEL)]) == status
