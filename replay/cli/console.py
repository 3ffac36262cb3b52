"""Own the streams of one run: results to standard output or a file, everything else to standard error.

Nothing but the result ever reaches standard output, so that `-o -` and `| head` are safe. Colour and progress are for
terminals only; colour is off for NO_COLOR and TERM=dumb, and `--color` has the last word.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from replay.cli.progress import Progress
from replay.errors import UnwritableError, UsageError, catalogue
from replay.report.plain import printable

PROGRAM = "kvm-replay"
STDIO = "-"


def wants_color(choice: str, stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether to colour: always and never decide alone, auto asks the terminal, NO_COLOR and TERM.

    Source of the conventions: no-color.org (set and not empty), terminfo(5) for the terminal "dumb".
    """
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


class Console:
    """What a verb prints with; `at_end` holds what is closed when the verb has ended."""

    def __init__(self, *, color: str = "auto", quiet: bool = False) -> None:
        self.color = color
        self.quiet = quiet
        self.at_end = contextlib.ExitStack()

    @contextlib.contextmanager
    def result(self, path: str = STDIO, *, inputs: Sequence[str] = ()) -> Iterator[TextIO]:
        """Give the text stream that the result is written to.

        A file is written beside its place as NAME.part and appears under its name only when it is complete. Raises
        UsageError for a file that is also an input, UnwritableError for one that can not be written.
        """
        if path == STDIO:
            with output_errors("standard output"):
                yield standard_output()
                sys.stdout.flush()
            return
        refuse_input_as_output(path, inputs)
        target = Path(path).resolve()
        # A device or a pipe is written through: renaming a file over /dev/null would be a nasty surprise.
        opened = _written_through(target) if is_special(target) else _renamed_when_complete(target)
        with output_errors(path), opened as stream:
            yield stream

    def paints(self, stream: TextIO) -> bool:
        """Return whether text on this stream is to be coloured."""
        return wants_color(self.color, stream, os.environ)

    def warn(self, sentence: str) -> None:
        """Say a warning on standard error."""
        self._say(f"warning: {sentence}")

    def error(self, code: str, sentence: str) -> None:
        """Say an error that ends one input and not the verb, as the frame says one that ends the verb: code, title, sentence."""
        title = next(cls.title for cls in catalogue() if cls.code == code)
        self._say(f"{code} {title}: {sentence}")

    def note(self, sentence: str) -> None:
        """Say something that is neither result nor warning on standard error, unless --quiet."""
        if not self.quiet:
            self._say(sentence)

    def progress(self, what: str, *, unit: str = "events") -> Progress:
        """Return a progress line: live on a terminal, silent in a pipe, a dumb terminal or under --quiet."""
        stream = sys.stderr
        live = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb" and not self.quiet
        return Progress(what, stream if live else None, unit)

    def _say(self, sentence: str) -> None:
        say(f"{PROGRAM}: {sentence}")


@contextlib.contextmanager
def output_errors(where: str) -> Iterator[None]:
    """Turn what the system says of an output into UnwritableError; a closed pipe stays BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnwritableError(error.strerror or str(error), where=where) from error


def is_special(target: Path) -> bool:
    """Return whether a path names something that is there and is neither a file nor a folder: a device, a pipe, a socket."""
    return target.exists() and not target.is_file() and not target.is_dir()


@contextlib.contextmanager
def _written_through(target: Path) -> Iterator[TextIO]:
    with target.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
        yield stream


@contextlib.contextmanager
def _renamed_when_complete(target: Path) -> Iterator[TextIO]:
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def say(line: str) -> None:
    """Print one line on standard error; a closed or full one is no reason to fail."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(printable(line), file=sys.stderr, flush=True)


def standard_output() -> TextIO:
    """Return standard output, able to print any name that a file system can hold. Raises UnwritableError if it is closed."""
    stream = sys.stdout
    if stream is None or stream.closed:
        raise UnwritableError("standard output is closed", advice="give --output FILE")
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


def refuse_input_as_output(path: str, inputs: Sequence[str]) -> None:
    """Raise UsageError when the output is one of the inputs: writing it would destroy what is being read."""
    target = Path(path)
    for name in inputs:
        with contextlib.suppress(OSError):
            if name != STDIO and target.exists() and target.samefile(name):
                raise UsageError(f"{path} is also an input", expected="another name for the output")
