"""Results as test cases: KTAP is read back by a reader of its grammar, workflow commands by the rules of their escapes."""

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from ktap_reader import KtapError, Result, read_ktap

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.analyses.golden_report import STATES, GoldenDetail, GoldenDifference, GoldenFile, golden_report
from replay.engine.lanes import make_lanes
from replay.events import MemslotSet, VmCreate
from replay.header import Counter, Header, Machine, Trailer
from replay.recording import open_recording
from replay.report.cases import Case, Detail, Suite, check_suite, compare_suite, golden_suite
from replay.report.github import ANNOTATIONS_MAX, github_lines
from replay.report.ktap import ktap_lines
from replay.stream import MemoryStream
from replay.units import Hva

RECORDINGS = Path(__file__).resolve().parent.parent.parent / "recordings"
COMMAND = re.compile(r"::(error|warning) ([^:]*)::(.*)")


def ktap(suite: Suite) -> list[Result]:
    """Return a suite as KTAP gives it."""
    return read_ktap(list(ktap_lines(suite)))


def compared(name: str, lanes: str) -> Suite:
    """Return the comparison of a recording of the catalogue."""
    with open_recording(str(RECORDINGS / "catalogue" / name)) as stream:
        return compare_suite(compare(stream, make_lanes(lanes.split(","), stream.header.machine)), name)


def checked(name: str, policy: str | None = None) -> Suite:
    """Return the check of a kernel's recording."""
    with open_recording(str(RECORDINGS / "kernel" / name)) as stream:
        return check_suite(check(stream, policy=policy), name)


def lossy() -> MemoryStream:
    """Return a recording that lost something."""
    events = [VmCreate(vm=0, ret=3), MemslotSet(vm=0, memory_size=4096, userspace_addr=Hva(4096), ret=0)]
    machine = Machine(kernel_release="6.12.0", config_external_write_tracking=False, tdp=True)
    counters = (Counter(kind="overrun", count=2, severity="lost"),)
    return MemoryStream(Header(machine=machine), events, Trailer(events=2, counters=counters))


def file(state: str, **fields: Any) -> GoldenFile:
    """Return a golden file in a state."""
    return attrs.evolve(GoldenFile(golden="a.golden", recording="a", state=state), **fields)


