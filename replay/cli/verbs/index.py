"""Make the index of a recording, so that any of its events is reached at once."""

import argparse
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console
from replay.cli.inputs import open_inputs
from replay.cli.lanes import add_lanes, lanes_of
from replay.cli.numbers import whole
from replay.cli.results import Shapes, write_shape
from replay.cli.verb import SAME, TROUBLE, Verb, add_format
from replay.errors import TornError, UnwritableError, UsageError

if TYPE_CHECKING:
    from replay.analyses.index_report import IndexReport


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="RECORDING", help="a .kvmr recording")
    parser.add_argument(
        "--every",
        metavar="EVENTS",
        type=whole("a number of events", least=1),
        default=0,
        help="leave a checkpoint at blocks so many events apart (default: as many as fit in 0.9 %% of the file)",
    )
    add_lanes(parser)
    add_format(parser, "text", "json", "jsonl")


def _run(args: argparse.Namespace, console: Console) -> int:
    from replay.report.index_text import index_text

    report = make_index(args, console)
    with console.result() as out:
        shapes = Shapes("index", report, lambda _paint: index_text(report))
        write_shape(args.format, shapes, out, console)
    return SAME


def make_index(args: argparse.Namespace, console: Console) -> "IndexReport":
    """Replay the whole recording, leave checkpoints on the way and write them; whatever index was there is replaced.

    Raises UsageError for what is no .kvmr file, TornError for one that is not whole, UnwritableError when no place will do.
    """
    from replay.analyses.compare import watched
    from replay.analyses.index_report import IndexReport, LaneName
    from replay.analyses.state_at import replay_to
    from replay.analyses.uncertainty import Doubts
    from replay.cli.index_store import IndexStore
    from replay.cli.indexed import Taker
    from replay.cli.maker import maker
    from replay.cli.seeking import seekable

    stream = open_inputs([args.input], console)
    found = seekable(stream)
    if found is None:
        raise _why_not(args.input, is_kvmr=hasattr(stream, "skip_to"))
    reader, blocks = found
    lanes = lanes_of(args, reader.header, console)
    store = IndexStore(reader.name, blocks, console, maker())
    doubts = Doubts(lanes, reader.header.machine)
    taker = Taker(lanes, blocks, store.code, doubts, every=args.every)
    items = console.progress("indexing").over(reader.items(), total_events=blocks.events)
    replay_to(watched(items, reader), lanes, None, visit=taker.visit, doubts=doubts)
    index = taker.finished()
    place = store.save(index) if store.code else None
    if place is None:
        raise UnwritableError("no index was written", where=args.input, expected="a folder that can be written, or a cache")
    return IndexReport(
        recording=reader.name,
        index=str(place),
        events=blocks.events,
        blocks=len(blocks.places),
        checkpoints=len(index.checkpoints),
        recording_bytes=blocks.size_bytes,
        index_bytes=place.stat().st_size,
        lanes=tuple(LaneName(name=lane.name, policy=lane.policy.name) for lane in lanes),
    )


def _why_not(name: str, *, is_kvmr: bool) -> UsageError | TornError:
    if name == STDIO:
        return UsageError("standard input has no index", where=name, expected="a .kvmr file")
    if not is_kvmr:
        return UsageError("has no index", where=name, expected="a .kvmr file", advice="import it to NAME.kvmr")
    advice = "`kvm-replay verify` says what is wrong with it"
    return TornError("no index of it can be made", where=name, expected="a file of whole blocks, with events", advice=advice)


INDEX: Final = Verb(
    name="index",
    summary="make a recording's index, to reach any event at once",
    description="""\
Replay a .kvmr recording once and keep checkpoints, the complete state of the lanes at some events, in RECORDING.idx beside it;
in $XDG_CACHE_HOME/kvm-replay (~/.cache/kvm-replay) when that folder can not be written. `state --at` and `blame` begin at the
nearest one before what they need, and make an index themselves when they have a million events to replay. The recording is not
touched. An index is a cache: it is used only whole, for the recording, the lanes and the version of the program that it was made
with, and it can be removed at any time.""",
    inputs="RECORDING: a whole .kvmr file",
    statuses={SAME: "the index is written", TROUBLE: "bad usage, no whole recording, or an index that can not be written"},
    examples=("kvm-replay index boot.kvmr", "kvm-replay index boot.kvmr --lanes all --format json"),
    add_arguments=_add_arguments,
    run=_run,
)
