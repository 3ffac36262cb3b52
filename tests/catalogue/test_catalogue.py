"""Promises of recordings/catalogue/: each recording shows its row, and its report and the page are what the program says."""

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from catalogue_page import CATALOGUE, PAGE, ROOT, Entry, entries, page, questions_of, report_of, rows_named, strongest_of, text_of

from replay.analyses.catalogue import BOUND
from replay.analyses.check import check
from replay.analyses.policy_list import CATALOGUE_ROWS
from replay.cli import main
from replay.events import AllocFail, MemoryLimit, NotifierRegister, NotifierUnregister
from replay.events.base import VmCall
from replay.golden.parsed import parse
from replay.kvm.policies import POLICIES, policy_for
from replay.kvm.release import Release
from replay.recording import Writer, open_recording
from replay.runs import events_of

STATUS = {"same": 0, "divergence": 1, "cannot tell": 3}


@attrs.frozen
class Case:
    """What a recording must show: verdict, strongest class before the horizon, and how often rows are named."""

    verdict: str
    strongest: str
    rows: dict[str, int]


def bytes_only(**rows: int) -> Case:
    """Return the case of a recording whose lanes differ in nothing but bytes."""
    return Case("divergence", "bytes-only", rows)


def same(**rows: int) -> Case:
    """Return the case of a recording whose lanes do not differ."""
    return Case("same", "", rows)


def stronger(strongest: str, **rows: int) -> Case:
    """Return the case of a recording whose lanes differ in more than bytes."""
    return Case("divergence", strongest, rows)


CASES: dict[str, Case] = {
    "D01-all-without-option": bytes_only(D1=2),
    "D01-always": bytes_only(D1=4),
    "D01-bytes": bytes_only(D1=3),
    "D01-sign-only": bytes_only(D1=3),
    "D01-slab-classes": bytes_only(D1=2),
    "D01-v1-opt-out": stronger("result-differs", D1=6, D33=1),
    "D02-one-gfn": bytes_only(D2=3),
    "D02-register": bytes_only(D2=2),
    "D02-v1-opt-out": stronger("result-differs", D2=3, D1=2, D33=1),
    "D03-register-first": same(D3=1),
    "D04-sticky": bytes_only(D4=1, D2=2),
    "D05-shadow-root": bytes_only(D5=2),
    "D05-v2-shadow-root": bytes_only(D5=4, D3=1),
    "D06-register-then-root": bytes_only(D6=1, D2=2),
    "D07-enomem-open": stronger("enomem-moved", D7=2, D8=3),
    "D07-enomem-run": stronger("enomem-moved", D7=2),
    "D07-injections": stronger("enomem-gone", D7=5, D1=1),
    "D07-limit-edges": stronger("enomem-gone", D7=2, D1=3),
    "D08-first-release": stronger("enomem-new", D8=5, D2=1),
    "D08-partial-register": stronger("enomem-new", D8=2, D2=2),
    "D08-v2-partial-register": stronger("enomem-new", D8=12, D2=4),
    "D09-partial-root": bytes_only(D9=1, D5=1),
    "D09-root-enomem": stronger("enomem-new", D9=2, D5=1),
    "D09-v2-partial-root": bytes_only(D9=1),
    "D10-after-partial": stronger("enomem-new", D10=1, D8=2, D2=1),
    "D10-v2-after-partial": bytes_only(D10=1, D9=1),
    "D11-add-unregistered": stronger("state-differs", D11=3),
    "D11-v1-v2": stronger("state-differs", D11=6, D1=3, D2=1, D33=4),
    "D12-remove-unregistered": stronger("state-differs", D12=1),
    "D13-remove-after-unregister": bytes_only(D13=1),
    "D14-first-release": stronger("result-differs", D14=1),
    "D14-last-release": stronger("result-differs", D14=2, D2=2),
    "D14-move-with-notifier": stronger("result-differs", D14=1),
    "D15-move-live-counts": bytes_only(D15=1),
    "D16-move-peak": bytes_only(D16=1),
    "D17-failed-move": stronger("state-differs", D17=1, D14=1),
    "D17-reopened": stronger("state-differs", D17=1, D14=2),
    "D18-two-address-spaces": bytes_only(D18=1, D2=4),
    "D19-avic": bytes_only(D19=2, D1=2),
    "D19-internal-enomem": stronger("enomem-gone", D19=3),
    "D19-internal-memslots": bytes_only(D19=6),
    "D19-no-flexpriority": bytes_only(D19=4, D1=1),
    "D19-unrestricted-guest": bytes_only(D19=2, D1=2),
    "D20-dirty-log": bytes_only(D20=1),
    "D21-private-memory": bytes_only(D21=1, D1=2),
    "D21-readonly-gmem": bytes_only(D21=1, D1=3),
    "D22-query-before": bytes_only(D22=1),
    "D23-always": stronger("result-differs", D23=2, D2=2),
    "D23-foreign-mm": bytes_only(D23=1),
    "D23-foreign-mm-old": stronger("result-differs", D23=1),
    "D23-ideal": stronger("", D23=1),
    "D23-v1-opt-out": stronger("result-differs", D23=1, D33=1, D1=2),
    "D24-tdx": stronger("result-differs", D24=1, D1=1, D21=1, D23=1),
    "D25-racing-registrations": bytes_only(D25=1, H4=1),
    "D26-no-ept": same(D26=1),
    "D26-tdp-off": same(D26=1),
    "D27-config-n": same(D27=1),
    "D27-first-release": same(D27=1),
    "D28-memory-cgroup": bytes_only(D28=2),
    "D29-latency": bytes_only(D29=2),
    "D30-vmallocinfo": bytes_only(D30=2, D2=1, D5=1),
    "D31-churn": bytes_only(D31=2),
    "D32-oversized": stronger("enomem-gone", D32=2),
    "D33-opt-out-order": stronger("result-differs", D33=4),
    "D33-tdp-off": stronger("result-differs", D33=2, D26=1),
    "D33-without-option": stronger("result-differs", D33=5, D27=1),
    "D34-after-root": bytes_only(D34=1),
    "D35-smm-read": bytes_only(D35=1),
    "D35-smm-shadow-pages": bytes_only(D35=1, D5=3, D18=1),
    "D36-stale-slot-copy": stronger("race-only", D36=1),
    "D36-without-option": same(D36=1, D20=1, D27=1),
    "H1-rmap-twin": stronger("race-only", **{"H1'": 1, "D36": 1}),
    "H3-move-beside-later-registration": bytes_only(H3=1),
    "H3-move-beside-registration": stronger("race-only", H3=1, D36=1),
    "H4-two-vgpus": bytes_only(H4=1),
}
ENTRIES = entries()
by_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


