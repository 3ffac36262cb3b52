"""Promise of the rule for checkpoints: no more than their share of the recording's bytes, wherever that leaves them."""

import pytest

from replay.engine.placing import EVENTS_LEAST, EVENTS_MOST, SHARE, SHARE_MOST, Placing


class TestPlacing:
    """Where checkpoints are left."""

    @pytest.mark.parametrize(
        ("since", "read_bytes", "due"),
        [
            (EVENTS_LEAST - 1, 10**12, False),  # too near to pay
            (EVENTS_LEAST, 3000 * SHARE - 1, False),  # more than its share
            (EVENTS_LEAST, 3000 * SHARE, True),
            (EVENTS_MOST - 1, 3000 * SHARE - 1, False),
            (EVENTS_MOST, 3000 * SHARE_MOST - 1, False),  # too large even when far apart
            (EVENTS_MOST, 3000 * SHARE_MOST, True),
        ],
    )
    def test_rule(self, since: int, read_bytes: int, due: bool) -> None:
        """One is due when it is far enough from the last and all of them, one more like the last included, keep to the share."""
        placing = Placing()
        placing.left(500, 1000)
        placing.left(700, 1000)
        assert placing.due(700 + since, read_bytes) is due

    def test_numbers(self) -> None:
        """The numbers are those that docs/performance.md reckons with: 0.9 %, 5 % in any case, 131,072 to 1,048,576 events."""
        numbers = (EVENTS_LEAST, EVENTS_MOST, round(100 / SHARE, 2), 100 // SHARE_MOST)
        assert numbers == (131_072, 1_048_576, 0.91, 5)
        assert [Placing().due(event, 1) for event in (131_071, 131_072)] == [False, True]

    def test_every(self) -> None:
        """A number of events that is asked for is kept, whatever it takes."""
        placing = Placing(every=10)
        placing.left(5, 10**9)
        assert [event for event in range(30) if placing.due(event, 1)] == list(range(15, 30))
        placing.left(15, 10**9)
        assert placing == Placing(every=10, last_event=15, last_bytes=10**9, spent_bytes=2 * 10**9)
