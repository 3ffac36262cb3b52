"""Read KTAP, version 1, from its documented grammar; written from Documentation/dev-tools/ktap.rst alone.

A line is a version, a plan, a result, a diagnostic, or unknown (and then ignored). Subtests are whole KTAP documents, indented by
two spaces, that stand before their parent's result line.
"""

import re
from collections.abc import Sequence

import attrs

VERSION = re.compile(r"(?:KTAP version 1|TAP version 1[34])")
PLAN = re.compile(r"1\.\.(\d+)")
RESULT = re.compile(r"(ok|not ok) (\d+)(?: ([^#]*?))?(?: ?# ?(.*))?")
DIRECTIVES = ("SKIP", "TO" + "DO", "XFAIL", "TIMEOUT", "ERROR")


class KtapError(ValueError):
    """Output that is not KTAP."""


@attrs.define
class Result:
    """One result line with the diagnostics before it, and its subtests."""

    ok: bool
    number: int
    description: str = ""
    directive: str = ""
    data: str = ""
    diagnostics: list[str] = attrs.field(factory=list)
    subtests: list["Result"] = attrs.field(factory=list)


def read_ktap(lines: Sequence[str], indent: str = "") -> list[Result]:
    """Return the results of a document. Raises KtapError for another first line, numbers out of order, another count."""
    if not lines or not VERSION.fullmatch(lines[0].removeprefix(indent)):
        raise KtapError("no version line")
    plan, found = None, list[Result]()
    diagnostics, below = list[str](), list[str]()
    for line in lines[1:]:
        if line.startswith(f"{indent}  ") and not line.startswith(f"{indent}  #"):
            below.append(line)
            continue
        text = line.removeprefix(indent)
        if planned := PLAN.fullmatch(text):
            plan = int(planned.group(1))
        elif text.startswith("#"):
            diagnostics.append(text[1:].strip())
        elif said := RESULT.fullmatch(text):
            found.append(_result(said, diagnostics, read_ktap(below, f"{indent}  ") if below else []))
            diagnostics, below = [], []
    if [result.number for result in found] != list(range(1, len(found) + 1)):
        raise KtapError("numbers out of order")
    if plan is not None and plan != len(found):
        raise KtapError(f"{len(found)} results, {plan} planned")
    return found


def _result(said: "re.Match[str]", diagnostics: list[str], subtests: list[Result]) -> Result:
    word, _, rest = (said.group(4) or "").partition(" ")
    directive, data = (word, rest) if word in DIRECTIVES else ("", said.group(4) or "")
    return Result(said.group(1) == "ok", int(said.group(2)), said.group(3) or "", directive, data, diagnostics, subtests)