class TestCompleteness:
    """The catalogue has every row."""

    def test_every_row(self) -> None:
        """Each of the 36 rows has a recording, and each race that a recording can hint at; its report names the row."""
        rows = {f"D{number}" for number in range(1, 37)}
        assert {entry.row for entry in ENTRIES} == rows | {"H1'", "H3", "H4"}
        assert len(rows) == 36

    def test_every_policy(self) -> None:
        """Each policy is compared in some recording, and `kvm-replay policies` names the rows of those recordings."""
        found: dict[str, dict[str, None]] = {policy.name: {} for policy in POLICIES}
        for entry in ENTRIES:
            for lane in report_of(entry).lanes:
                found[lane.policy][entry.row] = None
        assert {name: set(rows) for name, rows in found.items()} == {name: set(rows) for name, rows in CATALOGUE_ROWS.items()}
        assert all(found.values())

    def test_every_recording_has_a_case(self) -> None:
        """The table here and the folder name the same recordings, and no report is left of one that is gone."""
        assert {entry.name for entry in ENTRIES} == set(CASES)
        assert {path.name for path in CATALOGUE.glob("*.golden")} == {entry.golden.name for entry in ENTRIES}
        assert len(ENTRIES) == 75

    def test_page_is_generated(self) -> None:
        """The page says what the recordings give: `python tests/catalogue/catalogue_page.py` renews it."""
        assert PAGE.read_text() == page()


@by_entry
class TestRecording:
    """Each recording is a true one, and tells its story."""

    def test_story(self, entry: Entry) -> None:
        """It says in a few sentences what happens, and its name is that of its row."""
        assert 2 <= sum(entry.story.count(end) for end in (". ", "? ", ": ")) + 1 <= 8
        assert entry.story.endswith(".")
        assert entry.name.split("-")[0].replace("D0", "D") == entry.row.rstrip("'")
        assert max(len(line) for line in entry.path.read_text().splitlines()) <= 400

    def test_is_what_its_kernel_returns(self, entry: Entry) -> None:
        """One lane is the recorded kernel, and it gives every recorded result; no fact of the machine that matters is assumed."""
        report = report_of(entry)
        (factual,) = [lane for lane in report.lanes if lane.factual]
        assert factual.horizon is None
        assert factual.checked >= 2
        assert report.uncertainties == ()
        assert not any(fact.assumed for lane in report.lanes for fact in lane.profile)

    def test_checks_out(self, entry: Entry) -> None:
        """The model agrees with everything that the recording says, observations included."""
        with open_recording(str(entry.path)) as stream:
            report = check(stream)
        assert report.status() == 0
        assert sum(facet.checked for facet in report.facets) >= 1

    def test_results_are_recorded(self, entry: Entry) -> None:
        """Each call has its result, but for the end of a registration and for a registration before 6.6, which have none."""
        with open_recording(str(entry.path)) as stream:
            old = not policy_for(Release.parse(str(stream.header.machine.kernel_release))).register_checks_mm
            events = list(events_of(stream.items()))
        void = (NotifierUnregister, NotifierRegister) if old else (NotifierUnregister,)
        calls = [event for event in events if isinstance(event, VmCall) and not isinstance(event, void)]
        assert calls
        assert [event for event in calls if event.ret is None] == []
        failing = [event for event in calls if event.ret == -12]
        told = [event for event in events if isinstance(event, AllocFail | MemoryLimit)]
        assert not failing or told, "a failed allocation must be told from where it comes"


