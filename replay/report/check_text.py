"""Say in text what `check` found: the verdict first, then mismatches, then what was compared and what could not be."""

from collections.abc import Iterator
from typing import Final

from replay.analyses.check_report import AGREES, CANNOT_TELL, CONTRADICTED, CheckReport, Mismatch
from replay.analyses.check_state import AREAS
from replay.analyses.compare_report import Fact
from replay.report.columns import columns
from replay.report.finding_text import wrapped
from replay.report.order_text import order_lines
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import counted

MISMATCHES_SHOWN: Final = 20
"""Most mismatches that get their own lines; JSON has more."""
_SINCE: Final = "taken (+) and given back (-) since the observation before, by function"
STYLES: Final = {AGREES: "green", CONTRADICTED: "red", CANNOT_TELL: "yellow"}


def check_text(report: CheckReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report."""
    paint = paint or Paint()
    yield paint("bold", f"{printable(report.title) or 'untitled recording'}: {counted(report.events, 'event')}")
    yield paint(STYLES[report.status()], verdict(report))
    facts = [f"{fact.name}={fact.value}{'*' if fact.assumed else ''}" for fact in report.profile if _is_known(fact)]
    yield from wrapped(f"policy {report.policy}; {' '.join(facts)}", "  ")
    if any(fact.assumed for fact in report.profile):
        yield "  * assumed, neither recorded nor given with --profile"
    yield from mismatches_text(report, paint)
    yield from facets_text(report, paint)
    orders = order_lines(report.orders)
    if orders:
        yield paint("bold", orders[0])
        yield from (f"  {line}" for paragraph in orders[1:] for line in wrapped(paragraph, ""))


def _is_known(fact: Fact) -> bool:
    """Tell whether a fact says something: an unknown vendor is an empty text, an unknown amount of memory 0 pages."""
    return bool(fact.value) and (fact.name, fact.value) != ("total_ram_pages", "0")


def facets_text(report: CheckReport, paint: Paint) -> Iterator[str]:
    """Yield what was compared, by kind, and what could not be, by reason."""
    if report.facets:
        yield paint("bold", "compared")
        rows = [("", "checked", "agree"), *((facet.name, f"{facet.checked:,}", f"{facet.agreed:,}") for facet in report.facets)]
        yield from (f"  {line}" for line in columns(rows))
    if report.reasons:
        yield paint("bold", f"not checkable: {report.not_checkable:,}")
        lines = columns([(f"{reason.count:,}", printable(reason.reason)) for reason in report.reasons], left=(1,))
        yield from (f"  {line}" for line in lines)


def verdict(report: CheckReport) -> str:
    """Say the answer in one sentence."""
    if not report.checked:
        return "cannot tell: nothing in the recording can be held against the model"
    if not report.release:
        return "cannot tell: the recorded kernel's release is not known; give it with --profile release=..."
    if report.losses:
        things = counted(report.losses, "thing is", "things are")
        return f"cannot tell: {things} lost or not understood, nobody knows where; {_compared(report)}"
    if report.orders is not None and report.orders.unclear and not report.mismatch_count:
        return f"cannot tell: calls overlap in time, and no order of them is known to fit; {_compared(report)}"
    if report.doubtful and not report.mismatch_count:
        facts = counted(report.doubtful, "fact lies", "facts lie")
        return f"cannot tell: {facts} behind what the recording does not show; {_compared(report)}"
    if report.cut_short and not report.mismatch_count:
        return f"cannot tell: only the front of the recording is there; {_compared(report)} in it"
    return _compared(report)


def _compared(report: CheckReport) -> str:
    if report.mismatch_count:
        found = f"{report.mismatch_count:,} of {counted(report.checked, 'comparison')}"
        front = "; only the front of the recording is there" if report.cut_short else ""
        return f"the kernel contradicts the model in {found}{_none_fits(report)}{front}"
    if report.checked == 1:
        return "model and kernel agree in the one comparison"
    return f"model and kernel agree in all {counted(report.checked, 'comparison')}"


def _none_fits(report: CheckReport) -> str:
    count = 0 if report.orders is None else report.orders.none_fits
    return f"; of {counted(count, 'group')} of overlapping calls no order fits" if count else ""


def mismatches_text(report: CheckReport, paint: Paint) -> Iterator[str]:
    """Yield the first mismatches with both sides and the rule."""
    if not report.mismatch_count:
        return
    yield paint("bold", "mismatches")
    for mismatch in report.mismatches[:MISMATCHES_SHOWN]:
        yield from _mismatch(mismatch)
    rest = report.mismatch_count - min(MISMATCHES_SHOWN, len(report.mismatches))
    if rest:
        yield f"  and {rest:,} more; --format json has up to {len(report.mismatches):,}"


def _mismatch(mismatch: Mismatch) -> Iterator[str]:
    line = "" if mismatch.line is None else f", line {mismatch.line}"
    vm = "" if mismatch.vm is None else f" VM {mismatch.vm}"
    what = f"{mismatch.what} {_SINCE}" if mismatch.facet == AREAS else mismatch.what
    yield f"  event {mismatch.event}{line}{vm}: {what}"
    yield f"    model:  {printable(mismatch.expected) or 'nothing'}{f' ({mismatch.rule})' if mismatch.rule else ''}"
    yield f"    kernel: {printable(mismatch.observed) or 'nothing'}"
    yield f"    source: {mismatch.source}"
