"""Record once which test runs which line, and how long each test takes: what a mutant's tests are chosen from.

python tests/mutants/mutant_reach.py FOLDER [TESTS...]      tests: folders of them, by default those that reach the rooms
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import coverage
import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("replay/kvm", "replay/engine", "replay/recording")
TESTS = ("tests/kvm", "tests/engine", "tests/recording", "tests/analyses", "tests/catalogue")
SMALLER = {"KVM_REPLAY_STREAMS": "100", "CI": "true"}
"""Sweeps are drawn smaller here: what they find, they find early."""
EXAMPLES = 30
PLAIN = ("-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist")


class SameDraws:
    """A pytest plugin: property tests draw the same examples each time, and do not shrink what they find."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Set the profile after the project's conftest has set its own."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        now = hypothesis.settings()
        hypothesis.settings.register_profile(
            "mutants", now, derandomize=True, database=None, phases=phases, max_examples=EXAMPLES
        )
        hypothesis.settings.load_profile("mutants")


class Recorder:
    """A pytest plugin: name each test to coverage while it runs, and time it."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.cpu_s: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Run one test under its own name."""
        self.measured.switch_context(item.nodeid)
        begun = time.process_time()
        result = yield
        self.cpu_s[item.nodeid] = time.process_time() - begun
        self.measured.switch_context("")
        return result


def record(folder: Path, tests: Sequence[str] = TESTS) -> int:
    """Run the tests once, keep coverage and seconds in a folder, return pytest's exit status."""
    measured = coverage.Coverage(data_file=str(folder / "reach.coverage"), config_file=str(ROOT / "pyproject.toml"))
    recorder = Recorder(measured)
    os.chdir(ROOT)
    os.environ.update(SMALLER)
    measured.start()
    status = pytest.main([*PLAIN, *tests], plugins=[recorder, SameDraws()])
    measured.stop()
    measured.save()
    (folder / "reach.json").write_text(json.dumps(recorder.cpu_s))
    return int(status)


@attrs.frozen
class Reach:
    """Which tests reach which line of a file, and the CPU seconds of each test (as recorded under coverage)."""

    data: coverage.CoverageData
    cpu_s: dict[str, float]
    _lines: dict[str, dict[int, list[str]]] = attrs.Factory(dict)

    def tests_of(self, path: str, line: int) -> list[str]:
        """Return the tests that run a line, fastest first; for a line that runs on import, any of the file, or all."""
        if path not in self._lines:
            self._lines[path] = self.data.contexts_by_lineno(str(ROOT / path))
        by_line = self._lines[path]
        found = {test for test in by_line.get(line, ()) if test}
        if not found and "" in by_line.get(line, ()):
            found = {test for tests in by_line.values() for test in tests if test} or set(self.cpu_s)
        return sorted(found & self.cpu_s.keys(), key=lambda test: (self.cpu_s[test], test))


def load(folder: Path) -> Reach:
    """Read what `record` kept."""
    data = coverage.CoverageData(str(folder / "reach.coverage"))
    data.read()
    cpu_s: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError):
        cpu_s = json.loads((folder / "reach.json").read_text())
    return Reach(data, cpu_s)


if __name__ == "__main__":
    sys.exit(record(Path(sys.argv[1]), sys.argv[2:] or TESTS))
