"""Say in text what many recordings say together."""

from collections.abc import Iterator
from typing import Final

from replay.analyses.fleet_report import FleetReport
from replay.report.columns import columns
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text, counted

GROUPS_SHOWN: Final = 8
"""Groups of one fact that the text shows; the JSON document and the database have all."""


def fleet_text(report: FleetReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    facts = f", profile {printable(report.profile)}" if report.profile else ""
    yield f"{counted(report.recordings, 'recording')}, {counted(report.events, 'event')}; lanes {printable(report.lanes)}{facts}"
    yield "  " + ", ".join(_counts(report, paint))
    yield from _saved(report, paint)
    yield from _classes(report, paint)
    yield from _looks(report, paint)
    yield from _groups(report, paint)
    yield from _troubles(report, paint)


def _counts(report: FleetReport, paint: Paint) -> Iterator[str]:
    rows = (
        ("same", report.same, "green"),
        ("divergence", report.divergence, "cyan"),
        ("cannot tell", report.cannot_tell, "yellow"),
        ("trouble", report.trouble, "red"),
    )
    for word, count, style in rows:
        yield paint(style, f"{count:,} {word}") if count else f"0 {word}"


def _saved(report: FleetReport, paint: Paint) -> Iterator[str]:
    if report.saved:
        yield paint("bold", "bytes of write tracking saved, charged, most at once")
    rows = [["lane", "p50", "p90", "p99", "max"]]
    rows += [
        [printable(saved.other), *map(bytes_text, (saved.p50_bytes, saved.p90_bytes, saved.p99_bytes, saved.max_bytes))]
        for saved in report.saved
    ]
    yield from _table(rows)


def _classes(report: FleetReport, paint: Paint) -> Iterator[str]:
    if report.classes:
        yield paint("bold", "divergence")
    rows = [["class", "strongest of", "found in", "findings"]]
    rows += [
        [found.divergence, f"{found.strongest_of:,}", f"{found.recordings:,}", f"{found.findings:,}"]
        for found in reversed(report.classes)
    ]
    yield from _table(rows)


def _looks(report: FleetReport, paint: Paint) -> Iterator[str]:
    if not report.look_first:
        return
    yield paint("bold", "look at first")
    yield f"  ({report.ranking})"
    rows = [["recording", "class", "first event", "saved", "findings"]]
    rows += [
        [
            printable(look.name),
            look.strongest,
            "" if look.first_event is None else str(look.first_event),
            bytes_text(look.saved_bytes),
            f"{look.findings:,}",
        ]
        for look in report.look_first
    ]
    yield from _table(rows, left=(0, 1))


def _groups(report: FleetReport, paint: Paint) -> Iterator[str]:
    if report.groups:
        yield paint("bold", "by header")
    rows = [["fact", "value", "recordings", "same", "divergence", "cannot tell", "saved p50", "saved max"]]
    shown: dict[str, int] = {}
    for group in report.groups:
        shown[group.fact] = shown.get(group.fact, 0) + 1
        if shown[group.fact] <= GROUPS_SHOWN:
            counts = (group.recordings, group.same, group.divergence, group.cannot_tell)
            saved = (bytes_text(group.saved_p50_bytes), bytes_text(group.saved_max_bytes))
            rows.append([group.fact, printable(group.value), *(f"{count:,}" for count in counts), *saved])
    yield from _table(rows, left=(0, 1))
    for fact, count in shown.items():
        if count > GROUPS_SHOWN:
            yield f"  and {counted(count - GROUPS_SHOWN, 'more value')} of {fact}"


def _troubles(report: FleetReport, paint: Paint) -> Iterator[str]:
    if report.troubles:
        yield paint("bold", "trouble")
    for trouble in report.troubles:
        more = f", and {trouble.recordings - 1:,} more" if trouble.recordings > 1 else ""
        yield f"  {trouble.code} {printable(trouble.name)}: {printable(trouble.trouble)}{more}"


def _table(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> Iterator[str]:
    if len(rows) > 1:
        yield from (f"  {line}" for line in columns(rows, left=left))
