"""Promises of `kvm-replay verify` and `kvm-replay recover`."""

import json
from pathlib import Path

import pytest
from cli_samples import boot, kvm_replay, write_jsonl, write_kvmr

from replay.cli import main
from replay.recording import open_recording
from replay.runs import events_of


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = write_kvmr(Path("sound.kvmr")).read_bytes()
    write_jsonl(Path("sound.jsonl"))
    Path("torn.kvmr").write_bytes(whole[:-1])
    Path("damaged.kvmr").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


class TestVerify:
    """Each file is judged for itself, and the worst of them decides the status."""

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line for each file, why it is not sound, what to do, and how many there are of each."""
        assert main(["verify", "sound.kvmr", "sound.jsonl", "torn.kvmr", "damaged.kvmr", "missing"]) == 2
        streams = capsys.readouterr()
        size = Path("sound.kvmr").stat().st_size
        lines = streams.out.splitlines()
        assert lines[0] == f"sound.kvmr: sound: 14 events in 3 blocks, {size} bytes; checksums, chain, counts and END fit"
        assert lines[1] == "  it counts 3 losses of its recorder; `kvm-replay info` has them"
        assert lines[2].endswith("its counts fit; JSON Lines has no checksums")
        assert lines[4].startswith("torn.kvmr: torn: 14 events in 2 blocks, ")
        assert lines[5].startswith("  KVR102 torn.kvmr: torn recording: stops at byte ")
        assert lines[6].startswith("  lost: how many events can not be told; ")
        assert lines[6].endswith(" bytes are left there, with the header of 1 block")
        assert lines[7] == "  `kvm-replay recover torn.kvmr -o NEW.kvmr` saves what is whole"
        assert lines[-1] == "5 recordings: 2 sound, 1 torn, 1 damaged, 1 refused"
        said = streams.err.splitlines()
        assert said[0].startswith("kvm-replay: warning: torn.kvmr: torn recording: ")
        assert said[1].startswith("kvm-replay: KVR101 damaged recording: damaged.kvmr, block 2 at byte ")
        assert said[2].startswith("kvm-replay: KVR002 cannot read: missing: ")

    def test_written_by_hand(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Of one that people write, and that has no end, nobody says that its counts fit."""
        first = '{"kvm-replay": "recording/1", "hand_written": true}\n'
        Path("hand.jsonl").write_text(first + '{"event": "vm.create", "vm": 0, "ret": 4}\n')
        assert main(["verify", "hand.jsonl"]) == 0
        said = capsys.readouterr().out
        assert "sound: 1 event" in said
        assert said.endswith("; written by hand, without an end that counts its events; JSON Lines has no checksums\n")

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The same as a document."""
        assert main(["verify", "sound.kvmr", "torn.kvmr", "--format", "json"]) == 3
        document = json.loads(capsys.readouterr().out)
        assert [found["state"] for found in document["recordings"]] == ["sound", "torn"]
        assert [found["ended"] for found in document["recordings"]] == [True, False]
        assert [document[state] for state in ("sound", "torn", "damaged", "refused")] == [1, 1, 0, 0]

    def test_standard_input(self) -> None:
        """- is standard input."""
        done = kvm_replay("verify", "-", stdin=Path("sound.kvmr").read_bytes())
        assert (done.returncode, done.stdout.split(b":")[:2]) == (0, [b"standard input", b" sound"])

    def test_traces(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A trace is no recording, and neither is what no tool wrote."""
        cases = {b"openat(3) = 4\n": "'openat(3) = 4'", b"\xff\x00\xfe\n": "ff 00 fe", b"a\x07b": "61 07 62"}
        for data, shown in cases.items():
            Path("trace.txt").write_bytes(data)
            assert main(["verify", "trace.txt"]) == 2
            assert f"KVR003 unknown format: trace.txt: first line {shown}; expected" in capsys.readouterr().err

    def test_behind_the_end(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Bytes behind a whole end are none of the recording; a tear with nothing behind says that too."""
        Path("longer.kvmr").write_bytes(Path("sound.kvmr").read_bytes() + b"xx")
        lines = Path("sound.jsonl").read_bytes().splitlines(keepends=True)
        Path("short.jsonl").write_bytes(b"".join(lines[:-1]))
        assert main(["verify", "longer.kvmr", "short.jsonl"]) == 2
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  lost")]
        assert said == [
            "  lost: nothing of the recording; 2 bytes are left there",
            "  lost: how many events can not be told; nothing is left there",
        ]


class TestRecover:
    """What is whole is saved under a new name."""

    def test_torn(self, capsys: pytest.CaptureFixture[str]) -> None:
        """All events of a recording whose END is cut are saved; the report says so, and what is lost."""
        assert main(["recover", "torn.kvmr", "-o", "saved.kvmr"]) == 3
        streams = capsys.readouterr()
        assert streams.out.splitlines()[-1] == (
            'saved.kvmr: 14 events saved; its end counts the loss, so that verdicts say "cannot tell"'
        )
        assert streams.err.startswith("kvm-replay: warning: torn.kvmr: torn recording")
        assert list(events_of(open_recording("saved.kvmr").items())) == boot()
        assert main(["verify", "saved.kvmr"]) == 0

    def test_sound(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A sound one is copied, and nothing is lost."""
        assert main(["recover", "sound.kvmr", "-o", "saved.kvmr", "--format", "json"]) == 0
        streams = capsys.readouterr()
        assert json.loads(streams.out)["complete"] is True
        assert streams.err == ""
        assert Path("saved.kvmr").read_bytes() == Path("sound.kvmr").read_bytes()

    def test_advice_is_true(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The command that the complaint about damage gives saves as many events as it says."""
        assert main(["dump", "damaged.kvmr"]) == 2
        said = capsys.readouterr().err
        command, rest = said.split("`")[1], said.split("`")[2]
        assert rest == " saves what is whole before it, 14 events\n"
        program, *arguments = command.split()
        assert program == "kvm-replay"
        assert main([*arguments, "-o", "saved.kvmr"]) == 3
        assert len(list(events_of(open_recording("saved.kvmr").items()))) == 14

    @pytest.mark.parametrize("name", ["saved.txt", "-", "torn.kvmr", "sound.kvmr", ""])
    def test_output(self, name: str) -> None:
        """Neither the source, nor what is there already, nor another form is written."""
        before = sorted((path.name, path.read_bytes()) for path in Path.cwd().iterdir())
        assert main(["recover", "torn.kvmr", "-o", name]) == 2
        assert sorted((path.name, path.read_bytes()) for path in Path.cwd().iterdir()) == before

    def test_cannot_tell(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A comparison of what was saved can not tell, as one of the torn recording can not."""
        assert main(["recover", "torn.kvmr", "-o", "saved.kvmr"]) == 3
        capsys.readouterr()
        said = []
        for name in ("torn.kvmr", "saved.kvmr"):
            assert main(["compare", name]) == 3
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        assert "lost: torn recording" in said[0]
