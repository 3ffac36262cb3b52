"""Print the figures of the sweeps behind the tests: how many damages of each kind were tried, and what became of them."""

from typing import Any

import pytest
from sweep import FIGURE, Figures


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print each figure once, also those of worker processes."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    figures = [text for report in reports for name, text in getattr(report, "user_properties", ()) if name == FIGURE]
    if figures:
        terminalreporter.section("figures")
        for text in sorted(figures):
            terminalreporter.write_line(text)


@pytest.fixture(name="figures")
def _figures(request: pytest.FixtureRequest) -> Figures:
    return Figures(request.node.user_properties)
