"""Keep the memslots of address spaces as numpy columns, for the bulk rule to look gfns up.

A layout is worked out when a long run needs it and kept until the slots, or the roots of their counters, change. Cost of
working it out: about 0.3 us a slot. Source: struct kvm_memslots [6.1, 6.12] for what is looked up.
"""

from collections.abc import Sequence
from operator import eq
from typing import Any, Final

import attrs

from replay.kvm.counters import Counters
from replay.kvm.leaves import NODE_SHIFT, Roots, Table
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots

GFN_BITS: Final = 40
"""Bits of a gfn that any slot may hold: mmu.h kvm_mmu_max_gfn() [6.1, 6.12], 52 bits of address."""
LIVE, GAP, NO_COUNTERS, OFF = 0, 1, 2, 3
"""What a place is: a slot that counts, no slot, a slot without a write-track array, one while tracking is not enabled."""
Columns = tuple[Any, Any, Any]
"""Edges, biases and states."""
_NOWHERE: Final = -(1 << 60)
"""Bias of what has no counters: its root is below 0, which stands for entry 0, where nothing is."""


@attrs.define(eq=False)
class SpaceLayout:
    """The slots of one address space, by first gfn, as pairs of a slot and the gap behind it.

    edges: first gfns of both; bias: what to add to gfn >> 16 for the root of its counter; state: LIVE and so on, as if tracking
    were enabled. counters: of the slots that have an array, roots: theirs; slots: all of them.
    end_gfn: behind the last slot. lists: edges, bias and state as lists.
    """

    generation: int
    epoch: int
    edges: Any
    bias: Any
    state: Any
    counters: list[Counters]
    roots: list[Roots]
    slots: list[Memslot]
    end_gfn: int
    lists: tuple[list[int], ...]


def layout_of(space: Memslots, table: Table) -> SpaceLayout:
    """Return the layout of a space as it is now. Source: see the module."""
    layout: SpaceLayout | None = space.layout
    if layout is not None and layout.generation == space.generation:
        if layout.epoch != table.epoch and [counts.roots for counts in layout.counters] == layout.roots:
            layout.epoch = table.epoch
        if layout.epoch == table.epoch:
            return layout
    space.layout = layout = _layout_of(space, table, layout)
    return layout


def _layout_of(space: Memslots, table: Table, old: SpaceLayout | None) -> SpaceLayout:
    """Work a layout out; it is the old one with new names in it where all slots lie as they did, as after a change of flags."""
    import numpy as np

    edges, bias, state = list[int](), list[int](), list[int]()
    counters, slots = [], space.by_base()
    for slot in slots:
        counts = slot.arch.counts
        there = slot.arch.raw_write_track is not None
        edges += (slot.base_gfn, slot.end_gfn)
        bias += (counts.bias if there else _NOWHERE, _NOWHERE)
        state += (LIVE if there else NO_COUNTERS, GAP)
        if there:
            counters.append(counts)
    lists = (edges, bias, state)
    now = {
        "generation": space.generation,
        "epoch": table.epoch,
        "counters": counters,
        "roots": [counts.roots for counts in counters],
        "slots": list(slots),
    }
    if old is not None and old.lists == lists:
        for name, value in now.items():
            setattr(old, name, value)
        return old
    columns = np.array(edges, np.int64), np.array(bias, np.int64), np.array(state, np.uint8)
    return SpaceLayout(
        edges=columns[0],
        bias=columns[1],
        state=columns[2],
        end_gfn=edges[-1] if edges else 0,
        lists=lists,
        **now,  # type: ignore[arg-type]
    )


@attrs.define(eq=False)
class Layout:
    """The slots of all address spaces of a run as places on one line: space number << shift is added to each gfn.

    edges: where places begin: even ones are gaps between slots, odd ones slots. state: what each is (LIVE and so on). bias: by
    place, what to add to a key >> 16 for its root.
    """

    spaces: Sequence[tuple[SpaceLayout, bool]]
    shift: int
    edges: Any
    bias: Any
    state: Any

    def places(self, keys: Any) -> Any:
        """Return the place of each of some keys, which ascend. Cost: by the shorter of keys and places, mostly."""
        import numpy as np

        if len(self.edges) > len(keys):
            return self.edges.searchsorted(keys, "right")
        bounds = keys.searchsorted(self.edges)
        lengths = np.empty(len(self.state), np.intp)
        lengths[:-1] = bounds
        lengths[-1] = len(keys)
        lengths[1:] -= bounds
        return np.arange(len(lengths)).repeat(lengths)


def joined(spaces: Sequence[tuple[SpaceLayout, bool]], shift: int, old: Layout | None = None) -> Layout:
    """Return the layouts of several spaces as one; each comes with whether tracking is enabled. Source: see the module.

    shift: bits of a gfn, 0 for a single space; what lies beyond them is left out. old: another one of the same VMs, of which the
    spaces that are the same as these are taken over.
    """
    import numpy as np

    first, end = 0, len(spaces)
    head: Columns = np.empty(0, np.int64), np.array([_NOWHERE]), np.array([GAP], np.uint8)
    tail: Columns = head[0], head[1][:0], head[2][:0]
    if old is not None and old.shift == shift:
        same = list(map(eq, spaces, old.spaces))
        if all(same):
            return old
        first, end = same.index(False), len(same) - same[::-1].index(False)
        low, high = (sum(len(layout.edges) for layout, _enabled in old.spaces[:number]) for number in (first, end))
        head = old.edges[:low], old.bias[: low + 1], old.state[: low + 1]
        tail = old.edges[high:], old.bias[high + 1 :], old.state[high + 1 :]
    pieces = [_piece(*spaces[number], number << shift, shift) for number in range(first, end)]
    edges, bias, state = map(np.concatenate, zip(head, *pieces, tail, strict=True))
    return Layout(spaces, shift, edges, bias, state)


def _piece(layout: SpaceLayout, enabled: bool, first: int, shift: int) -> Columns:  # as `joined()` has them
    """Return one space's part of a layout, which begins at `first`."""
    import numpy as np

    edges = np.minimum(layout.edges, 1 << shift) + first if shift else layout.edges
    if not enabled:
        return edges, np.full(len(edges), _NOWHERE), np.where(layout.state == GAP, np.uint8(GAP), np.uint8(OFF))
    return edges, layout.bias - (first >> NODE_SHIFT), layout.state
