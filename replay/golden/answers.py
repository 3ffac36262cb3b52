"""Say what `compare` and `check` found in lines of a golden file: facts only, one a line, in one order, no prose that explains.

Left out is what differs between two recordings of the same (places in traces, thread numbers, nanoseconds) and what the
catalogue says in words. Each answer ends in a digest of all its lines, those that are not listed included.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.check_report import CHECK_WORDS, CheckReport
from replay.analyses.compare_report import Bytes, CompareReport, Fact, LaneReport, PairReport
from replay.analyses.findings import Finding, Side, Uncertainty
from replay.recording.golden_lines import INDENT
from replay.report.plain import printable
from replay.units import ret_text

FINDINGS_SHOWN: Final = 20
"""Most findings of a pair, and mismatches of a check, that a golden without events lists."""
DIGEST: Final = "digest"
VERDICT: Final = "verdict"
AND_MORE: Final = "and more"
_DIGEST_BYTES: Final = 8

Block = list[str]
"""A line, and those that stand indented below it."""


def compare_lines(report: CompareReport, shown: int | None) -> list[str]:
    """Return the answer to a question of `compare`. shown: most findings of a pair to list, None for all."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    lines = [f"{VERDICT}: {report.verdict}"]
    lines += [_doubt(doubt) for doubt in report.uncertainties]
    lines += [f"agree, {a.catalogue}: {_times(a.count, a.first_event)}" for a in report.agreements]
    lines += [f"profile: {_facts(lane.profile)}" for lane in report.lanes[:1]]
    for lane in report.lanes:
        lines += _lane(lane, report.lanes[0].profile)
    _digested(lines, digest)
    for pair in report.pairs:
        lines += _pair(pair, shown, digest)
    return [*lines, f"{DIGEST}: {digest.hexdigest()}"]


