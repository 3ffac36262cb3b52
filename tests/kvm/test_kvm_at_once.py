"""Promises of replay.kvm.at_once: a request that is carried out in one go does what the kernel's functions do step by step."""

import random
from collections import Counter
from typing import Any

import attrs
import pytest
from lockstep import policy_by_name, profile_from
from test_against_slow_model import generate

from replay.events import Event, IrqchipCreate, MemslotSet, ShadowRootAlloc, TssSet, VcpuCreate, VmCreate, VmDestroy
from replay.events.write_track import HotEvent
from replay.kvm import at_once, requests, tallies, vmalloc
from replay.kvm.allocator import DIRTY_BITMAP, Allocation
from replay.kvm.fold import fold_run
from replay.kvm.machine import Machine
from replay.kvm.policies import POLICIES, unbuildable
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.state import state_of
from replay.runs import run_of
from replay.units import ENOMEM, Gpa, Hva

P = 4096
SET_AT_ONCE = at_once.set_at_once


def pieces(allocations: list[Allocation]) -> list[tuple[Any, ...]]:
    """Return allocations as values."""
    return [(a.number, a.site, a.array, a.cost, a.vm, a.as_id, a.slot_id, a.event) for a in allocations]


def deeds(of: Machine, events: list[Event]) -> list[Any]:
    """Return what came of each event, and the whole state after it."""
    found: list[Any] = []
    for number, event in enumerate(events):
        if isinstance(event, HotEvent):
            fold_run(of, run_of([event]), number)
            continue
        outcome = of.step(event, number)
        found.append((outcome.ret, outcome.change, outcome.why, pieces(outcome.taken), pieces(outcome.freed), outcome.refused))
        found.append((outcome.log, state_of(of), [space.orders() for vm in of.live_vms() for space in vm.spaces]))
    return found


def churn(rng: random.Random) -> list[Event]:
    """Return calls that nearly all succeed: few slots, few places, dirty logging on and off, moves; a root among them."""
    events: list[Event] = [VmCreate(vm=0, ret=0)]
    sizes: dict[int, int] = {}
    for _ in range(120):
        slot, page, what = rng.randrange(4), rng.choice((0, 16, 511, 1 << 18, (1 << 20) + 3)), rng.random()
        size = 0 if what < 0.2 else sizes.get(slot, rng.choice((16, 513, 1 << 19)))
        sizes |= {slot: size} if size else {}
        if what < 0.2:
            sizes.pop(slot, None)
        flags = rng.choice((0, 1)) if what < 0.95 else rng.choice((2, 3))
        place = Gpa((page * (what > 0.8) + (slot << 21)) * P)
        hva = Hva(0x7F0000000000 + (slot << 40))
        events.append(MemslotSet(vm=0, slot=slot, flags=flags, guest_phys_addr=place, memory_size=size * P, userspace_addr=hva))
        if rng.random() < 0.02:
            events.append(ShadowRootAlloc(vm=0, ret=0))
    return events


