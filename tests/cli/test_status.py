"""Promises of the exit status: each that a verb's help lists can be met, and is, by a case of its own."""

import json
from pathlib import Path

import attrs
import pytest
from cli_samples import HEADER, write_kvmr
from fake_kernel import FakeKernel, install

from replay.cli import main
from replay.cli.verbs import VERBS
from replay.events import Lost, MemslotSet, VmCreate
from replay.events.base import Event
from replay.golden.files import Wish, update_golden
from replay.header import Header, Machine, Trailer

EAGER = Machine(kernel_release="6.8.0", config_external_write_tracking=True, tdp=True, smm=True)
ON_DEMAND = attrs.evolve(EAGER, kernel_release="6.12.0")
SLOT = MemslotSet(vm=0, ret=0, memory_size=0x200000)
CREATE = VmCreate(vm=0, ret=4)

RECORDINGS: dict[str, tuple[Machine, list[Event], bool]] = {
    # name: machine, events, whether the recording saw the start
    "agrees.kvmr": (attrs.evolve(EAGER, tdp=False), [CREATE, SLOT], True),
    "differs.kvmr": (EAGER, [CREATE, SLOT], True),
    "lossy.kvmr": (attrs.evolve(EAGER, tdp=False), [CREATE, Lost(vm=0, what="ring buffer overrun"), SLOT], True),
    "contradicts.kvmr": (EAGER, [CREATE, SLOT, attrs.evolve(SLOT, memory_size=4096)], True),
    "unjudged.kvmr": (Machine(), [CREATE, SLOT], True),
}

CASES: dict[tuple[str, int], list[str]] = {
    ("record", 0): ["record", "--print-script", "--with", "strace"],
    ("record", 2): ["record", "-o", "new.kvmr"],
    ("import", 0): ["import", "agrees.kvmr", "-o", "new.kvmr", "--force"],
    ("import", 3): ["import", "torn.kvmr", "-o", "new.kvmr", "--force"],
    ("import", 2): ["import", "agrees.kvmr", "-o", "differs.kvmr"],
    ("info", 0): ["info", "lossy.kvmr"],
    ("info", 3): ["info", "torn.kvmr"],
    ("info", 2): ["info", "missing.kvmr"],
    ("dump", 0): ["dump", "lossy.kvmr"],
    ("dump", 3): ["dump", "torn.kvmr"],
    ("dump", 2): ["dump", "agrees.kvmr", "--from", "2", "--to", "1"],
    ("compare", 0): ["compare", "agrees.kvmr"],
    ("compare", 1): ["compare", "differs.kvmr"],
    ("compare", 2): ["compare", "agrees.kvmr", "--lanes", "no-such-policy"],
    ("compare", 3): ["compare", "lossy.kvmr"],
    ("check", 0): ["check", "agrees.kvmr"],
    ("check", 1): ["check", "contradicts.kvmr"],
    ("check", 2): ["check", "missing.kvmr"],
    ("check", 3): ["check", "unjudged.kvmr"],
    ("compare", 125): ["compare", "--bisect", "lossy.kvmr"],
    ("check", 125): ["check", "--bisect", "unjudged.kvmr"],
    ("golden", 0): ["golden", "check", "agrees.kvmr"],
    ("golden", 1): ["golden", "check", "agrees.kvmr", "differs.kvmr", "lossy.kvmr"],
    ("golden", 2): ["golden", "check", "missing.kvmr"],
    ("golden", 3): ["golden", "check", "agrees.kvmr", "lossy.kvmr"],
    ("golden", 125): ["golden", "check", "--bisect", "lossy.kvmr"],
    ("live", 0): ["live", "--operations", "100"],
    ("live", 1): ["live", "--operations", "400", "--machine", "smm=y", "-o", "live.kvmr", "--force"],
    ("live", 2): ["live", "--operations", "0"],
    ("live", 3): ["live", "--machine", "kernel_release=4.19"],
    ("state", 0): ["state", "agrees.kvmr", "--at", "1"],
    ("state", 3): ["state", "lossy.kvmr"],
    ("state", 2): ["state", "agrees.kvmr", "--at", "x"],
    ("blame", 0): ["blame", "agrees.kvmr", "--gfn", "0x1"],
    ("blame", 3): ["blame", "torn.kvmr", "--gfn", "0x1", "--at", "1"],
    ("blame", 2): ["blame", "agrees.kvmr", "--gfn", "page"],
    ("cost", 0): ["cost", "--address-bits", "39"],
    ("cost", 3): ["cost", "lossy.kvmr"],
    ("cost", 2): ["cost", "--address-bits", "39", "--slots", "0"],
    ("policies", 0): ["policies"],
    ("policies", 2): ["policies", "stray"],
    ("index", 0): ["index", "agrees.kvmr"],
    ("index", 2): ["index", "torn.kvmr"],
    ("verify", 0): ["verify", "agrees.kvmr", "lossy.kvmr"],
    ("verify", 2): ["verify", "agrees.kvmr", "torn.kvmr", "damaged.kvmr"],
    ("verify", 3): ["verify", "agrees.kvmr", "torn.kvmr"],
    ("recover", 0): ["recover", "agrees.kvmr", "-o", "new.kvmr", "--force"],
    ("fleet", 0): ["fleet", "agrees.kvmr"],
    ("fleet", 1): ["fleet", "agrees.kvmr", "differs.kvmr"],
    ("fleet", 2): ["fleet", "agrees.kvmr", "--lanes", "no-such-policy"],
    ("fleet", 3): ["fleet", "agrees.kvmr", "differs.kvmr", "lossy.kvmr"],
    ("generate", 0): ["generate", "qemu-boot", "--events", "60", "-o", "made.kvmr", "--force"],
    ("generate", 2): ["generate", "qemu-boot", "--events", "0", "-o", "none.kvmr"],
    ("minimise", 0): ["minimise", "differs.kvmr", "-o", "new.kvmr", "--force"],
    ("minimise", 2): ["minimise", "agrees.kvmr", "-o", "new.kvmr"],
    ("minimise", 3): ["minimise", "lossy.kvmr", "-o", "new.kvmr", "--force", "--profile", "tdp=1"],
    ("recover", 2): ["recover", "agrees.kvmr", "-o", "differs.kvmr"],
    ("pack", 0): ["pack", "agrees.kvmr", "--scrub", "-o", "new.kvmr", "--force"],
    ("pack", 3): ["pack", "torn.kvmr", "-o", "new.kvmr", "--force"],
    ("pack", 2): ["pack", "agrees.kvmr", "-o", "differs.kvmr"],
    ("recover", 3): ["recover", "torn.kvmr", "-o", "new.kvmr", "--force"],
}
JSON_CASES = [(verb, status) for verb, status in CASES if status != 2 and verb != "record"]  # record's output is its command's


