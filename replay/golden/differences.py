"""Hold two golden files against each other, place by place: which event, which class, which lane, before and after."""

import re
from collections.abc import Iterator
from typing import Final

from replay.analyses.golden_report import GoldenDetail, GoldenDifference
from replay.golden.answers import DIGEST
from replay.golden.parsed import Entry, Parsed, Path
from replay.recording.golden_lines import EVENTS, QUESTIONS

_EVENT: Final = re.compile(r"event (\d+) ")
EVENTS_SHOWN: Final = 20
"""Most events of a stretch that differs which are shown on either side."""
Pair = tuple[Entry | None, Entry | None]


def differences(old: Parsed, new: Parsed, *, events_too: bool) -> list[GoldenDifference]:
    """Return where two golden files differ, in their order. events_too: the events are an answer too, not what people wrote.

    Of each question the findings come first. A digest that differs is shown when nothing else does. Cost: O(lines), one look at
    each line of either.
    """
    found = list(_of_events(old, new)) if events_too else []
    groups: dict[Path, list[Pair]] = {}
    digests: list[Pair] = []
    for pair in _pairs(old, new, events_too=events_too):
        one = pair[0] or pair[1]
        assert one is not None
        if one.path[-1] == DIGEST:
            digests.append(pair)
        else:
            groups.setdefault(_group(one.path), []).append(pair)
    found += [_difference(group, pairs) for group, pairs in groups.items()]
    said = {difference.question for difference in found}
    found += [_difference(_group(e.path), [pair]) for pair in digests if (e := pair[0] or pair[1]) and e.path[0] not in said]
    order = {question: place for place, question in enumerate(dict.fromkeys(difference.question for difference in found))}
    return sorted(found, key=lambda difference: (order[difference.question], difference.event is None))


def _pairs(old: Parsed, new: Parsed, *, events_too: bool) -> Iterator[Pair]:
    """Yield the lines that differ, those of the old file in their order, then those that only the new one has."""
    wanted = [[e for e in parsed.entries if _asked(e.path, events_too=events_too)] for parsed in (old, new)]
    after = {entry.path: entry for entry in wanted[1]}
    before = {entry.path for entry in wanted[0]}
    for entry in wanted[0]:
        other = after.get(entry.path)
        if other is None or other.value != entry.value:
            yield entry, other
    for entry in wanted[1]:
        if entry.path not in before:
            yield None, entry


def _asked(path: Path, *, events_too: bool) -> bool:
    if path[0].partition(":")[0] in QUESTIONS:
        return True
    return events_too and not (path[0] == EVENTS and len(path) > 1)


def _group(path: Path) -> Path:
    """Return the place that a line belongs to: a finding with its lanes, a lane with its arrays, a pair with its counts."""
    for depth, label in enumerate(path, 1):
        if _EVENT.match(label):
            return path[:depth]
    return path[:2] if len(path) > 2 else path


def _difference(group: Path, pairs: list[Pair]) -> GoldenDifference:
    place = group[1:] if group[0].partition(":")[0] in QUESTIONS else group
    event = next((int(found.group(1)) for label in place if (found := _EVENT.match(label))), None)
    return GoldenDifference(
        question=group[0] if place is not group else "",
        place=", ".join(place),
        event=event,
        line=next((old.number for old, _new in pairs if old is not None), 0),
        details=tuple(_detail(pair, len(group)) for pair in pairs),
    )


def _detail(pair: Pair, depth: int) -> GoldenDetail:
    old, new = pair
    one = old or new
    assert one is not None
    return GoldenDetail(
        what=", ".join(one.path[depth:]),
        before=None if old is None else old.value,
        after=None if new is None else new.value,
    )


def _of_events(old: Parsed, new: Parsed) -> Iterator[GoldenDifference]:
    """Yield the stretch of events that differs, what is alike before and behind it left out."""
    sides = [[entry for entry in parsed.entries if entry.path[0] == EVENTS and len(entry.path) > 1] for parsed in (old, new)]
    texts = [[_event_text(entry) for entry in entries] for entries in sides]
    if not (old.listed and new.listed):
        texts = [[f"{entry.path[-1]}: {entry.value}" for entry in entries] for entries in sides]
    if texts[0] == texts[1]:
        return
    shorter = min(len(texts[0]), len(texts[1]))
    first = next((i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter)
    behind = next((i for i in range(shorter - first) if texts[0][-1 - i] != texts[1][-1 - i]), shorter - first)
    cut = [side[first : len(side) - behind] for side in texts]
    line = sides[0][first].number if first < len(sides[0]) else 0
    place = f"events from {first} on" if old.listed and new.listed else "events by kind"
    details = [GoldenDetail(what="", before=text, after=None) for text in _some(cut[0])]
    details += [GoldenDetail(what="", before=None, after=text) for text in _some(cut[1])]
    yield GoldenDifference(question="", place=place, event=first if old.listed else None, line=line, details=tuple(details))


def _event_text(entry: Entry) -> str:
    bare = re.sub(r" \(\d+\)$", "", entry.path[-1])
    return f"{bare}  # {entry.value}" if entry.value else bare


def _some(texts: list[str]) -> list[str]:
    return [*texts[:EVENTS_SHOWN], f"and {len(texts) - EVENTS_SHOWN} more"] if len(texts) > EVENTS_SHOWN else texts
