"""Shape the result of `golden`: each file, whether it says what the model says now, and what differs."""

from typing import Final

import attrs

from replay.events.base import ByFields, enum, text, uint, values

SAME: Final = "same"
DIFFERS: Final = "differs"
MISSING: Final = "missing"
UNUSED: Final = "unused"
TROUBLE: Final = "trouble"
WRITTEN: Final = "written"
KEPT: Final = "kept"
STATES: Final = {
    SAME: "it says what the model says now",
    DIFFERS: "it says something else",
    MISSING: "there is a recording and no golden file beside it",
    UNUSED: "there is a golden file and no recording that it is of",
    TROUBLE: "recording or golden file can not be read",
    WRITTEN: "written anew",
    KEPT: "nothing to write",
}
"""Every state of one file, with what it means."""
DIFFERENCES_MAX: Final = 1000
"""Most differences that are kept of one file; all of them are counted."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GoldenDetail(ByFields):
    """One line of a place that differs: in a finding, what one lane did."""

    what: str = text("label of the line: a lane, an array, a count; empty for the place's own line", length_max=4096)
    before: str | None = text("what the golden file says; null: it has no such line", length_max=1 << 16, optional=True)
    after: str | None = text("what is found now; null: nothing", length_max=1 << 16, optional=True)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GoldenDifference(ByFields):
    """One place in which a golden file and the model part: a finding, a lane's totals, an event, the verdict."""

    question: str = text("question that it is about, as it stands in the file; empty: about the recording", length_max=4096)
    place: str = text("where: the pair of lanes and the finding, the lane, the events", length_max=8192)
    event: int | None = uint("event of the finding", optional=True)
    line: int = uint("line of the golden file, 0 when it has none for it", default=0)
    details: tuple[GoldenDetail, ...] = values("the lines that differ", GoldenDetail, length_max=1 << 16)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GoldenFile(ByFields):
    """What became of one golden file, or of a recording without one."""

    golden: str = text("the golden file", length_max=8192)
    recording: str = text("the recording that it is of; the golden file itself when it holds the events", length_max=8192)
    state: str = enum("what became of it", *STATES)
    code: str = text("code of what is wrong, as in docs/errors.md", default="", length_max=16)
    trouble: str = text("what is wrong, and where", default="", length_max=8192)
    differences: tuple[GoldenDifference, ...] = values(
        "what differs, in the order of the file", GoldenDifference, length_max=1 << 16
    )
    difference_count: int = uint("how many places differ", default=0)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GoldenReport(ByFields):
    """What `golden` found, file by file in the order of their names."""

    files: tuple[GoldenFile, ...] = values("the files", GoldenFile, length_max=1 << 20)
    same: int = uint("how many say what the model says", default=0)
    differs: int = uint("how many say something else", default=0)
    missing: int = uint("recordings without a golden file", default=0)
    unused: int = uint("golden files without a recording", default=0)
    trouble: int = uint("files that can not be read", default=0)
    written: int = uint("golden files written anew", default=0)
    kept: int = uint("golden files that were right already", default=0)


def golden_report(files: list[GoldenFile]) -> GoldenReport:
    """Return the report of some files."""
    counts = {state: sum(file.state == state for file in files) for state in STATES}
    return GoldenReport(files=tuple(files), **counts)
