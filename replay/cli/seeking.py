"""Start reading a recording at any of its events, where it is a file whose blocks can be found."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from replay.cli.console import Console
    from replay.header import Trailer
    from replay.recording import KvmrReader
    from replay.recording.block_map import BlockMap
    from replay.runs import Item
    from replay.stream import Stream


def seekable(stream: "Stream") -> "tuple[KvmrReader, BlockMap] | None":
    """Return a stream that is a whole .kvmr file, and where its blocks are; None for anything else."""
    from replay.recording import KvmrReader
    from replay.recording.block_map import map_file

    if not isinstance(stream, KvmrReader) or not stream.is_file:
        return None
    blocks = map_file(stream.name)
    return None if blocks is None else (stream, blocks)


def skip_to(stream: "Stream", event: int) -> int:
    """Let a stream begin with the block that holds an event, if it can; return the number of its first event then."""
    found = seekable(stream) if event else None
    if found is None:
        return 0
    reader, blocks = found
    place = blocks.place_of(event)
    reader.skip_to(place)
    return place.first_event


def trailer_behind(stream: "Stream", rest: "Iterator[Item]", event: int, console: "Console") -> "Trailer":
    """Return what a recording's end says that concerns events up to one, which is the last that was read.

    A loss may be counted there and nowhere else. What is left out is what events behind say that it was lost there. rest: the
    items behind the event; of a whole .kvmr file they are passed over where nothing is lost. A recording that is damaged there is
    one that lacks its end. Cost: reading the rest, where it is not passed over.
    """
    import attrs

    from replay.errors import KvmReplayError
    from replay.header import DAMAGED
    from replay.recording.ends import lossy_trailer

    trailer = None
    try:
        trailer, behind = _end_and_rest(stream, event)
        there = _losses_of(rest if behind is None else behind)
    except KvmReplayError as error:
        console.warn(f"behind what was asked for: {error}")
        return lossy_trailer(0, DAMAGED, error.where, () if trailer is None else trailer.counters)
    trailer = trailer or stream.trailer()
    return attrs.evolve(trailer, counters=tuple(counter for counter in trailer.counters if counter.kind not in there))


def _end_and_rest(stream: "Stream", event: int) -> "tuple[Trailer | None, Iterator[Item] | None]":
    """Return the end of a whole .kvmr file, and its items behind an event when it counts losses; None of any other stream."""
    from replay.recording import KvmrReader

    found = seekable(stream)
    if found is None:
        return None, None
    reader, blocks = found
    with KvmrReader(reader.name) as again:
        again.skip_to(blocks.end)
        _losses_of(again.items())
        trailer = again.trailer()
    if not trailer.total("lost"):
        return trailer, iter(())
    behind = KvmrReader(reader.name)
    behind.skip_to(blocks.place_of(event + 1))
    return trailer, behind.items()


def _losses_of(items: "Iterator[Item]") -> set[str]:
    """Read items to their end; return what events say was lost."""
    from replay.events import Lost

    return {item.what for item in items if isinstance(item, Lost)}


def first_time_ns(stream: "Stream", end: int) -> int | None:
    """Return the first time that a recording has before event `end`, None when there is none. Cost: the events before it."""
    from replay.recording import open_recording
    from replay.recording.reader import KvmrReader
    from replay.runs import Run

    if not end:
        return None
    assert isinstance(stream, KvmrReader), "only such skip"
    number = 0
    with open_recording(stream.name) as again:
        for item in again.items():
            if number >= end:
                break
            number += len(item) if isinstance(item, Run) else 1
            times = item.time_ns if isinstance(item, Run) else (item.time_ns,)
            found = next((time_ns for time_ns in times if time_ns is not None), None)
            if found is not None:
                return found
    return None
