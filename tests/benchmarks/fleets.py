"""Measure (h): a fleet of generated recordings in this process, and in one and two processes."""

import time
from collections import deque
from pathlib import Path

from measure import write_items
from workloads import Profile, Workload

from replay.fleet import Fleet, LocalPool, Question, Store, engine_version, found_files, replay_one
from replay.generate import generated, profile_named

QUESTION = Question(("eager", "on-demand"))
PROFILES = ("shadow", "nested", "gvtg", "mixed", "qemu-boot")
SHORT_RUNS = 28
"""Hot events between two memslot calls in recordings of the benchmark's own profile: some 70 calls in 2,000 events."""


def made(folder: Path, profile: str, count: int, events: int) -> list[str]:
    """Write recordings of one profile, of seeds 0, 1, 2...; return their paths."""
    folder.mkdir()
    for seed in range(count):
        stream = generated(profile_named(profile), events, seed)
        write_items(folder / f"{seed:05}.kvmr", stream.items(), stream.header)
    return found_files([str(folder)])


def made_short(folder: Path, count: int, events: int) -> list[str]:
    """Write recordings of the benchmark's own profile with short runs; return their paths."""
    folder.mkdir()
    for seed in range(count):
        write_items(folder / f"{seed:05}.kvmr", Workload(Profile("short runs", events, run_events=SHORT_RUNS, seed=seed)).items())
    return found_files([str(folder)])


def in_process_ms(paths: list[str]) -> float:
    """Return the CPU time a recording, here and one after the other."""
    start = time.process_time()
    for path in paths:
        assert replay_one(path, QUESTION).row is not None
    return 1000 * (time.process_time() - start) / len(paths)


def seconds(paths: list[str], database: Path, jobs: int) -> float:
    """Return the time on the wall of a whole run, its processes started and ended."""
    start = time.perf_counter()
    store = Store(str(database), engine_version(), QUESTION.text)
    fleet = Fleet(paths, QUESTION, store, LocalPool(jobs))
    deque(fleet.replay(), maxlen=0)
    assert fleet.report().recordings == len(paths)
    store.close()
    return time.perf_counter() - start


def fleets(folder: Path, count: int, rounds: int, events: int = 2000) -> None:
    """Print the table of (h)."""
    print(f"\n(h) fleet of generated recordings of {events:,} events, 2 lanes; CPU time in one process, the wall for a whole run")
    for profile in (*PROFILES, "short runs"):
        few = folder / f"few-{profile}"
        paths = made(few, profile, 10, events) if profile in PROFILES else made_short(few, 10, events)
        best = min(in_process_ms(paths) for _ in range(rounds))
        print(f"  {profile:38} {best:9.2f} ms a recording, {1000 * best / events:6.2f} us an event")
    paths = made(folder / "many", "shadow", count, events)
    walls = {1: float("inf"), 2: float("inf")}
    for number in range(rounds):
        for jobs, before in tuple(walls.items()):
            walls[jobs] = min(before, seconds(paths, folder / f"{number}-{jobs}.sqlite", jobs))
    for jobs, taken in walls.items():
        print(f"  {f'{count:,} recordings, processes: {jobs}':38} {taken:9.2f} s, {1000 * taken / count:6.2f} ms a recording")
    print(f"  {'two processes against one':38} {walls[1] / walls[2]:9.2f} x")
