"""Say in text what an index holds."""

from collections.abc import Iterator

from replay.analyses.index_report import IndexReport
from replay.report.plain import printable


def index_text(report: IndexReport) -> Iterator[str]:
    """Yield the lines of the report."""
    share = 100 * report.index_bytes / report.recording_bytes
    yield f"{printable(report.index)}: {report.index_bytes:,} bytes, {share:.2f} % of the recording's {report.recording_bytes:,}"
    each = f", one every {report.events // (report.checkpoints + 1):,}" if report.checkpoints else ": it is too short to need any"
    yield f"{report.events:,} events in {report.blocks:,} blocks; {report.checkpoints:,} checkpoints{each}"
    yield f"lanes: {', '.join(printable(lane.name) for lane in report.lanes)}"
