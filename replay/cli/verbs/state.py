"""Show the state of the lanes after one event."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.lanes import add_lanes, lanes_of
from replay.cli.numbers import whole
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_inputs, add_no_index, add_output, told


def _event(text: str) -> int | None:
    if text == "end":
        return None
    return whole("an event number")(text)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--at",
        type=_event,
        default=None,
        metavar="EVENT",
        help="show the state after this event, from 0 (default: end, all of them)",
    )
    add_lanes(parser)
    add_no_index(parser)
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.certainty import uncertainties
    from replay.analyses.compare import watched
    from replay.analyses.state_report import state_report
    from replay.analyses.uncertainty import Doubts
    from replay.cli.indexed import replay_indexed
    from replay.cli.seeking import trailer_behind
    from replay.report.state_text import state_text

    stream = open_inputs(args.inputs, console)
    lanes = lanes_of(args, stream.header, console)
    with console.result(args.output, inputs=args.inputs) as out:
        items, doubts = iter(console.progress("replaying").over(stream.items())), Doubts(lanes, stream.header.machine)
        last = replay_indexed(stream, watched(items, stream), lanes, args.at, console, use=not args.no_index, doubts=doubts)
        trailer = stream.trailer() if args.at is None else trailer_behind(stream, items, last, console)
        report = state_report(lanes, last, uncertainties(doubts, trailer))
        shapes = Shapes("state", report, lambda paint: state_text(report, paint))
        write_shape(args.format, shapes, out, console)
    say_warnings(stream, console)
    return told(certain=report.certain)


STATE: Final = Verb(
    name="state",
    summary="show what the lanes hold after one event",
    description="""\
Replay up to one event and show the state of every lane: VMs, flags, memslots in the kernel's own iteration order with every
array, write-track counters that are not zero, notifiers, memory, and a digest of it all. A long .kvmr is replayed from the
nearest checkpoint of its index, which is made on first use; see `kvm-replay index --help`.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "the state is written",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "it is written, and may have been another: the recording lacks something up to that event",
    },
    examples=("kvm-replay state --at 7 boot.kvmr", "kvm-replay state --lanes 6.9 --format json boot.kvmr"),
    add_arguments=_add_arguments,
    run=_run,
)
