"""Measure golden files: `python tests/benchmarks/goldens.py [--recordings N] [--large FILE.kvmr]`.

Checks N copies of the project's small recordings, in one process and through pytest in two, and holds the check of one large
recording against a plain comparison of it. CPU time, and wall time where several processes share the work.
"""

import argparse
import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from replay.cli import main as kvm_replay

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL_BYTES_MAX = 20_000
ROUNDS = 3


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU time that some work takes, children included."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def quietly(*arguments: str) -> int:
    """Run a verb; what it prints goes nowhere."""
    with contextlib.redirect_stdout(io.StringIO()):
        return kvm_replay([*arguments, "--quiet"])


def copies(folder: Path, count: int) -> None:
    """Copy small recordings with their golden files under new names until there are enough."""
    found = sorted(path for kind in ("*.kvmr", "*.jsonl") for path in (ROOT / "recordings").rglob(kind))
    small = [path for path in found if path.stat().st_size <= SMALL_BYTES_MAX and "overflow" not in path.name]
    for number, path in zip(range(count), cycle(small), strict=False):
        target = folder / f"{number:04}{path.suffix}"
        shutil.copy(path, target)
        golden = path.with_name(f"{path.name}.golden").read_text()
        target.with_name(f"{target.name}.golden").write_text(
            golden.replace(f"recording: {path.name}", f"recording: {target.name}")
        )


def many(folder: Path, count: int) -> None:
    """Measure many small recordings."""
    copies(folder, count)
    started = time.monotonic()
    cpu = cpu_seconds(lambda: quietly("golden", "check", str(folder)))
    print(f"{count:,} small recordings, golden check, one process: {cpu:.1f} s of CPU time, {time.monotonic() - started:.1f} s")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:kvm_replay", "-p", "replay.pytest_plugin"]
    command += ["-p", "no:cacheprovider", "--kvm-goldens", "--rootdir", str(folder), "."]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    cpu = cpu_seconds(lambda: subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True))
    print(f"{count:,} small recordings, pytest -n 2: {cpu:.1f} s of CPU time, {time.monotonic() - started:.1f} s")


def large(folder: Path, source: Path) -> None:
    """Measure one large recording: the golden check against the comparison that it asks for."""
    path = folder / source.name
    shutil.copy(source, path)
    quietly("golden", "update", str(path))
    rounds = [
        (
            cpu_seconds(lambda: quietly("compare", str(path))),
            cpu_seconds(lambda: quietly("golden", "check", str(path))),
        )
        for _ in range(ROUNDS)
    ]
    compared, checked = (min(times) for times in zip(*rounds, strict=True))
    print(f"{source.name}: compare {compared:.2f} s, golden check {checked:.2f} s of CPU time, {checked / compared:.2f} times")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure golden files.")
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--large", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.recordings:
            many(Path(folder), args.recordings)
    with tempfile.TemporaryDirectory() as folder:
        if args.large:
            large(Path(folder), args.large)


if __name__ == "__main__":
    main()