def check_lines(report: CheckReport, shown: int | None) -> list[str]:
    """Return the answer to a question of `check`. shown: most mismatches to list, None for all that the report has."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    lines = [f"{VERDICT}: {CHECK_WORDS[report.status()]}", f"policy: {report.policy}", f"profile: {_facts(report.profile)}"]
    lines += [f"{facet.name}: {facet.agreed} of {facet.checked} agree" for facet in report.facets]
    lines += [f"not checkable, {_flat(r.reason)}: {_times(r.count, r.first_event)}" for r in report.reasons]
    _digested(lines, digest)
    blocks = [
        [
            f"event {m.event} {_flat(m.what)}: {_flat(m.rule) or 'its own result'}",
            f"{INDENT}model: {_flat(m.expected)}",
            f"{INDENT}kernel: {_flat(m.observed)}",
        ]
        for m in report.mismatches
    ]
    lines += _listed(blocks, report.mismatch_count, shown, digest)
    return [*lines, f"{DIGEST}: {digest.hexdigest()}"]


def _digested(lines: Sequence[str], digest: "hashlib.blake2b") -> None:
    digest.update("".join(f"{line}\n" for line in lines).encode())


def _listed(blocks: Sequence[Block], count: int, shown: int | None, digest: "hashlib.blake2b") -> list[str]:
    """Return the first blocks, numbered where two begin alike, and how many more there are; digest all."""
    lines, seen = list[str](), dict[str, int]()
    for place, (first, *rest) in enumerate(blocks):
        label, colon, value = first.partition(": ")
        seen[label] = seen.get(label, 0) + 1
        block = [f"{label} ({seen[label]}){colon}{value}" if seen[label] > 1 else first, *rest]
        _digested(block, digest)
        if shown is None or place < shown:
            lines += block
    more = count - (len(blocks) if shown is None else min(shown, len(blocks)))
    return [*lines, f"{AND_MORE}: {more}"] if more else lines


def _flat(text: str) -> str:
    return printable(text).strip()


def _times(count: int, first_event: int | None) -> str:
    place = "the whole recording" if first_event is None else f"first at event {first_event}"
    return f"{count} x, {place}" if count > 1 else place.removeprefix("first at ")


def _doubt(doubt: Uncertainty) -> str:
    vm = "" if doubt.vm is None else f" vm {doubt.vm},"
    return f"{'doubt' if doubt.matters else 'not known'},{vm} {_flat(doubt.what)}: {_times(doubt.count, doubt.first_event)}"


def _facts(facts: Sequence[Fact]) -> str:
    return " ".join(f"{fact.name}={_flat(fact.value)}{'*' if fact.assumed else ''}" for fact in facts if fact.value)


def _lane(lane: LaneReport, profile: Sequence[Fact]) -> Iterator[str]:
    """Yield the totals of one lane. profile: that of the first lane, which need not be said again."""
    kind = "factual" if lane.factual else "counterfactual" if lane.kernel else "no kernel"
    yield f"{lane.name}: policy {lane.policy}, {kind}, {lane.checked} results held against it"
    if lane.profile != profile:
        yield f"{INDENT}profile: {_facts(lane.profile)}"
    if lane.horizon is not None:
        h = lane.horizon
        yield (
            f"{INDENT}horizon: event {h.event} {h.kind}, recorded {ret_text(h.recorded)}, here {ret_text(h.model)} "
            f"({_flat(h.why) or 'its own result'}), {h.differing} differ"
        )
    yield from (f"{INDENT}{held.array}: {_bytes(held)}" for held in lane.arrays if held.allocations)
    for e in lane.exposure:
        yield (
            f"{INDENT}-ENOMEM from {e.call}: {e.calls} calls, {e.arrays} arrays, {e.nominal_bytes} bytes, "
            f"largest {e.largest_bytes}, {e.failed} failed"
        )
    yield from (f"{INDENT}kernel warns, {_flat(count.name)}: {count.count} x" for count in lane.warnings)
    yield from (f"{INDENT}not replayed, {_flat(count.name)}: {count.count} x" for count in lane.skipped)


def _bytes(held: Bytes) -> str:
    return (
        f"{held.allocations} made, {held.live} left; "
        f"peak {held.nominal_peak_bytes}, charged {held.charged_peak_bytes}, real {held.real_peak_bytes}; "
        f"ever {held.nominal_total_bytes}; end {held.nominal_end_bytes}"
    )


def _pair(pair: PairReport, shown: int | None, digest: "hashlib.blake2b") -> list[str]:
    strongest = pair.strongest or ("behind the horizon only" if pair.classes else "nothing")
    head = [f"{pair.other} against {pair.reference}: {strongest}"]
    for count in pair.classes:
        behind = f", {count.behind_horizon} behind the horizon" if count.behind_horizon else ""
        head.append(f"{INDENT}{count.divergence}: {count.count}{behind}, first at event {count.first_event}")
    _digested(head, digest)
    blocks = [_finding(finding) for finding in pair.findings]
    found = len(blocks) + pair.findings_omitted
    return [*head, *(f"{INDENT}{line}" for line in _listed(blocks, found, shown, digest))]


def _finding(finding: Finding) -> Block:
    f = finding
    place = "" if f.vm is None else f" vm {f.vm}"
    place += "" if f.slot is None else f" slot {f.slot} as {f.as_id}"
    place += "" if f.gfn is None else f" gfn {f.gfn:#x}"
    size = f", {f.nominal_bytes:+} bytes ({f.charged_bytes:+} charged)" if f.array else ""
    rows = "".join(f" {row}" for row in dict.fromkeys(aspect.catalogue for aspect in f.aspects))
    also = f", also{rows}" if rows else ""
    behind = ", behind the horizon" if f.behind_horizon else ""
    first = f"event {f.event} {f.kind}{place}, {f.catalogue or _flat(f.title)}: {f.divergence}{size}{also}{behind}"
    return [first, *(f"{INDENT}{side.lane}: {_side(side)}" for side in f.sides), f"{INDENT}course: {_course(f)}"]


def _side(side: Side) -> str:
    words = [] if side.event is None else [f"event {side.event} {side.kind}".rstrip()]
    did = _flat(side.did)
    words += [] if side.ret is None or did.startswith(ret_text(side.ret)) else [ret_text(side.ret)]
    words += [f"{side.site}()"] if side.site else []
    return ", ".join([*words, did])


def _course(f: Finding) -> str:
    words = [f"parts at event {f.root_cause_event}"]
    words.append("never visible" if f.visible_event is None else f"visible at event {f.visible_event}")
    words.append("never alike again" if f.converged_event is None else f"alike again at event {f.converged_event}")
    return ", ".join(words)
