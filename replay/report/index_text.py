"""Say in text what an index holds."""

from collections.abc import Iterator

from replay.analyses.index_report import IndexReport
from replay.report.plain import printable
from replay.units import counted


def index_text(report: IndexReport) -> Iterator[str]:
    """Yield the lines of the report."""
    share = 100 * report.index_bytes / report.recording_bytes
    size = f"{counted(report.index_bytes, 'byte')}, {share:.2f} % of the recording's {report.recording_bytes:,}"
    yield f"{printable(report.index)}: {size}"
    each = f", one every {report.events // (report.checkpoints + 1):,}" if report.checkpoints else ": it is too short to need any"
    checkpoints = f"{counted(report.checkpoints, 'checkpoint')}{each}"
    yield f"{counted(report.events, 'event')} in {counted(report.blocks, 'block')}; {checkpoints}"
    yield f"lanes: {', '.join(printable(lane.name) for lane in report.lanes)}"
