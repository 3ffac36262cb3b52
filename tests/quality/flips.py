"""Change one rule of the model in memory, and ask recordings whether they notice.

A flip replaces a row, a field, a number or a function of replay.kvm and is undone afterwards; no source is rewritten. A witness
is a recording with what it says: a kernel's own results and state, or what `compare` reports of it.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from catalogue_page import Entry, entries, report_of, text_of
from kernel_recordings import KERNELS, kernel_of, paths

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.errors import KvmReplayError
from replay.kvm import at_once, fold, idhash, machine, memory_region, near, requests, set_memslot, vmalloc
from replay.kvm.memslot import Memslot
from replay.kvm.vm import Vm
from replay.recording import open_recording
from replay.stream import MemoryStream

FOLDERS = ("6.12-npt1", "6.1-npt1")
"""Kernels and configurations that are asked in full; of the others some that differ."""
OTHERS = (
    "6.12eager-npt1/03-lifecycle",
    "6.12eager-npt1/04-register",
    "6.12eager-npt1/07-move",
    "6.12eager-npt1/08-gfn",
    "6.12eager-npt1/16-fail-create",
    "6.12eager-npt1/20-guest-long",
    "6.1-npt0/16-fail-create",
    "6.1-npt0/20-guest-long",
    "6.1-npt0/22-nested",
    "6.12-npt0/03-lifecycle",
    "6.12-npt0/16-fail-create",
    "6.12-npt0/20-guest-long",
    "6.12-npt0/22-nested",
    "6.12-npt1-notdpmmu/02-sizes",
    "6.12-npt1-notdpmmu/16-fail-create",
    "6.12-npt0/06-errors",
    "6.12-npt0/33-arrays",
    "6.1cloud-npt1/12-headline",
    "6.1cloud-npt1/34-untracked",
    "6.18pvm-live/32-guest-memfd",
    "real/fd-errors",
    "real/gvisor-echo",
)
RANDOM = (
    "6.12-npt1/random-slots-50005",
    "6.12-npt1/random-guest-40003",
    *(f"6.1-npt0/random-slots-{seed}" for seed in (50000, 50001, 50005)),
)
OVERFLOW = "11-gfn-overflow"
"""65,536 adds of one gfn: asked only by the flips that need it."""


class Hand:
    """Changes what a flip changes, and puts all of it back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, owner: Any, name: str, value: object) -> None:
        """Give a module's or class's name another value."""
        old = vars(owner)[name]
        self._undo.append(lambda: setattr(owner, name, old))
        setattr(owner, name, value)

    def everywhere(self, old: object, new: object) -> None:
        """Put `new` in the place of `old` in each module of the model and of the analyses that knows it by a name."""
        places = [(module, name) for module in _modules() for name, value in vars(module).items() if value is old]
        assert places
        for module, name in places:
            self.put(module, name, new)

    def number(self, name: str, value: object) -> None:
        """Give a constant another value in each module of the model that holds it."""
        owners = [module for module in _modules() if name in vars(module) and module.__name__.startswith("replay.kvm")]
        assert owners
        for owner in owners:
            assert vars(owner)[name] != value
            self.put(owner, name, value)

    def field(self, row: Any, name: str, value: object) -> None:
        """Give a field of a frozen row another value: the row stays the same object, which lanes are told apart by."""
        old = getattr(row, name)
        self._undo.append(lambda: object.__setattr__(row, name, old))
        object.__setattr__(row, name, value)

    def item(self, table: Any, key: object, value: object) -> None:
        """Give an entry of a dictionary another value."""
        old = table[key]
        self._undo.append(lambda: table.__setitem__(key, old))
        table[key] = value

    def back(self) -> None:
        """Undo everything, the last change first."""
        while self._undo:
            self._undo.pop()()


def _modules() -> list[Any]:
    rooms = ("replay.kvm.", "replay.analyses.", "replay.engine.")
    return [sys.modules[name] for name in sorted(sys.modules) if name.startswith(rooms)]


@attrs.frozen
class Flip:
    """One rule, changed. also: names of further recordings that are asked. policy: ask only recordings with a lane of it."""

    name: str
    change: Callable[[Hand], None]
    also: tuple[str, ...] = ()
    policy: str = ""


@contextmanager
def flipped(flip: Flip) -> Iterator[None]:
    """Live under a flip for a while; what the model remembers of answers is forgotten before and after."""
    hand = Hand()
    hand.put(fold, "BULK_ROWS_LEAST", 1 << 40)  # one rule for runs, whatever other tests made of numpy
    hand.put(near.Near, "__missing__", _all_unusual)  # and no short cuts in it
    hand.put(at_once, "set_at_once", lambda _request: None)  # nor where nothing can fail
    hand.put(machine, "free_memslot", _free_step_by_step)
    try:
        flip.change(hand)
        _forget()
        yield
    finally:
        hand.back()
        _forget()


