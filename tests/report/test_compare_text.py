"""Promises of the text of `compare`: the verdict first, each thing said once, long lists cut, nothing a terminal obeys."""

from collections.abc import Sequence

import attrs
import pytest
from lane_samples import CREATE, items, machine, slot

from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport, PairReport
from replay.analyses.findings import CLASSES, Agreement, ClassCount, Finding, Side, Uncertainty
from replay.engine.lanes import make_lanes
from replay.events import AllocFail, Event, Lost, NotifierRegister, Opaque, VmDestroy, WriteTrackAdd
from replay.header import Header
from replay.report.compare_text import compare_text
from replay.report.finding_text import FINDINGS_SHOWN, WIDTH, agreements_text, pair_text, wrapped
from replay.report.paint import Paint
from replay.stream import MemoryStream
from replay.units import Gfn

REGISTER = NotifierRegister(vm=0, ret=0)
STORY: Sequence[Event] = (
    CREATE,
    slot(ret=0),
    slot(1, ret=0),
    WriteTrackAdd(vm=0, gfn=Gfn(1), ret=0),
    slot(2, ret=0),
    VmDestroy(vm=0),
)


def report_of(events: Sequence[Event], title: str = "a story") -> CompareReport:
    """Compare events under the two usual lanes."""
    header = Header(title=title, machine=machine())
    return compare(MemoryStream(header, items(*events)), make_lanes(["eager", "on-demand"], header.machine))


def text_of(events: Sequence[Event], title: str = "a story") -> list[str]:
    """Return the lines of the report."""
    return list(compare_text(report_of(events, title)))


class TestOrder:
    """What matters comes first."""

    def test_calls_without_arguments(self) -> None:
        """What the recording never shows is not claimed of calls whose arguments are not recorded."""
        opaque = Opaque(vm=0, name="KVM_SET_USER_MEMORY_REGION2", cmd=0x40A0AE49, ret=0)
        lines = text_of([CREATE, opaque])
        place = lines.index("what the recording shows")
        assert lines[place + 1] == "  calls whose arguments were not recorded 1"
        assert lines[place + 2].startswith("  never, those calls aside: memslot calls, ")
        assert not [line for line in text_of([CREATE]) if "those calls aside" in line]

    def test_head(self) -> None:
        """Verdict and strongest class, then the sentence, then what was replayed."""
        lines = text_of(STORY)
        assert lines[0] == "verdict: divergence, state-differs"
        assert lines[1].startswith("  eager and on-demand: state-differs ")
        assert "  recording: a story; 6 events, 1 VM" in lines[:6]

    def test_sections(self) -> None:
        """Divergences, then memory, then where failures come from, then what all of it rests on."""
        titles = [line for line in text_of(STORY) if line and not line.startswith(" ")]
        assert titles == [
            "verdict: divergence, state-differs",
            "on-demand against eager",
            "write tracking (gfn_write_track)",
            "where -ENOMEM can come from",
            "lanes",
            "what the recording shows",
        ]

    def test_strongest_first(self) -> None:
        """Groups come by class, the strongest first, and what lies behind the horizon last."""
        groups = [line for line in text_of(STORY) if line.startswith("  D")]
        words = ["(state-differs)", "(result-differs)", "(bytes-only", "behind the horizon)"]
        assert len(groups) == 4
        assert [word in group for word, group in zip(words, groups, strict=True)] == [True] * 4

    def test_doubts_before_findings(self) -> None:
        """What keeps the answer from being certain stands right after the verdict."""
        lines = text_of([*STORY[:2], Lost(what="a gap", count=5)])
        assert lines[0] == "verdict: cannot tell"
        titles = [line for line in lines if line and not line.startswith(" ")]
        assert titles[1:3] == ["what keeps the answer from being certain", "on-demand against eager"]
        assert "  5 x events are lost: a gap (first at event 2)" in lines
        assert "    -> record again with larger buffers" in lines


class TestBrevity:
    """Nothing is said twice, and long lists are cut."""

    def test_explanations_once(self) -> None:
        """An explanation that two groups share stands at the first of them."""
        text = " ".join(" ".join(text_of(STORY)).split())
        assert text.count("KVM_BUG_ON marks the VM dead") == 1
        assert text.count("D11 tracking without a registration kills the VM") == 2

    @pytest.mark.parametrize("count", [1, FINDINGS_SHOWN, FINDINGS_SHOWN + 3])
    def test_many_findings(self, count: int) -> None:
        """More findings of one kind than a screen takes are summed up."""
        lines = text_of([CREATE, *(slot(number, ret=0) for number in range(count))])
        rows = [line for line in lines if line.startswith("    vm 0 slot ")]
        assert len(rows) == min(count, FINDINGS_SHOWN)
        more = [line for line in lines if "--format json has them all" in line]
        assert more == (["    and 3 more, 96 B in all; --format json has them all"] if count > FINDINGS_SHOWN else [])

    def test_many_doubts(self) -> None:
        """So are doubts."""
        lines = text_of([CREATE, *(Lost(what=f"gap {number}") for number in range(FINDINGS_SHOWN + 2))])
        assert len([line for line in lines if line.startswith("  events are lost: ")]) == FINDINGS_SHOWN
        assert "  and 2 more; --format json has them all" in lines

    def test_findings_that_are_not_kept(self) -> None:
        """What was only counted is said to be."""
        pair = PairReport(reference="a", other="b", strongest="bytes-only", findings_omitted=7)
        pair = attrs.evolve(pair, classes=(ClassCount(divergence="bytes-only", count=7, first_event=1),))
        assert list(pair_text(pair, Paint()))[-1] == "  7 more findings are counted above and not kept"

    def test_no_line_is_longer_than_it_must_be(self) -> None:
        """Sentences are broken at 110 columns; only tables are as wide as they are."""
        failing = [CREATE, slot(ret=0), AllocFail(site="kvm_page_track_register_notifier"), attrs.evolve(REGISTER, ret=-12)]
        for line in (*text_of(STORY), *text_of(failing)):
            assert len(line) <= WIDTH or "  " in line.strip() or "(bytes-only" in line


