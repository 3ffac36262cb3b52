"""Run a seeded sample of mutants against the tests that reach them, and print the score by room.

python tests/mutants/mutant_reach.py FOLDER                          once: which test runs which line
python tests/mutants/mutant_run.py FOLDER --count 300 --seed 5       a line of JSON for each mutant, into FOLDER/mutants.jsonl

Each mutant is tried in a fork of a process that has the libraries loaded but nothing of replay: the module is compiled from the
changed tree when a test imports it. A mutant is killed by the first test that fails, by an import that fails, or by using up its
CPU time (it runs for ever); it survives when all its tests pass, or when no test reaches it.
"""

import argparse
import ast
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import IO, Any

import pytest
from mutant_reach import PLAIN, ROOMS, ROOT, SMALLER, Reach, SameDraws, load
from mutants import Mutant, mutants_of, mutated, sample

PRELOADED = ("numpy", "msgpack", "hypothesis", "sortedcontainers", "jsonschema", "_pytest.assertion.rewrite", "attrs")
FIRST_ROUND = 40
ALIKE = 2
"""Parameters of one test function that are taken in the first round."""
ENDLESS = 3
"""A mutant is endless when it uses this many times the recorded seconds of its tests, and a start-up."""
STARTUP_CPU_S = 20
MEMORY_MAX = 3 << 30
WALL_S = 900
ENDINGS = {0: "survived", 1: "killed", 2: "killed", 3: "killed", 4: "killed", 5: "survived"}
"""Of pytest's exit statuses: 2 is a collection that failed, 5 that nothing was collected."""


class Chosen:
    """A pytest plugin: run exactly the chosen tests in the chosen order, and remember the first that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort out and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self.place), key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which test failed first."""
        if report.failed:
            self.failed = self.failed or report.nodeid


def load_instead(path: Path, tree: ast.Module) -> None:
    """Have an import of this file take the changed tree."""
    as_it_is = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
        changed = Path(loader.path) == path
        return compile(tree, str(path), "exec") if changed else as_it_is(loader, fullname)

    setattr(SourceFileLoader, "get_code", get_code)  # noqa: B010 - mypy refuses the assignment of a method


def affordable(tests: list[str], reach: Reach, most_s: float) -> tuple[list[str], float]:
    """Return the fastest tests that fit the time, and the seconds they take (as recorded, under coverage)."""
    taken: list[str] = []
    spent = 0.0
    for test in tests:
        spent += reach.cpu_s[test]
        if taken and spent > most_s:
            return taken, spent - reach.cpu_s[test]
        taken.append(test)
    return taken, spent


def rounds(tests: list[str]) -> Iterator[list[str]]:
    """Yield some quick tests of many kinds, then all others: most mutants die in the first round, and collecting takes time."""
    kinds: Counter[str] = Counter()
    first: list[str] = []
    for test in tests:
        kind = test.split("[")[0]
        kinds[kind] += 1
        if kinds[kind] <= ALIKE and len(first) < FIRST_ROUND:
            first.append(test)
    yield first
    taken = set(first)
    rest = [test for test in tests if test not in taken]
    if rest:
        yield rest


def child(mutant: Mutant, tests: list[str], cpu_s: float, told: IO[str]) -> int:
    """Run the tests of a mutant in this process, say which one failed, return pytest's exit status."""
    limit = int(ENDLESS * cpu_s) + STARTUP_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    signal.alarm(WALL_S)
    path = ROOT / mutant.path
    load_instead(path, mutated(path.read_text(), mutant))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    status = pytest.main([*PLAIN, "-x", "--tb=no", *files], plugins=[chosen, SameDraws()])
    told.write(chosen.failed)
    told.flush()
    return int(status)


def fate(mutant: Mutant, tests: list[str], cpu_s: float) -> tuple[str, str]:
    """Fork, try the mutant, and return what came of it and the test that killed it."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            with os.fdopen(tell, "w", encoding="utf-8") as told:
                status = child(mutant, tests, cpu_s, told)
        finally:
            os._exit(status)
    os.close(tell)
    with os.fdopen(hear, encoding="utf-8", errors="replace") as heard:
        killer = heard.read()
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended):
        return "killed", f"signal {os.WTERMSIG(ended)}"
    return ENDINGS[os.WEXITSTATUS(ended)], killer


def tried(mutant: Mutant, reach: Reach, most_s: float) -> dict[str, Any]:
    """Return what came of one mutant, as a line of the result."""
    tests, cpu_s = affordable(reach.tests_of(mutant.path, mutant.line), reach, most_s)
    begun = time.monotonic()
    ending, killer = "survived", "" if tests else "no test reaches it"
    for some in rounds(tests) if tests else ():
        if ending == "survived":
            ending, killer = fate(mutant, some, cpu_s)
    return {
        "mutant": mutant.name,
        "ending": ending,
        "by": killer,
        "tests": len(tests),
        "wall_s": round(time.monotonic() - begun, 1),
    }


def table(results: Iterable[dict[str, Any]]) -> str:
    """Return the score of each room and of all of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        for room in (result["mutant"].rsplit("/", 1)[0], "all"):
            counts[room, result["ending"]] += 1
    lines = []
    for room in (*ROOMS, "all"):
        killed, survived = counts[room, "killed"], counts[room, "survived"]
        share = 100 * killed / max(killed + survived, 1)
        lines.append(f"{room:18} {killed + survived:4} tried {killed:4} killed {survived:4} survived {share:5.1f} %")
    return "\n".join(lines)


def every_mutant() -> list[Mutant]:
    """Return all mutants of the three rooms."""
    paths = sorted(str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [mutant for path in paths for mutant in mutants_of(ROOT, path)]


def known(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what came of mutants in runs before, the last word on each."""
    path = folder / "mutants.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {result["mutant"]: result for result in map(json.loads, lines)}


def main() -> None:
    """Draw, try, write and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30, help="of tests a mutant, fastest first")
    parser.add_argument("--again", action="store_true", help="try survivors of runs before again")
    parser.add_argument("--only", default="", help="only mutants whose name has this in it")
    asked = parser.parse_args()
    os.chdir(ROOT)
    os.environ.update(SMALLER)
    for name in PRELOADED:
        __import__(name)
    everything = every_mutant()
    drawn = [mutant for mutant in sample(everything, asked.count, asked.seed) if asked.only in mutant.name]
    reach = load(asked.folder)
    results = known(asked.folder)
    with (asked.folder / "mutants.jsonl").open("a", encoding="utf-8") as kept:
        for mutant in drawn:
            if mutant.name not in results or (asked.again and results[mutant.name]["ending"] == "survived"):
                results[mutant.name] = tried(mutant, reach, asked.seconds)
                print(json.dumps(results[mutant.name]), file=kept, flush=True)
                print(results[mutant.name]["ending"], mutant.name, file=sys.stderr)
    score = table(results[mutant.name] for mutant in drawn)
    print(f"{len(drawn)} of {len(everything)} mutants, seed {asked.seed}\n{score}")


if __name__ == "__main__":
    main()
