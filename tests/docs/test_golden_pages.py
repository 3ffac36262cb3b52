"""Promises of docs/goldens.md and docs/policy-files.md: what they show is what is read."""

import re
from pathlib import Path

import attrs
import pytest

from replay.analyses.compare import compare
from replay.engine.lanes import make_lanes
from replay.golden.files import Wish, check_golden, update_golden
from replay.golden.parsed import parse
from replay.kvm.policies import POLICIES, Policy
from replay.policy_file import load_policy
from replay.recording import open_recording
from replay.recording.golden_lines import HEAD, QUESTIONS

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
GOLDENS = (DOCS / "goldens.md").read_text()
POLICY_FILES = (DOCS / "policy-files.md").read_text()


def block(page: str, marker: str) -> str:
    """Return the block behind a marker."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found.group(1)


class TestGoldens:
    """The page's files are golden files."""

    def test_example(self) -> None:
        """The example is read, remark and all."""
        parsed = parse(block(GOLDENS, "the example"), "x")
        assert parsed.recording == "D02-one-gfn.jsonl"
        assert [entry.remark for entry in parsed.entries if entry.remark] == ["why"]
        assert [question.line() for question in parsed.questions] == ["compare: --lanes eager,on-demand"]

    def test_by_hand(self, tmp_path: Path) -> None:
        """The case by hand is complete but for its answers."""
        path = tmp_path / "case.golden"
        path.write_text(block(GOLDENS, "by hand"))
        assert update_golden(str(path), Wish()).state == "written"
        assert check_golden(str(path)).state == "same"

    def test_labels(self) -> None:
        """The table has every label and no other."""
        table = GOLDENS.partition("| label |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)[1:]
        assert [label for row in rows for label in re.findall(r"`([a-z]+)`", row)] == [*HEAD, *QUESTIONS]


class TestPolicyFiles:
    """The page's file is a policy."""

    def test_example(self, tmp_path: Path) -> None:
        """The example says what eager does."""
        path = tmp_path / "my_policy.py"
        path.write_text(block(POLICY_FILES, "the example"))
        own = {"mine": load_policy(str(path))}
        with open_recording(str(DOCS.parent / "recordings" / "catalogue" / "D02-register.jsonl")) as stream:
            report = compare(stream, make_lanes(["eager", "mine"], stream.header.machine, own=own))
        assert report.verdict == "same"

    @pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
    def test_every_base(self, policy: Policy, tmp_path: Path) -> None:
        """Each policy of a kernel is a base that is left as it is; the yardstick is none."""
        path = tmp_path / "my_policy.py"
        path.write_text(f"BASE = {policy.name!r}\n")
        if not policy.kernel:
            assert "Not `ideal`" in POLICY_FILES
            return
        mine = load_policy(str(path))
        fields = [field.name for field in attrs.fields(Policy) if field.name not in {"name", "title", "kernels", "external_term"}]
        assert [getattr(mine, name) for name in fields] == [getattr(policy, name) for name in fields]
