"""Decide where a replay leaves checkpoints: often where they are small, seldom where they are large.

A checkpoint takes what is counted at that event, so its size is the recording's own; what is bounded is the share that all of
them have of the recording's bytes. The rule asks only for numbers of events and bytes: the same recording gets the same places.
"""

from typing import Final

import attrs

EVENTS_LEAST: Final = 1 << 17
"""A block is 16384 events at most; folding fewer than this takes less than reading a checkpoint and starting numpy."""
EVENTS_MOST: Final = 1 << 20
"""So far apart, a checkpoint may take more than its share."""
SHARE: Final = 110
"""All checkpoints together take a 110th of the recording's bytes, 0.9 %, if they are not too far apart then."""
SHARE_MOST: Final = 20
"""In any case no more than a 20th."""


@attrs.define
class Placing:
    """What was spent so far. every: a checkpoint after so many events, whatever it takes; 0 for the rule."""

    every: int = 0
    last_event: int = 0
    last_bytes: int = 0
    spent_bytes: int = 0

    def due(self, event: int, read_bytes: int) -> bool:
        """Tell whether to leave a checkpoint before an event, read_bytes into the recording.

        >>> Placing().due(1 << 17, 1_000_000), Placing().due(1000, 1_000_000)
        (True, False)
        """
        since = event - self.last_event
        if self.every:
            return since >= self.every
        expected = self.spent_bytes + self.last_bytes
        if since >= EVENTS_LEAST and expected * SHARE <= read_bytes:
            return True
        return since >= EVENTS_MOST and expected * SHARE_MOST <= read_bytes

    def left(self, event: int, size_bytes: int) -> None:
        """Note a checkpoint that was left."""
        self.last_event, self.last_bytes = event, size_bytes
        self.spent_bytes += size_bytes
