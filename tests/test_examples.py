"""Run the examples in the docstrings: what the documentation shows is what happens."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "replay").rglob("*.py"))
    if path.name != "__main__.py"
]


class TestExamples:
    """Examples are true."""

    @pytest.mark.parametrize("name", MODULES)
    def test_examples_of_a_module(self, name: str) -> None:
        """Each example in a module's docstrings gives what it says."""
        assert doctest.testmod(importlib.import_module(name)).failed == 0

    def test_there_are_examples(self) -> None:
        """The search for examples finds some: a good share of the modules has one."""
        finder = doctest.DocTestFinder(exclude_empty=True)
        tests = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
        assert len(tests) >= 30
