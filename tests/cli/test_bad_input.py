"""Promises for input of every bad kind: one sentence with a code, status 2, no traceback, nothing on standard output."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import ROOT, STRACE, boot, kvm_replay, write_jsonl, write_kvmr

from replay.cli import main
from replay.cli.verbs import VERBS

READERS = [verb.name for verb in VERBS if "RECORDING" in verb.inputs or "TRACE" in verb.inputs]
JUNK = bytes(range(256)) * 64


def arguments_of(verb: str, *inputs: str) -> list[str]:
    """Return a command line of a verb over some inputs."""
    output = ["--output", "out.kvmr"] if verb in {"import", "recover", "minimise", "pack"} else []
    return [verb, *inputs, *output, *(["--gfn", "1"] if verb == "blame" else [])]


def files(folder: Path) -> dict[str, Path]:
    """Make a file of each bad kind."""
    whole = write_kvmr(folder / "whole.kvmr", boot() * 30).read_bytes()
    lines = write_jsonl(folder / "whole.jsonl").read_bytes()
    middle = len(whole) // 2
    contents = {
        "empty": b"",
        "empty.kvmr": b"",
        "junk": JUNK,
        "junk.kvmr": JUNK,
        "zeros": bytes(100_000),
        "one-byte": b"\x00",
        "newlines": b"\n" * 1000,
        "one-long-line": b"x" * 3_000_000,
        "prose.txt": b"This is a letter.\nIt has two lines.\n",
        "json.txt": b'{"hello": "world"}\n',
        "half-a-signature": whole[:4],
        "header-only-cut": whole[:40],
        "flipped.kvmr": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "doubled.kvmr": whole + whole,
        "tail.kvmr": whole[middle:],
        "bad-json.jsonl": lines[:-40] + b"{{{\n",
        "deep.jsonl": lines.splitlines(keepends=True)[0] + b"[" * 100_000 + b"\n",
        "latin.txt": b"\xe4\xf6\xfc caf\xe9\n" * 10,
        "gzip.gz": b"\x1f\x8b\x08\x00junkjunkjunk",
        "zstd.zst": b"\x28\xb5\x2f\xfdjunkjunkjunk",
        "utf16.txt": STRACE.encode("utf-16"),
    }
    made = {}
    for name, content in contents.items():
        made[name] = folder / name
        made[name].write_bytes(content)
    return made


NAMES = [
    "empty", "empty.kvmr", "junk", "junk.kvmr", "zeros", "one-byte", "newlines", "one-long-line", "prose.txt", "json.txt",
    "half-a-signature", "header-only-cut", "flipped.kvmr", "doubled.kvmr", "tail.kvmr", "bad-json.jsonl", "deep.jsonl",
    "latin.txt", "gzip.gz", "zstd.zst", "utf16.txt",
]  # fmt: skip
RECOVERABLE = ["flipped.kvmr", "doubled.kvmr", "bad-json.jsonl", "deep.jsonl"]
"""Files whose header is whole: `recover` saves what is behind it, of the others there is nothing to save."""
CASES = [(verb, name) for verb in READERS for name in NAMES if (verb, name) not in {("recover", name) for name in RECOVERABLE}]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said, after holding it to the form of every complaint."""
    said = capsys.readouterr().err
    last = said.splitlines()[-1]
    assert last.startswith("kvm-replay: KVR"), said
    assert "Traceback" not in said
    assert "internal error" not in said
    return last


class TestBadInput:
    """No input ends in a traceback."""

    def test_every_kind_is_made(self, tmp_path: Path) -> None:
        """The list of names is the list of files."""
        assert sorted(files(tmp_path)) == sorted(NAMES)

    @pytest.mark.parametrize(("verb", "name"), CASES)
    def test_file(self, verb: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Each bad file is refused with its name, and import leaves nothing behind."""
        files(tmp_path)
        before = sorted(tmp_path.iterdir())
        assert main(arguments_of(verb, name)) == 2
        assert name in complaint(capsys)
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("name", RECOVERABLE)
    def test_recoverable(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What has a whole header is saved, with the complaint about the rest."""
        files(tmp_path)
        assert main(["recover", name, "--output", "out.kvmr"]) == 3
        assert name in complaint(capsys)
        assert main(["verify", "out.kvmr"]) == 0

    @pytest.mark.parametrize("verb", READERS)
    @pytest.mark.parametrize("name", ["missing", ".", "no/such/folder", "x" * 300, "\udcff"])
    def test_name(self, verb: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A name that leads to no file is said to be unreadable."""
        assert main(arguments_of(verb, name)) == 2
        assert "KVR002 cannot read" in complaint(capsys)

    @pytest.mark.parametrize("verb", READERS)
    def test_bad_beside_good(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One bad input among good ones is named."""
        Path("strace.txt").write_text(STRACE)
        assert main(arguments_of(verb, "strace.txt", "missing")) == 2
        assert "missing" in complaint(capsys)

    @pytest.mark.parametrize("verb", READERS)
    def test_standard_input_twice(self, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Standard input is read once."""
        assert main(arguments_of(verb, "-", "-")) == 2
        assert "KVR001 bad usage" in complaint(capsys)

    @pytest.mark.parametrize("verb", READERS)
    def test_standard_input(self, verb: str) -> None:
        """Junk, nothing, and a closed stream on standard input are refused like files."""
        for content in (JUNK, b""):
            done = kvm_replay(*arguments_of(verb, "-"), cwd=Path.cwd(), stdin=content)
            assert (done.returncode, done.stdout[:24]) == (2, b"standard input: refused\n" if verb == "verify" else b"")
            assert done.stderr.startswith(b"kvm-replay: KVR")
        command = ["bash", "-c", '"$@" <&-', "bash", sys.executable, "-m", "replay", *arguments_of(verb, "-")]
        closed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        expected = "kvm-replay: KVR002 cannot read: standard input is closed. Give a file name\n"
        assert (closed.returncode, closed.stdout, closed.stderr) == (2, "", expected)


class TestTorn:
    """A recording that lacks its end is read as far as it goes, and the reader is told."""

    def test_every_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        """However it is cut, the status is 3 with a warning or 2 with a code; both happen."""
        whole = write_kvmr(Path("whole.kvmr"), boot() * 3).read_bytes()
        statuses = set()
        for size in range(0, len(whole), 7):
            Path("cut.kvmr").write_bytes(whole[:size])
            status = main(["info", "cut.kvmr"])
            said = capsys.readouterr().err
            assert "Traceback" not in said
            assert "internal error" not in said
            assert said.startswith("kvm-replay: warning: " if status == 3 else "kvm-replay: KVR")
            statuses.add(status)
        assert statuses == {3, 2}
