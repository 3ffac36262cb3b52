"""Say in text what was found of calls that overlap in time."""

from collections.abc import Iterator, Sequence
from typing import Final

from replay.analyses.order_report import CANNOT_TELL, NONE_FITS, REORDERED, OrderGroup, OrderReport
from replay.units import counted

GROUPS_SHOWN: Final = 12
"""Most groups that get their own lines; JSON has more."""
EVENTS_SHOWN: Final = 24


def order_lines(report: OrderReport | None) -> list[str]:
    """Return the section on overlapping calls, its title first; nothing when there are none."""
    if report is None:
        return []
    lines = ["calls that overlap in time", _counts(report)]
    for group in report.listed[:GROUPS_SHOWN]:
        lines.extend(f"{_name(group)}: {words}" for words in _said(group))
    rest = len(report.listed) - GROUPS_SHOWN
    return [*lines, *([f"and {counted(rest, 'more group')}; --format json has them"] if rest > 0 else [])]


def _counts(report: OrderReport) -> str:
    words = {
        "replayed in recorded order": report.recorded,
        "replayed in another order": report.reordered,
        "of which no order fits": report.none_fits,
        "of which it can not be told": report.undecided,
        "in recorded order unjudged, for want of the recorded kernel's lane or of the VM's past": report.unjudged,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in words.items() if count)
    calls = f"{counted(report.calls, 'call')} in {counted(report.groups, 'group')}"
    return f"{calls}, at most {report.largest:,} in one: {said}"


def _name(group: OrderGroup) -> str:
    vm = "all VMs" if group.vm is None else f"VM {group.vm}"
    return f"{vm} events {_numbers(group.events)}"


def _tried(group: OrderGroup) -> str:
    return f"({counted(group.tried, 'call')} tried)"


def _said(group: OrderGroup) -> Iterator[str]:
    """Yield what there is to say of one group."""
    if group.fits == REORDERED:
        yield f"replayed as {_numbers(group.chosen)}; as recorded they can not have had their results"
    elif group.fits == NONE_FITS:
        yield f"none of their orders gives the recorded results {_tried(group)}"
    elif group.fits == CANNOT_TELL:
        yield f"it can not be told whether some order gives the recorded results: {group.why} {_tried(group)}"
    if group.differing:
        same = "" if group.matters else "; the lanes part in the same way then"
        yield f"another order fits as well, in which something else is done by {_numbers(group.differing)}{same}"
    if group.open_end:
        yield "orders that fit lead to different states, and nothing recorded tells which it was"
    if not group.complete and group.fits != CANNOT_TELL:
        yield f"not all orders were tried: {group.why}"


def _numbers(numbers: Sequence[int]) -> str:
    """Return numbers of events in a line, runs of them as a range.

    >>> _numbers([3, 4, 5, 9])
    '3-5, 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}, {run[1]}" if len(run) == 2 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words[:EVENTS_SHOWN]) + (", ..." if len(words) > EVENTS_SHOWN else "")
