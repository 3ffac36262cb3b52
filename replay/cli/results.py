"""Write a verb's result in the form that was asked for: text, JSON, or as test cases for runners and forges."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from replay.cli.console import Console

if TYPE_CHECKING:
    from replay.report.cases import Suite
    from replay.report.paint import Paint

KTAP: Final = "ktap"
GITHUB: Final = "github"
CASES: Final = (KTAP, GITHUB)
"""Forms that see a result as test cases."""


class Shapes(NamedTuple):
    """A result in all its forms. name: of its schema; report: the value; text and suite: made when they are asked for."""

    name: str
    report: Any
    text: "Callable[[Paint], Iterable[str]]"
    suite: "Callable[[], Suite]"


def write_result(args: argparse.Namespace, console: Console, shapes: Shapes, *, inputs: Sequence[str]) -> None:
    """Write a result where the options say; inputs: what must not be overwritten."""
    with console.result(args.output, inputs=inputs) as out:
        write_shape(args.format, shapes, out.write, paints=console.paints(out))


def write_shape(form: str, shapes: Shapes, write: Callable[[str], object], *, paints: bool) -> None:
    """Write a result in one form."""
    from replay.report.github import github_lines
    from replay.report.json_text import document
    from replay.report.ktap import ktap_lines
    from replay.report.paint import Paint

    if form == KTAP:
        lines: Iterable[str] = ktap_lines(shapes.suite())
    elif form == GITHUB:
        lines = github_lines(shapes.suite())
    elif form == "text":
        lines = shapes.text(Paint(paints))
    else:
        write(document(shapes.name, shapes.report, one_line=form == "jsonl"))
        return
    for line in lines:
        write(f"{line}\n")
