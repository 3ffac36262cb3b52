"""Find the recordings that a command line names."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from replay.errors import EmptyError, UnreadableError

SUFFIXES: Final = (".kvmr", ".jsonl")


def found_files(inputs: Sequence[str]) -> list[str]:
    """Return the files of the inputs, each once, by name: files as they are, of folders all recordings at any depth.

    Links to folders are not followed. Raises UnreadableError for a folder that can not be read, EmptyError when there is
    nothing at all.
    """
    files = {path for name in inputs for path in (_inside(name) if Path(name).is_dir() else (name,))}
    if not files:
        raise EmptyError(
            f"no recording in {' '.join(inputs)}",
            expected="files that end in .kvmr or .jsonl",
            advice="name other files one by one",
        )
    return sorted(files)


def _inside(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UnreadableError(error.strerror or str(error), where=str(error.filename or folder)) from error

    for place, _folders, names in os.walk(folder, onerror=refuse):
        yield from (str(Path(place) / name) for name in names if name.endswith(SUFFIXES))


def shown(path: str) -> str:
    """Return a path as text that every database takes: bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
