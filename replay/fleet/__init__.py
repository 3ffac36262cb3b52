"""Replay many recordings in many processes, keep the results in SQLite, lose nothing when a process dies."""

from replay.fleet.find import found_files
from replay.fleet.local import LocalPool
from replay.fleet.run import Fleet, Runner
from replay.fleet.store import Store
from replay.fleet.work import Question, Result, engine_version, replay_one

__all__ = [
    "Fleet",
    "LocalPool",
    "Question",
    "Result",
    "Runner",
    "Store",
    "engine_version",
    "found_files",
    "replay_one",
]
