"""Hold one lane against the reference lane, event by event, and make findings of what differs."""

from typing import Final

import attrs

from replay.analyses.arrays import ArrayTracker
from replay.analyses.catalogue import RULES
from replay.analyses.context import Where, place_of, result_text, where
from replay.analyses.findings import (
    ENOMEM_GONE,
    ENOMEM_MOVED,
    ENOMEM_NEW,
    INVARIANT_BROKEN,
    LIFETIME_DIFFERS,
    RESULT_DIFFERS,
    STATE_DIFFERS,
    Finding,
    Side,
)
from replay.analyses.parted import state_difference
from replay.engine.lane import Lane, results_agree
from replay.engine.lockstep import RunStep, Step
from replay.events import MemslotSet, NotifierRegister, NotifierUnregister, VcpuCreate, VmDestroy
from replay.header import Header
from replay.kvm.kernel_log import BUG, NO_ARRAY
from replay.kvm.machine import Outcome
from replay.runs import QUERY, REMOVE, UNACCOUNT
from replay.units import ENOMEM, ESRCH, ret_text

FINDINGS_KEPT: Final = 20_000
"""Most findings that one pair keeps; more are counted by class only."""


@attrs.define
class _Refusal:
    """A call that failed with -ENOMEM in one lane only, waiting for its counterpart in the other."""

    at: Where
    in_other: bool
    as_id: int | None
    slot: int | None
    said: tuple[Side, Side]
    row: str


_REFUSED_BY: Final = {"notifier.register": "D8", "shadow_root.alloc": "D9", "vcpu.create": "D19", "tss.set": "D19"}


