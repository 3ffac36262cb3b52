"""Say what a run did in one lane, as the rows that are worth a word. Source: the functions that fold.py and bulk.py model."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from replay.kvm.allocator import Allocation


@attrs.define
class RunOutcome:
    """What a run did in one lane, as the rows that are worth a word.

    log: (row, warning). rets: row -> result of external adds and removes that failed, and of queries that were true.
    tracked_writes: rows of guest writes to a tracked gfn. adds, removes: write-track changes asked for.
    taken: arrays made by its adds, which no kernel does; see policies.IDEAL.
    The first three may be worked out when they are asked for: `later()`.
    """

    log: list[tuple[int, str]] = attrs.field(factory=list)
    rets: dict[int, int] = attrs.field(factory=dict)
    tracked_writes: list[int] = attrs.field(factory=list)
    adds: int = 0
    removes: int = 0
    taken: list[Allocation] = attrs.field(factory=list, eq=False)
    _work: dict[str, Callable[[], Any]] = attrs.field(factory=dict, init=False, eq=False, repr=False)

    def later(self, work: Mapping[str, Callable[[], Any]]) -> None:
        """Have some fields worked out when they are asked for, which gives the same whenever that is.

        work: by name of the field.
        """
        for name, how in work.items():
            delattr(self, name)
            self._work[name] = how

    def said(self) -> dict[int, str]:
        """Return what the kernel log says of each row that it names, in the order in which it was said."""
        found: dict[int, str] = {}
        for row, reason in self.log:
            found[row] = f"{found[row]}; {reason}" if row in found else reason
        return found

    def __getattr__(self, name: str) -> Any:
        """Work a field out; Python asks for it here when it is not there yet."""
        how = object.__getattribute__(self, "_work").pop(name, None)
        if how is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = how()
        setattr(self, name, value)
        return value
