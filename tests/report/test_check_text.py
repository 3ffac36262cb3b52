"""Promises of the text of `check`."""

import attrs
import pytest

from replay.analyses.check_report import MISMATCHES_MAX, CheckReport, Facet, Mismatch, Reason
from replay.analyses.compare_report import Fact
from replay.report.check_text import MISMATCHES_SHOWN, check_text, verdict
from replay.report.finding_text import WIDTH
from replay.report.paint import Paint


def report(checked: int = 7, agreed: int = 7, release: str = "6.12.117", mismatches: int = 0, **lack: int) -> CheckReport:
    """Return a report."""
    one = Mismatch(event=4, line=2, vm=0, what="areas", expected="", observed="a\x1b[2J", rule="create", source="x.c f()")
    return CheckReport(
        title="boot",
        policy="on-demand",
        release=release,
        profile=(Fact(name="tdp", value="y"), Fact(name="smm", value="n", assumed=True)),
        events=9,
        checked=checked,
        agreed=agreed,
        not_checkable=2,
        doubtful=lack.get("doubtful", 0),
        losses=lack.get("losses", 0),
        cut_short=bool(lack.get("cut_short")),
        mismatch_count=checked - agreed,
        facets=(Facet(name="results of calls", checked=checked, agreed=agreed),) if checked else (),
        reasons=(Reason(reason="borrowed", count=2, first_event=0),),
        mismatches=(one,) * mismatches,
    )


class TestText:
    """The verdict comes first; every number is there."""

    @pytest.mark.parametrize(
        ("found", "sentence"),
        [
            (report(), "model and kernel agree in all 7 comparisons"),
            (report(agreed=6, mismatches=1), "the kernel contradicts the model in 1 of 7 comparisons"),
            (
                report(losses=3),
                (
                    "cannot tell: 3 things are lost or not understood, nobody knows where; "
                    "model and kernel agree in all 7 comparisons"
                ),
            ),
            (
                report(doubtful=2),
                "cannot tell: 2 facts lie behind what the recording does not show; model and kernel agree in all 7 comparisons",
            ),
            (
                report(1, 1, losses=1),
                (
                    "cannot tell: 1 thing is lost or not understood, nobody knows where; "
                    "model and kernel agree in the one comparison"
                ),
            ),
            (
                report(1, 1, doubtful=1),
                (
                    "cannot tell: 1 fact lies behind what the recording does not show; "
                    "model and kernel agree in the one comparison"
                ),
            ),
            (report(1, 0, mismatches=1), "the kernel contradicts the model in 1 of 1 comparison"),
            (
                report(cut_short=1),
                "cannot tell: only the front of the recording is there; model and kernel agree in all 7 comparisons in it",
            ),
            (
                report(agreed=6, mismatches=1, cut_short=1),
                "the kernel contradicts the model in 1 of 7 comparisons; only the front of the recording is there",
            ),
            (report(agreed=6, mismatches=1, doubtful=2), "the kernel contradicts the model in 1 of 7 comparisons"),
            (report(checked=0, agreed=0), "cannot tell: nothing in the recording can be held against the model"),
            (report(release=""), "cannot tell: the recorded kernel's release is not known; give it with --profile release=..."),
        ],
    )
    def test_verdict(self, found: CheckReport, sentence: str) -> None:
        """One sentence an answer, in the second line."""
        assert verdict(found) == sentence
        assert list(check_text(found))[1] == sentence

    def test_whole(self) -> None:
        """Title, verdict, profile with what is assumed, comparisons, reasons."""
        assert list(check_text(report())) == [
            "boot: 9 events",
            "model and kernel agree in all 7 comparisons",
            "  policy on-demand; tdp=y smm=n*",
            "  * assumed, neither recorded nor given with --profile",
            "compared",
            "                    checked  agree",
            "  results of calls        7      7",
            "not checkable: 2",
            "  2  borrowed",
        ]

    def test_facts_that_say_nothing(self) -> None:
        """A vendor that is not known, and memory of no known size, are left out; a long line is broken."""
        facts = [Fact(name="vendor", value=""), Fact(name="total_ram_pages", value="0"), Fact(name="la57", value="0")]
        facts += [Fact(name=f"fact_{number}", value="y") for number in range(20)]
        _title, _verdict, first, second, *_rest = check_text(attrs.evolve(report(), profile=tuple(facts)))
        assert first.startswith("  policy on-demand; la57=0 fact_0=y ")
        assert len(first) <= WIDTH
        assert second.startswith("  fact_")

    def test_mismatch(self) -> None:
        """A mismatch has its place, both sides and the rule; nothing that a terminal would obey."""
        lines = list(check_text(report(agreed=6, mismatches=1)))
        assert lines[5:9] == [
            "  event 4, line 2 VM 0: areas",
            "    model:  nothing (create)",
            "    kernel: a\\x1b[2J",
            "    source: x.c f()",
        ]

    def test_many_mismatches(self) -> None:
        """Only the first ones are shown, and how many more there are is said."""
        lines = list(check_text(report(checked=5000, agreed=0, mismatches=MISMATCHES_MAX)))
        assert sum(line.startswith("  event ") for line in lines) == MISMATCHES_SHOWN
        assert f"  and {5000 - MISMATCHES_SHOWN:,} more; --format json has up to {MISMATCHES_MAX:,}" in lines

    def test_colour(self) -> None:
        """Colour changes no word."""
        plain, colour = list(check_text(report())), list(check_text(report(), Paint(enabled=True)))
        assert plain != colour
        assert plain[1] in colour[1]
