"""Policy files: lanes of the user's own in every verb that takes lanes; an error in one is said as theirs, with its line."""

from pathlib import Path

import pytest
from cli_samples import ROOT, write_kvmr

from replay.analyses.compare import compare
from replay.cli import main
from replay.engine.checkpoint import key_of
from replay.engine.lanes import make_lanes
from replay.errors import PolicyFileError
from replay.header import Machine
from replay.kvm.policies import ON_DEMAND, POLICIES
from replay.policy_file import SPEC_MAX, answered_for, load_policy, own_policies, policy_of
from replay.recording import open_recording

CATALOGUE = ROOT / "recordings" / "catalogue"
EAGER = """\
from itertools import product as _helper
import os

BASE = "on-demand"
title: str = "as before 6.9"
has_ext_flag = False
_private = 7


def external_term(config, ext, disabled):
    return config
"""
WRONG: list[tuple[str, int | None, str]] = [
    ("x = (\n", 1, "SyntaxError"),
    ("\0", None, "SyntaxError"),
    ("BASE = 'on-demand'\n\n1 / 0\n", 3, "ZeroDivisionError"),
    ("import sys\nsys.exit()\n", 2, "SystemExit"),
    ("def _f():\n    raise KeyError('a')\n\n\n_f()\n", 2, "KeyError"),
    ("has_ext_flag = True\n", None, "no BASE"),
    ("\nBASE = 'lazy'\n", 2, "one of always, eager-5.16"),
    ("BASE = 'ideal'\n", 1, "no BASE that is a policy"),
    ("BASE = ['on-demand']\n", 1, "no BASE that is a policy"),
    ("BASE = 'on-demand'\nhas_ext_flg = True\n", 2, "did you mean has_ext_flag"),
    ("BASE = 'on-demand'\nhelper = 1\n", 2, "begins with _"),
    ("BASE = 'on-demand'\nname = 'v1'\n", 2, "name is not a field"),
    ("BASE = 'on-demand'\nopt_out = 1\n", 2, "True or False"),
    ("BASE = 'on-demand'\ntitle = None\n", 2, "a text"),
    ("BASE = 'on-demand'\nexternal_term = True\n", 2, "a function"),
    ("BASE = 'on-demand'\nexternal_term = lambda config: True\n", 2, "TypeError"),
    ("BASE = 'on-demand'\ndef external_term(c, e, d):\n    return c.x\n", 3, "AttributeError"),
    ("BASE = 'on-demand'\ndef external_term(c, e, d):\n    return 1\n", 2, "gives 1"),
    (
        "BASE = 'on-demand'\ndef external_term(c, e, d):\n    if c and e and d:\n        raise OSError\n    return c\n",
        4,
        "OSError",
    ),
]


class TestReading:
    """Names in the file are fields on top of a policy."""

    def test_fields(self) -> None:
        """What stands there replaces the base's field, all else is the base's; imports and private names are nobody's field."""
        policy = policy_of(EAGER.encode(), "old/mine.py")
        assert (policy.name, policy.title, policy.kernels) == ("mine.py", "as before 6.9", "no release: a file")
        assert (policy.register_allocates, policy.has_ext_flag) == (False, False)
        assert policy.bug_when_disabled is ON_DEMAND.bug_when_disabled
        assert [policy.external_term(True, ext, False) for ext in (False, True)] == [True, True]
        assert policy not in POLICIES

    @pytest.mark.parametrize(("source", "line", "words"), WRONG)
    def test_wrong(self, source: str, line: int | None, words: str) -> None:
        """Whatever is wrong is said with the file, its line, and what was expected."""
        with pytest.raises(PolicyFileError) as caught:
            policy_of(source.encode(), "mine.py")
        assert caught.value.where == ("mine.py" if line is None else f"mine.py, line {line}")
        assert words.lower() in str(caught.value).lower()

    def test_not_readable(self, tmp_path: Path) -> None:
        """A file that is not there, a folder, one that is too large or whose name is too long for a lane is refused."""
        (tmp_path / "folder.py").mkdir()
        (tmp_path / "large.py").write_bytes(b"#" * ((1 << 20) + 1))
        for name in ("none.py", "folder.py", "large.py"):
            with pytest.raises(PolicyFileError, match=name):
                load_policy(name, str(tmp_path))
        with pytest.raises(PolicyFileError, match="characters"):
            own_policies(["x" * SPEC_MAX + ".py"])

    def test_is_asked_once(self, tmp_path: Path) -> None:
        """The function is called once for each input, when the file is read: a replay can not depend on what it does later."""
        path = tmp_path / "odd.py"
        path.write_text(
            "BASE = 'on-demand'\n_calls = []\ndef external_term(c, e, d):\n    _calls.append(c)\n    return len(_calls) > 4\n"
        )
        policy = load_policy(str(path))
        answers = [policy.external_term(True, False, False) for _ in range(20)]
        assert answers == [answers[0]] * 20


