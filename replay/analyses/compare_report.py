"""Shape the result of `compare`: lanes with their bytes, pairs with their findings, and the verdict."""

from typing import Final

import attrs

from replay.analyses.findings import Agreement, ClassCount, Finding, Uncertainty
from replay.analyses.order_report import OrderReport
from replay.events.base import ByFields, enum, flag, sint, text, uint, value, values
from replay.kvm.tallies import Tally

SAME: Final = "same"
DIVERGENCE: Final = "divergence"
CANNOT_TELL: Final = "cannot tell"
VERDICTS: Final = (SAME, DIVERGENCE, CANNOT_TELL)
WITHOUT_ARGUMENTS: Final = "calls whose arguments were not recorded"
"""Name of a count: what these calls asked for may be any of the others."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Fact(ByFields):
    """One fact of a lane's profile."""

    name: str = text("name, as --profile takes it", length_max=64)
    value: str = text("its value", length_max=128)
    assumed: bool = flag("neither the recording nor the user says so")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Bytes(ByFields):
    """Memory of one kind in one lane: at most, ever allocated, and at the end of the recording.

    nominal: as the code asks for it. charged: whole pages, as the memory cgroup is charged. real: with the page-pointer arrays.
    """

    array: str = text("kind of array", length_max=32)
    allocations: int = uint("how many were made")
    live: int = uint("how many are there at the end")
    nominal_peak_bytes: int = uint("most at once", unit="bytes")
    nominal_total_bytes: int = uint("ever allocated", unit="bytes")
    nominal_end_bytes: int = uint("at the end", unit="bytes")
    charged_peak_bytes: int = uint("most at once", unit="bytes")
    charged_total_bytes: int = uint("ever allocated", unit="bytes")
    charged_end_bytes: int = uint("at the end", unit="bytes")
    real_peak_bytes: int = uint("most at once", unit="bytes")
    real_total_bytes: int = uint("ever allocated", unit="bytes")
    real_end_bytes: int = uint("at the end", unit="bytes")


def bytes_of(array: str, tally: Tally) -> Bytes:
    """Return a tally as a result value."""
    return Bytes(
        array=array,
        allocations=tally.count,
        live=tally.live,
        nominal_peak_bytes=tally.nominal_peak,
        nominal_total_bytes=tally.nominal_total,
        nominal_end_bytes=tally.nominal_now,
        charged_peak_bytes=tally.charged_peak,
        charged_total_bytes=tally.charged_total,
        charged_end_bytes=tally.charged_now,
        real_peak_bytes=tally.real_peak,
        real_total_bytes=tally.real_total,
        real_end_bytes=tally.real_now,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class VmBytes(ByFields):
    """gfn_write_track of one VM in one lane."""

    vm: int = uint("number of the VM", bits=32)
    write_track: Bytes = value("gfn_write_track", Bytes, default=bytes_of("gfn_write_track", Tally()))


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Exposure(ByFields):
    """Where -ENOMEM can come from: calls of one kind that allocate, and what they ask for."""

    call: str = text("kind of event", length_max=64)
    calls: int = uint("calls that allocate an array")
    arrays: int = uint("arrays allocated by them: places where -ENOMEM can arise")
    nominal_bytes: int = uint("asked for by them", unit="bytes")
    largest_bytes: int = uint("largest single array", unit="bytes")
    failed: int = uint("calls of this kind that failed with -ENOMEM in this lane", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Count(ByFields):
    """A count with a name."""

    name: str = text("what was counted", length_max=256)
    count: int = uint("how often")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class HorizonReport(ByFields):
    """The first event whose recorded result is not the lane's: from there on userspace would have acted otherwise."""

    event: int = uint("number of the event")
    kind: str = text("kind of the event", length_max=64)
    recorded: int = sint("recorded result")
    model: int = sint("this lane's result")
    why: str = text("check or allocation that gave it", length_max=256)
    differing: int = uint("results that differ, this one included")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LaneReport(ByFields):
    """One policy under one profile, and what it did with the recording."""

    name: str = text("name of the lane", length_max=128)
    policy: str = text("name of the policy", length_max=64)
    kernel: bool = flag(
        "some kernel or patch has this policy; else it is a yardstick: no result is held against it", default=True
    )
    factual: bool = flag("policy and profile are the recorded kernel's own")
    profile: tuple[Fact, ...] = values("facts of the machine", Fact, length_max=64)
    write_track: Bytes = value("gfn_write_track", Bytes, default=bytes_of("gfn_write_track", Tally()))
    arrays: tuple[Bytes, ...] = values("every per-slot allocation by kind", Bytes, length_max=16)
    by_vm: tuple[VmBytes, ...] = values("gfn_write_track of each VM that had one", VmBytes, length_max=1 << 20)
    exposure: tuple[Exposure, ...] = values("where -ENOMEM can come from", Exposure, length_max=32)
    warnings: tuple[Count, ...] = values("kernel warnings", Count, length_max=32)
    skipped: tuple[Count, ...] = values("events that can not happen under this profile", Count, length_max=8)
    checked: int = uint("recorded results that were held against this lane", default=0)
    horizon: HorizonReport | None = value("first result that differs from the recorded one", HorizonReport)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class PairReport(ByFields):
    """What differs between the reference lane and another one."""

    reference: str = text("name of the reference lane", length_max=128)
    other: str = text("name of the other lane", length_max=128)
    bound: bool = flag(
        "one of the two is no kernel: bytes alone are compared, and the verdict rests on other pairs if there are any"
    )
    strongest: str = text("strongest class found before any horizon, empty for none", length_max=32)
    ruled_out: str = text("stronger classes of which none was found, separated by a comma", default="", length_max=256)
    classes: tuple[ClassCount, ...] = values("findings by class, weakest first", ClassCount, length_max=16)
    findings: tuple[Finding, ...] = values("the findings, by event", Finding, length_max=1 << 20)
    findings_omitted: int = uint("findings beyond the limit: counted by class, not listed", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CompareReport(ByFields):
    """What the policies make of one recording."""

    title: str = text("title of the recording", length_max=256)
    events: int = uint("events replayed")
    vms: int = uint("VMs")
    verdict: str = enum(
        "same: no divergence; divergence: at least one; cannot tell: the recording lacks what is needed", *VERDICTS
    )
    sentence: str = text("the verdict in words", length_max=2048)
    never: tuple[Count, ...] = values("what the recording could have shown and how often it did; 0: never", Count, length_max=32)
    lanes: tuple[LaneReport, ...] = values("the lanes, the reference lane first", LaneReport, length_max=64)
    pairs: tuple[PairReport, ...] = values("each other lane against the reference lane", PairReport, length_max=64)
    agreements: tuple[Agreement, ...] = values("where the lanes agree though one might not expect it", Agreement, length_max=64)
    uncertainties: tuple[Uncertainty, ...] = values("what keeps the answer from being certain", Uncertainty, length_max=1 << 16)
    orders: OrderReport | None = value("calls that overlap in time; null: there are none", OrderReport)
