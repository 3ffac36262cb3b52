"""Say whether recordings are sound."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import refuse_closed_input
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_output

if TYPE_CHECKING:
    from replay.soundness import Soundness, VerifyReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", metavar="RECORDING", nargs="+", help="a recording (.kvmr, .jsonl), or - for standard input")
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.recording.verify import verify
    from replay.report.soundness_text import verify_text

    refuse_closed_input(args.inputs)
    with console.result(args.output, inputs=args.inputs) as out:
        report = verify_report([verify(name) for name in args.inputs])
        shapes = Shapes("verify", report, lambda paint: verify_text(report, paint))
        write_shape(args.format, shapes, out, console)
    for found in report.recordings:
        say_trouble(found, console)
    return TROUBLE if report.damaged or report.refused else CANNOT_TELL if report.torn else SAME


def verify_report(found: "list[Soundness]") -> "VerifyReport":
    """Return the report of some files."""
    from replay.soundness import STATES, VerifyReport

    counts = {state: sum(one.state == state for one in found) for state in STATES}
    return VerifyReport(recordings=tuple(found), **counts)


def say_trouble(found: "Soundness", console: Console) -> None:
    """Say on standard error what is wrong with a file: a tear is a warning, anything else the error that it is."""
    from replay.soundness import TORN

    if found.state == TORN:
        console.warn(found.trouble)
    elif found.code:
        console.error(found.code, found.trouble)
    if found.remarks:
        console.warn(found.remarks)


VERIFY: Final = Verb(
    name="verify",
    summary="say whether recordings are sound, down to the byte",
    description="""\
Read each recording to its end and hold every byte against checksums, chain, numbers and counts, and every event against its
schema. Says of each whether it is sound, torn (stops early; what is there is true), damaged or no recording at all, what of it
is whole, and what is lost. JSON Lines has no checksums: there, form and counts are all that can be verified.""",
    inputs="RECORDING: .kvmr or .jsonl, each for itself, or - ; traces are no recordings.",
    statuses={
        SAME: "every recording is sound",
        TROUBLE: "bad usage, or at least one is damaged, no recording, or can not be read",
        CANNOT_TELL: "none is damaged, and at least one is torn",
    },
    examples=("kvm-replay verify boot.kvmr", "kvm-replay verify --format json boot.kvmr"),
    add_arguments=_add_arguments,
    run=_run,
)
