"""Read the table [tool.kvm-replay] of a project."""

from pathlib import Path
from typing import Any, Final

import attrs

from replay.errors import UsageError
from replay.golden.files import RECORDINGS, SUFFIX, Wish
from replay.golden.questions import DEFAULT, question_of

KEYS: Final = ("paths", "ask", "events-max")


@attrs.frozen
class Settings:
    """What a project and the command line want. paths: where every recording needs a golden file."""

    paths: tuple[Path, ...] = ()
    wish: Wish = Wish()
    update: bool = False

    def needs(self, path: Path) -> bool:
        """Tell whether a file is a recording that needs a golden file."""
        return path.suffix in RECORDINGS and any(path.is_relative_to(folder) for folder in self.paths)


def settings_of(table: dict[str, Any], root: Path, *, update: bool, new_only: bool) -> Settings:
    """Return the settings of a table. Raises UsageError or GoldenError for what may not stand there.

    A path must be there and hold a recording or a golden file: an empty set of tests is never a pass.
    """
    for key in table:
        if key not in KEYS:
            raise UsageError(f"unknown key {key!r}", expected=f"one of {', '.join(KEYS)}")
    paths = tuple(root / name for name in _texts(table, "paths"))
    for path in paths:
        if not _holds_something(path):
            raise UsageError(f"paths: {path} holds no recording and no golden file", expected="a folder with some, or a file")
    questions = tuple(question_of(text) for text in _texts(table, "ask")) or DEFAULT
    events_max = table.get("events-max")
    if events_max is not None and (type(events_max) is not int or events_max < 0):
        raise UsageError(f"events-max = {events_max!r}", expected="a number from 0")
    # A file that lists its events, or does not, stays as it is; the number is for new ones.
    return Settings(paths, Wish(default=questions, new_listed_max=events_max, new_only=new_only), update or new_only)


def _texts(table: dict[str, Any], key: str) -> list[str]:
    found = table.get(key, [])
    if not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        raise UsageError(f"{key} = {found!r}"[:200], expected="a list of texts")
    return found


def _holds_something(path: Path) -> bool:
    if path.is_file():
        return True
    return any(one.suffix in (SUFFIX, *RECORDINGS) for one in path.rglob("*"))
