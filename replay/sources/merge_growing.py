"""Merge the strace and the tracefs text of a run while both are written."""

from collections.abc import Iterable, Iterator, Sequence

from replay.runs import Item
from replay.sources.files import Input
from replay.sources.merge import MergedImport
from replay.sources.strace_growing import GrowingStrace
from replay.sources.tracefs_grammar import task_line
from replay.sources.tracefs_lexer import Block, TracefsLexer


class GrowingMerge(MergedImport):
    """A stream over both; nothing is looked for ahead, because how far the clocks are apart is known.

    pieces: of the trace's text, an empty one when there is nothing for now. trace: names its file. clock: the trace's, as the
    header names it. offset_ns: the trace's clock minus strace's.
    """

    def __init__(self, strace: GrowingStrace, pieces: Iterable[bytes], trace: Input, *, clock: str, offset_ns: int) -> None:
        self._pieces, self._clock_name, self._gate, self._offset_ns = pieces, clock, strace.gate, offset_ns
        super().__init__(strace, trace)
        self._calls.follows = True
        self._calls.feed.pairing.offset_ns = offset_ns

    def _lexed(self, _trace: Input) -> TracefsLexer:
        return TracefsLexer(self._pieces)

    def _clock(self) -> str:
        return self._clock_name

    def _sampled(self, _blocks: Iterator[Block]) -> list[Block]:
        return []

    def items(self) -> Iterator[Item]:
        """Yield events and runs in order of the trace."""
        yield from self._walk.items(self._in_step(self._blocks))

    def _in_step(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Hold each block until strace has come as far: its threads have to be known."""
        for block in blocks:
            last_ns = _last_ns(block.lines)
            if last_ns is not None:
                self._gate.read_past(last_ns - self._offset_ns)
            yield block


def _last_ns(lines: Sequence[bytes]) -> int | None:
    for line in reversed(lines):
        task = task_line(line)
        if task is not None and task.time_ns is not None:
            return task.time_ns
    return None
