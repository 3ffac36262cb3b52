"""What is seldom met in a replay, and has to be right all the same: bare spots of the fast ways."""

import random
from typing import Any

import attrs
import pytest
from bulk_worlds import machine_of

from replay.events import (
    GuestWrite,
    MemslotSet,
    NotifierRegister,
    ShadowPageAccount,
    ShadowPageUnaccount,
    VmCreate,
    WriteTrackAdd,
    WriteTrackQuery,
)
from replay.kvm import bulk, bulk_pairs
from replay.kvm.bulk import fold_bulk
from replay.kvm.bulk_rows import Rows
from replay.kvm.counter_bytes import MANY_COUNTERS, MANY_LEAVES, counter_bytes, fill
from replay.kvm.counters import Counters
from replay.kvm.fold import fold_run
from replay.kvm.kernel_log import LPAGE
from replay.kvm.leaves import LEAF_PAGES, Table
from replay.kvm.machine import Machine
from replay.kvm.policies import POLICIES
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.kvm.run_outcome import RunOutcome
from replay.kvm.state import state_of
from replay.runs import Constant, run_of
from replay.units import AsId, Gfn, Gpa, Hva

NEW = Profile(release=Release(6, 12, 117), config_external_write_tracking=True)


class TestCounters:
    """Counters at the edges of their forms."""

    @pytest.mark.parametrize("leaves", [1, MANY_LEAVES])
    def test_zeros_alone(self, leaves: int) -> None:
        """Counters that were counted down to zero take no bytes, however many leaves they had."""
        counters = Counters(Table(), 0, 1 << 20)
        for leaf in range(leaves):
            counters[leaf * LEAF_PAGES] = 1
        assert len(counter_bytes(counters)) > 0
        for leaf in range(leaves):
            del counters[leaf * LEAF_PAGES]
        assert (counter_bytes(counters), len(counters.leaves())) == (b"", leaves)
        fill(counters, b"")
        assert dict(counters.items()) == {}

    def test_room_for_what_is_read_back(self) -> None:
        """Counters that lie side by side take no more leaves than they fill, when they are read back all at once."""
        counters, again = Counters(Table(), 0, 1 << 20), Counters(Table(), 0, 1 << 20)
        for page in range(40 * LEAF_PAGES):
            counters[page] = 1 + page % 3
        fill(again, counter_bytes(counters))
        assert again == counters
        assert len(again.table.cells) == (1 + 40) * LEAF_PAGES

    @pytest.mark.parametrize("total", [3, MANY_COUNTERS])
    def test_range_grows_for_what_is_read_back(self, total: int) -> None:
        """A range that grows on demand, as that of external users does, takes back all that it held, few or many."""
        counters, again = Counters(Table("I")), Counters(Table("I"))
        for number in range(total):
            counters.cover(number << 20)
            counters[number << 20] = 1 + number
        fill(again, counter_bytes(counters))
        assert again == counters
        assert len(again) == total

    def test_deleted_by_a_sharer(self) -> None:
        """A counter that one sharer takes away is still there for the other; one that is not there is a KeyError."""
        table = Table()
        first, second = Counters(table, 0, 512), Counters(table, 0, 512)
        first[5] = first[6] = 3
        second.share(first)
        del second[5]
        assert (dict(first.items()), dict(second.items())) == ({5: 3, 6: 3}, {6: 3})
        with pytest.raises(KeyError):
            del second[5]


