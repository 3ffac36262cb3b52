"""Promises of copies of a machine: they answer as the machine does, and leave it alone."""

import random
from typing import Any

import pytest
from lane_samples import CREATE, lane, replay, slot
from lockstep import Lockstep
from streams import POLICIES, Generator, facts_of

from replay.events import Event, NotifierRegister
from replay.events.write_track import HotEvent
from replay.kvm.fork import answers_of, fork
from replay.kvm.machine import Machine, Outcome
from replay.kvm.state import digest_of

STREAMS = 40
BEFORE, BEHIND = 30, 12


def grown(seed: int) -> tuple[Machine, list[Event]]:
    """Return a machine that has seen a stream, hot events included, and structural events that come next in it."""
    rng = random.Random(seed)
    facts, policy = facts_of(rng), POLICIES[seed % len(POLICIES)]
    facts["config_external_write_tracking"] |= policy == "v2"
    generator = Generator(rng, 2, patient=True)
    lockstep, events = Lockstep(policy, facts, paranoid=False), generator.start()
    for index in range(BEFORE):
        if index >= len(events):
            events.append(generator.next(lockstep.slow))
        assert lockstep.apply(events[index]) == ""
    drawn = (generator.next(lockstep.slow) for _ in range(4 * BEHIND))
    behind = [event for event in drawn if not isinstance(event, HotEvent) and getattr(event, "vm", 0) in lockstep.slow.vms]
    return lockstep.machine, behind[:BEHIND]


def said(outcome: Outcome) -> Any:
    """Return what an event did, but for the numbers of allocations."""
    taken = [(made.site, made.array, made.cost, made.vm, made.as_id, made.slot_id) for made in outcome.taken]
    freed = [(gone.site, gone.array, gone.cost, gone.vm, gone.as_id, gone.slot_id) for gone in outcome.freed]
    return (outcome.ret, outcome.change, outcome.why, taken, freed, outcome.refused)


class TestFork:
    """Copies along generated streams, under every policy."""

    def test_answers_alike(self) -> None:
        """A copy gives every structural event the answer that the machine gives, and stays equal in what decides answers."""
        asked = 0
        for seed in range(STREAMS):
            machine, events = grown(seed)
            vms = tuple(machine.vms)
            twin = fork(machine, vms)
            for number, event in enumerate(events, BEFORE):
                assert answers_of(twin, vms, sites=True) == answers_of(machine, vms, sites=True)
                assert said(twin.step(event, number)) == said(machine.step(event, number)), (seed, event)
                asked += 1
        assert asked > STREAMS * BEHIND // 2

    def test_leaves_the_machine_alone(self) -> None:
        """Whatever happens to a copy, the machine's state, counters and totals stay as they are."""
        changed = 0
        for seed in range(STREAMS):
            machine, events = grown(seed)
            before, twin = digest_of(machine), fork(machine, tuple(machine.vms))
            answers = answers_of(twin, tuple(machine.vms), sites=True)
            for number, event in enumerate(events, BEFORE):
                twin.step(event, number)
            assert digest_of(machine) == before, seed
            changed += answers_of(twin, tuple(machine.vms), sites=True) != answers
        assert changed > STREAMS // 2

    def test_only_some_vms(self) -> None:
        """A copy of one VM does not have the others."""
        machine, _events = grown(0)
        assert sorted(fork(machine, (0,)).vms) == [0]


class TestAnswers:
    """What decides later answers."""

    def test_sites(self) -> None:
        """Who allocated an array, the memslot call or the registration, counts only when it is asked for."""
        register = NotifierRegister(vm=0, ret=0)
        first, second = (replay(lane("on-demand"), [CREATE, *calls]) for calls in ((slot(), register), (register, slot())))
        assert answers_of(first.machine, (0,), sites=False) == answers_of(second.machine, (0,), sites=False)
        assert answers_of(first.machine, (0,), sites=True) != answers_of(second.machine, (0,), sites=True)

    @pytest.mark.parametrize("name", ["flags", "userspace_addr", "npages"])
    def test_a_slot(self, name: str) -> None:
        """A slot that differs in anything that a call looks at makes another answer."""
        machine, _events = grown(3)
        vms = tuple(machine.vms)
        twin = fork(machine, vms)
        slot = next(slot for vm in twin.live_vms() for slot in vm.slots())
        setattr(slot, name, getattr(slot, name) + 1)
        assert answers_of(machine, vms, sites=False) != answers_of(twin, vms, sites=False)
