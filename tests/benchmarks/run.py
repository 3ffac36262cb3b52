"""Measure the hot path and print a table: `python tests/benchmarks/run.py [--events N] [--real FILE.kvmr] [--rounds N]`.

Every number is CPU time, the best of some interleaved rounds; compare the ratios, not the nanoseconds: they are of one process
on one machine at one time. "x rows" is the speed relative to msgpack's Unpacker merely decoding the same events as rows.
"""

import argparse
import datetime as dt
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import seek
from c_limit import c_loop
from calls import KINDS, costs
from cores import cores
from fleets import fleets
from imports import imports
from measure import (
    Case,
    comparison,
    copy_plain,
    digesting,
    folding,
    in_turn,
    machine,
    peak_kib,
    reading,
    reference,
    row_decoder,
    start_up,
    uncompiled,
    write_items,
)
from peers import peers
from workloads import LARGE, Profile, Workload

from replay.kvm.compiled import LOOP

TWO = ("eager", "on-demand")
FIVE = ("eager", "on-demand", "6.6", "6.8", "6.9")
UNSURE = 3
"""Exit status of `compare` for a synthetic stream: pages that no memslot holds are in it."""


def show(title: str, cases: Sequence[Case], rows: Case, limit: float | None = None) -> None:
    """Print a table of cases."""
    print(f"\n{title}")
    print(f"  {'':38} {'ns/event':>9} {'M ev/s':>7} {'x rows':>7} {'of C':>6}")
    for case in (rows, *cases):
        part = f"1/{case.best_ns / limit:.1f}" if limit else ""
        print(f"  {case.name:38} {case.best_ns:9.1f} {1000 / case.best_ns:7.2f} {rows.best_ns / case.best_ns:7.2f} {part:>6}")
    if limit:
        print(f"  {'plain C loop, one lane, in memory':38} {limit:9.1f} {1000 / limit:7.2f} {rows.best_ns / limit:7.2f}   1/1")
    sys.stdout.flush()


def hot_path(title: str, path: Path, events: int, folder: Path, rounds: int) -> None:
    """Measure reading, folding and comparing one recording, (a) to (c)."""
    rows = row_decoder(path)
    cases = [
        comparison("compare, 2 lanes, from file", path, events, TWO),
        comparison("compare, 5 lanes, from file", path, events, FIVE),
        digesting("compare, 2 lanes, a digest a run", path, events, TWO),
        reading(path, events),
    ]
    if LOOP[0] is not None:
        cases.insert(1, uncompiled(cases[0]))
    if events <= 2_000_000:
        cases.append(folding("fold, 2 lanes, in memory", path, events, TWO))
    in_turn([rows, *cases], rounds)
    limit = c_loop(path, folder, rounds)
    if limit is not None and limit[0] != limit[1]:
        raise SystemExit(f"the C loop finds {limit[0]}, the model {limit[1]}")
    show(f"{title}: {events:,} hot events, {path.stat().st_size / events:.2f} bytes an event", cases, rows, limit and limit[2])


def synthetic(folder: Path, profile: Profile) -> tuple[Path, int]:
    """Write a synthetic recording."""
    path = folder / f"{profile.name}.kvmr"
    return path, write_items(path, Workload(profile).items())


def main_profile(folder: Path, args: argparse.Namespace) -> None:
    """Measure (a), (b), (c): the synthetic profile, a structural event every 5,000 events."""
    path, events = synthetic(folder, Profile("synthetic", args.events))
    hot_path("(a-c) synthetic", path, events, folder, args.rounds)


def real_profile(folder: Path, args: argparse.Namespace) -> None:
    """Measure (a), (b), (c): a real recording, as it is and without compression."""
    if args.real is None:
        return
    for compression in ("none", "zlib"):
        path = folder / f"real-{compression}.kvmr"
        hot_path(
            f"(a-c) {args.real.name}, compression {compression}",
            path,
            copy_plain(args.real, path, compression),
            folder,
            args.rounds,
        )


