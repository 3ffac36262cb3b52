"""Check the model against a recording: replay the recorded kernel's own lane and compare every recorded result and observation.

A result that the model takes from the recording is no check, and neither is anything behind a loss: such facts are counted
with their reason. Zero checks is never a pass.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from replay.analyses.check_report import MISMATCHES_MAX, CheckReport, Facet, Mismatch, Reason, Rule
from replay.analyses.check_state import SITES, Compared, Window, compare_areas, compare_state, shadow_settled
from replay.analyses.check_unknown import BORROWED, SKIPPED, UNATTRIBUTED, VOID, Unknowns, doubts
from replay.analyses.compare_report import Fact
from replay.analyses.order_report import DEFAULT_BUDGET
from replay.analyses.orders import Orders
from replay.engine.lane import Lane, results_agree
from replay.errors import ProfileError
from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    Event,
    GuestMemfdCreate,
    IrqchipCreate,
    MemslotSet,
    Observe,
    ObservedVm,
    Opaque,
    VcpuCreate,
    VmCreate,
    VmEnableCap,
)
from replay.header import Header, Trailer
from replay.kvm.allocator import SITE_DIRTY
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import CHECKS
from replay.kvm.policies import Policy, policy_for, policy_named
from replay.kvm.profile import Profile, profile_of
from replay.kvm.uapi import KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
from replay.runs import ACCOUNT, GUEST_WRITE, HOT_CLASSES, QUERY, Item, Run
from replay.stream import Stream
from replay.units import PAGE_SIZE_BYTES, ret_text

RESULTS: Final = "results of calls"
GFN_RESULTS: Final = "results of adds, removes and queries"


def check(
    stream: Stream,
    overrides: Mapping[str, Any] | None = None,
    *,
    policy: str | Policy | None = None,
    order_budget: int = DEFAULT_BUDGET,
) -> CheckReport:
    """Replay a stream in the lane of the kernel that it was recorded on, and compare.

    overrides: facts of the profile that take the place of the header's. policy: its name, or itself, for a kernel whose release
    does not tell it (a distribution's patch). order_budget: calls that are tried for each group of overlapping ones.
    Raises RecordingError, SourceError, EventError or ProfileError. Cost: that of one lane.
    """
    checker = Checker(stream.header, overrides, policy, order_budget=order_budget)
    checker.run(stream.items())
    return checker.report(stream.trailer())


class Checker:
    """The state of one check, for callers that hand over the items themselves; see `check()`."""

    def __init__(
        self,
        header: Header,
        overrides: Mapping[str, Any] | None = None,
        policy: str | Policy | None = None,
        *,
        order_budget: int = DEFAULT_BUDGET,
    ) -> None:
        machine = header.machine
        profile = profile_of(machine, overrides)
        known = machine.kernel_release is not None or "release" in (overrides or {})
        self._title = header.title
        self._release = str(profile.release) if known else ""
        named = policy_named(policy, profile.release) if isinstance(policy, str) else policy
        self._policy = named or policy_for(profile.release)
        if not self._policy.kernel:
            raise ProfileError(f"{self._policy.name} is no kernel's policy", expected="one that a kernel can have")
        self._lane = Lane("recorded", self._policy, profile, factual=True, recorded_tdp=machine.tdp)
        self._window = Window()
        self._vms: set[int] = set()
        self._unknown = Unknowns(self._policy)
        self._facets: dict[str, list[int]] = {}
        self._reasons: dict[str, list[int]] = {}
        self._rules: dict[tuple[str, str, str], int] = {}
        self._mismatches: list[Mismatch] = []
        self._events = 0
        self._order_budget = order_budget
        self._orders: Orders | None = None

    def run(self, items: Iterable[Item]) -> None:
        """Read all items, and choose an order for calls that overlap in time."""
        self._orders = Orders([self._lane], budget=self._order_budget, window=lambda: self._window)
        for number, item in self._orders.numbered(items):
            self._take(item, number)

    def take(self, item: Item) -> None:
        """Compare one item, for callers that watch a kernel while it answers; `mismatch_count` tells what came of it."""
        self._take(item, self._events)

    def _take(self, item: Item, number: int) -> None:
        if isinstance(item, Run):
            self._events += len(item)
            self._run(item, number)
        else:
            self._events += 1
            self._event(item, number)

    @property
    def mismatch_count(self) -> int:
        """Number of comparisons so far in which kernel and model do not agree."""
        return sum(cells[0] - cells[1] for cells in self._facets.values())

    def foresees(self, event: Observe) -> bool:
        """Tell whether the allocations of an observation, if it has any, are those that the model made since the one before."""
        row = None if event.areas is None else compare_areas(self._window, event.areas)
        return row is None or row.agrees

    def _event(self, event: Event, number: int) -> None:
        if isinstance(event, Observe):
            self._observe(event, number)
            return
        loss = self._unknown.note(event)
        if loss:
            self._skip(loss, number)
        dead = self._dead(event)
        outcome = self._lane.step(event, number)
        vm: int | None = getattr(event, "vm", None)
        if vm is not None:
            self._vms.add(vm)
        recorded: int | None = getattr(event, "ret", None)
        if outcome is not None:
            self._window.add(outcome.taken, outcome.freed)
        if recorded is None or isinstance(event, Opaque):
            return
        if outcome is None:
            self._skip(SKIPPED, number)
        elif outcome.ret is not None:
            self._result(event, number, recorded, outcome, dead=dead)

    def _dead(self, event: Event) -> bool:
        vm = self._lane.machine.vms.get(getattr(event, "vm", -1))
        return bool(getattr(event, "foreign_mm", False)) or (vm is not None and vm.vm_bugged)

    def _result(self, event: Event, number: int, recorded: int, outcome: Outcome, *, dead: bool) -> None:
        assert outcome.ret is not None
        vm: int | None = getattr(event, "vm", None)
        dirty_log = isinstance(event, (DirtyLogGet, DirtyLogClear))
        reason = self._unknown.why_dirty(vm) if dirty_log else self._unknown.why(vm)
        if not reason and self._lane.unattributed[-1:] == [number] and not self._too_large(outcome):
            reason = UNATTRIBUTED
        agrees = results_agree(recorded, outcome.ret)
        if not reason and agrees and not dead and borrowed(event, outcome, self._lane):
            reason = BORROWED
        if not reason and self._unknown.void(event):
            reason = VOID
        rule, source = rule_of(event, outcome)
        if not reason:
            key = (event.KIND, rule, source)
            self._rules[key] = self._rules.get(key, 0) + 1
        row = Compared(RESULTS, event.KIND, ret_text(min(outcome.ret, 0)), ret_text(min(recorded, 0)), source, reason)
        self._compare(row, event, number, rule)

    def _too_large(self, outcome: Outcome) -> bool:
        """Tell whether the array that failed is larger than the machine: then the model says so by itself."""
        ram_bytes = self._lane.profile.total_ram_pages * PAGE_SIZE_BYTES
        return bool(ram_bytes) and any(nominal_bytes > ram_bytes for _site, _array, nominal_bytes in outcome.refused)

    def _run(self, run: Run, first: int) -> None:
        outcome = self._lane.fold(run, first)
        self._vms.update(run.vm)
        for row, recorded in enumerate(run.ret):
            kind = run.kind[row]
            if recorded is None or kind >= ACCOUNT or kind == GUEST_WRITE:
                continue
            model = outcome.rets.get(row, 0)
            cls = HOT_CLASSES[kind]
            if kind == QUERY:
                expected, observed = str(model), str(recorded)
            else:
                expected, observed = ret_text(min(model, 0)), ret_text(min(recorded, 0))
            reason = self._unknown.why(run.vm[row])
            compared = Compared(GFN_RESULTS, cls.KIND, expected, observed, _source_of(cls), reason)
            if compared.agrees and not reason:
                self._count(GFN_RESULTS, agrees=True)
            else:
                self._compare(compared, run.event_at(row), first + row, "")

    def _observe(self, event: Observe, number: int) -> None:
        if event.areas is not None:
            self._areas(event, number)
        if event.state is not None:
            self._state(event, event.state, number)
        self._window = Window()
        self._vms = set()

    def _state(self, event: Observe, state: ObservedVm, number: int) -> None:
        vm = None if event.vm is None else self._lane.machine.vms.get(event.vm)
        if vm is None:
            self._skip("the VM is not there", number)
            return
        unknown = self._unknown
        for row in compare_state(vm, state, dark=unknown.why_shadow(vm.number)):
            dirty = unknown.why_dirty(vm.number) if row.what.endswith(" dirty_bitmap") else ""
            self._compare(attrs.evolve(row, reason=unknown.why(vm.number) or dirty or row.reason), event, number, "")

    def _areas(self, event: Observe, number: int) -> None:
        assert event.areas is not None
        for area in event.areas:
            if area.site not in SITES:
                self._skip(f"allocations of {area.site} are not modelled", number)
        row = compare_areas(self._window, event.areas)
        if row is None:
            return
        dirty = SITE_DIRTY in row.expected or SITE_DIRTY in row.observed
        reasons = [self._why_not_areas(vm, dirty=dirty) for vm in sorted(self._vms)] or [self._unknown.why(None)]
        reason = next((found for found in reasons if found), "")
        self._compare(attrs.evolve(row, reason=reason), event, number, "")

    def _why_not_areas(self, number: int, *, dirty: bool) -> str:
        """Return why a VM's allocations can not be compared, "" when they can."""
        vm = self._lane.machine.vms.get(number)
        settled = vm is not None and shadow_settled(vm)
        why = self._unknown.why(number) if settled else self._unknown.why_shadow(number)
        return why or (self._unknown.why_dirty(number) if dirty else "")

    def _compare(self, row: Compared, event: Event, number: int, rule: str) -> None:
        reason = row.reason
        if not reason and not row.agrees and self._orders is not None:
            reason = self._orders.doubt(number, getattr(event, "vm", None))
        if reason:
            self._skip(reason, number)
            return
        self._count(row.facet, agrees=row.agrees)
        if not row.agrees and len(self._mismatches) < MISMATCHES_MAX:
            self._mismatches.append(
                Mismatch(
                    event=number,
                    line=None if event.source is None else event.source.line,
                    vm=getattr(event, "vm", None),
                    facet=row.facet,
                    what=row.what,
                    expected=row.expected,
                    observed=row.observed,
                    rule=rule,
                    source=row.source,
                )
            )

    def _count(self, facet: str, *, agrees: bool) -> None:
        cells = self._facets.setdefault(facet, [0, 0])
        cells[0] += 1
        cells[1] += agrees

    def _skip(self, reason: str, number: int) -> None:
        self._reasons.setdefault(reason, [0, number])[0] += 1

    def report(self, trailer: Trailer) -> CheckReport:
        """Return what was found so far; the trailer tells what the recording lacks."""
        checked = sum(cells[0] for cells in self._facets.values())
        agreed = sum(cells[1] for cells in self._facets.values())
        return CheckReport(
            title=self._title,
            policy=self._policy.name,
            release=self._release,
            profile=facts_of(self._lane.profile),
            events=self._events,
            checked=checked,
            agreed=agreed,
            not_checkable=sum(cells[0] for cells in self._reasons.values()),
            doubtful=sum(cells[0] for name, cells in self._reasons.items() if doubts(name)),
            losses=self._unknown.unplaced(trailer),
            cut_short=trailer.cut_short(),
            mismatch_count=self.mismatch_count,
            facets=tuple(Facet(name=name, checked=c[0], agreed=c[1]) for name, c in sorted(self._facets.items())),
            rules=tuple(Rule(kind=k, rule=r, source=s, checked=n) for (k, r, s), n in sorted(self._rules.items())),
            reasons=tuple(Reason(reason=name, count=c[0], first_event=c[1]) for name, c in sorted(self._reasons.items())),
            mismatches=tuple(self._mismatches),
            orders=None if self._orders is None else self._orders.report(),
        )


def borrowed(event: Event, outcome: Outcome, lane: Lane) -> bool:
    """Tell whether the model gave a result because the recording says so: what it depends on is not modelled."""
    if isinstance(event, (VmCreate, VcpuCreate, IrqchipCreate)):
        return True
    if isinstance(event, GuestMemfdCreate):
        return lane.profile.release.at_least(6, 8)
    if isinstance(event, VmEnableCap):
        return event.cap != KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
    if isinstance(event, (DirtyLogGet, DirtyLogClear)):
        return event.slot is None
    return isinstance(event, MemslotSet) and outcome.why == "guest_memfd bind"


def facts_of(profile: Profile) -> tuple[Fact, ...]:
    """Return the facts of a profile as result values."""
    assumed = {word.partition("=")[0] for word in profile.assumed}
    return tuple(Fact(name=name, value=value, assumed=name in assumed) for name, value in profile.facts().items())


def rule_of(event: Event, outcome: Outcome) -> tuple[str, str]:
    """Return the rule behind a result, and where the kernel has it."""
    source = next((row.source for row in CHECKS if row.name == outcome.why), "")
    return outcome.why or outcome.change, source or _source_of(type(event))


def _source_of(cls: type[Event]) -> str:
    """Return the place in the kernel that an event's docstring names."""
    _head, _mark, source = (cls.__doc__ or "").partition("Source: ")
    return " ".join(source.split()).rstrip(".")[:512]
