"""Promises of `kvm-replay import`."""

import json
from pathlib import Path

import pytest
from cli_samples import HEADER, STRACE, boot, kvm_replay, write_jsonl, write_kvmr

from replay.cli import main
from replay.cli.inputs import LOSSES_SAID
from replay.cli.machine import parse_machine
from replay.errors import UsageError
from replay.header import Counter, Trailer
from replay.recording import open_recording
from replay.runs import events_of


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strace.txt").write_text(STRACE)


class TestImport:
    """Traces become recordings."""

    @pytest.mark.parametrize("name", ["boot.kvmr", "boot.jsonl"])
    def test_strace(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A strace recording becomes a file whose header has what the command line adds; what happened is said on stderr."""
        arguments = ["--title", "t", "--provenance", "p", "--machine", "kernel_release=6.8,tdp=y,la57=?"]
        assert main(["import", "strace.txt", "-o", name, *arguments]) == 0
        stream = open_recording(name)
        kinds = [event.KIND for event in events_of(stream.items())]
        assert (stream.header.title, stream.header.provenance) == ("t", "p")
        assert (stream.header.machine.kernel_release, stream.header.machine.tdp) == ("6.8", True)
        assert stream.header.compression == ("zlib" if name.endswith("kvmr") else "none")
        assert kinds == ["vm.create", "memslot.set", "vcpu.create", "vm.destroy"]
        streams = capsys.readouterr()
        assert streams.out == ""
        assert f"kvm-replay: {name}: 4 events; 0 lost, 0 unknown, " in streams.err

    def test_both_ways(self) -> None:
        """A recording turned into the other form and back is the same recording."""
        write_kvmr(Path("a.kvmr"))
        write_jsonl(Path("a.jsonl"))
        assert main(["import", "a.jsonl", "-o", "b.kvmr", "--compress", "none"]) == 0
        assert main(["import", "b.kvmr", "-o", "c.jsonl"]) == 0
        assert Path("b.kvmr").read_bytes() == Path("a.kvmr").read_bytes()
        assert Path("c.jsonl").read_bytes() == Path("a.jsonl").read_bytes()

    def test_to_standard_output(self, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        """- writes JSON Lines that can be read again, and nothing else."""
        write_kvmr(Path("a.kvmr"))
        write_jsonl(Path("a.jsonl"))
        assert main(["import", "a.kvmr", "-o", "-"]) == 0
        assert capsysbinary.readouterr().out == Path("a.jsonl").read_bytes()

    def test_from_standard_input(self) -> None:
        """- reads a trace or a recording."""
        for name, source in (("a.kvmr", write_kvmr(Path("s.kvmr"))), ("b.kvmr", Path("strace.txt"))):
            done = kvm_replay("import", "-", "-o", name, cwd=Path.cwd(), stdin=source.read_bytes())
            assert (done.returncode, done.stdout) == (0, b""), done.stderr
            assert Path(name).exists()

    def test_durable(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With --durable each block is announced when it is on the disk; a stream has none."""
        assert main(["import", "strace.txt", "-o", "boot.kvmr", "--durable"]) == 0
        assert "kvm-replay: boot.kvmr: 4 events are on the disk\n" in capsys.readouterr().err
        assert main(["import", "strace.txt", "-o", "-", "--durable"]) == 2
        assert "KVR001" in capsys.readouterr().err

    def test_losses_are_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What was lost on the way is a warning, in a pipe too."""
        write_kvmr(Path("a.kvmr"))
        assert main(["import", "a.kvmr", "-o", "b.kvmr", "--quiet"]) == 0
        assert capsys.readouterr().err == "kvm-replay: warning: 3 lost: ring buffer overrun, first at ftrace.txt:9\n"

    def test_many_losses_are_cut_short(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A trace with a thousand kinds of losses does not flood the terminal."""
        counters = tuple(Counter(kind=f"k{number}", count=1, severity="unknown") for number in range(1000))
        write_kvmr(Path("a.kvmr"), trailer=Trailer(counters=counters))
        assert main(["import", "a.kvmr", "-o", "b.kvmr", "--quiet"]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert (len(lines), lines[0]) == (LOSSES_SAID + 1, "kvm-replay: warning: 1 not understood: k0")
        assert "and 980 more" in lines[-1]


class TestOutput:
    """An output is written whole, and overwrites nothing unasked."""

    def test_exists(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A file that is there stays, unless --force."""
        Path("a.kvmr").write_text("precious")
        assert main(["import", "strace.txt", "-o", "a.kvmr"]) == 2
        assert "KVR004 cannot write: a.kvmr: exists already" in capsys.readouterr().err
        assert Path("a.kvmr").read_text() == "precious"
        assert main(["import", "strace.txt", "-o", "a.kvmr", "--force"]) == 0
        assert list(open_recording("a.kvmr").items())

    @pytest.mark.parametrize("name", ["a.txt", "kvmr", "a.kvmr.gz", ""])
    def test_unknown_suffix(self, name: str) -> None:
        """A name that asks for no known form is refused before anything is read."""
        assert main(["import", "no-such-trace", "-o", name]) == 2
        assert not Path(name or "x").exists()

    def test_input_as_output(self) -> None:
        """An input is never the output, not even with --force."""
        before = write_kvmr(Path("a.kvmr")).read_bytes()
        assert main(["import", "a.kvmr", "-o", "./a.kvmr", "--force"]) == 2
        assert Path("a.kvmr").read_bytes() == before

    def test_failed_import_leaves_nothing(self) -> None:
        """Input that breaks half way leaves neither the output nor a part of it."""
        whole = write_kvmr(Path("a.kvmr"), boot() * 50).read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        Path("a.kvmr").write_bytes(damaged)
        for name in ("b.kvmr", "b.jsonl"):
            assert main(["import", "a.kvmr", "-o", name]) == 2
        assert sorted(path.name for path in Path.cwd().iterdir()) == ["a.kvmr", "strace.txt"]

    def test_no_such_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A folder that is not there is said."""
        assert main(["import", "strace.txt", "-o", "no/a.kvmr"]) == 2
        assert "KVR004 cannot write" in capsys.readouterr().err


class TestMachine:
    """Facts of the machine are read strictly."""

    def test_facts(self) -> None:
        """Words, numbers and texts become what the header holds."""
        found = parse_machine("kernel_release=6.1.0-56, tdp=Y,smm=off,max_phys_bits=46,vendor=?,avic=unknown")
        assert found == {
            "kernel_release": "6.1.0-56",
            "tdp": True,
            "smm": False,
            "max_phys_bits": 46,
            "vendor": None,
            "avic": None,
        }

    @pytest.mark.parametrize(
        "argument",
        ["", "tdp", "tdp=", "tdp=2", "=1", "no_such=1", "tdp=1,tdp=1", "max_phys_bits=256", "max_phys_bits=-1", "max_phys_bits=٣",
         "page_size_bytes=?", "kernel_release=" + "6" * 129, "max_phys_bits=" + "9" * 5000],
    )  # fmt: skip
    def test_refused(self, argument: str) -> None:
        """What is no fact, or no value of it, is bad usage that names the argument."""
        if argument == "tdp=":
            assert parse_machine(argument) == {"tdp": None}
            return
        with pytest.raises(UsageError, match="--machine"):
            parse_machine(argument)

    def test_too_long_a_title(self) -> None:
        """A title that the header can not hold is bad usage."""
        assert main(["import", "strace.txt", "-o", "a.kvmr", "--title", "x" * 257]) == 2
        assert HEADER.title


class TestSummary:
    """What import says of its own work."""

    def test_json_summary(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A json summary counts events and what was lost, on standard output; the note on standard error is for people."""
        source, target = tmp_path / "a.kvmr", tmp_path / "b.kvmr"
        write_kvmr(source, [], HEADER, Trailer(counters=(Counter(kind="a loss", count=3, severity="lost"),)))
        assert main(["import", str(source), "-o", str(target), "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["schema"], found["events"], found["lost"], found["unknown"]) == ("kvm-replay/import/1", 0, 3, 0)

    def test_one_standard_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The summary and the recording can not both have standard output."""
        source = tmp_path / "a.kvmr"
        write_kvmr(source, [], HEADER, Trailer())
        assert main(["import", str(source), "-o", "-", "--format", "jsonl"]) == 2
        assert "both want standard output" in capsys.readouterr().err
