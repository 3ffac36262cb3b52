"""Draw numbers that are the same on every machine and with every release of Python and numpy: SplitMix64, integers only.

The n-th number is a function of seed and n alone, so that one draw and a whole array of draws are the same numbers.
Source of the constants: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, and the
public-domain splitmix64.c by Vigna.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

from replay.units import U64_MAX

_Item = TypeVar("_Item")
GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB


def mixed(number: int) -> int:
    """Return a 64-bit number with all bits of another one spread over it; one to one.

    >>> hex(mixed(GAMMA))
    '0xe220a8397b1dcdaf'
    """
    number = ((number ^ (number >> 30)) * _FIRST) & U64_MAX
    number = ((number ^ (number >> 27)) * _SECOND) & U64_MAX
    return number ^ (number >> 31)


class Dice:
    """A stream of numbers; `part` names one of many streams of the same seed.

    >>> dice = Dice(1)
    >>> [dice.below(6) for _ in range(8)]
    [4, 2, 2, 5, 1, 3, 2, 1]
    >>> Dice(1).many(8, 6).tolist()
    [4, 2, 2, 5, 1, 3, 2, 1]
    """

    def __init__(self, seed: int, part: int = 0) -> None:
        self._state = mixed((seed + mixed((part * GAMMA) & U64_MAX)) & U64_MAX)

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1; limit at most 2^32."""
        self._state = (self._state + GAMMA) & U64_MAX
        return ((mixed(self._state) >> 32) * limit) >> 32

    def one_of(self, items: Sequence[_Item]) -> _Item:
        """Return one of some things, all equally likely."""
        return items[self.below(len(items))]

    def many(self, count: int, limit: int) -> Any:
        """Return what `count` calls of `below` would, as an array of 64-bit unsigned numbers. Cost: some 10 ns a number."""
        import numpy as np

        state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(self._state)
        self._state = (self._state + count * GAMMA) & U64_MAX
        state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
        state ^= state >> np.uint64(31)
        return ((state >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32)
