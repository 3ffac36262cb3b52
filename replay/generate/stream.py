"""Let the VMs of a profile act side by side, and give what they do as one recording of exactly so many events.

Time only goes forward: VMs take turns with their calls, and their hot events are woven together by time into runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from replay.errors import UsageError
from replay.events import Event, VmCreate
from replay.generate.dice import Dice
from replay.generate.lives import GAPS, KEEP, TOUCH, Act, Hot, Life, Wait
from replay.generate.pages import CELL_COLUMNS, has_result
from replay.generate.profiles import Profile
from replay.generate.vmm import Vmm
from replay.header import Header, Tool, Trailer
from replay.runs import ACCOUNT, COLUMNS, RUN_EVENTS_MAX, Constant, Item, Run
from replay.version import VERSION

EVENTS_MOST: Final = 1 << 40
SEED_MOST: Final = (1 << 64) - 1
VMS_MOST: Final = 1024
VM_NUMBERS: Final = 1 << 16
BURST: Final = 8
"""Most calls that a VM makes before another one has its turn."""
START_NS: Final = 1_700_000_000_000_000_000
ADDRESS_BITS: Final = (32, 47)
ADDRESS_BITS_DEFAULT: Final = 39


@attrs.frozen(kw_only=True)
class Order:
    """What is to be generated."""

    profile: Profile
    events: int
    seed: int
    vms: int = 0
    address_bits: int = ADDRESS_BITS_DEFAULT

    def checked(self) -> "Order":
        """Return it with the profile's number of VMs where none is given. Raises UsageError for numbers out of range."""
        ranges = {
            "events": (self.events, 1, EVENTS_MOST),
            "seed": (self.seed, 0, SEED_MOST),
            "vms": (self.vms or self.profile.vms, 1, VMS_MOST),
            "address bits": (self.address_bits, *ADDRESS_BITS),
        }
        for name, (number, least, most) in ranges.items():
            if not least <= number <= most:
                raise UsageError(f"{number} {name}", expected=f"{least} to {most}")
        return attrs.evolve(self, vms=self.vms or self.profile.vms)

    def command(self) -> str:
        """Return the command line that gives the same events again."""
        words = f"generate {self.profile.name} --events {self.events} --seed {self.seed} --vms {self.vms}"
        return words if self.address_bits == ADDRESS_BITS_DEFAULT else f"{words} --address-bits {self.address_bits}"


class _Guest:
    """One VM that is alive: what it is about to do, and its clock's habits."""

    def __init__(self, order: Order, number: int, least_events: int) -> None:
        dice = Dice(order.seed, number + 1)
        life: Life = order.profile.lives[number % len(order.profile.lives)]
        self.vmm = Vmm(number, dice)
        self.vmm.least_events, self.vmm.address_bits = least_events, order.address_bits
        self.acts: Iterator[Act] = life(self.vmm)
        self.gaps = GAPS[life].quantiles
        self.hot: Hot | None = None
        self.over = False

    def calls(self) -> Iterator[tuple[int, Event]]:
        """Yield (nanoseconds before it, call) until a stretch of hot events is due, the burst is over or the VM is."""
        waited_ns = 0
        for _ in range(BURST):
            act = None if self.hot else next(self.acts, None)
            while isinstance(act, Wait):
                waited_ns += act.time_ns
                act = next(self.acts, None)
            if isinstance(act, Event):
                self.vmm.events += 1
                yield waited_ns + self.vmm.dice.one_of(self.gaps), act
                waited_ns = 0
                continue
            self.over = act is None and self.hot is None
            self.hot = act or self.hot
            return

    def columns(self, most: int) -> dict[str, Any]:
        """Return the next hot events, at most so many of a long stretch."""
        assert self.hot is not None
        hot, self.hot = self.hot, None
        if hot.what == TOUCH:
            taken = min(hot.count, most)
            self.hot = Hot(hot.pages, TOUCH, hot.count - taken) if taken < hot.count else None
            columns = hot.pages.touch(taken)
        else:
            columns = hot.pages.keep() if hot.what == KEEP else hot.pages.drop()
        columns["nested"] = hot.pages.habit.nested
        self.vmm.events += len(columns["kind"])
        return columns


