"""Throw dice that a seed decides: the same numbers on every machine and with every release of Python."""

from collections.abc import Sequence
from typing import Final, TypeVar

from replay.units import U64_MAX

_T = TypeVar("_T")
_GAMMA: Final = 0x9E3779B97F4A7C15


class Dice:
    """A stream of 64-bit numbers from a seed, by the SplitMix64 rule (Steele, Lea, Flood 2014: public algorithm).

    >>> Dice(1).below(6), Dice(1).below(6)
    (5, 5)
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & U64_MAX

    def _next(self) -> int:
        self._state = (self._state + _GAMMA) & U64_MAX
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & U64_MAX
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & U64_MAX
        return mixed ^ (mixed >> 31)

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1; limit is 1 to 2^64."""
        assert 1 <= limit <= U64_MAX + 1
        return self._next() % limit

    def between(self, least: int, most: int) -> int:
        """Return a number from least to most, both possible."""
        return least + self.below(most - least + 1)

    def chance(self, percent: int) -> bool:
        """Return True in so many of a hundred throws."""
        return self.below(100) < percent

    def pick(self, choices: Sequence[_T]) -> _T:
        """Return one of the choices, each as likely."""
        return choices[self.below(len(choices))]

    def weighted(self, choices: Sequence[tuple[int, _T]]) -> _T:
        """Return one of (weight, choice), as likely as its weight."""
        throw = self.below(sum(weight for weight, _choice in choices))
        for weight, choice in choices:
            throw -= weight
            if throw < 0:
                return choice
        raise AssertionError("the weights add up")
