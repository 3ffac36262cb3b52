"""Write test cases as KTAP, version 1, the form in which kernel tests say their results.

Source of the grammar: Documentation/dev-tools/ktap.rst of the kernel.
"""

from collections.abc import Iterator
from typing import Final

from replay.report.cases import ERROR, FAILED, PASSED, SKIPPED, Case, Suite
from replay.report.plain import printable

_DIRECTIVES: Final = {PASSED: "", FAILED: "", SKIPPED: "SKIP", ERROR: "ERROR"}
_OK: Final = frozenset({PASSED, SKIPPED})


def ktap_lines(suite: Suite) -> Iterator[str]:
    """Yield version, plan, and a result line a case with what is wrong as diagnostic lines before it."""
    yield "KTAP version 1"
    yield f"1..{len(suite.cases)}"
    yield f"# {printable(suite.name)}: {printable(suite.sentence)}"
    for number, case in enumerate(suite.cases, 1):
        yield from _diagnostics(case)
        yield _result(number, case)


def _diagnostics(case: Case) -> Iterator[str]:
    for detail in case.details:
        place = f" ({detail.file}:{detail.line})" if detail.line else ""
        yield f"# {printable(detail.title)}{printable(place)}"
        yield from (f"#   {printable(line)}" for line in detail.lines)
    if case.more:
        yield f"# and {case.more} more"


def _result(number: int, case: Case) -> str:
    description = printable(case.name).replace("#", "_")  # a description ends at the first #
    words = " ".join(filter(None, (_DIRECTIVES[case.outcome], printable(case.note))))
    behind = f" # {words}" if words else ""
    return f"{'ok' if case.outcome in _OK else 'not ok'} {number} {description}{behind}"
