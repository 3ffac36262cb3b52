"""Measure how fast any event of a recording is reached by its index, and what the index costs."""

import contextlib
import io
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs

from replay.analyses.uncertainty import Doubts
from replay.cli import main
from replay.cli.console import Console
from replay.cli.indexed import replay_indexed
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.kvm.state import digest_of
from replay.recording import KvmrReader
from replay.recording.block_map import map_file

TWO = ("eager", "on-demand")


@attrs.frozen
class Figures:
    """What was measured, times in seconds of CPU time."""

    events: int
    recording_bytes: int
    index_bytes: int
    straight: float
    build: float
    map: float
    seeks: tuple[float, ...]
    checked: int

    def show(self) -> None:
        """Print it."""
        share = 100 * self.index_bytes / self.recording_bytes
        median, worst = (1000 * pick(self.seeks) for pick in (statistics.median, max))
        cost = 100 * (self.build / self.straight - 1)
        print(f"\n(j) seek: {self.events:,} events, {self.recording_bytes:,} bytes, two lanes")
        print(f"  index                                  {self.index_bytes:,} bytes, {share:.2f} % of the recording")
        print(f"  straight to the end                    {self.straight:8.2f} s")
        print(f"  the same, and the index left behind    {self.build:8.2f} s, {cost:+.0f} %")
        print(f"  walk of the block headers              {1000 * self.map:8.1f} ms")
        print(f"  random event, {len(self.seeks)} of them, median       {median:8.1f} ms")
        print(f"  the same, worst                        {worst:8.1f} ms")
        print(f"  digests held against a straight replay {self.checked:8}")


def measure(path: Path, seeks: int, seed: int = 1) -> Figures:
    """Measure one recording; its index is made anew and stays."""
    blocks = map_file(str(path))
    assert blocks is not None
    path.with_name(f"{path.name}.idx").unlink(missing_ok=True)
    straight = _timed(lambda: _reach(path, None, use=False))
    build = _timed(lambda: _index(path))
    events = random.Random(seed).choices(range(blocks.events), k=seeks)
    _reach(path, events[0], use=True)  # numpy is imported
    times = tuple(_timed(partial(_reach, path, event, use=True)) for event in events)
    checked = sorted(events)[:: max(seeks // 4, 1)]
    for event in checked:
        assert _digests(_reach(path, event, use=True)) == _digests(_reach(path, event, use=False)), event
    size = path.with_name(f"{path.name}.idx").stat().st_size
    return Figures(
        blocks.events, blocks.size_bytes, size, straight, build, _timed(lambda: map_file(str(path))), times, len(checked)
    )


def _timed(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _index(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["index", str(path)]) == 0


def _reach(path: Path, event: int | None, *, use: bool) -> list[Lane]:
    with KvmrReader(str(path)) as reader:
        lanes = make_lanes(TWO, reader.header.machine)
        doubts = Doubts(lanes, reader.header.machine)
        replay_indexed(reader, reader, lanes, event, Console(quiet=True), use=use, doubts=doubts)
        return lanes


def _digests(lanes: list[Lane]) -> list[str]:
    return [digest_of(lane.machine) for lane in lanes]
