"""Say which events made a page's write tracking what it is."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.lanes import add_lanes, lanes_of
from replay.cli.numbers import whole
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_inputs, add_no_index, add_output, told

GFN_BITS: Final = 52


def _gfn(text: str) -> int:
    try:
        gfn = int(text, 0)
    except ValueError:
        gfn = -1
    if not 0 <= gfn < 1 << GFN_BITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a guest frame number, such as 0x1000 or 4096")
    return gfn


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("--gfn", metavar="GFN", type=_gfn, required=True, help="the page: its guest frame number, e.g. 0x1000")
    parser.add_argument("--vm", metavar="N", type=whole(), help="the VM (default: every VM)")
    parser.add_argument("--as-id", metavar="N", type=int, choices=(0, 1), help="only this address space (default: both)")
    parser.add_argument("--at", metavar="EVENT", type=whole(), help="look at the page after this event (default: the last)")
    parser.add_argument("--last", metavar="COUNT", type=whole(), help="only the last COUNT events (default: all)")
    add_lanes(parser)
    add_no_index(parser)
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.blame_report import blame_report
    from replay.analyses.certainty import uncertainties
    from replay.analyses.uncertainty import Doubts
    from replay.cli.blaming import Asked, Page, blame
    from replay.report.blame_text import blame_text

    stream = open_inputs(args.inputs, console)
    lanes, silent = lanes_of(args, stream.header, console), Console(quiet=True)
    page = Page(args.gfn, args.vm, args.as_id, args.at, args.last)
    asked = Asked(lanes, Doubts(lanes, stream.header.machine), lambda: lanes_of(args, stream.header, silent))
    with console.result(args.output, inputs=args.inputs) as out:
        found = blame(stream, asked, page, console, use=not args.no_index)
        report = blame_report(
            found.causes,
            found.facts,
            lanes,
            stream.header,
            gfn=args.gfn,
            event=max(found.event, 0),
            earlier=found.earlier,
            unknown=uncertainties(asked.doubts, found.trailer, vm=args.vm),
        )
        events = {cause.number: cause.event for cause in found.causes}
        shapes = Shapes("blame", report, lambda paint: blame_text(report, events, stream.header, paint))
        write_shape(args.format, shapes, out, console)
    say_warnings(stream, console)
    return told(certain=report.certain)


BLAME: Final = Verb(
    name="blame",
    summary="say which events made a page's write tracking what it is",
    description="""\
List every event that did something to one guest page up to an event, the last one first, lane by lane: adds and removes with the
counter before and after, memslots that took the page in, moved or let it go, who allocated and freed the array of its counter,
what enabled write tracking, calls about it that failed, and each warning and KVM_BUG_ON. Of a long .kvmr with an index only the
parts that concern the page are replayed.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "the events are listed",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "they are listed, and there may be others: the recording lacks something up to that event",
    },
    examples=("kvm-replay blame boot.kvmr --gfn 0x1", "kvm-replay blame boot.kvmr --gfn 1 --at 9 --last 3 --format json"),
    add_arguments=_add_arguments,
    run=_run,
)
