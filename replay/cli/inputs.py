"""Open what a verb reads, and say what is wrong with it once it has been read."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from replay.cli.console import STDIO, Console
from replay.errors import UnreadableError, UsageError
from replay.units import counted

if TYPE_CHECKING:
    from replay.sources.meter import Meter
    from replay.stream import Stream

LOSSES_SAID: Final = 20
"""Most kinds of losses that get a line of their own on standard error."""


def refuse_closed_input(inputs: Sequence[str]) -> None:
    """Raise when standard input is asked for twice, or is not there."""
    if inputs.count(STDIO) > 1:
        raise UsageError(f"{STDIO} is given twice", expected="standard input at most once")
    if STDIO in inputs and (sys.stdin is None or sys.stdin.closed):
        raise UnreadableError("standard input is closed", advice="give a file name")


def open_inputs(
    inputs: Sequence[str], console: Console, *, kvmgt: bool = False, meter: "Meter | None" = None, jobs: int = 1
) -> "Stream":
    """Return the stream of the inputs: one recording, or the traces of one run. Raises KvmReplayError for bad input.

    kvmgt: the user's word that VFIO devices are vGPUs of KVMGT. meter: tells how far their reading is. jobs: processes that may
    read them.

    The console closes it at the end of the verb, also of one that fails before it has read anything.
    """
    from replay.sources import open_stream

    refuse_closed_input(inputs)
    try:
        stream = open_stream(list(inputs), kvmgt=kvmgt, meter=meter, jobs=jobs)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error), where=str(error.filename or inputs[0])) from error
    close = getattr(stream, "close", None)
    if close is not None:
        console.at_end.callback(close)
    return stream


def refuse_standard_input(inputs: Sequence[str]) -> None:
    """Raise UsageError for `-` where only names will do: what is read lies beside others, or is read more than once."""
    if STDIO in inputs:
        raise UsageError("standard input can not be read here", where=STDIO, expected="files or folders")


def say_warnings(stream: "Stream", console: Console) -> None:
    """Say what was met while reading (a torn end, a lossy option); call it when the items are exhausted."""
    for sentence in stream.warnings():
        console.warn(sentence)


def say_losses(stream: "Stream", console: Console) -> None:
    """Say on standard error what the trailer counts as lost or not understood, so that no pipe hides it."""
    words = {"lost": "lost", "unknown": "not understood"}
    counters = [counter for counter in stream.trailer().counters if counter.severity in words and counter.count]
    for counter in counters[:LOSSES_SAID]:
        first = f", first at {counter.first}" if counter.first else ""
        console.warn(f"{counter.count:,} {words[counter.severity]}: {counter.kind}{first}")
    if len(counters) > LOSSES_SAID:
        console.warn(
            f"and {counted(len(counters) - LOSSES_SAID, 'more kind')} of losses; `kvm-replay info --format json` has them all"
        )
