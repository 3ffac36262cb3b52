"""Make recordings for tests: random ones by Hypothesis, from the declared fields of each class, and a small fixed one."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs
from hypothesis import strategies as st

from replay.events import (
    Event,
    FieldSpec,
    GuestWrite,
    HotEvent,
    Mark,
    MemslotSet,
    NotifierRegister,
    Observe,
    ObservedArea,
    ObservedCount,
    ObservedSlot,
    ObservedVm,
    ShadowPageAccount,
    Source,
    Task,
    VmCreate,
    VmDestroy,
    WriteTrackAdd,
    WriteTrackRemove,
    all_kinds,
    specs,
)
from replay.header import Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.recording import JsonlReader, JsonlWriter, KvmrReader, Writer
from replay.runs import Item, events_of, items_of
from replay.stream import Stream
from replay.units import Gfn, Hva

LIST_MAX = 3  # longer lists teach nothing new; limits have tests of their own


def _uints(spec: FieldSpec) -> st.SearchStrategy[int]:
    most = spec.max
    return st.integers(0, most) | st.sampled_from([0, 1, min(255, most), min(256, most), most])


def _plain(spec: FieldSpec) -> st.SearchStrategy[Any]:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=min(spec.length_max, 8))
    signed = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, -1, -22, -(1 << 63), (1 << 63) - 1])
    strategies: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "uint": lambda: _uints(spec),
        "int": lambda: signed,
        "bool": st.booleans,
        "str": lambda: texts,
        "enum": lambda: st.sampled_from(spec.choices),
        "uints": lambda: st.lists(_uints(spec), max_size=spec.length_max).map(tuple),
    }
    return strategies[spec.shape]()


def _field(spec: FieldSpec) -> st.SearchStrategy[Any]:
    if spec.of is None:
        strategy = _plain(spec)
    elif spec.shape == "value":
        strategy = values(spec.of)
    else:
        strategy = st.lists(values(spec.of), max_size=LIST_MAX).map(tuple)
    return strategy | st.none() if spec.optional else strategy


def values(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Draw any legal value of an event, header or nested class."""
    defaults = {a.name: a.default for a in attrs.fields(cls)}
    needed = {name: _field(spec) for name, spec in specs(cls).items() if defaults[name] is attrs.NOTHING}
    other = {name: _field(spec) for name, spec in specs(cls).items() if defaults[name] is not attrs.NOTHING}
    return st.fixed_dictionaries(needed, optional=other).map(lambda fields: cls(**fields))


STRUCTURAL = st.one_of([values(cls) for cls in all_kinds() if not cls.HOT])
HOT = st.one_of([values(cls) for cls in all_kinds() if cls.HOT])
EVENTS = st.lists(STRUCTURAL | HOT | HOT | HOT, max_size=20)
HEADERS = values(Header).map(lambda header: attrs.evolve(header, schema_major=1, schema_minor=0))
TRAILERS = values(Trailer)

HEADER = Header(
    title="a VM with a notifier",
    machine=Machine(kernel_release="6.12.0", config_external_write_tracking=True, tdp=True),
    clock="monotonic",
    tools=(Tool(name="strace", version="6.1"),),
    sources=(SourceFile(name="boot.strace", format="strace"),),
)
TRAILER = Trailer(counters=(Counter(kind="ioctl 0xae9a", count=3, first="boot.strace:12"),))


def add(vm: int, gfn: int, **fields: Any) -> WriteTrackAdd:
    """Return a write_track.add of a plain number."""
    return WriteTrackAdd(vm=vm, gfn=Gfn(gfn), **fields)


def small_events() -> list[Event]:
    """Return events of many kinds, with rows before, between and after runs."""
    hot: list[HotEvent] = [
        add(vm=0, gfn=0x1000 + i % 5, time_ns=1000 + 7 * i, source=Source(0, 4 + i), task=Task(7, 7 + i % 2)) for i in range(24)
    ]
    state = ObservedVm(
        nr_memslot_pages=16,
        slots=(ObservedSlot(as_id=0, id=0, base_gfn=0, npages=16, flags=0, rmap=(1, 0, 0), counts=(ObservedCount(3, 1),)),),
    )
    return [
        VmCreate(vm=0, ret=4, task=Task(7, 7), time_ns=900, source=Source(0, 1)),
        MemslotSet(
            vm=0, slot=1, memory_size=1 << 20, userspace_addr=Hva(0x7F << 40), ret=0, task=Task(7, 7), source=Source(0, 2)
        ),
        NotifierRegister(vm=0, inferred=True),
        *hot,
        GuestWrite(vm=0, gfn=Gfn(0x1001), time_ns=2000, ret=None),
        WriteTrackRemove(vm=0, gfn=Gfn(0x1001), ret=-22),
        Mark(text="half way, \u00fcber"),
        Observe(vm=0, state=state, areas=(ObservedArea("kvm_page_track_create_memslot", 1, 2, 0, 0),), label="after"),
        ShadowPageAccount(vm=0, gfn=Gfn(5), level=2, nested=True),
        VmDestroy(vm=0, reason="exit"),
    ]


def kvmr(events: Iterable[Event], header: Header = HEADER, trailer: Trailer = TRAILER) -> bytes:
    """Return the bytes of a .kvmr with these events."""
    return kvmr_of_items(items_of(events), header, trailer)


def kvmr_of_items(items: Iterable[Item], header: Header = HEADER, trailer: Trailer = TRAILER) -> bytes:
    """Return the bytes of a .kvmr with these items, handed over as they are."""
    out = io.BytesIO()
    with Writer(out, header) as writer:
        for item in items:
            writer.write(item)
        writer.finish(trailer)
    return out.getvalue()


def jsonl(events: Iterable[Event], header: Header = HEADER, trailer: Trailer = TRAILER, *, hand_written: bool = False) -> bytes:
    """Return the bytes of a .jsonl with these events."""
    out = io.BytesIO()
    with JsonlWriter(out, header, hand_written=hand_written) as writer:
        for item in items_of(events):
            writer.write(item)
        writer.finish(trailer)
    return out.getvalue()


def copied(stream: Stream, writer: Writer | JsonlWriter) -> None:
    """Write a whole stream."""
    with writer:
        for item in stream.items():
            writer.write(item)
        writer.finish(stream.trailer())


def read(data: bytes) -> tuple[list[Event], KvmrReader]:
    """Return the events of a .kvmr, and its reader."""
    reader = KvmrReader(io.BytesIO(data))
    return list(events_of(reader.items())), reader


def read_jsonl(data: bytes) -> tuple[list[Event], JsonlReader]:
    """Return the events of a .jsonl, and its reader."""
    reader = JsonlReader(io.BytesIO(data))
    return list(events_of(reader.items())), reader


def names(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return sorted(path.name for path in directory.iterdir())


def write_and_stop(cls: type[Writer | JsonlWriter], target: Any, events: Iterable[Item], stop: Exception | None = None) -> None:
    """Write a recording; raise `stop` before its end if there is one."""
    with cls(target, HEADER) as writer:
        for event in events:
            writer.write(event)
        if stop:
            raise stop
        writer.finish(TRAILER)
