"""Follow VMs whose state parted between two lanes: which fields differ, from which event to which.

A VM is compared from the first event on at which the lanes gave different results or different warnings. What differs at that
very event belongs to the finding that it made; what parts later is a finding of its own.
"""

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from replay.analyses.context import Where
from replay.analyses.ledger import Entry
from replay.analyses.parted import Difference, words_of
from replay.events import Event
from replay.kvm.vm import Vm
from replay.runs import Run

Report = Callable[[Where, str, tuple[str, str], Where], Entry]
"""Make a finding of a field that parts on its own: event, field, what the two lanes hold, event where the VM parted."""
RESULT_ONLY: Final = "nothing but that differs"
DESTROYED: Final = "the VM is gone in both"


@attrs.define(eq=False, repr=False)
class _Parted:
    """A VM that parted at an event, the finding that says so, and the fields that differ now with their findings."""

    at: Where
    entry: Entry
    open: dict[str, Entry] = attrs.field(factory=dict)
    owner: Entry | None = None
    """The finding that fields parting at the present event belong to."""
    difference: Difference = attrs.field(factory=Difference)


class States:
    """The parted VMs of one pair of lanes."""

    def __init__(self, vms: tuple[Mapping[int, Vm], Mapping[int, Vm]], report: Report) -> None:
        """vms: of the reference lane and of the other one, by number."""
        self._vms = vms
        self._report = report
        self._parted: dict[int, _Parted] = {}
        self.parted = False
        """Whether some VM parted; otherwise there is nothing to compare."""

    def part(self, at: Where, entry: Entry, *, owns: bool) -> None:
        """Compare the VM from here on. owns: fields that part at this event are what the finding says already."""
        if at.vm is None:
            return
        self.parted = True
        parted = self._parted.get(at.vm)
        if parted is None:
            parted = self._parted[at.vm] = _Parted(at, entry)
        if owns:
            parted.owner = entry

    def parted_at(self, vm: int | None) -> tuple[Where, Entry] | None:
        """Return where a VM parted, and the finding that says so; None when it did not."""
        parted = None if vm is None else self._parted.get(vm)
        return None if parted is None else (parted.at, parted.entry)

    def step(self, what: Event | Run, at: Callable[[], Where]) -> None:
        """Compare the parted VMs that an event or a run names; at: gives its last event. Cost: see `Difference`."""
        for number, parted in self._parted.items():
            if number in (what.vms() if isinstance(what, Run) else (getattr(what, "vm", None),)):
                self._step(number, parted, what, at)

    def _step(self, number: int, parted: _Parted, what: Event | Run, at: Callable[[], Where]) -> None:
        one, other = (lane.get(number) for lane in self._vms)
        if one is not None and other is not None:
            fields = parted.difference.after(one, other, what)
            if fields != list(parted.open):
                self._compare(attrs.evolve(at(), vm=number), parted, fields, (one, other))
        elif one is other:
            self._close(parted, at(), dict.fromkeys(parted.open, DESTROYED))
        if parted.owner is not None:
            if (one is None) == (other is None) and parted.owner not in parted.open.values():
                parted.owner.change(converged_event=at().event, converged=RESULT_ONLY)
            parted.owner = None

    def _compare(self, at: Where, parted: _Parted, fields: list[str], vms: tuple[Vm, Vm]) -> None:
        for field in fields:
            if field not in parted.open:
                parted.open[field] = parted.owner or self._report(at, field, words_of(*vms, field), parted.at)
        equal = [field for field in parted.open if field not in fields]
        self._close(parted, at, {field: f"{field} equal again ({at.kind})" for field in equal})

    @staticmethod
    def _close(parted: _Parted, at: Where, reasons: dict[str, str]) -> None:
        """End the difference in some fields; a finding converges with the last of its fields."""
        for field, reason in reasons.items():
            entry = parted.open.pop(field)
            if entry not in parted.open.values():
                entry.change(converged_event=at.event, converged=reason)
