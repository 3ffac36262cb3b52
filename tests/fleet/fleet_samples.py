"""Recordings for the tests of the fleet, ways to work on them in this process, and work that kills its process."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from replay.fleet import Fleet, Question, Result, Store, engine_version, found_files
from replay.fleet.local import Answer
from replay.fleet.run import Runner
from replay.fleet.work import replay_chunk
from replay.generate import generated, profile_named
from replay.header import Trailer
from replay.recording import Writer

QUESTION = Question(("eager", "on-demand"))
PROFILES = ("qemu-boot", "shadow", "nested", "gvisor", "hotplug", "migration")


def write_fleet(folder: Path, count: int = 12, events: int = 60) -> list[str]:
    """Write synthetic recordings, two of them alike, and a bad file; return their paths."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        stream = generated(profile_named(PROFILES[number % len(PROFILES)]), events, number)
        with Writer(folder / f"{number:03}.kvmr", stream.header) as writer:
            for item in stream.items():
                writer.write(item)
            writer.finish(Trailer())
    (folder / "copy.kvmr").write_bytes((folder / "000.kvmr").read_bytes())
    (folder / "bad.kvmr").write_bytes(b"no recording")
    return found_files([str(folder)])


class Here:
    """Works in this process; counts what it was asked."""

    def __init__(self, *, backwards: bool = False) -> None:
        self.asked: list[str] = []
        self._backwards = backwards

    def results(self, paths: Sequence[str], question: Question, known: frozenset[str]) -> Iterator[Answer]:
        """Yield the results, one path at a time."""
        for path in reversed(paths) if self._backwards else paths:
            self.asked.append(path)
            yield replay_chunk([path], question, known)


def run(paths: Sequence[str], runner: Runner, database: str | None = None) -> tuple[Fleet, list[Result]]:
    """Run a fleet to its end."""
    fleet = Fleet(paths, QUESTION, Store(database, engine_version(), QUESTION.text), runner)
    return fleet, list(fleet.replay())


def dies_over_poison(paths: Sequence[str], question: Question, known: frozenset[str]) -> Answer:
    """Replay, and be killed over every file with poison in its name."""
    for path in paths:
        if path.endswith("poison.kvmr"):
            os.kill(os.getpid(), signal.SIGKILL)
    return replay_chunk(paths, question, known)


def dies_once(paths: Sequence[str], question: Question, known: frozenset[str]) -> Answer:
    """Replay, and be killed over the file 003 the first time that it is met."""
    for path in paths:
        mark = Path(path).parent.parent / "died"
        if path.endswith("003.kvmr") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return replay_chunk(paths, question, known)


def dies_always(paths: Sequence[str], question: Question, known: frozenset[str]) -> Answer:
    """Be killed over everything."""
    os.kill(os.getpid(), signal.SIGKILL)
    return replay_chunk(paths, question, known)


def takes_its_time(paths: Sequence[str], question: Question, known: frozenset[str]) -> Answer:
    """Replay, slowly enough to be killed in the middle."""
    time.sleep(0.2)
    return replay_chunk(paths, question, known)
