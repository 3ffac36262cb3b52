"""Promises of `kvm-replay state`: the lanes after an event, in each form."""

import json
from pathlib import Path

import pytest
from cli_samples import ROOT, kvm_replay, write_kvmr

from replay.cli import main

PARTIAL = str(ROOT / "recordings" / "catalogue" / "D08-partial-register.jsonl")


def states(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    """Return the lanes of a state document."""
    assert main(["state", "--format", "json", *arguments, PARTIAL]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "kvm-replay/state/1"
    lanes: list[dict[str, object]] = found["lanes"]
    return lanes


def tracked(lane: object) -> list[int]:
    """Return the ids of the memslots that have write tracking in a lane, in the kernel's order."""
    text = json.dumps(lane)
    slots = json.loads(text)["vms"][0]["slots"]
    return [slot["id"] for slot in slots if any(array["array"] == "gfn_write_track" for array in slot["arrays"])]


class TestState:
    """What lanes hold after an event."""

    @pytest.mark.parametrize(("at", "eager", "lazy"), [("3", [0, 1, 2], []), ("5", [0, 1, 2], [0]), ("6", [0, 1, 2], [0, 1, 2])])
    def test_at(self, at: str, eager: list[int], lazy: list[int], capsys: pytest.CaptureFixture[str]) -> None:
        """After the failed registration on-demand holds the array of memslot 0, after the second one all of them."""
        lanes = states(capsys, "--at", at)
        assert [sorted(tracked(lane)) for lane in lanes] == [eager, lazy]

    def test_end(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without --at, or with end, it is the state after the last event."""
        assert states(capsys) == states(capsys, "--at", "end") == states(capsys, "--at", "6")

    def test_lanes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One lane alone, with another machine."""
        (lane,) = states(capsys, "--lanes", "6.12@tdp=0", "--at", "2")
        assert sorted(tracked(lane)) == [0, 1]

    def test_digests(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Equal states have equal digests, whatever the lane is called; another event gives another one."""
        first = states(capsys, "--lanes", "6.12,6.12@la57=0", "--at", "3")
        later = states(capsys, "--lanes", "6.12", "--at", "4")
        assert first[0]["digest"] == first[1]["digest"] != later[0]["digest"]

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The text names the event, each lane, its memslots and their arrays."""
        assert main(["state", "--at", "5", PARTIAL]) == 0
        said = capsys.readouterr().out
        for words in ("after event 5", "eager", "on-demand", "511.50 KiB", "gfn_write_track"):
            assert words in said

    def test_standard_input_and_output(self, tmp_path: Path) -> None:
        """The recording may come from standard input, the result go to a file."""
        target = tmp_path / "state.json"
        done = kvm_replay("state", "--format", "json", "--output", str(target), "-", stdin=Path(PARTIAL).read_bytes())
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert json.loads(target.read_text())["event"] == 6


class TestTrouble:
    """What can not be meant is refused."""

    @pytest.mark.parametrize("verb", [["state"], ["blame", "--gfn", "1"]], ids=" ".join)
    def test_torn(self, verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A number behind the last event of a recording that is cut is refused, and the loss is said."""
        whole = write_kvmr(tmp_path / "boot.kvmr").read_bytes()
        (tmp_path / "torn.kvmr").write_bytes(whole[:-1])
        assert main([*verb, "--at", "14", str(tmp_path / "torn.kvmr")]) == 2
        said = capsys.readouterr().err
        assert "there is no event 14; expected 0 to 13. The recording has lost some: torn recording; `kvm-replay info`" in said

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["--at", "7"], "KVR001", "there is no event 7; expected 0 to 6"),
            (["--at", "9" * 5000], "KVR001", "' is not an event number"),
            (["--at", "-1"], "KVR001", ""),
            (["--at", "six"], "KVR001", "'six' is not an event number"),
            (["--lanes", "eagre"], "KVR300", "'eagre' is not a policy"),
            (["--profile", "smm=2"], "KVR300", "'2' is no value for smm"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], code: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        """2 with a code and the word that is wrong, and no result."""
        assert main(["state", *arguments, PARTIAL]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert code in streams.err
        assert words in streams.err
