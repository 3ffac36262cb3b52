"""Promises of the fleet: nothing is lost, nothing is done twice, and the answer does not depend on who did what when."""

import json
import os
import sqlite3
import time
from pathlib import Path

import fleet_samples
import pytest
from fleet_samples import QUESTION, Here, run, write_fleet

from replay.analyses.compare_report import DIVERGENCE, SAME
from replay.analyses.fleet import FleetSummary, quantile, rank
from replay.analyses.fleet_report import RANKING, TROUBLE, FleetPair, FleetRecording
from replay.cli import main
from replay.errors import EmptyError, KvmReplayError, ProfileError, UnwritableError, WorkerError
from replay.fleet import Fleet, LocalPool, Question, Store, engine_version, found_files, replay_one
from replay.fleet.store import TABLES
from replay.fleet.work import THE_FILE
from replay.report.fleet_text import fleet_text


def dump(database: Path) -> str:
    """Return a database as SQL."""
    with sqlite3.connect(database) as opened:
        lines = "\n".join(opened.iterdump())
    opened.close()
    return lines


class TestRow:
    """One recording becomes one row."""

    def test_of_a_recording(self, tmp_path: Path) -> None:
        """The row has verdict, bytes, header facts, and the digest of the file."""
        path = write_fleet(tmp_path / "all", 1)[0]
        result = replay_one(path, QUESTION)
        row = result.row
        assert row is not None
        assert (row.status, row.strongest, row.release, row.policy, row.tdp) == (
            DIVERGENCE, "bytes-only", "6.12.0", "on-demand", "y",
        )  # fmt: skip
        assert row.tool == "kvm-replay generate"
        assert row.pairs[0].saved_bytes == row.pairs[0].reference_peak_bytes > 0
        assert len(row.digest) == 64
        assert result.certain

    def test_of_a_known_one(self, tmp_path: Path) -> None:
        """A digest that is known is not replayed."""
        path = write_fleet(tmp_path / "all", 1)[0]
        digest = replay_one(path, QUESTION).digest
        assert replay_one(path, QUESTION, frozenset({digest})).row is None

    @pytest.mark.parametrize(("content", "code"), [(b"", "KVR"), (b"junk" * 1000, "KVR"), (b"\x89KVMR\r\n\x1a\x01\0\0\0", "KVR")])
    def test_of_a_bad_file(self, content: bytes, code: str, tmp_path: Path) -> None:
        """A bad file is a row with its code, and the row does not name the file: copies share it."""
        path = tmp_path / "name.kvmr"
        path.write_bytes(content)
        row = replay_one(str(path), QUESTION).row
        assert row is not None
        assert row.status == TROUBLE
        assert row.code.startswith(code)
        assert str(tmp_path) not in row.trouble
        assert THE_FILE in row.trouble

    def test_of_a_missing_file(self, tmp_path: Path) -> None:
        """A file that can not be read is trouble, to be tried again next time."""
        result = replay_one(str(tmp_path / "gone.kvmr"), QUESTION)
        assert result.row is not None
        assert (result.row.code, result.certain, result.digest) == ("KVR002", False, "")

    def test_of_a_bug(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bug of ours is a row, too, and called one."""

        def broken(*_arguments: object, **_named: object) -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("replay.fleet.work.compare", broken)
        row = replay_one(write_fleet(tmp_path / "all", 1)[0], QUESTION).row
        assert row is not None
        assert row.code == KvmReplayError.code
        assert "internal error: ZeroDivisionError: oops" in row.trouble

    def test_question(self) -> None:
        """Questions that mean the same have the same key; nonsense is refused before anything is replayed."""
        assert Question(("eager",), "tdp=1,config=y").text == Question(("eager",), "config=1,tdp=y").text
        assert Question(("eager",)).text != Question(("eager",), "tdp=1").text
        with pytest.raises(ProfileError):
            Question(("no-such",)).checked()


class TestFind:
    """Folders are searched, files are taken as they are."""

    def test_folders_and_files(self, tmp_path: Path) -> None:
        """All recordings at any depth, each once, by name; other files only when they are named."""
        for name in ("b.kvmr", "a/deep/c.jsonl", "a/d.txt", "e.kvmr.part"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = found_files([str(tmp_path), str(tmp_path / "b.kvmr"), str(tmp_path / "a/d.txt")])
        assert [os.path.relpath(path, tmp_path) for path in found] == ["a/d.txt", "a/deep/c.jsonl", "b.kvmr"]

    def test_nothing(self, tmp_path: Path) -> None:
        """No recording at all is never a pass."""
        with pytest.raises(EmptyError):
            found_files([str(tmp_path)])


class TestStore:
    """What is finished stays, and is not done again."""

    def test_rows_come_back(self, tmp_path: Path) -> None:
        """Rows read from the database are those that were put in, with the name of each copy."""
        paths = write_fleet(tmp_path / "all", 6)
        fleet, results = run(paths, Here(), str(tmp_path / "r.sqlite"))
        rows = {row.name: row for row in fleet.store.rows()}
        assert sorted(rows) == paths
        assert [result.row for result in results] == [rows[result.path] for result in results]

    def test_resumes(self, tmp_path: Path) -> None:
        """A second run replays nothing that is finished; a new file alone is done; a deleted one is gone from the summary."""
        folder, database = tmp_path / "all", str(tmp_path / "r.sqlite")
        paths = write_fleet(folder, 4)
        run(paths, Here(), database)
        (folder / "000.kvmr").unlink()
        (folder / "new.kvmr").write_bytes((folder / "bad.kvmr").read_bytes() + b"!")
        fleet, results = run(found_files([str(folder)]), Here(), database)
        assert [Path(result.path).name for result in results if result.row is not None] == ["new.kvmr"]
        assert fleet.resumed == len(results) - 1 == 5
        assert fleet.report().recordings == 6

    def test_interrupted(self, tmp_path: Path) -> None:
        """What was done before an interruption is not done again."""
        paths, database = write_fleet(tmp_path / "all", 6), str(tmp_path / "r.sqlite")
        first = Here()
        fleet = Fleet(paths, QUESTION, Store(database, engine_version(), QUESTION.text), first)
        results = fleet.replay()
        for _ in range(3):
            next(results)
        fleet.store.close()
        second, again = run(paths, Here(), database)
        assert second.resumed >= 3
        assert sum(result.row is not None for result in again) == len(paths) - second.resumed
        clean, _ = run(paths, Here())
        assert second.report() == clean.report()

    def test_other_engine_or_question(self, tmp_path: Path) -> None:
        """Results of other code, or to another question, are not taken for answers."""
        paths, database = write_fleet(tmp_path / "all", 2), str(tmp_path / "r.sqlite")
        run(paths, Here(), database)
        assert Store(database, engine_version(), QUESTION.text).known()
        assert not Store(database, "0.0.1", QUESTION.text).known()
        assert not Store(database, engine_version(), "eager,6.9").known()

    def test_foreign_database(self, tmp_path: Path) -> None:
        """Another file is never written to."""
        (tmp_path / "text").write_text("mine" * 1000)
        with sqlite3.connect(tmp_path / "theirs") as theirs:
            theirs.execute("CREATE TABLE t (x)")
        theirs.close()
        for name in ("text", "theirs", "."):
            with pytest.raises(UnwritableError):
                Store(str(tmp_path / name), "e", "q")
        assert (tmp_path / "text").read_text() == "mine" * 1000

    def test_page_names_every_column(self) -> None:
        """docs/fleet.md describes every table and column."""
        text = (Path(__file__).resolve().parent.parent.parent / "docs" / "fleet.md").read_text()
        names = {name for table, (key, rest) in TABLES.items() for name in (table, *key, *rest)}
        assert [name for name in sorted(names) if f"`{name}`" not in text] == []


class TestSummary:
    """Rows become one answer, in whatever order they come."""

    def test_order_does_not_matter(self, tmp_path: Path) -> None:
        """Summary, text and dump are the same forwards and backwards."""
        paths = write_fleet(tmp_path / "all", 6)
        answers = []
        for backwards in (False, True):
            database = tmp_path / f"{backwards}.sqlite"
            fleet, _ = run(paths, Here(backwards=backwards), str(database))
            answers.append((fleet.report(), list(fleet_text(fleet.report())), dump(database)))
        assert answers[0] == answers[1]
        report = answers[0][0]
        assert (report.recordings, report.trouble, report.same, report.divergence) == (8, 1, 1, 6)
        assert report.look_first
        assert report.groups

    def test_quantiles(self) -> None:
        """Nearest rank: a number that is there."""
        numbers = list(range(1, 101))
        assert [quantile(numbers, percent) for percent in (50, 90, 99)] == [50, 90, 99]
        assert [quantile([7], percent) for percent in (50, 99)] == [7, 7]

    def test_ranking(self) -> None:
        """Strongest class, then bytes, then findings, then name; the rule is said."""

        def row(name: str, strongest: str, saved: int, findings: int) -> FleetRecording:
            pair = FleetPair(other="x", strongest=strongest, saved_bytes=saved, findings=findings)
            return FleetRecording(name=name, status=DIVERGENCE, strongest=strongest, pairs=(pair,))

        rows = [
            row("a", "state-differs", 0, 1),
            row("b", "bytes-only", 9, 1),
            row("c", "bytes-only", 8, 5),
            row("d", "bytes-only", 8, 1),
            row("e", "bytes-only", 8, 1),
        ]
        assert [found.name for found in sorted([rows[3], *rows[:3], rows[4]], key=rank)] == ["a", "b", "c", "d", "e"]
        summary = FleetSummary("x", "", "e", top=2)
        for found in [*reversed(rows), *[row(f"z{number}", "bytes-only", 1, 1) for number in range(500)]]:
            summary.add(found)
        report = summary.report()
        assert [look.name for look in report.look_first] == ["a", "b"]
        assert (report.ranking, report.divergence) == (RANKING, 505)
        assert [(found.divergence, found.strongest_of) for found in report.classes] == []

    def test_all_the_same(self) -> None:
        """Without divergence there is nothing to look at, and the counts say so."""
        summary = FleetSummary("x", "", "e")
        summary.add(FleetRecording(name="a", status=SAME, pairs=(FleetPair(other="y"),)))
        report = summary.report()
        assert (report.same, report.look_first, report.saved[0].max_bytes) == (1, (), 0)


class TestProcesses:
    """Processes come and go; the answer stays."""

    def test_one_or_two_and_a_death(self, tmp_path: Path) -> None:
        """One process, two, and two of which one is killed once give the same summary and the same dump."""
        paths = write_fleet(tmp_path / "all", 12)
        answers = []
        for number, pool in enumerate((LocalPool(1), LocalPool(2, fleet_samples.dies_once))):
            database = tmp_path / f"{number}.sqlite"
            fleet, results = run(paths, pool, str(database))
            assert sorted(result.path for result in results) == paths
            answers.append((fleet.report(), dump(database)))
        assert (tmp_path / "died").exists()
        assert answers[0] == answers[1]

    def test_poison(self, tmp_path: Path) -> None:
        """A recording that takes every process down is marked after three; all others are there, and it is tried anew later."""
        folder = tmp_path / "all"
        write_fleet(folder, 4)
        (folder / "poison.kvmr").write_bytes((folder / "001.kvmr").read_bytes() + b"")
        paths = found_files([str(folder)])
        database = str(tmp_path / "r.sqlite")
        fleet, results = run(paths, LocalPool(2, fleet_samples.dies_over_poison), database)
        report = fleet.report()
        assert sorted(result.path for result in results) == paths
        assert [(trouble.code, trouble.recordings) for trouble in report.troubles] == [("KVR003", 1), ("KVR600", 1)]
        again, _ = run(paths, Here(), database)
        assert again.report().trouble == 1

    def test_nobody_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When processes die over everything it is not the recordings: an error, after some tries; what was marked is kept."""
        monkeypatch.setattr("replay.fleet.local.DEATHS_MOST", 4)
        paths = write_fleet(tmp_path / "all", 4)
        fleet = Fleet(paths, QUESTION, Store(None, engine_version(), QUESTION.text), LocalPool(1, fleet_samples.dies_always))
        with pytest.raises(WorkerError, match="every process dies"):
            list(fleet.replay())
        assert fleet.report().trouble == 1

    def test_interruption_leaves_nobody(self, tmp_path: Path) -> None:
        """Whoever stops walking the results ends the processes as well, at once."""
        import multiprocessing

        paths = write_fleet(tmp_path / "all", 12)
        results = LocalPool(2, fleet_samples.takes_its_time).results(paths, QUESTION, frozenset())
        next(results)
        assert multiprocessing.active_children()
        results.close()  # type: ignore[attr-defined]  # it is a generator
        deadline = time.monotonic() + 20
        while multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not multiprocessing.active_children()


class TestVerb:
    """The command line: summary to standard output, status of the worst."""

    def test_summary(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A bad file is told, makes the status 2, and the others are reported; the second run resumes."""
        folder, database = tmp_path / "all", str(tmp_path / "r.sqlite")
        write_fleet(folder, 3)
        arguments = ["fleet", str(folder), "--jobs", "1", "-o", database, "--format", "json"]
        assert main(arguments) == 2
        first = capsys.readouterr()
        report = json.loads(first.out)
        assert (report["recordings"], report["trouble"], report["troubles"][0]["code"]) == (5, 1, "KVR003")
        assert main(arguments) == 2
        second = capsys.readouterr()
        assert second.out == first.out
        assert "5 of 5 recordings were finished already" in second.err

    @pytest.mark.parametrize(
        "options",
        [["--jobs", "-1"], ["--top", "1001"], ["--lanes", "x"], ["--profile", "x=1"], ["--scheduler", "http://h:1"],
         ["--scheduler", "tcp://h:1", "--jobs", "2"]],
    )  # fmt: skip
    def test_bad_usage(self, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Options that can not be meant are refused before anything is replayed."""
        write_fleet(tmp_path / "all", 1)
        assert main(["fleet", str(tmp_path / "all"), *options]) == 2
        streams = capsys.readouterr()
        assert streams.out == ""
        assert "kvm-replay: KVR" in streams.err


class TestOtherVersion:
    """A worker of another release is no help."""

    def test_is_refused(self, tmp_path: Path) -> None:
        """Results of another engine are an error, not rows."""
        paths = write_fleet(tmp_path / "all", 1)

        class Old(Here):
            def results(self, paths: object, question: object, known: object) -> object:  # type: ignore[override]
                yield "0.0.1", []

        with pytest.raises(WorkerError, match=r"0\.0\.1"):
            run(paths, Old())  # type: ignore[arg-type]  # as above
