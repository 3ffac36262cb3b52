"""Hold what was found of calls that overlap in time: which order was chosen, and where the order matters or can not be told."""

from typing import Final

import attrs

from replay.events.base import ByFields, enum, flag, text, uint, uints, values

GROUPS_MAX: Final = 100
"""Most groups that are listed; all of them are counted."""
EVENTS_MAX: Final = 4096
"""Most events that are listed of one group."""
DEFAULT_BUDGET: Final = 10_000
"""Most calls that are tried for one group."""

RECORDED: Final = "recorded order"
REORDERED: Final = "another order"
NONE_FITS: Final = "none fits"
CANNOT_TELL: Final = "cannot tell"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OrderGroup(ByFields):
    """Calls of which each overlaps another one in time, on one VM."""

    vm: int | None = uint("VM; null: all VMs, which share the allocator's limits", bits=32, optional=True)
    events: tuple[int, ...] = uints("numbers of the events, as recorded", length_max=EVENTS_MAX)
    chosen: tuple[int, ...] = uints("the same in the order in which they were replayed", length_max=EVENTS_MAX)
    fits: str = enum(
        "which order gives the recorded results. recorded order; another order: the recorded one does not; none fits: no "
        "admissible order does; cannot tell: the budget ran out, or a call overlaps something past which it is not moved",
        RECORDED,
        REORDERED,
        NONE_FITS,
        CANNOT_TELL,
    )
    complete: bool = flag("all admissible orders were tried", default=True)
    differing: tuple[int, ...] = uints(
        "events that do something else in another order that fits as well, in some lane", length_max=EVENTS_MAX
    )
    open_end: bool = flag("orders that fit lead to different states, and nothing recorded later tells which it was")
    matters: bool = flag("another order that fits may change what is reported, beyond the event that it names")
    tried: int = uint("calls that were tried")
    why: str = text("why it can not be told, empty when it can", default="", length_max=256)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OrderReport(ByFields):
    """What was found of calls that overlap in time. Every group is counted once under recorded ... unjudged."""

    budget: int = uint("most calls that were tried for one group")
    groups: int = uint("groups of overlapping calls")
    calls: int = uint("calls in them")
    largest: int = uint("calls in the largest")
    recorded: int = uint("groups that were replayed in the recorded order, which fits")
    reordered: int = uint("groups that were replayed in another order")
    none_fits: int = uint("groups of which no admissible order gives the recorded results")
    undecided: int = uint("groups of which it can not be told whether an order fits")
    unjudged: int = uint("groups in recorded order, because no lane is the recorded kernel's or the VM's past is not known")
    order_matters: int = uint("groups of which other orders that fit do something else, or lead to another state")
    doubted: int = uint("contradictions that another order of overlapping calls might explain; they are not held against anyone")
    tried: int = uint("calls that were tried in all")
    listed: tuple[OrderGroup, ...] = values(
        "groups of which there is something to say, in order", OrderGroup, length_max=GROUPS_MAX
    )

    @property
    def unclear(self) -> bool:
        """Whether something is left that neither agrees nor contradicts."""
        return bool(self.undecided or self.doubted)