@by_entry
class TestReport:
    """Each report names its row; the golden files are tests of their own, see pyproject.toml."""

    def test_golden(self, entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
        """Its golden file asks about its lanes; the program ends with the verdict's status and says what the report says."""
        asked = parse(entry.golden.read_text(), entry.golden.name).questions
        assert tuple(asked) == questions_of(entry)
        case = CASES[entry.name]
        assert main(["compare", "--lanes", ",".join(entry.lanes), str(entry.path)]) == STATUS[case.verdict]
        assert capsys.readouterr().out == text_of(report_of(entry))

    def test_verdict(self, entry: Entry) -> None:
        """Verdict, strongest class and the number of times that its rows are named are those of the table."""
        case, report = CASES[entry.name], report_of(entry)
        named = rows_named(report)
        assert (report.verdict, strongest_of(report)) == (case.verdict, case.strongest)
        assert {row: named.get(row, 0) for row in case.rows} == case.rows
        assert named.get(entry.row, 0) >= 1

    def test_findings_are_explained(self, entry: Entry) -> None:
        """Every finding has a row or is explained, has causes in the recording, and events that are in order."""
        report = report_of(entry)
        findings = [finding for pair in report.pairs for finding in pair.findings]
        assert bool(findings) == (report.verdict == "divergence")
        for finding in findings:
            assert finding.catalogue or finding.title == BOUND.title
            assert finding.title != "unexplained"
            assert finding.explanation
            assert finding.source
            assert finding.root_cause_event <= finding.event < report.events
            for later in (finding.visible_event, finding.converged_event):
                assert later is None or finding.event <= later < report.events


SEEDED = ("D07-enomem-open", "D08-partial-register", "D19-internal-memslots", "D30-vmallocinfo", "H3-move-beside-registration")
PROBE = """
import sys
from replay.cli import main
for name in sys.argv[1:]:
    for form in ("text", "json", "jsonl"):
        main(["compare", "--format", form, name])
"""


def outputs(names: list[str], seed: int) -> bytes:
    """Return what a fresh process with a hash seed prints of recordings, in all forms."""
    env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PROBE, *names], cwd=ROOT, env=env, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout


class TestDeterminism:
    """The same recording gives the same bytes."""

    def test_hash_seeds(self) -> None:
        """Text and JSON are the same for eight hash seeds, each in a process of its own."""
        names = [str(CATALOGUE / f"{name}.jsonl") for name in SEEDED]
        first = outputs(names, 0)
        assert first.count(b'"schema"') == 2 * len(SEEDED)
        assert [seed for seed in range(1, 8) if outputs(names, seed) != first] == []

    @pytest.mark.parametrize("name", SEEDED)
    @pytest.mark.parametrize("form", ["text", "json"])
    def test_either_form_of_a_recording(self, name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A recording converted to the container gives the same report as its text."""
        path, converted = CATALOGUE / f"{name}.jsonl", tmp_path / f"{name}.kvmr"
        with open_recording(str(path)) as stream, Writer(converted, stream.header) as writer:
            for item in stream.items():
                writer.write(item)
            writer.finish(stream.trailer())
        reports = []
        for source in (path, converted):
            assert main(["compare", "--format", form, str(source)]) == 1
            reports.append(capsys.readouterr().out)
        assert reports[0] == reports[1] != ""

    def test_a_changed_report_shows(self) -> None:
        """The comparison can fail: another recording's report is another one, and so is its golden file."""
        first, second = ENTRIES[:2]
        assert text_of(report_of(first)) != text_of(report_of(second))
        assert first.golden.read_text() != second.golden.read_text()
