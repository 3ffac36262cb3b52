"""Hold what the findings of a pair of lanes rest on: the two lanes, their ledger, the rows of the catalogue that stand for them.

Two lanes that differ in more than the policy are explained by that, and by no row.
"""

from collections.abc import Callable, Mapping
from typing import Any

from replay.analyses.array_findings import Surroundings
from replay.analyses.arrays import ArrayTracker
from replay.analyses.catalogue import BOUND, RULES, UNEXPLAINED, VARIANTS, Rule
from replay.analyses.context import Where
from replay.analyses.findings import STATE_DIFFERS, Side
from replay.analyses.ledger import Entry, Ledger
from replay.analyses.states import States
from replay.engine.lane import Lane
from replay.events import MemslotSet
from replay.header import Header
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots

Sides = tuple[Side, ...] | Callable[[], tuple[Side, ...]]
"""What the two lanes did, or what words it when somebody reads it."""


class Ground:
    """The reference lane and one other lane, with the arrays and the VMs in which they parted."""

    def __init__(
        self, reference: Lane, other: Lane, header: Header, kept: int, replayed: Mapping[int, int] | None, *, listed: bool
    ) -> None:
        """kept: most findings of a class. replayed, listed: see `Ledger`."""
        self.reference, self.other = reference, other
        self.header = header
        self.names = (reference.name, other.name)
        self.bound = not (reference.policy.kernel and other.policy.kernel)
        """One of the two is no kernel: arrays alone are compared."""
        self.rows: dict[int, str] = {}
        """VM -> catalogue row of what parted it."""
        self._rules: dict[str, tuple[str, Rule]] = {}
        self._profile_rule = _profile_rule(reference, other)
        self._parted_at: int | None = None
        self.ledger = Ledger(self.limit, kept, replayed, listed=listed)
        factual = (reference.factual, other.factual)
        self.arrays = ArrayTracker(
            Surroundings(
                header,
                self.names,
                factual,
                self.ledger.add,
                self.ledger.add_later,
                listed,
                self.row_rule,
                self.parted_row,
                self.find_slot,
            )
        )
        self.states = States((reference.machine.vms, other.machine.vms), self.field_finding)

    def part(self, event: int) -> None:
        """Note an event whose result differs between the lanes; what begins behind the first one stands behind the horizon."""
        if self._parted_at is None:
            self._parted_at = event

    def limit(self) -> int | None:
        """Return the first event at which userspace would have acted otherwise under one of the two lanes."""
        limit = self._parted_at
        for lane in (self.reference, self.other):
            if lane.disagreements and not lane.factual:
                event = lane.disagreements[0].event
                if limit is None or self.ledger.place(event) < self.ledger.place(limit):
                    limit = event
        return limit

    def row_rule(self, row: str) -> tuple[str, Rule]:
        """Return the catalogue row that stands, and its rule: lanes that differ in more than the policy have no row."""
        found = self._rules.get(row)
        if found is None:
            found = self._rules[row] = self._row_rule(row)
        return found

    def _row_rule(self, row: str) -> tuple[str, Rule]:
        if self.bound:
            return "", BOUND
        if self._profile_rule is not None and (not row or self._other_machine()):
            return "", self._profile_rule
        variants = (VARIANTS.get((row, lane.policy.name)) for lane in (self.other, self.reference))
        return row, next(filter(None, variants), RULES.get(row, UNEXPLAINED))

    def _other_machine(self) -> bool:
        """Tell whether the machines, and not the policies alone, decide when the lanes have write tracking enabled."""
        switches = [(p.tdp, p.config_external_write_tracking) for p in (self.reference.profile, self.other.profile)]
        return self.reference.policy is self.other.policy or switches[0] != switches[1]

    def parted_row(self, vm: int | None) -> str:
        """Return the catalogue row of what first parted the lanes in a VM, '' when nothing did."""
        return "" if vm is None else self.rows.get(vm, "")

    def _spaces(self, vm: int, as_id: int) -> list[Memslots]:
        """Return an address space of a VM in both lanes, as far as it is there."""
        vms = (self.reference.machine.vms.get(vm), self.other.machine.vms.get(vm))
        return [one.spaces[as_id] for one in vms if one is not None and as_id < len(one.spaces)]

    def find_slot(self, vm: int, as_id: int, slot_id: int) -> Memslot | None:
        """Return a memslot by its id, of the lane that has it; None when neither has."""
        for space in self._spaces(vm, as_id):
            slot = space.by_id(slot_id)
            if slot is not None:
                return slot
        return None

    def find_gfn(self, vm: int, as_id: int, gfn: int) -> Memslot | None:
        """Return the memslot that holds a gfn, of the lane that has it; None when neither has."""
        found = (space.by_gfn(gfn) for space in self._spaces(vm, as_id))
        return next((slot for slot in found if slot is not None), None)

    def add(self, at: Where, row: str, divergence: str, sides: Sides, cause: tuple[Where, str], **more: Any) -> Entry:
        """Report a finding and compare the VM's state from here on. cause: root-cause event, and why the lanes part there."""
        row, rule = self.row_rule(row)
        fields: dict[str, Any] = {
            "kind": at.kind,
            "place": at.place,
            "title": rule.title,
            "explanation": rule.explanation,
            "source": rule.source,
            "catalogue": row,
            "vm": at.vm,
            "sides": sides,
            "root_cause_event": cause[0].event,
            "root_cause": cause[1],
        }
        entry = self.ledger.add_fields(at.event, divergence, fields | more)
        if at.vm is not None:
            self.rows.setdefault(at.vm, row)
        return entry

    def state_finding(self, at: Where, sides: Sides, row: str, cause: tuple[Where, str], **more: Any) -> Entry:
        """Report that a VM's state parts here: what differs from now on belongs to this finding."""
        divergence = more.pop("divergence", STATE_DIFFERS)
        seen = more.pop("visible", "in the kernel log")
        entry = self.add(at, row, divergence, sides, cause, visible=seen, **more)
        self.states.part(at, entry, owns=True)
        return entry

    def field_finding(self, at: Where, field: str, texts: tuple[str, str], cause: Where) -> Entry:
        """Report a field that parts on its own, in a VM that parted before or at this event."""
        sides = tuple(Side(lane=name, did=f"{field}: {text}") for name, text in zip(self.names, texts, strict=True))
        row = self.parted_row(at.vm)
        why = f"the VM's state parted there ({cause.kind})"
        seen = "by what follows from it"
        drops = [lane.name for lane in (self.reference, self.other) if lane.policy.flush_slot]
        if field == "counts" and at.kind == MemslotSet.KIND and len(drops) == 1:
            row, why = "D17", f"{drops[0]} has notifiers drop what they track before the change can fail"
            seen = "to the guest: writes to these gfns are no longer seen in one lane"
        return self.add(at, row, STATE_DIFFERS, sides, (cause, why), visible=seen)


def _profile_rule(reference: Lane, other: Lane) -> Rule | None:
    """Return the rule for what the lanes' machines explain, None when they are one and the same."""
    facts = (reference.profile.facts(), other.profile.facts())
    differ = [f"{name}={facts[0][name]} against {name}={facts[1][name]}" for name in facts[0] if facts[0][name] != facts[1][name]]
    if not differ:
        return None
    return Rule(
        "the lanes' machines differ",
        f"Not the policies alone: {', '.join(differ)}. The check or array that is named decides by it.",
        "the profile of each lane",
    )
