"""Put snapshots of /proc/vmallocinfo between the events of a run: what changed from one to the next is an observation.

A snapshot is the file as it is read. Several may stand in one input, each behind a line `# time_ns=N` in the clock of the trace;
one without such a line was read before the run when it is the first, else after it. The caller has to be root: others see no
addresses, and an area that came can not be told from one that was there.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from replay.errors import TraceOptionError
from replay.events import Event, Observe, Source
from replay.header import Header, SourceFile, Trailer
from replay.runs import Item, Run
from replay.sources.files import Input
from replay.sources.vmallocinfo import Areas, changed_areas, parse_areas
from replay.stream import Stream

FORMAT: Final = "vmallocinfo"
FIRST: Final = "/proc/vmallocinfo: what is there before"
NEXT: Final = "/proc/vmallocinfo: what has changed"
_HEADING: Final = re.compile(rb"# *time_ns=(\d{1,19})\s*")
SNAPSHOT_BYTES_MAX: Final = 1 << 28


@attrs.frozen
class Snapshot:
    """The areas of KVM at one time (ns in the trace's clock, None: not known), and where they were read."""

    time_ns: int | None
    areas: Areas
    file: int
    line: int


def snapshots(source: Input, file: int) -> Iterator[Snapshot]:
    """Yield the snapshots of one input; file: its index among the header's sources. Raises TraceOptionError."""
    time_ns, first, lines, held = None, 1, [], 0
    with source.open() as stream:
        for number, line in enumerate(stream, 1):
            heading = _HEADING.fullmatch(line)
            if heading is None:
                lines.append(line)
                held += len(line)
                if held > SNAPSHOT_BYTES_MAX:
                    raise TraceOptionError("a snapshot without an end", where=source.label, expected="lines of /proc/vmallocinfo")
                continue
            if held:
                yield _snapshot(source.label, time_ns, b"".join(lines), file, first)
            time_ns, first, lines, held = int(heading[1]), number, [], 0
    if held:
        yield _snapshot(source.label, time_ns, b"".join(lines), file, first)


def _snapshot(name: str, time_ns: int | None, text: bytes, file: int, line: int) -> Snapshot:
    areas = parse_areas(text)
    if areas is None:
        advice = "read the file as root"
        raise TraceOptionError("addresses are hidden", where=f"{name}:{line}", expected="addresses of areas", advice=advice)
    return Snapshot(time_ns, areas, file, line)


class ObservedStream:
    """A stream with the observations of snapshots in it. sources: inputs of snapshots, in the order of the command line."""

    def __init__(self, stream: Stream, sources: Sequence[Input]) -> None:
        self._stream, self._sources, self._added = stream, sources, 0
        self._before: Areas | None = None

    @property
    def header(self) -> Header:
        """The stream's header, with the snapshots among the sources."""
        known = self._stream.header
        added = tuple(SourceFile(name=source.name[-255:], format=FORMAT) for source in self._sources)
        return attrs.evolve(known, sources=(*known.sources, *added))

    def assume_kvmgt(self) -> None:
        """Hand the word of the user on to the stream."""
        assume = getattr(self._stream, "assume_kvmgt", None)
        if assume is not None:
            assume()

    def items(self) -> Iterator[Item]:
        """Yield the stream's items, each snapshot before the first one that is later."""
        first = len(self._stream.header.sources)
        waiting = (found for place, source in enumerate(self._sources) for found in snapshots(source, first + place))
        snapshot = next(waiting, None)
        if snapshot is not None and snapshot.time_ns is None:
            yield self._observation(snapshot)
            snapshot = next(waiting, None)
        for item in self._stream.items():
            now_ns = _time_ns(item)
            while snapshot is not None and snapshot.time_ns is not None and now_ns is not None and snapshot.time_ns < now_ns:
                yield self._observation(snapshot)
                snapshot = next(waiting, None)
            yield item
        while snapshot is not None:
            yield self._observation(snapshot)
            snapshot = next(waiting, None)

    def close(self) -> None:
        """Close the stream, where it can be."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def trailer(self) -> Trailer:
        """Return the stream's counts, with the observations among the events."""
        trailer = self._stream.trailer()
        return attrs.evolve(trailer, events=trailer.events + self._added)

    def warnings(self) -> Sequence[str]:
        """Return the stream's warnings."""
        return self._stream.warnings()

    def _observation(self, snapshot: Snapshot) -> Event:
        """Return what changed since the snapshot before; the first one only says from where on is counted."""
        before, self._before = self._before, snapshot.areas
        self._added += 1
        areas = None if before is None else changed_areas(before, snapshot.areas)
        source = Source(snapshot.file, snapshot.line)
        return Observe(areas=areas, label=FIRST if before is None else NEXT, time_ns=snapshot.time_ns, source=source)


def _time_ns(item: Item) -> int | None:
    return item.time_ns[0] if isinstance(item, Run) else item.time_ns
