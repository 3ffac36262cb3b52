"""Say what a run did in one lane, as the rows that are worth a word. Source: the functions that fold.py and bulk.py model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from replay.kvm.allocator import Allocation
from replay.kvm.kernel_log import BITS
from replay.kvm.run_columns import Column, answered_column, log_of, rets_of, rows_of, warned_column, writes_of

_NOT_YET: Final = object()
"""A column that nobody asked for."""
_NOTHING: Final[Mapping[str, Callable[[], Any]]] = {}


@attrs.define
class RunOutcome:
    """What a run did in one lane, as the rows that are worth a word.

    log: (row, warning). rets: row -> result of external adds and removes that failed, and of queries that were true.
    tracked_writes: rows of guest writes to a tracked gfn. adds, removes: write-track changes asked for.
    taken: arrays made by its adds, which no kernel does; see policies.IDEAL.
    All but `taken` may be worked out when they are asked for: `later()`. Whoever knows gives `reasons()`.
    """

    log: list[tuple[int, str]] = attrs.field(factory=list)
    rets: dict[int, int] = attrs.field(factory=dict)
    tracked_writes: list[int] = attrs.field(factory=list)
    adds: int = 0
    removes: int = 0
    taken: list[Allocation] = attrs.field(factory=list, eq=False)
    _reasons: dict[str, int] | None = attrs.field(default=None, eq=False, repr=False)
    _work: Mapping[str, Callable[[], Any]] = attrs.field(default=_NOTHING, init=False, eq=False, repr=False)
    _kinds: Sequence[int] = attrs.field(default=(), init=False, eq=False, repr=False)
    _warned: Column = attrs.field(default=_NOT_YET, init=False, eq=False, repr=False)
    _answered: Column = attrs.field(default=_NOT_YET, init=False, eq=False, repr=False)

    def later(self, work: Mapping[str, Callable[[], Any]], kinds: Sequence[int] = ()) -> None:
        """Have some fields worked out when they are asked for, which gives the same whenever that is.

        work: by name of the field, or of a column: from `warned` the log is made, from `answered` rets and tracked_writes.
        kinds: of the rows of the run, for work on columns.
        """
        self._work, self._kinds = work, kinds
        for name in work:
            for field in _FIELDS_OF.get(name, (name,)):
                delattr(self, field)

    def warned(self, rows: int) -> Column:
        """Return what the kernel log says of each row, as run_columns has it. rows: how many the run has."""
        if self._warned is _NOT_YET:
            how = self._work.get("warned", None)
            self._warned = warned_column(self.log, rows) if how is None else how()
        return self._warned

    def answered(self, rows: int) -> Column:
        """Return the answer of each row, results and tracked writes, as run_columns has it. rows: how many the run has."""
        if self._answered is _NOT_YET:
            how = self._work.get("answered", None)
            self._answered = answered_column(self.rets, self.tracked_writes, rows) if how is None else how()
        return self._answered

    def reasons(self) -> dict[str, int]:
        """Return how often each warning is in the log."""
        found = self._reasons
        if found is None:
            found = self._reasons = {}
            for _row, reason in self.log:
                found[reason] = found.get(reason, 0) + 1
        return found

    def rows_of(self, reason: str) -> list[int]:
        """Return the rows of one warning that is never said together with another one."""
        count = self.reasons().get(reason, 0)
        if count and (self._warned is not _NOT_YET or "warned" in self._work):
            return rows_of(self.warned(len(self._kinds)), BITS[reason], count)
        return [row for row, said in self.log if said == reason] if count else []

    def _make_log(self) -> list[tuple[int, str]]:
        return log_of(self.warned(len(self._kinds)))

    def _make_rets(self) -> dict[int, int]:
        return rets_of(self.answered(len(self._kinds)), self._kinds)

    def _make_writes(self) -> list[int]:
        return writes_of(self.answered(len(self._kinds)), self._kinds)

    def __getattr__(self, name: str) -> Any:
        """Work a field out; Python asks for it here when it is not there yet."""
        how = object.__getattribute__(self, "_work").get(name)
        if how is None and name not in _MADE:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = how() if how is not None else _MADE[name](self)
        setattr(self, name, value)
        return value


_FIELDS_OF: Final = {"warned": ("log",), "answered": ("rets", "tracked_writes")}
"""What is made of a column."""
_MADE: Final[dict[str, Callable[[RunOutcome], Any]]] = {
    "log": RunOutcome._make_log,  # noqa: SLF001  # the class's own
    "rets": RunOutcome._make_rets,  # noqa: SLF001
    "tracked_writes": RunOutcome._make_writes,  # noqa: SLF001
}
