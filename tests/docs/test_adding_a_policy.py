"""Promises of docs/adding-a-policy.md: the worked example runs and prints what the page says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from replay.analyses.catalogue import VARIANTS
from replay.kvm import page_track, write_tracking_cap
from replay.kvm.policies import POLICIES, Policy

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "adding-a-policy.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


class TestExample:
    """The page is true."""

    def test_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The Python blocks, one after the other, print exactly the text block."""
        monkeypatch.chdir(ROOT)
        namespace: dict[str, Any] = {}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for block in blocks("python"):
                exec(compile(block, "adding-a-policy.md", "exec"), namespace)
        assert len(blocks("python")) == 2
        assert [printed.getvalue()] == blocks("text")
        assert namespace["SHADOW_ONLY"] not in POLICIES

    def test_every_field_is_explained(self) -> None:
        """The table of fields names each field of a row but its name and title."""
        table = PAGE.partition("| field |")[2].partition("\n\n")[0]
        named = set(re.findall(r"`(\w+)`", table))
        assert named == {field.name for field in attrs.fields(Policy)} - {"name", "title"}

    def test_names_exist(self) -> None:
        """What the page names of the code is there."""
        assert hasattr(page_track, "kvm_page_track_write_tracking_enable")
        assert hasattr(page_track, "reads_all_address_spaces")
        assert write_tracking_cap.OPT_OUT_CHECKS
        assert {policy for _row, policy in VARIANTS} == {"v1", "v2"}
        for path in re.findall(r"`((?:replay|tests)/[\w/]+\.py)`", PAGE):
            assert (ROOT / path).is_file(), path
