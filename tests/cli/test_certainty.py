"""Promises of docs/certainty.md: what each verb's answer rests on decides its status, cell by cell of the table there."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from cli_samples import HEADER, ROOT, write_jsonl, write_kvmr

from replay.cli import main
from replay.cli.verbs import VERBS
from replay.events import Lost, MemslotSet, Opaque, VmAttach, VmCreate
from replay.events.base import Event
from replay.golden.files import Wish, update_golden
from replay.header import Counter, Trailer
from replay.recording import Writer
from replay.recording.block_map import map_file
from replay.recording.recover import recover
from replay.runs import items_of
from replay.units import Gpa, Hva

PAGE = (ROOT / "docs" / "certainty.md").read_text()
ROWS = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
KINDS = ROWS[0][1:]
CASES = [(row[0], kind, int(status)) for row in ROWS[2:] for kind, status in zip(KINDS, row[1:], strict=True)]
WITHOUT = {"record", "live", "policies", "generate"}
"""Verbs that read no recording."""

MACHINE = attrs.evolve(HEADER.machine, kernel_release="6.8.0", config_external_write_tracking=True, tdp=False, smm=True)
LOSS = Lost(count=3, what="ring buffer overrun")
COUNTED = Trailer(counters=(Counter(kind="ring buffer overrun", count=3, first="trace.txt:9", severity="lost"),))


def _slot(number: int, ret: int | None = 0) -> MemslotSet:
    place = number << 21
    return MemslotSet(
        vm=0, slot=number, ret=ret, guest_phys_addr=Gpa(place), memory_size=1 << 21, userspace_addr=Hva(1 << 30 | place)
    )


WHOLE: list[Event] = [VmCreate(vm=0, ret=4), _slot(0), _slot(1), _slot(2)]
TOLD = [WHOLE[0], LOSS, *WHOLE[1:]]
BEHIND = [*WHOLE[:2], LOSS, *WHOLE[2:]]


def blocks_of(path: Path, events: Sequence[Event], trailer: Trailer) -> bytes:
    """Write a recording with a block for every two events; return its bytes."""
    with Writer(path, attrs.evolve(HEADER, machine=MACHINE), overwrite=True) as writer:
        for start in range(0, len(events), 2):
            for item in items_of(events[start : start + 2]):
                writer.write(item)
            writer.flush()
        writer.finish(trailer)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(kind: str) -> str:
    """Write the recording of a column; return its name."""
    path = Path("R.kvmr")
    cases = {"lossy": (WHOLE, COUNTED), "told": (TOLD, Trailer()), "told behind event 1": (BEHIND, Trailer())}
    data = blocks_of(path, *cases.get(kind, (WHOLE, Trailer())))
    if kind in {"torn", "saved"}:
        path.write_bytes(data[:-1])
    if kind == "saved":
        recover("R.kvmr", "saved.kvmr")
        Path("saved.kvmr").rename(path)
    if kind.startswith("damaged"):
        blocks = map_file(str(path))
        assert blocks is not None
        at = blocks.end.at - 1
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return str(path)


def arguments_of(command: str) -> list[str]:
    """Return the words of a row of the table."""
    return [{"R": "R.kvmr", "OUT": "OUT.kvmr"}.get(word, word) for word in command.split()]


class TestTable:
    """Each cell of the table is what happens."""

    def test_every_verb(self) -> None:
        """Every verb that reads a recording has a row."""
        assert {row[0].split()[0] for row in ROWS[2:]} == {verb.name for verb in VERBS} - WITHOUT
        assert len(CASES) == (len(ROWS) - 2) * 7
        assert {status for _command, _kind, status in CASES} == {0, 2, 3}

    @pytest.mark.parametrize(("command", "kind", "status"), CASES)
    def test_cell(self, command: str, kind: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
        """The status is that of the table, the verb's help knows it, and more is said than a number."""
        name = made(kind)
        if command.startswith("golden"):
            found = Path(name).read_bytes()
            if status == 2:  # it was whole when somebody looked at it
                made("whole")
            update_golden(f"{name}.golden", Wish())
            Path(name).write_bytes(found)
        assert main(arguments_of(command)) == status
        verb = next(verb for verb in VERBS if verb.name == command.split(maxsplit=1)[0])
        assert status in verb.statuses
        streams = capsys.readouterr()
        assert status == 0 or re.search("lost|torn|damaged|cannot tell", streams.out + streams.err)


