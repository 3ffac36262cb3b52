"""Say in text what made a page's tracking what it is."""

from collections.abc import Iterator, Mapping

from replay.analyses.blame_report import BlameReport, Cause, Effect, PageState
from replay.events import Event
from replay.header import Header
from replay.report.doubt_text import doubts_text
from replay.report.event_text import event_text, source_text
from replay.report.paint import Paint
from replay.report.plain import printable
from replay.units import ret_text


def blame_text(report: BlameReport, events: Mapping[int, Event], header: Header, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report; events: those of its causes, by number."""
    paint = paint or Paint()
    yield paint("bold", f"gfn {report.gfn:#x} after event {report.event}")
    for what, lanes in _alike([(page.lane, _page(page)) for page in report.pages]):
        yield f"  {lanes}: {what}"
    if not report.pages:
        yield "  no memslot holds it in any lane"
    if not report.causes:
        yield "no event did anything to it"
    for cause in report.causes:
        yield from _cause(cause, events[cause.event], header, paint)
    if report.earlier:
        yield "earlier events did more to it; --last shows more of them"
    yield from doubts_text(report.uncertainties, paint)


def _page(page: PageState) -> str:
    where = f"vm {page.vm}" + (f" as {page.as_id}" if page.as_id else "")
    if page.slot is None:
        return f"{where}, in no memslot, {page.external_adds} outstanding adds of external users"
    array = f"array by {page.array_site}()" if page.array_site else "no gfn_write_track"
    tracked = "write-tracked" if page.tracked else "not write-tracked"
    held = f", {page.external_adds} outstanding adds of external users" if page.external_adds and not page.as_id else ""
    return f"{where}, memslot {page.slot}, {tracked}, count {page.count}, {array}{held}"


def _cause(cause: Cause, event: Event, header: Header, paint: Paint) -> Iterator[str]:
    place = f"  [{source_text(event.source, header)}]" if event.source is not None else ""
    yield event_text(cause.event, event) + place
    for what, lanes in _alike([(effect.lane, _effect(effect)) for effect in cause.effects]):
        style = "red" if any(effect.warnings for effect in cause.effects) else "dim"
        yield f"  {paint(style, lanes)}: {what}"


def _effect(effect: Effect) -> str:
    words = [f"{printable(warning.text)}" for warning in effect.warnings]
    words += [
        f"count{f' of address space {as_id}' if as_id else ''} {before} -> {after}"
        for as_id, (before, after) in enumerate(_paired(effect))
        if before != after
    ]
    words += [printable(change.text) for change in effect.changes]
    if effect.ret is not None:
        words.append(f"{ret_text(effect.ret)}{f' ({printable(effect.why)})' if effect.why else ''}")
    return "; ".join(words)


def _paired(effect: Effect) -> list[tuple[int, int]]:
    spaces = range(max(len(effect.before), len(effect.after)))
    return [tuple(side[as_id] if as_id < len(side) else 0 for side in (effect.before, effect.after)) for as_id in spaces]  # type: ignore[misc]


def _alike(said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return each text once, with the names of all lanes that it holds for."""
    lanes: dict[str, list[str]] = {}
    for lane, what in said:
        lanes.setdefault(what, []).append(printable(lane))
    return [(what, ", ".join(names)) for what, names in lanes.items()]
