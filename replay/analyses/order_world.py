"""Answer calls in copies of lanes, and judge whether the recorded kernel can have answered so."""

from collections.abc import Hashable, Sequence

import attrs

from replay.analyses.check_state import Window, compare_areas, compare_state
from replay.analyses.check_unknown import Unknowns
from replay.engine.lane import Lane, results_agree
from replay.events import DirtyLogClear, DirtyLogGet, Event, Observe, ObservedVm
from replay.kvm.fork import answers_of
from replay.kvm.kernel_log import GONE
from replay.kvm.machine import Outcome


@attrs.define(eq=False, repr=False)
class LaneWorld:
    """Copies of lanes, of some VMs. judge: index of the lane whose results are held against the recorded ones.

    window: what the judge allocated since the last observation, None when that is not known or not asked for.
    """

    lanes: Sequence[Lane]
    judge: int
    vms: tuple[int, ...]
    unknown: Unknowns
    window: Window | None = None

    def fork(self) -> "LaneWorld":
        """Return a copy: what happens to it leaves the lanes of this one alone."""
        window = (
            None if self.window is None else attrs.evolve(self.window, taken=dict(self.window.taken), freed=[*self.window.freed])
        )
        return attrs.evolve(self, lanes=[lane.fork(self.vms) for lane in self.lanes], window=window)

    def key(self) -> Hashable:
        """Return what decides later answers."""
        window = "" if self.window is None else repr(sorted(self.window.sites().items()))
        sites = self.window is not None
        return (window, *(answers_of(lane.machine, self.vms, sites=sites) for lane in self.lanes))

    def apply(self, number: int, event: Event) -> tuple[bool, Hashable]:
        """Answer one event; return whether it fits what was recorded, and what it did in each lane."""
        if isinstance(event, Observe):
            return self._seen(event), None
        outcomes = [lane.step(event, number) for lane in self.lanes]
        judged = outcomes[self.judge]
        if self.window is not None and judged is not None:
            self.window.add(judged.taken, judged.freed)
        return self._fits(event, judged), tuple(map(_deed, outcomes))

    def _fits(self, event: Event, outcome: Outcome | None) -> bool:
        recorded: int | None = getattr(event, "ret", None)
        if outcome is None or outcome.why == GONE:
            return outcome is None
        if recorded is None or outcome.ret is None or self.unknown.void(event):
            return True
        if isinstance(event, (DirtyLogGet, DirtyLogClear)) and self.unknown.why_dirty(event.vm):
            return True
        return results_agree(recorded, outcome.ret)

    def _seen(self, event: Observe) -> bool:
        """Tell whether an observed state is this one, and the allocations are; counters are not compared."""
        if not self._areas_agree(event):
            return False
        vm = self.lanes[self.judge].machine.vms.get(-1 if event.vm is None else event.vm)
        if vm is None or event.state is None:
            return True
        rows = compare_state(vm, without_counts(event.state), dark=self.unknown.why_shadow(vm.number))
        dirty = self.unknown.why_dirty(vm.number)
        return all(row.agrees or row.reason or (dirty and row.what.endswith(" dirty_bitmap")) for row in rows)

    def _areas_agree(self, event: Observe) -> bool:
        window, self.window = self.window, Window() if self.window is not None else None
        if (
            event.areas is None
            or window is None
            or any(self.unknown.why_shadow(vm) or self.unknown.why_dirty(vm) for vm in self.vms)
        ):
            return True
        row = compare_areas(window, event.areas)
        return row is None or row.agrees


def without_counts(state: ObservedVm) -> ObservedVm:
    """Return an observation without what copies do not carry: counters and shadow pages."""
    slots = None if state.slots is None else tuple(attrs.evolve(slot, counts=None) for slot in state.slots)
    return attrs.evolve(state, slots=slots, indirect_shadow_pages=None)


def _deed(outcome: Outcome | None) -> Hashable:
    """Return what an event did in one lane, so that it can be compared with another order's."""
    if outcome is None:
        return None
    taken = sorted((one.site, one.array, one.cost.nominal_bytes, one.as_id, one.slot_id) for one in outcome.taken)
    freed = sorted((one.array, one.cost.nominal_bytes, one.as_id, one.slot_id) for one in outcome.freed)
    return (outcome.ret, outcome.change, outcome.why, tuple(taken), tuple(freed), tuple(outcome.refused))


def marks_of(kind: str, deeds: Hashable) -> frozenset[Hashable]:
    """Return in which way the lanes part at one event: by results, or in a lane by memory alone; nothing where they do not."""
    if not isinstance(deeds, tuple) or all(deed == deeds[0] for deed in deeds):
        return frozenset()
    rets = tuple(None if deed is None else deed[0] for deed in deeds)
    if any(ret != rets[0] for ret in rets):
        return frozenset({(kind, rets)})
    return frozenset(index for index, deed in enumerate(deeds) if deed != deeds[0])
