"""Promises of comparisons of more than two lanes, and of the lane that is no kernel."""

import pytest
from comparisons import REGISTER, ROOT, report_of
from lane_samples import machine, replay, slot

from replay.analyses.catalogue import BOUND
from replay.analyses.check import Checker
from replay.analyses.compare_report import CompareReport
from replay.analyses.policy_list import AXES, CATALOGUE_ROWS, policies_report
from replay.analyses.state_report import state_report
from replay.analyses.verdict import judged_pairs
from replay.engine.lanes import make_lanes
from replay.errors import ProfileError
from replay.events import AllocFail, Event, VmCreate, VmEnableCap, WriteTrackAdd
from replay.header import Header
from replay.kvm.policies import POLICIES
from replay.report.compare_text import compare_text
from replay.report.policies_text import policies_text
from replay.report.state_text import state_text
from replay.units import Gfn

NEW = VmCreate(vm=0, ret=3)
START: list[Event] = [NEW, slot(0, ret=0), slot(1, ret=0)]
SIX = ("eager", "on-demand", "always", "v1", "v2", "ideal")


def add(gfn: int) -> WriteTrackAdd:
    """Return a successful add."""
    return WriteTrackAdd(vm=0, gfn=Gfn(gfn), ret=0)


def text_of(report: CompareReport) -> str:
    """Return the text of a report."""
    return "\n".join(compare_text(report))


class TestMany:
    """Any number of lanes, each against the first."""

    def test_pairs(self) -> None:
        """Six lanes make five pairs against the first one, in their order."""
        report = report_of([*START, REGISTER], SIX)
        assert [(pair.reference, pair.other) for pair in report.pairs] == [("eager", name) for name in SIX[1:]]
        assert [lane.kernel for lane in report.lanes] == [True] * 5 + [False]

    def test_all(self) -> None:
        """The word all compares every policy; without the option all but v2."""
        events = [*START, REGISTER]
        assert {lane.policy for lane in report_of(events, ["all"]).lanes} == {policy.name for policy in POLICIES}
        option_off = report_of(START, ["all"], recorded=machine(config_external_write_tracking=False))
        assert {lane.policy for lane in option_off.lanes} == {policy.name for policy in POLICIES} - {"v2"}
        assert option_off.verdict == "divergence"  # always allocates all the same
        assert "D27" not in {agreement.catalogue for agreement in option_off.agreements}

    def test_size_of_memslot_objects(self) -> None:
        """Releases of one policy whose memslot objects are of other sizes do not differ; what each takes is in its own row."""
        moved, flagged, gone = slot(0, base=0x800, ret=0), slot(1, flags=1, ret=0), slot(1, npages=0, ret=0)
        report = report_of([*START, moved, flagged, gone], ["6.6", "6.8"])
        assert (report.verdict, report.pairs[0].findings) == ("same", ())
        sizes = [next(one for one in lane.arrays if one.array == "slot").nominal_end_bytes for lane in report.lanes]
        assert sizes == [264, 280]

    def test_same_findings_are_said_once(self) -> None:
        """Pairs that read alike share one sentence of the verdict, and the later one refers to the first."""
        report = report_of([*START, REGISTER], SIX)
        assert report.sentence.count("differ in bytes only") == 1
        assert "eager and on-demand/v2 differ in bytes only" in report.sentence
        text = text_of(report)
        assert text.count("the same findings as those of on-demand, above") == 1
        assert text.count("D2 allocation moved to the first notifier registration") == 1
        assert max(map(len, text.splitlines())) <= 130

    def test_lanes_that_differ_are_said_apart(self) -> None:
        """Where v2 and on-demand differ nothing is left out."""
        events = [*START, AllocFail(site="memslot_rmap_alloc", nth=4), ROOT]
        text = text_of(report_of(events, ("eager", "on-demand", "v2"), recorded=machine("6.12.0")))
        assert "the same findings" not in text
        assert text.count("D9 first shadow root that runs out of memory") >= 2


