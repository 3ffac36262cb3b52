"""Say in text what keeps an answer from being certain."""

from collections.abc import Iterator, Sequence

from replay.analyses.findings import Uncertainty
from replay.report.finding_text import FINDINGS_SHOWN, wrapped
from replay.report.paint import Paint


def doubts_text(uncertainties: Sequence[Uncertainty], paint: Paint) -> Iterator[str]:
    """Yield the lines that close a report whose answer is not certain; none for one that is."""
    title, *lines = certainty_lines(uncertainties) or [""]
    if title:
        yield paint("yellow", title)
        yield from lines


def certainty_lines(uncertainties: Sequence[Uncertainty]) -> list[str]:
    """Return the doubts that matter, under a title."""
    return doubt_lines("what keeps the answer from being certain", [doubt for doubt in uncertainties if doubt.matters])


def doubt_lines(title: str, doubts: Sequence[Uncertainty]) -> list[str]:
    """Return doubts under a title; none for none."""
    if not doubts:
        return []
    lines = [title]
    for doubt in doubts[:FINDINGS_SHOWN]:
        first = doubt.place if doubt.first_event is None else f"event {doubt.first_event}"
        place = f" (first at {first})" if first else ""
        vm = "" if doubt.vm is None else f"VM {doubt.vm}: "
        times = f"{doubt.count:,} x " if doubt.count > 1 else ""
        lines.extend(wrapped(f"{vm}{times}{doubt.what}{place}", ""))
        lines.extend(wrapped(doubt.advice, "  -> ") if doubt.advice else [])
    rest = len(doubts) - FINDINGS_SHOWN
    return [*lines, *([f"and {rest} more; --format json has them all"] if rest > 0 else [])]