class TestAtOnce:
    """In one go or step by step: the same."""

    def both(self, policy: str, profile: Profile, events: list[Event], patch: pytest.MonkeyPatch) -> Counter[str]:
        """Hold both ways against each other; return how often each change was made in one go."""
        done: Counter[str] = Counter()

        def counted(request: Any) -> Any:
            answer = SET_AT_ONCE(request)
            done["left" if answer is None else answer[1]] += 1
            return answer

        with patch.context() as context:
            context.setattr(at_once, "set_at_once", counted)
            short = deeds(Machine(policy_by_name(policy), profile), events)
            context.setattr(at_once, "set_at_once", lambda _request: None)
            assert deeds(Machine(policy_by_name(policy), profile), events) == short
        return done

    def test_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calls with every fault, all policies, limits and injections."""
        done: Counter[str] = Counter()
        for seed in range(40):
            policy, facts, events, models, _difference = generate(seed)
            done += self.both(policy, profile_from(facts), events[: models.number], monkeypatch)
        assert {"create", "delete", "move", "flags_only", "failed", "left"} <= done.keys()
        assert min(done[change] for change in ("create", "delete", "failed")) > 5

    def test_churn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calls as VMMs make them, on releases with either size of a slot object, and with little memory."""
        done: Counter[str] = Counter()
        for seed in range(14):
            rng = random.Random(seed)
            policy = POLICIES[seed % len(POLICIES)]
            profile = Profile(
                release=Release(6, rng.choice((1, 12)), 100),
                tdp=rng.random() < 0.7,
                config_external_write_tracking=bool(unbuildable(policy, config=False)) or rng.random() < 0.7,
                total_ram_pages=rng.choice((0, 600)),
            )
            done += self.both(policy.name, profile, churn(rng), monkeypatch)
        assert min(done[change] for change in ("create", "delete", "move", "flags_only")) > 40

    def test_small_caches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is worked out once for each size is worked out anew where the caches hold one thing only."""
        for module, cache in ((at_once, "_DEEDS"), (tallies, "_MARKS"), (vmalloc, "_CACHE")):
            monkeypatch.setattr(module, cache, {})
            monkeypatch.setattr(module, f"{cache}_MOST", 1)
        done = self.both("eager-5.16", Profile(release=Release(6, 1, 100), tdp=False), churn(random.Random(3)), monkeypatch)
        assert min(done[change] for change in ("create", "delete", "move", "flags_only")) > 0
        assert [len(cache) for cache in (at_once._DEEDS, tallies._MARKS, vmalloc._CACHE)] == [1, 1, 1]


SIZE = 1 << 19
"""Pages of the slot below: a dirty bitmap of 32 pages."""


def call(base: int, flags: int = 0, pages: int = SIZE) -> MemslotSet:
    """Return a call for the one slot."""
    hva = Hva(0x7F0000000000)
    return MemslotSet(vm=0, slot=0, flags=flags, guest_phys_addr=Gpa(base * P), memory_size=pages * P, userspace_addr=hva)


class TestLate:
    """What is worked out when somebody asks is what it was when it was done."""

    @pytest.mark.parametrize("seed", range(8))
    def test_nobody_looks_in_between(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Orders, names of allocations, what each event took and freed, and totals: asked for after the last event."""
        policy = POLICIES[seed % len(POLICIES)]
        config = bool(unbuildable(policy, config=False)) or seed % 3 > 0
        intel = Profile(release=Release(6, 12, 100), vendor="intel", unrestricted_guest=False)
        profile = attrs.evolve(intel, tdp=seed % 2 > 0, config_external_write_tracking=config)
        internal: list[Event] = [
            IrqchipCreate(vm=0, ret=0),
            TssSet(vm=0, guest_phys_addr=Gpa(0xFFFBD000), ret=0),
            VcpuCreate(vm=0, vcpu_id=0, ret=0),
        ]
        events = [*churn(random.Random(100 + seed)), *internal, *churn(random.Random(seed))[1:]]
        found, kept = list[list[Any]](), list[Any]()
        for way in (SET_AT_ONCE, lambda _request: None):
            monkeypatch.setattr(at_once, "set_at_once", way)
            made = Machine(policy, profile)
            outcomes = [made.step(event, number) for number, event in enumerate(events)]
            kept.append(state_of(made))
            found.append([(pieces(outcome.taken), pieces(outcome.freed)) for outcome in outcomes])
            found[-1].append(([], [space.orders() for vm in made.live_vms() for space in vm.spaces]))
            found[-1].append((made.step(VmDestroy(vm=0), len(events)).log, pieces(made.allocator.freed)))
            kept.append(state_of(made))
        assert found[0] == found[1]
        assert kept[:2] == kept[2:]
        assert any(piece[6] > 0x7000 for taken, _freed in found[0][:-2] for piece in taken)
        assert sum(len(freed) for _taken, freed in found[0]) > 100

    def test_arrays_that_come_later(self) -> None:
        """A slot keeps what it was made with and gets what a root allocates; both are freed with it, each once."""
        made = Machine(policy_by_name("on-demand"), Profile(release=Release(6, 12, 100)))
        events = [VmCreate(vm=0, ret=0), call(0), ShadowRootAlloc(vm=0, ret=0), call(0, flags=1), call(0, pages=0)]
        outcomes = [made.step(event, number) for number, event in enumerate(events)]
        taken = sorted(piece.number for outcome in outcomes for piece in outcome.taken)
        assert taken == sorted(piece.number for outcome in outcomes for piece in outcome.freed)
        assert [len(outcome.freed) for outcome in outcomes] == [0, 0, 0, 1, 9]
        assert [tally.live for tally in made.allocator.tallies.values()] == [0] * 5

    def test_requests_keep_no_vm(self) -> None:
        """A request that is kept for the next call that says the same holds no VM; who asks for many of them keeps few."""
        made = Machine(policy_by_name("eager-5.16"), Profile(release=Release(6, 1, 100)))
        for number, event in enumerate((VmCreate(vm=0, ret=0), *(call(0, flags=n % 2, pages=n + 1) for n in range(5000)))):
            made.step(event, number)
        assert 0 < len(requests.REQUESTS._known) <= requests._KNOWN_MOST
        assert not any(hasattr(request, "vm") for request in requests.REQUESTS._known.values())


class TestLeft:
    """What is left to the kernel's functions: nothing is done before they begin."""

    def one_slot(self) -> Machine:
        """Return a machine with one slot."""
        made = Machine(
            policy_by_name("eager-5.16"), Profile(release=Release(6, 1, 100), tdp=False, config_external_write_tracking=True)
        )
        assert [made.step(event, 0).ret for event in (VmCreate(vm=0, ret=0), call(0))] == [0, 0]
        return made

    @pytest.mark.parametrize("event", [call(512), call(0, flags=1)], ids=["move", "flags"])
    def test_memory_that_is_too_small(self, event: MemslotSet, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call whose arrays are larger than all memory fails as it does step by step."""
        found = []
        for way in (SET_AT_ONCE, lambda _request: None):
            monkeypatch.setattr(at_once, "set_at_once", way)
            made = self.one_slot()
            made.allocator.total_ram_pages = 1
            found.append(deeds(made, [event]))
        assert found[0] == found[1]
        assert found[0][0][0] == -ENOMEM

    @pytest.mark.parametrize("event", [call(512), call(0, pages=0)], ids=["move", "delete"])
    def test_arrays_that_are_missing(self, event: MemslotSet, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slot that has some arrays of a kind and lacks others is freed step by step."""
        made, answers = self.one_slot(), []
        monkeypatch.setattr(at_once, "set_at_once", lambda request: answers.append(SET_AT_ONCE(request)))
        slot = made.vms[0].spaces[0].by_id(0)
        assert slot is not None
        slot.arch.rmap[1] = None
        assert made.step(event, 1).ret == 0
        assert answers == [None]

    def test_dirty_ring(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a dirty ring a slot that logs has no bitmap, in both ways."""
        found = []
        for way in (SET_AT_ONCE, lambda _request: None):
            monkeypatch.setattr(at_once, "set_at_once", way)
            made = self.one_slot()
            made.vms[0].dirty_ring = True
            found.append(deeds(made, [call(0, flags=1), call(512, flags=1), call(512)]))
            assert made.allocator.tallies[DIRTY_BITMAP].count == 0
        assert found[0] == found[1]
