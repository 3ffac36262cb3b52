"""Collect golden files as tests: one a file, which fails with what differs, or writes the file when that is asked for."""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from replay.analyses.golden_report import KEPT, SAME, WRITTEN, GoldenFile
from replay.golden.files import RECORDINGS, SUFFIX, check_golden, golden_of, update_golden
from replay.pytest_plugin.settings import Settings
from replay.report.golden_text import difference_lines, heading
from replay.version import VERSION

PROPERTY: Final = "kvm_golden_written"
"""Property of a test's report that names a golden file which was written; it reaches the controller of a distributed run."""


def failure_lines(file: GoldenFile) -> list[str]:
    """Return what is said of a golden file that is not right."""
    trouble = [f"  {f'{file.code} {file.trouble}'.strip()}"] if file.trouble else []
    return [heading(file), *trouble, *(f"  {line}" for line in difference_lines(file))]


class GoldenFailure(Exception):  # noqa: N818 - it is no error of the program, but a test that fails
    """A golden file that does not say what is found now."""

    def __init__(self, file: GoldenFile) -> None:
        super().__init__(heading(file))
        self.file = file


class GoldenItem(pytest.Item):
    """The test of one golden file."""

    def __init__(self, *, settings: Settings, **fields: Any) -> None:
        super().__init__(**fields)
        self.settings = settings

    def runtest(self) -> None:
        """Hold the golden file against what is found now, or write it."""
        path = golden_of(_shown(self.path, self.config.invocation_params.dir))
        file = update_golden(path, self.settings.wish) if self.settings.update else check_golden(path)
        if file.state == WRITTEN:
            self.user_properties.append((PROPERTY, file.golden))
        if file.state not in {SAME, WRITTEN, KEPT}:
            raise GoldenFailure(file)
        if file.state == KEPT and self.settings.wish.new_only:
            file = check_golden(path)
            if file.state != SAME:
                raise GoldenFailure(file)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Say what differs instead of a traceback."""
        if isinstance(excinfo.value, GoldenFailure):
            return "\n".join(failure_lines(excinfo.value.file))
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return where the test is."""
        return self.path, None, f"golden file of {self.path.name.removesuffix(SUFFIX)}"


class GoldenCollector(pytest.File):
    """A golden file, or a recording that lacks one."""

    settings: Settings

    def collect(self) -> Iterator[pytest.Item]:
        """Yield its one test."""
        yield GoldenItem.from_parent(self, name="golden", settings=self.settings)


class Goldens:
    """The part of the plugin that collects. settings: for the fixture too."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.written: list[str] = []

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """Collect golden files; recordings that lack one and need it, or that are named on the command line."""
        if file_path.suffix != SUFFIX and not self._stands_for_golden(file_path, named=parent.session.isinitpath(file_path)):
            return None
        collector = GoldenCollector.from_parent(parent, path=file_path)
        collector.settings = self.settings
        return collector

    def _stands_for_golden(self, path: Path, *, named: bool) -> bool:
        """Tell whether a file is collected in place of its golden file, which is collected by itself where it is there."""
        if Path(golden_of(str(path))).exists():
            return named
        return self.settings.needs(path) or (named and self.settings.update and path.suffix in RECORDINGS)

    def pytest_report_header(self) -> str:
        """Say in the header what golden files are tested with, and whether they are written."""
        doing = "written where they differ" if self.settings.update else "tested"
        if self.settings.wish.new_only:
            doing = "written where they are missing"
        asked = "; ".join(question.line() for question in self.settings.wish.default)
        return f"kvm-replay: {VERSION}, golden files are {doing}; new ones ask {asked}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which golden files were written, wherever the test ran."""
        if report.when == "call":
            self.written += [str(value) for name, value in report.user_properties if name == PROPERTY]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the golden files that were written: they are to be reviewed."""
        if self.written:
            terminalreporter.section("golden files written, review them")
            for path in sorted(set(self.written)):
                terminalreporter.line(path)


@functools.cache
def _shown(path: Path, start: Path) -> str:
    """Return a path as it is shortest from where pytest was started."""
    try:
        return os.path.relpath(path, start) if Path.cwd() == start else str(path)
    except ValueError:
        return str(path)  # another drive
