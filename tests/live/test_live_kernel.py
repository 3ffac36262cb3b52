"""Promises that need a kernel: the model against this machine's own /dev/kvm. Skipped, loudly, where there is none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replay.cli import main
from replay.cli.verbs.live import TURN_SECONDS_MAX
from replay.engine.lanes import make_lanes
from replay.errors import NoKernelError
from replay.live.device import DevKvm, this_release
from replay.live.probe import probe_device, read_text
from replay.recording import open_recording

ROOT = Path(__file__).resolve().parent.parent.parent


def why_not() -> str:
    """Return why this machine's kernel can not be asked, "" when it can."""
    try:
        release = this_release()
        kvm = DevKvm()
    except NoKernelError as error:
        return str(error)
    try:
        probe_device(kvm, release, read_text)
    except NoKernelError as error:
        return str(error)
    finally:
        kvm.shut()
    return ""


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"LIVE TESTS SKIPPED, NOTHING WAS ASKED OF A KERNEL: {WHY_NOT}")


class TestThisKernel:
    """The running kernel and the model agree."""

    def test_300_operations(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A short run agrees in all, and leaves no file."""
        monkeypatch.chdir(tmp_path)
        assert main(["live", "--seed", "11", "--operations", "300"]) == 0
        assert "model and kernel agree in all" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []

    def test_kept_recording_agrees_again(self, tmp_path: Path) -> None:
        """A run that is kept is a recording that `check` agrees with, and `compare` can replay."""
        path = tmp_path / "run.kvmr"
        assert main(["live", "--seed", "12", "--operations", "60", "--output", str(path)]) == 0
        assert main(["check", str(path)]) == 0
        with open_recording(path) as stream:
            profile = make_lanes(["eager"], stream.header.machine)[0].profile
        differ = profile.tdp and profile.config_external_write_tracking
        assert main(["compare", str(path)]) == (1 if differ else 0)

    @pytest.mark.parametrize("kept", [False, True])
    def test_killed(self, kept: bool, tmp_path: Path) -> None:
        """A run that is killed leaves no VM, and no file but the recording as NAME.part."""
        output = ["--output", "run.kvmr"] if kept else []
        # --seconds: should this test be killed itself, the run does not stay either.
        command = [sys.executable, "-m", "replay", "live", "--operations", "1000000", "--seconds", "30", *output]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        run = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
        try:
            assert made_a_vm(run.pid, tmp_path if kept else None), "the run made no VM"
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert [path.name for path in tmp_path.iterdir()] == (["run.kvmr.part"] if kept else [])


def made_a_vm(pid: int, folder: Path | None) -> bool:
    """Wait until a process has a VM, and a file in the folder; it may have to wait for its turn first. False: it never had."""
    deadline = time.monotonic() + TURN_SECONDS_MAX + 20
    while time.monotonic() < deadline:
        try:
            names = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        except OSError:
            continue  # a descriptor was closed while they were listed
        if "anon_inode:kvm-vm" in names and (folder is None or any(folder.iterdir())):
            return True
        time.sleep(0.02)
    return False
