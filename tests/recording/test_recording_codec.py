"""Events become arrays and objects and come back the same; everything else is refused with the path of the field."""

from typing import Any

import pytest
from hypothesis import given
from kvmrwriter import Kvmr, header, one_row, pack, recording, rows, segment

from recordings import EVENTS, HEADERS, TRAILERS, read, small_events
from replay.errors import EventError, HeaderError, LimitError
from replay.events import (
    Event,
    Mark,
    MemslotSet,
    Observe,
    ObservedVm,
    Source,
    Task,
    VmAttach,
    VmCreate,
    VmDestroy,
    VmEnableCap,
    all_kinds,
)
from replay.header import Counter, Header, Machine, Trailer
from replay.recording.codec import event_of_wire, event_to_wire, value_of_wire, value_to_wire
from replay.recording.fields import Field, expectation, fields_of
from replay.recording.limits import SOURCE_FILES, VM_NUMBER
from replay.recording.named import event_of_named, event_to_named, value_of_named, value_to_named
from replay.recording.wire import check_nesting, unpack_one
from replay.recording.wire import pack as packed
from replay.units import Gpa


class TestRoundTrip:
    """No value of the vocabulary is changed by either coding."""

    @given(EVENTS)
    def test_events(self, events: list[Event]) -> None:
        """Random events come back equal from arrays, from bytes and from objects."""
        for event in events:
            assert event_of_wire(event_to_wire(event)) == event
            assert event_of_wire(unpack_one(packed(event_to_wire(event)))) == event
            assert event_of_named(event_to_named(event)) == event

    @given(HEADERS, TRAILERS)
    def test_ends(self, header: Header, trailer: Trailer) -> None:
        """So do headers and trailers."""
        assert value_of_wire(Header, unpack_one(packed(value_to_wire(Header, header, ""))), "") == header
        assert value_of_named(Header, value_to_named(Header, header, ""), "") == header
        assert value_of_wire(Trailer, unpack_one(packed(value_to_wire(Trailer, trailer, ""))), "") == trailer
        assert value_of_named(Trailer, value_to_named(Trailer, trailer, ""), "") == trailer

    @given(EVENTS)
    def test_canonical(self, events: list[Event]) -> None:
        """No array ends in a default, and no field of an object holds one."""
        for event in events:
            wire, named = event_to_wire(event), event_to_named(event)
            fields = {field.name: field for field in fields_of(type(event))}
            if len(wire) > 1:
                assert not list(fields.values())[len(wire) - 2].is_default(wire[-1])
            assert all(getattr(event, name) != fields[name].default or fields[name].required for name in named if name != "event")


class TestArrays:
    """The array of an event is its code and its fields in order, defaults at the end left out."""

    @pytest.mark.parametrize(
        ("event", "wire"),
        [
            (VmDestroy(vm=0), (3, 0)),
            (VmDestroy(vm=0, reason="exit"), (3, 0, "exit")),
            (VmCreate(vm=1, ret=-12), (1, 1, 0, -12)),
            (VmCreate(vm=1, task=Task(7, 8)), (1, 1, 0, None, False, None, (7, 8))),
            (VmCreate(vm=1, inferred=True), (1, 1, 0, None, False, None, None, None, None, True)),
            (VmEnableCap(vm=0, cap=121, args=(1, 2)), (4, 0, 121, 0, (1, 2))),
            (Observe(vm=None, state=ObservedVm(slots=())), (50, None, (None, None, None, None, None, None, ()))),
            (Observe(areas=()), (50, None, None, ())),
            (Mark(text="x", source=Source(0, 9)), (52, "x", None, None, (0, 9))),
        ],
    )
    def test_form(self, event: Event, wire: tuple[Any, ...]) -> None:
        """Each of these has the form stated."""
        assert event_to_wire(event) == wire
        assert event_of_wire(wire) == event

    def test_machine_default(self) -> None:
        """A nested value that is its default is left out at the end and empty in the middle."""
        assert value_to_wire(Header, Header(clock="tai"), "h") == (1, 0, "", (), "tai")
        assert value_to_wire(Header, Header(title="t"), "h") == (1, 0, "t")

    def test_machine_default_is_left_out(self) -> None:
        """A header that spells out at its end what a machine of which nothing is known is, is none that the writer makes."""
        assert read(Kvmr([header("t")]).data())[1].header == Header(title="t")
        with pytest.raises(HeaderError, match="found machine with its default at the end"):
            read(Kvmr([header("t", [])]).data())

    def test_every_kind_is_drawn(self) -> None:
        """The random events of these tests include every kind that there is."""
        assert len(all_kinds()) >= 25


