"""Say in text what `live` found: the verdict first, then how to replay it, then this machine, then what was compared."""

from collections.abc import Iterator

from replay.analyses.check_report import CheckReport
from replay.analyses.live_report import LiveReport
from replay.report.check_text import STYLES, facets_text, mismatches_text, verdict
from replay.report.columns import columns
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import counted


def live_text(report: LiveReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    stopped = f", stopped: {report.stopped}" if report.stopped else ""
    yield paint("bold", f"live: {counted(report.operations, 'operation')} of seed {report.seed}{stopped}")
    if report.check is None:
        yield paint("yellow", f"cannot tell: {printable(report.trouble)}")
        return
    yield paint(STYLES[report.status()], verdict(report.check))
    yield from _where(report)
    yield from _facts(report, paint)
    yield from mismatches_text(report.check, paint)
    yield from facets_text(report.check, paint)
    yield from _rules(report.check, paint)


def _where(report: LiveReport) -> Iterator[str]:
    yield f"  {report.areas}"
    if report.disturbed:
        yield f"  {counted(report.disturbed, 'observation')} left out: another process uses KVM and its memory shows"
    if report.recording:
        yield f"  recording: {printable(report.recording)}"
    if report.replay:
        yield f"  compare it again: {printable(report.replay)}"
    yield f"  ask a kernel again: {printable(report.repeat)}"


def _facts(report: LiveReport, paint: Paint) -> Iterator[str]:
    assert report.check is not None
    yield paint("bold", f"this machine, as policy {report.check.policy}")
    assumed = {fact.name: fact.value for fact in report.check.profile if fact.assumed}
    rows = []
    for fact in report.facts:
        guess = assumed.get({"kernel_release": "release"}.get(fact.name, fact.name))
        said = fact.value or (f"assumed {guess}" if guess is not None else "not known, makes no difference")
        rows.append((fact.name, printable(said), printable(fact.origin)))
    yield from (f"  {line}" for line in columns(rows, left=(0, 1, 2)))


def _rules(check: CheckReport, paint: Paint) -> Iterator[str]:
    yield paint("bold", "rules that decided a compared result")
    rows = [(rule.kind, rule.rule or "its own result", f"{rule.checked:,}") for rule in check.rules]
    yield from (f"  {line}" for line in columns(rows, left=(0, 1)))
