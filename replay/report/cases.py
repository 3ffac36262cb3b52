"""See a result as test cases, for the formats that test runners and forges read: KTAP and workflow commands."""

from typing import Final

import attrs

from replay.analyses.check_report import CANNOT_TELL as CHECK_CANNOT_TELL
from replay.analyses.check_report import CheckReport, Facet
from replay.analyses.compare_report import CANNOT_TELL, CompareReport, PairReport
from replay.analyses.golden_report import DIFFERS, KEPT, MISSING, SAME, TROUBLE, UNUSED, WRITTEN, GoldenFile, GoldenReport
from replay.analyses.verdict import judged_pairs
from replay.report.check_text import verdict
from replay.report.golden_text import place_lines, summary
from replay.units import counted

PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
ERROR: Final = "trouble"
SHOWN: Final = 20
"""Most details of one case."""
_OUTCOMES: Final = {SAME: PASSED, WRITTEN: PASSED, KEPT: PASSED, DIFFERS: FAILED, MISSING: FAILED, UNUSED: FAILED, TROUBLE: ERROR}


@attrs.frozen
class Detail:
    """One thing that is wrong. file, line: where to look, "" and 0 when there is no such place."""

    title: str
    lines: tuple[str, ...] = ()
    file: str = ""
    line: int = 0


@attrs.frozen
class Case:
    """One test case. note: why it came out so, in a few words."""

    name: str
    outcome: str
    note: str = ""
    details: tuple[Detail, ...] = ()
    more: int = 0


@attrs.frozen
class Suite:
    """The cases of one result. sentence: all of it in one line."""

    name: str
    cases: tuple[Case, ...]
    sentence: str


def compare_suite(report: CompareReport, name: str) -> Suite:
    """Return a comparison as cases: one a pair of lanes; name: the input."""
    doubts = tuple(Detail(doubt.what) for doubt in report.uncertainties if doubt.matters)
    cases = [_pair(pair, doubts) for pair in judged_pairs(report)]
    if not cases:
        cases = [Case("replay", SKIPPED if report.verdict == CANNOT_TELL else PASSED, report.verdict, doubts[:SHOWN])]
    return Suite(name, tuple(cases), f"verdict: {report.verdict}. {report.sentence}".strip())


def _pair(pair: PairReport, doubts: tuple[Detail, ...]) -> Case:
    name = f"{pair.other} against {pair.reference}"
    if not pair.classes:
        return Case(name, SKIPPED, "cannot tell", doubts[:SHOWN]) if doubts else Case(name, PASSED)
    note = ", ".join(f"{count.divergence} {count.count + count.behind_horizon}" for count in pair.classes)
    details = [
        Detail(
            f"event {f.event} {f.kind}: {f.divergence}, {f.catalogue or f.title}",
            tuple(f"{side.lane}: {side.did}" for side in f.sides),
        )
        for f in pair.findings[:SHOWN]
    ]
    more = len(pair.findings) + pair.findings_omitted - len(details)
    return Case(name, FAILED, note, (*details, *doubts[:SHOWN]), more)


def check_suite(report: CheckReport, name: str) -> Suite:
    """Return a check as cases: one a kind of fact; name: the input."""
    sentence = verdict(report)
    cases = tuple(_facet(facet, report) for facet in report.facets)
    if report.status() == CHECK_CANNOT_TELL:
        cases = (Case("the recording says enough", SKIPPED, sentence), *cases)
    return Suite(name, cases, sentence)


def _facet(facet: Facet, report: CheckReport) -> Case:
    if facet.agreed == facet.checked:
        return Case(facet.name, PASSED, f"{facet.checked} agree")
    wrong = facet.checked - facet.agreed
    mine = [mismatch for mismatch in report.mismatches if mismatch.facet == facet.name][:SHOWN]
    details = [
        Detail(f"event {m.event} {m.what}", (f"model: {m.expected}", f"kernel: {m.observed}", f"rule: {m.source}")) for m in mine
    ]
    # A loss at an unknown place may be the cause of any mismatch.
    outcome = SKIPPED if report.status() == CHECK_CANNOT_TELL else FAILED
    return Case(facet.name, outcome, f"{wrong} of {facet.checked} contradict the model", tuple(details), wrong - len(details))


def golden_suite(report: GoldenReport) -> Suite:
    """Return golden files as cases: one a file."""
    return Suite("golden files", tuple(_golden(file) for file in report.files), summary(report))


def _golden(file: GoldenFile) -> Case:
    details = []
    for found in file.differences[:SHOWN]:
        place, *lines = place_lines(found)
        details.append(Detail(f"{found.question} {place}".strip(), tuple(lines), file.golden, found.line))
    if file.trouble:
        details.append(Detail(f"{file.code} {file.trouble}".strip(), (), file.golden))
    count = f"{counted(file.difference_count, 'place differs', 'places differ')}" if file.difference_count else ""
    note = count if file.state == DIFFERS else "" if file.state == SAME else file.state
    return Case(file.golden, _OUTCOMES[file.state], note, tuple(details), max(0, file.difference_count - len(details)))