class TestPlaces:
    """Where a loss is decides what it touches."""

    @pytest.mark.parametrize(("at", "status"), [("0", 0), ("1", 0), ("2", 3), ("4", 3)])
    def test_counted_and_told(self, at: str, status: int) -> None:
        """A loss that END counts and an event places lies there and not before, by each road."""
        path = Path("R.kvmr")
        blocks_of(path, BEHIND, COUNTED)
        write_jsonl(Path("R.jsonl"), BEHIND, attrs.evolve(HEADER, machine=MACHINE), COUNTED)
        for name in ("R.kvmr", "R.jsonl"):
            assert main(["state", name, "--at", at]) == status
        assert main(["index", "R.kvmr", "--every", "1"]) == 0
        assert main(["state", "R.kvmr", "--at", at]) == status
        assert main(["blame", "R.kvmr", "--gfn", "1", "--at", at]) == status

    def test_before_a_checkpoint(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What events before a checkpoint say is known behind it, word by word."""
        events = [
            VmAttach(vm=0),
            Opaque(vm=0, name="KVM_SET_USER_MEMORY_REGION2", cmd=0x40A0AE49, ret=0),
            *TOLD[1:],
            VmCreate(vm=1, ret=9),
        ]
        blocks_of(Path("R.kvmr"), events, Trailer())
        assert main(["index", "R.kvmr", "--every", "1"]) == 0
        capsys.readouterr()
        for at in range(len(events)):
            said = []
            for more in ([], ["--no-index"]):
                assert main(["state", "R.kvmr", "--at", str(at), "--format", "json", *more]) == 3
                said.append(capsys.readouterr().out)
            assert said[0] == said[1]
        doubts = [(doubt["first_event"], doubt["vm"]) for doubt in json.loads(said[0])["uncertainties"]]
        assert doubts == [(0, 0), (1, 0), (2, None)]

    @pytest.mark.parametrize(("vm", "status"), [("0", 3), ("1", 0)])
    def test_of_another_vm(self, vm: str, status: int) -> None:
        """A page of one VM is not touched by what another VM lost."""
        write_kvmr(Path("R.kvmr"), [*WHOLE, Lost(vm=0, count=1, what="overrun"), VmCreate(vm=1, ret=9)], trailer=Trailer())
        assert main(["blame", "R.kvmr", "--gfn", "1", "--vm", vm]) == status

    def test_shadow_pages(self) -> None:
        """Lost shadow pages leave what arrays cost, and not the counters."""
        write_kvmr(Path("R.kvmr"), [*WHOLE, Lost(what="pages", affects="shadow_pages")], trailer=Trailer())
        assert [main([verb, "R.kvmr"]) for verb in ("cost", "state", "compare")] == [0, 3, 3]

    @pytest.mark.parametrize("keep", [0.5, 0.9])
    def test_json_lines(self, keep: float, capsys: pytest.CaptureFixture[str]) -> None:
        """JSON Lines that stop answer as a container that stops does."""
        whole = write_jsonl(Path("R.jsonl"), WHOLE, attrs.evolve(HEADER, machine=MACHINE), Trailer()).read_bytes()
        Path("R.jsonl").write_bytes(whole[: int(len(whole) * keep)].rpartition(b"\n")[0] + b"\n")
        assert [main([verb, "R.jsonl"]) for verb in ("state", "cost", "dump", "info", "compare")] == [3] * 5
        assert main(["state", "R.jsonl", "--at", "0"]) == 3
        assert main(["dump", "R.jsonl", "--to", "0"]) == 0
        capsys.readouterr()
        assert main(["dump", "R.jsonl", "--format", "json"]) == 3
        assert json.loads(capsys.readouterr().out)["cut_short"] is True

    def test_damage_behind(self, capsys: pytest.CaptureFixture[str]) -> None:
        """JSON Lines that are damaged behind the event: the answer stands, and nobody knows what their end counts."""
        whole = write_jsonl(Path("R.jsonl"), WHOLE, attrs.evolve(HEADER, machine=MACHINE), Trailer()).read_text()
        Path("R.jsonl").write_text(whole.replace('"slot": 2', '"slot": x'))
        assert main(["state", "R.jsonl", "--at", "2"]) == 3
        assert "behind what was asked for: " in capsys.readouterr().err
        assert main(["state", "R.jsonl"]) == 2
