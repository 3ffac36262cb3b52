"""Run one policy under one profile, and hold its results against the recorded ones.

A lane is factual when policy and profile are the recorded kernel's own: then every recorded result must be the model's. Any
other lane is counterfactual: from the first result that parts from the recorded one, userspace would have acted otherwise,
so that event is the lane's horizon.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from replay.engine.overlay import Piece, chosen, spread
from replay.engine.rows import chosen_rows, rows_of_vms
from replay.events import Event, MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc, TssSet, VcpuCreate
from replay.kvm.allocator import GFN_WRITE_TRACK, Allocation
from replay.kvm.fold import fold, fold_some
from replay.kvm.fork import fork
from replay.kvm.machine import Machine, Outcome
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.policies import Policy
from replay.kvm.profile import Profile
from replay.kvm.run_columns import vm_mask
from replay.kvm.run_outcome import RunOutcome
from replay.runs import ACCOUNT, ADD, REMOVE, UNACCOUNT, Constant, Run
from replay.units import ENOMEM, ret_text

SKIPPED_SHADOW: Final = "shadow paging that only tdp=0 causes"
SKIPPED_EXTERNAL: Final = "external users, which can not exist with CONFIG_KVM_EXTERNAL_WRITE_TRACKING=n"


@attrs.frozen
class Disagreement:
    """An event whose recorded result is not the lane's."""

    event: int
    kind: str
    recorded: int
    model: int
    why: str

    def sentence(self) -> str:
        """Say it in one line."""
        why = f" ({self.why})" if self.why else ""
        return f"event {self.event} {self.kind}: recorded {ret_text(self.recorded)}, this lane {ret_text(self.model)}{why}"


def results_agree(recorded: int, model: int) -> bool:
    """Tell whether two results are the same for userspace: the same errno, or both success (fd numbers do not count).

    >>> results_agree(7, 0), results_agree(-12, 0)
    (True, False)
    """
    return recorded == model or (recorded >= 0 and model >= 0)


_OUT_OF_MEMORY: Final = -ENOMEM


