"""Replay a recording through several policies and report every divergence."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.lanes import add_lanes, add_order_budget, lanes_of
from replay.cli.results import CASES, Shapes, write_shape
from replay.cli.verb import (
    CANNOT_TELL,
    DIVERGENCE,
    SAME,
    SKIPPED,
    TROUBLE,
    Verb,
    add_bisect,
    add_format,
    add_inputs,
    add_output,
)

if TYPE_CHECKING:
    from replay.analyses.compare_report import CompareReport
    from replay.report.cases import Suite

_STATUS: Final = {"same": SAME, "divergence": DIVERGENCE, "cannot tell": CANNOT_TELL}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    add_lanes(parser)
    add_order_budget(parser)
    parser.add_argument("--paranoid", action="store_true", help="check the model's invariants after every event")
    add_bisect(parser)
    add_format(parser, "text", "json", "jsonl", *CASES)
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.compare import compare, watched
    from replay.report.compare_text import compare_text

    stream = open_inputs(args.inputs, console)
    lanes = lanes_of(args, stream.header, console)
    with console.result(args.output, inputs=args.inputs) as out:
        items = console.progress("replaying").over(stream.items())
        report = compare(watched(iter(items), stream), lanes, paranoid=args.paranoid, order_budget=args.order_budget)
        name = " ".join(args.inputs)
        shapes = Shapes("compare", report, lambda paint: compare_text(report, paint), lambda: _suite(report, name))
        write_shape(args.format, shapes, out, console)
    say_warnings(stream, console)
    return _STATUS[report.verdict]


def _suite(report: "CompareReport", name: str) -> "Suite":
    from replay.report.cases import compare_suite  # forms of CASES alone need it, and the reports of other verbs with it

    return compare_suite(report, name)


COMPARE: Final = Verb(
    name="compare",
    summary="replay under several policies and report every divergence",
    description="""\
Replay a recording through lanes, each one policy under one profile, and report every divergence: bytes of write tracking,
where -ENOMEM can come from and where it moves, results, state, lifetimes and races, each with its cause, its explanation
and the kernel source behind it. The first lane is the reference.

A lane is a policy (see `kvm-replay policies`), a kernel release, whose policy is looked up from release and CONFIG, or a file
./mine.py with a policy of your own (docs/policy-files.md); facts behind an @ change its profile alone: 6.9@tdp=0. The profile
is taken from the recording's header; what is not known there is assumed and marked, or given with --profile. The lane ideal is
no kernel but a lower bound for bytes; the verdict does not rest on it.

Calls that overlap in time have no recorded order: with the recorded kernel's own lane among the lanes, one is looked for that
gives the recorded results (docs/orders.md), and the report says where another order would have done as well.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "no divergence",
        DIVERGENCE: "at least one divergence, bytes-only ones included",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "the recording lacks what the answer needs; what was found is reported",
        SKIPPED: "with --bisect: trouble, or it can not be told",
    },
    examples=(
        "kvm-replay compare boot.kvmr",
        "kvm-replay compare --lanes eager,on-demand,v1,v2,ideal boot.kvmr",
        "kvm-replay compare --lanes all boot.kvmr",
        "kvm-replay compare --lanes 6.8,6.9 --profile config=y,tdp=1 --format json strace.txt ftrace.txt",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
