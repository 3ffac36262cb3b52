"""Promises of `kvm-replay live`, on a stand-in for /dev/kvm."""

import itertools
import json
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_kernel import FILES, FakeKernel, FakeVm, install

from replay.cli import main
from replay.errors import NoKernelError
from replay.header import Header, Trailer
from replay.live import device
from replay.live.uapi import Argument
from replay.recording import KvmrReader
from replay.sources.vmallocinfo import Areas


def no_moves(vm: FakeVm, request: int, fields: Any) -> int | None:
    """Lie: a slot can not be moved."""
    if request != 0x4020AE46 or fields == 0:
        return None
    old = vm.slots.get(fields[0])
    moves = old is not None and (fields[3], fields[4]) == (old["size"], old["hva"]) and fields[2] != old["gpa"]
    return -22 if moves else None


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeKernel], FakeKernel]:
    """Give a way to put a kernel in place of this machine's."""

    def put(kernel: FakeKernel) -> FakeKernel:
        install(monkeypatch, kernel)
        return kernel

    return put


def ends(name: str) -> tuple[Header, Trailer, int]:
    """Return what stands at the start and the end of a recording, and how many items are between."""
    with closing(KvmrReader(name)) as stream:
        items = sum(1 for _item in stream.items())
        return stream.header, stream.trailer(), items