class TestMisfits:
    """A value that does not fit its field is refused before writing and after reading, with path, found and expected."""

    @pytest.mark.parametrize(
        ("wire", "message"),
        [
            ((16, 0, "x"), "memslot.set.slot: found 'x'; expected unsigned 32-bit"),
            ((16, 0, 1 << 32), "memslot.set.slot: found 4294967296; expected unsigned 32-bit"),
            ((16, 0, -1), "memslot.set.slot: found -1; expected unsigned 32-bit"),
            ((16, 0, True), "memslot.set.slot: found True; expected unsigned 32-bit"),
            ((16, 0, None), "memslot.set.slot: found None; expected unsigned 32-bit"),
            ((16, None), "memslot.set.vm: found None; expected unsigned 16-bit"),
            ((16,), "memslot.set.vm: missing; expected unsigned 16-bit"),
            ((3, 0, "reboot"), "vm.destroy.reason: found 'reboot'; expected one of close, exit, exec, killed, end_of_recording"),
            ((3, 0, "exit", 1), "vm.destroy.foreign_mm: found 1; expected true or false"),
            ((1, 0, 0, 1 << 63), "vm.create.ret: found 9223372036854775808; expected signed 64-bit or null"),
            (
                (4, 0, 1, 0, (0, 0, 0, 0, 0)),
                "vm.enable_cap.args: found (0, 0, 0, 0, 0); expected a list of at most 4 unsigned 64-bit numbers",
            ),
            ((4, 0, 1, 0, 5), "vm.enable_cap.args: found 5; expected a list of at most 4 unsigned 64-bit numbers"),
            ((52, "x" * 4097), "mark.text: found "),
            ((52, "x", (1,)), "mark.task.tid: missing; expected unsigned 32-bit"),
            ((52, "x", (1, 2, 3)), "mark.task: found 3 fields; expected at most 2"),
            ((52, "x", 7), "mark.task: found 7; expected its fields or null"),
            ((50, 0, ((),)), "observe.state.nr_memslot_pages: found ()"),
            (
                (50, 0, (1, None, None, None, None, None, ((0, 0, 0, 0, 0, False, (1, 2, 3, 256)),))),
                "observe.state.slots[0].rmap: found (1, 2, 3, 256)",
            ),
            ((50, 0, None, 5), "observe.areas: found 5; expected a list of at most 256 or null"),
            ((3, 0, "close"), "vm.destroy: found reason with its default at the end; expected it left out"),
            ((1, 1, 0, None, False), "vm.create: found foreign_mm with its default at the end; expected it left out"),
            ((3, 0, "exit", False, None, None, None, True, 0), "vm.destroy: found 8 fields; expected at most 7"),
            ((99, 0), "unknown event code 99; expected one of docs/events.md"),
            ((0,), "unknown event code 0; expected one of docs/events.md"),
            ((True, 0), "event: found (True, 0); expected an array that starts with an event code"),
            ((), "event: found (); expected an array that starts with an event code"),
            ((64, 0, 0, 5), "write_track.add: found 'a row'; expected hot events in columns"),
        ],
    )
    def test_read(self, wire: tuple[Any, ...], message: str) -> None:
        """Reading a file with such a row says where and what."""
        with pytest.raises(EventError) as caught:
            read(one_row(*wire))
        place = "stream, block 1 at byte 52, event 0"
        assert str(caught.value).startswith(f"{place}: {message}" if message.startswith("unknown") else f"{place}, {message}")

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            (MemslotSet(vm=0, slot=-1), "memslot.set.slot: found -1; expected unsigned 32-bit"),
            (
                MemslotSet(vm=0, guest_phys_addr=Gpa(1 << 64)),
                "memslot.set.guest_phys_addr: found 18446744073709551616; expected unsigned 64-bit",
            ),
            (Mark(text="\ud800"), "mark.text: found '\\ud800'; expected text of at most 4096 characters"),
            (Mark(text="x", task=Task(1, -2)), "mark.task.tid: found -2; expected unsigned 32-bit"),
        ],
    )
    def test_write(self, event: Event, message: str) -> None:
        """Neither coding writes it."""
        for coding in (event_to_wire, event_to_named):
            with pytest.raises(EventError) as caught:
                coding(event)
            assert str(caught.value) == message

    def test_wrong_classes(self) -> None:
        """A value of another class than the field's is refused."""
        for event in (Mark(text="x", task=(1, 2)), Observe(areas=[]), Observe(areas=(Task(1, 2),))):  # type: ignore[arg-type]
            for coding in (event_to_wire, event_to_named):
                with pytest.raises(EventError):
                    coding(event)

    def test_vm_limit(self) -> None:
        """VM 65535 is the last one."""
        assert event_of_wire((2, 65535)) == event_of_named({"event": "vm.attach", "vm": 65535})
        with pytest.raises(EventError, match=r"vm.attach.vm: found 65536; expected unsigned 16-bit"):
            event_of_wire((2, 65536))
        with pytest.raises(EventError):
            event_of_named({"event": "vm.attach", "vm": 65536})
        assert VM_NUMBER.most == fields_of(VmAttach)[0].spec.max

    def test_source_limit(self) -> None:
        """File 4095 is the last one, in rows as in columns."""
        assert event_of_wire((52, "x", None, None, (4095, 1))) == Mark(text="x", source=Source(4095, 1))
        with pytest.raises(EventError, match=r"mark.source.file: found 4096; expected unsigned 12-bit"):
            event_of_wire((52, "x", None, None, (4096, 1)))
        assert SOURCE_FILES.most == fields_of(Source)[0].spec.max + 1 == fields_of(Header)[6].spec.length_max

    def test_lengths(self) -> None:
        """Texts and lists are taken at their limit and refused one beyond."""
        assert value_of_wire(Counter, ("k" * 128, 1), "c").count == 1
        with pytest.raises(EventError):
            value_of_wire(Counter, ("k" * 129, 1), "c")
        assert len(value_of_wire(Header, (1, 0, "", (), "none", (("t",),) * 16), "h").tools) == 16
        with pytest.raises(EventError, match="found 17 items"):
            value_of_wire(Header, (1, 0, "", (), "none", (("t",),) * 17), "h")
        with pytest.raises(EventError):
            value_to_wire(Trailer, Trailer(counters=(Counter(kind="k", count=1),) * 4097), "t")

    def test_expectations(self) -> None:
        """Every field of the vocabulary can say what it expects."""
        fields: list[Field] = [field for cls in (*all_kinds(), Header, Trailer, Machine) for field in fields_of(cls)]
        assert len(fields) > 200
        assert all(expectation(field.spec) for field in fields)


