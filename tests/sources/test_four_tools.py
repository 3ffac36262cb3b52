"""One workload through four sources, a run each: where they saw the same, the reports are the same to the byte."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from replay.cli import main
from replay.events import Event, MemslotSet, ShadowPageAccount, ShadowPageUnaccount
from replay.runs import events_of
from replay.sources import open_stream

DATA = Path(__file__).resolve().parent.parent / "data" / "four"
WHOLE = {
    "bpftrace": ("bpftrace.txt",),
    "tracefs": ("tracefs.strace.txt", "tracefs.txt"),
    "perf": ("perf.strace.txt", "perf.txt"),
    "trace-cmd -R": ("trace-cmd.strace.txt", "trace-cmd-R.txt"),
    "trace-cmd -N": ("trace-cmd.strace.txt", "trace-cmd-N.txt"),
}
"""Sources that show the structs of calls, results, shadow pages and lives."""
NO_STRUCTS = {"perf": ("perf.txt",), "trace-cmd -R": ("trace-cmd-R.txt",), "trace-cmd -N": ("trace-cmd-N.txt",)}
"""Those that show results and shadow pages."""
CALLS = {name: (name,) for name in ("tracefs.strace.txt", "perf.strace.txt", "trace-cmd.strace.txt")}
"""Those that show calls."""
PROFILES = {"release=6.12,config=y,tdp=0": 0, "release=6.12,config=y,tdp=1": 3, "release=6.5,config=n,tdp=0": 0}
"""Profiles with the status of compare: no text says whether tdp was off, so that shadow roots with tdp on are in doubt."""
TDP_OFF = next(iter(PROFILES))
NAMED = re.compile(r'"(?:place|pid|tid)": .*')
"""What differs by itself: lines of files, numbers of processes."""


def report(names: Sequence[str], capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return status and report of a compare of some files."""
    status = main(["compare", *[str(DATA / name) for name in names], *words])
    return status, capsys.readouterr().out


@cache
def events(names: tuple[str, ...]) -> tuple[Event, ...]:
    """Return what a run's files give."""
    return tuple(events_of(open_stream([str(DATA / name) for name in names]).items()))


class TestReports:
    """What the lanes make of it."""

    @pytest.mark.parametrize("profile", PROFILES)
    @pytest.mark.parametrize("form", ["text", "json"])
    def test_whole(self, profile: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Five readings of four runs: counters, findings, bytes and words are equal; in JSON but for places and processes."""
        words = ("--profile", profile, "--lanes", "eager,on-demand,v1", "--format", form)
        found = {report(names, capsys, *words) for names in WHOLE.values()}
        statuses, texts = {status for status, _ in found}, {NAMED.sub("", text) for _, text in found}
        assert statuses == {PROFILES[profile]}
        assert len(texts) == 1
        assert all(len(text) > 1000 for text in texts)

    def test_without_structs(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Perf and trace-cmd by themselves are equal, and nobody can tell: they have no argument of a memslot call."""
        found = {report(names, capsys, "--profile", TDP_OFF) for names in NO_STRUCTS.values()}
        assert len(found) == 1
        ((status, text),) = found
        assert status == 3
        assert "13 x KVM_SET_USER_MEMORY_REGION with arguments that the recorder did not show" in text
        assert "126 x write tracking of gfns without a memslot" in text

    def test_calls_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The calls by strace are equal in three runs, and differ from the whole in what strace does not see: pages."""
        found = {report(names, capsys, "--profile", TDP_OFF) for names in CALLS.values()}
        assert len(found) == 1
        ((status, text),) = found
        whole = report(WHOLE["bpftrace"], capsys, "--profile", TDP_OFF)
        assert (status, whole[0]) == (0, 0)
        assert "143 events, 1 VM" in whole[1]
        assert "16 events, 1 VM" in text
        table = "write tracking (gfn_write_track)"
        assert text.partition(table)[2].partition("lanes\n")[0] == whole[1].partition(table)[2].partition("lanes\n")[0]


class TestEvents:
    """What is in the recordings."""

    def test_pages(self) -> None:
        """The same pages come and go in the same order, with their levels."""
        found = {
            tuple(
                (event.KIND, event.vm, event.as_id, event.gfn, event.level, event.nested)
                for event in events(names)
                if isinstance(event, ShadowPageAccount | ShadowPageUnaccount)
            )
            for names in (*WHOLE.values(), *NO_STRUCTS.values())
        }
        assert [len(pages) for pages in found] == [126]

    def test_calls(self) -> None:
        """The same memslot calls have the same arguments, but for host addresses, and results."""
        found = {
            tuple(
                (event.slot, event.flags, event.guest_phys_addr, event.memory_size, event.ret)
                for event in events(names)
                if isinstance(event, MemslotSet)
            )
            for names in (*WHOLE.values(), *CALLS.values())
        }
        assert [len(calls) for calls in found] == [13]

    @pytest.mark.parametrize("name", WHOLE)
    def test_nothing_missing(self, name: str) -> None:
        """Nothing is lost or not understood, and each kind of event is there as often as in any other."""
        stream = open_stream([str(DATA / file) for file in WHOLE[name]])
        kinds = [event.KIND for event in events_of(stream.items())]
        assert stream.trailer().total("lost") == stream.trailer().total("unknown") == 0
        assert len(kinds) == 143
        assert {kind: kinds.count(kind) for kind in kinds} == {
            "vm.create": 1,
            "memslot.set": 13,
            "vcpu.create": 1,
            "shadow_root.alloc": 1,
            "shadow_page.account": 63,
            "shadow_page.unaccount": 63,
            "vm.destroy": 1,
        }

    @pytest.mark.parametrize("name", WHOLE)
    def test_a_line_less(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Without the line of one zap the report is another: equality is not for want of looking."""
        paths = [tmp_path / file for file in WHOLE[name]]
        for path in paths:
            text = (DATA / path.name).read_text().split("\n")
            zaps = [place for place, line in enumerate(text) if "prepare_zap_page" in line or " ZAP " in line]
            path.write_text("\n".join(line for place, line in enumerate(text) if place not in zaps[5:6]))
        main(["compare", *map(str, paths), "--profile", TDP_OFF])
        damaged = capsys.readouterr().out
        assert damaged != report(WHOLE[name], capsys, "--profile", TDP_OFF)[1]