class TestNoKernel:
    """The lane ideal is a yardstick for bytes."""

    def test_results_are_not_compared(self) -> None:
        """On-demand fails to register for want of memory; ideal does not, and that is no finding of any kind."""
        events = [*START, AllocFail(site="gfn_write_track", count=0), REGISTER, slot(2, ret=0)]
        report = report_of(events, ("on-demand", "ideal"), recorded=machine("6.12.0"))
        (pair,) = report.pairs
        assert pair.bound
        assert {finding.divergence for finding in pair.findings} <= {"bytes-only"}

    def test_verdict_rests_on_kernels(self) -> None:
        """Lanes of kernels that agree are the same whatever ideal does without; the report says how little would do."""
        report = report_of([*START, REGISTER], ("eager", "v1", "ideal"))
        assert report.verdict == "same"
        assert [pair.other for pair in judged_pairs(report)] == ["v1"]
        assert [pair.other for pair in report.pairs if pair.findings] == ["ideal"]
        assert "No divergence between eager and v1" in report.sentence
        assert report.sentence.endswith("ideal, which is no kernel, needs at most 0 B.")
        assert "no kernel, held against nothing" in text_of(report)

    def test_alone_against_a_kernel(self) -> None:
        """Without two kernels the verdict is about what the one spends beyond the bound."""
        report = report_of([*START, REGISTER], ("eager", "ideal"))
        assert (report.verdict, report.pairs[0].strongest) == ("divergence", "bytes-only")
        assert {finding.title for finding in report.pairs[0].findings} == {BOUND.title}

    def test_first_add_ends_the_difference(self) -> None:
        """From the add on that makes its array the lanes have the same, and the finding names the event."""
        events = [*START, REGISTER, add(3), add(4), add(3)]
        findings = report_of(events, ("on-demand", "ideal"), recorded=machine("6.12.0")).pairs[0].findings
        assert [(one.slot, one.event, one.converged_event) for one in findings] == [(0, 3, 4), (1, 3, None)]
        assert findings[0].aspects == ()

    @pytest.mark.parametrize("lanes", [("ideal", "eager"), ("eager", "ideal")])
    def test_either_way_round(self, lanes: tuple[str, str]) -> None:
        """It may be the reference too: the bytes change sign and nothing else."""
        (pair,) = report_of([*START, REGISTER], lanes).pairs
        sign = 1 if lanes[0] == "ideal" else -1
        assert [finding.nominal_bytes * sign > 0 for finding in pair.findings] == [True, True]

    def test_agreements_are_those_of_kernels(self) -> None:
        """A memslot that is made while a notifier is registered is D3 for kernels, whether or not ideal is asked too."""
        events = [NEW, REGISTER, slot(0, ret=0)]
        for lanes in (("eager", "on-demand"), ("eager", "on-demand", "ideal")):
            assert "D3" in {found.catalogue for found in report_of(events, lanes).agreements}

    def test_check_asks_for_a_kernel(self) -> None:
        """A recorded kernel can not have been ideal: `check` refuses the policy, and takes any other."""
        header = Header(machine=machine("6.12.117"))
        with pytest.raises(ProfileError, match="ideal is no kernel's policy"):
            Checker(header, policy="ideal")
        for policy in POLICIES[:-1]:
            assert Checker(header, policy=policy.name).mismatch_count == 0


class TestOptOut:
    """Rows of capability 236 and of what follows from it."""

    def test_state_shows_it(self) -> None:
        """The state of the VM names the flag that v1 stores."""
        lanes = make_lanes(["v1", "eager"], machine())
        for lane in lanes:
            replay(lane, [NEW, VmEnableCap(vm=0, cap=236, args=(0,))])
        report = state_report(lanes, 1)
        assert [lane.vms[0].page_write_tracking_disabled for lane in report.lanes] == [True, False]
        assert [
            f"vm 0: {words};" in "\n".join(state_text(report)) for words in ("page_write_tracking_disabled", "no flag set")
        ] == [
            True,
            True,
        ]

    def test_results(self) -> None:
        """The accepted opt-out is D33, the registration that it forbids is D2, both with the sentences of v1."""
        cap = VmEnableCap(vm=0, cap=236, args=(0,), ret=-22)
        (pair,) = report_of([NEW, cap, slot(0, ret=0), REGISTER], ("eager", "v1")).pairs
        found = {finding.catalogue: finding.title for finding in pair.findings if finding.divergence == "result-differs"}
        assert found == {"D33": "opt-out of write tracking", "D2": "registration after the opt-out"}
        sides = next(finding.sides for finding in pair.findings if finding.catalogue == "D33")
        assert [side.did for side in sides] == ["-EINVAL (no such capability)", "0"]


class TestPolicyList:
    """`kvm-replay policies`."""

    def test_rows(self) -> None:
        """Each policy is listed with its kernels, the option, its catalogue rows; the yardstick as no kernel."""
        report = policies_report()
        assert [one.name for one in report.policies] == [policy.name for policy in POLICIES] == list(CATALOGUE_ROWS)
        assert [one.name for one in report.policies if not one.kernel] == ["ideal"]
        assert all(one.config and one.catalogue and one.enabled_when for one in report.policies)
        assert {one.enabled_when for one in report.policies if one.name == "always"} == {"always"}

    def test_release_axes(self) -> None:
        """What only the release decides is named once: the refusal of TD guests, and the reads of both address spaces."""
        assert [axis.catalogue for axis in AXES] == ["D24", "D35"]
        assert "6.1.187, 6.6.156, 6.12.108, 6.18.49" in AXES[1].kernels

    def test_text(self) -> None:
        """The text has a block for each, no line that is too long, and names all."""
        lines = list(policies_text(policies_report()))
        assert [line.split()[0] for line in lines if line and not line.startswith((" ", "--", "decided"))] == list(CATALOGUE_ROWS)
        assert max(map(len, lines)) <= 130
        assert "`all`" in lines[-1]
