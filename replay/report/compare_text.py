"""Say in text what a comparison found: verdict first, then bytes, then each divergence with its cause and source."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Final

from replay.analyses.catalogue import RULES
from replay.analyses.compare_report import CANNOT_TELL, SAME, CompareReport, LaneReport, PairReport
from replay.analyses.findings import CLASSES, MEANINGS, Finding, Uncertainty
from replay.report.columns import columns
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text

FINDINGS_SHOWN: Final = 12
"""Most findings of one kind that get their own lines; JSON has them all."""
WIDTH: Final = 110
_STYLES: Final = {SAME: "green", CANNOT_TELL: "yellow"}


def compare_text(report: CompareReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    title = printable(report.title) or "untitled recording"
    yield paint("bold", f"{title}: {report.events:,} events, {report.vms:,} VM{'s' if report.vms != 1 else ''}")
    yield paint(_STYLES.get(report.verdict, "red"), f"verdict: {report.verdict}")
    yield from _wrapped(report.sentence, "  ")
    for block in (_doubts(report), _lanes(report), _bytes(report), _exposure(report), _shown(report), _notes(report)):
        if block:
            yield ""
            yield paint("bold", block[0])
            yield from (f"  {line}" for line in block[1:])
    for pair in report.pairs:
        yield from _pair(pair, paint)
    yield from _agreements(report, paint)


def _wrapped(sentence: str, indent: str) -> list[str]:
    return wrap(printable(sentence), WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _doubts(report: CompareReport) -> list[str]:
    return _doubt_lines("what keeps the answer from being certain", [doubt for doubt in report.uncertainties if doubt.matters])


def _notes(report: CompareReport) -> list[str]:
    return _doubt_lines("not known, and without weight for the verdict", [d for d in report.uncertainties if not d.matters])


def _doubt_lines(title: str, doubts: Sequence[Uncertainty]) -> list[str]:
    if not doubts:
        return []
    lines = [title]
    for doubt in doubts[:FINDINGS_SHOWN]:
        place = "" if doubt.first_event is None else f" (first at event {doubt.first_event})"
        vm = "" if doubt.vm is None else f"VM {doubt.vm}: "
        times = f"{doubt.count:,} x " if doubt.count > 1 else ""
        lines.extend(_wrapped(f"{vm}{times}{doubt.what}{place}", ""))
        lines.extend(_wrapped(doubt.advice, "  -> ") if doubt.advice else [])
    rest = len(doubts) - FINDINGS_SHOWN
    return [*lines, *([f"and {rest} more; --format json has them all"] if rest > 0 else [])]


def _lanes(report: CompareReport) -> list[str]:
    rows: list[Sequence[str]] = [("lane", "policy", "release", "CONFIG", "tdp", "tdp_mmu", "smm", "recorded results")]
    for lane in report.lanes:
        facts = {fact.name: f"{fact.value}{'*' if fact.assumed else ''}" for fact in lane.profile}
        names = ("release", "config_external_write_tracking", "tdp", "tdp_mmu", "smm")
        rows.append((lane.name, lane.policy, *(facts[name] for name in names), _results(lane)))
    lines = ["lanes", *columns(rows, left=tuple(range(8)))]
    assumed = sorted({f"{fact.name}={fact.value}" for lane in report.lanes for fact in lane.profile if fact.assumed})
    if assumed:
        lines.extend(_wrapped(f"* assumed, neither recorded nor given with --profile: {', '.join(assumed)}", ""))
    for lane in report.lanes:
        lines.extend(f"{lane.name}: {count.count:,} events not replayed: {count.name}" for count in lane.skipped)
    return lines


def _results(lane: LaneReport) -> str:
    kind = "factual" if lane.factual else "counterfactual"
    if not lane.checked:
        return f"{kind}, none to hold against"
    if lane.horizon is None:
        return f"{kind}, all {lane.checked:,} agree"
    at = lane.horizon
    return f"{kind}, {at.differing:,} of {lane.checked:,} differ, first at event {at.event}"


def _bytes(report: CompareReport) -> list[str]:
    rows: list[Sequence[str]] = [("", "arrays", "peak", "ever", "at the end", "peak charged", "peak real")]
    for lane in report.lanes:
        wt = lane.write_track
        sizes = (wt.nominal_peak_bytes, wt.nominal_total_bytes, wt.nominal_end_bytes, wt.charged_peak_bytes, wt.real_peak_bytes)
        rows.append((lane.name, f"{wt.allocations:,}", *(bytes_text(size) for size in sizes)))
    lines = ["write tracking (gfn_write_track)", *columns(rows)]
    for lane in report.lanes:
        others = [b for b in lane.arrays if b.array != "gfn_write_track" and b.allocations]
        words = ", ".join(f"{b.array} {bytes_text(b.nominal_peak_bytes)}" for b in others)
        lines.append(f"{lane.name}: other per-slot memory at its peak: {words or 'none'}")
    return lines


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


def _shown(report: CompareReport) -> list[str]:
    seen = [f"{count.name} {count.count:,}" for count in report.never if count.count]
    never = [count.name for count in report.never if not count.count]
    lines = ["what the recording shows", *_wrapped(", ".join(seen) or "nothing", "")]
    if never:
        lines.extend(_wrapped(f"never: {', '.join(never)}", ""))
    warnings = [f"{lane.name}: {count.count:,} x {count.name}" for lane in report.lanes for count in lane.warnings]
    return lines + warnings


def _pair(pair: PairReport, paint: Paint) -> Iterator[str]:
    yield ""
    yield paint("bold", f"{pair.other} against {pair.reference}")
    if not pair.classes:
        yield "  no divergence"
        return
    for count in pair.classes:
        behind = f", {count.behind_horizon:,} more behind a horizon" if count.behind_horizon else ""
        yield f"  {count.divergence}: {count.count:,}{behind} ({MEANINGS[count.divergence]})"
    if pair.ruled_out:
        yield from _wrapped(f"none of: {pair.ruled_out}", "  ")
    for rank, group in groupby(sorted(pair.findings, key=_rank), key=_rank):
        yield from _group(list(group), rank[2], behind=rank[0], paint=paint)
    if pair.findings_omitted:
        yield f"  {pair.findings_omitted:,} more findings are counted above and not kept"


def _rank(finding: Finding) -> tuple[bool, int, str]:
    """Order groups: before the horizon first, strongest class first."""
    return (finding.behind_horizon, -CLASSES.index(finding.divergence), finding.catalogue)


def _group(findings: list[Finding], row: str, *, behind: bool, paint: Paint) -> Iterator[str]:
    first, rule = findings[0], RULES[row]
    name = f"{row} {rule.title}" if row else rule.title
    count = f"{len(findings):,} x " if len(findings) > 1 else ""
    yield ""
    yield paint("cyan", f"  {count}{first.divergence}: {name}{' (behind the horizon)' if behind else ''}")
    yield from _wrapped(first.explanation, "    ")
    yield from _wrapped(f"source: {first.source}", "    ")
    for finding in findings[:FINDINGS_SHOWN]:
        yield from _finding(finding)
    if len(findings) > FINDINGS_SHOWN:
        nominal = sum(abs(finding.nominal_bytes) for finding in findings[FINDINGS_SHOWN:])
        more = f", {bytes_text(nominal)} in all" if nominal else ""
        yield f"    and {len(findings) - FINDINGS_SHOWN:,} more{more}; --format json has them all"


def _finding(finding: Finding) -> Iterator[str]:
    vm = "" if finding.vm is None else f"  vm {finding.vm}"
    slot = "" if finding.slot is None else f"  slot {finding.slot} as {finding.as_id}"
    place = f"  ({printable(finding.place)})" if finding.place else ""
    yield f"    event {finding.event}  {finding.kind}{vm}{slot}{place}"
    for side in finding.sides:
        yield f"      {side.lane}: {side.did}"
    if finding.root_cause_event != finding.event:
        yield f"      root cause: event {finding.root_cause_event}, {finding.root_cause}"
    end = (
        "not in this recording" if finding.converged_event is None else f"at event {finding.converged_event}: {finding.converged}"
    )
    seen = finding.visible if finding.visible_event is None else f"at event {finding.visible_event}: {finding.visible}"
    yield f"      visible {seen}"
    yield f"      lanes agree again {end}"


def _agreements(report: CompareReport, paint: Paint) -> Iterator[str]:
    if not report.agreements:
        return
    yield ""
    yield paint("bold", "where the lanes agree though one might not expect it")
    for agreement in report.agreements:
        at = "" if agreement.first_event is None else f", first at event {agreement.first_event}"
        times = f" ({agreement.count:,} x{at})" if at else ""
        yield from _wrapped(f"{agreement.catalogue}{times}: {agreement.text}", "  ")
