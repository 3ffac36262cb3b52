"""Promises of the compiled loop's build, and of where it is looked for."""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from compiled_loop import loop

from replay.native import build as building
from replay.native.build import MODULE, build, compiler
from replay.native.loop import API, find_loop

ROOT = Path(__file__).resolve().parent.parent.parent
PROBE = "from replay.kvm.compiled import LOOP; print(LOOP[0])"


def loop_of(folder: Path, pure: str) -> str:
    """Return what a new process says of its loop, with a folder on its path and KVM_REPLAY_PURE set."""
    variables = os.environ | {"KVM_REPLAY_PURE": pure, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", PROBE], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class TestBuild:
    """`replay.native.build`."""

    def test_built_where_there_is_a_compiler(self, tmp_path: Path) -> None:
        """What is built is found by the next process that has it on its path, unless it is not wanted."""
        if not compiler():
            pytest.skip("no C compiler, or no header of Python")
        made = build(tmp_path)
        assert made is not None
        assert str(made) in loop_of(tmp_path, "0")
        assert str(made) in loop_of(tmp_path, "")
        assert loop_of(tmp_path, "1") == "None"

    def test_without_a_compiler(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without a compiler nothing is built, and one line says so."""
        monkeypatch.setenv("PATH", str(tmp_path))
        assert compiler() == []
        assert build(tmp_path) is None
        assert capsys.readouterr().err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_that_does_not_compile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A compiler that fails is said, with its own words, and nothing is left behind."""
        if not compiler():
            pytest.skip("no C compiler, or no header of Python")
        broken = tmp_path / "rows.c"
        broken.write_text("this is no C", encoding="ascii")
        monkeypatch.setattr(building, "SOURCE", broken)
        assert build(tmp_path) is None
        assert "rows.c was not compiled" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [broken]

    def test_installed_with_it(self) -> None:
        """A distribution that was installed where there is a compiler brings the loop along."""
        try:
            files = importlib.metadata.files("kvm-replay") or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip("kvm-replay is not installed")
        if not any(file.name == "METADATA" for file in files) or any(file.suffix == ".pth" for file in files):
            pytest.skip("it is installed as a checkout")
        assert [file.name for file in files if file.name.startswith(MODULE)] == (
            [f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"] if compiler() else []
        )


class TestFinding:
    """`find_loop()`."""

    def test_another_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loop of another version than this code knows is passed over; the one in the checkout is of this version."""
        assert loop().API == API
        monkeypatch.setitem(sys.modules, MODULE, loop())
        assert find_loop({}) is loop()
        assert find_loop({"KVM_REPLAY_PURE": "1"}) is None
        monkeypatch.setattr("replay.native.loop.API", API + 1)
        assert find_loop({}) is None

    def test_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without one there is none."""
        monkeypatch.setitem(sys.modules, MODULE, None)
        assert find_loop({}) is None
