"""Keep the results of a fleet in SQLite: by digest of the recording, version of the engine and question.

What is finished is there after every chunk, whatever happens next. All tables are ordered by their keys, so that equal results
give an equal dump, in whatever order they came. docs/fleet.md describes the tables.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from replay.analyses.findings import ClassCount
from replay.analyses.fleet_report import FleetPair, FleetRecording
from replay.errors import UnwritableError
from replay.fleet.work import Result

APPLICATION: Final = 0x4B564D46  # "KVMF": tells other people's databases from ours
VERSION: Final = 1
_KEY: Final = ("digest", "engine", "question")
_ROW: Final = (
    *("status", "code", "trouble", "title", "sentence", "events", "vms", "doubts"),
    *("release", "policy", "tdp", "tool", "strongest"),
)
_PAIR: Final = (
    *("other", "strongest", "first_event", "findings", "behind_horizon"),
    *("reference_peak_bytes", "other_peak_bytes", "saved_bytes"),
)
_CLASS: Final = ("divergence", "count", "behind_horizon", "first_event")
_NUMBERS: Final = frozenset(
    {"events", "vms", "doubts", "first_event", "findings", "behind_horizon", "count", "certain", "size_bytes"}
    | {"reference_peak_bytes", "other_peak_bytes", "saved_bytes"}
)
TABLES: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "recording": (("name",), (*_KEY, "size_bytes")),
    "replay": (_KEY, (*_ROW, "certain")),
    "pair": ((*_KEY, "other"), _PAIR[1:]),
    "class": ((*_KEY, "other", "divergence"), _CLASS[1:]),
}
"""Table -> (columns of its key, other columns)."""


def schema() -> list[str]:
    """Return the statements that make the tables, and a view that joins a file with its result."""
    made = []
    for table, (key, rest) in TABLES.items():
        columns = ", ".join(f"{name} {'INTEGER' if name in _NUMBERS else 'TEXT'}" for name in (*key, *rest))
        made.append(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({', '.join(key)})) WITHOUT ROWID")
    joined = ", ".join(_ROW)
    made.append(
        f"CREATE VIEW result AS SELECT name, size_bytes, {', '.join(_KEY)}, {joined} "  # noqa: S608 - names of ours
        f"FROM recording JOIN replay USING ({', '.join(_KEY)})"
    )
    return made


class Store:
    """One database of results; path None keeps it in memory. Raises UnwritableError for a file that is no such database."""

    def __init__(self, path: str | None, engine: str, question: str) -> None:
        self._key = (engine, question)
        self._where = path or "results"
        if path is not None and Path(path).exists() and not Path(path).is_file():
            raise UnwritableError("is no file", where=path, expected="a new file, or a database of results")
        try:
            self._db = sqlite3.connect(path or ":memory:")
            self._prepare()
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def _prepare(self) -> None:
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and (application, version) != (APPLICATION, VERSION):
            raise UnwritableError(
                "is another database",
                where=self._where,
                expected=f"results of a fleet, version {VERSION}",
                advice="give another name",
            )
        if not tables:
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {VERSION}")
            for statement in schema():
                self._db.execute(statement)
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.commit()

    def _trouble(self, error: sqlite3.Error) -> UnwritableError:
        return UnwritableError(str(error), where=self._where, expected="a database that can be written")

    def known(self) -> frozenset[str]:
        """Return the digests whose results are finished, for this engine and question."""
        rows = self._db.execute("SELECT digest FROM replay WHERE engine = ? AND question = ? AND certain", self._key)
        return frozenset(digest for (digest,) in rows)

    def begin(self, names: Sequence[str]) -> None:
        """Start a run over some files: what other files there were is forgotten, their results stay."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS asked (name TEXT PRIMARY KEY)")
        self._db.execute("DELETE FROM asked")
        self._db.executemany("INSERT OR IGNORE INTO asked VALUES (?)", ((name,) for name in names))
        self._db.execute("DELETE FROM recording WHERE name NOT IN (SELECT name FROM asked)")
        self._db.commit()

    def put(self, results: Sequence[tuple[str, Result]]) -> None:
        """Keep results, each with the name of its file. Raises UnwritableError."""
        try:
            for name, result in results:
                self._put(name, result)
            self._db.commit()
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def _put(self, name: str, result: Result) -> None:
        digest = result.digest or f"? {name}"  # nobody else can have this row
        key = (digest, *self._key)
        self._insert("recording", (name, *key, result.size_bytes))
        row = result.row
        if row is None:
            return
        self._insert("replay", (*key, *(getattr(row, column) for column in _ROW), result.certain))
        for pair in row.pairs:
            self._insert("pair", (*key, *(getattr(pair, column) for column in _PAIR)))
            for found in pair.classes:
                self._insert("class", (*key, pair.other, *(getattr(found, column) for column in _CLASS)))

    def _insert(self, table: str, values: Sequence[Any]) -> None:
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", [_stored(value) for value in values])  # noqa: S608 - names of ours

    def rows(self) -> Iterator[FleetRecording]:
        """Yield the rows of the files of this run, by name."""
        columns = ", ".join(_ROW)
        found = self._db.execute(
            f"SELECT name, size_bytes, digest, {columns} FROM result WHERE engine = ? AND question = ? ORDER BY name",  # noqa: S608
            self._key,
        )
        for name, size_bytes, digest, *rest in found:
            row = FleetRecording(
                name=name,
                size_bytes=size_bytes,
                digest="" if digest.startswith("? ") else digest,
                **dict(zip(_ROW, rest, strict=True)),
            )
            yield attrs.evolve(row, pairs=tuple(self._pairs(digest)))

    def _pairs(self, digest: str) -> Iterator[FleetPair]:
        key = (digest, *self._key)
        where = "WHERE digest = ? AND engine = ? AND question = ?"
        classes: dict[str, list[ClassCount]] = {}
        for other, *rest in self._db.execute(f"SELECT other, {', '.join(_CLASS)} FROM class {where}", key):  # noqa: S608
            classes.setdefault(other, []).append(ClassCount(**dict(zip(_CLASS, rest, strict=True))))
        for values in self._db.execute(f"SELECT {', '.join(_PAIR)} FROM pair {where}", key).fetchall():  # noqa: S608
            yield FleetPair(**dict(zip(_PAIR, values, strict=True)), classes=tuple(classes.get(values[0], ())))

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _stored(value: object) -> object:
    """Return a value as SQLite takes it: its integers have 64 bits with a sign, so larger ones are cut off there."""
    return max(-(1 << 63), min((1 << 63) - 1, int(value))) if isinstance(value, int) else value
