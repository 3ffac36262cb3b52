"""Read numbers of the command line, for `type=` of an argument: decimal, whole, within limits, and said what they should be."""

import argparse
from collections.abc import Callable
from typing import Final

_DIGITS_MAX: Final = 20
"""Python refuses to read thousands of digits with words of its own."""


def whole(words: str = "a number from 0", least: int = 0, most: int = (1 << 64) - 1) -> Callable[[str], int]:
    """Return the reader of a whole number. words: what is expected, for the complaint. Raises ArgumentTypeError, when it reads.

    >>> whole(least=1, most=8)("8")
    8
    """

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX else -1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
        return number

    return read
