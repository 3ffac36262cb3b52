"""Describe a recording: the machine it was made on, the tools and clocks, where it came from, and what it lacks.

The header is written first and holds what is known before the first event. The trailer is written last (END block) and
holds what is known only then: counts, losses, and everything that the importer met and did not understand.
"""

from typing import Any, Final

import attrs

from replay.events.base import ByFields, enum, flag, text, uint, value, values


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Machine(ByFields):
    """Facts of the recorded machine that decide what its KVM does; null: the recorder could not tell.

    release and config decide the policy together, never the release alone.
    """

    kernel_release: str | None = text("`uname -r`", length_max=128, optional=True)
    config_external_write_tracking: bool | None = flag("CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y", optional=True)
    tdp: bool | None = flag("tdp_enabled: two-dimensional paging (EPT or NPT) in use", optional=True)
    tdp_mmu: bool | None = flag("the TDP MMU is in use (module parameter and tdp)", optional=True)
    smm: bool | None = flag("CONFIG_KVM_SMM: two address spaces", optional=True)
    vendor: str | None = text("vendor module: intel, amd, or another name such as pvm", length_max=32, optional=True)
    unrestricted_guest: bool | None = flag("VMX enable_unrestricted_guest: no TSS or identity slots", optional=True)
    flexpriority: bool | None = flag("VMX flexpriority_enabled: APIC-access slot with an in-kernel APIC", optional=True)
    avic: bool | None = flag("SVM AVIC active: APIC-access slot", optional=True)
    la57: bool | None = flag("host runs five-level paging: user addresses reach 2^56", optional=True)
    max_phys_bits: int | None = uint("host MAXPHYADDR", unit="bits", bits=8, optional=True)
    total_ram_pages: int | None = uint("totalram_pages(): a larger array can not be allocated", unit="pages", optional=True)
    page_size_bytes: int = uint("host page size", unit="bytes", bits=32, default=4096)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Tool(ByFields):
    """One recorder or converter that had a part in the recording."""

    name: str = text("name of the tool", length_max=64)
    version: str = text("its version, empty when not known", default="", length_max=64)
    command: str = text("its command line, empty when not known", default="", length_max=4096)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class SourceFile(ByFields):
    """One trace that events were read from; `Source.file` is an index into the list of them."""

    name: str = text("base name of the file, never a path", length_max=255)
    format: str = text("format it was read as", length_max=32)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Counter(ByFields):
    """Something counted by kind, with the first place where it was met."""

    kind: str = text("what was counted", length_max=128)
    count: int = uint("how often")
    first: str = text("place of the first one, 'file:line'", default="", length_max=300)
    severity: str = enum(
        "lost: events are missing; unknown: not understood; ignored: understood and without effect on the model",
        "lost",
        "unknown",
        "ignored",
        default="unknown",
    )


MEMSLOT_ELSEWHERE: Final = "memslot ioctl on an fd that is not a VM"
"""Counter of memslot calls that failed because their fd is no VM: no event of a VM, and a failed call all the same."""

LEFT_OUT: Final = "events left out by minimise"
"""Counter of what a recording was made smaller by, knowingly: nothing is lost."""

TORN: Final = "torn recording"
DAMAGED: Final = "damaged recording"
PARTIAL: Final = "recording read only in part"
CUT_SHORT: Final = frozenset({TORN, DAMAGED, PARTIAL})
"""Counters of a recording of which only the front is there: what is lost lies behind the last event, and nowhere else."""
CUT_SHORT_TEXT: Final = "only the front of the recording is there: it is torn, or was saved from a damaged one"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Header(ByFields):
    """First record of a recording. schema_major changes when old readers must refuse, schema_minor when they need not."""

    schema_major: int = uint("vocabulary and container version", bits=16, default=1)
    schema_minor: int = uint("additions that an old reader may pass over", bits=16, default=0)
    title: str = text("what was recorded, in one line", default="", length_max=256)
    machine: Machine = value("the recorded machine", Machine, default=Machine())
    clock: str = text("clock of time_ns: realtime, tai, boottime, monotonic, relative or none", default="none", length_max=32)
    tools: tuple[Tool, ...] = values("recorders and converters, in order", Tool, length_max=16)
    sources: tuple[SourceFile, ...] = values("traces that the events were read from", SourceFile, length_max=4096)
    provenance: str = text("where the recording comes from, for people", default="", length_max=4096)
    compression: str = enum("how blocks are stored in a .kvmr", "none", "zlib", default="none")
    complete_start: bool = flag("recording began before the first VM was created", default=True)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Trailer(ByFields):
    """Last record of a recording: what only the end knows."""

    events: int = uint("number of events", default=0)
    counters: tuple[Counter, ...] = values("losses, unknown things, ignored things", Counter, length_max=4096)

    def total(self, severity: str) -> int:
        """Return how many things of one severity were counted."""
        return sum(counter.count for counter in self.counters if counter.severity == severity)

    def cut_short(self) -> bool:
        """Tell whether only the front of the recording is there: what it lacks lies behind its last event."""
        return any(counter.kind in CUT_SHORT and counter.count for counter in self.counters)


def replace_machine(header: Header, **facts: Any) -> Header:
    """Return the header with some facts of its machine replaced."""
    return attrs.evolve(header, machine=attrs.evolve(header.machine, **facts))
