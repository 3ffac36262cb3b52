"""Promises of the importer of slotprobe results: what it takes, what lies beside it, and what it refuses."""

from pathlib import Path

import pytest

from replay.errors import KvmReplayError, TraceSyntaxError
from replay.header import Machine
from replay.runs import events_of
from replay.sources import open_stream
from replay.sources.lab import LabImport, config_of, is_lab, open_lab, with_facts
from replay.sources.lab_numbers import Rams, number_of

CONFIG = """\
kvm  kvm_amd npt=1
tdp_mmu=Y
npt=Y
avic=N
{"n":1,"op":"info","ret":0,"err":"0","kvm":{},"info":{"new_api":0,"config_external_write_tracking":1}}
"""
LINE = '{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{},"us":3}\n'


def read(text: str) -> int:
    """Import a text and return how many events it gives."""
    return len(list(events_of(LabImport("x.out", text.splitlines(), Machine()).items())))


class TestFiles:
    """A result is known by its first line, and its machine by what lies beside it or by the caller."""

    @pytest.mark.parametrize(
        ("head", "expected"),
        [
            (LINE.encode(), True),
            (b"\n" + LINE.encode(), True),
            (b'{"kind":"header","schema":1}', False),
            (b'{"n":1,"op":"vm v"}', False),
            (b"", False),
            (b"100 1.0 ioctl(3, KVM_CREATE_VM, 0) = 4", False),
        ],
    )
    def test_detection(self, head: bytes, expected: bool) -> None:
        """Only the JSON of slotprobe is taken."""
        assert is_lab(head) is expected

    def test_registered(self, tmp_path: Path) -> None:
        """Every verb can read a result: it is recognised by its content, whatever it is called."""
        (tmp_path / "any.name").write_text(LINE)
        stream = open_stream([str(tmp_path / "any.name")])
        assert len(list(events_of(stream.items()))) == 2
        assert [source.format for source in stream.header.sources] == ["lab"]

    def test_config_beside_it(self, tmp_path: Path) -> None:
        """`_config.out` tells paging and CONFIG; the release comes from nowhere but the caller."""
        (tmp_path / "_config.out").write_text(CONFIG)
        path = tmp_path / "6.12-case.out"
        path.write_text(LINE)
        machine = open_lab(str(path)).header.machine
        assert (machine.tdp, machine.tdp_mmu, machine.vendor, machine.avic) == (True, True, "amd", False)
        assert machine.config_external_write_tracking is True
        assert machine.kernel_release is None
        assert open_lab(str(path), Machine(kernel_release="6.1", tdp=False)).header.machine.tdp is False

    def test_script_beside_it(self, tmp_path: Path) -> None:
        """The script of the same name tells what the probe was doing when it was killed."""
        (tmp_path / "a.out").write_text(LINE + '{"exit":137}\n')
        (tmp_path / "a.script").write_text("vm v\nclose v\n")
        stream = open_lab(str(tmp_path / "a.out"))
        list(stream.items())
        assert "'close v'" in stream.warnings()[0]

    @pytest.mark.parametrize(
        ("text", "tdp", "tdp_mmu"),
        [
            ("npt=Y\ntdp_mmu=Y", True, True),
            ("npt=Y\ntdp_mmu=N", True, False),
            ("npt=N\ntdp_mmu=Y", False, False),
            ("", None, None),
        ],
    )
    def test_paging(self, text: str, tdp: bool | None, tdp_mmu: bool | None) -> None:
        """The TDP MMU is in use only with tdp, whatever the parameter says."""
        machine = config_of(text)
        assert (machine.tdp, machine.tdp_mmu) == (tdp, tdp_mmu)
        assert (machine.vendor == "amd") is (tdp is not None)

    def test_config(self) -> None:
        """The module says whether CONFIG_KVM_EXTERNAL_WRITE_TRACKING is set."""
        assert config_of(CONFIG).config_external_write_tracking is True
        assert config_of(CONFIG.replace('tracking":1', 'tracking":0')).config_external_write_tracking is False
        assert config_of("").config_external_write_tracking is None

    def test_facts_are_added_not_replaced(self) -> None:
        """Facts of the caller stand above those of the file."""
        both = with_facts(Machine(tdp=False), Machine(tdp=True, smm=True))
        assert (both.tdp, both.smm) == (False, True)


