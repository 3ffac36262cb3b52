"""Read files that others are still writing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 1 << 18


class Tail:
    """The bytes of a file as they come, and an empty piece whenever there are none for now.

    ended: says whether the writer is gone; what it wrote before is still read. tick: called after each piece, with True when
    there was none, so that somebody else's work is done and time passes.
    """

    def __init__(self, path: Path, ended: Callable[[], bool], tick: Callable[[bool], None]) -> None:
        self._path, self._ended, self._tick = path, ended, tick

    def __iter__(self) -> Iterator[bytes]:
        """Yield pieces until the writer is gone and all is read."""
        with self._path.open("rb", buffering=0) as stream:
            while True:
                over = self._ended()  # asked first: nothing is written after it
                piece = stream.read(PIECE_BYTES)
                if over and not piece:
                    return
                yield piece
                self._tick(not piece)
