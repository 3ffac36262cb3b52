"""Promises of the one-line form of events."""

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from replay import events as ev
from replay.events.base import Event, FieldSpec, specs
from replay.report.event_text import CALLS, call_text, event_text, flags_text, slot_text, time_text
from replay.units import Gfn, Gpa, Hva

if TYPE_CHECKING:
    from collections.abc import Callable


def smallest(cls: type[Event]) -> Event:
    """Return an event of a kind with every required field at a value of its type."""
    values: dict[str, Callable[[FieldSpec], Any]] = {
        "uint": lambda _spec: 1,
        "int": lambda _spec: -1,
        "str": lambda _spec: "word",
        "bool": lambda _spec: True,
        "enum": lambda spec: spec.choices[0],
    }
    required = {field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING}
    return cls(**{name: values[spec.shape](spec) for name, spec in specs(cls).items() if name in required})


class TestEveryKind:
    """No kind of event is left without words."""

    def test_table_holds_every_kind(self) -> None:
        """The table has a row for each kind of the vocabulary, and no other."""
        assert set(CALLS) == set(ev.all_kinds())
        assert len(CALLS) >= 28

    @pytest.mark.parametrize("cls", ev.all_kinds(), ids=lambda cls: cls.KIND)
    def test_is_one_line(self, cls: type[Event]) -> None:
        """An event of any kind, with the fewest fields, is one line of printable text that starts with its number."""
        line = event_text(3, smallest(cls), since_ns=0)
        assert line.startswith("event 3  ")
        assert line.isprintable()


class TestDialect:
    """The words are the kernel people's."""

    def test_memslot_create(self) -> None:
        """A memslot call reads as in the documentation: slot and address space, gpa, size both ways, hva, flags, result."""
        event = ev.MemslotSet(
            vm=0,
            ret=0,
            task=ev.Task(9430, 9432),
            time_ns=1_001_234_000,
            slot=3,
            flags=1,
            guest_phys_addr=Gpa(0x100000000),
            memory_size=1 << 31,
            userspace_addr=Hva(0x7F0000000000),
        )
        assert event_text(12, event, since_ns=1_000_000_000) == (
            "event 12  +0.001234 s  vm 0  tid 9432  KVM_SET_USER_MEMORY_REGION slot 3 as 0 gpa 0x100000000 size 0x80000000"
            " (2 GiB) hva 0x7f0000000000 flags LOG_DIRTY = 0"
        )

    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (ev.MemslotSet(vm=0, slot=2), "KVM_SET_USER_MEMORY_REGION slot 2 as 0 gpa 0x0 size 0 (delete) hva 0x0 flags 0"),
            (ev.MemslotSet(vm=0, fault=True), "KVM_SET_USER_MEMORY_REGION (argument not readable)"),
            (
                ev.MemslotSet(vm=0, region2=True, slot=65536, flags=32, guest_memfd=7),
                "KVM_SET_USER_MEMORY_REGION2 slot 0 as 1 gpa 0x0 size 0 (delete) hva 0x0 guest_memfd 7 offset 0x0 flags 0x20",
            ),
            (ev.VmDestroy(vm=0, reason="exit", foreign_mm=True), "VM destroyed (exit, foreign mm)"),
            (ev.DirtyLogGet(vm=0), "KVM_GET_DIRTY_LOG slot ?"),
            (ev.IdentityMapSet(vm=0), "KVM_SET_IDENTITY_MAP_ADDR gpa ?"),
            (ev.VmEnableCap(vm=0, cap=121, args=(24,)), "KVM_ENABLE_CAP cap 121 flags 0x0 args 0x18"),
            (ev.NotifierRegister(vm=0, node=2, null_kvm=True), "kvm_page_track_register_notifier() node 2 kvm NULL"),
            (ev.ShadowRootAlloc(vm=0, nested=True), "mmu_first_shadow_root_alloc() nested"),
            (
                ev.AllocFail(site="memslot_rmap_alloc", nth=2, count=0),
                "injection fails allocation 2 of memslot_rmap_alloc() and all after it",
            ),
            (ev.AllocFail(site="memslot_rmap_alloc", nth=3), "injection fails allocation 3 of memslot_rmap_alloc()"),
            (ev.AllocFail(nth=2, count=3), "injection fails allocations 2 to 4 of any site"),
            (ev.AllocFail(off=True), "injection off at any site"),
            (ev.MemoryLimit(), "memory limit lifted"),
            (ev.Observe(state=ev.ObservedVm(), areas=()), "observed VM state and allocations"),
            (ev.Lost(what="overrun"), "LOST an unknown number of events: overrun"),
            (
                ev.ShadowPageAccount(vm=0, gfn=Gfn(0x83D), level=2, nested=True),
                "account_shadowed() gfn 0x83d level 2 as 0 nested",
            ),
        ],
    )
    def test_call(self, event: Event, text: str) -> None:
        """Each peculiarity of a call is said."""
        assert call_text(event) == text

    def test_results(self) -> None:
        """An errno is said by name, an unknown result as a question mark, a hot event's missing one not at all."""
        assert event_text(0, ev.VcpuCreate(vm=0, vcpu_id=0, ret=-12)).endswith(" = -ENOMEM")
        assert event_text(0, ev.VcpuCreate(vm=0, vcpu_id=0)).endswith(" = ?")
        assert event_text(0, ev.VcpuCreate(vm=0, vcpu_id=0, ret=-5, foreign_mm=True)).endswith(" = -EIO (foreign mm)")
        assert event_text(0, ev.WriteTrackAdd(vm=0, gfn=Gfn(1))).endswith(" as 0")
        assert event_text(0, ev.WriteTrackAdd(vm=0, gfn=Gfn(1), ret=-22)).endswith(" = -EINVAL")
        assert event_text(0, ev.ShadowRootAlloc(vm=0, ret=0, inferred=True)).endswith(" = 0 (inferred)")

    def test_hostile_text_stays_on_its_line(self) -> None:
        """What a recording says can neither start a new line nor command the terminal."""
        line = event_text(0, ev.Mark(text="a\nevent 1\x1b[2J\u202e"))
        assert line == "event 0  mark: a\\nevent 1\\x1b[2J\\u202e"

    def test_parts(self) -> None:
        """Flags, slots and times have one spelling each."""
        assert [flags_text(flags) for flags in (0, 3, 4, 1 << 16)] == ["0", "LOG_DIRTY|READONLY", "GUEST_MEMFD", "0x10000"]
        assert [slot_text(slot) for slot in (0, 65541, None)] == ["slot 0 as 0", "slot 5 as 1", "slot ?"]
        assert [time_text(time_ns) for time_ns in (0, 1_000, 1, -1_500_000_000)] == [
            "+0.000000 s",
            "+0.000001 s",
            "+0.000000001 s",
            "-1.500000 s",
        ]
