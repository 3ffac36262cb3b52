"""Colour words for a terminal, or leave them as they are; colour never carries a meaning alone."""

from typing import Final

_SGR: Final = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}


class Paint:
    """Wraps text in the terminal's colour sequences when it is switched on."""

    def __init__(self, enabled: bool = False) -> None:
        self._enabled = enabled

    def __call__(self, style: str, text: str) -> str:
        """Return the text in one style: bold, dim, red, green, yellow or cyan.

        >>> Paint(enabled=False)("bold", "memslots")
        'memslots'
        """
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if self._enabled else text
