"""Say what a verb is, and build the arguments that verbs share.

A verb's module is imported for every `--help`, so it imports nothing but the standard library, `replay.errors` and its
neighbours here; what it needs to do its work is imported inside `run`. tests/cli/test_imports.py holds that.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from replay.cli.console import Console
from replay.errors import UsageError

SAME: Final = 0
DIVERGENCE: Final = 1
TROUBLE: Final = 2
CANNOT_TELL: Final = 3
SKIPPED: Final = 125
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
TERMINATED: Final = 143

JOBS_MOST: Final = 4096
BISECT: Final = "--bisect"
STATUS_MEANINGS: Final[Mapping[int, str]] = {
    SAME: "done; nothing differs",
    DIVERGENCE: "done; at least one divergence",
    TROUBLE: "could not do it: bad usage, unreadable or bad input, unwritable output",
    CANNOT_TELL: "cannot tell: the input lacks what the answer needs",
    SKIPPED: "with --bisect, in place of 2 and 3: `git bisect run` passes over this revision",
    HUNG_UP: "the terminal went away (SIGHUP)",
    INTERRUPTED: "interrupted (SIGINT)",
    PIPE_CLOSED: "the reader of standard output went away (SIGPIPE)",
    TERMINATED: "terminated (SIGTERM)",
}
"""Every exit status of the program; a verb's help lists those that it can end with, in its own words."""


class Verb(NamedTuple):
    """One verb of the command line: what its help says, its arguments, and what it does.

    statuses: exit status -> meaning, for the verb's help. examples: complete command lines, one a line of the help; a test
    runs each. run returns the exit status and raises KvmReplayError for bad input.
    """

    name: str
    summary: str
    description: str
    inputs: str
    statuses: Mapping[int, str]
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Console], int]


def told(*, certain: bool) -> int:
    """Return the status of an answer that is no verdict: whether nothing that it rests on is lost or not known.

    docs/testing.md has what the answer of each verb rests on.
    """
    return SAME if certain else CANNOT_TELL


def add_inputs(parser: argparse.ArgumentParser, metavar: str = "RECORDING") -> None:
    """Add the positional inputs as `args.inputs`: one recording, or the traces that together show one run."""
    parser.add_argument("inputs", metavar=metavar, nargs="+", help="a recording (.kvmr, .jsonl), traces, or - for standard input")


def add_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    """Add --format with the forms that the verb can print; the first one is the default."""
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"form of the result (default: {formats[0]})")


def add_no_index(parser: argparse.ArgumentParser) -> None:
    """Add --no-index."""
    parser.add_argument("--no-index", action="store_true", help="replay from the start; neither use nor make an index")


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --jobs; what: what the processes are for."""
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help=f"{what} (default: one for each core)")


def jobs_of(args: argparse.Namespace) -> int:
    """Return how many processes --jobs allows. Raises UsageError."""
    jobs: int = args.jobs
    if not 0 <= jobs <= JOBS_MOST:
        raise UsageError(f"--jobs {jobs}", expected="1 or more")
    return jobs or cores()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add --output: a file that appears only when it is complete, or - for standard output."""
    parser.add_argument("--output", metavar="FILE", default="-", help="where the result goes (default: -, standard output)")


def add_bisect(parser: argparse.ArgumentParser) -> None:
    """Add --bisect: a status that `git bisect run` understands, whatever becomes of the verb."""
    parser.add_argument(
        BISECT,
        action="store_true",
        help=f"for `git bisect run`: exit {SKIPPED}, skip this revision, for trouble and 'cannot tell'",
    )


def epilog(verb: Verb) -> str:
    """Return the part of a verb's help that comes after its options: inputs, exit status, examples."""
    statuses = [f"  {status:<4} {meaning}" for status, meaning in sorted(verb.statuses.items())]
    examples = [f"  {example}" for example in verb.examples]
    inputs = [f"  {line}" for line in verb.inputs.splitlines()]
    word = "example:" if len(examples) == 1 else "examples:"
    return "\n".join(["inputs:", *inputs, "", "exit status:", *statuses, "", word, *examples])