class TestLanes:
    """A file is a lane like any other."""

    def test_same_as_a_policy_of_ours(self, tmp_path: Path) -> None:
        """A file that says what eager does gives no divergence against eager, and eager's against on-demand."""
        path = tmp_path / "mine.py"
        path.write_text(EAGER)
        own = own_policies([str(path)])
        for name in ("D02-register", "D07-enomem-open", "D01-bytes"):
            with open_recording(str(CATALOGUE / f"{name}.jsonl")) as stream:
                lanes = make_lanes(["eager-6.6", str(path), "on-demand"], stream.header.machine, own=own)
                report = compare(stream, lanes)
            assert [bool(pair.classes) for pair in report.pairs] == [False, True]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["compare", "--lanes", "on-demand,mine.py,mine.py@tdp=0"],
            ["state", "--lanes", "mine.py"],
            ["cost", "--lanes", "mine.py,eager"],
            ["check", "--policy", "mine.py"],
        ],
    )
    def test_every_verb(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each verb that takes lanes or a policy takes a file, and names it; a broken one is its fault, exit 2."""
        monkeypatch.chdir(tmp_path)
        write_kvmr(tmp_path / "boot.kvmr")
        Path("mine.py").write_text(EAGER)
        assert main([*arguments, "boot.kvmr"]) != 2
        assert "mine.py" in capsys.readouterr().out
        Path("mine.py").write_text("BASE = 'on-demand'\nopt_out = 3\n")
        assert main([*arguments, "boot.kvmr"]) == 2
        assert "KVR301 bad policy file: mine.py, line 2: opt_out is 3" in capsys.readouterr().err

    def test_another_file_of_the_name(self, tmp_path: Path) -> None:
        """A file that is changed is another lane to an index: no checkpoint of what it said before is taken."""
        path, keys = tmp_path / "mine.py", []
        rules = ("", "has_ext_flag = False\n", "external_term = lambda config, ext, disabled: config\n", "note = 'words'\n")
        for rule in rules:
            path.write_text(f"BASE = 'on-demand'\n{rule}")
            (lane,) = make_lanes([str(path)], Machine(), own=own_policies([str(path)]))
            keys.append(key_of(lane))
        assert len(set(keys)) == 3
        assert keys[0] == keys[3]

    def test_layout(self, tmp_path: Path) -> None:
        """A layout is priced under a file too."""
        (tmp_path / "mine.py").write_text(EAGER)
        assert main(["cost", "--address-bits", "39", "--lanes", f"{tmp_path / 'mine.py'}"]) == 0


class TestBreakdown:
    """A combination of fields that the model can not live with is no bug report."""

    def test_theirs(self) -> None:
        """An exception of ours under a file is said of the file; without one it stays what it is."""
        with pytest.raises(PolicyFileError, match=r"mine\.py: the model breaks down"), answered_for({"mine.py": ON_DEMAND}):
            raise AssertionError
        with pytest.raises(AssertionError), answered_for({}):
            raise AssertionError
        with pytest.raises(PolicyFileError, match="unharmed"), answered_for({"mine.py": ON_DEMAND}):
            raise PolicyFileError("unharmed")
