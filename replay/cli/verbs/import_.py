"""Turn traces into a recording."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console, refuse_input_as_output, standard_output
from replay.cli.inputs import open_inputs, say_losses, say_warnings
from replay.cli.verb import SAME, TROUBLE, Verb, add_inputs
from replay.errors import UnwritableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.header import Header, Trailer
    from replay.recording import JsonlWriter, Writer
    from replay.recording.files import Announce

SUFFIXES: Final = (".kvmr", ".jsonl")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser, "TRACE")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="NAME.kvmr, NAME.jsonl, or - for JSON Lines")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--title", metavar="TEXT", help="what was recorded, in one line")
    parser.add_argument("--provenance", metavar="TEXT", help="where the recording comes from, for people")
    parser.add_argument("--machine", metavar="NAME=VALUE,...", help="facts that no trace tells: kernel_release=6.8,tdp=y")
    parser.add_argument("--durable", action="store_true", help="wait for the disk after each block, and say how far it is")
    parser.add_argument("--kvmgt", action="store_true", help="VFIO devices are KVMGT's vGPUs: opening one registers a notifier")
    parser.add_argument("--compress", choices=("zlib", "none"), default="zlib", help="of a .kvmr (default: zlib)")
    add_summary_format(parser)


def add_summary_format(parser: argparse.ArgumentParser) -> None:
    """Add --format of what is said of a recording that was written."""
    parser.add_argument(
        "--format",
        choices=("text", "json", "jsonl"),
        default="text",
        help="of the summary: text is a note on standard error, the others a document on standard output (default: text)",
    )


def refuse_two_results(args: argparse.Namespace) -> None:
    """Raise UsageError when the summary and the recording both go to standard output."""
    if args.format != "text" and args.output == STDIO:
        raise UsageError(
            f"--format {args.format} and the recording both want standard output", expected="-o NAME.kvmr or NAME.jsonl"
        )


def _run(args: argparse.Namespace, console: Console) -> int:
    import attrs

    from replay.sources.meter import Meter

    check_output(args.output, args.inputs, force=args.force)
    if args.durable and args.output == STDIO:
        raise UsageError("--durable needs a file", where=f"--output {STDIO}", expected="NAME.kvmr or NAME.jsonl")
    refuse_two_results(args)
    meter = Meter()
    stream = open_inputs(args.inputs, console, kvmgt=args.kvmgt, meter=meter)
    header = titled(stream.header, args)
    announce = (lambda events: console.note(f"{args.output}: {events:,} events are on the disk")) if args.durable else None
    with opened_writer(args.output, header, force=args.force, announce=announce) as writer:
        for item in console.progress("importing").over(stream.items(), meter=meter):
            writer.write(item)
        writer.finish(stream.trailer())
    say_warnings(stream, console)
    say_losses(stream, console)
    say_summary(args, console, header, attrs.evolve(stream.trailer(), events=writer.events))
    return SAME


def say_summary(args: argparse.Namespace, console: Console, header: "Header", trailer: "Trailer", verb: str = "import") -> None:
    """Say what was written: a note on standard error, or a document on standard output."""
    from replay.analyses.import_report import ImportReport
    from replay.report.json_text import document

    totals = {severity: trailer.total(severity) for severity in ("lost", "unknown", "ignored")}
    if args.format == "text":
        words = ", ".join(f"{count:,} {severity}" for severity, count in totals.items())
        console.note(f"{args.output}: {trailer.events:,} events; {words}")
        return
    report = ImportReport(
        output=args.output, title=header.title, events=trailer.events, sources=header.sources, counters=trailer.counters, **totals
    )
    with console.result() as out:
        out.write(document(verb, report, one_line=args.format == "jsonl"))


@contextlib.contextmanager
def opened_writer(
    path: str, header: "Header", *, force: bool, announce: "Announce | None" = None
) -> "Iterator[Writer | JsonlWriter]":
    """Give the writer that the name asks for. What is half written goes away on an error: the traces are still there.

    announce: wait for the disk after each block, and call this with the number of events that are there.
    """
    from replay.recording import JsonlWriter, Writer

    if path == STDIO:
        with JsonlWriter(standard_output().buffer, header) as writer:
            yield writer
        return
    kind = JsonlWriter if path.endswith(".jsonl") else Writer
    durable = announce is not None
    with (
        kind(path, header, overwrite=force, durable=durable, announce=announce) as file_writer,
        contextlib.ExitStack() as cleaning,
    ):
        cleaning.callback(Path(f"{path}.part").unlink, missing_ok=True)
        yield file_writer
        cleaning.pop_all()


def check_output(path: str, inputs: list[str], *, force: bool) -> None:
    """Raise before anything is read when the output can not be meant: unknown suffix, an input, or there already."""
    if path == STDIO:
        return
    refuse_input_as_output(path, inputs)
    if not path.endswith(SUFFIXES):
        raise UsageError(f"{path} ends in neither {' nor '.join(SUFFIXES)}", expected="NAME.kvmr, NAME.jsonl or -")
    if Path(path).exists() and not force:
        raise UnwritableError("exists already", where=path, advice="give another name, or --force to replace it")


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
    },
    examples=(
        "kvm-replay import strace.txt -o boot.kvmr",
        "kvm-replay import strace.txt -o boot.kvmr --kvmgt",
        "kvm-replay import strace.txt ftrace.txt -o boot.jsonl --title 'boot of a guest' --machine kernel_release=6.8,tdp=n",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
