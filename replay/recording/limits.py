"""State every limit of a recording in one table, so that memory and time stay bounded by the file that is read.

Writers keep them as well as readers: what can be written can be read. Lengths of texts and lists are stated beside the
fields themselves (`FieldSpec.length_max`); the largest of them are repeated here as what the decoder may ever allocate.
"""

from typing import Final

import attrs

from replay.errors import LimitError
from replay.runs import RUN_EVENTS_MAX


@attrs.frozen
class Limit:
    """One limit: the largest number allowed, and of what."""

    most: int
    unit: str
    of: str


BLOCK_RAW_BYTES: Final = Limit(1 << 20, "bytes", "one block, not compressed")
BLOCK_EVENTS: Final = Limit(RUN_EVENTS_MAX, "events", "one block")
RECORD_BYTES: Final = Limit(BLOCK_RAW_BYTES.most - 64, "bytes", "one structural event, the header or the trailer")
RUN_EVENTS: Final = Limit(RUN_EVENTS_MAX, "events", "one run")
RUN_TASKS: Final = Limit(RUN_EVENTS_MAX, "tasks", "one run")
RECORDING_EVENTS: Final = Limit((1 << 48) - 1, "events", "one recording")
VM_NUMBER: Final = Limit(65535, "", "number of a VM (65536 VMs)")
SOURCE_FILES: Final = Limit(4096, "files", "one recording's sources")
NESTING: Final = Limit(8, "levels", "arrays inside arrays")
ARRAY_ITEMS: Final = Limit(65536, "items", "one list")
TEXT_BYTES: Final = Limit(4 * 4096, "bytes", "one text, as UTF-8")
LINE_BYTES: Final = Limit(16 << 20, "bytes", "one JSON line")
LINE_CONTAINERS: Final = Limit(1 << 19, "objects and lists", "one JSON line")

TABLE: Final[tuple[Limit, ...]] = (
    BLOCK_RAW_BYTES,
    BLOCK_EVENTS,
    RECORD_BYTES,
    RUN_EVENTS,
    RUN_TASKS,
    RECORDING_EVENTS,
    VM_NUMBER,
    SOURCE_FILES,
    NESTING,
    ARRAY_ITEMS,
    TEXT_BYTES,
    LINE_BYTES,
    LINE_CONTAINERS,
)


def keep(limit: Limit, number: int, where: str, advice: str = "") -> None:
    """Do nothing when the number is within the limit; raise LimitError otherwise."""
    if number > limit.most:
        raise over(limit, number, where, advice)


def over(limit: Limit, number: int, where: str, advice: str = "") -> LimitError:
    """Return the complaint that a number is over a limit.

    >>> str(over(NESTING, 9, "event 3"))
    'event 3: 9 levels for arrays inside arrays; expected at most 8'
    """
    found = f"{number} {limit.unit}".rstrip() + f" for {limit.of}"
    return LimitError(found, where=where, expected=f"at most {limit.most}", advice=advice)