class GeneratedStream:
    """A recording that is made up while it is read: any number of times the same."""

    def __init__(self, order: Order) -> None:
        self.order = order.checked()
        profile = self.order.profile
        self.header = Header(
            title=f"synthetic: {profile.title}",
            machine=profile.machine,
            clock="realtime",
            tools=(Tool(name="kvm-replay generate", version=VERSION, command=self.order.command()),),
            provenance=f"made up by kvm-replay {VERSION}, profile {profile.name}, seed {self.order.seed}: no kernel ran",
        )
        self.vms = 0
        self.hot_events = 0

    def trailer(self) -> Trailer:
        """Return a trailer without losses."""
        return Trailer()

    def warnings(self) -> Sequence[str]:
        """Return no warnings."""
        return ()

    def items(self) -> Iterator[Item]:
        """Yield exactly as many events as were ordered."""
        self.vms = self.hot_events = 0
        left = self.order.events
        for item in self._endless():
            if isinstance(item, Event):
                left -= 1
                self.vms += isinstance(item, VmCreate)
                yield item
            else:
                run = item if len(item) <= left else _first_rows(item, left)
                left -= len(run)
                self.hot_events += len(run)
                yield run
            if not left:
                return

    def _endless(self) -> Iterator[Item]:
        guests: list[_Guest] = []
        now_ns, born = START_NS, 0
        least_events = self.order.events // (VM_NUMBERS // 2)  # so that the numbers of VMs do not run out
        while True:
            while len(guests) < self.order.vms and born < VM_NUMBERS:
                guests.append(_Guest(self.order, born, least_events))
                born += 1
            for guest in guests:
                for wait_ns, call in guest.calls():
                    now_ns += wait_ns
                    yield attrs.evolve(call, time_ns=now_ns)
            for run in _woven([guest for guest in guests if guest.hot], now_ns):
                now_ns = run.time_ns[-1] or now_ns
                yield run
            guests = [guest for guest in guests if not guest.over]


def _woven(guests: Sequence[_Guest], now_ns: int) -> Iterator[Run]:
    """Yield the next hot events of some VMs, by time."""
    if not guests:
        return
    import numpy as np

    parts = [guest.columns(max(1, RUN_EVENTS_MAX // len(guests))) for guest in guests]
    sizes = [len(part["kind"]) for part in parts]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in CELL_COLUMNS}
    columns["nested"] = np.repeat(np.array([part["nested"] for part in parts], np.uint8), sizes)
    columns["task"] = np.repeat(np.arange(len(parts)), sizes)
    columns["time_ns"] = columns["time_ns"] + now_ns
    if len(parts) > 1:
        order = np.argsort(columns["time_ns"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    tasks = tuple(guest.vmm.vcpu for guest in guests)
    for first in range(0, sum(sizes), RUN_EVENTS_MAX):
        piece = {name: column[first : first + RUN_EVENTS_MAX] for name, column in columns.items()}
        yield _run(piece, tasks)


def _run(columns: dict[str, Any], tasks: tuple[Any, ...]) -> Run:
    """Return columns as a run, with columns of equal numbers as constants."""
    import numpy as np

    kind, length = columns["kind"].astype(np.uint8), len(columns["kind"])
    shadow = bool((kind >= ACCOUNT).all())
    results: Any = Constant(None, length)
    if not shadow:
        results = [0 if has else None for has in has_result(kind).tolist()]
    return Run(
        kind=kind.data,
        vm=_narrow(columns["vm"], np.uint16),
        as_id=Constant(0, length),
        gfn=_narrow(columns["gfn"], np.uint64),
        level=_narrow(columns["level"], np.uint8),
        nested=_narrow(columns["nested"], np.uint8),
        ret=results,
        task=_narrow(columns["task"], np.uint16),
        tasks=tasks,
        time_ns=columns["time_ns"].tolist(),
        file=Constant(None, length),
        line=Constant(None, length),
        inferred=Constant(0, length),
    )


def _narrow(column: Any, kind: Any) -> Any:
    """Return a column as bytes in view, or as a constant."""
    first = int(column[0])
    return Constant(first, len(column)) if bool((column == first).all()) else column.astype(kind).data


def _first_rows(run: Run, count: int) -> Run:
    """Return the first rows of a run."""
    return attrs.evolve(run, **{name: getattr(run, name)[:count] for name in COLUMNS})


def generated(
    profile: Profile, events: int, seed: int, *, vms: int = 0, address_bits: int = ADDRESS_BITS_DEFAULT
) -> GeneratedStream:
    """Return a synthetic recording of exactly so many events. Raises UsageError for numbers out of range."""
    return GeneratedStream(Order(profile=profile, events=events, seed=seed, vms=vms, address_bits=address_bits))
