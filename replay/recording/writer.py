"""Write a recording block by block, in memory that does not grow with it.

The bytes are a function of header, events and trailer alone: runs that touch are joined and cut anew, so that it does not
matter in which pieces they came. A block ends when the next row or frame would take it over BLOCK_EVENTS or BLOCK_RAW_BYTES;
nothing else ends one. So hot events between two structural ones are in one frame unless there are more than BLOCK_EVENTS of
them: whoever replays them pays for each frame. (With compression "zlib" the bytes also depend on the zlib in use.)

While it is written the file is NAME.part; it gets its name when it is complete. A .part that stays behind is a torn
recording, readable up to its last whole block. What is not yet in a block is lost with the process: `announce` tells how far
the blocks are, and `flush` ends one early, for recorders that wait for the next event longer than they may forget the last.
"""

from contextlib import suppress

from replay.errors import EventError, KvmReplayError
from replay.events import Event, HotEvent
from replay.header import Header, Trailer
from replay.recording.blocks import END, EVENTS, HEADER, MAGIC, chain_start, encode_block
from replay.recording.codec import event_to_wire
from replay.recording.ends import header_record, trailer_record, with_events
from replay.recording.files import PART_SUFFIX, Announce, Output, Writable
from replay.recording.frames import SHAPES
from replay.recording.limits import BLOCK_EVENTS, BLOCK_RAW_BYTES, RECORD_BYTES, RECORDING_EVENTS, keep
from replay.recording.segments import LAYOUT, columns_segment, padded, rows_segment
from replay.recording.wire import pack
from replay.recording.writing import Writing
from replay.runs import Item, Run, run_of


def slice_run(run: Run, start: int, stop: int) -> Run:
    """Return rows start to stop of a run, without copying columns that can be looked into."""
    columns = {shape.name: getattr(run, shape.name)[start:stop] for shape in SHAPES}
    return Run(tasks=run.tasks, **columns)


