"""Say in text what differs between two lanes: findings grouped by class and row of the catalogue, strongest first."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Final

from replay.analyses.catalogue import ASPECTS
from replay.analyses.compare_report import PairReport
from replay.analyses.findings import BYTES_ONLY, CLASSES, MEANINGS, Agreement, Finding, Side
from replay.report.columns import columns
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import bytes_text, counted

FINDINGS_SHOWN: Final = 12
"""Most findings of one kind that get their own lines; JSON has them all."""
WIDTH: Final = 110


def wrapped(sentence: str, indent: str) -> list[str]:
    """Break a sentence into lines of at most WIDTH columns, each behind the indent; words keep their hyphens."""
    blank = indent if not indent.strip() else " " * len(indent)
    return wrap(printable(sentence), WIDTH, initial_indent=indent, subsequent_indent=blank, break_on_hyphens=False)


def findings_key(pair: PairReport) -> tuple[object, ...]:
    """Return what is said of a pair's findings but for the name of its other lane: equal for pairs that read alike."""
    fields: tuple[str, ...] = (
        "event",
        "divergence",
        "title",
        "vm",
        "as_id",
        "slot",
        "gfn",
        "behind_horizon",
        "nominal_bytes",
        "charged_bytes",
    )
    fields += ("visible_event", "converged_event")
    return tuple(
        (*(getattr(finding, name) for name in fields), *((side.ret, side.event, side.site) for side in finding.sides))
        for finding in pair.findings
    )


def pair_text(pair: PairReport, paint: Paint, *, like: str = "") -> Iterator[str]:
    """Yield the lines of one pair of lanes. like: other lane of a pair above that has the same findings, "" for none."""
    yield ""
    yield paint("bold", f"{pair.other} against {pair.reference}")
    if not pair.classes:
        yield "  no divergence"
        return
    for count in pair.classes:
        behind = f", {count.behind_horizon:,} more behind the horizon" if count.behind_horizon else ""
        yield f"  {count.divergence}: {count.count:,}{behind} ({MEANINGS[count.divergence]})"
    if pair.ruled_out and not pair.bound:
        yield from wrapped(f"none of {pair.ruled_out}", "  ")
    if like:
        yield f"  the same findings as those of {like}, above"
        return
    said: dict[str, None] = {}
    for _rank_of_group, group in groupby(sorted(pair.findings, key=_rank), key=_rank):
        yield from _group(list(group), said, paint)
    if pair.findings_omitted:
        yield f"  {counted(pair.findings_omitted, 'more finding is', 'more findings are')} counted above and not kept"


def _rank(finding: Finding) -> tuple[bool, int, str, str]:
    """Order groups: before the horizon first, strongest class first."""
    return (finding.behind_horizon, -CLASSES.index(finding.divergence), finding.catalogue, finding.title)


def _group(findings: list[Finding], said: dict[str, None], paint: Paint) -> Iterator[str]:
    """Yield what a group has in common, then its findings. said: sentences that stand above already, each is said once."""
    first = findings[0]
    name = f"{first.catalogue} {first.title}" if first.catalogue else first.title
    behind = ", behind the horizon" if first.behind_horizon else ""
    yield ""
    yield paint("cyan", f"  {name} ({first.divergence}{_amount(findings)}{behind})")
    aspects = sorted({(a.catalogue, a.text): None for finding in findings for a in finding.aspects})
    about = [f"{row} {ASPECTS[row].title}: {text}" for row, text in aspects]
    for sentence in (first.explanation, f"source: {first.source}", *about):
        if sentence not in said:
            said[sentence] = None
            yield from wrapped(sentence, "    ")
    shown = findings[:FINDINGS_SHOWN]
    if first.divergence == BYTES_ONLY:
        yield from (f"    {line}" for line in _stretches(shown))
    else:
        for finding in shown:
            yield from _finding(finding)
    if len(findings) > FINDINGS_SHOWN:
        nominal = sum(abs(finding.nominal_bytes) for finding in findings[FINDINGS_SHOWN:])
        more = f", {bytes_text(nominal)} in all" if nominal else ""
        yield f"    and {len(findings) - FINDINGS_SHOWN:,} more{more}; --format json has them all"


