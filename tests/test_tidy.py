"""Hold the project to its written habits, and show that each check can fail."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tidy_checks as checks
import tidy_texts as texts
from tidy_checks import Module

from replay.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".git", ".venv", "dist", "build", "__pycache__"}


def project_files() -> list[str]:
    """List the files of the project, those that git would ignore left out."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in SKIPPED or part.startswith((".venv", ".mypy", ".ruff", ".pytest", ".hypothesis")) for part in parts)
        if path.is_file() and not hidden and path.suffix not in {".pyc", ".part"}:
            found.append("/".join(parts))
    return found


FILES = project_files()
MODULES = [Module(path, (ROOT / path).read_text()) for path in FILES if path.endswith(".py")]
PAGES = {path: (ROOT / path).read_text() for path in FILES if path.endswith(".md")}
FOLDERS = frozenset(str(parent) for path in FILES for parent in Path(path).parents)
TEXT_SUFFIXES = (".py", ".md", ".toml", ".json", ".yml", ".ini", ".sh")

CHECKS: tuple[Callable[[Module], Iterator[str]], ...] = (
    checks.imports_inwards,
    checks.heavy_imports,
    checks.long_functions,
    checks.long_file,
    checks.impure_calls,
    checks.set_iteration,
    texts.uncited,
)

SHORT_FUNCTION_LINES = 25
SHORT_SHARE_PERCENT = 90
"""At least this share of the functions in replay/ is short: a ratchet, to be raised when it can be."""


