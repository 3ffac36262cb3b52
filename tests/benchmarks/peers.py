"""Measure (i): other tools on the same events, asked for the bytes of write tracking over time under the eager policy.

That question is a sum over memslot calls, which any of them can answer; none of them knows what a kernel would have done.
eventsourcing replays an aggregate with a memslot table from its store. Tools that are not installed are skipped, and said.
"""

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctf import Row, write_ctf
from measure import Case, in_turn, lanes_for

from replay.analyses.compare import compare
from replay.events import Event, MemslotSet
from replay.generate import generated, profile_named
from replay.recording.open import open_recording
from replay.runs import Run, events_of

_COLUMNS = "number, time_ns, kind, vm, slot, pages, gfn"
_CREATE = "CREATE TABLE event (number BIGINT, time_ns BIGINT, kind TEXT, vm BIGINT, slot BIGINT, pages BIGINT, gfn BIGINT)"
QUESTION = """
WITH call AS (
    SELECT number, time_ns, pages, lag(pages, 1, 0) OVER (PARTITION BY vm, slot ORDER BY number) AS before
    FROM event WHERE kind = 'memslot.set')
SELECT time_ns, sum(2 * (pages - before)) OVER (ORDER BY number) AS bytes FROM call ORDER BY number
"""


def rows_of(path: Path) -> list[Row]:
    """Return the events of a recording as rows."""
    return [_row(number, event) for number, event in enumerate(events_of(open_recording(path).items()))]


def _row(number: int, event: Event) -> Row:
    slot, pages = (event.slot, event.memory_size >> 12) if isinstance(event, MemslotSet) else (None, None)
    return (number, event.time_ns, event.KIND, getattr(event, "vm", 0), slot, pages, getattr(event, "gfn", None))


def sqlite_case(rows: list[Row]) -> list[Case]:
    """Return loading the rows into SQLite, and asking it."""
    opened = [sqlite3.connect(":memory:")]

    def load() -> None:
        opened[0].close()
        opened[0] = sqlite3.connect(":memory:")
        opened[0].execute(_CREATE)
        opened[0].executemany("INSERT INTO event VALUES (?,?,?,?,?,?,?)", rows)
        opened[0].commit()

    def ask() -> int:
        return max(int(size) for _time, size in opened[0].execute(QUESTION))

    return [Case("sqlite3: load rows", len(rows), load), Case("sqlite3: ask", len(rows), ask)]


def duckdb_case(rows: list[Row], folder: Path) -> list[Case]:
    """Return loading a CSV of the rows into duckdb with one thread, and asking it."""
    import csv

    import duckdb  # type: ignore[import-not-found,unused-ignore]

    table = folder / "events.csv"
    with table.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    database: Any = duckdb.connect(config={"threads": "1"})

    def load() -> None:
        database.execute("DROP TABLE IF EXISTS event")
        database.execute(_CREATE)
        database.execute(f"COPY event FROM '{table}' (FORMAT csv, HEADER false)")

    def ask() -> int:
        return max(int(size) for _time, size in database.execute(QUESTION).fetchall())

    return [Case("duckdb: load csv, one thread", len(rows), load), Case("duckdb: ask", len(rows), ask)]


def eventsourcing_case(rows: list[Row]) -> list[Case]:
    """Return replaying one aggregate, with the calls and hot events as its events, from a store in memory."""
    from eventsourcing.application import Application  # type: ignore[import-not-found,unused-ignore]
    from eventsourcing.domain import Aggregate, event  # type: ignore[import-not-found,unused-ignore]

    class Guest(Aggregate):  # type: ignore[misc,unused-ignore]
        """A VM's memslots and counters, the naive way."""

        @event("Created")  # type: ignore[untyped-decorator,unused-ignore]
        def __init__(self) -> None:
            self.pages: dict[int, int] = {}
            self.counts: dict[int, int] = {}
            self.peak = 0

        @event("Asked")  # type: ignore[untyped-decorator,unused-ignore]
        def asked(self, slot: int, pages: int) -> None:
            """Set a memslot."""
            self.pages[slot] = pages
            self.peak = max(self.peak, 2 * sum(self.pages.values()))

        @event("Tracked")  # type: ignore[untyped-decorator,unused-ignore]
        def tracked(self, gfn: int, delta: int) -> None:
            """Count a gfn."""
            self.counts[gfn] = self.counts.get(gfn, 0) + delta

    application: Any = Application(env={"SNAPSHOTTING_INTERVALS": ""})
    guest: Any = Guest()
    for _number, _time, kind, _vm, slot, pages, gfn in rows:
        if slot is not None:
            guest.asked(slot, pages)
        elif gfn is not None:
            guest.tracked(gfn, -1 if kind.endswith(("remove", ".unaccount")) else 1)
    application.save(guest)
    return [Case("eventsourcing: replay the aggregate", len(rows), lambda: application.repository.get(guest.id))]


def babeltrace(rows: list[Row], folder: Path, rounds: int) -> None:
    """Print how fast babeltrace2 reads the rows as a CTF trace, counting them and as text, if it is installed."""
    program = shutil.which("babeltrace2")
    if program is None:
        print("  babeltrace2: SKIPPED, not installed")
        return
    trace = str(write_ctf(folder / "ctf", rows))
    counted = subprocess.run([program, trace, "--component", "sink.utils.counter"], check=True, capture_output=True, text=True)
    assert f"{len(rows)} Event messages" in counted.stdout, counted.stdout
    for what, sink in (("count", ["--component", "sink.utils.counter"]), ("text", ["--component", "sink.text.pretty"])):
        best = min(child_seconds([program, trace, *sink]) for _ in range(rounds))
        print(f"  {f'babeltrace2: CTF, {what}':42} {1e9 * best / len(rows):9.0f} ns an event")


def child_seconds(command: list[str]) -> float:
    """Return the CPU time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def optional(name: str, make: Callable[[], Iterable[Case]]) -> list[Case]:
    """Return the cases of a library, none with a word about it where it is not installed."""
    if find_spec(name) is None:
        print(f"  {name}: SKIPPED, not installed")
        return []
    return list(make())


def peers(folder: Path, events: int, rounds: int) -> None:
    """Print the table of (i)."""
    stream = generated(profile_named("shadow"), events, 1, vms=1)
    path = folder / "peers.kvmr"
    from measure import write_items

    hot = write_items(path, stream.items(), stream.header)
    assert hot == sum(len(item) for item in open_recording(path).items() if isinstance(item, Run))
    rows = rows_of(path)
    print(f"\n(i) peers: {events:,} events of the profile shadow, one VM")
    lanes = ("eager", "on-demand")
    cases = [
        Case("kvm-replay compare, 2 lanes, from file", events, lambda: compare(open_recording(path), lanes_for(path, lanes)))
    ]
    cases += sqlite_case(rows)
    cases += optional("duckdb", lambda: duckdb_case(rows, folder))
    few = rows[: min(len(rows), 20_000)]
    cases += optional("eventsourcing", lambda: eventsourcing_case(few))
    in_turn(cases, rounds)
    for case in cases:
        print(f"  {case.name:42} {case.best_ns:9.0f} ns an event {case.best_ns / cases[0].best_ns:7.2f} of ours")
    babeltrace(rows, folder, rounds)
