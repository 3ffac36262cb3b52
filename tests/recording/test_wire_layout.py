"""The wire layout of schema 1.0, pinned: whoever changes it must raise the version, and knows so from here."""

import attrs

from replay.events import Source, Task, all_kinds, specs
from replay.events.evidence import ObservedArea, ObservedCount, ObservedSlot, ObservedVm
from replay.header import Counter, Header, Machine, SourceFile, Tool, Trailer
from replay.recording.fields import Field, fields_of
from replay.recording.frames import SHAPES

CALL = "ret? foreign_mm=False enter_time_ns? task? time_ns? source? inferred=False"
COMMON = "task? time_ns? source? inferred=False"
HOT = f"vm as_id=0 gfn level=0 nested=False ret? {COMMON}"

# name: fields in order; ? null unless said, =x the default that is left out at the end.
EVENTS = {
    "1 vm.create": f"vm type=0 {CALL}",
    "2 vm.attach": f"vm {COMMON}",
    "3 vm.destroy": f"vm reason='close' foreign_mm=False {COMMON}",
    "4 vm.enable_cap": f"vm cap flags=0 args=() {CALL}",
    "5 vcpu.create": f"vm vcpu_id {CALL}",
    "6 irqchip.create": f"vm {CALL}",
    "7 opaque": f"vm cmd name {CALL}",
    "16 memslot.set": "vm slot=0 flags=0 guest_phys_addr=0 memory_size=0 userspace_addr=0 guest_memfd? guest_memfd_offset=0 "
    f"region2=False fault=False {CALL}",
    "17 tss.set": f"vm guest_phys_addr {CALL}",
    "18 identity_map.set": f"vm guest_phys_addr? fault=False {CALL}",
    "19 nr_mmu_pages.set": f"vm nr_mmu_pages {CALL}",
    "20 dirty_log.get": f"vm slot? fault=False {CALL}",
    "21 dirty_log.clear": f"vm slot? first_page=0 num_pages=0 fault=False {CALL}",
    "22 guest_memfd.create": f"vm size_bytes? flags=0 {CALL}",
    "32 notifier.register": f"vm node=0 null_kvm=False table=True {CALL}",
    "33 notifier.unregister": f"vm node=0 {CALL}",
    "34 shadow_root.alloc": f"vm nested=False {CALL}",
    "48 alloc.fail": f"vm? site='' nth=1 count=1 off=False {COMMON}",
    "49 memory.limit": f"limit_pages? {COMMON}",
    "50 observe": f"vm? state? areas? label='' {COMMON}",
    "51 lost": f"vm? count? what affects='everything' {COMMON}",
    "52 mark": f"text {COMMON}",
    "64 write_track.add": HOT,
    "65 write_track.remove": HOT,
    "66 write_track.query": HOT,
    "67 guest_write": HOT,
    "68 shadow_page.account": HOT,
    "69 shadow_page.unaccount": HOT,
}
VALUES = {
    Task: "pid tid",
    Source: "file line",
    ObservedCount: "gfn count",
    ObservedSlot: "as_id id base_gfn npages flags gfn_write_track=False rmap=() lpage_info=() dirty_bitmap=False counts?",
    ObservedArea: "site areas_added pages_added areas_freed pages_freed",
    ObservedVm: "nr_memslot_pages? shadow_root_allocated? external_write_tracking_enabled? indirect_shadow_pages? vm_bugged? "
    "has_notifier? slots?",
    Machine: "kernel_release? config_external_write_tracking? tdp? tdp_mmu? smm? vendor? unrestricted_guest? flexpriority? avic? "
    "la57? max_phys_bits? total_ram_pages? page_size_bytes=4096",
    Tool: "name version='' command=''",
    SourceFile: "name format",
    Counter: "kind count first='' severity='unknown'",
    Trailer: "events=0 counters=()",
}
HEADER = "title='' machine=Machine() clock='none' tools=() sources=() provenance='' compression='none' complete_start=True"
COLUMNS = "kind vm as_id gfn level nested ret task time_ns file line inferred"

ADVICE = (
    "the wire layout changed: old files would be misread. Header and trailer may only grow at their end (raise schema_minor); "
    "for anything else of an event raise schema_major and add an Upcast with this layout; then change this table "
    "(before the first release: change only the table)"
)


def text_of(field: Field) -> str:
    """Return a field as the tables above write it."""
    if field.required:
        return field.name
    if field.default == Machine():
        return f"{field.name}=Machine()"
    return f"{field.name}?" if field.default is None else f"{field.name}={field.default!r}"


def layout_of(cls: type) -> str:
    """Return the layout of a class as the tables above write it."""
    return " ".join(map(text_of, fields_of(cls)))


class TestLayout:
    """Codes, fields, their order and their defaults are as they were released."""

    def test_events(self) -> None:
        """Of every event kind."""
        assert {f"{cls.CODE} {cls.KIND}": layout_of(cls) for cls in all_kinds()} == EVENTS, ADVICE

    def test_values(self) -> None:
        """Of every nested class, and of the trailer."""
        assert {cls: layout_of(cls) for cls in VALUES} == VALUES, ADVICE
        nested = {spec.of for cls in (*all_kinds(), *VALUES, Header) for spec in specs(cls).values() if spec.of}
        assert nested == set(VALUES) - {Trailer}

    def test_header(self) -> None:
        """Of the header, whose version is kept in front of it."""
        assert layout_of(Header).split(" ", 2)[2] == HEADER, ADVICE
        assert [a.name for a in attrs.fields(Header)][:2] == ["schema_major", "schema_minor"]

    def test_columns(self) -> None:
        """And of the columns of a run."""
        assert " ".join(shape.name for shape in SHAPES) == COLUMNS, ADVICE
