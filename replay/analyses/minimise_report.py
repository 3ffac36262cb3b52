"""Shape the result of `minimise`: what is left of a recording, and what it still shows."""

import attrs

from replay.analyses.certainty import CERTAIN
from replay.analyses.minimise import Cause, Search
from replay.events.base import flag, text, uint, values


@attrs.frozen(kw_only=True)
class Word:
    """One part of what is shown."""

    text: str = text(
        "lanes, class, row of the catalogue, kind of event, title, cause; or facet, event, rule, model, kernel", length_max=4096
    )


@attrs.frozen(kw_only=True)
class MinimiseReport:
    """One recording that was cut down."""

    output: str = text("name of the new recording", length_max=4096)
    command: str = text("command line that shows it in the new recording", length_max=16384)
    events: int = uint("events in it")
    events_before: int = uint("events in the old one")
    verdict: str = text("verdict of `compare` or `check`, the same for both", length_max=32)
    shown: tuple[Word, ...] = values("what both show, in the words of the report", Word, length_max=16)
    minimal: bool = flag("each event that is left was tried, and is needed; false: the budget ran out before")
    tries: int = uint("recordings that were tried")
    replayed: int = uint("events that were replayed for it")
    certain: bool = flag(CERTAIN, default=True)


def minimise_report(output: str, command: str, search: Search, sought: Cause) -> MinimiseReport:
    """Return the result of a search that has run."""
    return MinimiseReport(
        output=output,
        command=command,
        events=search.events,
        events_before=search.events_before,
        verdict=search.whole.verdict,
        shown=tuple(Word(text=word) for word in sought.words if word),
        minimal=search.minimal,
        tries=search.tries,
        replayed=search.replayed,
        certain=search.whole.certain,
    )
