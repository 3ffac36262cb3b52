"""Start reading a recording at any of its events, where it is a file whose blocks can be found."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replay.recording import KvmrReader
    from replay.recording.block_map import BlockMap
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
