"""Turn traces into a recording."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console
from replay.cli.inputs import open_inputs, say_losses, say_warnings
from replay.cli.outputs import add_summary_format, check_output, opened_writer, refuse_two_results, say_summary
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_inputs, add_jobs, jobs_of, told
from replay.errors import UsageError
from replay.units import counted

if TYPE_CHECKING:
    from replay.header import Header


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser, "TRACE")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="NAME.kvmr, NAME.jsonl, or - for JSON Lines")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--title", metavar="TEXT", help="what was recorded, in one line")
    parser.add_argument("--provenance", metavar="TEXT", help="where the recording comes from, for people")
    parser.add_argument("--machine", metavar="NAME=VALUE,...", help="facts that no trace tells: kernel_release=6.8,tdp=y")
    parser.add_argument("--durable", action="store_true", help="wait for the disk after each block, and say how far it is")
    parser.add_argument("--kvmgt", action="store_true", help="VFIO devices are KVMGT's vGPUs: opening one registers a notifier")
    add_jobs(parser, "processes for long tracefs text: a second one reads ahead")
    parser.add_argument("--compress", choices=("zlib", "none"), default="zlib", help="of a .kvmr (default: zlib)")
    add_summary_format(parser)


def announcer(args: argparse.Namespace, console: Console) -> Callable[[int], None] | None:
    """Return what says how many events are on the disk, None when nobody waits for that."""
    if not args.durable:
        return None
    return lambda events: console.note(f"{args.output}: {counted(events, 'event is', 'events are')} on the disk")


def _run(args: argparse.Namespace, console: Console) -> int:
    import attrs

    from replay.sources.meter import Meter

    check_output(args.output, args.inputs, force=args.force)
    if args.durable and args.output == STDIO:
        raise UsageError("--durable needs a file", where=f"--output {STDIO}", expected="NAME.kvmr or NAME.jsonl")
    refuse_two_results(args)
    meter = Meter()
    stream = open_inputs(args.inputs, console, kvmgt=args.kvmgt, meter=meter, jobs=jobs_of(args))
    header = titled(stream.header, args)
    with opened_writer(args.output, header, force=args.force, announce=announcer(args, console)) as writer:
        for item in console.progress("importing").over(stream.items(), meter=meter):
            writer.write(item)
        writer.finish(stream.trailer())
    say_warnings(stream, console)
    say_losses(stream, console)
    say_summary(args, console, header, attrs.evolve(stream.trailer(), events=writer.events))
    return told(certain=not stream.trailer().cut_short())


def titled(header: "Header", args: argparse.Namespace) -> "Header":
    """Return the header with what the command line adds to it. Raises UsageError for a text or fact that does not fit."""
    import attrs

    from replay.cli.machine import parse_machine
    from replay.events.base import specs
    from replay.header import Header, replace_machine

    texts = {name: text for name, text in (("title", args.title), ("provenance", args.provenance)) if text is not None}
    for name, text in texts.items():
        length_max = specs(Header)[name].length_max
        if len(text) > length_max:
            raise UsageError(f"--{name} has {len(text)} characters", expected=f"at most {length_max}")
    compression = "none" if args.compress == "none" or not args.output.endswith(".kvmr") else args.compress
    header = attrs.evolve(header, compression=compression, **texts)
    return replace_machine(header, **parse_machine(args.machine)) if args.machine else header


IMPORT: Final = Verb(
    name="import",
    summary="turn traces into a recording",
    description="""\
Read traces of one run (or another recording) and write one recording: every event that a replay needs, with its place in the
trace, and a count of everything that was lost, not understood or ignored. Also turns .kvmr into .jsonl and back.""",
    inputs="""\
TRACE: text of strace, tracefs, bpftrace, perf, trace-cmd report -R or babeltrace2, plain or compressed, a recording, or - ;
several traces of one run become one recording. docs/formats.md says what each of them shows.
`strace -f -ttt -y -o FILE -e trace=...` as in README.md gives what is needed.""",
    statuses={
        SAME: "the recording is written; losses are said on standard error",
        TROUBLE: "bad usage, bad input, or OUT can not be written",
        CANNOT_TELL: "it is written, of what is there: TRACE is a recording that is torn, or was saved from a damaged one",
    },
    examples=(
        "kvm-replay import strace.txt -o boot.kvmr",
        "kvm-replay import strace.txt -o boot.kvmr --kvmgt",
        "kvm-replay import strace.txt ftrace.txt -o boot.jsonl --title 'boot of a guest' --machine kernel_release=6.8,tdp=n",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
