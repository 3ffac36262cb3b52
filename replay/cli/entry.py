"""Run one command line: parse it, run the verb, turn whatever happens into a sentence and an exit status.

No input may end in a traceback. Domain errors are sentences with a stable code; anything else that escapes a verb is a bug of
ours, said so in one line, with the traceback only under --debug.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from replay.cli.console import PROGRAM, Console, output_errors, say
from replay.cli.stopping import StoppedError, stoppable
from replay.cli.verb import (
    BISECT,
    CANNOT_TELL,
    HUNG_UP,
    INTERRUPTED,
    PIPE_CLOSED,
    SAME,
    SKIPPED,
    STATUS_MEANINGS,
    TERMINATED,
    TROUBLE,
    Verb,
    epilog,
)
from replay.cli.verbs import VERBS
from replay.errors import KvmReplayError, UsageError
from replay.version import VERSION

DESCRIPTION: Final = """\
Replay recorded KVM/x86 memslot and write-tracking events under several kernel policies, and explain every divergence.

Every verb reads recordings (.kvmr, .jsonl), strace text and tracefs text; several traces of one run are merged.
`kvm-replay VERB --help` says what a verb does, its inputs, its exit status and an example."""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are domain errors, like everything else that can be wrong."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, advice=f"`{self.prog} --help` says more")


def build_parser(verbs: Sequence[Verb]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `args.verb` is the chosen Verb."""
    statuses = [f"  {status:<4} {meaning}" for status, meaning in STATUS_MEANINGS.items()]
    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog="\n".join(["exit status:", *statuses]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in verbs:
        _add_verb(subparsers, verb)
    return parser


def _add_verb(subparsers: "argparse._SubParsersAction[_Parser]", verb: Verb) -> None:
    parser = subparsers.add_parser(
        verb.name,
        help=verb.summary,
        description=verb.description,
        epilog=epilog(verb),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.add_arguments(parser)
    common = parser.add_argument_group("common options")
    common.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colour text (default: auto)")
    common.add_argument("--quiet", action="store_true", help="no progress and no notes on standard error; warnings stay")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(verb=verb)


def main(argv: Sequence[str] | None = None, verbs: Sequence[Verb] = VERBS) -> int:
    """Run one command line and return its exit status; never raises for bad input.

    >>> main(["--version"])
    kvm-replay 0.1.0
    0
    """
    words = sys.argv[1:] if argv is None else argv
    debug = "--debug" in words
    try:
        with stoppable():
            status = _run(words, verbs)
            _flush_output()
    except StoppedError as stopped:
        say(f"{PROGRAM}: terminated")
        status = stopped.status
    except BrokenPipeError:
        status = PIPE_CLOSED
    except KeyboardInterrupt:
        say(f"{PROGRAM}: interrupted")
        status = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: said as a bug of ours, never swallowed
        # A writer that met the closed pipe says so in its own error; that is no trouble either.
        status = PIPE_CLOSED if isinstance(error.__context__, BrokenPipeError) else _trouble(error, debug=debug)
    if status in {TROUBLE, HUNG_UP, INTERRUPTED, PIPE_CLOSED, TERMINATED}:
        _give_up_output()
    # A usage error counts too: git bisect would take its 2 for "bad" and blame whichever revision it stands at.
    return SKIPPED if BISECT in words and status in {TROUBLE, CANNOT_TELL} else status


def _run(words: Sequence[str], verbs: Sequence[Verb]) -> int:
    named = [verb for verb in verbs if verb.name in words[:1]]  # the other verbs' options take longer than its own
    try:
        args = build_parser(named or verbs).parse_args(words)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else SAME
    verb: Verb = args.verb
    console = Console(color=args.color, quiet=args.quiet)
    with console.at_end:
        return verb.run(args, console)


def _flush_output() -> None:
    """Write out what is buffered, where a failure can still be said. Raises UnwritableError, BrokenPipeError."""
    if sys.stdout is not None and not sys.stdout.closed:
        with output_errors("standard output"):
            sys.stdout.flush()


def _give_up_output() -> None:
    """Point standard output at nothing, so that the interpreter's own flush at exit has nothing to complain about."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _trouble(error: Exception, *, debug: bool) -> int:
    say(f"{PROGRAM}: {error_line(error)}")
    if debug:
        import traceback

        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error)
    return TROUBLE


def error_line(error: Exception) -> str:
    """Say an error in one line: its stable code, its title and its sentence; a bug of ours is called one.

    >>> error_line(UsageError("no input"))
    'KVR001 bad usage: no input'
    """
    if isinstance(error, KvmReplayError):
        return f"{error.code} {error.title}: {error}"
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return f"{KvmReplayError.code} {KvmReplayError.title}: {f'{error.filename}: ' if error.filename else ''}{reason}"
    if isinstance(error, MemoryError):
        return f"{KvmReplayError.code} {KvmReplayError.title}: out of memory"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"internal error: {what}. This is a bug, please report it with the input; --debug shows where it happened"
