"""Replay many recordings on all cores, or on a cluster, and say what they say together."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import refuse_standard_input
from replay.cli.lanes import add_lanes
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, DIVERGENCE, SAME, TROUBLE, Verb, add_format, add_jobs, jobs_of
from replay.errors import UsageError
from replay.units import counted

if TYPE_CHECKING:
    from replay.analyses.fleet_report import FleetReport
    from replay.fleet.run import Runner

SCHEMES: Final = ("tcp://", "tls://", "dask://")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", metavar="DIR|FILE", nargs="+", help="recordings, or folders of them")
    add_lanes(parser)
    parser.add_argument("-o", "--output", metavar="RESULT.sqlite", help="keep each result there; what is there is not done again")
    add_jobs(parser, "processes")
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="a Dask cluster that does the work, also dask://...")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="recordings to look at first (default: 10)")
    add_format(parser, "text", "json", "jsonl")


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.fleet import Fleet, Question, Store, engine_version, found_files
    from replay.report.fleet_text import fleet_text

    lanes = tuple(spec.strip() for spec in args.lanes.split(",") if spec.strip())
    question = Question(lanes, args.profile).checked()
    if not 0 <= args.top <= 1000:
        raise UsageError(f"--top {args.top}", expected="0 to 1000")
    refuse_standard_input(args.inputs)
    paths = found_files(args.inputs)
    runner = _runner(args, console, len(paths))
    store = Store(args.output, engine_version(), question.text)
    console.at_end.callback(store.close)
    fleet = Fleet(paths, question, store, runner)
    for _result in console.progress("replaying", unit="recordings").over(fleet.replay(), total_events=len(paths)):
        pass
    if fleet.resumed:
        console.note(f"{fleet.resumed:,} of {counted(len(paths), 'recording was', 'recordings were')} finished already")
    report = fleet.report(top=args.top)
    with console.result() as out:
        shapes = Shapes("fleet", report, lambda paint: fleet_text(report, paint))
        write_shape(args.format, shapes, out, console)
    return status_of(report)


def _runner(args: argparse.Namespace, console: Console, files: int) -> "Runner":
    """Return who does the work. Raises UsageError for options that can not be meant."""
    if args.scheduler is not None:
        from replay.fleet.cluster import DaskPool

        if not args.scheduler.startswith(SCHEMES) or args.jobs:
            raise UsageError(f"--scheduler {args.scheduler}", expected="tcp://HOST:PORT, and no --jobs")
        cluster = DaskPool(args.scheduler)
        console.at_end.callback(cluster.close)
        return cluster
    from replay.fleet.local import LocalPool

    return LocalPool(min(jobs_of(args), files))


def status_of(report: "FleetReport") -> int:
    """Return the worst status: trouble, then cannot tell, then divergence."""
    found = ((report.trouble, TROUBLE), (report.cannot_tell, CANNOT_TELL), (report.divergence, DIVERGENCE))
    return next((status for count, status in found if count), SAME)


FLEET: Final = Verb(
    name="fleet",
    summary="replay many recordings on all cores, with one answer",
    description="""\
Replay each recording as `compare` does, on all cores or on a Dask cluster, and report the distribution of bytes saved, the
classes of divergence by count, the recordings to look at first, and groups by release, policy, tdp and recorder. A file that
can not be read is counted with its error and stops nothing; a process that dies is replaced, and what it was at is tried
again alone. The summary does not depend on the number of processes.

With -o every result is kept in SQLite as soon as it is there: an interrupted run goes on where it stopped, and a recording
that was replayed by the same engine under the same lanes, by its digest, is not replayed again.""",
    inputs="""\
FILE: a recording (.kvmr, .jsonl) or one trace, each for itself. DIR: all .kvmr and .jsonl files in it, at any depth.""",
    statuses={
        SAME: "no recording diverges",
        DIVERGENCE: "at least one diverges; all could be told",
        TROUBLE: "bad usage, or at least one recording could not be replayed; the others are reported",
        CANNOT_TELL: "at least one lacks what the answer needs; none was in trouble",
    },
    examples=(
        "kvm-replay fleet boot.kvmr",
        "kvm-replay fleet . --lanes eager,on-demand,ideal --jobs 1 -o results.sqlite --format json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
