"""Hold one lane against the reference lane, event by event, and make findings of what differs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Any, Final

from replay.analyses.arrays import ArrayTracker, Surroundings, made_alike
from replay.analyses.catalogue import BOUND, HOLDS_VM, RULES, UNEXPLAINED, VARIANTS, Rule
from replay.analyses.context import Where, place_of, result_text, where
from replay.analyses.findings import INVARIANT_BROKEN, LIFETIME_DIFFERS, RESULT_DIFFERS, STATE_DIFFERS, Finding, Side
from replay.analyses.ledger import FINDINGS_KEPT, Entry, Ledger
from replay.analyses.refusals import Refusal, Refusals, refusal_row
from replay.analyses.states import RESULT_ONLY, States
from replay.engine.lane import Lane, results_agree
from replay.engine.lockstep import RunStep, Step
from replay.events import MemslotSet, NotifierRegister, NotifierUnregister, VmDestroy, VmEnableCap
from replay.events.base import Source
from replay.header import Header
from replay.kvm.allocator import SLOT
from replay.kvm.kernel_log import BUG, NO_ARRAY
from replay.kvm.machine import Outcome
from replay.kvm.memslot import Memslot
from replay.kvm.memslots import Memslots
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.uapi import KVM_CAP_PAGE_WRITE_TRACKING, KVM_X86_TDX_VM
from replay.runs import HOT_CLASSES, QUERY, REMOVE, UNACCOUNT
from replay.units import EINVAL, ENOMEM, EOPNOTSUPP, ESRCH, PAGE_SIZE_BYTES, counted, ret_text

_NEVER_ENABLED: Final = "not enabled, as nothing was registered and no shadow root was loaded"


class Pair:
    """The reference lane and one other lane; `ledger` has the findings."""

    def __init__(
        self,
        reference: Lane,
        other: Lane,
        header: Header,
        *,
        kept: int = FINDINGS_KEPT,
        replayed: Mapping[int, int] | None = None,
    ) -> None:
        self.reference, self.other = reference, other
        self._header = header
        self._names = (reference.name, other.name)
        self._profile_rule = _profile_rule(reference, other)
        self.bound = not (reference.policy.kernel and other.policy.kernel)
        """One of the two is no kernel: arrays alone are compared."""
        self._rows: dict[int, str] = {}  # VM -> catalogue row of what parted it
        self._horizon: int | None = None
        self.ledger = Ledger(self._limit, kept, replayed)
        self._arrays = ArrayTracker(
            Surroundings(
                self._names,
                (reference.factual, other.factual),
                self.ledger.add,
                self._row_rule,
                self._parted_row,
                self._find_slot,
            )
        )
        self._refusals = Refusals(self._names, self.ledger, self._row_rule)
        self._states = States((reference.machine.vms, other.machine.vms), self._field_finding)

    def step(self, step: Step, index: int) -> None:
        """Take one structural event; index is the other lane's place among the outcomes, the reference lane's is 0."""
        a, b = step.outcomes[0], step.outcomes[index]
        if a is not None and b is not None and type(step.event) in _PLAIN and not self._states.parted and _nothing_differs(a, b):
            return
        at = where(self._header, step.event, step.number)
        if a is not None and b is not None and not self.bound:
            self._results(at, step, a, b)
        self._arrays.step(at, a, b)
        if self.bound:
            return
        if a is not None and b is not None:
            if a.log != b.log:
                self._logs(at, step, a.log, b.log)
            if isinstance(step.event, (VmDestroy, NotifierUnregister)):
                self._lifetime(at)
        if self._states.parted:
            self._states.step(step.event, lambda: at)

    def run(self, step: RunStep, index: int) -> None:
        """Take one run."""
        a, b = step.outcomes[0], step.outcomes[index]
        if a is b and not self._states.parted:
            return  # the lanes agree: one outcome for both
        if self.bound:
            self._run_arrays(step, a, b)
            return
        if a.log != b.log:
            self._run_logs(step, dict(a.log), dict(b.log))
        if a.rets != b.rets or a.tracked_writes != b.tracked_writes:
            self._run_rets(step, a, b)
        if self._states.parted:
            self._states.step(step.run, lambda: self._row_place(step, len(step.run) - 1))

    def finish(self) -> None:
        """Report what is still open at the end of the recording."""
        self._arrays.finish()

    # -- what findings rest on -----------------------------------------------------------------------------------------

    def _limit(self) -> int | None:
        """Return the first event at which userspace would have acted otherwise under one of the two lanes."""
        if self._horizon is None and not self.reference.disagreements and not self.other.disagreements:
            return None
        lanes = [lane.horizon.event for lane in (self.reference, self.other) if lane.horizon is not None and not lane.factual]
        return min([*lanes, *([] if self._horizon is None else [self._horizon])], key=self.ledger.place, default=None)

    def _row_rule(self, row: str) -> tuple[str, Rule]:
        """Return the catalogue row that stands, and its rule: lanes that differ in more than the policy have no row."""
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

    def _parted_row(self, vm: int | None) -> str:
        """Return the catalogue row of what first parted the lanes in a VM, '' when nothing did."""
        return "" if vm is None else self._rows.get(vm, "")

    def _spaces(self, vm: int, as_id: int) -> list[Memslots]:
        """Return an address space of a VM in both lanes, as far as it is there."""
        vms = (self.reference.machine.vms.get(vm), self.other.machine.vms.get(vm))
        return [one.spaces[as_id] for one in vms if one is not None and as_id < len(one.spaces)]

    def _find_slot(self, vm: int, as_id: int, slot_id: int) -> Memslot | None:
        found = [space.by_id(slot_id) for space in self._spaces(vm, as_id)]
        return next((slot for slot in found if slot is not None), None)

    def _find_gfn(self, vm: int, as_id: int, gfn: int) -> Memslot | None:
        found = (space.by_gfn(gfn) for space in self._spaces(vm, as_id))
        return next((slot for slot in found if slot is not None), None)

    def _add(self, at: Where, row: str, divergence: str, sides: tuple[Side, ...], cause: tuple[Where, str], **more: Any) -> Entry:
        """Report a finding and compare the VM's state from here on. cause: root-cause event, and why the lanes part there."""
        row, rule = self._row_rule(row)
        fields: dict[str, Any] = {"title": rule.title, "explanation": rule.explanation, "source": rule.source, "catalogue": row}
        finding = Finding(
            event=at.event,
            kind=at.kind,
            place=at.place,
            divergence=divergence,
            vm=at.vm,
            sides=sides,
            root_cause_event=cause[0].event,
            root_cause=cause[1],
            **(fields | more),
        )
        entry = self.ledger.add(finding)
        if at.vm is not None:
            self._rows.setdefault(at.vm, row)
        return entry

    # -- results -------------------------------------------------------------------------------------------------------

    def _results(self, at: Where, step: Step, a: Outcome, b: Outcome) -> None:
        if a.ret is None or b.ret is None or results_agree(a.ret, b.ret):
            return
        lowest, highest = sorted((a.ret, b.ret))
        sides = tuple(
            Side(lane=name, ret=o.ret, did=result_text(o.ret, o.why)) for name, o in zip(self._names, (a, b), strict=True)
        )
        if lowest == -ENOMEM and highest >= 0:
            entry = self._refused(at, step, a, b)
        else:
            entry = self._result_finding(at, step, sides, (a.why, b.why), self._result_row(at, step, a, b))
        # What a call that succeeds in one lane only leaves behind is what its result says already.
        self._states.part(at, entry, owns=highest >= 0)
        if highest < 0:
            entry.change(converged_event=at.event, converged=RESULT_ONLY)
        if self._horizon is None:
            self._horizon = at.event

    def _result_row(self, at: Where, step: Step, a: Outcome, b: Outcome) -> str:
        if isinstance(step.event, VmEnableCap) and step.event.cap == KVM_CAP_PAGE_WRITE_TRACKING:
            return "D33"
        row = self._register_row(at, {a.ret, b.ret}) if isinstance(step.event, NotifierRegister) else ""
        if row or self._states.parted_at(at.vm) is not None:
            return row or self._parted_row(at.vm)
        return "D14" if "external page-track user" in a.why + b.why else ""

    def _register_row(self, at: Where, rets: set[int | None]) -> str:
        """Return the row of registrations that end differently: from another mm, after an opt-out, for a TD guest."""
        vms = [lane.machine.vms.get(-1 if at.vm is None else at.vm) for lane in (self.reference, self.other)]
        if -EINVAL in rets and any(vm is not None and vm.page_write_tracking_disabled for vm in vms):
            return "D2"
        if -EOPNOTSUPP in rets and any(vm is not None and vm.type == KVM_X86_TDX_VM for vm in vms):
            return "D24"
        return "D23" if -ESRCH in rets and self._states.parted_at(at.vm) is None else ""

    def _result_finding(self, at: Where, step: Step, sides: tuple[Side, ...], whys: tuple[str, str], row: str) -> Entry:
        parted = self._states.parted_at(at.vm)
        refused = [f"{side.lane} refuses it: {why}" for side, why in zip(sides, whys, strict=True) if why]
        cause = (at, refused[0] if len(refused) == 1 else "the lanes answer this call differently")
        if parted is not None:
            cause = (parted[0], f"the VM's state parted there ({parted[0].kind})")
            if parted[1].finding.visible_event is None:
                parted[1].change(visible_event=at.event, visible=f"result of {at.kind}")
        as_id, slot = _slot_of(step)
        seen = f"result of {at.kind}"
        return self._add(at, row, RESULT_DIFFERS, sides, cause, as_id=as_id, slot=slot, visible_event=at.event, visible=seen)

    def _refused(self, at: Where, step: Step, a: Outcome, b: Outcome) -> Entry:
        """Report a failure of one lane, or match it with the one in the other lane that it belongs to."""
        in_other = b.ret == -ENOMEM
        lane, failing = (self.other, b) if in_other else (self.reference, a)
        pages = lane.machine.allocator.total_ram_pages
        too_large = bool(pages) and any(nominal > pages * PAGE_SIZE_BYTES for _site, _array, nominal in failing.refused)
        as_id, slot = _slot_of(step)
        row = refusal_row(at.kind, too_large=too_large)
        sides = (self._refused_side(0, a), self._refused_side(1, b))
        origin = self._arrays.origin(at.vm) if row in {"D8", "D9"} else None
        array = failing.refused[-1][1] if failing.refused else "what"
        entry = self._refusals.take(Refusal(at, in_other, as_id, slot, sides, row, origin, array))
        if at.vm is not None:
            self._rows.setdefault(at.vm, entry.finding.catalogue)
        return entry

    def _refused_side(self, index: int, outcome: Outcome) -> Side:
        did = result_text(outcome.ret, outcome.why)
        if outcome.ret == -ENOMEM and outcome.refused:
            site, array, _nominal = outcome.refused[-1]
            kept = len([a for a in outcome.taken if a.array != SLOT and a not in outcome.freed])
            kept_text = f", {counted(kept, 'array')} made before it {'are' if kept > 1 else 'is'} kept" if kept else ""
            did = f"{ret_text(outcome.ret)}: {array} in {site}(){kept_text}"
        return Side(lane=self._names[index], ret=outcome.ret, did=did)

    # -- states --------------------------------------------------------------------------------------------------------

    def _state_finding(self, at: Where, sides: tuple[Side, ...], row: str, cause: tuple[Where, str], **more: Any) -> Entry:
        divergence = more.pop("divergence", STATE_DIFFERS)
        seen = more.pop("visible", "in the kernel log")
        entry = self._add(at, row, divergence, sides, cause, visible=seen, **more)
        self._states.part(at, entry, owns=True)
        return entry

    def _logs(self, at: Where, step: Step, a: list[str], b: list[str]) -> None:
        sides = tuple(Side(lane=name, did="; ".join(log) or "no warning") for name, log in zip(self._names, (a, b), strict=True))
        row = self._parted_row(at.vm) or ("D17" if isinstance(step.event, MemslotSet) else "")
        self._state_finding(at, sides, row, (at, "the kernel log differs"))

    def _lifetime(self, at: Where) -> None:
        alive = [at.vm in lane.machine.vms for lane in (self.reference, self.other)]
        if alive[0] == alive[1] or at.kind != VmDestroy.KIND:
            return
        did = ["the VM stays: a notifier holds a reference" if one else "the VM is freed" for one in alive]
        sides = tuple(Side(lane=name, did=text) for name, text in zip(self._names, did, strict=True))
        row = self._parted_row(at.vm)
        more = {} if row else {"title": HOLDS_VM.title, "explanation": HOLDS_VM.explanation, "source": HOLDS_VM.source}
        cause = (at, "only one of the lanes lets a notifier hold a reference to the VM")
        self._state_finding(at, sides, row, cause, divergence=LIFETIME_DIFFERS, visible="in memory accounting only", **more)

    def _field_finding(self, at: Where, field: str, texts: tuple[str, str], cause: Where) -> Entry:
        """Report a field that parts on its own, in a VM that parted before or at this event."""
        sides = tuple(Side(lane=name, did=f"{field}: {text}") for name, text in zip(self._names, texts, strict=True))
        row = self._parted_row(at.vm)
        why = f"the VM's state parted there ({cause.kind})"
        seen = "by what follows from it"
        drops = [lane.name for lane in (self.reference, self.other) if lane.policy.flush_slot]
        if field == "counts" and at.kind == MemslotSet.KIND and len(drops) == 1:
            row, why = "D17", f"{drops[0]} has notifiers drop what they track before the change can fail"
            seen = "to the guest: writes to these gfns are no longer seen in one lane"
        return self._add(at, row, STATE_DIFFERS, sides, (cause, why), visible=seen)

    def _run_arrays(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        """Take the arrays that a run made in a lane that is no kernel, each at the row that made it."""
        made = [(one.event, index, one) for index, outcome in enumerate((a, b)) for one in outcome.taken]
        for event, index, one in sorted(made, key=lambda each: each[:2]):
            outcomes = [Outcome(), Outcome()]
            outcomes[index].taken = [one]
            self._arrays.step(self._row_place(step, event - step.first), *outcomes)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run_logs(self, step: RunStep, a: dict[int, str], b: dict[int, str]) -> None:
        rows = sorted(a.keys() | b.keys())
        said_a, said_b = (list(map(log.get, rows, repeat("no warning"))) for log in (a, b))
        for (_vm, *said), first, count in _groups(rows, _at(step.run.vm, rows), said_a, said_b):
            if said[0] == said[1]:
                continue
            at = self._row_place(step, first)
            row = self._parted_row(at.vm)
            if BUG in said and not row:
                row = "D12" if step.run.kind[first] in {REMOVE, UNACCOUNT} else "D11"
            sides = tuple(Side(lane=lane, did=_times(text, count)) for lane, text in zip(self._names, said, strict=True))
            divergence = INVARIANT_BROKEN if NO_ARRAY in said else STATE_DIFFERS
            gfn = step.run.gfn[first]
            cause = self._disabled_cause(at, (step.run.as_id[first], gfn), BUG in said[:1])
            self._state_finding(at, sides, row, cause, divergence=divergence, gfn=gfn)

    def _disabled_cause(self, at: Where, place: tuple[int, int], reference_lacks: bool) -> tuple[Where, str]:
        """Return where the lanes parted before they warned differently: at the memslot's array, if only one has it.

        place: address space and gfn.
        """
        slot = None if at.vm is None else self._find_gfn(at.vm, *place)
        origin = None if slot is None else self._arrays.origin(at.vm, slot.key)
        if origin is None:
            return at, "the VM's counters or memslots parted before"
        lacks, has = self._names if reference_lacks else self._names[::-1]
        return origin, f"{has} has write tracking from there on ({origin.kind}); {lacks}: {_NEVER_ENABLED}"

    def _run_rets(self, step: RunStep, a: RunOutcome, b: RunOutcome) -> None:
        writes = (set(a.tracked_writes), set(b.tracked_writes))
        rows = sorted((a.rets.keys() | b.rets.keys()) | (writes[0] ^ writes[1]))
        rets_a = list(map(a.rets.get, rows, map(int, map(writes[0].__contains__, rows))))  # a write that is tracked answers 1
        rets_b = list(map(b.rets.get, rows, map(int, map(writes[1].__contains__, rows))))
        for (vm, kind, *rets), first, count in _groups(rows, _at(step.run.vm, rows), _at(step.run.kind, rows), rets_a, rets_b):
            if rets[0] == rets[1]:
                continue
            at = self._row_place(step, first)
            sides = tuple(
                Side(lane=lane, ret=ret, did=_times(_answer(kind, ret), count))
                for lane, ret in zip(self._names, rets, strict=True)
            )
            parted = self._states.parted_at(vm)
            cause = (at, "the lanes answer differently") if parted is None else (parted[0], "the VM's state parted there")
            divergence = STATE_DIFFERS if kind >= QUERY else RESULT_DIFFERS
            seen = f"answer of {at.kind}"
            more = {"gfn": step.run.gfn[first]} | ({"visible_event": at.event} if kind < QUERY else {})
            self._state_finding(at, sides, self._parted_row(vm), cause, divergence=divergence, visible=seen, **more)
            if kind < QUERY:
                self._horizon = at.event if self._horizon is None else min(self._horizon, at.event)

    def _row_place(self, step: RunStep, row: int) -> Where:
        run = step.run
        task, file, line = run.task[row], run.file[row], run.line[row]
        source = None if file is None or line is None else Source(file, line)
        place = place_of(self._header, source)
        return Where(
            step.first + row, HOT_CLASSES[run.kind[row]].KIND, place, run.vm[row], None if task is None else run.tasks[task]
        )


def _at(column: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return some rows of a column."""
    return list(itemgetter(*rows)(column)) if len(rows) > 1 else [column[row] for row in rows]


def _groups(rows: Sequence[int], *columns: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], int, int]]:
    """Group rows by what stands beside them; yield (what, first row, how many), by first row."""
    keys = list(zip(*columns, strict=True))
    first = dict(zip(reversed(keys), reversed(rows), strict=True))
    for key, count in Counter(keys).items():
        yield key, first[key], count


_PLAIN: Final = frozenset({MemslotSet})
"""Kinds of events of which nothing is to be kept when both lanes do the same; nearly all structural ones are of these."""


def _nothing_differs(a: Outcome, b: Outcome) -> bool:
    """Tell whether two lanes did the same in the same order, as they nearly always do; False may be wrong."""
    return a.ret == b.ret and a.log == b.log and made_alike(a.taken, b.taken) and made_alike(a.freed, b.freed)


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


def _answer(kind: int, ret: int) -> str:
    if kind < QUERY:
        return ret_text(ret)
    return "tracked" if ret else "not tracked"


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text} ({counted(count, 'time')} in this run)"


def _slot_of(step: Step) -> tuple[int | None, int | None]:
    """Return address space and id that a memslot call names; None where there is none."""
    if not isinstance(step.event, MemslotSet) or step.event.fault:
        return None, None
    as_id = step.event.slot >> 16
    return (as_id if as_id < 256 else None), step.event.slot & 0xFFFF
