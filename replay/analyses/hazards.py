"""Find recorded calls that overlap in time in a way that is dangerous under one policy: candidates, explained, never proved.

Two calls overlap when each was entered before the other had returned; only recordings with entry and exit times show it.
Source of the hazards: reading of page_track.c and kvm_main.c [6.12]; see catalogue rows D25, D36, H1', H3, H4.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from replay.analyses.catalogue import RULES
from replay.analyses.context import Where, where
from replay.analyses.findings import RACE_ONLY, Finding, Side
from replay.engine.lane import Lane
from replay.engine.lockstep import Step
from replay.engine.overlaps import overlap
from replay.events import Event, MemslotSet, NotifierRegister, ShadowRootAlloc, VmCreate, VmEnableCap
from replay.events.base import VmCall
from replay.header import Header
from replay.kvm.machine import Outcome
from replay.kvm.memory_region import DELETE, FLAGS_ONLY, MOVE
from replay.kvm.uapi import KVM_CAP_DISABLE_QUIRKS2

REGISTER: Final = "register"
ROOT: Final = "root"
_ENABLERS: Final = (REGISTER, ROOT)
CHANGES: Final = frozenset({FLAGS_ONLY, DELETE, MOVE})
"""What memslot calls do that can be dangerous while another call is under way."""
_KEPT: Final = 64  # calls of one VM that may still be running; more threads than that in one VM do not change slots at once
_QUIRK_SLOT_ZAP_ALL: Final = 1 << 7  # arch/x86/include/uapi/asm/kvm.h KVM_X86_QUIRK_SLOT_ZAP_ALL [6.12]


@attrs.define(eq=False, repr=False)
class Call:
    """A call with its time span and what it is.

    first: no call of its role succeeded before in its VM. enables: it is the first of all registrations and shadow roots, which
    enables write tracking where that happens late.
    """

    event: VmCall
    number: int
    tid: int
    enter_ns: int
    exit_ns: int
    role: str
    first: bool
    enables: bool

    @property
    def node(self) -> int:
        """Notifier node of a registration."""
        return self.event.node if isinstance(self.event, NotifierRegister) else -1

    def at(self, header: Header) -> Where:
        """Return how findings name the call."""
        return where(header, self.event, self.number)


Done = dict[tuple[int, str], None]
"""(VM, role) of registrations and shadow roots that succeeded."""


class Recent:
    """The last calls of one VM, oldest first."""

    def __init__(self) -> None:
        self._calls: deque[Call | _Change] = deque(maxlen=_KEPT)
        self._exit_ns = 0  # none of them, nor any before them, returned later

    def overlaps_of(self, call: Call) -> Sequence[Call]:
        """Return the earlier calls that overlap a call, and remember it. Cost: none when all had returned."""
        found = [one for one in map(_whole, self._calls) if overlap(one, call)] if call.enter_ns < self._exit_ns else ()
        self._calls.append(call)
        self._exit_ns = max(self._exit_ns, call.exit_ns)
        return found

    def take(self, event: MemslotSet, number: int, role: str, enter_ns: int, exit_ns: int) -> bool:
        """Remember a change of a memslot when all calls before it had returned; False when some had not."""
        if enter_ns < self._exit_ns:
            return False
        self._calls.append((event, number, role))
        self._exit_ns = max(self._exit_ns, exit_ns)
        return True


_Change = tuple[MemslotSet, int, str]
"""A change of a memslot, its number and its role: made a Call when another one overlaps it."""


def _whole(one: "Call | _Change") -> Call:
    if isinstance(one, Call):
        return one
    event, number, role = one
    assert event.enter_time_ns is not None
    assert event.time_ns is not None
    assert event.task is not None
    return Call(event, number, event.task.tid, event.enter_time_ns, event.time_ns, role, True, False)


def passes(recent: defaultdict[int, Recent], event: MemslotSet, number: int, outcome: Outcome | None) -> bool:
    """Take a memslot call that overlaps none before it, as nearly all do; False, and nothing is done, for one that may."""
    if outcome is None or outcome.change not in CHANGES:
        return True
    enter_ns, exit_ns = event.enter_time_ns, event.time_ns
    if enter_ns is None or exit_ns is None or event.task is None:
        return True
    return recent[event.vm].take(event, number, outcome.change, enter_ns, exit_ns)


def call_of(step: Step, index: int, done: Done) -> Call | None:
    """Return a step as a call with times, None when it is not one that matters; index: the lane that says what it did.

    done is brought up to date by it.
    """
    event, outcome = step.event, step.outcomes[index]
    if outcome is None or not isinstance(event, VmCall):
        return None
    role = _role(event, outcome.change)
    if not role:
        return None
    first, enables = (event.vm, role) not in done, False
    if role in _ENABLERS:
        enables = not any((event.vm, one) in done for one in _ENABLERS)
        if outcome.ret == 0:
            done[event.vm, role] = None
    if event.enter_time_ns is None or event.time_ns is None or event.task is None or (outcome.ret or 0) < 0:
        return None
    return Call(event, step.number, event.task.tid, event.enter_time_ns, event.time_ns, role, first, enables)


def _role(event: VmCall, change: str) -> str:
    if isinstance(event, MemslotSet):
        return change if change in CHANGES else ""
    if isinstance(event, NotifierRegister):
        return REGISTER
    return ROOT if isinstance(event, ShadowRootAlloc) else ""


class Hazards:
    """Watch one pair of lanes, of which exactly one allocates on registration, for overlapping calls."""

    def __init__(self, lanes: tuple[Lane, Lane], header: Header, emit: Callable[[Finding], object]) -> None:
        self._lanes = lanes
        self._header = header
        self._emit = emit
        self._recent: defaultdict[int, Recent] = defaultdict(Recent)
        self._done: Done = {}
        self._new_api = all(lane.policy.register_checks_mm for lane in lanes)
        late = [_allocates_late(lane) for lane in lanes]
        kernels = all(lane.policy.kernel for lane in lanes)
        self._late = late.index(True) if kernels and late.count(True) == 1 else None
        self.watches = self._late is not None
        """Whether there is anything to be found in this pair."""

    def step(self, step: Step, index: int) -> None:
        """Take one structural event; index is the other lane's place among the outcomes, the reference lane's is 0."""
        if self._late is None:
            return
        lane = index if self._late else 0
        if type(step.event) is MemslotSet and passes(self._recent, step.event, step.number, step.outcomes[lane]):
            return
        call = call_of(step, lane, self._done)
        if call is None:
            return
        for earlier in self._recent[call.event.vm].overlaps_of(call):
            roles = {earlier.role, call.role}
            if (earlier.enables or call.enables) and roles & CHANGES:
                self._candidate("D36", earlier, call)
                if roles == {REGISTER, MOVE} and self._new_api:
                    self._candidate("H3", earlier, call)

    def _candidate(self, row: str, first: Call, second: Call) -> None:
        rule, at = RULES[row], second.at(self._header)
        late = self._late or 0
        texts = _WORDS[row]
        sides = tuple(Side(lane=lane.name, did=texts[int(place == late)]) for place, lane in enumerate(self._lanes))
        self._emit(
            Finding(
                event=at.event,
                kind=at.kind,
                place=at.place,
                divergence=RACE_ONLY,
                catalogue=row,
                title=rule.title,
                vm=at.vm,
                sides=sides,
                root_cause_event=first.number,
                root_cause=f"{_span(first, second)}: one of them is the first to enable write tracking",
                visible="under some schedules only; nothing of it is recorded",
                explanation=rule.explanation,
                source=rule.source,
            )
        )


_WORDS: Final = {
    "D36": ("the array is there before: no schedule is dangerous", "a reader of the old memslot copy can meet a NULL array"),
    "H3": ("the registration does not wait: the MOVE can miss it", "the registration waits for the MOVE, up to a moment"),
}
"""Row -> what the lane that allocates with the memslot does, and the one that allocates late."""


def _span(first: Call, second: Call) -> str:
    """Say how long two calls overlap."""
    shared_ns = min(first.exit_ns, second.exit_ns) - max(first.enter_ns, second.enter_ns)
    return f"{first.event.KIND} of thread {first.tid} and {second.event.KIND} of thread {second.tid} overlap by {shared_ns:,} ns"


def _allocates_late(lane: Lane) -> bool:
    """Tell whether a first registration allocates in this lane: its policy does so, and nothing enabled it before."""
    return lane.policy.register_allocates and _enables_late(lane) and lane.profile.config_external_write_tracking


def _enables_late(lane: Lane) -> bool:
    """Tell whether memslots are there before write tracking is: without the option in eager kernels too, from 5.16 on.

    Source: page_track.c kvm_page_track_write_tracking_enabled() [6.1, 6.12].
    """
    term = lane.policy.external_term(lane.profile.config_external_write_tracking, False, False)
    return lane.profile.tdp and not term


class CommonRaces:
    """Watch for overlapping calls that are worth a word though every lane does the same."""

    def __init__(self, lanes: Sequence[Lane], note: Callable[[str, int], None]) -> None:
        """note: takes a catalogue row and an event."""
        self._note = note
        self._recent: defaultdict[int, Recent] = defaultdict(Recent)
        self._done: Done = {}
        self._zaps_less: dict[int, None] = {}  # VMs whose memslot changes do not zap all shadow pages
        self._new_api = all(lane.policy.register_checks_mm for lane in lanes)
        kernels = [lane for lane in lanes if lane.policy.kernel]
        self._late = bool(kernels) and all(_enables_late(lane) for lane in kernels)
        self._register_enables = all(_allocates_late(lane) for lane in kernels)
        # have_rmaps() is false until the first root, and flush_shadow() may be a range zap: mmu.c [6.12].
        self._rmap_twin = all(lane.profile.tdp_mmu_enabled and lane.profile.release.at_least(6, 12) for lane in lanes)

    def step(self, step: Step) -> None:
        """Take one structural event that all lanes answered alike."""
        event = step.event
        if type(event) is MemslotSet and passes(self._recent, event, step.number, step.outcomes[0]):
            return
        if _zaps_less(event):
            self._zaps_less[getattr(event, "vm", -1)] = None
        call = call_of(step, 0, self._done)
        if call is None:
            return
        for earlier in self._recent[call.event.vm].overlaps_of(call):
            for row in self._rows(earlier, call):
                self._note(row, call.number)

    def _rows(self, first: Call, second: Call) -> Iterator[str]:
        roles, enables = {first.role, second.role}, first.enables or second.enables
        new_root = any(call.role == ROOT and call.first for call in (first, second))
        if roles == {REGISTER}:
            if enables:
                yield "D25"
            if first.node != second.node:
                yield "H4"
        enabler = next((call.role for call in (first, second) if call.enables), "")
        if roles & CHANGES and self._late and (enabler == ROOT or (enabler == REGISTER and self._register_enables)):
            yield "D36"
        if roles == {REGISTER, MOVE} and not enables and self._new_api:
            yield "H3"
        if new_root and roles & {DELETE, MOVE} and self._rmap_twin and first.event.vm in self._zaps_less:
            yield "H1'"


def _zaps_less(event: Event) -> bool:
    """Tell whether memslot changes of the VM do not zap all shadow pages from here on: another type, or the quirk is off."""
    if isinstance(event, VmCreate):
        return event.type != 0
    quirks = event.args[0] if isinstance(event, VmEnableCap) and event.cap == KVM_CAP_DISABLE_QUIRKS2 and event.args else 0
    return bool(quirks & _QUIRK_SLOT_ZAP_ALL) and getattr(event, "ret", None) == 0