class TestProject:
    """The project keeps its habits."""

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_check(self, check: Callable[[Module], Iterator[str]]) -> None:
        """No module breaks the habit."""
        assert len(MODULES) > 20
        assert [complaint for module in MODULES for complaint in check(module)] == []

    def test_most_functions_are_short(self) -> None:
        """Nine of ten functions in replay/ fit on half a screen."""
        lengths = [
            checks.function_lines(function)
            for module in MODULES
            if module.path.startswith("replay/")
            for function in checks.functions(module.tree)
        ]
        short = sum(length <= SHORT_FUNCTION_LINES for length in lengths)
        assert short * 100 >= SHORT_SHARE_PERCENT * len(lengths)

    def test_every_room_is_in_the_table(self) -> None:
        """The table of rooms names exactly the folders and modules of replay/."""
        rooms = {module.room for module in MODULES if module.room}
        assert rooms <= set(checks.ROOMS)
        assert set(checks.ROOMS) - rooms == set()

    def test_the_table_points_inwards(self) -> None:
        """No room may know one that may know it: the table has no cycle."""
        for room, allowed in checks.ROOMS.items():
            assert all(room not in checks.ROOMS[inner] for inner in allowed)

    def test_exemptions_are_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each exemption from citing is one that its function would fail without."""
        exempted = set(texts.NOT_OF_THE_KERNEL)
        monkeypatch.setattr(texts, "NOT_OF_THE_KERNEL", {})
        uncited = {f"{module.name}.{found.split()[1]}" for module in MODULES for found in texts.uncited(module)}
        assert uncited == exempted

    def test_no_module_is_dead(self) -> None:
        """Each module is used by another one or is an entry point."""
        assert list(texts.dead_modules(MODULES)) == []

    def test_slow_model_is_apart(self) -> None:
        """The second model shares no code with the first: of the project it knows the events, and units."""
        slow = [module for module in MODULES if module.path.startswith("tests/kvm/slow_")]
        known = {
            name.split(".")[1]
            for module in slow
            for node in ast.walk(module.tree)
            for name in checks.imported(node)
            if "replay." in name
        }
        assert len(slow) >= 4
        assert known <= {"events", "units"}

    def test_no_helper_is_dead(self) -> None:
        """Each module of the tests holds tests, is used by another one, or is a program."""
        assert list(texts.dead_helpers(MODULES)) == []

    def test_no_name_is_dead(self) -> None:
        """Each public name is used, or at least tested."""
        assert list(texts.dead_names(MODULES)) == []

    def test_links_resolve(self) -> None:
        """Each relative link of a page leads to a file and a heading that are there."""
        known = frozenset(FILES) | FOLDERS
        assert "README.md" in PAGES
        assert [broken for path, text in PAGES.items() for broken in texts.broken_links(path, text, PAGES, known)] == []

    def test_no_leftovers(self) -> None:
        """No note to oneself and no path of somebody's machine is left in a text."""
        named = [path for path in FILES if path.endswith(TEXT_SUFFIXES) or path.startswith(".ci/")]
        assert [found for path in named for found in texts.leftovers(path, (ROOT / path).read_text())] == []

    def test_recordings_are_explained(self) -> None:
        """The README of each folder of recordings names each of them, and no other."""
        folders = [path.removesuffix("/README.md") for path in PAGES if path.startswith("recordings/")]
        assert {"recordings", "recordings/catalogue"} <= {*folders}
        assert [path for path in FILES if path.endswith(".kvmr")]
        complaints = [texts.unlisted_files(folder, FILES, PAGES[f"{folder}/README.md"]) for folder in folders]
        assert [complaint for found in complaints for complaint in found] == []

    def test_source_package_is_whole(self) -> None:
        """Every folder of the project is in its source package, by names that hold at its root and not anywhere below."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
        folders = {path.partition("/")[0] for path in FILES if "/" in path and path.endswith((*TEXT_SUFFIXES, "/run"))}
        assert {"replay", "tests", ".ci"} <= folders
        assert {f"/{folder}" for folder in folders} <= {*included}
        assert all(name.startswith("/") and (ROOT / name[1:]).exists() for name in included)

    def test_version_is_one(self) -> None:
        """The version constant is the one of the package."""
        assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def sample(text: str, path: str = "replay/kvm/sample.py") -> Module:
    """Return a module with this text."""
    return Module(path, text)


BAD: list[tuple[Callable[[Module], Iterator[str]], Module, int]] = [
    (checks.imports_inwards, sample("from replay.recording import Writer\n"), 1),
    (checks.imports_inwards, sample("def f():\n    import replay.cli.entry\n"), 2),
    (checks.imports_inwards, sample("from replay import recording\n"), 1),
    (checks.imports_inwards, sample("from . import other\n"), 1),
    (checks.imports_inwards, sample("x = 1\n", "replay/cellar/sample.py"), 1),
    (checks.imports_inwards, sample("from replay.engine import x\n", "replay/events/sample.py"), 1),
    (checks.imports_inwards, sample("from replay.kvm import x\n", "replay/recording/sample.py"), 1),
    (checks.heavy_imports, sample("import numpy as np\n"), 1),
    (checks.heavy_imports, sample("x = 1\nfrom rich.table import Table\n"), 2),
    (checks.heavy_imports, sample("class A:\n    import zstandard\n"), 2),
    (checks.heavy_imports, sample("try:\n    import jsonschema\nexcept ImportError:\n    pass\n"), 2),
    (checks.long_functions, sample("def f():\n" + "    x = 1\n" * checks.FUNCTION_LINES_MAX), 1),
    (checks.long_file, sample("x = 1\n" * (checks.FILE_LINES_MAX + 1)), checks.FILE_LINES_MAX),
    (checks.impure_calls, sample("import time\n"), 1),
    (checks.impure_calls, sample("from random import choice\n"), 1),
    (checks.impure_calls, sample("def f(x):\n    return hash(x)\n"), 2),
    (checks.impure_calls, sample("def f(x):\n    return id(x)\n"), 2),
    (checks.impure_calls, sample("def f(x):\n    return open(x)\n"), 2),
    (checks.impure_calls, sample("import os\n"), 1),
    (checks.impure_calls, sample("import datetime\n", "replay/recording/sample.py"), 1),
    (checks.set_iteration, sample("for x in {1, 2}:\n    pass\n"), 1),
    (checks.set_iteration, sample("for x in set(y):\n    pass\n"), 1),
    (checks.set_iteration, sample("z = [x for x in {y for y in w}]\n"), 1),
    (checks.set_iteration, sample("z = list({1, 2} | w)\n"), 1),
    (checks.set_iteration, sample("z = ', '.join(frozenset(w))\n"), 1),
    (checks.set_iteration, sample("z = (*set(w), 1)\n"), 1),
    (checks.set_iteration, sample("def f(w):\n    names = set(w)\n    for name in names:\n        pass\n"), 3),
    (texts.uncited, sample('def kvm_run(x):\n    """Run."""\n    return x\n'), 1),
    (texts.uncited, sample('class Slot:\n    """A slot."""\n'), 1),
    (texts.uncited, sample('"""Source: virt/kvm/kvm_main.c f()."""\ndef f(x):\n    return x\n'), 2),
]

GOOD: list[tuple[Callable[[Module], Iterator[str]], Module]] = [
    (checks.imports_inwards, sample("from replay.units import Gfn\nfrom replay.kvm import other\nimport attrs\n")),
    (checks.imports_inwards, sample("from replay.cli.entry import main\n", "tests/sample.py")),
    (checks.heavy_imports, sample("def f():\n    import numpy\n")),
    (checks.heavy_imports, sample("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy\n")),
    (checks.heavy_imports, sample("import numpy\n", "tests/sample.py")),
    (checks.long_functions, sample('def f():\n    """A.\n' + "\n" * 90 + '    """\n' + "    x = 1\n" * 59)),
    (checks.impure_calls, sample("def f(x):\n    return x.open(), x.id, x.hash()\n")),
    (checks.impure_calls, sample("import os\nopen(1)\n", "replay/recording/sample.py")),
    (checks.impure_calls, sample("import time\n", "replay/cli/sample.py")),
    (checks.set_iteration, sample("for x in sorted(set(y)):\n    pass\nz = 1 in {1, 2}\nw = {x for x in set(y)}\n")),
    (checks.set_iteration, sample("def f(w):\n    names = set(w)\n    names = sorted(names)\n    return list(names)\n")),
    (texts.uncited, sample('def f(x):\n    """Do.\n\n    Source: virt/kvm/kvm_main.c f().\n    """\n')),
    (texts.uncited, sample('# arch/x86/kvm/x86.c f()\ndef f(x):\n    """Do."""\n')),
    (texts.uncited, sample('"""Source: struct kvm."""\nclass Slot:\n    """A slot."""\n')),
    (texts.uncited, sample('def _f(x):\n    """Do."""\n')),
    (texts.uncited, sample('def f(x):\n    """Do."""\n', "replay/engine/sample.py")),
]


class TestChecks:
    """Each check finds what it is for, and nothing else."""

    @pytest.mark.parametrize(("check", "module", "line"), BAD)
    def test_bad_sample(self, check: Callable[[Module], Iterator[str]], module: Module, line: int) -> None:
        """A bad sample gives exactly one complaint, with its place."""
        complaints = list(check(module))
        assert [complaint.split(": ")[0] for complaint in complaints] == [f"{module.path}:{line}"]

    @pytest.mark.parametrize(("check", "module"), GOOD)
    def test_good_sample(self, check: Callable[[Module], Iterator[str]], module: Module) -> None:
        """A good sample gives none."""
        assert list(check(module)) == []

    def test_every_check_was_seen_to_fail(self) -> None:
        """No check is without a bad sample."""
        assert {check for check, _, _ in BAD} == set(CHECKS)

    @pytest.mark.parametrize("word", [*texts.LEFTOVERS, *texts.MACHINE_PATHS])
    def test_leftover(self, word: str) -> None:
        """Each leftover is found, with its line."""
        found = list(texts.leftovers("a.md", f"fine\nsee {word} there\n"))
        assert found
        assert all(complaint.startswith("a.md:2:") for complaint in found)

    def test_broken_link(self) -> None:
        """A link to a missing file or heading is found; one to a file, a folder, a heading or the web is not."""
        links = "[1](no.md) [2](b.md#no) [3](b.md#c-d) [4](../x) [5](https://x.example/) [6](#a-b) [7](#c)"
        page = f"# A b\n{links}\n```\n[8](no)\n```\n"
        pages = {"docs/a.md": page, "docs/b.md": "## C `d`\n"}
        found = list(texts.broken_links("docs/a.md", page, pages, frozenset({*pages, "x"})))
        assert [re.findall(r"link to (\S+):", complaint)[0] for complaint in found] == ["no.md", "b.md#no", "#c"]

    def test_dead_module(self) -> None:
        """A module that only imports itself or is imported by tests alone is dead."""
        modules = [
            sample("from replay.kvm import used\n", "replay/cli/__init__.py"),
            sample("", "replay/kvm/__init__.py"),
            sample("", "replay/kvm/used.py"),
            sample("import replay.kvm.dead\n", "replay/kvm/dead.py"),
            sample("import replay.kvm.dead\n", "tests/test_dead.py"),
            sample("if __name__ == '__main__':\n    pass\n", "replay/program.py"),
        ]
        assert list(texts.dead_modules(modules)) == ["replay/kvm/dead.py: nothing imports it"]

    def test_dead_helper(self) -> None:
        """A module of tests that nothing imports or runs is dead; tests, conftest and programs are not."""
        modules = [
            sample("import used\n", "tests/a/test_a.py"),
            sample("RUN = 'child.py'\n", "tests/conftest.py"),
            sample("", "tests/a/used.py"),
            sample("", "tests/a/child.py"),
            sample("", "tests/a/dead.py"),
            sample("if __name__ == '__main__':\n    pass\n", "tests/a/program.py"),
        ]
        assert list(texts.dead_helpers(modules)) == ["tests/a/dead.py: nothing imports it"]

    def test_dead_name(self) -> None:
        """A public function, class or alias that is mentioned once in the whole project is dead; a constant may be a fact."""
        modules = [
            sample("def f():\n    g()\ndef g():\n    pass\nclass C:\n    pass\nA = int\nB: int = 1\n_D = 1\n", "replay/kvm/a.py"),
            sample("from replay.kvm.a import f\nh = 1\ndef unused():\n    pass\n", "tests/a.py"),
            sample("def pytest_configure():\n    pass\n", "replay/pytest_plugin/a.py"),
        ]
        assert list(texts.dead_names(modules)) == ["replay/kvm/a.py:5: C is used nowhere", "replay/kvm/a.py:7: A is used nowhere"]

    def test_unlisted_file(self) -> None:
        """A name without a row in the README is found, of a file or of a folder, and a row without a name."""
        names = ["README.md", "a.kvmr", "a.kvmr.golden", "b.kvmr.golden", "b.kvmr", "d.kvmr.golden", "6.1/c.kvmr", "6.12/c.kvmr"]
        files = [f"recordings/{name}" for name in names]
        readme = "| `a.kvmr` | boot |\n| `gone.kvmr` | |\n| `6.1/` | |\n| `c.kvmr` | see `b.kvmr` |\n"
        assert list(texts.unlisted_files("recordings", files, readme)) == [
            "recordings/d.kvmr.golden: a golden file without its recording",
            "recordings/README.md: no row for 6.12/",
            "recordings/README.md: no row for b.kvmr",
            "recordings/README.md: gone.kvmr is not there",
        ]
        own = ["recordings/own/README.md", "recordings/own/e.jsonl", "recordings/own/e.jsonl.golden", "recordings/own/f.jsonl"]
        assert list(texts.unlisted_files("recordings", own, "")) == ["recordings/README.md: no row for own/"]
        assert list(texts.unlisted_files("recordings/own", own, "| `e.jsonl` | |\n")) == [
            "recordings/own/README.md: no row for f.jsonl"
        ]
