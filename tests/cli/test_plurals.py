"""Promise of every text for people: one thing is said in the singular."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cli_samples import ROOT, boot, write_kvmr

from replay.cli import main
from replay.units import counted

FALSE_PLURAL = re.compile(r"(?<![\w.,:#/=-])1 ((?:more )?[a-z]+s)\b")
NO_PLURALS = {"as", "is", "was", "has", "this", "flags", "args", "process", "ns", "tss"}
"""Words behind a number that end in s and are no plural of what is counted, such as in `slot 1 as 0`, `cap 1 flags 0x0`."""
BARE_PLURAL = re.compile(r"\A (?!ns\b)(?:more )?[a-z]+s\b")
ROOMS = ("report", "cli", "analyses")
CATALOGUE = sorted((ROOT / "recordings" / "catalogue").glob("*.jsonl"))[::4]
VERBS = (["info"], ["verify"], ["check"], ["compare"], ["dump"], ["state"])


def bare_plurals(tree: ast.AST) -> Iterator[int]:
    """Yield the lines where a number with thousands parted is followed by a fixed plural."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for number, words in pairwise(node.values):
            parted = isinstance(number, ast.FormattedValue) and number.format_spec and "," in ast.unparse(number.format_spec)
            if parted and isinstance(words, ast.Constant) and BARE_PLURAL.match(str(words.value)):
                yield node.lineno


class TestPlurals:
    """No report says "1 events"."""

    @pytest.mark.parametrize("verb", VERBS, ids=" ".join)
    def test_reports(self, verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """No report of the catalogue's recordings, nor what is said beside it, has a false plural."""
        assert len(CATALOGUE) > 15
        for path in CATALOGUE:
            main([*verb, str(path)])
        said = "".join(capsys.readouterr())
        assert len(said.splitlines()) >= len(CATALOGUE)
        assert {word for word in FALSE_PLURAL.findall(said) if word not in NO_PLURALS} == set()

    def test_one_of_everything(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Nor has any verb's for a recording of one event, whole, torn and recovered."""
        one, torn = write_kvmr(tmp_path / "one.kvmr", boot()[:1]), tmp_path / "torn.kvmr"
        torn.write_bytes(one.read_bytes()[:-1])
        for path in map(str, (one, torn)):
            for verb in (*VERBS, ["fleet"], ["index"], ["golden", "update"], ["golden", "check"], ["golden", "check", str(one)]):
                main([*verb, path])
            main(["import", path, "-o", str(tmp_path / "new.jsonl"), "--force", "--durable"])
            main(["recover", path, "-o", str(tmp_path / "new.kvmr"), "--force"])
        said = "".join(capsys.readouterr())
        assert len(re.findall(r"(?<![\w,.])1 event\b", said)) > 10
        assert {word for word in FALSE_PLURAL.findall(said) if word not in NO_PLURALS} == set()

    def test_source(self) -> None:
        """A number in a report is written by `counted`, or is followed by nothing that it would have to agree with."""
        found = [
            f"{path.relative_to(ROOT)}:{line}"
            for room in ROOMS
            for path in sorted((ROOT / "replay" / room).rglob("*.py"))
            for line in bare_plurals(ast.parse(path.read_text()))
        ]
        assert found == []

    @pytest.mark.parametrize(("text", "wrong"), [('f"{n:,} events"', True), ('f"{n:,} x"', False), ('f"{n} events"', False)])
    def test_the_check(self, text: str, *, wrong: bool) -> None:
        """The check of the source finds what it is for."""
        assert bool(list(bare_plurals(ast.parse(text)))) is wrong

    def test_counted(self) -> None:
        """One is singular; none and many are plural, thousands parted."""
        assert [counted(number, "page") for number in (0, 1, 2, 1000)] == ["0 pages", "1 page", "2 pages", "1,000 pages"]
        assert [counted(number, "loss", "losses") for number in (1, 2)] == ["1 loss", "2 losses"]
