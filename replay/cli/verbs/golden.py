"""Hold golden files against what the model says now, or write them anew."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import refuse_standard_input
from replay.cli.results import CASES, Shapes, write_result
from replay.cli.verb import CANNOT_TELL, DIVERGENCE, SAME, SKIPPED, TROUBLE, Verb, add_bisect, add_format, add_output
from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.analyses.golden_report import GoldenReport
    from replay.golden.files import Wish

ACTIONS: Final = ("check", "update")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS, help="hold golden files against what is found now, or write them")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a recording, a golden file, or a folder of them")
    parser.add_argument(
        "--ask",
        action="append",
        metavar="QUESTION",
        help="update: what the files are to ask, e.g. 'compare --lanes 6.8,6.9' or check; may be repeated "
        "(default: what they ask, of new ones compare)",
    )
    parser.add_argument(
        "--events-max", type=int, metavar="N", help="update: list the events of recordings of at most N (default: 200; 0: never)"
    )
    parser.add_argument("--new-only", action="store_true", help="update: only write golden files that are missing")
    add_bisect(parser)
    add_format(parser, "text", "json", "jsonl", *CASES)
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.golden_report import golden_report
    from replay.golden.files import check_golden, found_in, update_golden
    from replay.report.cases import golden_suite
    from replay.report.golden_text import golden_text

    wish = _wish(args)
    refuse_standard_input(args.paths)
    update = args.action == "update"
    paths = found_in(args.paths)
    files = [update_golden(path, wish, console.warn) if update else check_golden(path, console.warn) for path in paths]
    report = golden_report(files)
    shapes = Shapes("golden", report, lambda paint: golden_text(report, paint), lambda: golden_suite(report))
    write_result(args, console, shapes, inputs=args.paths)
    for file in report.files:
        if file.code:
            console.error(file.code, file.trouble)
    return _status(report)


def _wish(args: argparse.Namespace) -> "Wish":
    from replay.golden.files import Wish
    from replay.golden.questions import question_of

    given = {"--ask": args.ask is not None, "--events-max": args.events_max is not None, "--new-only": args.new_only}
    if args.action == "check" and any(given.values()):
        raise UsageError(f"{next(name for name, there in given.items() if there)} with check", expected="it with update only")
    if args.events_max is not None and args.events_max < 0:
        raise UsageError(f"--events-max {args.events_max}", expected="a number from 0")
    questions = tuple(question_of(text) for text in args.ask) if args.ask else None
    return Wish(questions=questions, listed_max=args.events_max, new_only=args.new_only)


def _status(report: "GoldenReport") -> int:
    if report.trouble:
        return TROUBLE
    if report.differs:
        return DIVERGENCE
    return CANNOT_TELL if report.missing or report.unused else SAME


GOLDEN: Final = Verb(
    name="golden",
    summary="hold golden files against what is found now, or write them",
    description="""\
A golden file says what a recording gave when somebody looked at it: the facts of its machine, its events one a line with their
results, and the answers to the questions that stand in it, compare and check with their options. It lies beside the recording,
boot.kvmr.golden beside boot.kvmr, is reviewed like code, and may hold comments. `check` answers the questions anew and says
what differs, place by place. `update` writes what differs, or is missing; comments stay where they are. A golden file without
a line `recording:` is a case by itself, written by hand: its events are the recording. docs/goldens.md has the grammar.""",
    inputs="""\
PATH: a recording or trace, its golden file, or a folder: the .kvmr, .jsonl and .golden files in it and below. A recording
without golden file, a golden file without its recording, and nothing at all are failures.""",
    statuses={
        SAME: "every golden file says what is found now, or has been written",
        DIVERGENCE: "at least one says something else",
        TROUBLE: "bad usage, nothing to check, or a file that can not be read",
        CANNOT_TELL: "none says something else, and a golden file or a recording is missing",
        SKIPPED: "with --bisect: trouble, or it can not be told",
    },
    examples=("kvm-replay golden update boot.kvmr", "kvm-replay golden check --format ktap boot.kvmr"),
    add_arguments=_add_arguments,
    run=_run,
)
