"""Name the classes of divergence, in order, and the shape of a finding.

The classes are a ladder: a verdict says the strongest class found, and with that what is ruled out. A finding names the event,
what each lane did, where the states first parted (root cause), where it can be seen, and whether and where the lanes agree
again.
"""

from typing import Final

import attrs

from replay.events.base import ByFields, Task, enum, flag, sint, text, uint, value, values

BYTES_ONLY: Final = "bytes-only"
ENOMEM_MOVED: Final = "enomem-moved"
ENOMEM_NEW: Final = "enomem-new"
ENOMEM_GONE: Final = "enomem-gone"
RESULT_DIFFERS: Final = "result-differs"
STATE_DIFFERS: Final = "state-differs"
LIFETIME_DIFFERS: Final = "lifetime-differs"
RACE_ONLY: Final = "race-only"
INVARIANT_BROKEN: Final = "invariant-broken"

MEANINGS: Final[dict[str, str]] = {
    BYTES_ONLY: "kernel memory differs, nothing that userspace or a guest is told",
    ENOMEM_MOVED: "the same shortage of memory fails another call",
    ENOMEM_NEW: "a call fails with -ENOMEM that does not fail in the reference lane",
    ENOMEM_GONE: "a call that fails with -ENOMEM in the reference lane does not fail",
    RESULT_DIFFERS: "a call returns another result",
    STATE_DIFFERS: "counters, flags, notifiers or slots differ",
    LIFETIME_DIFFERS: "memory or a VM lives longer than in the reference lane",
    RACE_ONLY: "some schedules of the recorded calls are dangerous in one lane only",
    INVARIANT_BROKEN: "a state that the kernel relies on never to see",
}
"""Every class, weakest first, with what it means."""
CLASSES: Final = tuple(MEANINGS)


def strength(name: str) -> int:
    """Return the place of a class on the ladder, 0 for the weakest; enomem-new and enomem-gone are equally strong.

    >>> strength("bytes-only") < strength("enomem-new") == strength("enomem-gone")
    True
    """
    return CLASSES.index(ENOMEM_NEW if name == ENOMEM_GONE else name)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Side(ByFields):
    """What one lane did. event, kind, site and task say where, when the lanes do the same thing in different places."""

    lane: str = text("name of the lane", length_max=128)
    ret: int | None = sint("result of the call in this lane", optional=True)
    did: str = text("what happened, in words", length_max=1024)
    event: int | None = uint("event at which this lane does it; null: at none", optional=True)
    kind: str = text("kind of that event", default="", length_max=64)
    site: str = text("kernel function that allocates, as /proc/vmallocinfo names it", default="", length_max=64)
    task: Task | None = value("task in which it allocates, and whose memory cgroup is charged", Task)
    took_ns: int | None = uint("recorded length of the call, in the lane of the recorded kernel", unit="ns", optional=True)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Aspect(ByFields):
    """One more row of the divergence catalogue that a finding shows beside its own."""

    catalogue: str = text("row of the divergence catalogue", length_max=16)
    text: str = text("what it is here", length_max=1024)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Finding(ByFields):
    """One divergence between the reference lane and another one."""

    event: int = uint("number of the event where it begins")
    kind: str = text("kind of that event", length_max=64)
    place: str = text("place of that event in its trace, 'file:line'", default="", length_max=300)
    divergence: str = enum("class of the divergence", *CLASSES)
    catalogue: str = text("row of the divergence catalogue that it is an instance of, empty for none", default="", length_max=16)
    title: str = text("what it is, in a few words", length_max=256)
    vm: int | None = uint("number of the VM", bits=32, optional=True)
    as_id: int | None = uint("address space of the memslot", bits=8, optional=True)
    slot: int | None = uint("id of the memslot", bits=16, optional=True)
    base_gfn: int | None = uint("first gfn of the memslot", unit="gfn", optional=True)
    npages: int | None = uint("size of the memslot", unit="pages", optional=True)
    gfn: int | None = uint("gfn that a tracking event is about", unit="gfn", optional=True)
    sides: tuple[Side, ...] = values("what each of the two lanes did", Side, length_max=2)
    array: str = text("kind of array that only one lane has, empty for other findings", default="", length_max=32)
    nominal_bytes: int = sint("bytes that the other lane has more (negative: less), as the code asks for them", default=0)
    charged_bytes: int = sint("the same as charged to the memory cgroup: whole pages", default=0)
    real_bytes: int = sint("the same with the page-pointer arrays", default=0)
    root_cause_event: int = uint("event where the states of the lanes first part")
    root_cause: str = text("why they part there", length_max=1024)
    visible_event: int | None = uint("event where userspace or the guest can see it; null: never", optional=True)
    visible: str = text("where it can be seen", length_max=1024)
    converged_event: int | None = uint("event from which the lanes agree again; null: not in this recording", optional=True)
    converged: str = text("why they agree again, or not", default="", length_max=1024)
    behind_horizon: bool = flag("a recorded result already differs before it: userspace would have acted otherwise")
    aspects: tuple[Aspect, ...] = values("further rows of the catalogue that it shows", Aspect, length_max=16)
    explanation: str = text("what it means", length_max=2048)
    source: str = text("kernel source of the rule", length_max=1024)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ClassCount(ByFields):
    """How often one class was found."""

    divergence: str = enum("class of the divergence", *CLASSES)
    count: int = uint("findings of this class before any horizon")
    behind_horizon: int = uint("findings of this class behind a horizon", default=0)
    first_event: int = uint("event of the first one; of those before any horizon if there are")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Uncertainty(ByFields):
    """Something that keeps the answer from being certain."""

    what: str = text("what is missing or not known", length_max=1024)
    count: int = uint("how often")
    first_event: int | None = uint("first event that it concerns", optional=True)
    place: str = text("where the first one lies in the text that was imported, when no event tells", default="", length_max=300)
    vm: int | None = uint("VM that it concerns; null: any", bits=32, optional=True)
    advice: str = text("what to do about it", default="", length_max=1024)
    matters: bool = flag("it can change the answer: the verdict is 'cannot tell'", default=True)
    affects: str = enum("what can not be told because of it", "everything", "shadow_pages", default="everything")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Agreement(ByFields):
    """A place where the lanes might be expected to differ, and do not."""

    catalogue: str = text("row of the divergence catalogue", length_max=16)
    count: int = uint("how often")
    first_event: int | None = uint("first event that shows it; null: the whole recording", optional=True)
    title: str = text("what it is about, in a few words", length_max=256)
    source: str = text("kernel source of the rule", length_max=1024)
    text: str = text("what the lanes do alike, and why", length_max=1024)
