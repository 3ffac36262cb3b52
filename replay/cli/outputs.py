"""Write the recordings that verbs make: where they may go, the writer that a name asks for, and what is said of one."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console, refuse_input_as_output, standard_output
from replay.errors import UnwritableError, UsageError
from replay.units import counted

if TYPE_CHECKING:
    from replay.header import Header, Trailer
    from replay.recording import JsonlWriter, Writer
    from replay.recording.files import Announce

SUFFIXES: Final = (".kvmr", ".jsonl")


def check_output(path: str, inputs: Sequence[str], *, force: bool) -> None:
    """Raise before anything is read when the output can not be meant: unknown suffix, an input, or there already."""
    if path != STDIO:
        _check_file(path, inputs, "NAME.kvmr, NAME.jsonl or -", force=force)


def check_file_output(path: str, inputs: Sequence[str], *, force: bool) -> None:
    """Raise the same, and for standard output too: the verb's report goes there."""
    if path == STDIO:
        raise UsageError("the report goes to standard output", where=f"--output {STDIO}", expected="NAME.kvmr or NAME.jsonl")
    _check_file(path, inputs, "NAME.kvmr or NAME.jsonl", force=force)


def _check_file(path: str, inputs: Sequence[str], expected: str, *, force: bool) -> None:
    refuse_input_as_output(path, inputs)
    if not path.endswith(SUFFIXES):
        raise UsageError(f"{path} ends in neither {' nor '.join(SUFFIXES)}", expected=expected)
    if Path(path).exists() and not force:
        raise UnwritableError("exists already", where=path, advice="give another name, or --force to replace it")


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


def say_summary(args: argparse.Namespace, console: Console, header: "Header", trailer: "Trailer", verb: str = "import") -> None:
    """Say what was written: a note on standard error, or a document on standard output."""
    from replay.analyses.import_report import ImportReport
    from replay.report.json_text import document

    totals = {severity: trailer.total(severity) for severity in ("lost", "unknown", "ignored")}
    if args.format == "text":
        words = ", ".join(f"{count:,} {severity}" for severity, count in totals.items())
        console.note(f"{args.output}: {counted(trailer.events, 'event')}; {words}")
        return
    report = ImportReport(
        output=args.output,
        title=header.title,
        events=trailer.events,
        sources=header.sources,
        cut_short=trailer.cut_short(),
        counters=trailer.counters,
        **totals,
    )
    with console.result() as out:
        out.write(document(verb, report, one_line=args.format == "jsonl"))
