"""Hold the model against a recording: what the recorded kernel did against what the model says it does."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_warnings
from replay.cli.lanes import add_order_budget, add_profile
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


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    add_profile(parser)
    parser.add_argument(
        "--policy",
        metavar="POLICY",
        help="policy of the recorded kernel, when its release does not tell it: eager, on-demand, or a policy file ./mine.py",
    )
    add_order_budget(parser)
    add_bisect(parser)
    add_format(parser, "text", "json", "jsonl", *CASES)
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.check import Checker
    from replay.kvm.profile import parse_facts
    from replay.policy_file import answered_for, own_policies
    from replay.report.cases import check_suite
    from replay.report.check_text import check_text

    stream = open_inputs(args.inputs, console)
    own = own_policies([args.policy or ""])
    console.at_end.enter_context(answered_for(own))
    checker = Checker(stream.header, parse_facts(args.profile), own.get(args.policy, args.policy), order_budget=args.order_budget)
    with console.result(args.output, inputs=args.inputs) as out:
        checker.run(console.progress("checking").over(stream.items()))
        report = checker.report(stream.trailer())
        name = " ".join(args.inputs)
        shapes = Shapes("check", report, lambda paint: check_text(report, paint), lambda: check_suite(report, name))
        write_shape(args.format, shapes, out, console)
    say_warnings(stream, console)
    return report.status()


CHECK: Final = Verb(
    name="check",
    summary="hold the model against what the recorded kernel did",
    description="""\
Replay a recording in the lane of the kernel that it was made on, and compare event by event: every recorded result, and every
observation of the kernel's own state and allocations. Results that the model takes from the recording, and whatever lies
behind a loss, are counted as not checkable with the reason. Zero comparisons are never a pass, and neither is a recording
that lacks something.

Calls that overlap in time have no recorded order: one is looked for that gives the recorded results (docs/orders.md). When none
does, that is a contradiction; when it can not be told, so is the answer.""",
    inputs="""\
RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.
The kernel's release must be in the header or in --profile release=...""",
    statuses={
        SAME: "model and kernel agree in every comparison, and there is at least one",
        DIVERGENCE: "the kernel contradicts the model",
        TROUBLE: "bad usage, or input that can not be read",
        CANNOT_TELL: "nothing to compare, the release is not known, something is lost, or no order of calls was found",
        SKIPPED: "with --bisect: trouble, or it can not be told",
    },
    examples=(
        "kvm-replay check boot.kvmr",
        "kvm-replay check --bisect --format ktap boot.kvmr",
        "kvm-replay check --profile release=6.12.117,config=y,tdp=1 --format json strace.txt",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
