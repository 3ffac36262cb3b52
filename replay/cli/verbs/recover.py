"""Save what is whole of a torn or damaged recording."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.inputs import refuse_closed_input
from replay.cli.outputs import check_file_output
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format
from replay.cli.verbs.verify import say_trouble


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="RECORDING", help="a recording (.kvmr, .jsonl), or - for standard input")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the new recording: NAME.kvmr or NAME.jsonl")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    add_format(parser, "text", "json", "jsonl")


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.recording.recover import recover
    from replay.report.soundness_text import recover_text

    refuse_closed_input([args.input])
    check_file_output(args.output, [args.input], force=args.force)
    report = recover(args.input, args.output, overwrite=args.force)
    with console.result() as out:
        shapes = Shapes("recover", report, lambda paint: recover_text(report, paint))
        write_shape(args.format, shapes, out, console)
    if report.source is not None:
        say_trouble(report.source, console)
    return SAME if report.complete else CANNOT_TELL


RECOVER: Final = Verb(
    name="recover",
    summary="save what is whole of a torn or damaged recording",
    description="""\
Write the longest true prefix of a recording into a new, complete one: whole blocks of a .kvmr, whole lines of a .jsonl, up to
the first that is not. Says what was lost, as far as anything tells, and writes into the new recording that something is: every
verdict on it that depends on the rest is "cannot tell". The old one is only read.""",
    inputs="RECORDING: .kvmr or .jsonl, also a NAME.part that a recorder left behind, or -",
    statuses={
        SAME: "the new recording is written and nothing is lost: the old one is sound",
        TROUBLE: "bad usage, nothing to recover, or OUT can not be written",
        CANNOT_TELL: "the new recording is written, and something is lost",
    },
    examples=("kvm-replay recover boot.kvmr -o saved.kvmr", "kvm-replay recover boot.kvmr -o saved.jsonl --format json"),
    add_arguments=_add_arguments,
    run=_run,
)
