"""Replay on the cores of this machine: a pool of processes, and a fresh one whenever a process of it dies.

Who was to blame can not be told when several recordings were in the making. So all of them are suspects: they are tried again
one at a time, each alone in the pool, until it is done or has taken down TRIES processes.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import BaseContext
from typing import Final

from replay.errors import WorkerError
from replay.fleet.work import Question, Result, lost, replay_chunk
from replay.kvm.fold import use_bulk

TRIES: Final = 3
"""How often a recording may take its process down before it is given up."""
DEATHS_MOST: Final = 10 * TRIES
"""Pools that may break in a row without a single result in between: then it is not the recordings."""
CHUNK_FILES: Final = 16
MANY_FILES: Final = 64
"""Recordings for a process from which on numpy is loaded at its start: a small recording alone is not worth it."""
Chunk = tuple[str, ...]
Answer = tuple[str, list[Result]]
Work = Callable[[Sequence[str], Question, frozenset[str]], Answer]
_preset: dict[str, tuple[Work, Question, frozenset[str]]] = {}


def _start(work: Work, question: Question, known: frozenset[str], *, many: bool) -> None:
    """Prepare a process: interruptions are the parent's business, and it does not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _preset["job"] = work, question, known
    if many:
        use_bulk()
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            wait_for([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _work(chunk: Chunk) -> Answer:
    work, question, known = _preset["job"]
    return work(chunk, question, known)


def _context() -> BaseContext:
    """Return how processes are started: never by a mere fork of this one, which may have threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["replay.fleet.local", "replay.sources.files", "replay.recording.open"])
    return context


class LocalPool:
    """Processes of this machine. work: what they do with some paths; a function that can be sent to them."""

    def __init__(self, jobs: int, work: Work = replay_chunk) -> None:
        self._jobs = jobs
        self._work = work

    def results(self, paths: Sequence[str], question: Question, known: frozenset[str]) -> Iterator[Answer]:
        """Yield (version of the code, results) of some paths at a time, in the order in which they are done.

        Raises WorkerError when processes die whatever they are given.
        """
        size = max(1, min(CHUNK_FILES, len(paths) // (8 * self._jobs)))
        work = _Work([tuple(paths[first : first + size]) for first in range(0, len(paths), size)])
        while work.left:
            executor = ProcessPoolExecutor(
                self._jobs,
                mp_context=_context(),
                initializer=partial(_start, many=len(paths) >= MANY_FILES * self._jobs),
                initargs=(self._work, question, known),
            )
            try:
                yield from _until_broken(executor, work, 2 * self._jobs)
            finally:
                _end(executor)


class _Work:
    """What is still to be done, and what is known of recordings that took processes down."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = deque(chunks)
        self.suspects: deque[str] = deque()
        self._tries: dict[str, int] = {}
        self._deaths = 0

    @property
    def left(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.chunks or self.suspects)

    def next(self) -> Chunk:
        """Take the next piece of work; suspects first, one at a time."""
        return (self.suspects.popleft(),) if self.suspects else self.chunks.popleft()

    def done(self) -> None:
        """Note that a process did its work."""
        self._deaths = 0

    def died(self, chunks: Sequence[Chunk]) -> list[Result]:
        """Take back what was in the making when a process died; return those that are given up. Raises WorkerError."""
        self._deaths += 1
        if self._deaths > DEATHS_MOST:
            raise WorkerError(
                "every process dies", expected="at least one that stays", advice="look for limits on memory or processes"
            )
        paths = [path for chunk in chunks for path in chunk]
        if len(paths) > 1:
            self.suspects.extend(paths)
            return []
        (path,) = paths
        self._tries[path] = self._tries.get(path, 0) + 1
        if self._tries[path] < TRIES:
            self.suspects.appendleft(path)
            return []
        return [lost(path, TRIES)]


def _until_broken(executor: ProcessPoolExecutor, work: _Work, most: int) -> Iterator[Answer]:
    """Yield answers until all work is done or a process dies; then `work` has what is left."""
    making: dict[Future[Answer], Chunk] = {}
    while True:
        try:
            while work.left and len(making) < (1 if work.suspects else most):
                chunk = work.next()
                making[_submitted(executor, work, chunk)] = chunk
        except BrokenProcessPool:
            pass  # it shows in the futures that are waited for below, or was put back
        if not making:
            return
        ready, _ = wait(making, return_when=FIRST_COMPLETED)
        broken = [future for future in ready if isinstance(future.exception(), BrokenProcessPool)]
        for future in ready:
            if future not in broken:
                del making[future]
                work.done()
                yield future.result()
        if broken:
            wait(making)
            for future in [future for future in making if future.exception() is None]:
                del making[future]
                yield future.result()
            given_up = work.died(list(making.values()))
            if given_up:
                yield "", given_up
            return


def _submitted(executor: ProcessPoolExecutor, work: _Work, chunk: Chunk) -> "Future[Answer]":
    try:
        return executor.submit(_work, chunk)
    except BrokenProcessPool:
        if len(chunk) > 1:
            work.chunks.appendleft(chunk)
        else:
            work.suspects.appendleft(chunk[0])
        raise


def _end(executor: ProcessPoolExecutor) -> None:
    """End a pool at once, also one whose processes are in the middle of something."""
    executor.shutdown(wait=False, cancel_futures=True)
    for process in multiprocessing.active_children():
        process.terminate()
    executor.shutdown(wait=True)
