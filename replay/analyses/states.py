"""Follow VMs whose state parted between two lanes: which fields differ, from which event to which.

A VM is compared from the first event on at which the lanes gave different results or different warnings. What differs at that
very event belongs to the finding that it made; what parts later is a finding of its own.
"""

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from replay.analyses.context import Where
from replay.analyses.ledger import Entry
from replay.analyses.parted import state_difference
from replay.kvm.vm import Vm

Report = Callable[[Where, str, tuple[str, str], Where], Entry]
"""Make a finding of a field that parts on its own: event, field, what the two lanes hold, event where the VM parted."""
RESULT_ONLY: Final = "nothing but that differs"
DESTROYED: Final = "the VM is gone in both"


@attrs.define
class _Parted:
    """A VM that parted at an event, the finding that says so, and the fields that differ now with their findings."""

    at: Where
    entry: Entry
    open: dict[str, Entry] = attrs.field(factory=dict)
    owner: Entry | None = None
    """The finding that fields parting at the present event belong to."""


class States:
    """The parted VMs of one pair of lanes."""

    def __init__(self, vms: tuple[Mapping[int, Vm], Mapping[int, Vm]], report: Report) -> None:
        """vms: of the reference lane and of the other one, by number."""
        self._vms = vms
        self._report = report
        self._parted: dict[int, _Parted] = {}

    @property
    def parted(self) -> bool:
        """Whether some VM parted; otherwise there is nothing to compare."""
        return bool(self._parted)

    def part(self, at: Where, entry: Entry, *, owns: bool) -> None:
        """Compare the VM from here on. owns: fields that part at this event are what the finding says already."""
        if at.vm is None:
            return
        parted = self._parted.setdefault(at.vm, _Parted(at, entry))
        if owns:
            parted.owner = entry

    def parted_at(self, vm: int | None) -> tuple[Where, Entry] | None:
        """Return where a VM parted, and the finding that says so; None when it did not."""
        parted = None if vm is None else self._parted.get(vm)
        return None if parted is None else (parted.at, parted.entry)

    def step(self, at: Where) -> None:
        """Compare the parted VMs after an event. Cost: proportional to their memslots and counters."""
        for number, parted in self._parted.items():
            vms = [lane.get(number) for lane in self._vms]
            if vms[0] is not None and vms[1] is not None:
                self._compare(attrs.evolve(at, vm=number), parted, state_difference(vms[0], vms[1]))
            elif vms[0] is vms[1]:
                self._close(parted, at, dict.fromkeys(parted.open, DESTROYED))
            alike = (vms[0] is None) == (vms[1] is None) and parted.owner not in parted.open.values()
            if parted.owner is not None and alike:
                parted.owner.change(converged_event=at.event, converged=RESULT_ONLY)
            parted.owner = None

    def _compare(self, at: Where, parted: _Parted, fields: dict[str, tuple[str, str]]) -> None:
        for field, texts in fields.items():
            if field not in parted.open:
                parted.open[field] = parted.owner or self._report(at, field, texts, parted.at)
        equal = [field for field in parted.open if field not in fields]
        self._close(parted, at, {field: f"{field} equal again ({at.kind})" for field in equal})

    @staticmethod
    def _close(parted: _Parted, at: Where, reasons: dict[str, str]) -> None:
        """End the difference in some fields; a finding converges with the last of its fields."""
        for field, reason in reasons.items():
            entry = parted.open.pop(field)
            if entry not in parted.open.values():
                entry.change(converged_event=at.event, converged=reason)
