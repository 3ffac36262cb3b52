"""Shape the result of `blame`: every event that made a page's tracking what it is, in each lane."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from replay.analyses.blame import Facts, LaneEffect, PageCause
from replay.analyses.certainty import CERTAIN, UNCERTAINTIES, certain
from replay.analyses.findings import Uncertainty
from replay.engine.lane import Lane
from replay.events.base import ByFields, Task, flag, sint, text, uint, uints, value, values
from replay.header import Header

SENTENCES_MAX: Final = 64


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Sentence(ByFields):
    """One change or warning, in words."""

    text: str = text("what changed, or what the kernel log says", length_max=512)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Effect(ByFields):
    """What an event did to the page in one lane; a lane in which it did nothing is left out."""

    lane: str = text("name of the lane", length_max=128)
    before: tuple[int, ...] = uints("counter of the page before, of each address space", length_max=2)
    after: tuple[int, ...] = uints("counter of the page after, of each address space", length_max=2)
    changes: tuple[Sentence, ...] = values("what else changed", Sentence, length_max=SENTENCES_MAX)
    warnings: tuple[Sentence, ...] = values("what the kernel would log", Sentence, length_max=SENTENCES_MAX)
    ret: int | None = sint("result of a call that failed in this lane", optional=True)
    why: str = text("the check or allocation that refused it", default="", length_max=512)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Cause(ByFields):
    """One event that did something to the page in some lane."""

    event: int = uint("number of the event in the recording, from 0")
    kind: str = text("kind of the event", length_max=64)
    vm: int = uint("number of the VM", bits=16)
    time_ns: int | None = sint("when it took effect, in the header's clock", unit="ns", optional=True)
    task: Task | None = value("thread that did it", Task)
    file: str = text("trace that it was read from, empty when not known", default="", length_max=255)
    line: int | None = uint("line there", optional=True)
    inferred: bool = flag("concluded by the importer from what was recorded")
    effects: tuple[Effect, ...] = values("what it did in each lane", Effect, length_max=64)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PageState(ByFields):
    """The page in one lane in the end."""

    lane: str = text("name of the lane", length_max=128)
    vm: int = uint("number of the VM", bits=16)
    as_id: int = uint("address space", bits=8)
    slot: int | None = uint("memslot that holds it, null for none", bits=16, optional=True)
    tracked: bool = flag("write tracking is enabled and the counter is not zero")
    count: int = uint("its counter", bits=16)
    array_site: str = text("who allocated the array of the counter, empty when there is none", default="", length_max=128)
    external_adds: int = uint("outstanding adds of external users, of all address spaces")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class BlameReport(ByFields):
    """What made a page what it is."""

    gfn: int = uint("guest frame number", unit="gfn")
    event: int = uint("number of the last event that was looked at")
    lanes: tuple[Sentence, ...] = values("names of the lanes", Sentence, length_max=64)
    pages: tuple[PageState, ...] = values(
        "the page then, in each lane, VM and address space that has it", PageState, length_max=1 << 20
    )
    earlier: bool = flag("there may be earlier causes: only the last ones were asked for")
    causes: tuple[Cause, ...] = values("events that did something to the page, the last one first", Cause, length_max=1 << 32)
    certain: bool = flag(CERTAIN, default=True)
    uncertainties: tuple[Uncertainty, ...] = values(UNCERTAINTIES, Uncertainty, length_max=1 << 20)


def blame_report(
    causes: Sequence[PageCause],
    facts: dict[int, Facts],
    lanes: Sequence[Lane],
    header: Header,
    *,
    gfn: int,
    event: int,
    earlier: bool,
    unknown: tuple[Uncertainty, ...] = (),
) -> BlameReport:
    """Return the result of `blame`; causes: the last one first; facts: what the lanes know of the page in the end, by VM."""
    names = [lane.name for lane in lanes]
    return BlameReport(
        gfn=gfn,
        event=event,
        lanes=tuple(Sentence(text=name) for name in names),
        pages=tuple(_pages(facts, names)),
        earlier=earlier,
        causes=tuple(_cause(cause, names, header) for cause in causes),
        certain=certain(unknown),
        uncertainties=unknown,
    )


def _pages(facts: dict[int, Facts], names: Sequence[str]) -> Iterator[PageState]:
    for vm in sorted(facts):
        for name, known in zip(names, facts[vm], strict=True):
            for as_id, slot in enumerate(known.slots if known is not None else ()):
                if known is None or (slot is None and not (known.held and not as_id)):
                    continue
                yield PageState(
                    lane=name,
                    vm=vm,
                    as_id=as_id,
                    slot=None if slot is None else slot.id,
                    tracked=known.enabled and slot is not None and slot.count > 0,
                    count=0 if slot is None else slot.count,
                    array_site="" if slot is None else slot.site,
                    external_adds=known.held,
                )


def _cause(cause: PageCause, names: Sequence[str], header: Header) -> Cause:
    event, source = cause.event, cause.event.source
    known = source is not None and source.file < len(header.sources)
    return Cause(
        event=cause.number,
        kind=event.KIND,
        vm=cause.vm,
        time_ns=event.time_ns,
        task=event.task,
        file=header.sources[source.file].name if source is not None and known else "",
        line=None if source is None else source.line,
        inferred=event.inferred,
        effects=tuple(_effect(effect, names) for effect in cause.effects),
    )


def _effect(effect: LaneEffect, names: Sequence[str]) -> Effect:
    return Effect(
        lane=names[effect.lane],
        before=effect.before,
        after=effect.after,
        changes=tuple(Sentence(text=change) for change in effect.changes),
        warnings=tuple(Sentence(text=warning) for warning in effect.warnings),
        ret=effect.ret,
        why=effect.why,
    )
