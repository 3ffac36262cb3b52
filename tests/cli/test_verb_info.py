"""Promises of `kvm-replay info`."""

import json
from pathlib import Path

import attrs
import pytest
from cli_samples import HEADER, boot, write_jsonl, write_kvmr

from replay.cli import main
from replay.events import Opaque, VmCreate
from replay.header import Counter, Header, Trailer

TEXT = """\
boot of a small guest
  machine      kernel_release=6.8.0 tdp=n page_size_bytes=4096
  clock        realtime; 2.000000 s from first to last event
  recorded by  strace 6.1
  read from    strace.txt (strace)
  start        before the first VM was created
14 events; 1 VM, 2 threads of 1 process
  vm.create              1
  vm.destroy             1
  vcpu.create            1
  memslot.set            5
  lost                   1
  write_track.add        1
  guest_write            1
  shadow_page.account    2
  shadow_page.unaccount  1
memslot calls
  VM   calls  create  delete  move  flags only  unchanged  failed  unknown  slots peak  memory peak
  all      5       2       1     0           1          0       1        0           2        4 GiB
write tracking
  write-track adds      2  1 external, the rest shadow pages of level 2 and up
  write-track removes   1  0 external
  shadow pages created  2  of any level
  shadow pages zapped   1
3 lost, 0 unknown, 7 ignored
  lost     3  ring buffer overrun  first at ftrace.txt:9
  ignored  7  ioctl KVM_RUN        first at strace.txt:12
"""


class TestText:
    """The text says what the recording holds."""

    def test_whole_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The report of a small boot, word for word; nothing is on standard error."""
        assert main(["info", str(write_kvmr(tmp_path / "boot.kvmr"))]) == 0
        streams = capsys.readouterr()
        assert streams.out == TEXT
        assert streams.err == ""

    def test_same_from_json_lines(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Both forms of a recording give the same report."""
        for path in (write_kvmr(tmp_path / "boot.kvmr"), write_jsonl(tmp_path / "boot.jsonl")):
            assert main(["info", str(path)]) == 0
        whole = capsys.readouterr().out
        assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]

    def test_color(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Colour adds sequences and changes no word."""
        path = str(write_kvmr(tmp_path / "boot.kvmr"))
        assert main(["info", path]) == main(["info", path, "--color", "always"]) == 0
        whole = capsys.readouterr().out
        plain, colored = whole[: whole.index("\x1b")], whole[whole.index("\x1b") :]
        assert colored.replace("\x1b[1m", "").replace("\x1b[0m", "") == plain

    def test_empty_and_unknown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A recording of nothing is said to be one."""
        path = write_kvmr(tmp_path / "empty.kvmr", [], Header(complete_start=False), Trailer())
        assert main(["info", str(path)]) == 0
        said = capsys.readouterr().out
        for words in (
            "untitled recording",
            "no event has a time",
            "VMs were alive already",
            "0 events; 0 VMs, 0 threads of 0 processes",
        ):
            assert words in said
        assert said.endswith("no memslot calls\nno write tracking recorded\nnothing lost, unknown or ignored\n")

    @pytest.mark.parametrize("data", [b"\0\1\xff rubbish\n", b"\x1f\x8b\x08\0 cut", b""])
    def test_broken_file_of_a_folder(self, data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Of a folder the file that can not be read is named by a path that leads to it."""
        folder = tmp_path / "traces"
        folder.mkdir()
        (folder / "broken.txt").write_bytes(data)
        assert main(["info", str(folder)]) == 2
        assert f": {folder / 'broken.txt'}: " in capsys.readouterr().err

    def test_calls_without_arguments(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Calls whose arguments are not recorded are named: a memslot call may be among them."""
        opaque = Opaque(vm=0, name="KVM_SET_USER_MEMORY_REGION2", cmd=0x40A0AE49, ret=0)
        path = str(write_kvmr(tmp_path / "boot.kvmr", [VmCreate(vm=0, ret=4), opaque, opaque]))
        assert main(["info", path]) == main(["info", "--format", "json", path]) == 0
        said, _brace, document = capsys.readouterr().out.partition("{")
        assert "  opaque     2  without arguments: KVM_SET_USER_MEMORY_REGION2 2\n" in said
        assert "\nno memslot calls, but for those whose arguments are not recorded\n" in said
        assert json.loads("{" + document)["opaque"] == [{"kind": "KVM_SET_USER_MEMORY_REGION2", "count": 2}]

    def test_hostile_names(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Names in a recording can not command the terminal."""
        header = attrs.evolve(HEADER, title="a\x1b[2J\nb", provenance="c\x07")
        trailer = Trailer(counters=(Counter(kind="d\x1b", count=1, first="e\x1b"),))
        assert main(["info", str(write_kvmr(tmp_path / "boot.kvmr", boot(), header, trailer))]) == 0
        said = capsys.readouterr().out
        assert all(char.isprintable() or char == "\n" for char in said)
        assert said.startswith("a\\x1b[2J\\nb\n")


class TestJson:
    """The JSON has the same facts under stable names."""

    def test_document(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """One document with its schema's name first."""
        assert main(["info", "--format", "json", str(write_kvmr(tmp_path / "boot.kvmr"))]) == 0
        found = json.loads(capsys.readouterr().out)
        assert next(iter(found)) == "schema"
        assert (found["schema"], found["events"], found["vms"], found["lost"], found["slots_peak"]) == (
            "kvm-replay/info/1",
            14,
            1,
            3,
            2,
        )
        changes = {"create": 2, "delete": 1, "move": 0, "flags_only": 1, "unchanged": 0, "failed": 1, "unknown": 0}
        assert found["memslot_changes"] == found["by_vm"][0]["memslot_changes"]
        assert {name: found["memslot_changes"][name] for name in changes} == changes
        assert (found["tracking"]["adds"], found["tracking"]["removes"], found["tracking"]["shadow_pages_created"]) == (2, 1, 2)
        assert found["memory_peak_bytes"] == 2 * 0x80000000

    def test_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With jsonl it is the same document on one line."""
        path = str(write_kvmr(tmp_path / "boot.kvmr"))
        assert main(["info", "--format", "json", path]) == main(["info", "--format", "jsonl", path]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert json.loads("\n".join(lines[:-1])) == json.loads(lines[-1])
