"""Itemise what memslots cost under each policy, for a recording or for a layout."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.lanes import add_lanes, lanes_of
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_output, told
from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.analyses.cost import CostReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", metavar="RECORDING", nargs="*", help="a recording or traces of one run; none with --address-bits"
    )
    parser.add_argument("--address-bits", type=int, metavar="BITS", help="price memslots that cover 2^BITS bytes of guest memory")
    parser.add_argument(
        "--slots", type=int, metavar="N", help="with --address-bits: as N equal memslots (default: as few as KVM allows)"
    )
    add_lanes(parser)
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.report.cost_text import cost_text

    if bool(args.inputs) == (args.address_bits is not None):
        raise UsageError("cost prices a recording or a layout", expected="RECORDING, or --address-bits BITS, and not both")
    if args.slots is not None and args.address_bits is None:
        raise UsageError("--slots without --address-bits", expected="both, or a RECORDING alone")
    with console.result(args.output, inputs=args.inputs) as out:
        report = _priced_recording(args, console) if args.inputs else _priced_layout(args, console)
        shapes = Shapes("cost", report, lambda paint: cost_text(report, paint))
        write_shape(args.format, shapes, out, console)
    return told(certain=report.certain)


def _priced_layout(args: argparse.Namespace, console: Console) -> "CostReport":
    from replay.analyses.cost import layout_cost
    from replay.header import Header

    return layout_cost(args.address_bits, args.slots, lanes_of(args, Header(), console))


def _priced_recording(args: argparse.Namespace, console: Console) -> "CostReport":
    from replay.analyses.certainty import uncertainties
    from replay.analyses.compare import watched
    from replay.analyses.cost import recording_cost
    from replay.analyses.state_at import replay_to
    from replay.analyses.uncertainty import Doubts

    stream = open_inputs(args.inputs, console)
    lanes = lanes_of(args, stream.header, console)
    items, doubts = iter(console.progress("replaying").over(stream.items())), Doubts(lanes, stream.header.machine)
    replay_to(watched(items, stream), lanes, None, doubts=doubts)
    say_warnings(stream, console)
    return recording_cost(stream.header.title, lanes, uncertainties(doubts, stream.trailer(), arrays_only=True))


COST: Final = Verb(
    name="cost",
    summary="itemise what memslots cost in kernel memory",
    description="""\
Itemise every per-slot array (rmap, lpage_info, gfn_write_track, dirty bitmap, slot object) under each lane: as the code asks
for it, as the memory cgroup is charged, and with page-pointer arrays. For a recording: at its peak. For a layout of equal
memslots that cover 2^BITS bytes: when they are created, after a first notifier registration, after a first shadow root.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; none with --address-bits.",
    statuses={
        SAME: "the prices are written",
        TROUBLE: "bad usage, a layout that KVM refuses, or input that can not be read",
        CANNOT_TELL: "they are written, and may have been others: the recording lacks something",
    },
    examples=("kvm-replay cost --address-bits 39", "kvm-replay cost --address-bits 46 --slots 1024", "kvm-replay cost boot.kvmr"),
    add_arguments=_add_arguments,
    run=_run,
)
