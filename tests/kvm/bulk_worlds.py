"""Draw small worlds and runs in which everything unusual happens, for holding the bulk rule against the scalar one."""

import random
from collections.abc import Sequence
from typing import Any

import attrs

from replay.events import MemslotSet, NotifierRegister, ShadowRootAlloc, VmCreate, VmDestroy
from replay.events.base import Event
from replay.kvm.machine import Machine
from replay.kvm.policies import POLICIES
from replay.kvm.profile import Profile
from replay.kvm.release import Release
from replay.runs import ACCOUNT, ADD, COLUMNS, GUEST_WRITE, QUERY, REMOVE, UNACCOUNT, Constant, Run
from replay.units import Gpa, Hva

KINDS = (ADD, REMOVE, QUERY, GUEST_WRITE, ACCOUNT, UNACCOUNT)
LENGTHS = (1, 2, 3, 17, 17, 64, 64, 100, 100, 300, 300, 300, 1000, 1000, 5000, 16384)
SHORT = (1, 17, 40, 64, 100, 150)
"""Lengths of runs where slots are to change often between them."""
BASES = (0, 8, 16, 500, 1 << 18, (1 << 18) + 40, 1 << 30)


def profile_of(rng: random.Random, seed: int) -> Profile:
    """Draw a profile: two address spaces or one, reads of both or not, tracking enabled from the start or not."""
    return Profile(
        release=rng.choice((Release(6, 1, 0), Release(6, 1, 187), Release(6, 12, 0), Release(6, 12, 117), Release(6, 18, 50))),
        config_external_write_tracking=seed % 2 > 0,
        tdp=seed % 5 > 0,
        smm=rng.random() < 0.7,
    )


class World:
    """A stream of items that is decided by its seed: structural events that mostly succeed, and runs."""

    def __init__(
        self, rng: random.Random, *, vms: int | None = None, paired: float = 0, lengths: Sequence[int] = LENGTHS
    ) -> None:
        self.rng, self.paired, self.lengths = rng, paired, lengths
        """paired: share of the runs in which most of what counts one more is taken back at once."""
        self.vms = vms or rng.choice((1, 1, 2, 4))
        self.rooted = rng.random() < 0.5
        self.aligned = rng.random() < 0.5
        """Whether host and guest addresses are aligned alike, so that large pages are possible."""
        self.strange = rng.random() < 0.5
        """Whether runs name VMs that are gone, gfns far away, and external users of the second address space."""

    def start(self) -> list[Event]:
        """Create VMs and their first slots, and mostly enable tracking."""
        events: list[Event] = [VmCreate(vm=vm, ret=0, type=self.rng.choice((0, 0, 0, 1))) for vm in range(self.vms)]
        events += [self.memslot() for _ in range(4 * self.vms)]
        events += [NotifierRegister(vm=vm, node=0) for vm in range(self.vms) if self.rng.random() < 0.7]
        return events

    def structural(self) -> Event:
        """Draw one structural event."""
        rng, vm = self.rng, self.rng.randrange(self.vms)
        if rng.random() < 0.8:
            return self.memslot()
        kinds: list[Event] = [NotifierRegister(vm=vm, node=rng.randrange(2))]
        kinds += [ShadowRootAlloc(vm=vm)] if self.rooted else []
        if self.strange and rng.random() < 0.03 and vm:
            return VmDestroy(vm=vm)
        return rng.choice(kinds)

    def memslot(self) -> MemslotSet:
        """Draw a memslot request; one in five deletes."""
        rng = self.rng
        slot, as_id = rng.randrange(4), int(rng.random() < 0.3)
        base = rng.choice(BASES)
        npages = 0 if rng.random() < 0.2 else rng.choice((1, 3, 8, 20, 600, 1 << 19))
        return MemslotSet(
            vm=rng.randrange(self.vms),
            slot=as_id << 16 | slot,
            flags=rng.choice((0, 0, 1)),
            guest_phys_addr=Gpa(base << 12),
            memory_size=npages << 12,
            userspace_addr=Hva((slot + 1 << 43) + ((base if self.aligned else 0) << 12)),
        )

    def run(self, length: int | None = None) -> Run:
        """Draw a run: one counter or many, drifting up, down or nowhere, columns constant or not."""
        rng = self.rng
        length = length or rng.choice(self.lengths)
        kinds = rng.choices(KINDS, weights=[rng.choice((0, 1, 1, 4, 40)) + 0.01 for _ in KINDS], k=length)
        if rng.random() < 0.15:
            kinds = [rng.choice(KINDS)] * length
        bases = rng.sample(BASES, rng.randrange(1, 4))
        spread = rng.choice((1, 2, 30, 700))
        gfns = [rng.choice(bases) + rng.randrange(spread) for _ in range(length)]
        if self.strange and rng.random() < 0.1:
            gfns[rng.randrange(length)] = rng.choice(((1 << 40) - 1, 1 << 41, (1 << 64) - 1))
        columns: dict[str, Any] = {
            "kind": kinds,
            "vm": self._few(range(self.vms), length),
            "as_id": self._spaces(kinds),
            "gfn": gfns,
            "level": self._few(rng.choice(((2,), (2,), (2, 2, 3, 1), (2, 1, 1))), length),
            "nested": self._few((0, 1), length),
        }
        if self.paired and rng.random() < self.paired:
            self._pair(columns, length)
        columns |= {name: Constant(None, length) for name in ("ret", "task", "time_ns", "file", "line")}
        columns |= {"inferred": Constant(0, length)}
        assert set(columns) == set(COLUMNS)
        return Run(tasks=(), **{name: _packed(column, rng) for name, column in columns.items()})

    def _pair(self, columns: dict[str, Any], length: int) -> None:
        """Let most rows that count one more be taken back by the next one, as a guest's page tables under shadow paging are."""
        share = self.rng.choice((0.5, 0.95, 1))
        firsts = [row for row in range(0, length - 1, 2) if self.rng.random() < share]
        for name in ("vm", "as_id", "gfn", "level"):
            column = columns[name]
            for row in firsts if not isinstance(column, Constant) and self.rng.random() < 0.9 else ():
                column[row + 1] = column[row]
        for row in firsts:
            columns["kind"][row] &= ~1
            columns["kind"][row + 1] = columns["kind"][row] | 1

    def _few(self, numbers: Any, length: int) -> Any:
        if self.rng.random() < 0.5:
            return Constant(self.rng.choice(numbers), length)
        return self.rng.choices(numbers, k=length)

    def _spaces(self, kinds: list[int]) -> Any:
        rng = self.rng
        if rng.random() < 0.5:
            return Constant(0, len(kinds))
        allowed = self.strange and rng.random() < 0.3
        return [int(rng.random() < 0.4) if kind > REMOVE or allowed else 0 for kind in kinds]


def _packed(column: Any, rng: random.Random) -> Any:
    """Return a column as a reader, an importer or a test would hand it over."""
    from array import array

    if isinstance(column, Constant):
        return column
    if column.count(column[0]) == len(column) and rng.random() < 0.5:
        return Constant(column[0], len(column))
    if rng.random() < 0.3:
        return rng.choice((list, tuple))(column)
    code = next(code for code, most in zip("BHIQ", (8, 16, 32, 64), strict=True) if not max(column) >> most)
    return memoryview(array(code, column))


def machine_of(profile: Profile, seed: int) -> Machine:
    """Make a machine under one of the policies, with the option where it does not link without."""
    policy = POLICIES[seed % len(POLICIES)]
    config = profile.config_external_write_tracking or policy.needs_config
    return Machine(policy, attrs.evolve(profile, config_external_write_tracking=config))
