"""List the kernel policies that lanes can have."""

import argparse
from typing import Final

from replay.cli.console import Console
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import SAME, TROUBLE, Verb, add_format, add_output


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser, "text", "json", "jsonl")
    add_output(parser)


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.analyses.policy_list import policies_report
    from replay.report.policies_text import policies_text

    report = policies_report()
    with console.result(args.output) as out:
        shapes = Shapes("policies", report, lambda paint: policies_text(report, paint))
        write_shape(args.format, shapes, out, console)
    return SAME


POLICIES_VERB: Final = Verb(
    name="policies",
    summary="list the kernel policies that lanes can have",
    description="""\
List the policies: which kernels have each, when write tracking is enabled under it, what a registration does, and the kernel
source of it. Which one a kernel has follows from release and CONFIG_KVM_EXTERNAL_WRITE_TRACKING together.""",
    inputs="none",
    statuses={SAME: "the list is written", TROUBLE: "bad usage"},
    examples=("kvm-replay policies", "kvm-replay policies --format json"),
    add_arguments=_add_arguments,
    run=_run,
)
