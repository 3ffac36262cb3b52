"""Judge damaged recordings against the whole ones that they were made from: the part that all sweeps share."""

import io
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
from kvmrwriter import split

from recordings import HEADER, TRAILER, add, small_events
from replay.errors import KvmReplayError
from replay.events import Mark
from replay.header import Header
from replay.recording import Writer, open_recording
from replay.runs import COLUMNS, Constant, Item, Run

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FULL: Final = bool(os.environ.get("KVM_REPLAY_SWEEP"))
"""Whether to try all of them rather than the share that fits every run: KVM_REPLAY_SWEEP=full."""
SMALL_BYTES: Final = 8192

WHOLE: Final = "whole"
TORN: Final = "torn"
ERROR: Final = "error"


FIGURE: Final = "figure"


class Figures:
    """Take the figures of one sweep."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def __call__(self, what: str, tried: int, **found: int) -> None:
        """Note how many were tried and what became of them."""
        counts = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in found.items())
        self._properties.append((FIGURE, f"{what}: {tried:,} tried; {counts}"))


def share(everything: int, few: int) -> int:
    """Return how many to try: all, or few of them."""
    return everything if FULL else min(few, everything)


def files(pattern: str, *, small: bool) -> list[Path]:
    """List the recordings that come with the project, the small ones or the others, by name."""
    found = sorted((ROOT / "recordings").rglob(pattern))
    return [path for path in found if (path.stat().st_size < SMALL_BYTES) == small]


@attrs.define
class Original:
    """A whole recording: its bytes, its items, and where its blocks end with how many items are before."""

    data: bytes
    items: list[Item]
    edges: list[tuple[int, int]]

    def true_items(self, size: int) -> list[Item]:
        """Return the items of the blocks that are whole in the first bytes."""
        counts = [count for at, count in self.edges if at <= size]
        return self.items[: counts[-1]] if counts else []

    @property
    def header_end(self) -> int:
        """Place of the first block behind the header."""
        return self.edges[0][0]


def original(data: bytes) -> Original:
    """Return a whole .kvmr with all that is known of it."""
    items = list(open_recording(io.BytesIO(data)).items())
    at, edges, events, count, passed = 0, [], 0, 0, 0
    for number, part in enumerate(split(data)):
        at += len(part)
        events += int.from_bytes(part[12:16], "little") if number else 0
        while passed < events:
            passed += _events_in(items[count])
            count += 1
        if number:
            edges.append((at, count))
    return Original(data, items, edges)


def _events_in(item: Item) -> int:
    return len(item) if isinstance(item, Run) else 1


def same(seen: Sequence[Item], true: Sequence[Item]) -> bool:
    """Say whether two lists of items are the same, without an object for each hot event."""
    return len(seen) == len(true) and all(map(_same_item, seen, true))


def _same_item(seen: Item, true: Item) -> bool:
    if not isinstance(seen, Run) or not isinstance(true, Run):
        return seen == true
    columns = ((getattr(seen, name), getattr(true, name)) for name in COLUMNS)
    return seen.tasks == true.tasks and all(a == b if isinstance(a, Constant) else list(a) == list(b) for a, b in columns)


def judged(data: bytes) -> tuple[str, list[Item]]:
    """Return what a reader makes of bytes, and the items that it gave; anything but an error of ours escapes."""
    seen: list[Item] = []
    try:
        reader = open_recording(io.BytesIO(data))
        for item in reader.items():
            seen.append(item)  # noqa: PERF402 - what was given before an error counts
    except KvmReplayError:
        return ERROR, seen
    return (TORN if reader.torn else WHOLE), seen


@attrs.define
class Tally:
    """Count verdicts on damaged copies of one original, and hold what was read against the truth."""

    tried: int = 0
    accepted: list[str] = attrs.field(factory=list)
    torn: list[str] = attrs.field(factory=list)
    untrue: list[str] = attrs.field(factory=list)
    errors: int = 0

    def take(self, whole: Original, data: bytes, what: str) -> str:
        """Judge one copy; one that has not changed at all does not count."""
        if data == whole.data:
            return WHOLE
        self.tried += 1
        verdict, seen = judged(data)
        if not same(seen, whole.items[: len(seen)]):
            self.untrue.append(what)
        {WHOLE: self.accepted, TORN: self.torn}.get(verdict, []).append(what)
        self.errors += verdict == ERROR
        return verdict

    def all_of(self, whole: Original, damages: Iterable[tuple[str, bytes]]) -> "Tally":
        """Judge all copies."""
        for what, data in damages:
            self.take(whole, data, what)
        return self


def blocks_file(texts: str = "abcdefgh", compression: str = "none") -> bytes:
    """Return a recording of eight small blocks, of rows and of columns, all of one size."""
    out = io.BytesIO()
    with Writer(out, attrs.evolve(HEADER, compression=compression)) as writer:
        for number, letter in enumerate(texts):
            writer.write(Mark(text=letter * 40))
            for gfn in range(20):
                writer.write(add(0, 0x1000 + 256 * number + gfn % 7, time_ns=1000 + gfn))
            writer.flush()
        writer.finish(TRAILER)
    return out.getvalue()


def small_file() -> bytes:
    """Return a recording of one block with events of many kinds."""
    out = io.BytesIO()
    with Writer(out, Header(title="small")) as writer:
        for event in small_events():
            writer.write(event)
        writer.finish(TRAILER)
    return out.getvalue()


def with_bits(data: bytes, bits: Iterable[int]) -> bytes:
    """Return the bytes with some bits changed."""
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def drawn_flips(whole: Original, seed: int, count: int, *, bits: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yield that many copies with some bits changed, drawn with a fixed seed."""
    dice = random.Random(seed)
    for _ in range(count):
        chosen = dice.sample(range(8 * len(whole.data)), bits)
        yield f"bits {chosen}", with_bits(whole.data, chosen)