class TestOutcome:
    """What a run did."""

    def test_worked_out_late(self) -> None:
        """A field that is worked out when it is asked for is worked out once; what is no field is an AttributeError."""
        answers = iter(({3: -22}, {}))
        outcome: Any = RunOutcome()
        outcome.later({"rets": lambda: next(answers)}, ())
        assert [outcome.rets, outcome.rets] == [{3: -22}] * 2
        assert next(answers) == {}, "asked once"
        with pytest.raises(AttributeError, match="no attribute 'subtracts'"):
            outcome.subtracts  # noqa: B018 - asking is what is tried

    def test_a_write_takes_no_query_back(self) -> None:
        """A query and a guest write of one gfn, one behind the other, are both answered, however many of them come."""
        made = run_of([kind(vm=0, gfn=Gfn(5)) for _ in range(40) for kind in (WriteTrackQuery, GuestWrite)])
        run = attrs.evolve(made, vm=Constant(0, 80), as_id=Constant(0, 80))
        for rule in (fold_run, fold_bulk):
            machine = machine_of(attrs.evolve(NEW, smm=False), 1)
            slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 20, userspace_addr=Hva(1 << 40))
            for event in (VmCreate(vm=0, ret=0), slot, NotifierRegister(vm=0)):
                machine.step(event, 0)
            fold_run(machine, run_of([WriteTrackAdd(vm=0, gfn=Gfn(5))]), 3)
            outcome = rule(machine, run, 4)
            assert outcome is not None
            assert outcome.rets == dict.fromkeys(range(0, 80, 2), 1)
            assert list(outcome.tracked_writes) == list(range(1, 80, 2))

    def test_queries_alone(self) -> None:
        """Of a run of queries, all of them in a slot, the results are the ones that are true, by row."""
        machine = machine_of(attrs.evolve(NEW, smm=False), 1)
        slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 20, userspace_addr=Hva(1 << 40))
        for event in (VmCreate(vm=0, ret=0), slot, NotifierRegister(vm=0)):
            machine.step(event, 0)
        fold_run(machine, run_of([WriteTrackAdd(vm=0, gfn=Gfn(5))]), 3)
        outcome = fold_bulk(machine, run_of([WriteTrackQuery(vm=0, gfn=Gfn(row % 8)) for row in range(40)]), 4)
        assert outcome is not None
        assert outcome.rets == dict.fromkeys(range(5, 40, 8), 1)

    def test_nothing(self) -> None:
        """Before anything is said of it a run did nothing."""
        assert RunOutcome() == RunOutcome(log=[], rets={}, tracked_writes=[], adds=0, removes=0)

    @pytest.mark.parametrize("others", [[], [ShadowPageAccount, ShadowPageUnaccount]])
    def test_below_zero_within_a_run(self, others: list[Any]) -> None:
        """Moves that fall below zero and come back within a run are warned of at their row, by either rule."""
        level_ones = (ShadowPageAccount, ShadowPageUnaccount, ShadowPageUnaccount, ShadowPageAccount)
        rows = [kind(vm=0, gfn=Gfn(600), level=2) for kind in others]
        rows += [kind(vm=0, gfn=Gfn(7), level=1) for kind in level_ones]
        rows += [WriteTrackQuery(vm=0, gfn=Gfn(row)) for row in range(40)]
        for rule in (fold_run, fold_bulk):
            machine = machine_of(attrs.evolve(NEW, smm=False), 2)
            slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 30, userspace_addr=Hva(1 << 40))
            for event in (VmCreate(vm=0, ret=0), slot, NotifierRegister(vm=0)):
                machine.step(event, 0)
            outcome = rule(machine, run_of(rows), 3)
            assert outcome is not None
            assert outcome.log == [(len(others) + 2, LPAGE)]

    @pytest.mark.parametrize("seed", range(40))
    def test_regions_below_zero(self, seed: int) -> None:
        """Of rows on some regions, of which several fall below zero and may come back, either rule says the first."""
        rng, found = random.Random(seed), []
        kinds = (ShadowPageAccount, ShadowPageUnaccount)
        rows = [rng.choice(kinds)(vm=0, gfn=Gfn(512 * rng.randrange(6) + 7), level=rng.choice((1, 1, 2))) for _ in range(48)]
        before = [
            ShadowPageAccount(vm=0, gfn=Gfn(512 * region + 7), level=rng.choice((1, 1, 2)))
            for region in range(6)
            for _ in range(4)
        ]
        for rule in (fold_run, fold_bulk):
            machine = machine_of(attrs.evolve(NEW, smm=False), 2)
            slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 30, userspace_addr=Hva(1 << 40))
            for event in (VmCreate(vm=0, ret=0), slot, NotifierRegister(vm=0)):
                machine.step(event, 0)
            fold_run(machine, run_of(before), 3)
            outcome = rule(machine, run_of(rows), 30)
            assert outcome is not None
            found.append((outcome, state_of(machine)))
        assert found[0] == found[1]

    def test_pages_that_come_before_they_go(self) -> None:
        """More shadow pages go than there were before the run, and none is missing: the count of pages is their sum."""
        machine = machine_of(NEW, 1)
        slot = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 20, userspace_addr=Hva(1 << 40))
        for event in (VmCreate(vm=0, ret=0), slot, NotifierRegister(vm=0)):
            machine.step(event, 0)
        made = [ShadowPageAccount(vm=0, gfn=Gfn(row), level=2) for row in range(40)]
        gone = [ShadowPageUnaccount(vm=0, gfn=Gfn(row), level=2) for row in range(17)]
        assert fold_bulk(machine, run_of([*made, *gone]), 3) is not None
        assert machine.vms[0].indirect_shadow_pages == 23

    @pytest.mark.parametrize(("patch", "first"), [(186, [11, 27, 43, 59]), (187, [10, 11, 26, 27])])
    def test_reads_of_both_address_spaces(self, patch: int, first: list[int]) -> None:
        """From 6.1.187 on a gfn that is tracked in the other address space alone is tracked, before it is not; in bulk too."""
        found, release = [], Release(6, 1, patch)
        for rule in (fold_run, fold_bulk):
            machine = Machine(
                next(policy for policy in POLICIES if policy.name == "eager-5.16"), attrs.evolve(NEW, release=release, smm=True)
            )
            slots = [
                MemslotSet(vm=0, slot=as_id << 16, guest_phys_addr=Gpa(0), memory_size=1 << 20, userspace_addr=Hva(1 << 40))
                for as_id in (0, 1)
            ]
            for event in (VmCreate(vm=0, ret=0), *slots):
                machine.step(event, 0)
            assert machine.vms[0].nas == 2
            fold_run(machine, run_of([ShadowPageAccount(vm=0, as_id=AsId(1), gfn=Gfn(5), level=2)]), 3)
            outcome = rule(
                machine, run_of([GuestWrite(vm=0, as_id=AsId(row % 2), gfn=Gfn(row // 2 % 8)) for row in range(64)]), 4
            )
            assert outcome is not None
            found.append(outcome.tracked_writes)
        assert found[0] == found[1]
        assert found[0][:4] == first


class TestLayout:
    """What a run takes over of the layout that the run before it had."""

    @pytest.mark.parametrize("gfns", [(5, 1 << 33), (1 << 33, 5)])
    def test_gfns_of_other_widths(self, gfns: tuple[int, int]) -> None:
        """Runs whose gfns differ in width, so that address spaces lie elsewhere on the line, each find the slots."""
        machine, slots = machine_of(NEW, 2), ((0, 0), (1, 1 << 33), (1 << 16, 0), (1 << 16 | 1, 1 << 33))
        machine.step(VmCreate(vm=0, ret=0), 0)
        for slot, base in slots:
            machine.step(
                MemslotSet(
                    vm=0, slot=slot, guest_phys_addr=Gpa(base << 12), memory_size=1 << 20, userspace_addr=Hva(slot + 1 << 20)
                ),
                1,
            )
        for gfn in gfns * 2:
            rows = [ShadowPageAccount(vm=0, as_id=AsId(row % 2), gfn=Gfn(gfn), level=2) for row in range(40)]
            outcome = fold_bulk(machine, run_of(rows), 5)
            assert outcome is not None
            assert outcome.log == []
        counts = {(slot.as_id, slot.base_gfn): dict(slot.arch.counts) for slot in machine.vms[0].slots() if slot.arch.counts}
        near = {base for _slot, base in slots}
        assert counts == {(as_id, base): {5 if not base else 0: 40} for as_id in (0, 1) for base in near}


class TestPairs:
    """Runs of pairs, far apart."""

    def test_far_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the gfns of a run lie far apart in one slot the limit is not looked up cell by cell; the result is the same."""
        found, asked = [], []
        slot = bulk_pairs.most_of_slot

        def most_of_slot(machine: Machine, rows: Rows) -> int | None:
            asked.append(slot(machine, rows))
            return asked[-1]

        monkeypatch.setattr(bulk, "most_of_slot", most_of_slot)
        kinds = (ShadowPageAccount, ShadowPageUnaccount)
        made = run_of([kind(vm=0, gfn=Gfn(gfn), level=2) for gfn in (0, 1 << 19) * 20 for kind in kinds])
        run = attrs.evolve(made, vm=Constant(0, 80), as_id=Constant(0, 80))
        for rule in (fold_run, fold_bulk):
            machine = machine_of(NEW, 1)
            whole = MemslotSet(vm=0, slot=0, guest_phys_addr=Gpa(0), memory_size=1 << 32, userspace_addr=Hva(1 << 40))
            for event in (VmCreate(vm=0, ret=0), whole, NotifierRegister(vm=0)):
                machine.step(event, 0)
            found.append((rule(machine, run, 3), state_of(machine)))
        assert found[0] == found[1]
        assert asked == [None]