class Writer(Writing):
    """Write one recording to a path or an open binary stream.

    Usage: `with Writer("boot.kvmr", header) as writer: writer.write(item); ...; writer.finish(trailer)`. An exception inside
    leaves NAME.part with every event so far, as a torn recording. overwrite: replace a file, or a .part, that is there.
    announce: called after each block with the number of events that now outlive this process. durable: fsync each block, so
    that they outlive the machine; some ms a block on most disks. Raises EventError, LimitError, HeaderError, UnwritableError.
    """

    def __init__(
        self,
        target: Writable,
        header: Header,
        *,
        overwrite: bool = False,
        durable: bool = False,
        announce: Announce | None = None,
        part_suffix: str = PART_SUFFIX,
    ) -> None:
        self._announce = announce
        self._events = 0
        self._compress = header.compression == "zlib"
        self._previous = chain_start(MAGIC)
        self._blocks = 0
        self._block_first = 0
        self._segments: list[bytes] = []
        self._segment_bytes = 0
        self._rows: list[bytes] = []
        self._row_bytes = 0
        self._runs: list[Run] = []
        self._run_rows = 0
        self._singles: list[HotEvent] = []
        raw = header_record(header)
        self._output = Output(target, overwrite=overwrite, durable=durable, part_suffix=part_suffix)
        try:
            self._emit(HEADER, raw, 0, prefix=MAGIC)
        except BaseException:
            self._output.discard()
            raise

    @property
    def events(self) -> int:
        """Number of events taken so far."""
        return self._events + len(self._singles)

    @property
    def written_events(self) -> int:
        """Number of events in whole blocks that the system has: they outlive this process, with durable the machine."""
        return self._block_first

    def _save(self) -> None:
        with suppress(KvmReplayError):
            self._end_block()

    def write(self, item: Item) -> None:
        """Append one structural event or one run; a run may also be single hot events."""
        self._assert_open()
        if isinstance(item, Run):
            self._join_singles()
            self._write_run(item)
        elif isinstance(item, HotEvent):
            self._singles.append(item)
            if len(self._singles) == BLOCK_EVENTS.most:
                self._join_singles()
        else:
            self._write_event(item)

    def flush(self) -> None:
        """End the block here and hand it to the system; with durable wait for the disk.

        The price: one write, and 55 bytes among structural events, about 90 among hot ones (headers of block and segment, head
        of the columns). The bytes then depend on where it was called; a copy has the usual ones again.
        """
        self._assert_open()
        self._end_block()

    def finish(self, trailer: Trailer) -> None:
        """Write what is pending and the END block, and give the file its name; the trailer's count of events is set here."""
        self._assert_open()
        self._end_block()
        self._emit(END, trailer_record(with_events(trailer, self._events), self._blocks), 0)
        self._output.commit()
        self.finished = True

    # Events are counted when they are taken: closed segments, rows and run rows together make the open block.

    def _write_event(self, event: Event) -> None:
        self._end_run()
        try:
            row = pack(event_to_wire(event))
        except EventError as error:
            raise error.at(f"event {self._events}") from None
        keep(RECORD_BYTES, len(row), f"event {self._events}, {event.KIND}", "split it into several events")
        if self._events - self._block_first == BLOCK_EVENTS.most or not self._fits(LAYOUT.size + self._row_bytes + len(row)):
            self._end_block()
        self._rows.append(row)
        self._row_bytes += len(row)
        self._count(1)

    def _write_run(self, run: Run) -> None:
        self._end_rows()
        start = 0
        while start < len(run):
            if self._run_rows == BLOCK_EVENTS.most:
                self._end_block()
            taken = min(len(run) - start, BLOCK_EVENTS.most - self._run_rows)
            self._count(taken)
            self._runs.append(run if taken == len(run) else slice_run(run, start, start + taken))
            self._run_rows += taken
            if self._segments and self._events - self._block_first > BLOCK_EVENTS.most:
                self._emit_events(self._events - self._run_rows)
            start += taken

    def _count(self, events: int) -> None:
        keep(RECORDING_EVENTS, self._events + events, self.name)
        self._events += events

    def _fits(self, size: int) -> bool:
        return self._segment_bytes + padded(size) <= BLOCK_RAW_BYTES.most

    def _join_singles(self) -> None:
        if self._singles:
            singles, self._singles = self._singles, []
            self._write_run(run_of(singles))

    def _end_rows(self) -> None:
        if self._rows:
            self._add_segment(rows_segment(self._rows))
            self._rows, self._row_bytes = [], 0

    def _end_run(self) -> None:
        self._join_singles()
        if not self._runs:
            return
        runs, rows = self._runs, self._run_rows
        self._runs, self._run_rows = [], 0
        try:
            segment = columns_segment(runs, self._events - rows)
        except KvmReplayError:
            self._events -= rows  # what is written so far stays a true prefix; this run can not be written, so nothing after it
            self._end_block()
            self._failed = True
            raise
        if self._segments and not self._fits(len(segment)):
            self._emit_events(self._events - rows)
        self._add_segment(segment)

    def _add_segment(self, segment: bytes) -> None:
        self._segments.append(segment)
        self._segment_bytes += len(segment)

    def _end_block(self) -> None:
        self._end_rows()
        self._end_run()
        if self._segments:
            self._emit_events(self._events)

    def _emit_events(self, end: int) -> None:
        raw = b"".join(self._segments)
        self._segments, self._segment_bytes = [], 0
        self._emit(EVENTS, raw, end - self._block_first)

    def _emit(self, kind: int, raw: bytes, events: int, prefix: bytes = b"") -> None:
        compress = self._compress and kind == EVENTS
        block, checksum = encode_block(kind, raw, events, self._block_first, self._previous, compress=compress)
        self._failed = True  # until all of it is written: after half a block nothing may follow
        self._output.write(prefix + block)
        self._failed = False
        self._previous, self._block_first, self._blocks = checksum, self._block_first + events, self._blocks + 1
        if self._announce is not None and events:
            self._announce(self._block_first)
