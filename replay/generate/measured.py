"""Hold the numbers that generated recordings are made after, each with the capture that it was measured in.

`python tests/generate/rates.py RECORDING...` measures them again; docs/generate.md shows this table and a test holds the two
together. What no capture shows is chosen, and says so.
"""

from typing import Final

import attrs


@attrs.frozen
class Measured:
    """One number, or the sixteen quantiles of one, and where it comes from; capture "" for one that was chosen."""

    what: str
    value: int | tuple[int, ...]
    capture: str
    how: str = ""

    @property
    def one(self) -> int:
        """Return the number of a row that has one."""
        assert isinstance(self.value, int)
        return self.value

    @property
    def quantiles(self) -> tuple[int, ...]:
        """Return the quantiles of a row that has them."""
        assert isinstance(self.value, tuple)
        return self.value


_CALLS_NS: Final = (
    *(102_000, 113_000, 186_000, 197_000, 225_000, 246_000, 273_000, 301_000),
    *(343_000, 400_000, 523_000, 1_229_000, 9_216_000, 26_930_000, 537_024_000, 1_266_654_000),
)
_LOGGING_NS: Final = (
    *(60_000, 66_000, 68_000, 73_000, 87_000, 111_000, 151_000, 168_000),
    *(188_000, 222_000, 271_000, 557_000, 885_000, 3_681_000, 10_456_000, 742_032_000),
)
_TABLES_NS: Final = (
    *(17_000, 17_000, 17_000, 18_000, 18_000, 18_000, 19_000, 19_000),
    *(24_000, 34_000, 36_000, 47_000, 70_000, 71_000, 72_000, 98_000),
)
_FLIPS_NS: Final = (
    *(5_000, 6_000, 14_000, 15_000, 15_000, 15_000, 15_000, 16_000),
    *(16_000, 17_000, 17_000, 17_000, 18_000, 21_000, 26_000, 36_000),
)
_FAULTS_NS: Final = (
    *(780_000, 967_000, 2_490_000, 2_606_000, 2_675_000, 2_700_000, 2_708_000, 3_364_000),
    *(3_364_000, 8_490_000, 21_144_000, 21_345_000, 21_401_000, 21_467_000, 21_547_000, 35_062_000),
)
_STRETCHES: Final = (1, 1, 2, 3, 6, 23, 29, 104, 288, 477, 522, 568, 618, 670, 845, 990)

CALL_GAPS: Final = Measured(
    "ns between the calls of QEMU", _CALLS_NS, "qemu-resets", "gaps before structural events, 16 quantiles"
)
LOGGING_GAPS: Final = Measured(
    "ns between the calls of a migration", _LOGGING_NS, "qemu-migration", "gaps before structural events"
)
BOOT_CALLS: Final = Measured("memslot calls of a boot", 35, "qemu-std-vga-boot", "every one of them, in order; RAM size is drawn")
RESET_CALLS: Final = Measured("memslot calls of a reset", 28, "qemu-resets", "events 46 to 73, in order")
RESETS: Final = Measured("resets of a VM at least", 3, "qemu-resets")
LOGGED_SLOTS: Final = Measured("memslots whose dirty logging a migration switches on", 8, "qemu-migration", "events 45 to 52")
GET_ROUNDS: Final = Measured("rounds of KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG of all of them", 2, "qemu-migration")
LOGGED_OFF: Final = Measured("memslots whose dirty logging is switched off afterwards", 8, "qemu-savevm", "events 80 to 87")
DIMM_SIZES: Final = Measured("MiB of hot-plugged DIMMs", (256, 128), "qemu-dimm-hotplug", "events 40 and 41")
DIMM_NS: Final = Measured("ns between two DIMMs", 1_052_318_000, "qemu-dimm-hotplug")
DIMMS: Final = Measured("DIMMs of a VM at most", 16, "", "chosen; device_del waits for a guest's answer in the capture")
FAULT_GAPS: Final = Measured("ns between the calls of gVisor", _FAULTS_NS, "gvisor-echo")
SANDBOX_MIB: Final = Measured("MiB of a memslot of gVisor", 2048, "gvisor-echo", "at hva + 4 GiB, 4 KiB off its alignment")
SANDBOX_VCPUS: Final = Measured("vCPUs of a sandbox", 6, "gvisor-echo")
SANDBOX_FIRST: Final = Measured("memslots of a sandbox before its first vCPU", 6, "gvisor-echo")
TABLE_GAPS: Final = Measured("ns between shadow pages", _TABLES_NS, "pd-1M-events")
TABLE_RUN: Final = Measured("shadow page events between two groups of memslot calls", 8198, "pd-1M-events")
TABLE_GROUP: Final = Measured("memslot calls of a group: delete, create, logging on, off", 4, "pd-1M-events")
TABLE_GROUPS: Final = Measured("groups of a VM at least", 146, "pd-1M-events")
TABLES: Final = Measured(
    "page tables that are shadowed in turn", 1024, "pd-1M-events", "gfns touched, roots aside; each is tracked and untracked"
)
TABLE_SLOTS: Final = Measured("memslots of 32 MiB", 8, "pd-1M-events")
FLIP_GAPS: Final = Measured("ns between shadow pages of a nested guest", _FLIPS_NS, "shadow-pages-roles")
FLIP_TABLES: Final = Measured("page tables of a nested guest, some under two roles", 70, "shadow-pages-roles", "gfns touched")
FLIP_PAIRS: Final = Measured(
    "of 1,000 shadow pages of a nested guest, those that are touched twice at once",
    599,
    "shadow-pages-roles",
    "neighbours of one gfn",
)
FLIP_RUNS: Final = Measured("shadow page events of a nested guest between memslot calls", _STRETCHES, "shadow-pages-two-vms")
FLIP_GROUPS: Final = Measured("groups of memslot calls of a nested guest's VM at least", 30, "shadow-pages-roles")
LEAVES: Final = Measured("of 1,000 shadow pages of a nested guest, those of level 1", 16, "shadow-pages-two-vms")
VGPU_TABLES: Final = Measured("page tables that a vGPU tracks in turn", 512, "", "chosen: no capture has KVMGT")
VGPU_KEPT: Final = Measured("page tables that a vGPU tracks from open to close", 16, "", "chosen")
VGPU_GAPS: Final = Measured("ns between events of a vGPU", _TABLES_NS, "", "chosen: those of shadow pages")
VGPU_WRITES: Final = Measured("of 1,000 events of a vGPU, guest writes to those", 600, "", "chosen")
VGPU_RUN: Final = Measured("events between open and close of a vGPU", 20_000, "", "chosen")

MEASURED: Final = tuple(value for value in list(globals().values()) if isinstance(value, Measured))
"""All of them, in the order of the page."""
