"""Shape the results of `fleet`: what became of each recording, and what all of them together say."""

from typing import Final

import attrs

from replay.analyses.compare_report import VERDICTS
from replay.analyses.findings import CLASSES, ClassCount
from replay.events.base import ByFields, enum, sint, text, uint, values

TROUBLE: Final = "trouble"
STATUSES: Final = (*VERDICTS, TROUBLE)
TEXT_MAX: Final = 8192
RANKING: Final = "strongest class (before any horizon, of the judged pairs), bytes saved, findings: most first; then name"
"""Which recordings to look at first; those in trouble are listed by themselves."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FleetPair(ByFields):
    """What one lane makes of one recording, held against the reference lane."""

    other: str = text("name of the lane", length_max=128)
    strongest: str = text("strongest class found before any horizon, empty for none", default="", length_max=32)
    first_event: int | None = uint("first event of that class", optional=True)
    findings: int = uint("findings before any horizon", default=0)
    behind_horizon: int = uint("findings behind a horizon", default=0)
    reference_peak_bytes: int = uint("gfn_write_track of the reference lane, charged, most at once", unit="bytes", default=0)
    other_peak_bytes: int = uint("the same of this lane", unit="bytes", default=0)
    saved_bytes: int = sint("the first less the second; negative: this lane takes more", default=0)
    classes: tuple[ClassCount, ...] = values("findings by class", ClassCount, length_max=16)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FleetRecording(ByFields):
    """What became of one recording."""

    name: str = text("the file", length_max=TEXT_MAX)
    digest: str = text("SHA-256 of the file, empty when it can not be read", default="", length_max=64)
    size_bytes: int = uint("size of the file", unit="bytes", default=0)
    status: str = enum("verdict, or trouble: it could not be replayed", *STATUSES)
    code: str = text("code of the trouble, as in docs/errors.md", default="", length_max=16)
    trouble: str = text("what is wrong", default="", length_max=TEXT_MAX)
    title: str = text("title of the recording", default="", length_max=256)
    sentence: str = text("the verdict in words", default="", length_max=TEXT_MAX)
    events: int = uint("events replayed", default=0)
    vms: int = uint("VMs", default=0)
    doubts: int = uint("doubts that matter", default=0)
    release: str = text("kernel release of the header, empty when it has none", default="", length_max=128)
    policy: str = text("policy of that release, empty when it is not known", default="", length_max=64)
    tdp: str = text("tdp of the header: y, n, or empty when it is not known", default="", length_max=1)
    tool: str = text("recorders and converters, joined by +", default="", length_max=1024)
    strongest: str = text("strongest class of the pairs that the verdict rests on, empty for none", default="", length_max=32)
    pairs: tuple[FleetPair, ...] = values("each lane against the reference lane", FleetPair, length_max=64)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Saved(ByFields):
    """Distribution of the bytes that one lane saves, over recordings that could be replayed; nearest rank."""

    other: str = text("name of the lane", length_max=128)
    recordings: int = uint("recordings that were replayed in this lane")
    p50_bytes: int = sint("half of the recordings save at most this", unit="bytes", default=0)
    p90_bytes: int = sint("nine in ten save at most this", unit="bytes", default=0)
    p99_bytes: int = sint("99 in 100 save at most this", unit="bytes", default=0)
    max_bytes: int = sint("the most that one saves", unit="bytes", default=0)
    total_bytes: int = sint("sum over all", unit="bytes", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FleetClass(ByFields):
    """How often one class of divergence was met, before any horizon."""

    divergence: str = enum("class of the divergence", *CLASSES)
    strongest_of: int = uint("recordings of which it is the strongest class")
    recordings: int = uint("recordings in which it was found, in any pair")
    findings: int = uint("findings, all pairs together")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Look(ByFields):
    """A recording to look at first."""

    name: str = text("the file", length_max=TEXT_MAX)
    status: str = enum("verdict", *STATUSES)
    strongest: str = text("its strongest class", length_max=32)
    first_event: int | None = uint("first event of that class", optional=True)
    saved_bytes: int = sint("bytes saved, of the lane that saves most", unit="bytes")
    findings: int = uint("findings before any horizon, all pairs together")
    title: str = text("its title", default="", length_max=256)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Group(ByFields):
    """The recordings whose headers have one fact in common."""

    fact: str = enum("fact of the header", "release", "policy", "tdp", "tool")
    value: str = text("its value, 'not known' when the header lacks it", length_max=1024)
    recordings: int = uint("recordings")
    same: int = uint("without divergence")
    divergence: int = uint("with at least one")
    cannot_tell: int = uint("that lack what the answer needs")
    saved_p50_bytes: int = sint("half of them save at most this, in the lane that saves most", unit="bytes")
    saved_max_bytes: int = sint("the most that one saves", unit="bytes")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Trouble(ByFields):
    """Recordings that could not be replayed, by code."""

    code: str = text("code, as in docs/errors.md", length_max=16)
    recordings: int = uint("recordings")
    name: str = text("the first of them, by name", length_max=TEXT_MAX)
    trouble: str = text("what is wrong with that one", length_max=TEXT_MAX)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class FleetReport(ByFields):
    """What many recordings say together. The same for any number of processes, and for any order in which they finish."""

    lanes: str = text("lanes, the reference lane first", length_max=4096)
    profile: str = text("facts that stand above the headers", default="", length_max=4096)
    engine: str = text("version of what replayed them: the release, and a digest of its code", length_max=64)
    recordings: int = uint("recordings")
    same: int = uint("without divergence")
    divergence: int = uint("with at least one")
    cannot_tell: int = uint("that lack what the answer needs")
    trouble: int = uint("that could not be replayed")
    events: int = uint("events replayed, all recordings together")
    saved: tuple[Saved, ...] = values("bytes saved, by lane", Saved, length_max=64)
    classes: tuple[FleetClass, ...] = values("classes of divergence, weakest first", FleetClass, length_max=16)
    ranking: str = text("how the next list is ordered", default=RANKING, length_max=512)
    look_first: tuple[Look, ...] = values("recordings to look at first", Look, length_max=1000)
    groups: tuple[Group, ...] = values("recordings by facts of their headers", Group, length_max=4096)
    troubles: tuple[Trouble, ...] = values("recordings that could not be replayed, by code", Trouble, length_max=256)