class TestBytes:
    """Only the shortest MessagePack form of arrays, integers, texts, booleans and null is read."""

    @pytest.mark.parametrize(
        "data",
        [
            b"\xcc\x01",  # 1 in two bytes
            b"\xcd\x00\xff",
            b"\xce\x00\x00\xff\xff",
            b"\xcf" + bytes(8),
            b"\xd0\x05",
            b"\xd1\xff\xff",
            b"\xd9\x01a",  # a short text with a length byte
            b"\xdc\x00\x01\x05",  # a short array with two length bytes
            b"\xdd\x00\x00\x00\x01\x05",
            b"\xca\x00\x00\x00\x00",  # float32
            b"\xc1",  # never used
            b"\xa2a",  # cut
            b"\x92\x01",
            b"\xa1\xff",  # not UTF-8
            b"\xa3\xed\xa0\x80",  # a surrogate
            b"\xc4\x01a",  # binary
            b"\x81\x01\x02",  # a map
            b"\xd4\x01\x00",  # an extension
            b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        ],
    )
    def test_refused(self, data: bytes) -> None:
        """Everything else is an EventError, alone and inside a row."""
        with pytest.raises(EventError):
            unpack_one(data)
        with pytest.raises((EventError, LimitError)):
            read(recording((rows((3, 0))[:16] + b"\x93\x03" + data, 1)))

    @pytest.mark.parametrize("data", [b"\xcb" + bytes(8), b"\x80", b"\xc7\x00\x05"])
    def test_refused_in_rows(self, data: bytes) -> None:
        """Floats and empty maps are canonical MessagePack; no field takes one."""
        with pytest.raises(EventError):
            read(recording((segment(1, 1, b"\x93\x03\x00" + data), 1)))

    def test_rows_must_count(self) -> None:
        """A segment holds as many rows as it says."""
        for content, count in ((pack([3, 0]), 2), (pack([3, 0]) * 2, 1), (b"", 1)):
            with pytest.raises(EventError):
                read(recording((segment(1, count, content), count)))

    def test_nesting(self) -> None:
        """Eight levels of wide arrays are looked at, nine are not."""

        def nested(levels: int) -> bytes:
            return b"\xdc\x01\x00" * levels + b"\x00"

        check_nesting(nested(8))
        with pytest.raises(LimitError, match="9 levels"):
            check_nesting(nested(9))
        with pytest.raises(LimitError):
            unpack_one(nested(9))
        check_nesting(packed(((), ((),), 1)))
        for data in (b"\xdc\x01\x00" + b"\xc1" * 256, b"\xdc\x01\x00\x81"):
            with pytest.raises(EventError):
                check_nesting(data)

    def test_nesting_of_everything(self) -> None:
        """Counting the nesting passes over every token that rows hold."""
        wires = [event_to_wire(event) for event in small_events()]
        check_nesting(
            packed(
                (*wires, "s" * 40, "s" * 300, "s" * 70000, -1, -100, -1000, -100000, -(1 << 40), 200, 70000, 1 << 40, True, None)
            )
        )
