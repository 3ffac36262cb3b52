"""Promises of the help texts: what it does, its inputs, its exit status, an example that runs."""

import shlex
from pathlib import Path

import pytest
from cli_samples import FTRACE, STRACE, write_kvmr

from replay.cli import main
from replay.cli.entry import build_parser
from replay.cli.verb import STATUS_MEANINGS, Verb
from replay.cli.verbs import VERBS
from replay.version import VERSION

EXAMPLES = [(verb, example) for verb in VERBS for example in verb.examples]


class TestHelp:
    """`kvm-replay --help` and each verb's help are complete."""

    def test_lists_every_verb_and_status(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The first page names every verb with its summary, and every exit status."""
        assert main(["--help"]) == 0
        page = capsys.readouterr().out
        assert all(f"{verb.name} " in page and verb.summary in page for verb in VERBS)
        assert all(meaning in page for meaning in STATUS_MEANINGS.values())

    @pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
    def test_of_a_verb_is_complete(self, verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
        """A verb's page says what it does, its inputs, its exit status and an example, on lines that fit."""
        assert main([verb.name, "--help"]) == 0
        page = capsys.readouterr().out
        assert all(word in page for word in ("inputs:", "exit status:", "example", verb.description.split(".")[0]))
        assert set(verb.statuses) <= set(STATUS_MEANINGS)
        assert {0, 2} <= set(verb.statuses)
        assert max(map(len, page.splitlines())) <= 130

    @pytest.mark.parametrize(("verb", "example"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
    def test_example_runs(self, verb: Verb, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each example, pasted, ends with a status that the same help lists, and not with trouble."""
        monkeypatch.chdir(tmp_path)
        write_kvmr(tmp_path / "boot.kvmr").rename("there.kvmr")
        (tmp_path / "strace.txt").write_text(STRACE)
        (tmp_path / "ftrace.txt").write_text(FTRACE)
        program, *arguments = shlex.split(example)
        if verb.name != "import":
            (tmp_path / "there.kvmr").rename("boot.kvmr")
        status = main(arguments)
        assert program == "kvm-replay"
        assert status in verb.statuses
        assert status != 2

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """--version prints one line to standard output."""
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"kvm-replay {VERSION}\n"

    def test_verbs_that_are_not_there_are_not_listed(self) -> None:
        """The parser holds the verbs that it is given, and no others."""
        page = build_parser(VERBS[:1]).format_help()
        assert VERBS[0].name in page
        assert f"  {VERBS[-1].name} " not in page
