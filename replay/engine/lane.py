"""Run one policy under one profile, and hold its results against the recorded ones.

A lane is factual when policy and profile are the recorded kernel's own: then every recorded result must be the model's. Any
other lane is counterfactual: from the first result that parts from the recorded one, userspace would have acted otherwise,
so that event is the lane's horizon.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from replay.events import Event, MemslotSet, NotifierRegister, NotifierUnregister, ShadowRootAlloc
from replay.kvm.allocator import GFN_WRITE_TRACK
from replay.kvm.fold import RunOutcome, fold_run
from replay.kvm.machine import Machine, Outcome
from replay.kvm.page_track import kvm_page_track_write_tracking_enabled
from replay.kvm.policies import Policy
from replay.kvm.profile import Profile
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
        self.folded: tuple[Run, RunOutcome] | None = None
        """The rows of the last run that this lane replayed, and what they did."""
        self._no_shadow = recorded_tdp is False and profile.tdp
        # The functions are compiled out from 6.6 on: arch/x86/include/asm/kvm_page_track.h [6.12].
        self._no_external = not profile.config_external_write_tracking and policy.register_checks_mm

    @property
    def horizon(self) -> Disagreement | None:
        """The first result that parts from the recorded one; None while there is none."""
        return self.disagreements[0] if self.disagreements else None

    @property
    def leaves_out_shadow_paging(self) -> bool:
        """Whether recorded shadow pages that are not nested can not happen under this profile."""
        return self._no_shadow

    def step(self, event: Event, number: int) -> Outcome | None:
        """Apply one structural event; None when the event can not happen under this profile (it is counted)."""
        reason = self._skip(event)
        if reason:
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
            return None
        recorded: int | None = getattr(event, "ret", None)
        if recorded == -ENOMEM and self.factual:
            self._force(event)
        outcome = self.machine.step(event, number)
        if self.machine.allocator.forced is not None:
            self.machine.allocator.forced = None
            self.unattributed.append(number)
        if recorded is not None and outcome.ret is not None and not self._void(event):
            self._compare(number, event.KIND, recorded, outcome)
        return outcome

    def fold(self, run: Run, first: int) -> RunOutcome:
        """Apply a run; rows that can not happen under this profile are counted and left out."""
        rows = self._kept_rows(run)
        if rows is None:
            outcome = fold_run(self.machine, run, first)
            self.folded = run, outcome
        elif rows:
            kept = run.select(rows)
            self.folded = kept, fold_run(self.machine, kept, first)
            outcome = _back(self.folded[1], rows)
        else:
            outcome, self.folded = RunOutcome(), None
        self._compare_rows(run, first, range(len(run)) if rows is None else rows, outcome)
        return outcome

    def _compare_rows(self, run: Run, first: int, rows: Sequence[int], outcome: RunOutcome) -> None:
        if isinstance(run.ret, Constant) and run.ret.number is None:
            return  # shadow pages and most writes have no recorded result
        for row in rows:
            recorded = run.ret[row]
            if recorded is not None and run.kind[row] < ACCOUNT:
                ret = outcome.rets.get(row, 0)
                if not results_agree(recorded, ret) or (recorded > 0) != (ret > 0):
                    self._note(Disagreement(first + row, run.event_at(row).KIND, recorded, ret, ""))

    def _skip(self, event: Event) -> str:
        if self._no_shadow and isinstance(event, ShadowRootAlloc) and not event.nested:
            return SKIPPED_SHADOW
        if self._no_external and isinstance(event, (NotifierRegister, NotifierUnregister)):
            return SKIPPED_EXTERNAL
        return ""

    def _kept_rows(self, run: Run) -> list[int] | None:
        """Return the rows that this lane replays, None for all of them."""
        if not self._no_shadow and not self._no_external:
            return None
        kept = []
        for row, (kind, nested) in enumerate(zip(run.kind, run.nested, strict=True)):
            if self._no_shadow and kind in (ACCOUNT, UNACCOUNT) and not nested:
                self.skipped[SKIPPED_SHADOW] = self.skipped.get(SKIPPED_SHADOW, 0) + 1
            elif self._no_external and kind in (ADD, REMOVE):
                self.skipped[SKIPPED_EXTERNAL] = self.skipped.get(SKIPPED_EXTERNAL, 0) + 1
            else:
                kept.append(row)
        return kept if len(kept) < len(run) else None

    def _force(self, event: Event) -> None:
        """Make the factual lane fail where the kernel did, when nothing in the recording says which allocation failed.

        The write-track array is chosen when the call makes one, else the first allocation: the result is the same, what a
        failed registration keeps may not be, so the event is reported as unattributed.
        """
        allocator = self.machine.allocator
        if allocator.injections or allocator.limit_pages is not None:
            return
        vm = self.machine.vms.get(getattr(event, "vm", -1))
        if vm is None or not isinstance(event, (MemslotSet, NotifierRegister, ShadowRootAlloc)):
            return
        tracked = isinstance(event, NotifierRegister) or kvm_page_track_write_tracking_enabled(vm)
        allocator.forced = (lambda _site, array: array == GFN_WRITE_TRACK) if tracked else (lambda _site, _array: True)

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


def _back(outcome: RunOutcome, rows: list[int]) -> RunOutcome:
    """Return an outcome with the row numbers of the run that the rows were selected from."""
    return RunOutcome(
        log=[(rows[row], reason) for row, reason in outcome.log],
        rets={rows[row]: ret for row, ret in outcome.rets.items()},
        tracked_writes=[rows[row] for row in outcome.tracked_writes],
        adds=outcome.adds,
        removes=outcome.removes,
    )
