"""Tell how far the reading of some inputs is."""

import attrs

from replay.sources.files import Input


@attrs.define
class Meter:
    """How much of its inputs was read; there are none before they are opened."""

    inputs: list[Input] = attrs.field(factory=list)

    @property
    def total_bytes(self) -> int | None:
        """How many bytes the inputs have, as they are stored; None when that is not known of one."""
        sizes = [source.size_bytes for source in self.inputs]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def read_bytes(self) -> int:
        """How many of them were read; an input that is read twice begins again."""
        return sum(source.place_bytes for source in self.inputs)
