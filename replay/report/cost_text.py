"""Say in text what memslots cost."""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.cost import CostReport, LaneCost, StageCost
from replay.report.columns import columns
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text

_STAGES: Final = {
    "created": "memslots created",
    "registered": "after the first notifier registration",
    "rooted": "after the first shadow root",
    "end": "whole recording",
}


def cost_text(report: CostReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report: a table a stage, an array a row, a lane a group of columns."""
    paint = paint or Paint()
    layout = ""
    if report.slots:
        many = f"{report.slots:,} memslots" if report.slots > 1 else "one memslot"
        layout = f": {many} of {report.slot_pages:,} pages ({bytes_text(report.slot_pages * 4096)})"
    yield paint("bold", f"{printable(report.title) or 'untitled recording'}{layout}")
    for stage in dict.fromkeys(stage.stage for lane in report.lanes for stage in lane.stages):
        lanes = [(lane, found) for lane in report.lanes for found in lane.stages if found.stage == stage]
        yield ""
        yield paint("cyan", _STAGES[stage])
        yield from (f"  {line}" for line in _table(lanes, peaks=stage == "end"))


def _table(lanes: Sequence[tuple[LaneCost, StageCost]], *, peaks: bool) -> list[str]:
    when = "peak" if peaks else "now"
    rows: list[Sequence[str]] = [
        ("array", *(f"{lane.name}: {word}" for lane, _ in lanes for word in ("arrays", when, "charged", "real")))
    ]
    for index, array in enumerate(lanes[0][1].arrays):
        cells = []
        for _lane, stage in lanes:
            b = stage.arrays[index]
            sizes = (b.nominal_peak_bytes, b.charged_peak_bytes, b.real_peak_bytes)
            now = (b.nominal_end_bytes, b.charged_end_bytes, b.real_end_bytes)
            cells += [f"{b.allocations if peaks else b.live:,}", *(bytes_text(size) for size in (sizes if peaks else now))]
        rows.append((array.array, *cells))
    if not peaks:
        total = [
            cell
            for _lane, stage in lanes
            for cell in ("", *(bytes_text(size) for size in (stage.nominal_bytes, stage.charged_bytes, stage.real_bytes)))
        ]
        rows.append(("all", *total))
    return columns(rows)
