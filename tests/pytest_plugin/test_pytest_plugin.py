"""The pytest plugin: golden files are tests, the fixture is for code, updates are asked for and refused in CI."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden_samples import CASE, D02, D08, POLICY, ROOT, TERM_LINE, copied, replaced

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "no:kvm_replay", "-p", "replay.pytest_plugin", "-p", "no:cacheprovider")
"""The plugin of this checkout, whether the project is installed or not."""
TABLE = '[tool.kvm-replay]\npaths = ["recordings"]\n'
CODE = """\
from replay.events import MemslotSet, VmCreate
from replay.header import Header, Machine

HEADER = Header(machine=Machine(kernel_release="6.12.0", config_external_write_tracking=True, tdp=True))


def events(slots):
    yield VmCreate(vm=0, ret=5)
    for slot in range(slots):
        yield MemslotSet(vm=0, slot=slot, guest_phys_addr=slot << 20, memory_size=1 << 20, userspace_addr=1 << 40, ret=0)


def test_file(kvm_replay):
    assert kvm_replay("D02-register.jsonl") == kvm_replay.golden("D02-register.jsonl")


def test_events(kvm_replay):
    assert kvm_replay(events(2), "compare --lanes eager,on-demand", header=HEADER) == kvm_replay.golden("two-slots")


def test_reports(kvm_replay):
    assert kvm_replay.compare("D02-register.jsonl", "eager,on-demand").pairs[0].strongest == "bytes-only"
    assert kvm_replay.check(events(1), header=HEADER).status() == 0
"""


@pytest.fixture(autouse=True)
def _not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """Return a project with two recordings and their golden files, configured."""
    (pytester.path / "recordings").mkdir()
    copied(pytester.path / "recordings", D02, D08)
    (pytester.path / "pyproject.toml").write_text(TABLE)
    return pytester.path


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run pytest with the plugin."""
    return pytester.runpytest_inprocess(*PLUGIN, *arguments)


class TestCollection:
    """Golden files are tests where the project says so."""

    def test_configured(self, pytester: pytest.Pytester, project: Path) -> None:
        """Each golden file is one test, named by its path; the header says what is done."""
        result = run(pytester, "-v")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            ["kvm-replay: *golden files are tested*", "recordings/D02-register.jsonl.golden::golden PASSED*", "*2 passed*"]
        )

    def test_not_configured(self, pytester: pytest.Pytester, project: Path) -> None:
        """Without table and option there is nothing: no test, no word."""
        (project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        result = run(pytester)
        result.assert_outcomes()
        result.stdout.no_fnmatch_line("*kvm-replay*")
        run(pytester, "--kvm-goldens").assert_outcomes(passed=2)

    def test_inactive_is_cheap(self, tmp_path: Path) -> None:
        """A run that has nothing to do with it loads no module of this project but the plugin's first."""
        (tmp_path / "test_x.py").write_text("import sys, json\ndef test_x():\n    print(json.dumps(sorted(sys.modules)))\n")
        command = [sys.executable, "-m", "pytest", "-q", "-s", *PLUGIN, "test_x.py"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
        loaded = json.loads(next(line for line in out.splitlines() if line.startswith("[")))
        assert [name for name in loaded if name.split(".")[0] == "replay"] == ["replay", "replay.pytest_plugin"]

    def test_finding_is_named(self, pytester: pytest.Pytester, project: Path) -> None:
        """A failure names event, place and lane with before and after, and shows no traceback."""
        replaced(project / "recordings" / "D02-register.jsonl.golden", ("-320 bytes", "-32 bytes"))
        result = run(pytester)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(
            [
                "recordings/D02-register.jsonl.golden: differs in 1 place",
                "*on-demand against eager, event 1 memslot.set vm 0 slot 0 as 0, D2 (line *",
                "*before  bytes-only, -32 bytes*",
                "*after   bytes-only, -320 bytes*",
            ]
        )
        result.stdout.no_fnmatch_line("*Traceback*")

    def test_missing_and_unused(self, pytester: pytest.Pytester, project: Path) -> None:
        """A recording without golden file and a golden file without recording fail; elsewhere no golden file is needed."""
        (project / "recordings" / "D02-register.jsonl.golden").unlink()
        (project / "recordings" / "D08-partial-register.jsonl").unlink()
        (project / "other.kvmr").write_text("not of the paths")
        result = run(pytester, "-ra")
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["*D02-register.jsonl.golden: missing*", "*D08-partial-register.jsonl.golden: unused*"])

    def test_named_on_the_command_line(self, pytester: pytest.Pytester, project: Path) -> None:
        """A recording stands for its golden file."""
        for name in ("D02-register.jsonl", "D02-register.jsonl.golden"):
            run(pytester, f"recordings/{name}").assert_outcomes(passed=1)

    def test_by_hand(self, pytester: pytest.Pytester, project: Path) -> None:
        """A case by itself is a test as well."""
        (project / "case.golden").write_text(CASE)
        run(pytester, "--kvm-update").assert_outcomes(passed=3)
        run(pytester).assert_outcomes(passed=3)

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ('paths = ["none"]', "holds no recording"),
            ("paths = 1", "a list of texts"),
            ('ask = ["cost"]', "KVR108"),
            ("events-max = -1", "a number from 0"),
            ('lanes = "eager"', "unknown key 'lanes'"),
        ],
    )
    def test_wrong_table(self, table: str, words: str, pytester: pytest.Pytester, project: Path) -> None:
        """What may not stand in the table, and a path with nothing in it, is a usage error: an empty set is no pass."""
        (project / "pyproject.toml").write_text(f"[tool.kvm-replay]\n{table}\n")
        result = run(pytester)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert words.removeprefix("KVR108") in result.stderr.str()


