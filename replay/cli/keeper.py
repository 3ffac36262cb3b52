"""Keep the recording of a run while it is made: under its name, or where nobody sees it until it is worth keeping."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from replay.cli.console import PROGRAM, output_errors, say
from replay.errors import UnwritableError

if TYPE_CHECKING:
    from replay.header import Header, Trailer
    from replay.recording import JsonlWriter, Writer
    from replay.runs import Item


class Keeper:
    """Write a recording to a named file, or to one without a name, which is gone when the process is, however it ends.

    spare: the name that an unnamed one gets when it is kept after all.
    """

    def __init__(self, writer: "Writer | JsonlWriter", name: str, spare: str, hidden: IO[bytes] | None) -> None:
        self._writer = writer
        self._name = name
        self._spare = spare
        self._hidden = hidden

    def write(self, item: "Item") -> None:
        """Append one item."""
        self._writer.write(item)

    def finish(self, trailer: "Trailer", *, keep: bool) -> str:
        """Finish the recording; return the name that it has, "" when it has none and keep does not ask for one."""
        self._writer.finish(trailer)
        if self._hidden is None or not keep:
            return self._name
        target = free_name(self._spare)
        part = target.with_name(f"{target.name}.part")
        self._hidden.seek(0)
        with output_errors(str(target)), part.open("xb") as out:
            import shutil

            shutil.copyfileobj(self._hidden, out)
        part.replace(target)
        return str(target)


@contextlib.contextmanager
def opened_keeper(name: str | None, spare: str, header: "Header", *, force: bool) -> Iterator[Keeper]:
    """Give a keeper; what it wrote under a name before an error stays as NAME.part, a torn recording."""
    from replay.recording import JsonlWriter, Writer

    if name is not None:
        kind = JsonlWriter if name.endswith(".jsonl") else Writer
        named = kind(name, header, overwrite=force)
        try:
            with named:
                yield Keeper(named, name, spare, None)
        except BaseException:
            if not named.finished:
                say(f"{PROGRAM}: {name}.part has what was recorded; `{PROGRAM} recover {name}.part -o {name}` completes it")
            raise
        return
    import tempfile

    with tempfile.TemporaryFile() as hidden, Writer(hidden, header) as writer:
        yield Keeper(writer, "", spare, hidden)


def free_name(spare: str) -> Path:
    """Return a name in the current folder that is not taken: live.kvmr, live-2.kvmr, and so on. Raises UnwritableError."""
    stem, _dot, suffix = spare.rpartition(".")
    for number in range(1, 1000):
        path = Path(spare if number == 1 else f"{stem}-{number}.{suffix}")
        if not path.exists() and not path.with_name(f"{path.name}.part").exists():
            return path
    raise UnwritableError("1,000 of its kind are there", where=spare, advice="remove some, or give --output")
