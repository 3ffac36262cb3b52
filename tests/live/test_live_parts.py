"""Promises of the parts of a live run: dice, bytes of the calls, readings of /proc/vmallocinfo."""

import struct
from collections import Counter
from pathlib import Path

import pytest

from replay.events import (
    DirtyLogClear,
    DirtyLogGet,
    GuestMemfdCreate,
    IdentityMapSet,
    IrqchipCreate,
    MemslotSet,
    NrMmuPagesSet,
    ObservedArea,
    TssSet,
    VcpuCreate,
    VmEnableCap,
)
from replay.live.dice import Dice
from replay.live.uapi import Bitmap, by_value, encode
from replay.sources.vmallocinfo import changed_areas, parse_areas
from replay.units import Gpa, Hva

BITMAP = Bitmap(64)
# Two lines of other callers, five of KVM's as 6.18 (built in) and 6.1 (a module) print them, and one of a compiler's copy.
READING = b"""\
0x00000000261b2d5e-0x000000006dab839d   20480 irq_init_percpu_irqstack+0xca/0x100 vmap
0x000000001fa1a111-0x000000001fa1b222    8192 bpf_prog_alloc_no_stats+0x3b/0x1b0 pages=1 vmalloc N0=1
0x00000000ed0677cf-0x0000000098a7fa91    8192 memslot_rmap_alloc+0x68/0xb0 pages=1 vmalloc N0=1
0x0000000047cc5de3-0x00000000904f6451 2105344 memslot_rmap_alloc+0x68/0xb0 pages=513 vmalloc vpages N0=513
0x000000005288fde2-0x000000007659eda4    8192 kvm_arch_prepare_memory_region+0x105/0x330 [kvm] pages=1 vmalloc N0=1
0x000000005288fde3-0x000000007659eda5    8192 kvm_set_memslot.part.0+0x4cf/0x680 [kvm] pages=1 vmalloc N0=1
0x000000005288fde4-0x000000007659eda6   16384 vmx_alloc+0x4/0x6 [kvm_intel] pages=3 vmalloc N0=3
"""


class TestDice:
    """A seed decides all, on every machine and for ever."""

    def test_known_numbers(self) -> None:
        """The numbers are those of the published rule: a recording's seed must mean the same next year."""
        dice = Dice(1234567)
        numbers = [dice.below(1 << 64) for _ in range(3)]
        assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]

    def test_seeds_differ(self) -> None:
        """Neighbouring seeds give other streams, the same seed the same."""

        def stream(seed: int) -> list[int]:
            dice = Dice(seed)
            return [dice.below(1000) for _ in range(50)]

        assert stream(7) == stream(7)
        assert len({tuple(stream(seed)) for seed in range(100)}) == 100

    def test_bounds(self) -> None:
        """Every number of a range comes up, and none outside of it."""
        dice = Dice(3)
        assert {dice.between(-1, 1) for _ in range(200)} == {-1, 0, 1}
        assert {dice.below(5) for _ in range(200)} == {0, 1, 2, 3, 4}
        assert {dice.pick("abc") for _ in range(200)} == {"a", "b", "c"}

    def test_weights(self) -> None:
        """A choice comes as often as its weight says, one of weight 0 never."""
        dice = Dice(4)
        seen = Counter(dice.weighted(((90, "often"), (10, "seldom"), (0, "never"))) for _ in range(2000))
        assert seen["never"] == 0
        assert 120 < seen["seldom"] < 280
        assert 120 < sum(dice.chance(10) for _ in range(2000)) < 280


