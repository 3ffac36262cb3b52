"""Keep the memslots of an address space as numpy columns, for the bulk rule to look gfns up.

A layout is worked out when a long run needs it and kept until the slots, or the roots of their counters, change. Cost of
working it out: about 0.3 us a slot. Source: struct kvm_memslots [6.1, 6.12] for what is looked up.
"""

from typing import Any, Final

import attrs

from replay.kvm.counters import NODE_SHIFT, Table
from replay.kvm.memslots import Memslots

GFN_BITS: Final = 40
"""Bits of a gfn that any slot may hold: mmu.h kvm_mmu_max_gfn() [6.1, 6.12], 52 bits of address."""


@attrs.define(eq=False)
class SpaceLayout:
    """The slots of one address space, by first gfn: ends are the first gfns behind them.

    bias: what to add to gfn >> 18 for the root of its counter. array: the slot has a write-track array. shared: counters are
    shared with other lanes.
    """

    known: tuple[int, int]
    bases: Any
    ends: Any
    bias: Any
    array: Any
    all_arrays: bool
    shared: bool


def layout_of(space: Memslots, table: Table) -> SpaceLayout:
    """Return the layout of a space as it is now. Source: see the module."""
    known = (space.generation, table.epoch)
    layout: SpaceLayout | None = space.layout
    if layout is not None and layout.known == known:
        return layout
    import numpy as np

    slots = space.by_base()
    array = [slot.arch.gfn_write_track is not None for slot in slots]
    bias = [slot.arch.counts.bias if there else 0 for slot, there in zip(slots, array, strict=True)]
    space.layout = SpaceLayout(
        known,
        np.array([slot.base_gfn for slot in slots], np.int64),
        np.array([slot.end_gfn for slot in slots], np.int64),
        np.array(bias, np.int64),
        np.array(array, bool),
        all(array),
        any(slot.arch.counts.roots.owners > 1 for slot in slots),
    )
    found: SpaceLayout = space.layout
    return found


@attrs.define(eq=False)
class Layout:
    """The slots of all address spaces of a run, one space after the other: space number << 40 is added to each gfn."""

    bases: Any
    ends: Any
    bias: Any
    array: Any
    enabled: Any
    plain: bool
    """Every slot has its array, and tracking is enabled in all VMs."""


def joined(spaces: list[tuple[SpaceLayout, bool]]) -> Layout:
    """Return the layouts of several spaces as one; each comes with whether tracking is enabled. Source: see the module."""
    import numpy as np

    plain = all(enabled and layout.all_arrays for layout, enabled in spaces)
    if len(spaces) == 1:
        layout, enabled = spaces[0]
        return Layout(layout.bases, layout.ends, layout.bias, layout.array, np.full(len(layout.bases), enabled), plain)
    shift = [np.int64(number << GFN_BITS) for number in range(len(spaces))]
    return Layout(
        np.concatenate([layout.bases + more for (layout, _), more in zip(spaces, shift, strict=True)]),
        np.concatenate([layout.ends + more for (layout, _), more in zip(spaces, shift, strict=True)]),
        np.concatenate([layout.bias - (more >> NODE_SHIFT) for (layout, _), more in zip(spaces, shift, strict=True)]),
        np.concatenate([layout.array for layout, _ in spaces]),
        np.concatenate([np.full(len(layout.bases), enabled) for layout, enabled in spaces]),
        plain,
    )
