"""Promises of `kvm-replay cost` and `kvm-replay policies`."""

import json
from pathlib import Path

import pytest
from cli_samples import ROOT, kvm_replay

from replay.cli import main
from replay.kvm.policies import POLICIES

CHURN = ROOT / "recordings" / "catalogue" / "D31-churn.jsonl"
TEXT = """\
39-bit address space: one memslot of 134,217,728 pages (512 GiB)

memslots created
                   eager                                       on-demand
  array            arrays         now     charged        real  arrays          now   charged      real
  slot             1            280 B         0 B       512 B  1             280 B       0 B     512 B
  lpage_info       2         1.00 MiB    1.00 MiB    1.01 MiB  2          1.00 MiB  1.00 MiB  1.01 MiB
  gfn_write_track  1          256 MiB     256 MiB  256.50 MiB  0               0 B       0 B       0 B
  all                      257.00 MiB  257.00 MiB  257.51 MiB             1.00 MiB  1.00 MiB  1.01 MiB
"""


class TestCost:
    """The price of a layout or of a recording."""

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A layout of 39 bits, word for word up to its first stage; the two others follow."""
        assert main(["cost", "--address-bits", "39"]) == 0
        streams = capsys.readouterr()
        assert streams.out.startswith(TEXT)
        assert "\nafter the first notifier registration\n" in streams.out
        assert "\nafter the first shadow root\n" in streams.out
        assert streams.err == ""

    def test_many_lanes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Lanes stand two abreast, so that the price under every policy fits on a screen."""
        assert main(["cost", "--address-bits", "39", "--lanes", "all"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 110
        assert sum(line.lstrip().startswith("gfn_write_track") for line in lines) == 3 * 4 - 3  # ideal makes none

    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_json(self, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        """The same numbers under stable names."""
        assert main(["cost", "--address-bits", "46", "--slots", "1024", "--format", form]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["schema"], found["slots"], found["slot_pages"]) == ("kvm-replay/cost/1", 1024, 1 << 24)
        sizes = [[stage["write_track"]["nominal_end_bytes"] for stage in lane["stages"]] for lane in found["lanes"]]
        assert sizes == [[32 << 30] * 3, [0, 32 << 30, 32 << 30]]

    def test_recording(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A recording is priced at its peak, with how many arrays were ever made."""
        assert main(["cost", str(CHURN)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "D31 a memslot comes and goes"
        (row,) = [line.split() for line in lines if line.lstrip().startswith("gfn_write_track")]
        assert row == ["gfn_write_track", "4", "448", "B", "8", "KiB", "8.02", "KiB", "0", "0", "B", "0", "B", "0", "B"]

    @pytest.mark.parametrize("bits", [13, 51])
    def test_narrowest_and_widest(self, bits: int, capsys: pytest.CaptureFixture[str]) -> None:
        """Both ends of the range are taken."""
        assert main(["cost", "--address-bits", str(bits)]) == 0
        assert capsys.readouterr().out.startswith(f"{bits}-bit address space: ")

    def test_standard_input_and_output(self, tmp_path: Path) -> None:
        """The recording may come from standard input, the result go to a file."""
        target = tmp_path / "cost.json"
        done = kvm_replay("cost", "--format", "json", "--output", str(target), "-", stdin=CHURN.read_bytes())
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert json.loads(target.read_text())["title"].startswith("D31 ")

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            ([], "KVR001", "RECORDING, or --address-bits"),
            (["--address-bits", "39", str(CHURN)], "KVR001", "not both"),
            (["--slots", "4", str(CHURN)], "KVR001", "--slots without --address-bits"),
            (["--address-bits", "12"], "KVR001", "12 address bits; expected 13 to 51"),
            (["--address-bits", "52"], "KVR001", "52 address bits; expected 13 to 51"),
            (["--address-bits", "x"], "KVR001", "x"),
            (["--address-bits", "39", "--slots", "0"], "KVR001", "0 memslots"),
            (["--address-bits", "41", "--profile", "max_phys_bits=40"], "KVR001", "refuses memslot 0"),
            (["--address-bits", "39", "--lanes", "eagre"], "KVR300", "'eagre' is not a policy"),
            (["--address-bits", "39", "--profile", "tdp=maybe"], "KVR300", "'maybe' is no value for tdp"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], code: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        """2 with a code and the word that is wrong, and no result."""
        assert main(["cost", *arguments]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert code in streams.err
        assert words in streams.err


class TestPolicies:
    """The list of policies."""

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Each policy by name, with its kernels and its source."""
        assert main(["policies"]) == 0
        said = capsys.readouterr().out
        for policy in POLICIES:
            assert f"{policy.name}  {policy.title}\n" in said
            assert f"kernels: {policy.kernels}" in " ".join(said.split())

    @pytest.mark.parametrize("form", ["json", "jsonl"])
    def test_json(self, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        """The same under stable names, each name one that --lanes takes."""
        assert main(["policies", "--format", form]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["schema"] == "kvm-replay/policies/1"
        names = [policy["name"] for policy in found["policies"]]
        assert names == [policy.name for policy in POLICIES]
        for name in names:
            assert main(["cost", "--address-bits", "20", "--lanes", name]) == 0

    def test_output(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--output writes a file; a stray argument is bad usage."""
        target = tmp_path / "policies.txt"
        assert main(["policies", "--output", str(target)]) == 0
        assert main(["policies"]) == 0
        assert target.read_text() == capsys.readouterr().out
        assert main(["policies", "stray"]) == 2
        assert "KVR001" in capsys.readouterr().err