class TestEncode:
    """Calls become the bytes of include/uapi/linux/kvm.h."""

    def test_region(self) -> None:
        """REGION has 32 bytes; REGION2 160, with the guest_memfd behind the common part."""
        asked = MemslotSet(vm=0, slot=0x10002, flags=3, guest_phys_addr=Gpa(4096), memory_size=8192, userspace_addr=Hva(1 << 44))
        request, argument = encode(asked, BITMAP)
        assert (request, argument) == (0x4020AE46, bytearray(struct.pack("<IIQQQ", 0x10002, 3, 4096, 8192, 1 << 44)))
        second = MemslotSet(vm=0, slot=1, flags=4, region2=True, guest_memfd=9, guest_memfd_offset=4096)
        request, argument = encode(second, BITMAP)
        assert request == 0x40A0AE49
        assert isinstance(argument, bytearray)
        assert len(argument) == 160
        assert argument[:48] == struct.pack("<IIQQQQII", 1, 4, 0, 0, 0, 4096, 9, 0)
        assert not any(argument[48:])

    @pytest.mark.parametrize("region2", [False, True])
    def test_unreadable(self, *, region2: bool) -> None:
        """An unreadable argument is the NULL pointer."""
        assert encode(MemslotSet(vm=0, fault=True, region2=region2), BITMAP)[1] == 0

    def test_dirty_log(self) -> None:
        """The bitmap's place is given, or NULL where the pointer is to be bad."""
        assert encode(DirtyLogGet(vm=0, slot=3), BITMAP) == (0x4010AE42, bytearray(struct.pack("<IIQ", 3, 0, BITMAP.address)))
        assert encode(DirtyLogGet(vm=0, slot=3, fault=True), BITMAP)[1] == bytearray(struct.pack("<IIQ", 3, 0, 0))
        clear = DirtyLogClear(vm=0, slot=3, first_page=64, num_pages=5)
        assert encode(clear, BITMAP) == (0xC018AEC0, bytearray(struct.pack("<IIQQ", 3, 5, 64, BITMAP.address)))

    def test_others(self) -> None:
        """Structures have their full size, numbers go by value."""
        cap = encode(VmEnableCap(vm=0, cap=168, flags=1, args=(3,)), BITMAP)
        assert cap == (0x4068AEA3, bytearray(struct.pack("<II4Q64x", 168, 1, 3, 0, 0, 0)))
        gmem = encode(GuestMemfdCreate(vm=0, size_bytes=4096, flags=2), BITMAP)
        assert gmem == (0xC040AED4, bytearray(struct.pack("<8Q", 4096, 2, 0, 0, 0, 0, 0, 0)))
        assert encode(IdentityMapSet(vm=0, guest_phys_addr=Gpa(5)), BITMAP) == (0x4008AE48, bytearray(struct.pack("<Q", 5)))
        assert encode(IdentityMapSet(vm=0, fault=True), BITMAP) == (0x4008AE48, 0)
        assert encode(NrMmuPagesSet(vm=0, nr_mmu_pages=64), BITMAP) == (0xAE44, 64)
        assert encode(VcpuCreate(vm=0, vcpu_id=2), BITMAP) == (0xAE41, 2)
        assert encode(IrqchipCreate(vm=0), BITMAP) == (0xAE60, 0)

    def test_by_value(self) -> None:
        """A number that does not fit a C int is its negative twin."""
        assert encode(TssSet(vm=0, guest_phys_addr=Gpa(0xFFFF_E000)), BITMAP) == (0xAE47, -0x2000)
        assert (by_value(0x7FFF_FFFF), by_value(1 << 31)) == (0x7FFF_FFFF, -(1 << 31))


class TestVmallocinfo:
    """Areas of KVM's functions are found, and what changed between two readings."""

    def test_parse(self) -> None:
        """KVM's lines count, built in or of its modules; the guard page does not; a compiler's suffix is no part of a name."""
        found = parse_areas(READING)
        assert found is not None
        assert list(found.values()) == [
            ("memslot_rmap_alloc", 1),
            ("memslot_rmap_alloc", 513),
            ("kvm_arch_prepare_memory_region", 1),
            ("kvm_set_memslot", 1),
            ("vmx_alloc", 3),
        ]

    def test_hidden_addresses(self) -> None:
        """Where the kernel hides addresses nothing can be told; where it has no area of KVM, that is an answer."""
        line = READING.splitlines()[2]
        zeros = b"0x0000000000000000-0x0000000000000000" + line[line.index(b" ") :]
        assert parse_areas(zeros) is None
        assert parse_areas(READING.split(b"\n", 1)[0]) == {}

    def test_changes(self) -> None:
        """Added and freed areas are counted by function; one that stays is not."""
        before = {b"1": ("a", 1), b"2": ("b", 2), b"3": ("a", 3)}
        now = {b"1": ("a", 1), b"4": ("b", 7), b"5": ("b", 1)}
        assert changed_areas(before, now) == (ObservedArea("a", 0, 0, 1, 3), ObservedArea("b", 2, 8, 1, 2))
        assert changed_areas(now, now) == ()

    def test_a_place_used_again(self) -> None:
        """An area of another size or function at the same place is another area."""
        assert changed_areas({b"1": ("a", 1)}, {b"1": ("a", 2)}) == (ObservedArea("a", 1, 2, 1, 1),)

    @pytest.mark.skipif(not Path("/proc/vmallocinfo").exists(), reason="no /proc/vmallocinfo on this system")
    def test_real_form(self) -> None:
        """This system's own file is understood, if it may be read."""
        try:
            text = Path("/proc/vmallocinfo").read_bytes()
        except PermissionError:
            pytest.skip("LIVE TEST SKIPPED: /proc/vmallocinfo can be read by root only")
        found = parse_areas(text)
        assert found is None or all(pages > 0 for _site, pages in found.values())
