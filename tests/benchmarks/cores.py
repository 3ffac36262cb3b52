"""Measure what a second process does for the import of long text: the wall, and the CPU time of each of the two."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs
from imports import strace, tracefs_calls, tracefs_pages

_VERB: Final = """
import resource, sys, time
from replay.cli import main
if __name__ == "__main__":
    start = time.perf_counter()
    assert main(sys.argv[1:]) == 0
    wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(wall, *(usage.ru_utime + usage.ru_stime for usage in used), used[0].ru_maxrss, used[1].ru_maxrss)
"""
TEXTS: Final[dict[str, Callable[[int], Iterator[str]]]] = {
    "tracefs, shadow pages": tracefs_pages,
    "tracefs, dense in ioctl lines": tracefs_calls,
    "strace": strace,
}


@attrs.frozen
class Used:
    """Seconds on the wall, CPU seconds of this process and of the other, peak KiB of both."""

    wall: float
    first: float
    second: float
    first_kib: float
    second_kib: float

    @property
    def longest(self) -> float:
        """What the wall would be on a machine with nothing else to do, at best."""
        return max(self.first, self.second)


def used(paths: Sequence[Path], out: Path, jobs: int) -> Used:
    """Import texts in a new process."""
    command = [sys.executable, "-c", _VERB, "import", *map(str, paths), "-o", str(out), "--force", "--quiet", "--jobs", str(jobs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Used(*map(float, done.stdout.split()))


def cores(folder: Path, lines: int, rounds: int, traces: Sequence[Path]) -> None:
    """Print the table."""
    print(f"\nimport into a .kvmr by one and two processes, {lines:,} lines each")
    print(f"  {'':34} {'jobs':>4} {'wall s':>7} {'CPU s':>6} {'second':>7} {'MiB':>5} {'second':>7}")
    for name, make in TEXTS.items():
        path = folder / "long.txt"
        with path.open("w") as out:
            out.writelines(make(lines))
        show(name, [path], folder / "out.kvmr", rounds)
        path.unlink()
    if traces:
        show(" ".join(path.name for path in traces), traces, folder / "out.kvmr", rounds)


def show(name: str, paths: Sequence[Path], out: Path, rounds: int) -> None:
    """Print the best of some rounds for one text, and hold what is written by two processes against what one writes."""
    best: dict[int, Used] = {}
    written: dict[int, bytes] = {}
    for _ in range(rounds):
        for jobs in (1, 2):
            found = used(paths, out, jobs)
            best[jobs] = min(best.get(jobs, found), found, key=lambda usage: usage.longest)
            written[jobs] = out.read_bytes()
    assert written[1] == written[2]
    for jobs, at in best.items():
        memory = f"{at.first_kib / 1024:5.0f} {at.second_kib / 1024:7.0f}"
        print(f"  {name if jobs == 1 else '':34} {jobs:4} {at.wall:7.2f} {at.first:6.2f} {at.second:7.2f} {memory}")
    print(f"  {'longest CPU time, one against two':34} {best[1].longest / best[2].longest:19.2f} x")
