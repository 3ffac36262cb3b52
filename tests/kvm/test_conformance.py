"""Promises of the model against real kernels: every recorded fact that can be compared agrees.

docs/conformance.md pins how many comparisons each kernel, configuration and recording gives.
"""

from pathlib import Path

import pytest
from conformance_page import WHY_NOT, WHY_PASSED_OVER, Case, cases, explained, folders, page
from kernel_recordings import KERNELS, PREFIXES, kernel_of, paths

from replay.analyses.check import check
from replay.recording import open_recording

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "conformance.md"
NAMES = [f"{path.parent.name}/{path.stem}" for path in paths()]
RECORDING_BYTES_MAX = 100 << 10
ALL_BYTES_MAX = 3 << 20
CASES_OF_A_BATTERY = {"6.1": 33, "6.12": 33, "6.12eager": 16}
"""Recordings of each full configuration; the random scripts, and those from 30 on, ran on the unchanged kernels only."""

LACKING = {"15-enomem-oomkill": 9, "22-nested": 1, "25-notifier-events": 3}
"""Scripts that lack something, and in how many recordings what it lacks could have been compared."""


def case_of(name: str) -> Case:
    """Return one checked recording."""
    (case,) = [case for case in cases() if f"{case.folder}/{case.name}" == name]
    return case


class TestKernels:
    """Model and kernel agree in every comparison, and there are comparisons."""

    @pytest.mark.parametrize("name", NAMES)
    def test_agrees(self, name: str) -> None:
        """No recorded result, state or allocation contradicts the model."""
        report = case_of(name).report
        assert [(m.event, m.what, m.expected, m.observed) for m in report.mismatches] == []
        assert report.agreed == report.checked > 0
        assert report.status() == (3 if name.partition("/")[2] in LACKING and report.doubtful else 0)

    def test_what_lacks_something(self) -> None:
        """The probe was killed in one script, and two ran guests that nobody watched: those answer "cannot tell"."""
        lacking = [case.name for case in cases() if case.report.status() == 3]
        assert {name: lacking.count(name) for name in LACKING} == LACKING
        assert len(lacking) == sum(LACKING.values())

    def test_all_kernels_are_there(self) -> None:
        """Nine full batteries of three kernels, two cloud kernels, five-level paging, two CPUs and a 6.18 are checked."""
        assert len(NAMES) == 265
        for kernel, count in CASES_OF_A_BATTERY.items():
            for configuration in ("npt0", "npt1", "npt1-notdpmmu"):
                assert sum(case.folder == f"{kernel}-{configuration}" for case in cases()) == count
        assert {folder.partition("-")[0] for folder in folders(cases())} == set(PREFIXES)

    def test_every_fact_is_compared_somewhere(self) -> None:
        """All kinds of facts occur, each many times."""
        totals: dict[str, int] = {}
        for case in cases():
            for facet in case.report.facets:
                totals[facet.name] = totals.get(facet.name, 0) + facet.checked
        assert sorted(totals) == [
            "VM state",
            "allocations by site",
            "gfn counters",
            "results of adds, removes and queries",
            "results of calls",
            "slot arrays",
            "slot geometry and flags",
            "slots and their order",
        ]
        assert min(totals.values()) > 500


class TestOtherModels:
    """The comparisons can fail: a model of another kernel is contradicted."""

    @pytest.mark.parametrize(
        ("name", "policy"),
        [
            ("6.12-npt1/03-lifecycle", "eager"),
            ("6.12-npt1/04-register", "eager"),
            ("6.12eager-npt1/03-lifecycle", "on-demand"),
            ("6.1-npt1/03-lifecycle", "on-demand"),
            ("6.1-npt1/07-move", "eager-6.6"),
        ],
    )
    def test_another_policy_is_contradicted(self, name: str, policy: str) -> None:
        """A kernel's recording does not agree with another policy."""
        report = check(open_recording(str(KERNELS / f"{name}.kvmr")), policy=policy)
        assert report.mismatch_count > 0
        assert report.status() == 1

    @pytest.mark.parametrize(
        ("name", "fact", "value"),
        [
            ("6.12-npt1/02-sizes", "tdp", False),
            ("6.12-npt1-notdpmmu/02-sizes", "tdp_mmu", True),
            ("6.12-npt1/03-lifecycle", "smm", False),
            ("6.12-npt1/06-errors", "max_phys_bits", 52),
            ("6.12-npt1/06-errors", "la57", True),
            ("6.12-npt1/04-register", "config_external_write_tracking", False),
        ],
    )
    def test_another_machine_is_contradicted(self, name: str, fact: str, value: object) -> None:
        """A fact of the profile that is not the machine's shows."""
        stream = open_recording(str(KERNELS / f"{name}.kvmr"))
        report = check(stream, {fact: value}, policy=kernel_of(Path(name).parent.name).policy)
        assert report.mismatch_count > 0


class TestRecordings:
    """The recordings are small, say where they come from, and can be carried about."""

    def test_sizes(self) -> None:
        """Each stays under 100 KiB, all together under 3 MiB."""
        sizes = [path.stat().st_size for path in paths()]
        assert max(sizes) < RECORDING_BYTES_MAX
        assert sum(sizes) < ALL_BYTES_MAX

    @pytest.mark.parametrize("name", NAMES)
    def test_header_says_where_it_comes_from(self, name: str) -> None:
        """Kernel, CONFIG, paging and provenance are in the header."""
        with open_recording(str(KERNELS / f"{name}.kvmr")) as stream:
            header = stream.header
        machine = header.machine
        assert header.title == name
        assert kernel_of(Path(name).parent.name).name in header.provenance
        releases = {"6.12": "6.12.117", "6.18": "6.18.44", "6.1": "6.1.192"}
        assert machine.kernel_release == next(release for prefix, release in releases.items() if name.startswith(prefix))
        assert machine.tdp is ("npt0" not in name and "pvm" not in name)
        assert bool(machine.tdp_mmu) is ("npt1" in name and "notdpmmu" not in name)
        assert machine.config_external_write_tracking is ("cloud" not in name and "pvm" not in name)


class TestPage:
    """docs/conformance.md says what the checks give."""

    def test_is_generated_from_the_recordings(self) -> None:
        """The page is what `python tests/kvm/conformance_page.py > docs/conformance.md` writes."""
        assert PAGE.read_text() == page(cases())

    def test_another_count_shows(self) -> None:
        """The page without one recording is another page: the comparison above can fail."""
        assert page(cases()[:-1]) != page(cases())

    def test_every_exception_is_explained_and_occurs(self) -> None:
        """Each reason why a fact is not compared is explained once, and no explanation is left over."""
        reasons = {explained(reason.reason, WHY_NOT) for case in cases() for reason in case.report.reasons}
        passed = {explained(counter.kind, WHY_PASSED_OVER) for case in cases() for counter in case.trailer.counters}
        assert reasons == set(WHY_NOT)
        assert passed == set(WHY_PASSED_OVER)
        assert all(counter.severity != "unknown" for case in cases() for counter in case.trailer.counters)