class Pair:
    """The reference lane and one other lane."""

    def __init__(self, reference: Lane, other: Lane, header: Header) -> None:
        self.reference, self.other = reference, other
        self.findings: list[Finding] = []
        self.counts: dict[str, list[int]] = {}
        self._header = header
        self._names = (reference.name, other.name)
        self._arrays = ArrayTracker(self._names, self._emit, self._parted_row)
        self._refusals: list[_Refusal] = []
        self._parted: dict[int, Where] = {}  # VM -> event where its state parted
        self._rows: dict[int, str] = {}  # VM -> catalogue row of what parted it
        self._state_open: dict[tuple[int, str], Where] = {}
        self.horizon: int | None = None

    def step(self, step: Step, index: int) -> None:
        """Take one structural event; index is the other lane's place among the outcomes, the reference lane's is 0."""
        a, b = step.outcomes[0], step.outcomes[index]
        at = where(self._header, step.event, step.number)
        self._results(at, step, a, b)
        self._arrays.step(at, a, b)
        if a is not None and b is not None:
            if a.log != b.log:
                self._logs(at, a.log, b.log, step.event.KIND)
            self._lifetime(at, step)
        self._states(at)

    def run(self, step: RunStep, index: int) -> None:
        """Take one run."""
        a, b = step.outcomes[0], step.outcomes[index]
        if a.log != b.log:
            self._run_logs(step, dict(a.log), dict(b.log))
        if a.rets != b.rets or a.tracked_writes != b.tracked_writes:
            writes = (dict.fromkeys(a.tracked_writes, 1), dict.fromkeys(b.tracked_writes, 1))
            self._run_rets(step, a.rets | writes[0], b.rets | writes[1])
        if self._parted:
            last = step.first + len(step.run) - 1
            self._states(Where(last, step.run.event_at(len(step.run) - 1).KIND, ""))

    def finish(self) -> None:
        """Report what is still open at the end of the recording; findings are in order of events afterwards."""
        self._arrays.finish()
        self._match_refusals()
        horizons = [lane.horizon.event for lane in (self.reference, self.other) if lane.horizon is not None and not lane.factual]
        limit = min([*horizons, *([] if self.horizon is None else [self.horizon])], default=None)
        if limit is not None:
            self.findings = [
                attrs.evolve(f, behind_horizon=f.behind_horizon or f.event > limit) if f.event > limit else f
                for f in self.findings
            ]
        self.findings.sort(key=lambda f: (f.event, f.divergence, f.as_id or 0, f.slot or 0))

    def take(self, finding: Finding) -> None:
        """Take a finding that another analysis of the same pair made."""
        self._emit(finding)

    def _emit(self, finding: Finding) -> None:
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(finding)
        else:
            self.counts.setdefault(finding.divergence, [0])[0] += 1

    # -- results -------------------------------------------------------------------------------------------------------

    def _results(self, at: Where, step: Step, a: Outcome | None, b: Outcome | None) -> None:
        if a is None or b is None or a.ret is None or b.ret is None or results_agree(a.ret, b.ret):
            return
        if isinstance(step.event, NotifierRegister) and not self.reference.policy.register_checks_mm and b.ret == -ESRCH:
            catalogue = "D23"
        else:
            catalogue = self._result_row(at, step, a, b)
        sides = (_side(self._names[0], a), _side(self._names[1], b))
        if (a.ret == -ENOMEM) != (b.ret == -ENOMEM) and min(a.ret, b.ret) == -ENOMEM and max(a.ret, b.ret) >= 0:
            catalogue = self._refuse(at, step, (a, b), sides)
        else:
            self._result_finding(at, step, sides, catalogue)
        self._part(at, catalogue)
        if self.horizon is None:
            self.horizon = at.event

    def _result_row(self, at: Where, step: Step, a: Outcome, b: Outcome) -> str:
        if at.vm in self._parted:
            return self._parted_row(at.vm)
        if "external page-track user" in a.why + b.why:
            return "D14"
        return "D19" if isinstance(step.event, VcpuCreate) else ""

    def _parted_row(self, vm: int | None) -> str:
        """Return the catalogue row of what first parted the lanes in a VM, '' when nothing did."""
        return "" if vm is None else self._rows.get(vm, "")

    def _part(self, at: Where, row: str) -> None:
        """Remember that the VM's state differs from here on, and why."""
        if at.vm is not None and at.vm not in self._parted:
            self._parted[at.vm] = at
            self._rows[at.vm] = row

    def _result_finding(self, at: Where, step: Step, sides: tuple[Side, Side], catalogue: str) -> None:
        cause = self._parted.get(at.vm) if at.vm is not None else None
        as_id, slot = _slot_of(step)
        self._emit(
            Finding(
                event=at.event,
                kind=at.kind,
                place=at.place,
                divergence=RESULT_DIFFERS,
                catalogue=catalogue,
                vm=at.vm,
                as_id=as_id,
                slot=slot,
                sides=sides,
                root_cause_event=at.event if cause is None else cause.event,
                root_cause="the policies answer this call differently"
                if cause is None
                else f"the VM's state parted there ({cause.kind})",
                visible_event=at.event,
                visible=f"result of {at.kind}",
                explanation=RULES[catalogue].explanation,
                source=RULES[catalogue].source,
            )
        )

    def _refuse(self, at: Where, step: Step, outcomes: tuple[Outcome, Outcome], sides: tuple[Side, Side]) -> str:
        """Keep a failure of one lane until its counterpart is seen; return its catalogue row."""
        a, b = outcomes
        failing = b if b.ret == -ENOMEM else a
        pages = self.other.machine.allocator.total_ram_pages
        too_large = bool(pages) and any(nominal > pages * 4096 for _site, _array, nominal in failing.refused)
        as_id, slot = _slot_of(step)
        row = "D32" if too_large else _REFUSED_BY.get(at.kind, "D7")
        self._refusals.append(_Refusal(at, b.ret == -ENOMEM, as_id, slot, sides, row))
        return row

    def _match_refusals(self) -> None:
        """Make one enomem-moved of each failure of the reference lane and the next one of the other lane in the same VM."""
        waiting: dict[int | None, list[_Refusal]] = {}
        for refusal in self._refusals:
            queue = waiting.setdefault(refusal.at.vm, [])
            partner = next((one for one in queue if one.in_other != refusal.in_other), None)
            if partner is None:
                queue.append(refusal)
                continue
            queue.remove(partner)
            self._emit(self._moved(partner, refusal))
        for queue in waiting.values():
            for refusal in queue:
                self._emit(self._lone(refusal))

    def _moved(self, first: _Refusal, second: _Refusal) -> Finding:
        base = self._lone(first)
        row = "D19" if "D19" in {first.row, second.row} else "D32" if "D32" in {first.row, second.row} else "D7"
        calls = (second, first) if first.in_other else (first, second)
        did = [f"-ENOMEM from {call.at.kind} at event {call.at.event}" for call in calls]
        sides = tuple(Side(lane=name, ret=-ENOMEM, did=text) for name, text in zip(self._names, did, strict=True))
        return attrs.evolve(
            base,
            divergence=ENOMEM_MOVED,
            catalogue=row,
            explanation=RULES[row].explanation,
            source=RULES[row].source,
            sides=sides,
            visible=f"result of {first.at.kind} at event {first.at.event}, of {second.at.kind} at event {second.at.event}",
        )

    def _lone(self, refusal: _Refusal) -> Finding:
        row, at = refusal.row, refusal.at
        return Finding(
            event=at.event,
            kind=at.kind,
            place=at.place,
            divergence=ENOMEM_NEW if refusal.in_other else ENOMEM_GONE,
            catalogue=row,
            vm=at.vm,
            as_id=refusal.as_id,
            slot=refusal.slot,
            sides=refusal.said,
            root_cause_event=at.event,
            root_cause="the allocation that fails is made by another call, or not at all, in the other lane",
            visible_event=at.event,
            visible=f"result of {at.kind}",
            explanation=RULES[row].explanation,
            source=RULES[row].source,
        )

    # -- states --------------------------------------------------------------------------------------------------------

    def _logs(self, at: Where, a: list[str], b: list[str], kind: str) -> None:
        sides = tuple(Side(lane=name, did="; ".join(log) or "no warning") for name, log in zip(self._names, (a, b), strict=True))
        row = self._parted_row(at.vm) or ("D17" if kind == "memslot.set" else "")
        self._state_finding(at, sides, row, "the kernel log differs")

    def _state_finding(self, at: Where, sides: tuple[Side, ...], row: str, cause: str, divergence: str = STATE_DIFFERS) -> None:
        self._part(at, row)
        self._emit(
            Finding(
                event=at.event,
                kind=at.kind,
                place=at.place,
                divergence=divergence,
                catalogue=row,
                vm=at.vm,
                sides=sides,
                root_cause_event=at.event,
                root_cause=cause,
                visible="kernel log, and by what follows from it",
                explanation=RULES[row].explanation,
                source=RULES[row].source,
            )
        )

    def _lifetime(self, at: Where, step: Step) -> None:
        if not isinstance(step.event, (VmDestroy, NotifierUnregister)):
            return
        alive = [step.event.vm in lane.machine.vms for lane in (self.reference, self.other)]
        if alive[0] != alive[1] and isinstance(step.event, VmDestroy):
            did = ["the VM stays: a notifier holds a reference" if one else "the VM is freed" for one in alive]
            sides = tuple(Side(lane=name, did=text) for name, text in zip(self._names, did, strict=True))
            self._state_finding(at, sides, "", "registered notifiers hold a reference to the VM from 6.6 on", LIFETIME_DIFFERS)

    def _states(self, at: Where) -> None:
        """Compare the state of VMs that parted, and note where a difference begins and ends."""
        for number, cause in list(self._parted.items()):
            vms = [lane.machine.vms.get(number) for lane in (self.reference, self.other)]
            if vms[0] is None or vms[1] is None:
                continue
            fields = state_difference(vms[0], vms[1])
            for field, texts in fields.items():
                if (number, field) not in self._state_open:
                    self._state_open[number, field] = at
                    self._field_finding(attrs.evolve(at, vm=number), field, texts, cause)
            for key in [key for key in self._state_open if key[0] == number and key[1] not in fields]:
                self._converge(key, at)

    def _field_finding(self, at: Where, field: str, texts: tuple[str, str], cause: Where) -> None:
        last = next((f for f in reversed(self.findings) if f.vm == at.vm and f.divergence == STATE_DIFFERS), None)
        if last is not None and last.event == at.event:
            return  # the same event is reported already, with its reason
        sides = tuple(Side(lane=name, did=f"{field}: {text}") for name, text in zip(self._names, texts, strict=True))
        row = self._parted_row(at.vm)
        if field == "counts" and at.kind == "memslot.set" and not self.other.policy.flush_slot:
            row = "D17" if self.reference.policy.flush_slot else "D15"
        self._state_finding(at, sides, row, f"the VM's state parted at event {cause.event} ({cause.kind})")
        if self._refused_at(cause.event):
            self.findings[-1] = attrs.evolve(self.findings[-1], behind_horizon=True)

    def _refused_at(self, event: int) -> bool:
        return any(refusal.at.event == event for refusal in self._refusals)

    def _converge(self, key: tuple[int, str], at: Where) -> None:
        opened = self._state_open.pop(key)
        for index, finding in enumerate(self.findings):
            if finding.vm == key[0] and finding.event == opened.event and finding.divergence == STATE_DIFFERS:
                self.findings[index] = attrs.evolve(
                    finding, converged_event=at.event, converged=f"{key[1]} equal again ({at.kind})"
                )

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run_logs(self, step: RunStep, a: dict[int, str], b: dict[int, str]) -> None:
        groups: dict[tuple[int, str, str], list[int]] = {}
        for number in sorted(a.keys() | b.keys()):
            both = (a.get(number, "no warning"), b.get(number, "no warning"))
            if both[0] != both[1]:
                groups.setdefault((step.run.vm[number], *both), []).append(number)
        for (_vm, said_a, said_b), rows in groups.items():
            said = (said_a, said_b)
            kind = step.run.kind[rows[0]]
            row = self._parted_row(step.run.vm[rows[0]])
            if BUG in said:
                row = "D12" if kind in {REMOVE, UNACCOUNT} else "D11"
            divergence = INVARIANT_BROKEN if NO_ARRAY in said else STATE_DIFFERS
            sides = tuple(Side(lane=lane, did=_times(text, len(rows))) for lane, text in zip(self._names, said, strict=True))
            cause = "write tracking is enabled in one lane only: nothing was registered and no shadow root loaded before"
            self._state_finding(self._row_place(step, rows[0]), sides, row, cause, divergence)

    def _run_rets(self, step: RunStep, a: dict[int, int], b: dict[int, int]) -> None:
        groups: dict[tuple[int, int, int, int], list[int]] = {}
        for number in sorted(a.keys() | b.keys()):
            pair = (a.get(number, 0), b.get(number, 0))
            if pair[0] != pair[1]:
                groups.setdefault((step.run.vm[number], step.run.kind[number], *pair), []).append(number)
        for (vm, kind, ret_a, ret_b), rows in groups.items():
            sides = tuple(
                Side(lane=lane, ret=ret, did=_times(_answer(kind, ret), len(rows)))
                for lane, ret in zip(self._names, (ret_a, ret_b), strict=True)
            )
            divergence = STATE_DIFFERS if kind >= QUERY else RESULT_DIFFERS
            cause = "the counters or slots of the VM parted before"
            self._state_finding(self._row_place(step, rows[0]), sides, self._parted_row(vm), cause, divergence)

    def _row_place(self, step: RunStep, row: int) -> Where:
        event = step.run.event_at(row)
        return Where(step.first + row, event.KIND, place_of(self._header, event.source), event.vm)


def _answer(kind: int, ret: int) -> str:
    if kind < QUERY:
        return ret_text(ret)
    return "tracked" if ret else "not tracked"


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text} ({count} times in this run)"


def _side(lane: str, outcome: Outcome) -> Side:
    return Side(lane=lane, ret=outcome.ret, did=result_text(outcome.ret, outcome.why))


def _slot_of(step: Step) -> tuple[int | None, int | None]:
    """Return address space and id that a memslot call names; None where there is none."""
    if not isinstance(step.event, MemslotSet) or step.event.fault:
        return None, None
    as_id = step.event.slot >> 16
    return (as_id if as_id < 256 else None), step.event.slot & 0xFFFF
