"""Cut a recording down to the few events that show a divergence, or what the kernel contradicts."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import Console
from replay.cli.inputs import open_inputs, say_losses, say_warnings
from replay.cli.lanes import add_lanes, add_order_budget, lanes_of
from replay.cli.numbers import whole
from replay.cli.outputs import check_file_output, opened_writer
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import CANNOT_TELL, SAME, TROUBLE, Verb, add_format, add_inputs, told
from replay.errors import UsageError

if TYPE_CHECKING:
    from replay.analyses.minimise import Look
    from replay.header import Header

DIVERGENCE: Final = "divergence"
MISMATCH: Final = "mismatch"
BUDGET_EVENTS: Final = 20_000_000


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the new recording: NAME.kvmr or NAME.jsonl")
    parser.add_argument(
        "--keep",
        choices=(DIVERGENCE, MISMATCH),
        default=DIVERGENCE,
        help="what it is to show: the strongest divergence of `compare`, or the first mismatch of `check` (default: divergence)",
    )
    add_lanes(parser)
    add_order_budget(parser)
    parser.add_argument("--policy", metavar="POLICY", help="with --keep mismatch: as of `check`")
    parser.add_argument(
        "--budget",
        type=whole("a number of events", least=1),
        default=BUDGET_EVENTS,
        metavar="EVENTS",
        help=f"most events to replay in search of it (default: {BUDGET_EVENTS})",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    add_format(parser, "text", "json", "jsonl")


def _run(args: argparse.Namespace, console: Console) -> int:
    import attrs

    from replay.analyses.compare import watched
    from replay.analyses.minimise import Search, cut_down
    from replay.analyses.minimise_report import minimise_report
    from replay.report.minimise_text import minimise_text

    check_file_output(args.output, args.inputs, force=args.force)
    stream = open_inputs(args.inputs, console)
    items = iter(console.progress("reading").over(stream.items()))
    look = (_mismatch if args.keep == MISMATCH else _divergence)(args, stream.header, console)
    search = Search(watched(items, stream), look, args.budget)
    if search.sought is None:
        raise UsageError(f"it shows no {args.keep}: {search.whole.verdict}", where=" ".join(args.inputs), expected="one to keep")
    search.run()
    header, trailer = cut_down(stream.header, stream.trailer(), stream.header.title or args.inputs[0], search)
    header = attrs.evolve(header, compression="zlib" if args.output.endswith(".kvmr") else "none")
    with opened_writer(args.output, header, force=args.force) as writer:
        for item in search.items:
            writer.write(item)
        writer.finish(trailer)
    say_warnings(stream, console)
    say_losses(stream, console)
    report = minimise_report(args.output, _command(args), search, search.sought)
    with console.result() as out:
        write_shape(args.format, Shapes("minimise", report, lambda _paint: minimise_text(report)), out, console)
    return told(certain=report.certain)


def _command(args: argparse.Namespace) -> str:
    import shlex

    if args.keep == MISMATCH:
        given, verb = {"--policy": args.policy, "--profile": args.profile}, "check"
    else:
        given, verb = {"--lanes": args.lanes, "--profile": args.profile}, "compare"
    return shlex.join(["kvm-replay", verb, args.output, *(word for pair in given.items() if pair[1] for word in pair)])


def _divergence(args: argparse.Namespace, header: "Header", console: Console) -> "Look":
    from replay.analyses.compare import compare
    from replay.analyses.minimise import divergences

    if args.policy is not None:
        raise UsageError("--policy without --keep mismatch", expected="--lanes")
    lanes_of(args, header, console)  # says once which lanes it has to leave out
    silent = Console(quiet=True)
    return divergences(lambda stream: compare(stream, lanes_of(args, header, silent), order_budget=args.order_budget))


def _mismatch(args: argparse.Namespace, _header: "Header", console: Console) -> "Look":
    from replay.analyses.check import check
    from replay.analyses.minimise import contradictions
    from replay.kvm.profile import parse_facts
    from replay.policy_file import answered_for, own_policies

    own = own_policies([args.policy or ""])
    console.at_end.enter_context(answered_for(own))
    policy, facts = own.get(args.policy, args.policy), parse_facts(args.profile)
    return contradictions(lambda stream: check(stream, facts, policy=policy, order_budget=args.order_budget))


MINIMISE: Final = Verb(
    name="minimise",
    summary="cut a recording down to the events that show a divergence",
    description="""\
Leave out whatever is not needed for what a recording shows: VMs, memslot calls, write tracking, pages, down to single events.
What is left shows the same divergence with the same cause and no stronger one, or the same contradiction of `check`, under the
same verdict; and each event of it is needed, unless the budget ran out first. Nothing is changed in an event, so results are
those of the whole recording. Made for a reproducer that fits in a mail; `kvm-replay dump` of it says what happens.
The recording is read into memory. The same command line gives the same bytes.""",
    inputs="RECORDING: a .kvmr or .jsonl recording, strace or tracefs text, or - ; several traces of one run are merged.",
    statuses={
        SAME: "the new recording is written",
        TROUBLE: "bad usage, bad input, nothing to keep, or OUT can not be written",
        CANNOT_TELL: "it is written, and its verdict is 'cannot tell', as that of RECORDING",
    },
    examples=(
        "kvm-replay minimise boot.kvmr -o small.jsonl --profile tdp=1",
        "kvm-replay minimise boot.kvmr -o small.kvmr --profile tdp=1,config=y --lanes 6.8,6.9 --format json",
    ),
    add_arguments=_add_arguments,
    run=_run,
)
