"""Replay to an event from the nearest checkpoint of a recording's index, and leave checkpoints on the way when it is far.

Lanes that come from a checkpoint are the ones that a replay from the start would have: tests/cli/test_verb_index.py holds that.
So a recording gets its index as a by-product of the first long replay, and the index grows with the next one that goes further.
"""

from typing import TYPE_CHECKING, Final

from replay.cli.index_store import IndexStore
from replay.cli.maker import maker
from replay.cli.seeking import seekable
from replay.errors import DamagedError
from replay.units import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replay.analyses.uncertainty import Doubts
    from replay.cli.console import Console
    from replay.engine.lane import Lane
    from replay.engine.placing import Placing
    from replay.recording import KvmrReader
    from replay.recording.block_map import BlockMap
    from replay.recording.index_file import Checkpoint, Index
    from replay.stream import Stream

WORTH_EVENTS: Final = 1 << 20
"""An index is made, or made longer, when so many events are replayed that no checkpoint lies among: a second or so of work."""


def replay_indexed(
    stream: "Stream",
    items: "Stream",
    lanes: "Sequence[Lane]",
    event: int | None,
    console: "Console",
    *,
    use: bool,
    doubts: "Doubts",
) -> int:
    """Do what `replay_to()` does, by way of an index where there is one or one is worth it; use: False for never.

    items: the stream, with its items watched. doubts: told of all structural events up to that one. Raises as `replay_to()`, and
    DamagedError for an index that was forged.
    """
    from replay.analyses.state_at import replay_to

    found = seekable(stream) if use else None
    if found is None:
        return replay_to(items, lanes, event, doubts=doubts)
    reader, blocks = found
    store = IndexStore(reader.name, blocks, console, maker())
    index = store.load()
    if index is not None and not index.holds(keys_of(lanes)):
        held = ", ".join(lane.name for lane in index.lanes)
        console.note(f"the index has the lanes {held}, not these: replayed from the start")
        return replay_to(items, lanes, event, doubts=doubts)
    target = blocks.events - 1 if event is None else min(event, blocks.events - 1)
    first = start_at(reader, lanes, index.before(target + 1), blocks, target, doubts) if index is not None else 0
    taker = Taker(lanes, blocks, store.code, doubts, index)
    if not taker.worth(target, dropped=store.dropped):
        return replay_to(items, lanes, event, first=first, doubts=doubts)
    last = replay_to(items, lanes, event, first=first, visit=taker.visit, doubts=doubts)
    save(store, taker.finished(), console)
    return last


def keys_of(lanes: "Sequence[Lane]") -> frozenset[str]:
    """Return what lanes are, for `Index.holds()`."""
    from replay.engine.checkpoint import key_of

    return frozenset(key_of(lane) for lane in lanes)


def start_at(
    reader: "KvmrReader",
    lanes: "Sequence[Lane]",
    checkpoint: "Checkpoint | None",
    blocks: "BlockMap",
    target: int,
    doubts: "Doubts",
) -> int:
    """Restore lanes and doubts, and let the reader begin there; return the number of its first event."""
    from replay.engine.checkpoint import MisfitError, restore

    if checkpoint is None:
        return 0
    place = blocks.place_of(checkpoint.event)
    advice = "remove the index, or give --no-index"
    if place.first_event != checkpoint.event:
        raise DamagedError(f"a checkpoint at event {checkpoint.event}, inside a block", where="the index", advice=advice)
    try:
        restore(lanes, checkpoint.state, to_go=target + 1 - checkpoint.event)
        doubts.resume(checkpoint.doubts)
    except (MisfitError, ValueError) as error:
        raise DamagedError(str(error), where="the index", advice=advice) from None
    reader.skip_to(place)
    return place.first_event


class Taker:
    """Leave checkpoints while lanes are replayed, behind those of an index that is there.

    doubts: what is told of the events that the lanes replay. every: see `Placing`.
    """

    def __init__(
        self,
        lanes: "Sequence[Lane]",
        blocks: "BlockMap",
        code: str,
        doubts: "Doubts",
        index: "Index | None" = None,
        *,
        every: int = 0,
    ) -> None:
        from replay.engine.checkpoint import key_of
        from replay.recording.index_file import Index, IndexedLane

        self._lanes, self._doubts = lanes, doubts
        self._places = {place.first_event: place.at for place in blocks.places}
        named = tuple(IndexedLane(key_of(lane), lane.name) for lane in lanes)
        self._own = index is None or {lane.key for lane in index.lanes} == {lane.key for lane in named}
        self.index = Index(blocks.digest, code, named) if index is None else index
        self._taken = list(self.index.checkpoints)
        self._placing = _placing(self._taken, every)

    def worth(self, target: int, *, dropped: bool) -> bool:
        """Tell whether checkpoints on the way to an event are worth it: there is far to go, or an index was dropped."""
        return bool(self._own and self.index.maker) and (dropped or target - self._placing.last_event >= WORTH_EVENTS)

    def visit(self, event: int) -> None:
        """Leave a checkpoint before an event when a block begins there and one is due."""
        from replay.engine.checkpoint import checkpoint_of
        from replay.recording.index_file import Checkpoint

        at = self._places.get(event)
        if at is None or event <= self._placing.last_event or not self._placing.due(event, at):
            return
        taken = Checkpoint(event, checkpoint_of(self._lanes), self._doubts.kept())
        self._placing.left(event, taken.size_bytes)
        self._taken.append(taken)

    def finished(self) -> "Index":
        """Return the index with all checkpoints."""
        import attrs

        return attrs.evolve(self.index, checkpoints=tuple(self._taken))


def _placing(taken: "Sequence[Checkpoint]", every: int) -> "Placing":
    from replay.engine.placing import Placing

    placing = Placing(every)
    for checkpoint in taken:
        placing.left(checkpoint.event, checkpoint.size_bytes)
    return placing


def save(store: IndexStore, index: "Index", console: "Console") -> None:
    """Write an index that was made on the way, and say so."""
    place = store.save(index)
    if place is not None:
        console.note(
            f"index written: {place}, {counted(len(index.checkpoints), 'checkpoint')}, {counted(place.stat().st_size, 'byte')}; "
            "the next --at starts from there (--no-index for none)"
        )
