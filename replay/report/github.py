"""Write test cases as workflow commands of GitHub Actions: an annotation for each thing that is wrong, at its file and line.

Source of the form: "Workflow commands for GitHub Actions", setting an error or warning message.
"""

from collections.abc import Iterator
from typing import Final

from replay.report.cases import ERROR, FAILED, PASSED, SKIPPED, Case, Detail, Suite
from replay.report.plain import printable

ANNOTATIONS_MAX: Final = 10
"""Most annotations that GitHub keeps of one step and level."""
_LEVELS: Final = {FAILED: "error", ERROR: "error", SKIPPED: "warning"}


def github_lines(suite: Suite) -> Iterator[str]:
    """Yield the annotations, then one plain line that says it all."""
    left = dict.fromkeys(_LEVELS.values(), ANNOTATIONS_MAX)
    untold = 0
    for case in suite.cases:
        if case.outcome == PASSED:
            continue
        level = _LEVELS[case.outcome]
        untold += case.more
        for detail in case.details or (Detail(case.note),):
            left[level] -= 1
            if left[level] < 0:
                untold += 1
            else:
                yield _annotation(level, suite, case, detail)
    rest = f"; {untold} more are not annotated" if untold else ""
    yield f"{printable(suite.name)}: {printable(suite.sentence)}{rest}"


def _annotation(level: str, suite: Suite, case: Case, detail: Detail) -> str:
    properties = [f"{name}={_property(text)}" for name, text in (("file", detail.file), ("line", str(detail.line or ""))) if text]
    title = case.name if detail.file == case.name else f"{suite.name}: {case.name}"
    properties.append(f"title={_property(title)}")
    text = "\n".join((detail.title, *detail.lines))
    return f"::{level} {','.join(properties)}::{_message(text)}"


def _message(text: str) -> str:
    """Return a text as the message of a command: a percent sign and line ends are escaped."""
    escaped = text.replace("%", "%25").replace("\r", "%0D")
    return "%0A".join(printable(line) for line in escaped.split("\n"))


def _property(text: str) -> str:
    """Return a text as a property of a command: colons and commas are escaped as well."""
    return _message(text).replace(":", "%3A").replace(",", "%2C")