class TestUpdate:
    """Golden files are written when that is asked for."""

    def test_update(self, pytester: pytest.Pytester, project: Path) -> None:
        """--kvm-update writes what differs and what is missing, and names it."""
        one, other = sorted((project / "recordings").glob("*.golden"))
        right = one.read_text(), other.read_text()
        replaced(one, ("-320 bytes", "-32 bytes"))
        other.unlink()
        result = run(pytester, "--kvm-update")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["*golden files written, review them*", "*D02-register*", "*D08-partial*"])
        assert (one.read_text(), other.read_text()) == right
        result = run(pytester, "--kvm-update")
        result.assert_outcomes(passed=2)
        result.stdout.no_fnmatch_line("*review them*")

    def test_new_only(self, pytester: pytest.Pytester, project: Path) -> None:
        """--kvm-update-new-only leaves those that are there, and they fail as ever."""
        one, other = sorted((project / "recordings").glob("*.golden"))
        replaced(one, ("-320 bytes", "-32 bytes"))
        other.unlink()
        run(pytester, "--kvm-update-new-only").assert_outcomes(passed=1, failed=1)
        assert other.exists()
        assert "-32 bytes" in one.read_text()

    @pytest.mark.parametrize("option", ["--kvm-update", "--kvm-update-new-only"])
    def test_refused_in_ci(self, option: str, pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where CI is set nothing is written."""
        monkeypatch.setenv("CI", "true")
        result = run(pytester, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*refused because CI is set*"])
        run(pytester).assert_outcomes(passed=2)

    def test_settings_of_new_files(self, pytester: pytest.Pytester, project: Path) -> None:
        """New files ask what the table says, and list as many events as it says; a policy file is named from their folder."""
        for path in (project / "recordings").glob("*.golden"):
            path.unlink()
        (project / "recordings" / "mine.py").write_text(POLICY)
        (project / "pyproject.toml").write_text(
            f'{TABLE}ask = ["check", "compare --lanes on-demand,./mine.py"]\nevents-max = 7\n'
        )
        run(pytester, "--kvm-update-new-only").assert_outcomes(passed=2)
        texts = [path.read_text() for path in sorted((project / "recordings").glob("*.golden"))]
        assert [text.count(", not listed") for text in texts] == [1, 0]
        assert all("\ncheck:\n" in text and "\ncompare: --lanes on-demand,./mine.py\n" in text for text in texts)
        replaced(project / "recordings" / "mine.py", (TERM_LINE, "    return config\n"))
        result = run(pytester)
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["*new: ./mine.py against on-demand, event 1 memslot.set*"])


class TestFixture:
    """Code can replay, and hold against golden files."""

    def test_life(self, pytester: pytest.Pytester) -> None:
        """Missing, written, right, wrong with what differs in the assertion; files and events alike; no table is needed."""
        copied(pytester.path, D02)
        pytester.makepyfile(CODE)
        result = run(pytester)
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(["*assert *two-slots.golden: missing*"])
        run(pytester, "--kvm-update-new-only", "test_life.py").assert_outcomes(passed=3)
        assert "\n  memslot.set vm=0 slot=1 guest_phys_addr=0x100000" in (pytester.path / "two-slots.golden").read_text()
        run(pytester).assert_outcomes(passed=3)
        run(pytester, "--kvm-goldens").assert_outcomes(passed=5)
        replaced(pytester.path / "test_life.py", ("events(2)", "events(3)"))
        result = run(pytester)
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(
            ["E*two-slots.golden: differs in * places", "E*events from 3 on*", "E*memslot.set vm=0 slot=2 *"]
        )
        run(pytester, "--kvm-update", "test_life.py").assert_outcomes(passed=3)
        run(pytester).assert_outcomes(passed=3)

    def test_trouble(self, pytester: pytest.Pytester) -> None:
        """A recording that can not be read fails the assertion with its code; what is no replay is never equal."""
        pytester.makepyfile(
            "def test_x(kvm_replay):\n    assert kvm_replay('none.kvmr') == kvm_replay.golden('case.golden')\n"
            "def test_y(kvm_replay):\n    assert kvm_replay('none.kvmr') != 3 and kvm_replay.golden('a') != 3\n"
        )
        (pytester.path / "case.golden").write_text(CASE)
        result = run(pytester)
        result.assert_outcomes(passed=1, failed=1)
        result.stdout.fnmatch_lines(["E*case.golden: trouble*", "E*KVR002*"])


class TestDistributed:
    """Tests that are spread over processes do the same."""

    def test_xdist(self, pytester: pytest.Pytester, project: Path) -> None:
        """Two processes test, write, and the controller names what they wrote."""
        pytest.importorskip("xdist")
        one, other = sorted((project / "recordings").glob("*.golden"))
        right = one.read_text(), other.read_text()
        replaced(one, ("-320 bytes", "-32 bytes"))
        other.unlink()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *PLUGIN, "--kvm-update"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=True).stdout
        assert "2 passed" in out
        assert out.partition("review them")[2].count(".golden\n") == 2
        assert (one.read_text(), other.read_text()) == right