@pytest.fixture(autouse=True)
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install(monkeypatch, FakeKernel())
    for name, (machine, events, complete) in RECORDINGS.items():
        header = attrs.evolve(HEADER, machine=machine, complete_start=complete)
        write_kvmr(Path(name), events, header, Trailer())
    for name in ("agrees.kvmr", "differs.kvmr"):
        assert update_golden(f"{name}.golden", Wish()).state == "written"
    golden = Path("differs.kvmr.golden")
    golden.write_text(golden.read_text().replace("verdict: divergence", "verdict: same"))
    whole = Path("agrees.kvmr").read_bytes()
    Path("torn.kvmr").write_bytes(whole[:-1])
    Path("damaged.kvmr").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


class TestStatus:
    """Exit status is a table, and the table is met."""

    def test_every_status_has_a_case(self) -> None:
        """The cases are exactly the verbs' own lists of status."""
        assert set(CASES) == {(verb.name, status) for verb in VERBS for status in verb.statuses}

    @pytest.mark.parametrize(("verb", "status"), CASES)
    def test_case(self, verb: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
        """Each case ends as its help says; results are on standard output, trouble on standard error (of verify on both)."""
        assert main(CASES[verb, status]) == status
        streams = capsys.readouterr()
        assert bool(streams.out) == ((status != 2 and verb not in {"import", "pack", "generate"}) or verb == "verify")
        assert ("kvm-replay: KVR" in streams.err) == (status == 2)

    @pytest.mark.parametrize(("verb", "status"), JSON_CASES)
    def test_format_changes_no_status(self, verb: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
        """A json result is one document that names its schema, jsonl has one object a line; the status stays."""
        assert main([*CASES[verb, status], "--format", "json"]) == status
        document = json.loads(capsys.readouterr().out)
        assert document["schema"].startswith("kvm-replay/")
        assert main([*CASES[verb, status], "--format", "jsonl"]) == status
        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert all(isinstance(json.loads(line), dict) for line in lines)

    @pytest.mark.parametrize(("verb", "status"), JSON_CASES)
    def test_same_bytes_again(self, verb: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
        """The same command line gives the same bytes."""
        outputs = []
        for _ in range(2):
            assert main(CASES[verb, status]) == status
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1]

    def test_header_default(self) -> None:
        """The cases rest on what their headers say, not on defaults that may change."""
        assert Header().machine == Machine()
        assert EAGER != ON_DEMAND
