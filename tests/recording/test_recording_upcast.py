"""Recordings of other versions: older ones are brought up by a table, newer minors are read, newer majors refused."""

import io
from typing import Any

import pytest
from kvmrwriter import Block, Kvmr, events_block, header, pack, recording, rows

from replay.errors import EventError, HeaderError, VersionError
from replay.events import MemslotSet, Source, Task, VmCreate, VmDestroy
from replay.header import Header, Machine, Tool
from replay.recording import JsonlReader, KvmrReader
from replay.recording.named import Named
from replay.recording.upcast import CURRENT, UPCASTS, Upcast
from replay.runs import events_of

COMMON = ("ret", "foreign_mm", "enter_time_ns", "task", "time_ns", "source", "inferred")


def size_to_memory_size(record: Named) -> Named:
    """Rename the field of a pretended version 0.9, and what it called events."""
    if record["event"] == "memslot.set" and "size" in record:
        record = {"memory_size" if name == "size" else name: value for name, value in record.items()}
    if record["event"] == "vm.gone":
        record = {**record, "event": "vm.destroy"}
    return record


def host_to_machine(record: Named) -> Named:
    """Move what a pretended version 0.9 kept as texts into the machine."""
    kernel = record.pop("kernel", None)
    return {**record, "machine": {"kernel_release": kernel}} if kernel else record


TABLE = {
    (0, 8): Upcast(
        to=(0, 9),
        layouts={3: ("vm.bye", ("vm",))},
        event=lambda record: {**record, "event": record["event"].replace("bye", "gone")},
    ),
    (0, 9): Upcast(
        to=(1, 0),
        layouts={16: ("memslot.set", ("vm", "slot", "guest_phys_addr", "size", *COMMON)), 3: ("vm.gone", ("vm", "task"))},
        event=size_to_memory_size,
        header=host_to_machine,
        header_fields=("title", "kernel", "tools"),
    ),
}


def old(minor: int, *wires: Any, fields: tuple[Any, ...] = ("t", "6.1.0", [["strace", "6.1"]])) -> bytes:
    """Return a .kvmr of version 0.minor."""
    return recording((rows(*wires), len(wires)), first=header(*fields, major=0, minor=minor))


class TestOlder:
    """Records of an older version are named by its layout and changed step by step."""

    def test_kvmr(self) -> None:
        """Events and header of 0.9 come as those of today."""
        data = old(9, (1, 0), (16, 0, 3, 4096, 8192, -22, False, None, (7, 8), None, (0, 5)), (3, 0, (7, 8)))
        reader = KvmrReader(io.BytesIO(data), upcasts=TABLE)
        assert reader.header == Header(
            title="t", machine=Machine(kernel_release="6.1.0"), tools=(Tool(name="strace", version="6.1"),)
        )
        assert reader.schema_version == (0, 9)
        assert list(events_of(reader.items())) == [
            VmCreate(vm=0),
            MemslotSet(vm=0, slot=3, guest_phys_addr=4096, memory_size=8192, ret=-22, task=Task(7, 8), source=Source(0, 5)),  # type: ignore[arg-type]
            VmDestroy(vm=0, task=Task(7, 8)),
        ]
        assert not reader.warnings()

    def test_jsonl(self) -> None:
        """So do those of JSON Lines, by the same functions."""
        text = b"""{"kvm-replay": "recording/0", "schema_minor": 9, "title": "t", "kernel": "6.1.0"}
        {"event": "memslot.set", "vm": 0, "size": 8192}
        {"event": "vm.gone", "vm": 0}
        {"end": {"events": 2}}
        """
        reader = JsonlReader(io.BytesIO(text), upcasts=TABLE)
        assert reader.header == Header(title="t", machine=Machine(kernel_release="6.1.0"))
        assert list(events_of(reader.items())) == [MemslotSet(vm=0, memory_size=8192), VmDestroy(vm=0)]

    def test_chain(self) -> None:
        """A version two steps back goes through both."""
        reader = KvmrReader(io.BytesIO(old(8, (3, 5), (16, 0, 0, 0, 4096))), upcasts=TABLE)
        assert list(events_of(reader.items())) == [VmDestroy(vm=5), MemslotSet(vm=0, memory_size=4096)]

    def test_no_way_up(self) -> None:
        """A version without a row in the table is refused."""
        for table in (TABLE, UPCASTS):
            with pytest.raises(VersionError, match=r"schema 0.7; expected one that can be read as schema 1.0"):
                KvmrReader(io.BytesIO(old(7)), upcasts=table)

    @pytest.mark.parametrize(
        "wire", [(16, 0, 0, 0, "x"), (3, 0, (7, 8), 1), (99, 0), (), (True,), (16, 0, 0, 0, 1, 0, False, None, 5), (3,)]
    )
    def test_mistakes(self, wire: tuple[Any, ...]) -> None:
        """What does not fit the old version either is an EventError with the number of the event."""
        reader = KvmrReader(io.BytesIO(old(9, (1, 0), wire)), upcasts=TABLE)
        with pytest.raises(EventError, match="event 1"):
            list(reader.items())

    def test_header_mistakes(self) -> None:
        """A header that does not fit its old version is a HeaderError."""
        wrong: list[tuple[Any, ...]] = [("t", "6.1.0", [], 5), ("t", "6.1.0", [["a", 5]]), (5,)]
        for fields in wrong:
            with pytest.raises(HeaderError, match="header"):
                KvmrReader(io.BytesIO(old(9, fields=fields)), upcasts=TABLE)

    def test_first_release(self) -> None:
        """This is version 1.0; nothing is older."""
        assert CURRENT == (1, 0)
        assert not UPCASTS


