"""Promises of the command line on calls that overlap in time."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_samples import write_kvmr

from replay.cli import main
from replay.events import Event, MemslotSet, Task, VmCreate
from replay.header import Header, Machine, Trailer
from replay.units import EEXIST, Gpa, Hva

MACHINE = Machine(kernel_release="6.12.117", config_external_write_tracking=True, tdp=True, tdp_mmu=True, smm=True)


def recording(path: Path, results: Sequence[int]) -> str:
    """Write calls of as many threads that all create a slot at one place at once, with their results; return the path."""
    calls: list[Event] = [
        MemslotSet(
            vm=0,
            slot=tid,
            guest_phys_addr=Gpa(0),
            memory_size=4096,
            userspace_addr=Hva(1 << 32),
            ret=ret,
            task=Task(1, tid),
            enter_time_ns=100,
            time_ns=200,
        )
        for tid, ret in enumerate(results, 1)
    ]
    return str(
        write_kvmr(path / "race.kvmr", [VmCreate(vm=0, ret=3), *calls], Header(machine=MACHINE), Trailer(events=1 + len(calls)))
    )


class TestCheck:
    """The exit status is the answer."""

    def test_another_order(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """0 when another order than the recorded one fits; the order is named."""
        assert main(["check", recording(tmp_path, (-EEXIST, 0))]) == 0
        out = capsys.readouterr().out
        assert "model and kernel agree in all 2 comparisons" in out
        assert "VM 0 events 1, 2: replayed as 2, 1" in out

    def test_no_order(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """1 when none fits; the calls are named."""
        assert main(["check", recording(tmp_path, (0, 0, -EEXIST))]) == 1
        out = capsys.readouterr().out
        assert "VM 0 events 1-3: none of their orders gives the recorded results" in out
        assert "of 1 group of overlapping calls no order fits" in out

    def test_budget(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """3 when the budget runs out before that is known."""
        path = recording(tmp_path, (0, 0, -EEXIST))
        assert main(["check", "--order-budget", "2", path]) == 3
        out = capsys.readouterr().out
        assert "cannot tell: calls overlap in time" in out
        assert "the budget for orders ran out (2 calls tried)" in " ".join(out.split())

    @pytest.mark.parametrize("number", ["-1", "many", "", "1e3", "\N{ARABIC-INDIC DIGIT TWO}", "9" * 13])
    def test_no_number(self, number: str, tmp_path: Path) -> None:
        """2 for a budget that is no number of calls."""
        assert main(["check", f"--order-budget={number}", recording(tmp_path, (0,))]) == 2


class TestCompare:
    """`compare` has the same option, and its report the same section."""

    @pytest.mark.parametrize(("results", "status", "fits"), [((-EEXIST, 0), 1, "another order"), ((0, 0), 3, "none fits")])
    def test_report(
        self, results: Sequence[int], status: int, fits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The groups are in JSON, with the budget; no order is no verdict."""
        assert main(["compare", "--order-budget", "50", "--format", "json", recording(tmp_path, results)]) == status
        orders = json.loads(capsys.readouterr().out)["orders"]
        assert (orders["budget"], orders["groups"], [group["fits"] for group in orders["listed"]]) == (50, 1, [fits])

    def test_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The text has a section, and says with what a spent budget can be raised."""
        assert main(["compare", "--order-budget", "1", recording(tmp_path, (-EEXIST, 0))]) == 3
        out = capsys.readouterr().out
        assert "calls that overlap in time\n  2 calls in 1 group" in out
        assert "--order-budget" in out