Given = Callable[[FakeKernel], FakeKernel]


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run and return the JSON result."""
    main(["live", *arguments, "--format", "json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


class TestAgreement:
    """A kernel that agrees."""

    def test_text(self, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The report says how much was asked and compared, where each fact is from, how to ask again; no file is left."""
        kernel = given(FakeKernel())
        assert main(["live", "--seed", "5", "--operations", "200", "--vms", "3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "live: 200 operations of seed 5"
        assert lines[1].startswith("model and kernel agree in all ")
        assert "  ask a kernel again: kvm-replay live --seed 5 --operations 200 --vms 3" in lines
        assert any(line.split() == ["vendor", "pvm", "/sys/module/kvm_pvm"] for line in lines)
        assert any(line.split()[:2] == ["avic", "not"] for line in lines)
        assert any("memslot.set" in line and "create" in line for line in lines)
        assert list(tmp_path.iterdir()) == []
        assert (kernel.open_fds, kernel.shut_down) == (0, True)

    @pytest.mark.parametrize("name", ["run.kvmr", "run.jsonl"])
    def test_kept(self, name: str, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With --output the recording is kept, and agrees again when it is checked."""
        given(FakeKernel())
        found = report(capsys, "--output", name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (found["recording"], found["replay"]) == (name, f"kvm-replay check {name}")
        assert main(["check", name, "--format", "json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert {key: again[key] for key in found["check"]} == found["check"]
        assert main(["info", name]) == 0
        assert "pvm" in capsys.readouterr().out

    def test_seconds(self, given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """After --seconds no more operations are started, and the report says so."""
        given(FakeKernel())
        clock = itertools.count(0, 0.1)
        monkeypatch.setattr("replay.cli.live_session.time.monotonic", lambda: next(clock))
        found = report(capsys, "--seconds", "3")
        assert 25 <= found["operations"] <= 32
        assert found["stopped"] == "3 seconds are over"
        assert found["check"]["mismatch_count"] == 0


class TestContradiction:
    """A kernel that does not."""

    def test_replay(self, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The run ends at the first mismatch, and the command that it prints finds the same again."""
        given(FakeKernel(no_moves))
        assert main(["live", "--operations", "500"]) == 1
        out = capsys.readouterr().out
        assert "stopped: the first mismatch" in out
        assert "the kernel contradicts the model in 1 of " in out
        (command,) = (line.split(": ", 1)[1] for line in out.splitlines() if line.startswith("  compare it again: "))
        assert command == "kvm-replay check live-1.kvmr"
        assert [path.name for path in tmp_path.iterdir()] == ["live-1.kvmr"]
        assert main(shlex.split(command)[1:]) == 1
        again = capsys.readouterr().out
        place = next(line for line in out.splitlines() if "memslot.set" in line and "VM" in line)
        assert place in again

    def test_ask_again(self, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The command that asks again gives the same; its recording does not replace the first one."""
        given(FakeKernel(no_moves))
        first = report(capsys, "--seed", "3")
        given(FakeKernel(no_moves))
        again = report(capsys, *shlex.split(first["repeat"])[2:])
        assert (first["recording"], again["recording"]) == ("live-3.kvmr", "live-3-2.kvmr")
        assert again["check"] == first["check"]
        assert (tmp_path / "live-3.kvmr").read_bytes() == (tmp_path / "live-3-2.kvmr").read_bytes()

    def test_keep_going(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """--keep-going finds them all."""
        given(FakeKernel(no_moves))
        found = report(capsys, "--operations", "800", "--keep-going")
        assert (found["operations"], found["stopped"]) == (800, "")
        assert found["check"]["mismatch_count"] > 5

    def test_given_facts(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """A fact given with --machine stands above what was found out, in model, recording and report."""
        given(FakeKernel())
        found = report(capsys, "--machine", "smm=y", "--operations", "400")
        assert {"name": "smm", "value": "y", "origin": "--machine"} in found["facts"]
        assert found["check"]["mismatches"][0]["observed"] == "-EINVAL"
        assert ends(found["recording"])[0].machine.smm is True

    def test_policy(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """--policy is part of the commands that are printed."""
        given(FakeKernel(no_moves))
        found = report(capsys, "--policy", "eager")
        assert found["check"]["policy"] == "eager-6.6"
        assert found["replay"] == "kvm-replay check --policy eager live-1.kvmr"
        assert found["repeat"].endswith(" --policy eager")


class Noisy(FakeKernel):
    """A kernel on which another process makes and drops slots meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def areas(self) -> Areas | None:
        """Add an area to some of the readings."""
        self.readings += 1
        other = {b"other": ("memslot_rmap_alloc", 7)} if self.readings % 50 < 10 else {}
        return {**(super().areas() or {}), **other}


class TestOthers:
    """Other users of KVM show in /proc/vmallocinfo."""

    def test_left_out(self, given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """What does not fit while another process has a VM is left out, counted, said, and left out of the recording."""
        given(Noisy())
        monkeypatch.setattr("replay.cli.live_session.others_use_kvm", lambda: True)
        assert main(["live", "--output", "run.kvmr", "--format", "json"]) == 0
        streams = capsys.readouterr()
        found = json.loads(streams.out)
        assert found["disturbed"] > 20
        assert f"{found['disturbed']} times: observation of allocations left out" in streams.err
        assert main(["check", "run.kvmr"]) == 0
        _header, trailer, items = ends("run.kvmr")
        assert [counter.count for counter in trailer.counters] == [found["disturbed"]]
        assert items > 1000

    def test_nobody_else(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """Where no other process is seen the same is a mismatch."""
        given(Noisy())
        found = report(capsys)
        assert (found["disturbed"], found["check"]["mismatches"][0]["what"]) == (0, "areas")

    def test_waits_its_turn(self, given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Another run of this program is waited for, and that is said once."""
        given(FakeKernel()).busy = 5
        naps: list[float] = []
        monkeypatch.setattr("replay.cli.verbs.live.time.sleep", naps.append)
        assert main(["live", "--operations", "20"]) == 0
        streams = capsys.readouterr()
        assert len(naps) == 4
        assert streams.err.count("another kvm-replay live holds /dev/kvm") == 1
        assert "allocations are compared" in streams.out

    def test_waits_not_for_ever(self, given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """One that does not end is not waited for longer than said; allocations are then not compared."""
        given(FakeKernel()).busy = 1 << 30
        clock = itertools.count(0, 10)
        monkeypatch.setattr("replay.cli.verbs.live.time.monotonic", lambda: next(clock))
        monkeypatch.setattr("replay.cli.verbs.live.time.sleep", lambda _seconds: None)
        found = report(capsys, "--operations", "20")
        assert not found["areas_compared"]
        assert found["areas"].startswith("allocations are not compared: another kvm-replay live runs")


class TestCannotTell:
    """No kernel to ask is no agreement."""

    def test_no_device(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Without /dev/kvm the result says what is missing, standard error says it too, and the status is 3."""

        def missing() -> None:
            raise NoKernelError("No such file or directory", where="/dev/kvm", expected=device.NEEDS)

        monkeypatch.setattr(device, "DevKvm", missing)
        monkeypatch.setattr(device, "this_release", lambda: "6.18.44")
        assert main(["live"]) == 3
        streams = capsys.readouterr()
        assert "cannot tell: /dev/kvm: No such file or directory; expected Linux on x86-64" in streams.out
        assert "KVR500 no kernel to ask" in streams.err
        found = report(capsys, "--seed", "4")
        assert (found["check"], found["operations"], found["seed"]) == (None, 0, 4)
        assert found["trouble"].startswith("/dev/kvm: No such file or directory")

    def test_other_kernel(self, given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A kernel that the model does not describe is not asked."""
        kernel = given(FakeKernel())
        monkeypatch.setattr(device, "this_release", lambda: "4.19.0")
        assert main(["live"]) == 3
        assert "no policy is modelled for 4.19" in capsys.readouterr().out
        assert [request for request, _fields in kernel.calls if request != 0xAE03] == []

    def test_before_5_18(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """Where small arrays do not show in /proc/vmallocinfo, results are compared alone."""
        given(FakeKernel())
        found = report(capsys, "--machine", "kernel_release=5.17", "--operations", "100")
        assert (found["areas_compared"], "before 5.18" in found["areas"]) == (False, True)
        assert {facet["name"] for facet in found["check"]["facets"]} == {"results of calls"}

    def test_assumptions_are_announced(self, given: Given, capsys: pytest.CaptureFixture[str]) -> None:
        """A fact that can not be found out is assumed aloud, unless it is given."""
        files = {path: text for path, text in FILES.items() if path != "/proc/config.gz"}
        given(FakeKernel(files=files))
        main(["live", "--operations", "20"])
        streams = capsys.readouterr()
        assert "warning: config_external_write_tracking could not be found out, assumed y" in streams.err
        assert any(line.split()[:3] == ["config_external_write_tracking", "assumed", "y"] for line in streams.out.splitlines())
        given(FakeKernel(files=files))
        main(["live", "--operations", "20", "--machine", "config_external_write_tracking=n"])
        assert "could not be found out" not in capsys.readouterr().err


class TestTrouble:
    """Bad usage is said before a kernel is asked."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--operations", "0"],
            ["--operations", "1000001"],
            ["--operations", "x"],
            ["--seed", "-1"],
            ["--seed", str(1 << 64)],
            ["--vms", "9"],
            ["--seconds", "0"],
            ["--output", "-"],
            ["--output", "run.txt"],
            ["--output", "there.kvmr"],
            ["--machine", "colour=red"],
            ["--policy", "lazy"],
            ["stray"],
        ],
        ids=" ".join,
    )
    def test_usage(self, arguments: list[str], given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Each is trouble, leaves a file that is there alone, and no VM."""
        kernel = given(FakeKernel())
        (tmp_path / "there.kvmr").write_text("mine")
        assert main(["live", *arguments]) == 2
        assert "kvm-replay: KVR" in capsys.readouterr().err
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        assert kernel.open_fds == 0

    def test_force(self, given: Given, tmp_path: Path) -> None:
        """--force replaces a file."""
        given(FakeKernel())
        (tmp_path / "there.kvmr").write_text("mine")
        assert main(["live", "--operations", "10", "--output", "there.kvmr", "--force"]) == 0
        assert main(["check", "there.kvmr"]) == 0

    def test_interrupted(self, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An interrupt closes every VM; a recording with a name stays as NAME.part, readable as far as it goes."""

        class Interrupted(FakeKernel):
            def ioctl(self, fd: int, request: int, argument: Argument) -> int:
                if len(self.calls) == 100:
                    raise KeyboardInterrupt
                return super().ioctl(fd, request, argument)

        kernel = given(Interrupted())
        assert main(["live", "--output", "run.kvmr"]) == 130
        assert (kernel.open_fds, kernel.shut_down) == (0, True)
        assert [path.name for path in tmp_path.iterdir()] == ["run.kvmr.part"]
        capsys.readouterr()
        assert main(["check", "run.kvmr.part"]) == 3
        assert "torn" in capsys.readouterr().err

    def test_interrupted_without_a_name(self, given: Given, tmp_path: Path) -> None:
        """Without --output nothing stays."""

        def interrupt(_vm: FakeVm, request: int, _fields: Any) -> int | None:
            if request == 0x4010AE42:
                raise KeyboardInterrupt
            return None

        given(FakeKernel(interrupt))
        assert main(["live"]) == 130
        assert list(tmp_path.iterdir()) == []
