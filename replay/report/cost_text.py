"""Say in text what memslots cost."""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.compare_report import Bytes
from replay.analyses.cost import CostReport, LaneCost, StageCost
from replay.report.columns import columns
from replay.report.doubt_text import doubts_text
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text, counted, ret_text

LANES_ABREAST: Final = 2
"""More lanes than that follow below, in a table of their own: four columns a lane fill a screen."""
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
        many = counted(report.slots, "memslot") if report.slots > 1 else "one memslot"
        layout = f": {many} of {counted(report.slot_pages, 'page')} ({bytes_text(report.slot_pages * 4096)})"
    yield paint("bold", f"{printable(report.title) or 'untitled recording'}{layout}")
    for stage in dict.fromkeys(stage.stage for lane in report.lanes for stage in lane.stages):
        lanes = [(lane, found) for lane in report.lanes for found in lane.stages if found.stage == stage]
        yield ""
        failed = [f"{lane.name}: {ret_text(found.ret)}" for lane, found in lanes if found.ret < 0]
        yield paint("cyan", _STAGES[stage] + (f" ({', '.join(failed)})" if failed else ""))
        for index in range(0, len(lanes), LANES_ABREAST):
            yield from (f"  {line}" for line in _table(lanes[index : index + LANES_ABREAST], peaks=stage == "end"))
    yield from doubts_text(report.uncertainties, paint)


def _table(lanes: Sequence[tuple[LaneCost, StageCost]], *, peaks: bool) -> list[str]:
    """Lay out arrays against lanes; arrays that no lane has are left out."""
    rows: list[Sequence[str]] = [
        ("", *(cell for lane, _ in lanes for cell in (lane.name, "", "", ""))),
        ("array", *(cell for _lane in lanes for cell in ("arrays", "peak" if peaks else "now", "charged", "real"))),
    ]
    for index, array in enumerate(lanes[0][1].arrays):
        held = [stage.arrays[index] for _lane, stage in lanes]
        if any(b.allocations for b in held):
            rows.append((array.array, *(cell for b in held for cell in _cells(b, peaks=peaks))))
    if not peaks:
        sums = [(stage.nominal_bytes, stage.charged_bytes, stage.real_bytes) for _lane, stage in lanes]
        rows.append(("all", *(cell for sizes in sums for cell in ("", *(bytes_text(size) for size in sizes)))))
    return columns(rows, left=(0, *range(1, 1 + 4 * len(lanes), 4)))


def _cells(held: Bytes, *, peaks: bool) -> Sequence[str]:
    """Return how many arrays there are, and their bytes: now, or at their peak."""
    peak = (held.nominal_peak_bytes, held.charged_peak_bytes, held.real_peak_bytes)
    now = (held.nominal_end_bytes, held.charged_end_bytes, held.real_end_bytes)
    return (f"{held.allocations if peaks else held.live:,}", *(bytes_text(size) for size in (peak if peaks else now)))