def _amount(findings: Sequence[Finding]) -> str:
    """Say how many findings a group has, and how much memory they are about."""
    nominal = sum(abs(finding.nominal_bytes) for finding in findings)
    charged = sum(abs(finding.charged_bytes) for finding in findings)
    count = f", {counted(len(findings), 'time')}" if len(findings) > 1 else ""
    if not nominal:
        return count
    pages = f", {bytes_text(charged)} in whole pages" if charged != nominal else ""
    return f"{count}, {bytes_text(nominal)}{pages}"


def _stretches(findings: Sequence[Finding]) -> list[str]:
    """Lay out findings of bytes, one a line: which memslot, how much, and when each lane has it."""
    lanes = [side.lane for side in findings[0].sides]
    rows: list[Sequence[str]] = [("memslot", "gfns", "bytes", *lanes, "alike again at")]
    rows.extend(
        (_memslot(f), _gfns(f), bytes_text(abs(f.nominal_bytes)), *(_when(side) for side in f.sides), _alike(f)) for f in findings
    )
    return columns(rows, left=(0, 1, 3, 4, 5))


def _memslot(finding: Finding) -> str:
    return f"vm {finding.vm} slot {finding.slot} as {finding.as_id}"


def _gfns(finding: Finding) -> str:
    if finding.base_gfn is None or not finding.npages:
        return "?"
    return f"{finding.base_gfn:#x}-{finding.base_gfn + finding.npages - 1:#x}"


def _when(side: Side) -> str:
    """Say at which event a lane allocates; what it has when it never does."""
    return side.did if side.event is None else f"event {side.event} {side.kind}"


def _alike(finding: Finding) -> str:
    """Say from which event on the lanes have the same, and why when that is not said beside it."""
    if finding.converged_event is None:
        return finding.converged
    shown = any(side.event == finding.converged_event for side in finding.sides)
    return f"event {finding.converged_event}" + ("" if shown else f" {finding.converged}")


def _finding(finding: Finding) -> Iterator[str]:
    vm = "" if finding.vm is None else f"  vm {finding.vm}"
    slot = "" if finding.slot is None else f"  slot {finding.slot} as {finding.as_id}"
    place = f"  ({printable(finding.place)})" if finding.place else ""
    gfn = "" if finding.gfn is None else f"  gfn {finding.gfn:#x}"
    yield f"    event {finding.event}  {finding.kind}{vm}{slot}{gfn}{place}"
    for side in finding.sides:
        yield from wrapped(f"{side.lane}: {side.did}", "      ")
    cause = "" if finding.root_cause_event == finding.event else f"event {finding.root_cause_event}, "
    yield from wrapped(f"root cause: {cause}{finding.root_cause}", "      ")
    seen = "" if finding.visible_event is None else f"at event {finding.visible_event}, "
    yield from wrapped(f"visible: {seen}{finding.visible}", "      ")
    end = "not in this recording" if finding.converged_event is None else f"event {finding.converged_event}, {finding.converged}"
    yield from wrapped(f"lanes agree again: {end}", "      ")


def agreements_text(agreements: Sequence[Agreement], paint: Paint) -> Iterator[str]:
    """Yield the lines of what the lanes do alike, none when there is nothing to say."""
    if not agreements:
        return
    yield ""
    yield paint("bold", "where the lanes agree though one might not expect it")
    for agreement in agreements:
        place = "" if agreement.first_event is None else f"event {agreement.first_event}"
        if agreement.count > 1:
            place = f"{counted(agreement.count, 'time')}, first at {place}"
        at = f" ({place})" if place else ""
        yield from wrapped(f"{agreement.catalogue} {agreement.title}{at}: {agreement.text}", "  ")
        yield from wrapped(f"source: {agreement.source}", "    ")
