"""Pack a recording for others: into one compressed file, and with --scrub without anything that tells of the host."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console
from replay.cli.inputs import open_inputs, say_losses, say_warnings
from replay.cli.outputs import add_summary_format, check_output, opened_writer, refuse_two_results, say_summary
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_inputs, told
from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.stream import Stream


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="NAME.kvmr, NAME.jsonl, or - for JSON Lines")
    parser.add_argument(
        "--scrub", action="store_true", help="leave out or move whatever tells of the host; reads the input twice"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    add_summary_format(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    import attrs

    check_output(args.output, args.inputs, force=args.force)
    stream = _scrubbed(args, console) if args.scrub else open_inputs(args.inputs, console)
    refuse_two_results(args)
    compression = "zlib" if args.output.endswith(".kvmr") else "none"
    header = attrs.evolve(stream.header, compression=compression)
    with opened_writer(args.output, header, force=args.force) as writer:
        for item in console.progress("packing").over(stream.items()):
            writer.write(item)
        writer.finish(stream.trailer())
    say_warnings(stream, console)
    say_losses(stream, console)
    say_summary(args, console, header, attrs.evolve(stream.trailer(), events=writer.events), "pack")
    return told(certain=not stream.trailer().cut_short())


def _scrubbed(args: argparse.Namespace, console: Console) -> "Stream":
    """Return the inputs scrubbed: addresses are known only when all of them were seen."""
    from replay.analyses.scrub import Scrub
    from replay.stream import MemoryStream

    if STDIO in args.inputs:
        raise UsageError("--scrub reads its input twice", where=STDIO, expected="files")
    first = open_inputs(args.inputs, console)
    seen = console.progress("looking at addresses").over(first.items())
    return Scrub().see(MemoryStream(first.header, seen)).stream(open_inputs(args.inputs, console))


PACK: Final = Verb(
    name="pack",
    summary="pack a recording to be given to others",
    description="""\
Write one compressed copy of a recording, or of the traces of one run. With --scrub nothing in it tells of the host: host
addresses are moved by whole GiB with their relations kept, tasks are numbered anew, times begin at 0, names of files, command
lines, titles and free texts are gone, and of the kernel's release only the numbers stay. Guest addresses, sizes, flags, results,
order and the facts of the machine that decide what KVM does are kept, so that every analysis answers the same.""",
    inputs="RECORDING: as for import; with --scrub files only, as they are read twice",
    statuses={
        SAME: "the copy is written",
        TROUBLE: "bad usage, bad input, or OUT can not be written",
        CANNOT_TELL: "the copy is written, of what is there: RECORDING is torn, or was saved from a damaged one",
    },
    examples=("kvm-replay pack --scrub boot.kvmr -o to-send.kvmr", "kvm-replay pack strace.txt ftrace.txt -o packed.kvmr"),
    add_arguments=_add_arguments,
    run=_run,
)
