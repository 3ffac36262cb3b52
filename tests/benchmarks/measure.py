"""Take measurements in turn and keep the best of each, so that neighbours on the machine disturb all of them alike."""

import os
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path

import attrs
import msgpack

from replay.analyses.compare import Comparison, compare
from replay.engine.lane import Lane
from replay.engine.lanes import make_lanes
from replay.engine.lockstep import RunStep, lockstep
from replay.events.base import Event
from replay.header import Header, Trailer
from replay.kvm import fold as folds
from replay.kvm.compiled import LOOP
from replay.kvm.fold import fold_run
from replay.kvm.state import counters_digest_of, keep_digests
from replay.recording.open import open_recording
from replay.recording.writer import Writer
from replay.runs import Item, Run

ROWS_MOST = 1_000_000
"""Events that the row decoder decodes; the rate is that of any number of them."""
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@attrs.define
class Case:
    """Something to measure: work() does `events` events. best_ns: nanoseconds of CPU time an event, of the best pass."""

    name: str
    events: int
    work: Callable[[], object]
    best_ns: float = float("inf")

    def measure(self) -> None:
        """Run once more."""
        start = time.process_time_ns()
        self.work()
        self.best_ns = min(self.best_ns, (time.process_time_ns() - start) / self.events)


def in_turn(cases: Sequence[Case], rounds: int) -> None:
    """Measure all cases, one after the other, some times over."""
    for _ in range(rounds):
        for case in cases:
            case.measure()


def machine() -> str:
    """Return what the numbers were taken on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    import numpy as np

    versions = f"Python {platform.python_version()}, numpy {np.__version__}, msgpack {'.'.join(map(str, msgpack.version))}"
    model = models[0] if models else platform.processor()
    loop = "compiled loop" if LOOP[0] is not None else "no compiled loop: `python -m replay.native.build` makes it"
    return f"{len(models)} x {model}, {platform.system()} {platform.release()}, {versions}, {loop}"


def write_items(path: Path, items: Iterable[Item], header: Header | None = None) -> int:
    """Write a recording; return the number of its hot events."""
    hot = 0
    with Writer(path, header or Header(), overwrite=True) as writer:
        for item in items:
            hot += len(item) if isinstance(item, Run) else 0
            writer.write(item)
        writer.finish(Trailer())
    return hot


def copy_plain(source: Path, target: Path, compression: str) -> int:
    """Write a recording again with another compression."""
    stream = open_recording(source)
    return write_items(target, stream.items(), attrs.evolve(stream.header, compression=compression))


def hot_runs(path: Path, most: int = ROWS_MOST) -> list[Run]:
    """Return the first runs of a recording, until they have that many events."""
    runs, total = [], 0
    for item in open_recording(path).items():
        if isinstance(item, Run) and total < most:
            runs.append(item)
            total += len(item)
    return runs


def packed_rows(runs: Sequence[Run]) -> bytes:
    """Return runs as MessagePack arrays of 8 fields, one an event: number, time, VM, address space, kind, gfn, task, result."""
    packer, rows, number = msgpack.Packer(), bytearray(), 0
    for run in runs:
        columns = (run.time_ns, run.vm, run.as_id, run.kind, run.gfn, run.task, run.ret)
        for values in zip(*columns, strict=True):
            rows += packer.pack((number, *values))
            number += 1
    return bytes(rows)


def row_decoder(path: Path) -> Case:
    """Return the baseline: msgpack's Unpacker merely decoding the same events as rows."""
    runs = hot_runs(path)
    rows = packed_rows(runs)
    return Case("decode rows (msgpack)", sum(map(len, runs)), lambda: deque(msgpack.Unpacker(BytesIO(rows)), maxlen=0))


def lanes_for(path: Path, names: Sequence[str]) -> list[Lane]:
    """Make lanes for a recording."""
    return make_lanes(names, open_recording(path).header.machine)


def comparison(name: str, path: Path, events: int, lanes: Sequence[str]) -> Case:
    """Return the main job, from the file to the report."""
    return Case(name, events, lambda: compare(open_recording(path), lanes_for(path, lanes)))


def uncompiled(case: Case) -> Case:
    """Return the same job without the compiled loop, by Python and numpy alone."""

    def work() -> None:
        before, folds._COMPILED[:] = list(folds._COMPILED), [None]
        try:
            case.work()
        finally:
            folds._COMPILED[:] = before

    return Case(f"{case.name}, numpy alone", case.events, work)


def digesting(name: str, path: Path, events: int, lanes: Sequence[str]) -> Case:
    """Return the main job with a digest of each lane's counters after every run."""

    def work() -> None:
        stream, made = open_recording(path), lanes_for(path, lanes)
        for lane in made:
            keep_digests(lane.machine)
        comparison = Comparison(stream, made)
        for step in lockstep(stream.items(), made):
            comparison.step(step)
            if isinstance(step, RunStep):
                for lane in made:
                    counters_digest_of(lane.machine)
        comparison.report()

    return Case(name, events, work)


def reading(path: Path, events: int) -> Case:
    """Return reading alone: every block checked and decoded into columns."""
    return Case("read only", events, lambda: deque(open_recording(path).items(), maxlen=0))


def folding(name: str, path: Path, events: int, lanes: Sequence[str]) -> Case:
    """Return folding alone, of items that are in memory."""
    items = list(open_recording(path).items())
    return Case(name, events, lambda: deque(lockstep(iter(items), lanes_for(path, lanes)), maxlen=0))


def reference(path: Path, events: int) -> Case:
    """Return the scalar rule, event by event, one lane, over the first runs."""
    items: list[Item] = []
    done = 0
    for item in open_recording(path).items():
        if done < events:
            items.append(item)
            done += len(item) if isinstance(item, Run) else 0

    def work() -> None:
        machine, number = lanes_for(path, ["eager"])[0].machine, 0
        for item in items:
            if isinstance(item, Event):
                machine.step(item, number)
            else:
                fold_run(machine, item, number)
            number += 1 if isinstance(item, Event) else len(item)

    return Case("scalar rule, one lane", done, work)


def peak_kib(arguments: Sequence[str], status: int) -> int:
    """Return the peak resident memory of one command line of the tool, which ends with a status."""
    probe = f"import resource, sys; from replay.cli import main; assert main(sys.argv[1:]) == {status}; "
    probe += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


def start_up(arguments: Sequence[str], modules: Path, status: int = 0) -> float:
    """Return the milliseconds of CPU time of one process, which ends with a status.

    modules: folder of compiled modules, which the first process fills.
    """
    import resource

    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPYCACHEPREFIX"] = str(modules)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
