"""The same bytes everywhere: hash seeds, -O, locale, time zone, folder, umask; a replay asks no clock, dice or environment.

A few environments are tried in every run; KVM_REPLAY_SWEEP=full tries 32 hash seeds and each of the others by itself.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import attrs
import numpy as np
import pytest
from sweep import FULL, ROOT, Figures, files

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.recording import open_recording
from replay.stream import MemoryStream

RECORDINGS: Final = (
    "recordings/real/gvisor-echo.kvmr",
    "recordings/kernel/6.12-npt0/08-gfn.kvmr",
    "recordings/catalogue/D05-shadow-root.jsonl",
)
TRACE: Final = "tests/data/strace/two-shadow-vms.txt"

RUNNER: Final = """
import contextlib, hashlib, io, json, sys
sys.path.insert(0, sys.argv[1])
from replay.cli import main
for command in json.load(sys.stdin):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\\n")
    with contextlib.redirect_stdout(out):
        status = main(command)
    out.flush()
    print(status, hashlib.sha256(out.buffer.getvalue()).hexdigest(), len(out.buffer.getvalue()), " ".join(command))
"""
"""Runs verbs in one process and prints the digest of what each writes to its standard output."""


def commands() -> list[list[str]]:
    """List the verbs with their formats, over three recordings and one trace."""
    found = [["policies", "--format", "json"], ["cost", "--address-bits", "39"]]
    for name in RECORDINGS:
        for verb in (["info"], ["dump"], ["compare"], ["check"], ["state", "--at", "5"], ["cost"], ["verify"]):
            found += [[*verb, str(ROOT / name), "--format", form] for form in ("text", "json")]
    found += [[verb, str(ROOT / TRACE), "--format", "json"] for verb in ("info", "compare")]
    return [*found, ["import", str(ROOT / TRACE), "-o", "-"]]


@attrs.frozen(kw_only=True)
class Place:
    """An environment to run in."""

    hash_seed: str = "0"
    flags: tuple[str, ...] = ()
    more: tuple[tuple[str, str], ...] = ()
    folder: str = "/tmp"
    umask: int = 0o022

    def run(self) -> list[str]:
        """Return a line a command: status, digest, length."""
        done = subprocess.run(
            [sys.executable, *self.flags, "-c", RUNNER, str(ROOT)],
            input=json.dumps(commands()),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": self.hash_seed, **dict(self.more)},
            umask=self.umask,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()


def places() -> list[Place]:
    """List the environments: a few with several changes each, or each change by itself and 31 hash seeds."""
    turkish, far = ("LC_ALL", "tr_TR.UTF-8"), ("TZ", "Pacific/Kiritimati")
    if not FULL:
        return [
            Place(hash_seed="1", flags=("-O",), more=(("LC_ALL", "C"),), umask=0o077),
            Place(hash_seed="random", more=(turkish, far), folder="/"),
        ]
    single = [
        Place(flags=("-O",)),
        Place(more=(("LC_ALL", "C"),)),
        Place(more=(turkish,)),
        Place(more=(far,)),
        Place(folder="/"),
        Place(umask=0o077),
    ]
    return single + [Place(hash_seed=str(seed)) for seed in range(1, 32)]


class TestEnvironments:
    """What a verb writes depends on its inputs and arguments only."""

    def test_same_bytes(self, figures: Figures) -> None:
        """Every verb writes the same bytes and ends with the same status in each environment."""
        here = Place().run()
        assert len(here) == len(commands())
        assert all(int(line.split()[2]) > 20 for line in here)
        assert {line.split()[0] for line in here} >= {"0", "1"}
        tried = 0
        for place in places():
            assert place.run() == here, place
            tried += len(here)
        figures("outputs in other environments", tried, differing=0)


class Forbidden(Exception):  # noqa: N818 - not an error of the project: a replay that asks may not survive by catching those
    """The replay asked for something that is not in the recording."""


def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Take the place of a function that no replay may call."""
    raise Forbidden


class NoEnvironment(dict[str, str]):
    """An environment that may not be read."""

    __getitem__ = get = __contains__ = __iter__ = keys = items = values = refuse


@pytest.fixture(name="sealed")
def _sealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Return what takes clock, dice, files and environment away until the test ends."""
    assert np is not None  # numpy reads the environment when it is imported; it is here already

    def seal() -> None:
        for module, names in (
            (time, ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "sleep")),
            (random, ("random", "randrange", "randint", "choice", "shuffle", "getrandbits", "Random")),
            (os, ("urandom", "getrandom", "getenv", "open", "getpid", "uname", "cpu_count")),
            (__builtins__ if isinstance(__builtins__, type(os)) else sys.modules["builtins"], ("open", "input")),
        ):
            for name in names:
                monkeypatch.setattr(module, name, refuse)
        monkeypatch.setattr(os, "environ", NoEnvironment())

    yield seal
    monkeypatch.undo()


class TestSealed:
    """A replay reads events and nothing else."""

    def test_nothing_is_asked(self, sealed: Callable[[], None], monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
        """Clock, dice, files and environment are out of reach while recordings are compared and checked."""
        paths = [*files("*.kvmr", small=True)[:: 1 if FULL else 5], *files("*.kvmr", small=False)[:4]]
        loaded: list[tuple[str, MemoryStream]] = []
        for path in paths:
            source = open_recording(str(path))
            items = list(source.items())
            loaded.append((path.name, MemoryStream(source.header, items, source.trailer())))
        compare(loaded[0][1], make_lanes(["all"], loaded[0][1].header.machine))  # imports what is imported late
        check(loaded[0][1])
        sealed()
        escaped = []
        for name, stream in loaded:
            try:
                compare(stream, make_lanes(["eager", "on-demand"], stream.header.machine))
                check(stream)
            except Forbidden:
                escaped.append(name)
        monkeypatch.undo()
        assert escaped == []
        assert len(loaded) > 50
        figures("recordings replayed without clock, dice, files and environment", len(loaded), asking=0)

    def test_the_seal_holds(self, sealed: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
        """What is taken away is really out of reach."""
        sealed()
        caught = 0
        for ask in (time.time, random.random, lambda: os.environ["PATH"], lambda: open("x")):  # noqa: PTH123, SIM115
            try:
                ask()
            except Forbidden:
                caught += 1
        monkeypatch.undo()
        assert caught == 4
