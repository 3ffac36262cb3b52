"""Say in text what a comparison found: the verdict, each divergence with its cause and source, then what it rests on."""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.compare_report import (
    CANNOT_TELL,
    DIVERGENCE,
    SAME,
    WITHOUT_ARGUMENTS,
    CompareReport,
    LaneReport,
    PairReport,
)
from replay.analyses.verdict import judged_pairs
from replay.report.columns import columns
from replay.report.doubt_text import certainty_lines, doubt_lines
from replay.report.finding_text import agreements_text, findings_key, pair_text, wrapped
from replay.report.order_text import order_lines
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text, counted

_STYLES: Final = {SAME: "green", CANNOT_TELL: "yellow"}
_FACTS: Final = ("release", "config_external_write_tracking", "tdp", "tdp_mmu", "smm")


def compare_text(report: CompareReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    yield paint(_STYLES.get(report.verdict, "red"), f"verdict: {report.verdict}{_strongest(report)}")
    yield from wrapped(report.sentence, "  ")
    vms = counted(report.vms, "VM")
    yield f"  recording: {printable(report.title) or 'untitled'}; {counted(report.events, 'event')}, {vms}"
    yield from _block(_doubts(report), paint)
    for index, pair in enumerate(report.pairs):
        yield from pair_text(pair, paint, like=_like(pair, report.pairs[:index]))
    yield from agreements_text(report.agreements, paint)
    for block in (_bytes(report), _exposure(report), _lanes(report), _shown(report), _orders(report), _notes(report)):
        yield from _block(block, paint)


def _like(pair: PairReport, before: Sequence[PairReport]) -> str:
    """Return the other lane of an earlier pair with the same findings, "" for none: they need not be said twice."""
    mine = findings_key(pair)
    return next((one.other for one in before if mine and findings_key(one) == mine), "")


def _block(lines: list[str], paint: Paint) -> Iterator[str]:
    """Yield a section: an empty line, its title, its lines; nothing for an empty one."""
    if lines:
        yield ""
        yield paint("bold", lines[0])
        yield from (f"  {line}" for line in lines[1:])


def _strongest(report: CompareReport) -> str:
    classes = [pair.strongest for pair in judged_pairs(report) if pair.strongest] if report.verdict == DIVERGENCE else []
    return f", {', '.join(dict.fromkeys(classes))}" if classes else ""


def _doubts(report: CompareReport) -> list[str]:
    return certainty_lines(report.uncertainties)


def _notes(report: CompareReport) -> list[str]:
    return doubt_lines("not known, and without weight for the verdict", [d for d in report.uncertainties if not d.matters])


def _orders(report: CompareReport) -> list[str]:
    lines = order_lines(report.orders)
    return [*lines[:1], *(line for paragraph in lines[1:] for line in wrapped(paragraph, ""))]


def _bytes(report: CompareReport) -> list[str]:
    rows: list[Sequence[str]] = [("", "arrays", "peak", "ever", "at the end", "peak charged", "peak real")]
    for lane in report.lanes:
        wt = lane.write_track
        sizes = (wt.nominal_peak_bytes, wt.nominal_total_bytes, wt.nominal_end_bytes, wt.charged_peak_bytes, wt.real_peak_bytes)
        rows.append((lane.name, f"{wt.allocations:,}", *(bytes_text(size) for size in sizes)))
    lines = ["write tracking (gfn_write_track)", *columns(rows)]
    others = {lane.name: _other_arrays(lane) for lane in report.lanes}
    if len(dict.fromkeys(others.values())) == 1:
        others = {"all lanes" if len(others) > 1 else report.lanes[0].name: next(iter(others.values()))}
    lines.extend(f"other memory of memslots at its peak, {name}: {words}" for name, words in others.items())
    return lines


def _other_arrays(lane: LaneReport) -> str:
    others = [b for b in lane.arrays if b.array != "gfn_write_track" and b.allocations]
    return ", ".join(f"{b.array} {bytes_text(b.nominal_peak_bytes)}" for b in others) or "none"


def _exposure(report: CompareReport) -> list[str]:
    rows: list[Sequence[str]] = [("lane", "call", "calls", "arrays", "asked for", "largest", "failed")]
    for lane in report.lanes:
        rows.extend(
            (
                lane.name,
                e.call,
                f"{e.calls:,}",
                f"{e.arrays:,}",
                bytes_text(e.nominal_bytes),
                bytes_text(e.largest_bytes),
                f"{e.failed:,}",
            )
            for e in lane.exposure
        )
    return ["where -ENOMEM can come from", *columns(rows, left=(0, 1))] if len(rows) > 1 else []


def _lanes(report: CompareReport) -> list[str]:
    rows: list[Sequence[str]] = [("lane", "policy", "release", "CONFIG", "tdp", "tdp_mmu", "smm", "recorded results")]
    for lane in report.lanes:
        facts = {fact.name: f"{fact.value}{'*' if fact.assumed else ''}" for fact in lane.profile}
        rows.append((lane.name, lane.policy, *(facts[name] for name in _FACTS), _results(lane)))
    lines = ["lanes", *columns(rows, left=tuple(range(8)))]
    assumed = sorted({f"{fact.name}={fact.value}" for lane in report.lanes for fact in lane.profile if fact.assumed})
    if assumed:
        lines.extend(wrapped(f"* assumed, neither recorded nor given with --profile: {', '.join(assumed)}", ""))
    for lane in report.lanes:
        lines.extend(f"{lane.name}: {counted(count.count, 'event')} not replayed: {count.name}" for count in lane.skipped)
    return lines


def _results(lane: LaneReport) -> str:
    if not lane.kernel:
        return "no kernel, held against nothing"
    kind = "factual" if lane.factual else "counterfactual"
    if not lane.checked:
        return f"{kind}, none to hold against"
    if lane.horizon is None:
        return f"{kind}, all {lane.checked:,} agree"
    at = lane.horizon
    return f"{kind}, {at.differing:,} of {lane.checked:,} differ, first at event {at.event}: its horizon"


def _shown(report: CompareReport) -> list[str]:
    seen = [f"{count.name} {count.count:,}" for count in report.never if count.count]
    never = [count.name for count in report.never if not count.count]
    lines = ["what the recording shows", *wrapped(", ".join(seen) or "nothing", "")]
    if never:
        but = ", those calls aside" if any(count.name == WITHOUT_ARGUMENTS for count in report.never) else ""
        lines.extend(wrapped(f"never{but}: {', '.join(never)}", ""))
    warnings = [f"{lane.name}: {count.count:,} x {count.name}" for lane in report.lanes for count in lane.warnings]
    return lines + warnings
