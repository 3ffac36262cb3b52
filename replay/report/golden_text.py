"""Say in text what became of golden files: those that are not right one by one, each place that differs with before and after."""

from collections.abc import Iterator
from typing import Final

from replay.analyses.golden_report import DIFFERS, KEPT, SAME, STATES, WRITTEN, GoldenDifference, GoldenFile, GoldenReport
from replay.report.paint import Paint
from replay.report.plain import printable

DIFFERENCES_SHOWN: Final = 50
"""Most places of one file that get their own lines; JSON has more."""
_NOTHING: Final = "-"
_STYLES: Final = {SAME: "green", WRITTEN: "green", KEPT: "green", DIFFERS: "red"}


def golden_text(report: GoldenReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report: files that are right are only counted."""
    paint = paint or Paint()
    for file in report.files:
        if file.state in {SAME, KEPT}:
            continue
        yield paint(_STYLES.get(file.state, "yellow"), printable(heading(file)))
        if file.trouble:
            yield f"  {printable(f'{file.code} {file.trouble}'.strip())}"
        yield from (f"  {line}" for line in difference_lines(file))
    yield paint("bold", summary(report))


def heading(file: GoldenFile) -> str:
    """Say a file and what became of it."""
    count = f" in {file.difference_count:,} place{'s' * (file.difference_count > 1)}" if file.difference_count else ""
    return f"{file.golden}: {file.state}{count}"


def summary(report: GoldenReport) -> str:
    """Say how many files are in which state."""
    counts = [f"{getattr(report, state):,} {state}" for state in STATES if getattr(report, state)]
    return f"{len(report.files):,} golden file{'s' * (len(report.files) != 1)}: {', '.join(counts)}"


def difference_lines(file: GoldenFile) -> Iterator[str]:
    """Yield the places that differ, below the question that they are about."""
    question = ""
    for difference in file.differences[:DIFFERENCES_SHOWN]:
        if difference.question != question:
            question = difference.question
            yield printable(question)
        indent = "  " if question else ""
        yield from (f"{indent}{line}" for line in place_lines(difference))
    rest = file.difference_count - min(DIFFERENCES_SHOWN, len(file.differences))
    if rest:
        yield f"and {rest:,} more; --format json has up to {len(file.differences):,}"


def place_lines(difference: GoldenDifference) -> Iterator[str]:
    """Yield one place with what stands there and what is found now, one below the other, labels in a column.

    A place that only one side has is said to be new or gone, with what that side says.
    """
    details = difference.details
    line = f" (line {difference.line})" if difference.line else ""
    gone, new = (all(getattr(detail, side) is None for detail in details) for side in ("after", "before"))
    yield f"{'new: ' if new else 'gone: ' if gone else ''}{printable(difference.place)}{line}"
    width = max((len(printable(detail.what)) for detail in details), default=0)
    gap = "  " if width else ""
    for detail in details:
        label = printable(detail.what).ljust(width) + gap
        if new or gone:
            yield f"  {label}{_shown(detail.after if new else detail.before)}"
            continue
        yield f"  {label}before  {_shown(detail.before)}"
        yield f"  {' ' * len(label)}after   {_shown(detail.after)}"


def _shown(text: str | None) -> str:
    return _NOTHING if text is None else printable(text)
