"""Keep the memslots of address spaces as numpy columns, for the bulk rule to look gfns up.

A layout is worked out when a long run needs it and kept until the slots, or the roots of their counters, change. Cost of
working it out: about 0.3 us a slot. Source: struct kvm_memslots [6.1, 6.12] for what is looked up.
"""

from collections.abc import Sequence
from typing import Any, Final

import attrs

from replay.kvm.counters import Counters
from replay.kvm.leaves import NODE_SHIFT, Roots, Table
from replay.kvm.memslots import Memslots

GFN_BITS: Final = 40
"""Bits of a gfn that any slot may hold: mmu.h kvm_mmu_max_gfn() [6.1, 6.12], 52 bits of address."""
LIVE, GAP, NO_COUNTERS, OFF = 0, 1, 2, 3
"""What a place is: a slot that counts, no slot, a slot without a write-track array, one while tracking is not enabled."""
_NOWHERE: Final = -(1 << 60)
"""Bias of what has no counters: its root is below 0, which stands for entry 0, where nothing is."""


@attrs.define(eq=False)
class SpaceLayout:
    """The slots of one address space, by first gfn, as pairs of a slot and the gap behind it.

    edges: first gfns of both; bias: what to add to gfn >> 16 for the root of its counter; state: LIVE and so on, as if tracking
    were enabled. counters: of the slots that have an array, roots: theirs; by_slot: of each slot, whether it has one or not.
    """

    generation: int
    epoch: int
    edges: Any
    bias: Any
    state: Any
    counters: list[Counters]
    roots: list[Roots]
    by_slot: list[Counters]


def layout_of(space: Memslots, table: Table) -> SpaceLayout:
    """Return the layout of a space as it is now. Source: see the module."""
    layout: SpaceLayout | None = space.layout
    if layout is not None and layout.generation == space.generation:
        if layout.epoch != table.epoch and [counts.roots for counts in layout.counters] == layout.roots:
            layout.epoch = table.epoch
        if layout.epoch == table.epoch:
            return layout
    space.layout = layout = _layout_of(space, table)
    return layout


def _layout_of(space: Memslots, table: Table) -> SpaceLayout:
    import numpy as np

    edges, bias, state = list[int](), list[int](), list[int]()
    counters, slots = [], space.by_base()
    for slot in slots:
        there = slot.arch.gfn_write_track is not None
        edges += (slot.base_gfn, slot.end_gfn)
        bias += (slot.arch.counts.bias if there else _NOWHERE, _NOWHERE)
        state += (LIVE if there else NO_COUNTERS, GAP)
        if there:
            counters.append(slot.arch.counts)
    return SpaceLayout(
        space.generation,
        table.epoch,
        np.array(edges, np.int64),
        np.array(bias, np.int64),
        np.array(state, np.uint8),
        counters,
        [counts.roots for counts in counters],
        [slot.arch.counts for slot in slots],
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

    def made_of(self, spaces: Sequence[tuple[SpaceLayout, bool]], shift: int) -> bool:
        """Tell whether it is the layout of these spaces."""
        return (
            shift == self.shift
            and len(spaces) == len(self.spaces)
            and all(a[0] is b[0] and a[1] == b[1] for a, b in zip(spaces, self.spaces, strict=True))
        )


def joined(spaces: Sequence[tuple[SpaceLayout, bool]], shift: int) -> Layout:
    """Return the layouts of several spaces as one; each comes with whether tracking is enabled. Source: see the module.

    shift: bits of a gfn, 0 for a single space; what lies beyond them is left out.
    """
    import numpy as np

    edges, bias, state = [], [np.array([_NOWHERE])], [np.array([GAP], np.uint8)]
    for number, (layout, enabled) in enumerate(spaces):
        first = number << shift
        edges.append(np.minimum(layout.edges, 1 << shift) + first if shift else layout.edges)
        bias.append(layout.bias - (first >> NODE_SHIFT) if enabled else np.full(len(layout.bias), _NOWHERE))
        state.append(layout.state if enabled else np.where(layout.state == GAP, np.uint8(GAP), np.uint8(OFF)))
    return Layout(spaces, shift, np.concatenate(edges), np.concatenate(bias), np.concatenate(state))
