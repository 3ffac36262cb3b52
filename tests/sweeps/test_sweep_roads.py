"""One state by every road: forms of file, event by event and in bulk, by checkpoints, saved, and cut down to what matters."""

import io
from collections.abc import Callable, Iterator
from typing import Final

import attrs
import pytest
from sweep import FULL, ROOT, Figures, files

from replay.engine.checkpoint import checkpoint_of, restore
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import lockstep
from replay.events import Event, GuestWrite, HotEvent, Mark, Observe, WriteTrackQuery
from replay.golden.document import Form, golden_text
from replay.golden.questions import DEFAULT
from replay.header import Header
from replay.kvm import fold
from replay.kvm.state import digest_of, structure_digest_of
from replay.recording import JsonlWriter, Writer, open_recording
from replay.recording.recover import recover
from replay.runs import Item, Run, events_of, items_of, run_of
from replay.stream import MemoryStream, Stream

LANES: Final = ("eager", "on-demand")
WITHOUT_EFFECT: Final = (Mark, Observe, WriteTrackQuery, GuestWrite)
"""Events that change no counter, no slot and no allocation."""
EVENTS_MAX: Final = 3000
RECORDINGS: Final = [
    *files("*.kvmr", small=True)[:: 1 if FULL else 12],
    *files("*.jsonl", small=True)[:: 1 if FULL else 9],
    ROOT / "recordings" / "real" / "gvisor-echo.kvmr",
]


@attrs.frozen
class Whole:
    """A recording in memory."""

    header: Header
    items: tuple[Item, ...]

    def lanes(self) -> list[Lane]:
        """Return lanes that have seen nothing."""
        return make_lanes(list(LANES), self.header.machine)

    def stream(self) -> Stream:
        """Return it as a stream."""
        return MemoryStream(self.header, list(self.items))

    def written(self, kind: type[Writer | JsonlWriter], compression: str = "none") -> bytes:
        """Return it as a file."""
        out = io.BytesIO()
        with kind(out, attrs.evolve(self.header, compression=compression)) as writer:
            for item in self.items:
                writer.write(item)
            writer.finish(self.stream().trailer())
        return out.getvalue()

    def replayed(self, items: Iterator[Item], lanes: list[Lane] | None = None, first: int = 0) -> list[Lane]:
        """Return lanes that have seen some items."""
        lanes = lanes or self.lanes()
        for _step in lockstep(items, lanes, first=first):
            pass
        return lanes


def digests(lanes: list[Lane]) -> list[str]:
    """Return the digest of each lane's state."""
    return [digest_of(lane.machine) for lane in lanes]


def from_file(one: Whole, data: bytes) -> list[str]:
    """Return the digests after a file."""
    return digests(one.replayed(open_recording(io.BytesIO(data)).items()))


def saved(one: Whole) -> list[str]:
    """Return the digests after what `recover` makes of the file."""
    out = io.BytesIO()
    recover(io.BytesIO(one.written(Writer)), out, durable=False)
    return from_file(one, out.getvalue())


def golden(one: Whole) -> list[str]:
    """Return the digests after the events that a golden file lists."""
    from contextlib import nullcontext

    text = golden_text(lambda: nullcontext(one.stream()), Form(DEFAULT, "", None, None))
    return from_file(one, text.encode())


def by_checkpoint(one: Whole) -> list[str]:
    """Return the digests when the replay goes on from a checkpoint after a third and after two thirds."""
    lanes, at = one.lanes(), 0
    for part in range(3):
        items = one.items[part * len(one.items) // 3 : (part + 1) * len(one.items) // 3]
        lanes = one.replayed(iter(items), lanes, at)
        at += sum(len(item) if isinstance(item, Run) else 1 for item in items)
        again = one.lanes()
        restore(again, checkpoint_of(lanes))
        lanes = again
    return digests(lanes)


def one_by_one(one: Whole) -> list[str]:
    """Return the digests when each hot event is a run of its own."""
    rows: Iterator[Item] = (run_of([e]) if isinstance(e, HotEvent) else e for e in events_of(one.items))
    return digests(one.replayed(rows))


ROADS: Final[dict[str, Callable[[Whole], list[str]]]] = {
    "kvmr": lambda one: from_file(one, one.written(Writer)),
    "zlib": lambda one: from_file(one, one.written(Writer, compression="zlib")),
    "JSON Lines": lambda one: from_file(one, one.written(JsonlWriter)),
    "golden file": golden,
    "recover": saved,
    "checkpoints": by_checkpoint,
    "event by event": one_by_one,
}


def wholes() -> Iterator[tuple[str, Whole]]:
    """Yield the recordings that take not too long."""
    for path in RECORDINGS:
        stream = open_recording(str(path))
        one = Whole(stream.header, tuple(stream.items()))
        if sum(len(item) if isinstance(item, Run) else 1 for item in one.items) <= EVENTS_MAX:
            yield path.stem, one


class TestRoads:
    """However one gets there, the state is the same."""

    @pytest.mark.parametrize("road", ROADS)
    def test_same_digest(self, road: str, figures: Figures) -> None:
        """Of each recording, in each lane, by the scalar rule and in bulk."""
        tried = 0
        for name, one in wholes():
            assert ROADS[road](one) == digests(one.replayed(iter(one.items))), name
            tried += len(LANES)
        assert tried > 20
        figures(f"states by way of: {road}", tried, differing=0)

    def test_bulk(self, monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
        """Whether runs are folded in bulk from the first row on, or never."""
        tried = 0
        for name, one in wholes():
            found = []
            for rows in (0, 1 << 60):
                with monkeypatch.context() as patch:
                    patch.setattr(fold, "BULK_ROWS_LEAST", rows or 1)
                    patch.setattr(fold, "BULK_AFTER_ROWS", rows)
                    found.append(digests(one.replayed(iter(one.items))))
            assert found[0] == found[1], name
            tried += len(LANES)
        assert tried > 20
        figures("states in bulk", tried, differing=0)

    def test_cut_down(self, figures: Figures) -> None:
        """A recording without the events that change nothing ends with the same slots, arrays, allocations and counters."""
        tried, dropped = 0, 0
        for name, one in wholes():
            events = list(events_of(one.items))
            rest: list[Event] = [event for event in events if not isinstance(event, WITHOUT_EFFECT)]
            lanes, fewer = one.replayed(iter(one.items)), one.replayed(items_of(rest))
            for lane, other in zip(lanes, fewer, strict=True):
                assert structure_digest_of(lane.machine) == structure_digest_of(other.machine), name
                counts = [
                    [dict(slot.arch.counts) for vm in each.machine.vms.values() for slot in vm.slots()] for each in (lane, other)
                ]
                assert counts[0] == counts[1], name
            tried, dropped = tried + len(LANES), dropped + len(events) - len(rest)
        assert dropped > 100
        figures("states of recordings cut down", tried, events_dropped=dropped, differing=0)
