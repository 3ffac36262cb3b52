"""Say in text what is left of a recording, and what it still shows."""

from collections.abc import Iterator

from replay.analyses.minimise_report import MinimiseReport
from replay.report.finding_text import wrapped
from replay.report.plain import printable
from replay.units import counted


def minimise_text(report: MinimiseReport) -> Iterator[str]:
    """Yield the lines of the report."""
    how = "each of them is needed" if report.minimal else "the budget ran out: --budget allows more"
    yield f"{printable(report.output)}: {report.events:,} of {counted(report.events_before, 'event')}; {how}"
    yield from wrapped(f"{report.verdict}, as before: {'; '.join(word.text for word in report.shown)}", "  ")
    yield f"  {printable(report.command)}"
    if not report.certain:
        yield "  it lacks what the old one lacks"