class TestNewer:
    """What may be passed over is, and is said; what may not is refused."""

    def test_minor(self) -> None:
        """New fields at the end of header, its values and the trailer are passed over."""
        machine = [None] * 12 + [4096, "new"]
        first = header("t", machine, "none", [["strace", "6.1", "", 99]], [], "", "none", True, "new", major=1, minor=3)
        file = Kvmr([first, events_block(rows((3, 0)), 1)], end=Block(3, pack([2, [1, [["k", 1, "", "lost", 7]], 5]])))
        reader = KvmrReader(io.BytesIO(file.data()))
        assert reader.header == Header(title="t", tools=(Tool(name="strace", version="6.1"),))
        assert list(events_of(reader.items())) == [VmDestroy(vm=0)]
        assert reader.trailer().total("lost") == 1
        assert reader.warnings() == ["stream: written in schema 1.3, which is newer: what is new in it was passed over"]

    def test_minor_events(self) -> None:
        """A new kind of event is never passed over, nor is a new field of a known one."""
        first = header(major=1, minor=3)
        with pytest.raises(VersionError, match=r"event 0: event code 99.* The recording is of schema 1.3: update kvm-replay"):
            list(KvmrReader(io.BytesIO(recording((rows((99, 0)), 1), first=first))).items())
        with pytest.raises(EventError, match="found 8 fields"):
            list(
                KvmrReader(
                    io.BytesIO(recording((rows((3, 0, "exit", False, None, None, None, True, 1)), 1), first=first))
                ).items()
            )

    def test_same_version(self) -> None:
        """In a file of this version the same fields are refused."""
        with pytest.raises(HeaderError, match="found 11 fields; expected at most 10"):
            KvmrReader(io.BytesIO(recording(first=header("t", [], "none", [], [], "", "none", True, "new"))))

    def test_major(self) -> None:
        """A newer major version is refused."""
        with pytest.raises(VersionError, match=r"schema 2.0; expected at most 1.x. Update kvm-replay"):
            KvmrReader(io.BytesIO(recording(first=header(major=2))))

    @pytest.mark.parametrize(
        "record", [[1, 0], [1, 0, [], 0], [1, 0, 0], ["1", 0, []], [True, 0, []], 5, [1, -1, []], [-1, 0, []]]
    )
    def test_header_record(self, record: object) -> None:
        """A header record of another form is refused."""
        with pytest.raises((HeaderError, VersionError)):
            KvmrReader(io.BytesIO(recording(first=Block(1, pack(record)))))
