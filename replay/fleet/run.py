"""Run a fleet: hand out what is not known yet, keep each result as it comes, and say in the end what all of them say."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from replay.analyses.fleet import FleetSummary
from replay.analyses.fleet_report import FleetReport
from replay.errors import WorkerError
from replay.fleet.find import shown
from replay.fleet.store import Store
from replay.fleet.work import Question, Result, engine_version


class Runner(Protocol):
    """Who does the work: processes of this machine, or a cluster."""

    def results(self, paths: Sequence[str], question: Question, known: frozenset[str]) -> Iterator[tuple[str, list[Result]]]:
        """Yield (version of the code, results) of some paths at a time; each path once, in any order."""
        ...


@attrs.define
class Fleet:
    """One run over some files. `replay()` must be walked to its end, or as far as one cares; then `report()`."""

    paths: Sequence[str]
    question: Question
    store: Store
    runner: Runner
    resumed: int = 0

    def replay(self) -> Iterator[Result]:
        """Yield each result when it is kept. Raises WorkerError when a worker has another version of this program."""
        self.store.begin([shown(path) for path in self.paths])
        known = self.store.known()
        for engine, results in self.runner.results(_largest_first(self.paths), self.question, known):
            if engine and engine != engine_version():
                raise WorkerError(f"a worker has engine {engine}", expected=engine_version(), advice="install the same release")
            self.store.put([(shown(result.path), result) for result in results])
            self.resumed += sum(result.row is None for result in results)
            yield from results

    def report(self, *, top: int = 10) -> FleetReport:
        """Return what all recordings of the run say together."""
        summary = FleetSummary(",".join(self.question.lanes), self.question.profile, engine_version(), top=top)
        for row in self.store.rows():
            summary.add(row)
        return summary.report()


def _largest_first(paths: Sequence[str]) -> list[str]:
    """Return the paths with large files in front, so that the last one to finish is a small one."""
    return sorted(paths, key=lambda path: (-_size_bytes(path) // (1 << 20), path))


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0
