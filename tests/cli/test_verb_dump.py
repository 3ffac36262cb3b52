"""Promises of `kvm-replay dump`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_samples import HEADER, boot, write_kvmr

from replay.cli import main
from replay.cli.verbs.dump import chosen
from replay.events import Mark, WriteTrackAdd
from replay.events.base import Event, Source, Task
from replay.header import Trailer
from replay.recording import Writer
from replay.runs import events_of, items_of
from replay.units import Gfn

TEXT = """\
event 0  +0.000000 s  vm 0  tid 100  KVM_CREATE_VM type 0 = 5
event 1  +0.000010 s  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 0 as 0 gpa 0x0 size 0x80000000 (2 GiB) \
hva 0x7f0000000000 flags 0 = 0
event 2  +0.001234 s  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 3 as 0 gpa 0x80000000 size 0x80000000 (2 GiB) \
hva 0x7f0080000000 flags LOG_DIRTY = 0
event 3  +0.001300 s  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 3 as 0 gpa 0x80000000 size 0x80000000 (2 GiB) \
hva 0x7f0080000000 flags 0 = 0
event 4  +0.001400 s  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 4 as 0 gpa 0x1000 size 0x1000 (4 KiB) \
hva 0x7f0000001000 flags 0 = -EEXIST
event 5  +0.001500 s  vm 0  tid 101  KVM_CREATE_VCPU id 0 = 7
event 6  +0.001600 s  vm 0  tid 101  account_shadowed() gfn 0x1 level 4 as 0
event 7  +0.001700 s  vm 0  tid 101  account_shadowed() gfn 0x2 level 1 as 0
event 8  vm 0  tid 100  kvm_write_track_add_gfn() gfn 0x3 as 0
event 9  vm 0  tid 101  kvm_page_track_write() gfn 0x1 as 0
event 10  +0.001800 s  vm 0  tid 101  unaccount_shadowed() gfn 0x1 level 4 as 0
event 11  vm 0  LOST 3 events: ring buffer overrun
event 12  +0.001900 s  vm 0  tid 100  KVM_SET_USER_MEMORY_REGION slot 3 as 0 gpa 0x0 size 0 (delete) \
hva 0x7f0000000000 flags 0 = 0
event 13  +2.000000 s  vm 0  tid 100  VM destroyed (close)
"""


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Return the path of a small recording."""
    return str(write_kvmr(tmp_path / "boot.kvmr"))