class Lane:
    """One policy under one profile, with its machine.

    recorded_tdp: the header's fact, or None. It decides whether recorded shadow paging can be replayed under this profile.
    """

    def __init__(self, name: str, policy: Policy, profile: Profile, *, factual: bool, recorded_tdp: bool | None) -> None:
        self.name = name
        self.policy = policy
        self.profile = profile
        self.factual = factual
        self.machine = Machine(policy, profile)
        self.disagreements: list[Disagreement] = []
        self.disagreement_count = 0
        self.skipped: dict[str, int] = {}
        self.unattributed: list[int] = []
        self._last: tuple[Run, RunOutcome] | None = None
        self._no_shadow = recorded_tdp is False and profile.tdp
        # The functions are compiled out from 6.6 on: arch/x86/include/asm/kvm_page_track.h [6.12].
        self._no_external = not profile.config_external_write_tracking and policy.register_checks_mm
        self._leaves_out = self._no_shadow or self._no_external

    def fork(self, vms: Iterable[int]) -> "Lane":
        """Return a copy with some of its VMs, to try structural events on; it has seen no result yet. See kvm/fork.py."""
        twin = copy.copy(self)
        twin.machine = fork(self.machine, vms)
        twin.disagreements, twin.disagreement_count = [], 0
        twin.skipped, twin.unattributed = {}, []
        return twin

    @property
    def horizon(self) -> Disagreement | None:
        """The first result that parts from the recorded one; None while there is none."""
        return self.disagreements[0] if self.disagreements else None

    @property
    def folded(self) -> tuple[Run, RunOutcome] | None:
        """The rows of the last run that this lane replayed, and what they did; None when it replayed none."""
        if self._last is None:
            return None
        run, outcome = self._last
        rows = self._kept_rows(run)
        if rows is None:
            return self._last
        return (run.select(rows), chosen(outcome, run, rows)) if rows else None

    @property
    def left_out(self) -> tuple[bool, bool]:
        """Which recorded rows this lane leaves out: shadow paging that is not nested, external users."""
        return (self._no_shadow, self._no_external)

    @property
    def leaves_out_shadow_paging(self) -> bool:
        """Whether recorded shadow pages that are not nested can not happen under this profile."""
        return self._no_shadow

    def step(self, event: Event, number: int) -> Outcome | None:
        """Apply one structural event; None when the event can not happen under this profile (it is counted)."""
        if type(event) is not MemslotSet:
            reason = self._skip(event)
            if reason:
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
                return None
        recorded: int | None = getattr(event, "ret", None)
        forced = self._force(event) if recorded == _OUT_OF_MEMORY and self.factual else None
        outcome = self.machine.step(event, number) if forced is None else self._forced(event, number, forced)
        if recorded is not None and recorded != outcome.ret and outcome.ret is not None and not self._void(event):
            self._compare(number, event.KIND, recorded, outcome)
        return outcome

    def _forced(self, event: Event, number: int, forced: "_Forced") -> Outcome:
        """Apply an event of which one allocation is to fail."""
        self.machine.allocator.forced = forced
        outcome = self.machine.step(event, number)
        self.machine.allocator.forced = None
        if forced.used:
            self.unattributed.append(number)
        return outcome

    def fold(self, run: Run, first: int) -> RunOutcome:
        """Apply a run; rows that can not happen under this profile are counted and left out."""
        rows = self._kept_rows(run) if self._leaves_out else None
        if rows is None:
            outcome = fold(self.machine, run, first)
        else:
            self._count_left_out(run, rows)
            outcome = spread(run, self._fold_rows(run, first, rows))
        self.compare_results(run, outcome, first)
        return outcome

    def fold_vms(self, run: Run, first: int, vms: Sequence[int]) -> Piece:
        """Apply what a run has of some VMs, given in order; count what is left out of all of it. Results are not compared."""
        rows = self._kept_rows(run)
        self._count_left_out(run, rows)
        outcome = fold_some(self.machine, run, first, vms) if rows is None else None
        if outcome is not None:
            return Piece(None, outcome, vm_mask(run.vm, vms))
        return self._fold_rows(run, first, rows_of_vms(run, vms, rows))

    def _fold_rows(self, run: Run, first: int, rows: Sequence[int]) -> Piece:
        if not len(rows):
            return Piece(rows, RunOutcome())
        outcome = fold(self.machine, chosen_rows(run, rows), first)
        for place, made in enumerate(outcome.taken):
            outcome.taken[place] = self._at(made, first + rows[made.event - first])
        return Piece(rows, outcome)

    def _at(self, made: Allocation, event: int) -> Allocation:
        """Say of an array that an add of a run made at which event that was."""
        slot = self.machine.vms[made.vm].spaces[made.as_id].by_id(made.slot_id)
        assert slot is not None
        slot.arch.gfn_write_track = made._replace(event=event)
        return slot.arch.gfn_write_track

    def follow(self, lead: "Lane", run: Run, outcome: RunOutcome, first: int) -> RunOutcome:
        """Take over what a lane that agrees on every VM of a run, and shares its counters, has made of it."""
        if self._leaves_out:
            self.leave_out(run)
        reasons, kinds = outcome.reasons(), run.kinds()
        moved = reasons or ACCOUNT in kinds or UNACCOUNT in kinds  # else nothing of the VMs can have changed but counters
        self.take_over(lead, run.vms() if moved else (), reasons, first)
        self.compare_results(run, outcome, first)
        return outcome

    def leave_out(self, run: Run) -> None:
        """Count the rows of a run that can not happen under this profile, where other lanes fold all that is left."""
        self._count_left_out(run, self._kept_rows(run))

    def kept(self, run: Run) -> Run:
        """Return what is left of a run without the rows that can not happen under this profile."""
        rows = self._kept_rows(run)
        return run if rows is None else chosen_rows(run, rows)

    def take_over(self, lead: "Lane", vms: Sequence[int], reasons: Mapping[str, int], first: int) -> None:
        """Take over the state that some VMs have in another lane after a run, and its warnings; counters are shared.

        reasons: how often each warning was said of these VMs.
        """
        machine = self.machine
        machine.allocator.begin(first)
        machine.log.new = []
        machine.hot_rows = lead.machine.hot_rows
        mine, theirs = machine.vms, lead.machine.vms
        for number in vms:
            if number in mine:
                vm, model = mine[number], theirs[number]
                vm.indirect_shadow_pages, vm.vm_bugged = model.indirect_shadow_pages, model.vm_bugged
                vm.lpage_warned = model.lpage_warned
        counts = machine.log.counts
        for reason, count in reasons.items():
            counts[reason] = counts.get(reason, 0) + count

    def compare_results(self, run: Run, outcome: RunOutcome, first: int) -> None:
        """Hold the results of a run against the recorded ones. Cost: proportional to results that are not 0."""
        self._last = run, outcome
        known, recorded = run.recorded()
        if not known or min(run.kinds()) >= ACCOUNT:
            return
        for row in sorted(recorded.keys() | outcome.rets.keys()):
            said, kind = run.ret[row], run.kind[row]
            if said is None or kind >= ACCOUNT or (self._no_external and kind in (ADD, REMOVE)):
                continue
            ret = outcome.rets.get(row, 0)
            if not results_agree(said, ret) or (said > 0) != (ret > 0):
                self._note(Disagreement(first + row, run.event_at(row).KIND, said, ret, ""))

    def _skip(self, event: Event) -> str:
        if self._no_shadow and isinstance(event, ShadowRootAlloc) and not event.nested:
            return SKIPPED_SHADOW
        if self._no_external and isinstance(event, (NotifierRegister, NotifierUnregister)):
            return SKIPPED_EXTERNAL
        return ""

    def _kept_rows(self, run: Run) -> Sequence[int] | None:
        """Return the rows that this lane replays, None for all of them."""
        if not self._leaves_out:
            return None
        kinds, lost = run.kinds(), dict[int, bool]()
        if self._no_shadow and not (isinstance(run.nested, Constant) and run.nested.number):
            lost |= {kind: True for kind in (ACCOUNT, UNACCOUNT) if kind in kinds}
        if self._no_external:
            lost |= {kind: False for kind in (ADD, REMOVE) if kind in kinds}
        if not lost:
            return None
        if len(lost) == len(kinds) and isinstance(run.nested, Constant):
            return ()
        pairs = enumerate(zip(run.kind, run.nested, strict=True))
        kept = [row for row, (kind, nested) in pairs if kind not in lost or (lost[kind] and nested)]
        return kept if len(kept) < len(run) else None

    def _count_left_out(self, run: Run, rows: Sequence[int] | None) -> None:
        """Count the rows that this lane does not replay."""
        if rows is not None:
            external = sum(run.kinds().get(kind, 0) for kind in (ADD, REMOVE)) if self._no_external else 0
            self._count_skipped(SKIPPED_EXTERNAL, external)
            self._count_skipped(SKIPPED_SHADOW, len(run) - len(rows) - external)

    def _count_skipped(self, reason: str, rows: int) -> None:
        if rows:
            self.skipped[reason] = self.skipped.get(reason, 0) + rows

    def _force(self, event: Event) -> "_Forced | None":
        """Make the factual lane fail where the kernel did, when nothing in the recording says which allocation failed.

        The write-track array is chosen when the call makes one, else the first allocation: the result is the same, what a
        failed registration keeps may not be, so the event is reported as unattributed.
        """
        vm = self.machine.vms.get(getattr(event, "vm", -1))
        if vm is None or self.machine.allocator.explains_failures or not isinstance(event, _ALLOCATING):
            return None
        tracked = isinstance(event, NotifierRegister) or kvm_page_track_write_tracking_enabled(vm)
        return _Forced(GFN_WRITE_TRACK if tracked else "")

    def _void(self, event: Event) -> bool:
        """Tell whether the kernel function has no result: register before 6.6 (page_track.c [6.1])."""
        return isinstance(event, NotifierRegister) and not self.policy.register_checks_mm

    def _compare(self, number: int, kind: str, recorded: int, outcome: Outcome) -> None:
        assert outcome.ret is not None
        if not results_agree(recorded, outcome.ret):
            self._note(Disagreement(number, kind, recorded, outcome.ret, outcome.why))

    def _note(self, disagreement: Disagreement) -> None:
        self.disagreement_count += 1
        if len(self.disagreements) < _KEPT_DISAGREEMENTS:
            self.disagreements.append(disagreement)


_KEPT_DISAGREEMENTS: Final = 100
_ALLOCATING: Final = (MemslotSet, NotifierRegister, ShadowRootAlloc, TssSet, VcpuCreate)
"""Events that allocate arrays of memslots."""


@attrs.define
class _Forced:
    """Refuses the first allocation of one kind of array, "" for any kind; used: it did."""

    array: str
    used: bool = False

    def __call__(self, _site: str, array: str) -> bool:
        """Tell whether an allocation is to fail."""
        hit = self.array in {"", array}
        self.used |= hit
        return hit
