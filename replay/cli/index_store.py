"""Keep the index of a recording: beside it as NAME.idx, or in the user's cache where its folder can not be written.

An index is a cache. One that is damaged, of another recording or made by other code is dropped with a warning and made anew; one
that can not be written is a warning and no failure; a file of that name that is no index is left alone.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from replay.cli.console import Console
    from replay.recording.block_map import BlockMap
    from replay.recording.index_file import Index

CACHE_FOLDER: Final = "kvm-replay"
SIZE_BYTES_MOST: Final = 1 << 30
"""No more of an index is read; of one that is larger, the digest does not fit then."""


class IndexStore:
    """The index of one recording, wherever it is. code: `maker()`, "" for no index at all."""

    def __init__(self, recording: str, blocks: "BlockMap", console: "Console", code: str) -> None:
        from replay.recording.index_file import SUFFIX

        self.blocks = blocks
        self.code = code
        self.dropped = False
        """Whether an index was there that could not be used."""
        self._console = console
        self._beside = Path(recording + SUFFIX)

    def places(self) -> list[Path]:
        """List where an index may be, the first choice first."""
        from replay.recording.index_file import SUFFIX

        folder = os.environ.get("XDG_CACHE_HOME") or ""
        home = Path(folder) if Path(folder).is_absolute() else Path("~/.cache").expanduser()
        return [self._beside, home / CACHE_FOLDER / f"{self.blocks.digest}{SUFFIX}"]

    def load(self) -> "Index | None":
        """Return the index that is there and fits; warn of one that does not."""
        from replay.recording.index_file import UnusableIndexError, index_of_bytes

        if not self.code:
            return None
        for place in self.places():
            try:
                with place.open("rb") as file:
                    return index_of_bytes(file.read(SIZE_BYTES_MOST), self.blocks.digest, self.code)
            except UnusableIndexError as error:
                self._console.warn(f"{place}: index dropped: {error}")
                self.dropped = True
            except OSError:
                continue
        return None

    def save(self, index: "Index") -> Path | None:
        """Write an index where it can be; return the place. What was there and is an index is replaced, in one step."""
        from replay.recording.index_file import index_bytes

        data, why = index_bytes(index), ""
        for place in self.places():
            try:
                if self._is_other(place):
                    self._console.warn(f"{place}: not written: a file that is no index has its name")
                    continue
                _write(place, data)
            except (OSError, RuntimeError) as error:  # RuntimeError: no home to expand ~ to
                why = why or str(error)
            else:
                return place
        if why:
            self._console.warn(f"index not written: {why}")
        return None

    @staticmethod
    def _is_other(place: Path) -> bool:
        from replay.recording.index_file import SIGNATURE, is_index

        if not place.exists():
            return False
        with place.open("rb") as file:
            return not is_index(file.read(len(SIGNATURE)))


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