class TestNumbers:
    """Numbers are read as slotprobe reads them."""

    @pytest.mark.parametrize(
        ("word", "value"),
        [
            ("0x10", 16),
            ("010", 8),
            ("2P", 8192),
            ("1T", 1 << 40),
            ("1G-4K", (1 << 30) - 4096),
            ("0xffffffffffffffff", (1 << 64) - 1),
            ("0x10000000000000P", 0),
            ("4K-8K", (1 << 64) - 4096),
        ],
    )
    def test_value(self, word: str, value: int) -> None:
        """Suffixes and sums, modulo 2^64."""
        assert number_of(word, Rams(), "") == value

    @pytest.mark.parametrize("word", ["", "1X", "0x", "-1", "r", "r+1", "1+", "9" * 201, "1 2", "0x11111111111111111"])
    def test_no_value(self, word: str) -> None:
        """Anything else is refused."""
        with pytest.raises(TraceSyntaxError):
            number_of(word, Rams(), "x.out:1")


GOOD = '"n":1,"ret":0,"err":"0","kvm":{}'
BAD_LINES = (
    "not json",
    "[1]",
    "{}",
    "{" * 5000,
    '{"op":"vm v","ret":0,"err":"0","kvm":{}}',
    '{"n":-1,"op":"vm v","ret":0,"err":"0","kvm":{}}',
    '{"n":true,"op":"vm v","ret":0,"err":"0","kvm":{}}',
    '{"n":1,"op":"","ret":0,"err":"0","kvm":{}}',
    f'{{"op":"{"a " * 30}",{GOOD}}}',
    '{"n":1,"op":"vm v","ret":"0","err":"0","kvm":{}}',
    '{"n":1,"op":"vm v","ret":0,"err":7,"kvm":{}}',
    '{"n":1,"op":"vm v","ret":0,"err":"0","kvm":[]}',
    '{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{"f":[1,2,3]}}',
    '{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{"f":[1,2,3,-4]}}',
    '{"n":1,"op":"vm v","ret":0,"err":"0","kvm":{"":[1,2,3,4]}}',
    f'{{"op":"vm",{GOOD}}}',
    f'{{"op":"slots v 0 3 0 1M 0","made":4,{GOOD}}}',
    f'{{"op":"slots v 0 99999999999 0 1M 0",{GOOD}}}',
    f'{{"op":"addn v 0 3","done":"x",{GOOD}}}',
    f'{{"op":"slot v 0 0 0 1M nowhere",{GOOD}}}',
    f'{{"op":"slot v 0 0",{GOOD}}}',
    f'{{"op":"child child child child child child vm w",{GOOD}}}',
    f'{{"op":"par a ;; b","par":7,{GOOD}}}',
    f'{{"op":"par a ;; b","par":[7],{GOOD}}}',
    f'{{"op":"cgstat g",{GOOD}}}',
    f'{{"op":"dump v","dump":[],{GOOD}}}',
    f'{{"op":"dump v","dump":{{"slots":[7]}},{GOOD}}}',
    f'{{"op":"dump v","dump":{{"slots":[{{"as":0}}]}},{GOOD}}}',
    f'{{"op":"dump v","dump":{{"slots":[],"vm_bugged":2}},{GOOD}}}',
    f'{{"op":"g v nop","trace":{{}},{GOOD}}}',
    '{"exit":"a"}',
)


class TestBadLines:
    """A line that slotprobe would not print is refused with its place, never with a traceback."""

    @pytest.mark.parametrize("text", BAD_LINES, ids=lambda text: text[:40])
    def test_refused(self, text: str) -> None:
        """The complaint names file and line."""
        with pytest.raises(TraceSyntaxError, match=r"x\.out:2"):
            read(LINE + text + "\n" + LINE)

    def test_unknown_operation_is_counted(self) -> None:
        """An operation of a newer slotprobe is counted, not guessed."""
        stream = LabImport("x.out", [f'{{"op":"teleport v",{GOOD}}}'], Machine())
        assert len(list(stream.items())) == 1
        assert [(c.severity, c.kind) for c in stream.trailer().counters] == [("unknown", "operation not known: teleport")]

    @pytest.mark.parametrize("position", range(0, 400, 7))
    def test_damage(self, position: int) -> None:
        """A byte that changed gives events or a complaint, nothing else."""
        text = LINE + f'{{"op":"slots v 0 3 0 1M 4G","made":3,{GOOD}}}\n' + f'{{"op":"add v 1",{GOOD}}}\n' + '{"exit":0}\n'
        position %= len(text)
        for char in ('"', "9", "-", "{", "x"):
            try:
                events = read(text[:position] + char + text[position + 1 :])
            except KvmReplayError as error:
                place = str(error)
            else:
                place = f"x.out, {events} events"
            assert place.startswith("x.out")
