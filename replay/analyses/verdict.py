"""Turn findings and doubts into a verdict and its sentence."""

from collections.abc import Iterator
from typing import Final

import attrs

from replay.analyses.compare_report import CANNOT_TELL, DIVERGENCE, SAME, CompareReport, LaneReport, PairReport
from replay.analyses.findings import BYTES_ONLY, ENOMEM_GONE, ENOMEM_MOVED, ENOMEM_NEW, MEANINGS, Uncertainty
from replay.analyses.uncertainty import SHADOW_PAGES
from replay.units import bytes_text, counted

_REASONS: Final = {
    "D26": "tdp is off, so write tracking is enabled from the start in every lane (D26)",
    "D27": "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=n leaves the lanes the same expression (D27)",
}


def conclude(draft: CompareReport) -> CompareReport:
    """Return the report with its verdict.

    Cannot tell stands above divergence: what was found is true, but "nothing stronger" can not be claimed.
    """
    pairs = judged_pairs(draft)
    found = [pair for pair in pairs if pair.strongest or any(c.behind_horizon for c in pair.classes)]
    verdict = CANNOT_TELL if any(doubt.matters for doubt in draft.uncertainties) else DIVERGENCE if found else SAME
    return attrs.evolve(draft, verdict=verdict, sentence=" ".join(_sentences(draft, found)))


def judged_pairs(report: CompareReport) -> list[PairReport]:
    """Return the pairs that the verdict rests on: those of two kernels, all when there are none."""
    return [pair for pair in report.pairs if not pair.bound] or list(report.pairs)


def _sentences(draft: CompareReport, found: list[PairReport]) -> list[str]:
    lines = []
    doubts = [doubt for doubt in draft.uncertainties if doubt.matters]
    if doubts:
        lines.append(_doubt_sentence(doubts))
    by_name = {lane.name: lane for lane in draft.lanes}
    lines.extend(_pair_sentences(found, by_name))
    if not found and draft.pairs:
        lines.append(_same_sentence(draft))
    bounds = [lane for lane in draft.lanes if not lane.kernel]
    lines.extend(f"{lane.name}, which is no kernel, needs at most {_charged(lane)}." for lane in bounds)
    return lines


def _doubt_sentence(doubts: list[Uncertainty]) -> str:
    first, more = doubts[0], len(doubts) - 1
    rest = f", and {counted(more, 'more doubt')}" if more else ""
    sentence = f"Cannot tell for certain: {first.what}{rest}"
    if all(doubt.affects == SHADOW_PAGES for doubt in doubts):
        sentence += "; only shadow pages and their counts are concerned: results of memslot calls and bytes of their arrays hold"
    return sentence + "."


_OTHER: Final = "\0"


def _pair_sentences(pairs: list[PairReport], lanes: dict[str, LaneReport]) -> list[str]:
    """Return a sentence for each pair; pairs of which the same is to be said share one."""
    others: dict[str, list[str]] = {}
    for pair in pairs:
        named = lanes | {_OTHER: attrs.evolve(lanes[pair.other], name=_OTHER)}
        others.setdefault(_pair_sentence(attrs.evolve(pair, other=_OTHER), named), []).append(pair.other)
    return [sentence.replace(_OTHER, "/".join(names)) for sentence, names in others.items()]


def _pair_sentence(pair: PairReport, lanes: dict[str, LaneReport]) -> str:
    names = f"{pair.reference} and {pair.other}"
    if not pair.strongest:
        return f"{names} differ only behind the horizon: after a result that parts from the recorded one."
    saved = _saving(lanes[pair.reference], lanes[pair.other])
    if pair.strongest == BYTES_ONLY:
        return f"{names} differ in bytes only: {saved}; nothing that userspace or a guest is told differs."
    counted = next(count for count in pair.classes if count.divergence == pair.strongest)
    said = [f"{pair.strongest} ({MEANINGS[pair.strongest]}), first at event {counted.first_event}", *_enomem(pair)]
    said += [f"none of {pair.ruled_out}"] if pair.ruled_out else []
    return f"{names}: {'; '.join([*said, saved])}."


def _enomem(pair: PairReport) -> Iterator[str]:
    """Say which calls fail with -ENOMEM in one lane and not in the other: the first of each class."""
    lanes = (pair.reference, pair.other)
    for name in (ENOMEM_MOVED, ENOMEM_NEW, ENOMEM_GONE):
        first = next((f for f in pair.findings if f.divergence == name and not f.behind_horizon), None)
        if first is None:
            continue
        if name == ENOMEM_MOVED:
            calls = [f"{side.kind} at event {side.event} under {lane}" for side, lane in zip(first.sides, lanes, strict=True)]
            yield f"-ENOMEM moves from {calls[0]} to {calls[1]}"
        else:
            yield f"-ENOMEM from {first.kind} at event {first.event} under {lanes[name == ENOMEM_NEW]} only"


def _saving(reference: LaneReport, other: LaneReport) -> str:
    a, b = reference.write_track, other.write_track
    if a.charged_peak_bytes == b.charged_peak_bytes:
        return f"write tracking takes at most {bytes_text(a.charged_peak_bytes)} under either"
    return (
        f"write tracking takes at most {bytes_text(a.charged_peak_bytes)} under {reference.name} and "
        f"{bytes_text(b.charged_peak_bytes)} under {other.name}"
    )


def _charged(lane: LaneReport) -> str:
    return bytes_text(lane.write_track.charged_peak_bytes)


def _same_sentence(draft: CompareReport) -> str:
    lanes = [lane for lane in draft.lanes if lane.kernel] or list(draft.lanes)
    names = " and ".join(lane.name for lane in lanes) if len(lanes) < 3 else f"all {len(lanes)} lanes"
    reasons = [_REASONS[agreement.catalogue] for agreement in draft.agreements if agreement.catalogue in _REASONS]
    if not reasons and all(not lane.write_track.allocations for lane in lanes):
        reasons = ["no memslot needed write tracking"]
    return f"No divergence between {names}" + (f": {'; '.join(reasons)}." if reasons else ".")