class TestKtap:
    """What kernel tooling reads."""

    def test_compare(self) -> None:
        """A pair of lanes is a test: ok when they agree, not ok with counts by class when they do not."""
        results = ktap(compared("D08-partial-register.jsonl", "eager,on-demand,6.8"))
        assert [(result.ok, result.description) for result in results] == [
            (False, "on-demand against eager"),
            (True, "6.8 against eager"),
        ]
        assert results[0].data == "bytes-only 3, enomem-new 1"
        assert any("event 5 notifier.register: enomem-new, D8" in line for line in results[0].diagnostics)

    def test_check(self) -> None:
        """A kind of fact is a test; what contradicts stands before its own."""
        results = ktap(checked("6.12-npt1/04-register.kvmr"))
        assert len(results) == 6
        assert all(result.ok for result in results)
        wrong = [result for result in ktap(checked("6.12-npt1/04-register.kvmr", "eager")) if not result.ok]
        assert [(result.description, result.data) for result in wrong] == [
            ("VM state", "5 of 42 contradict the model"),
            ("allocations by site", "9 of 19 contradict the model"),
            ("slot arrays", "5 of 108 contradict the model"),
        ]
        assert sum(line.startswith("event ") for result in wrong for line in result.diagnostics) == 19

    def test_cannot_tell(self) -> None:
        """Cannot tell is skipped, with the reason, not ok and not a failure."""
        for suite in (
            compare_suite(compare(lossy(), make_lanes(["eager", "on-demand"], lossy().header.machine)), "x"),
            check_suite(check(lossy()), "x"),
        ):
            result = ktap(suite)[0]
            assert (result.ok, result.directive) == (True, "SKIP")

    def test_golden(self) -> None:
        """A golden file is a test; each state has its outcome, trouble is an ERROR."""
        files = [file(state, trouble="what #1 is wrong" if state in {"missing", "trouble"} else "") for state in STATES]
        results = ktap(golden_suite(golden_report(files)))
        assert {state: (result.ok, result.directive) for state, result in zip(STATES, results, strict=True)} == {
            "same": (True, ""),
            "differs": (False, ""),
            "missing": (False, ""),
            "unused": (False, ""),
            "trouble": (False, "ERROR"),
            "written": (True, ""),
            "kept": (True, ""),
        }

    def test_hostile_names(self) -> None:
        """Hashes, line ends and controls in names and texts break no line."""
        case = Case("a # b\nnot ok 2\x1b", "failed", "x # y\nz", (Detail("d\n1..7", ("not ok 9\nok 1",)),))
        (result,) = ktap(Suite("s\nKTAP version 1", (case,), "t"))
        assert (result.ok, result.description) == (False, r"a _ b\nnot ok 2\x1b")
        assert len(result.diagnostics) == 3

    @pytest.mark.parametrize(
        "lines",
        [
            [],
            ["1..1", "ok 1"],
            ["KTAP version 1", "1..2", "ok 1 a"],
            ["KTAP version 1", "1..1", "ok 2 a"],
            ["KTAP version 1", "1..1", "  KTAP version 1", "  1..2", "  ok 1 b", "ok 1 a"],
        ],
    )
    def test_reader_refuses(self, lines: list[str]) -> None:
        """The reader can say no."""
        with pytest.raises(KtapError):
            read_ktap(lines)

    def test_reader_nests(self) -> None:
        """The reader knows the whole grammar: subtests, directives, unknown lines, no plan."""
        lines = ["KTAP version 1", "  KTAP version 1", "  1..1", "  ok 1 in # SKIP no cpu", "hello", "not ok 1 out # rc=1"]
        (result,) = read_ktap(lines)
        assert (result.ok, result.description, result.data) == (False, "out", "rc=1")
        assert [(sub.description, sub.directive, sub.data) for sub in result.subtests] == [("in", "SKIP", "no cpu")]


class TestGithub:
    """What a forge annotates."""

    def test_golden(self) -> None:
        """Each place that differs is an error at its line of the golden file; a plain line sums up."""
        detail = GoldenDetail(what="eager", before="100%, a:b", after="c")
        difference = GoldenDifference(question="check:", place="event 1", event=1, line=7, details=(detail,))
        report = golden_report([file("differs", differences=(difference,), difference_count=1), file("same")])
        command, plain = github_lines(golden_suite(report))
        found = COMMAND.fullmatch(command)
        assert found is not None
        assert found.group(1, 2) == ("error", "file=a.golden,line=7,title=a.golden")
        message = found.group(3).replace("%0A", "\n").replace("%25", "%")
        assert message == "check: event 1 (line 7)\n  eager  before  100%, a:b\n         after   c"
        assert plain == "golden files: 2 golden files: 1 same, 1 differs"

    def test_levels(self) -> None:
        """What can not be told is a warning, what differs an error; what passed is not annotated."""
        commands = [COMMAND.match(line) for line in github_lines(compared("D08-partial-register.jsonl", "eager,on-demand,6.8"))]
        assert [found.group(1) for found in commands if found] == ["error"] * 4
        (warning, _plain) = github_lines(check_suite(check(lossy()), "x:y,z"))
        found = COMMAND.fullmatch(warning)
        assert found is not None
        assert found.group(1, 2) == ("warning", "title=x%3Ay%2Cz%3A the recording says enough")

    def test_no_more_than_are_kept(self) -> None:
        """Ten annotations of a level, as many as are kept; the plain line counts the others."""
        details = tuple(Detail(f"d{index}") for index in range(15))
        lines = list(github_lines(Suite("s", (Case("c", "failed", "", details, 5), Case("e", "skipped", "why")), "t")))
        assert len([line for line in lines if line.startswith("::error ")]) == ANNOTATIONS_MAX
        assert len([line for line in lines if line.startswith("::warning ")]) == 1
        assert lines[-1] == "s: t; 10 more are not annotated"