def _all_unusual(of: near.Near, key: int) -> near.Known:
    """Know nothing of an address space: the functions that model the kernel's take each row."""
    vm = of._machine.vms.get(key >> 8)
    return ([], [None if vm is None else near.unusual(vm)])


def _free_step_by_step(vm: Vm, slot: Memslot) -> None:
    """Free a slot as it is freed under the flip."""
    set_memslot.kvm_free_memslot(vm, slot)


def _forget() -> None:
    memory_region._checks.cache_clear()
    memory_region._later_checks.cache_clear()
    idhash._BUCKETS.clear()
    requests.REQUESTS.clear()
    vmalloc._CACHE.clear()


@attrs.frozen
class Witness:
    """A recording that is asked. notices: whether it contradicts the model as it is now. policies: those of its lanes."""

    name: str
    notices: Callable[[], bool]
    policies: tuple[str, ...]

    def asked(self) -> bool:
        """Tell whether the recording notices; that the model breaks down over it is noticed too."""
        try:
            return self.notices()
        except (AssertionError, LookupError, KvmReplayError):
            return True


def _stream(path: str) -> Callable[[], MemoryStream]:
    with open_recording(path) as stream:
        items = list(stream.items())
        return functools.partial(MemoryStream, stream.header, items, stream.trailer())


def _contradicts(stream: Callable[[], MemoryStream], policy: str | None) -> bool:
    return check(stream(), policy=policy).mismatch_count > 0


def _reports_otherwise(stream: Callable[[], MemoryStream], entry: Entry, report: str) -> bool:
    lanes = make_lanes(entry.lanes, stream().header.machine)
    return _contradicts(stream, None) or text_of(compare(stream(), lanes)) != report


@functools.cache
def kernel_witness(name: str) -> Witness:
    """Return a recording of recordings/kernel, or a trace of recordings/real, as a witness: its results."""
    if name.startswith("real/"):
        return Witness(name, functools.partial(_contradicts, _stream(str(KERNELS.parent / f"{name}.kvmr")), None), ())
    (path,) = [path for path in paths() if f"{path.parent.name}/{path.stem}" == name]
    stream, policy = _stream(str(path)), kernel_of(path.parent.name).policy
    (lane,) = make_lanes([policy or str(stream().header.machine.kernel_release)], stream().header.machine)
    return Witness(name, functools.partial(_contradicts, stream, policy), (lane.policy.name,))


@functools.cache
def catalogue_witness(entry: Entry) -> Witness:
    """Return a recording of recordings/catalogue as a witness: its results, and its report."""
    stream = _stream(str(entry.path))
    machine = stream().header.machine
    lanes = make_lanes([*entry.lanes, str(machine.kernel_release)], machine)
    policies = tuple(sorted({lane.policy.name for lane in lanes}))
    return Witness(entry.name, functools.partial(_reports_otherwise, stream, entry, text_of(report_of(entry))), policies)


def witnesses() -> list[Witness]:
    """Return all that are asked, in order: scripts on real kernels, then the catalogue, then random operations."""
    scripts = [
        f"{folder}/{path.stem}"
        for folder in FOLDERS
        for path in paths()
        if path.parent.name == folder and not path.stem.startswith(("random", OVERFLOW))
    ]
    random = [kernel_witness(name) for name in RANDOM]
    return [*map(kernel_witness, (*scripts, *OTHERS)), *map(catalogue_witness, entries()), *random]


@attrs.define
class Score:
    """What came of all flips: who noticed each, and which nobody did."""

    noticed: dict[str, str] = attrs.field(factory=dict)
    survivors: list[str] = attrs.field(factory=list)


def score(flips: Iterable[Flip]) -> Score:
    """Apply each flip and ask recordings until one notices, beginning with those that noticed others."""
    found, asked = Score(), witnesses()
    for flip in flips:
        more = [kernel_witness(name) for name in flip.also]
        chosen = [one for one in asked if not flip.policy or flip.policy in one.policies]
        with flipped(flip):
            witness = next((witness for witness in (*more, *chosen) if witness.asked()), None)
        if witness is None:
            found.survivors.append(flip.name)
            continue
        found.noticed[flip.name] = witness.name
        if witness in asked:
            asked.remove(witness)
            asked.insert(0, witness)
    return found
