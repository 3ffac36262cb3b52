"""Write the golden files and the contents of recordings/catalogue/: `python tests/catalogue/catalogue_page.py`.

A recording's own lines say the rest: `# lanes: A,B` which lanes its report compares when not the default ones, the other
comments what happens. The program must be importable: install it, or set PYTHONPATH to the checkout.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import attrs

from replay.analyses.compare import compare
from replay.analyses.compare_report import CompareReport
from replay.analyses.findings import strength
from replay.engine.lanes import DEFAULT_LANES, make_lanes
from replay.golden.files import Wish, update_golden
from replay.golden.questions import Question
from replay.recording import open_recording
from replay.report.compare_text import compare_text

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CATALOGUE: Final = ROOT / "recordings" / "catalogue"
PAGE: Final = CATALOGUE / "README.md"
_LANES: Final = "# lanes: "

INTRODUCTION: Final = """\
# Catalogue of divergences

How eager and on-demand allocation of write tracking differ, one small recording for each way, written by hand: the story in
comments, then one event a line. Numbers are decimal, as JSON has no others. Beside each recording is its golden
file ([docs/goldens.md](../../docs/goldens.md)): what each policy allocates, each divergence, and that the model is its kernel.
`kvm-replay compare` says the same with the reasons and the place in the kernel.

Rows D1 to D36 are stable names; a report names the row of each thing it finds. "agree" rows are places where one might expect
a difference and there is none. H rows are races found by reading, which a recording can only make a candidate of; H1 is D36.
Some recordings compare further policies: v1 and v2 are the first versions of the patch, always is what kernels before 5.16 do,
ideal is no kernel but a lower bound for bytes.

A few rows have recordings of kernels and processors that no test machine has: the first and last releases of a policy, Intel,
AVIC, the edge of a memory cgroup's limit. Their results are those of the source that the story names; they are there so that each
rule of the model is held by a recording ([docs/testing.md](../../docs/testing.md)).

The class is the strongest one that is found before userspace would have acted otherwise. The recorded kernel stands in the
first line of each recording; its results are that kernel's.

This page and the golden files are generated: `python tests/catalogue/catalogue_page.py` renews them, a test holds them together.
"""


@attrs.frozen
class Entry:
    """One recording of the catalogue. row: the row that its name says. story: its comments before the first event."""

    path: Path
    row: str
    title: str
    lanes: tuple[str, ...]
    story: str

    @property
    def name(self) -> str:
        """Name of the file without its ending."""
        return self.path.stem

    @property
    def golden(self) -> Path:
        """Golden file beside it."""
        return self.path.with_name(f"{self.path.name}.golden")


def entries() -> list[Entry]:
    """Return the recordings, in the order of their names."""
    return [_entry(path) for path in sorted(CATALOGUE.glob("*.jsonl"))]


def _entry(path: Path) -> Entry:
    header, *lines = path.read_text().splitlines()
    lanes = [line.removeprefix(_LANES).split(",") for line in lines if line.startswith(_LANES)]
    first_event = next(index for index, line in enumerate(lines) if line.startswith("{"))
    story = [line.removeprefix("# ") for line in lines[:first_event] if line.startswith("# ") and not line.startswith(_LANES)]
    title: dict[str, Any] = json.loads(header)
    row = str(title["title"]).split()[0]
    return Entry(path, row, title["title"], tuple(lanes[0] if lanes else DEFAULT_LANES), " ".join(story))


def report_of(entry: Entry) -> CompareReport:
    """Replay a recording of the catalogue through its lanes."""
    with open_recording(str(entry.path)) as stream:
        return compare(stream, make_lanes(entry.lanes, stream.header.machine))


def text_of(report: CompareReport) -> str:
    """Return what `compare` prints."""
    return "".join(f"{line}\n" for line in compare_text(report))


def questions_of(entry: Entry) -> tuple[Question, ...]:
    """Return what a recording's golden file asks: its lanes, and whether the model is its kernel."""
    return (Question("compare", lanes=",".join(entry.lanes)), Question("check"))


def rows_named(report: CompareReport) -> dict[str, int]:
    """Return how often each row of the catalogue is named: by findings, by their aspects, by agreements."""
    counts: dict[str, int] = {}
    for pair in report.pairs:
        for finding in pair.findings:
            for row in {finding.catalogue, *(aspect.catalogue for aspect in finding.aspects)} - {""}:
                counts[row] = counts.get(row, 0) + 1
    for agreement in report.agreements:
        counts[agreement.catalogue] = counts.get(agreement.catalogue, 0) + 1
    return counts


def strongest_of(report: CompareReport) -> str:
    """Return the strongest class of all pairs of two kernels, "" for none."""
    found = [pair.strongest for pair in report.pairs if pair.strongest and not pair.bound]
    return max(found, key=strength, default="")


def page() -> str:
    """Return the table of contents."""
    lines = [INTRODUCTION, "| recording | row | lanes | verdict | class | what it shows |", "|---|---|---|---|---|---|"]
    for entry in entries():
        report = report_of(entry)
        shows = entry.title.removeprefix(f"{entry.row} ")
        agrees = entry.row in {agreement.catalogue for agreement in report.agreements}
        row = f"{entry.row} (agree)" if agrees else entry.row
        lanes = ", ".join(entry.lanes)
        lines.append(f"| `{entry.path.name}` | {row} | {lanes} | {report.verdict} | {strongest_of(report) or 'none'} | {shows} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and every golden file; say what changed."""
    for entry in entries():
        update_golden(str(entry.golden), Wish(questions=questions_of(entry)))
    PAGE.write_text(page())
    subprocess.run(["git", "status", "--short", str(CATALOGUE)], cwd=ROOT, check=False)


if __name__ == "__main__":
    main()