def shapes(folder: Path, args: argparse.Namespace) -> None:
    """Other shapes of recordings: short runs, large slots, a VM whose lanes part."""
    few = min(args.events, 1_000_000)
    profiles = (
        Profile("runs of 100", few // 4, run_events=100),
        Profile("runs of 500", few, run_events=500),
        Profile("runs of 16384", few, run_events=16384),
        Profile("2^27 pages at random", few, sizes=LARGE, skew=1.0),
        Profile("one VM of four parted", few, registered=(0,)),
        Profile("shadow pages of level 1", few, level=1),
    )
    for profile in profiles:
        path, events = synthetic(folder, profile)
        rows = row_decoder(path)
        cases = [
            comparison("compare, 2 lanes, from file", path, events, TWO),
            comparison("one lane twice", path, events, ("eager", "6.6")),
        ]
        in_turn([rows, *cases], args.rounds)
        show(f"{profile.name}: {events:,} hot events", cases, rows)


def scalar(folder: Path, args: argparse.Namespace) -> None:
    """Measure (d): the scalar rule."""
    path, _events = synthetic(folder, Profile("scalar", 200_000))
    rows = row_decoder(path)
    cases = [reference(path, 200_000)]
    in_turn([rows, *cases], args.rounds)
    show("(d) reference path", cases, rows)


def starts(folder: Path, args: argparse.Namespace) -> None:
    """Measure (f): start-up against a bare Python."""
    path, _events = synthetic(folder, Profile("small", 2000, run_events=28))
    commands = {
        "python -c pass": (["-c", "pass"], 0),
        "kvm-replay --help": (["-m", "replay", "--help"], 0),
        "compare, 2,000 events": (["-m", "replay", "compare", str(path)], UNSURE),
    }
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(3 * args.rounds):
        best = {
            name: min(best[name], start_up(command, folder / "modules", status)) for name, (command, status) in commands.items()
        }
    bare = best["python -c pass"]
    print("\n(f) start-up, CPU time")
    for name, milliseconds in best.items():
        print(f"  {name:38} {milliseconds:7.1f} ms  {milliseconds / bare:5.1f}x bare Python, {milliseconds - bare:+.1f} ms")


def memory(folder: Path, args: argparse.Namespace) -> None:
    """Measure (g): peak memory of a comparison."""
    print("\n(g) peak memory of compare, two lanes")
    for events in args.memory:
        path, _events = synthetic(folder, Profile(f"memory-{events}", events))
        print(f"  {events:>12,} events {peak_kib(['compare', str(path)], UNSURE) / 1024:8.1f} MiB")
        path.unlink()
        sys.stdout.flush()


def importing(folder: Path, args: argparse.Namespace) -> None:
    """Measure (e): import of text."""
    imports(folder, args.lines, args.rounds)


def two_processes(folder: Path, args: argparse.Namespace) -> None:
    """Measure (e) with two processes."""
    cores(folder, args.long_lines, args.rounds, args.traces)


def fleet(folder: Path, args: argparse.Namespace) -> None:
    """Measure (h): many recordings."""
    fleets(folder, args.fleet, args.rounds)


def peer(folder: Path, args: argparse.Namespace) -> None:
    """Measure (i): other tools."""
    peers(folder, min(args.events, 200_000), args.rounds)


def seeks(folder: Path, args: argparse.Namespace) -> None:
    """Measure (j): any event by an index, of the synthetic recording and of the real one."""
    path, _events = synthetic(folder, Profile("seek", args.events))
    seek.measure(path, args.seeks).show()
    if args.real is not None:
        copy = folder / "real.kvmr"
        copy_plain(args.real, copy, "none")
        seek.measure(copy, args.seeks).show()


def memslot_calls(_folder: Path, args: argparse.Namespace) -> None:
    """Measure what memslot calls cost, in microseconds."""
    print(f"\nmemslot calls, us a call{'two lanes':>22} {'analyses':>9} {'five lanes':>11} {'analyses':>9}")
    for kind in KINDS:
        two, five = (costs(kind, names, 3 * args.rounds) for names in (TWO, FIVE))
        print(f"  {kind:30} {two[0]:13.1f} {two[1]:9.1f} {five[0]:11.1f} {five[1]:9.1f}")


PARTS: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "real": real_profile,
    "synthetic": main_profile,
    "shapes": shapes,
    "calls": memslot_calls,
    "scalar": scalar,
    "start": starts,
    "memory": memory,
    "imports": importing,
    "cores": two_processes,
    "fleet": fleet,
    "peers": peer,
    "seek": seeks,
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="hot events of the synthetic recording")
    parser.add_argument("--real", type=Path, help="a real .kvmr recording to measure as well")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds, of which the best counts")
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000_000, 10_000_000], help="lengths for (g)")
    parser.add_argument("--lines", type=int, default=400_000, help="lines of each text of (e)")
    parser.add_argument("--long-lines", type=int, default=2_000_000, help="lines of each text that two processes import")
    parser.add_argument("--traces", type=Path, nargs="*", default=(), help="traces of a run that two processes import as well")
    parser.add_argument("--fleet", type=int, default=1000, help="recordings of (h)")
    parser.add_argument("--seeks", type=int, default=60, help="random events for (j)")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), default=tuple(PARTS), help="parts to run")
    args = parser.parse_args()
    print(f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {machine()}, best of {args.rounds} interleaved rounds")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            PARTS[name](Path(folder), args)


if __name__ == "__main__":
    main()
