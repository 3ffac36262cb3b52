"""Promise of the compiled loop on all recordings of the project: their golden files hold."""

from pathlib import Path

import pytest
from compiled_loop import loop

from replay.cli import main
from replay.kvm import compiled, fold
from replay.kvm.compiled import fold_compiled
from replay.kvm.machine import Machine
from replay.kvm.run_outcome import RunOutcome
from replay.runs import Run

RECORDINGS = Path(__file__).resolve().parent.parent.parent / "recordings"


class TestGoldens:
    """`golden check` with the loop."""

    def test_all_recordings(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """Every recording's golden file, which the scalar rule and the bulk rule hold, is held by the loop too."""
        monkeypatch.setattr(compiled, "LOOP", [loop()])
        asked = []

        def counted(machine: Machine, run: Run, first: int) -> RunOutcome | None:
            asked.append(len(run))
            return fold_compiled(machine, run, first)

        monkeypatch.setattr(fold, "_COMPILED", [counted])
        assert main(["golden", "check", str(RECORDINGS)]) == 0
        assert f"{len(list(RECORDINGS.rglob('*.golden')))}" in capsys.readouterr().out
        assert sum(asked) > 100_000
