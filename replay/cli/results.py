"""Write a verb's result in the form that was asked for: text, JSON, or as test cases for runners and forges."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from replay.cli.console import Console

if TYPE_CHECKING:
    from replay.report.cases import Suite
    from replay.report.paint import Paint

KTAP: Final = "ktap"
GITHUB: Final = "github"
CASES: Final = (KTAP, GITHUB)
"""Forms that see a result as test cases."""


class Shapes(NamedTuple):
    """A result in all its forms. name: of its schema; report: the value; text and suite: made when they are asked for.

    suite: None for a verb that does not offer the forms of CASES.
    """

    name: str
    report: Any
    text: "Callable[[Paint], Iterable[str]]"
    suite: "Callable[[], Suite] | None" = None


def write_result(args: argparse.Namespace, console: Console, shapes: Shapes, *, inputs: Sequence[str]) -> None:
    """Write a result where the options say; inputs: what must not be overwritten."""
    with console.result(args.output, inputs=inputs) as out:
        write_shape(args.format, shapes, out, console)


def write_shape(form: str, shapes: Shapes, out: TextIO, console: Console) -> None:
    """Write a result in one form to a stream that is open."""
    if form == "text":
        from replay.report.paint import Paint

        out.writelines(f"{line}\n" for line in shapes.text(Paint(console.paints(out))))
    elif form in CASES:
        from replay.report.github import github_lines
        from replay.report.ktap import ktap_lines

        assert shapes.suite is not None, "the verb offers cases"
        lines = ktap_lines if form == KTAP else github_lines
        out.writelines(f"{line}\n" for line in lines(shapes.suite()))
    else:
        from replay.report.json_text import document

        out.write(document(shapes.name, shapes.report, one_line=form == "jsonl"))
