"""Find recorded calls that overlap in time in a way that is dangerous under one policy: candidates, explained, never proved.

Two calls overlap when one was entered before the other had returned; only recordings with entry and exit times show it.
Source of the hazards: reading of page_track.c and kvm_main.c [6.12]; see catalogue rows D25, D36, H3.
"""

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from replay.analyses.catalogue import RULES
from replay.analyses.context import Where, where
from replay.analyses.findings import RACE_ONLY, Finding, Side
from replay.engine.lane import Lane
from replay.engine.lockstep import Step
from replay.events import MemslotSet, NotifierRegister, ShadowRootAlloc
from replay.events.base import VmCall
from replay.header import Header
from replay.kvm.memory_region import DELETE, FLAGS_ONLY, MOVE

_KEPT: Final = 64  # calls of one VM that may still be running; more threads than that in one VM do not change slots at once


@attrs.frozen
class _Running:
    """A call with its time span, what it did in the reference lane, and whether it enabled write tracking in the other one."""

    at: Where
    tid: int
    enter_ns: int
    exit_ns: int
    role: str
    enables: bool


class Hazards:
    """Watch one pair of lanes for overlapping calls."""

    def __init__(self, reference: Lane, other: Lane, header: Header, emit: Callable[[Finding], None]) -> None:
        self._lanes = (reference, other)
        self._header = header
        self._emit = emit
        self._recent: dict[int, list[_Running]] = {}
        self._enabled: dict[int, None] = {}

    def step(self, step: Step, index: int) -> None:
        """Take one structural event; index is the other lane's place among the outcomes."""
        event = step.event
        if not isinstance(event, VmCall) or not _applies(self._lanes):
            return
        outcome = step.outcomes[index]
        role = "" if outcome is None else _role(event, outcome.change)
        if not role or event.enter_time_ns is None or event.time_ns is None or event.task is None:
            return
        enables = role in {"register", "root"} and event.vm not in self._enabled and outcome is not None and outcome.ret == 0
        at = where(self._header, event, step.number)
        running = _Running(at, event.task.tid, event.enter_time_ns, event.time_ns, role, enables)
        recent = self._recent.setdefault(event.vm, [])
        for earlier in recent:
            if earlier.exit_ns > running.enter_ns and earlier.tid != running.tid:
                self._overlap(earlier, running)
        recent[:] = [*[one for one in recent if one.exit_ns > running.enter_ns], running][-_KEPT:]
        if enables:
            self._enabled[event.vm] = None

    def _overlap(self, first: _Running, second: _Running) -> None:
        roles = {first.role, second.role}
        if roles == {"register"} and (first.enables or second.enables):
            self._candidate("D25", first, second)
        elif roles & {"register", "root"} and (first.enables or second.enables) and roles & {FLAGS_ONLY, DELETE, MOVE}:
            self._candidate("D36", first, second)
        elif roles == {"register", MOVE}:
            self._candidate("H3", first, second)

    def _candidate(self, row: str, first: _Running, second: _Running) -> None:
        rule = RULES[row]
        reference, other = self._lanes
        self._emit(
            Finding(
                event=second.at.event,
                kind=second.at.kind,
                place=second.at.place,
                divergence=RACE_ONLY,
                catalogue=row,
                vm=second.at.vm,
                sides=(
                    Side(lane=reference.name, did="the arrays are there before: no window" if row != "H3" else "does not wait"),
                    Side(lane=other.name, did=f"overlaps {first.at.kind} of event {first.at.event}"),
                ),
                root_cause_event=first.at.event,
                root_cause="the two calls overlap in time, and one of them is the first to enable write tracking",
                visible="only under some schedules; nothing of it is recorded",
                explanation=rule.explanation,
                source=rule.source,
            )
        )


def _applies(lanes: Sequence[Lane]) -> bool:
    """Tell whether exactly the other lane allocates on registration, on a machine where that matters."""
    reference, other = lanes
    needs = other.profile.tdp and other.profile.config_external_write_tracking
    return needs and other.policy.register_allocates and not reference.policy.register_allocates


def _role(event: VmCall, change: str) -> str:
    if isinstance(event, NotifierRegister):
        return "register"
    if isinstance(event, ShadowRootAlloc):
        return "root"
    if isinstance(event, MemslotSet) and change in {FLAGS_ONLY, DELETE, MOVE}:
        return change
    return ""
