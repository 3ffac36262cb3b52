"""Print the events of a recording, one a line."""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.numbers import whole
from replay.cli.seeking import first_time_ns, skip_to
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_inputs, add_output, told
from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.events import Event
    from replay.header import Header
    from replay.runs import Item
    from replay.stream import Stream

GOLDEN: Final = "golden"
Numbered = tuple[int, "Event"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("--from", dest="first", metavar="EVENT", type=whole(), default=0, help="first event (default: 0)")
    parser.add_argument("--to", dest="last", metavar="EVENT", type=whole(), help="last event (default: the last one there is)")
    parser.add_argument(
        "--kind", metavar="KIND", action="append", help="only events of this kind, e.g. memslot.set; may be repeated"
    )
    parser.add_argument("--vm", metavar="N", type=whole(), help="only events of this VM")
    parser.add_argument("--source", action="store_true", help="say in text where in the trace each event was read")
    add_format(parser, "text", "jsonl", "json", GOLDEN)
    add_output(parser)


def chosen_codes(kinds: list[str] | None) -> frozenset[int] | None:
    """Return the numbers of the kinds, None for all kinds. Raises UsageError for a kind that there is not."""
    from replay.events import all_kinds, by_kind

    if not kinds:
        return None
    codes = []
    for kind in kinds:
        cls = by_kind(kind)
        if cls is None:
            raise UsageError(f"no kind of event is called {kind!r}", expected=", ".join(known.KIND for known in all_kinds()))
        codes.append(cls.CODE)
    return frozenset(codes)


def chosen(
    items: Iterable["Item"], *, first: int, last: int | None, codes: frozenset[int] | None, vm: int | None, number: int = 0
) -> Iterator[Numbered]:
    """Yield the chosen events with their numbers; reads no further than `last` and builds no event that is not chosen.

    number: that of the first event of the items.
    """
    from replay.runs import Run

    following = iter(items)
    while last is None or number <= last:
        item = next(following, None)
        if item is None:
            return
        if isinstance(item, Run):
            rows = range(max(0, first - number), len(item) if last is None else min(len(item), last + 1 - number))
            for row in rows:
                if (codes is None or item.kind[row] in codes) and (vm is None or item.vm[row] == vm):
                    yield number + row, item.event_at(row)
            number += len(item)
            continue
        if number >= first and (codes is None or item.CODE in codes) and (vm is None or getattr(item, "vm", None) == vm):
            yield number, item
        number += 1


class Origin:
    """Remember the first time that a recording has, whichever of its events are chosen, and how far it was read.

    number: that of the first event of the items.
    """

    def __init__(self, time_ns: int | None = None, number: int = 0) -> None:
        self.time_ns = time_ns
        self.events = number

    def over(self, items: Iterable["Item"]) -> Iterator["Item"]:
        """Yield the items as they are."""
        from replay.runs import Run

        for item in items:
            self.events += len(item) if isinstance(item, Run) else 1
            if self.time_ns is None:
                times = item.time_ns if isinstance(item, Run) else (item.time_ns,)
                self.time_ns = next((time_ns for time_ns in times if time_ns is not None), None)
            yield item


class Whole:
    """Tell whether all events that were asked for are there: read up to the last of them, or a recording with its end."""

    def __init__(self, stream: "Stream", origin: Origin, last: int | None) -> None:
        self._stream, self._origin, self._last = stream, origin, last

    def __call__(self) -> bool:
        """Ask when the events have been printed."""
        enough = self._last is not None and self._origin.events > self._last
        return enough or not self._stream.trailer().cut_short()


class Counted:
    """Count the events that are printed."""

    def __init__(self) -> None:
        self.events = 0

    def over(self, events: Iterable[Numbered]) -> Iterator[Numbered]:
        """Yield the events as they are."""
        for event in events:
            self.events += 1
            yield event


def _run(args: argparse.Namespace, console: Console) -> int:
    if args.last is not None and args.last < args.first:
        raise UsageError(f"--to {args.last} is before --from {args.first}")
    if args.format == GOLDEN and (args.first or args.last is not None or args.kind or args.vm is not None):
        raise UsageError(f"--format {GOLDEN} with a choice of events", expected="all of them: its lines refer to each other")
    from replay.header import CUT_SHORT_TEXT

    codes = chosen_codes(args.kind)
    stream = open_inputs(args.inputs, console)
    with console.result(args.output, inputs=args.inputs) as out:
        start = skip_to(stream, args.first)
        origin, counted = Origin(first_time_ns(stream, start) if args.format == "text" else None, start), Counted()
        whole = Whole(stream, origin, args.last)
        items = origin.over(console.progress("reading").over(stream.items()))
        events = counted.over(chosen(items, first=args.first, last=args.last, codes=codes, vm=args.vm, number=start))
        if args.format == GOLDEN:
            out.writelines(_golden(events, stream))
        elif args.format == "text":
            out.writelines(_text(events, origin, stream.header if args.source else None))
        else:
            out.writelines(_jsonl(events) if args.format == "jsonl" else _json(events, whole))
    say_warnings(stream, console)
    if not counted.events:
        console.note("no event was chosen")
    if not whole() and not stream.warnings():
        console.warn(CUT_SHORT_TEXT)
    return told(certain=whole())


def _golden(events: Iterable[Numbered], stream: "Stream") -> Iterator[str]:
    from replay.recording.golden_lines import EVENTS, INDENT, Canon, head_lines, tail_lines

    canon = Canon()
    yield from (f"{line}\n" for line in head_lines(stream.header))
    yield f"\n{EVENTS}:\n"
    for number, event in events:
        yield f"{INDENT}{canon.line(event, number)}\n"
    yield from (f"{line}\n" for line in tail_lines(stream.trailer()))


def _text(events: Iterable[Numbered], origin: Origin, header: "Header | None") -> Iterator[str]:
    from replay.report.event_text import event_text, source_text

    for number, event in events:
        place = f"  [{source_text(event.source, header)}]" if header is not None else ""
        yield f"{event_text(number, event, since_ns=origin.time_ns)}{place}\n"


def _jsonl(events: Iterable[Numbered]) -> Iterator[str]:
    from replay.recording.named import event_to_named
    from replay.report.json_text import line

    for number, event in events:
        yield line({"number": number, **event_to_named(event)})


def _json(events: Iterable[Numbered], whole: Whole) -> Iterator[str]:
    from replay.report.json_text import schema_id

    yield f'{{"schema": "{schema_id("dump")}", "events": ['
    separator = "\n"
    for text in _jsonl(events):
        yield separator + text.rstrip("\n")
        separator = ",\n"
    yield f'\n], "cut_short": {"false" if whole() else "true"}}}\n'


DUMP: Final = Verb(
    name="dump",
    summary="print the events of a recording, one a line",
    description="""\
Print the events of a recording or trace, one a line, numbered from 0 as in every report. Text is for people and for `git diff`;
jsonl is one object an event, json one document. Times in text count from the first time in the recording. Of a .kvmr file, only
the blocks from --from to --to are read. golden is the text that a golden file lists: without places, numbers of threads and
times, so that two recordings of one workload read alike; it is itself a recording for every verb, and what `git diff` should
show (docs/goldens.md).""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "the events are printed",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "those that are there are printed; the recording is torn, or was saved from a damaged one",
    },
    examples=(
        "kvm-replay dump boot.kvmr --kind memslot.set --to 99",
        "kvm-replay dump boot.kvmr --vm 0 --format jsonl",
        "kvm-replay dump --format golden boot.kvmr",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
