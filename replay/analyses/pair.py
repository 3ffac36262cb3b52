"""Hold one lane against the reference lane, event by event, and make findings of what differs."""

from collections.abc import Mapping
from typing import Final

from replay.analyses.catalogue import HOLDS_VM
from replay.analyses.context import Where, result_text, where
from replay.analyses.findings import LIFETIME_DIFFERS, RESULT_DIFFERS, Side
from replay.analyses.ledger import FINDINGS_KEPT, Entry
from replay.analyses.pair_ground import Ground
from replay.analyses.pair_runs import RunDifference, RunFindings
from replay.analyses.refusals import Refusal, Refusals, refusal_row
from replay.analyses.states import RESULT_ONLY
from replay.engine.lane import Lane, results_agree
from replay.engine.lockstep import RunStep, Step
from replay.events import MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc, VmDestroy, VmEnableCap
from replay.header import Header
from replay.kvm.allocator import SLOT
from replay.kvm.machine import Outcome
from replay.kvm.uapi import KVM_CAP_PAGE_WRITE_TRACKING, KVM_X86_TDX_VM
from replay.units import EINVAL, ENOMEM, EOPNOTSUPP, ESRCH, PAGE_SIZE_BYTES, counted, ret_text

_TELLING: Final = (VmDestroy, NotifierUnregister, NotifierRegister, ShadowRootAlloc)
"""Events that say something even where no lane takes or frees anything."""


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
        listed: bool = True,
    ) -> None:
        self._ground = ground = Ground(reference, other, header, kept, replayed, listed=listed)
        self.arrays, self.states = ground.arrays, ground.states
        self.reference, self.other, self.bound, self.ledger = reference, other, ground.bound, ground.ledger
        self._header = header
        self._refusals = Refusals(ground.names, ground.ledger, ground.row_rule)
        self._runs = RunFindings(ground)

    def step(self, step: Step, index: int) -> None:
        """Take one structural event; index is the other lane's place among the outcomes, the reference lane's is 0."""
        a, b = step.outcomes[0], step.outcomes[index]
        states = self.states
        whole = not states.parted or states.parted_at(getattr(step.event, "vm", None)) is None
        if whole and a is not None and b is not None and a.ret == b.ret and a.log == b.log:  # arrays alone can differ
            if type(step.event) is MemslotSet:
                if a.marks != b.marks:
                    self.arrays.step(where(self._header, step.event, step.number), a, b)
                return
            if not a.marks and not b.marks and type(step.event) not in _TELLING:
                return
        at = where(self._header, step.event, step.number)
        if a is not None and b is not None and not self.bound:
            self._results(at, step, a, b)
        self.arrays.step(at, a, b)
        if self.bound:
            return
        if a is not None and b is not None:
            if a.log != b.log:
                self._logs(at, step, a.log, b.log)
            if isinstance(step.event, (VmDestroy, NotifierUnregister)):
                self._lifetime(at)
        if states.parted:
            states.step(step.event, lambda: at)

    def run(self, step: RunStep, index: int, known: list[RunDifference]) -> None:
        """Take one run. known: see `RunFindings.take()`."""
        a, b = step.outcomes[0], step.outcomes[index]
        if a is b and not self.states.parted:
            return  # the lanes agree: one outcome for both
        self._runs.take(step, a, b, known)

    def finish(self) -> None:
        """Report what is still open at the end of the recording."""
        self.arrays.finish()

    def _results(self, at: Where, step: Step, a: Outcome, b: Outcome) -> None:
        if a.ret is None or b.ret is None or results_agree(a.ret, b.ret):
            return
        lowest, highest = sorted((a.ret, b.ret))
        sides = tuple(
            Side(lane=name, ret=o.ret, did=result_text(o.ret, o.why)) for name, o in zip(self._ground.names, (a, b), strict=True)
        )
        if lowest == -ENOMEM and highest >= 0:
            entry = self._refused(at, step, a, b)
        else:
            entry = self._result_finding(at, step, sides, (a.why, b.why), self._result_row(at, step, a, b))
        # What a call that succeeds in one lane only leaves behind is what its result says already.
        self.states.part(at, entry, owns=highest >= 0)
        if highest < 0:
            entry.change(converged_event=at.event, converged=RESULT_ONLY)
        self._ground.part(at.event)

    def _result_row(self, at: Where, step: Step, a: Outcome, b: Outcome) -> str:
        if isinstance(step.event, VmEnableCap) and step.event.cap == KVM_CAP_PAGE_WRITE_TRACKING:
            return "D33"
        row = self._register_row(at, {a.ret, b.ret}) if isinstance(step.event, NotifierRegister) else ""
        if row or self.states.parted_at(at.vm) is not None:
            return row or self._ground.parted_row(at.vm)
        return "D14" if "external page-track user" in a.why + b.why else ""

    def _register_row(self, at: Where, rets: set[int | None]) -> str:
        """Return the row of registrations that end differently: from another mm, after an opt-out, for a TD guest."""
        vms = [lane.machine.vms.get(-1 if at.vm is None else at.vm) for lane in (self.reference, self.other)]
        if -EINVAL in rets and any(vm is not None and vm.page_write_tracking_disabled for vm in vms):
            return "D2"
        if -EOPNOTSUPP in rets and any(vm is not None and vm.type == KVM_X86_TDX_VM for vm in vms):
            return "D24"
        return "D23" if -ESRCH in rets and self.states.parted_at(at.vm) is None else ""

    def _result_finding(self, at: Where, step: Step, sides: tuple[Side, ...], whys: tuple[str, str], row: str) -> Entry:
        parted = self.states.parted_at(at.vm)
        refused = [f"{side.lane} refuses it: {why}" for side, why in zip(sides, whys, strict=True) if why]
        cause = (at, refused[0] if len(refused) == 1 else "the lanes answer this call differently")
        if parted is not None:
            cause = (parted[0], f"the VM's state parted there ({parted[0].kind})")
            if parted[1].finding.visible_event is None:
                parted[1].change(visible_event=at.event, visible=f"result of {at.kind}")
        as_id, slot = _slot_of(step)
        seen = f"result of {at.kind}"
        return self._ground.add(
            at, row, RESULT_DIFFERS, sides, cause, as_id=as_id, slot=slot, visible_event=at.event, visible=seen
        )

    def _refused(self, at: Where, step: Step, a: Outcome, b: Outcome) -> Entry:
        """Report a failure of one lane, or match it with the one in the other lane that it belongs to."""
        in_other = b.ret == -ENOMEM
        lane, failing = (self.other, b) if in_other else (self.reference, a)
        pages = lane.machine.allocator.total_ram_pages
        too_large = bool(pages) and any(nominal > pages * PAGE_SIZE_BYTES for _site, _array, nominal in failing.refused)
        as_id, slot = _slot_of(step)
        row = refusal_row(at.kind, too_large=too_large)
        sides = (self._refused_side(0, a), self._refused_side(1, b))
        origin = self.arrays.origin(at.vm) if row in {"D8", "D9"} else None
        array = failing.refused[-1][1] if failing.refused else "what"
        entry = self._refusals.take(Refusal(at, in_other, as_id, slot, sides, row, origin, array))
        if at.vm is not None:
            self._ground.rows.setdefault(at.vm, entry.finding.catalogue)
        return entry

    def _refused_side(self, index: int, outcome: Outcome) -> Side:
        did = result_text(outcome.ret, outcome.why)
        if outcome.ret == -ENOMEM and outcome.refused:
            site, array, _nominal = outcome.refused[-1]
            kept = len([a for a in outcome.taken if a.array != SLOT and a not in outcome.freed])
            kept_text = f", {counted(kept, 'array')} made before it {'are' if kept > 1 else 'is'} kept" if kept else ""
            did = f"{ret_text(outcome.ret)}: {array} in {site}(){kept_text}"
        return Side(lane=self._ground.names[index], ret=outcome.ret, did=did)

    def _logs(self, at: Where, step: Step, a: list[str], b: list[str]) -> None:
        sides = tuple(
            Side(lane=name, did="; ".join(log) or "no warning") for name, log in zip(self._ground.names, (a, b), strict=True)
        )
        row = self._ground.parted_row(at.vm) or ("D17" if isinstance(step.event, MemslotSet) else "")
        self._ground.state_finding(at, sides, row, (at, "the kernel log differs"))

    def _lifetime(self, at: Where) -> None:
        alive = [at.vm in lane.machine.vms for lane in (self.reference, self.other)]
        if alive[0] == alive[1] or at.kind != VmDestroy.KIND:
            return
        did = ["the VM stays: a notifier holds a reference" if one else "the VM is freed" for one in alive]
        sides = tuple(Side(lane=name, did=text) for name, text in zip(self._ground.names, did, strict=True))
        row = self._ground.parted_row(at.vm)
        more = {} if row else {"title": HOLDS_VM.title, "explanation": HOLDS_VM.explanation, "source": HOLDS_VM.source}
        cause = (at, "only one of the lanes lets a notifier hold a reference to the VM")
        self._ground.state_finding(
            at, sides, row, cause, divergence=LIFETIME_DIFFERS, visible="in memory accounting only", **more
        )


def _slot_of(step: Step) -> tuple[int | None, int | None]:
    """Return address space and id that a memslot call names; None where there is none."""
    if not isinstance(step.event, MemslotSet) or step.event.fault:
        return None, None
    as_id = step.event.slot >> 16
    return (as_id if as_id < 256 else None), step.event.slot & 0xFFFF