class TestText:
    """Text is one event a line."""

    def test_whole(self, recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """All events, numbered, in kernel people's words."""
        assert main(["dump", recording]) == 0
        assert capsys.readouterr() == (TEXT, "")

    def test_part(self, recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A part prints the same lines as the whole: the same numbers and times."""
        lines = TEXT.splitlines(keepends=True)
        for arguments, numbers in (
            (["--from", "12"], [12, 13]),
            (["--to", "1"], [0, 1]),
            (["--from", "7", "--to", "9"], [7, 8, 9]),
            (["--kind", "vm.create", "--kind", "shadow_page.account"], [0, 6, 7]),
            (["--kind", "memslot.set", "--from", "2", "--to", "11"], [2, 3, 4]),
            (["--vm", "0", "--from", "11"], [11, 12, 13]),
        ):
            assert main(["dump", recording, *arguments]) == 0
            assert capsys.readouterr().out == "".join(lines[number] for number in numbers)

    def test_nothing_chosen(self, recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """No event to print is no error, and is said."""
        for arguments in (["--vm", "7"], ["--from", "99"], ["--kind", "observe"]):
            assert main(["dump", recording, *arguments]) == 0
            assert capsys.readouterr() == ("", "kvm-replay: no event was chosen\n")

    def test_source(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """--source adds the place in the trace."""
        path = write_kvmr(tmp_path / "a.kvmr", [Mark(text="a", source=Source(0, 12)), Mark(text="b")], HEADER)
        assert main(["dump", "--source", str(path)]) == 0
        assert capsys.readouterr().out == "event 0  mark: a  [strace.txt:12]\nevent 1  mark: b  [no source]\n"


class TestJson:
    """JSON has the fields of the events, numbered."""

    def test_jsonl(self, recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One object an event, with its number and its fields as in a .jsonl recording."""
        assert main(["dump", "--format", "jsonl", "--kind", "memslot.set", "--to", "4", recording]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["number"], row["event"], row["ret"]) for row in rows] == [
            (n, "memslot.set", -17 * (n == 4)) for n in (1, 2, 3, 4)
        ]
        assert rows[1]["guest_phys_addr"] == 0x80000000

    def test_json(self, recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """One document with all of them, also when there are none."""
        for arguments, count in (([], 14), (["--vm", "9"], 0)):
            assert main(["dump", "--format", "json", recording, *arguments]) == 0
            found = json.loads(capsys.readouterr().out)
            assert (found["schema"], len(found["events"])) == ("kvm-replay/dump/1", count)


class TestUsage:
    """What can not be meant is refused."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--from", "-1"],
            ["--from", "x"],
            ["--to", "1.5"],
            ["--from", "5", "--to", "4"],
            ["--kind", "memslot"],
            ["--vm", ""],
            ["--from", "٣"],
        ],
    )
    def test_bad_argument(self, arguments: Sequence[str], recording: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A number that is none, an empty range, a kind that there is not."""
        assert main(["dump", recording, *arguments]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert streams.err.startswith("kvm-replay: KVR001 bad usage: ")


class TestChosen:
    """Choosing rows of a run is choosing events."""

    def test_equals_choosing_events(self) -> None:
        """For each range, kind and VM the chosen rows are those of the event objects."""
        hot: list[Event] = [WriteTrackAdd(vm=n % 2, gfn=Gfn(n), task=Task(1, 1)) for n in range(5)]
        events = [*hot, *boot(), *hot]
        assert list(events_of(items_of(events))) == events
        cases = 0
        for first in (0, 3, 7, 99):
            for last in (None, 0, 4, 12, 99):
                for codes in (None, frozenset({WriteTrackAdd.CODE}), frozenset({Mark.CODE})):
                    for vm in (None, 0, 1):
                        wanted = [
                            (n, event)
                            for n, event in enumerate(events)
                            if first <= n <= (99 if last is None else last)
                            and (codes is None or event.CODE in codes)
                            and (vm is None or getattr(event, "vm", None) == vm)
                        ]
                        assert list(chosen(items_of(events), first=first, last=last, codes=codes, vm=vm)) == wanted
                        cases += 1
        assert cases == 180


class TestSeek:
    """A part of a recording of many blocks is read without the rest, and is the same part."""

    def test_slices(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Every slice, in each form, is that of the whole dump, times included; what lies before it is not read."""
        path = tmp_path / "many.kvmr"
        events = [*boot(), *(Mark(text=str(number)) for number in range(30))]
        with Writer(path, HEADER) as writer:
            for start in range(0, len(events), 6):
                for item in items_of(events[start : start + 6]):
                    writer.write(item)
                writer.flush()
            writer.finish(Trailer())
        for form in ("text", "jsonl"):
            assert main(["dump", str(path), "--format", form]) == 0
            lines = capsys.readouterr().out.splitlines()
            assert len(lines) == len(events)
            for first, last in [(at, at + 3) for at in range(0, len(lines), 2)] + [(0, 43), (43, 10**9)]:
                assert main(["dump", str(path), "--format", form, "--from", str(first), "--to", str(last)]) == 0
                assert capsys.readouterr().out.splitlines() == lines[first : last + 1]
        assert main(["dump", str(path), "--from", "44"]) == 0
        assert capsys.readouterr().err == "kvm-replay: no event was chosen\n"

    def test_damage_before(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Damage inside a block that is passed over does not hinder, and in one that is read it is an error."""
        path = write_kvmr(tmp_path / "many.kvmr", [Mark(text=str(number)) for number in range(3 * 16384)])
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
        slices = {first: ["dump", str(path), "--format", "jsonl", "--from", first, "--to", first] for first in ("20000", "7")}
        assert main(slices["20000"]) == 0
        assert json.loads(capsys.readouterr().out) == {"number": 20000, "event": "mark", "text": "20000"}
        assert main(slices["7"]) == 2
