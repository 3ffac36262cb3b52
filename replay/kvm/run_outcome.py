"""Say what a run did in one lane, as the rows that are worth a word. Source: the functions that fold.py and bulk.py model."""

import attrs

from replay.kvm.allocator import Allocation


@attrs.define
class RunOutcome:
    """What a run did in one lane, as the rows that are worth a word.

    log: (row, warning). rets: row -> result of external adds and removes that failed, and of queries that were true.
    tracked_writes: rows of guest writes to a tracked gfn. adds, removes: write-track changes asked for.
    taken: arrays made by its adds, which no kernel does; see policies.IDEAL.
    """

    log: list[tuple[int, str]] = attrs.field(factory=list)
    rets: dict[int, int] = attrs.field(factory=dict)
    tracked_writes: list[int] = attrs.field(factory=list)
    adds: int = 0
    removes: int = 0
    taken: list[Allocation] = attrs.field(factory=list, eq=False)