class TestWords:
    """Numbers and names are those of kernel people."""

    def test_finding(self) -> None:
        """A tracking event shows its gfn in hexadecimal, a memslot its gfns."""
        lines = text_of(STORY)
        assert "    event 3  write_track.add  vm 0  gfn 0x1" in lines
        assert any(line.startswith("    vm 0 slot 1 as 0  0x100-0x10f ") for line in lines)

    def test_same(self) -> None:
        """Lanes that do not differ say so in one line."""
        lines = text_of([CREATE, attrs.evolve(REGISTER), slot(ret=0)])
        assert lines[0] == "verdict: same"
        place = lines.index("on-demand against eager")
        assert lines[place + 1] == "  no divergence"

    @pytest.mark.parametrize(
        ("count", "first", "words"),
        [(1, None, "D26 t: x"), (1, 4, "D26 t (event 4): x"), (30, 4, "D26 t (30 times, first at event 4): x")],
    )
    def test_agreements(self, count: int, first: int | None, words: str) -> None:
        """An agreement says how often it was seen, and where first."""
        found = Agreement(catalogue="D26", count=count, first_event=first, title="t", text="x", source="s")
        assert list(agreements_text([found], Paint()))[2:] == [f"  {words}", "    source: s"]
        assert list(agreements_text([], Paint())) == []

    def test_hostile_text(self) -> None:
        """Titles and reasons from a recording can not command the terminal."""
        lines = text_of([CREATE, Lost(what="gap\x1b[2J\nverdict: same")], title="a\x1b]0;x\x07")
        assert all(line.isprintable() for line in lines)
        assert lines[0] == "verdict: cannot tell"
        assert any("a\\x1b]0;x\\x07" in line for line in lines)

    def test_wrapping(self) -> None:
        """Words keep their hyphens, and an arrow stands at its first line only."""
        assert wrapped("-ENOMEM " * 30, "  -> ")[0].startswith("  -> -ENOMEM")
        assert all(line.startswith("     -ENOMEM") for line in wrapped("-ENOMEM " * 30, "  -> ")[1:])

    def test_every_class_can_be_shown(self) -> None:
        """A finding of each class has its lines: sides, cause, visibility, end."""
        sides = tuple(Side(lane=name, did=f"{name} did") for name in ("a", "b"))
        for name in CLASSES:
            finding = Finding(
                event=1,
                kind="mark",
                divergence=name,
                title="t",
                vm=0,
                as_id=0,
                slot=0,
                sides=sides,
                root_cause_event=0,
                root_cause="why",
                visible="where",
                explanation="meaning",
                source="code",
            )
            counts = (ClassCount(divergence=name, count=1, first_event=1),)
            pair = PairReport(reference="a", other="b", strongest=name, classes=counts, findings=(finding,))
            text = "\n".join(pair_text(pair, Paint()))
            for words in ("a did", "b did", "meaning", "source: code", name):
                assert words in text
            assert ("root cause: event 0, why" in text) == (name != "bytes-only")

    def test_place_of_a_doubt(self) -> None:
        """An event, or a place in the text that was imported; what can be done comes on its own line."""
        report = report_of(STORY)
        doubts = (
            Uncertainty(what="lost: last line is cut", count=1, place="strace.txt:1433"),
            Uncertainty(what="order is not known", count=2, first_event=7, vm=0, advice="record it"),
        )
        lines = list(compare_text(attrs.evolve(report, uncertainties=doubts)))
        start = lines.index("  lost: last line is cut (first at strace.txt:1433)")
        assert lines[start + 1 : start + 3] == ["  VM 0: 2 x order is not known (first at event 7)", "    -> record it"]

    def test_harmless_doubts_come_last(self) -> None:
        """What is not known and has no weight stands at the end."""
        report = report_of(STORY)
        note = Uncertainty(what="a capability", count=5, matters=False)
        lines = list(compare_text(attrs.evolve(report, uncertainties=(note,))))
        assert lines[-2:] == ["not known, and without weight for the verdict", "  5 x a capability"]
