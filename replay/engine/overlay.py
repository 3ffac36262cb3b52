"""Put together what a lane made of a run from pieces: rows that it folded by itself, and what it takes over from other lanes."""

from collections.abc import Callable, Iterable, Sequence

import attrs

from replay.engine.rows import chosen_column
from replay.kvm.fold import count_changes
from replay.kvm.run_columns import Column, Rows, laid, log_of, put, reasons_in, taken
from replay.kvm.run_outcome import RunOutcome
from replay.runs import Run


@attrs.frozen(eq=False)
class Piece:
    """Some rows of a run, in order, and an outcome that is numbered by them.

    rows: None where it is numbered by the run's rows, and says nothing of others than those of some VMs. mask: of these.
    """

    rows: Rows | None
    outcome: RunOutcome
    mask: int = 0

    def laid(self, column: Column, of: Callable[[RunOutcome, int], Column], length: int) -> Column:
        """Return a column of the run with what this piece says instead."""
        if self.rows is None:
            return laid(column, self.mask, of(self.outcome, length), length)
        return put(column, self.rows, of(self.outcome, len(self.rows)), length)

    def cleared(self, column: Column, length: int) -> Column:
        """Return a column of the run with zeros instead of its rows."""
        return laid(column, self.mask, None, length) if self.rows is None else put(column, self.rows, None, length)


@attrs.frozen(eq=False)
class _Overlay:
    """What pieces say of their rows, and of the others what an outcome of the whole run says; None: nothing."""

    run: Run
    base: RunOutcome | None
    pieces: Sequence[Piece]

    def warned(self) -> Column:
        return self._laid(RunOutcome.warned)

    def answered(self) -> Column:
        return self._laid(RunOutcome.answered)

    def _laid(self, of: Callable[[RunOutcome, int], Column]) -> Column:
        length = len(self.run)
        column = None if self.base is None else of(self.base, length)
        for piece in self.pieces:
            column = piece.laid(column, of, length)
        return column

    def changes(self, kept: Run) -> RunOutcome:
        """Return an outcome with the changes that a run asks for. kept: what the lane replays of it."""
        counted = RunOutcome(log=log_of(self.warned()))
        count_changes(self.run, counted, kept)
        return counted


def spread(run: Run, piece: Piece) -> RunOutcome:
    """Return the outcome of a run of which some rows were folded, numbered by the run's rows."""
    overlay, part = _Overlay(run, None, [piece]), piece.outcome
    found = RunOutcome(adds=part.adds, removes=part.removes, taken=part.taken, reasons=part.reasons())
    found.later({"warned": overlay.warned, "answered": overlay.answered}, run.kind)
    return found


def merged(
    run: Run, base: RunOutcome, pieces: Sequence[Piece], kept: Callable[[Run], Run], reasons: dict[str, int]
) -> RunOutcome:
    """Return an outcome with pieces in the place of what it says of their rows.

    kept: gives what the lane replays of the run. reasons: how often each warning is in the log then.
    """
    overlay, found = _Overlay(run, base, pieces), RunOutcome(reasons=reasons)
    work = {"warned": overlay.warned, "answered": overlay.answered}
    counts = {"adds": lambda: overlay.changes(kept(run)).adds, "removes": lambda: overlay.changes(kept(run)).removes}
    found.later(work | counts, run.kind)
    return found


def chosen(outcome: RunOutcome, run: Run, rows: Rows) -> RunOutcome:
    """Return what an outcome of a run says of some rows, numbered by them; the changes that they ask for are not counted."""
    length, found = len(run), RunOutcome(taken=outcome.taken)
    work = {"warned": lambda: taken(outcome.warned(length), rows), "answered": lambda: taken(outcome.answered(length), rows)}
    found.later(work, chosen_column(run.kind, rows))
    return found


def reasons_elsewhere(outcome: RunOutcome, run: Run, pieces: Iterable[Piece]) -> dict[str, int]:
    """Count the warnings of an outcome of a run in the rows that are in no piece."""
    if not outcome.reasons():
        return {}
    column = outcome.warned(len(run))
    for piece in pieces:
        column = piece.cleared(column, len(run))
    return reasons_in(column, outcome.reasons())
