"""Compare kernel releases as numbers: 6.12.64 is newer than 6.8, whatever the distribution appends."""

import re
from functools import lru_cache
from typing import Final

import attrs

from replay.errors import ProfileError

_FORM: Final = re.compile(r"v?(\d{1,3})\.(\d{1,4})(?:\.(\d{1,5}))?(?P<rest>.*)", re.DOTALL)


@attrs.frozen(order=True, cache_hash=True)
class Release:
    """A kernel release; patch is the stable release number, 0 when there is none.

    Source: `uname -r`; the stable number matters because fixes are backported (spec: 6.12.64, 6.12.108).
    """

    major: int
    minor: int
    patch: int = 0

    @staticmethod
    def parse(text: str) -> "Release":
        """Read a release as `uname -r` prints it. Raises ProfileError when it is none.

        >>> Release.parse("6.12.117+deb13-amd64")
        Release(major=6, minor=12, patch=117)
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ProfileError(f"{text!r} is not a kernel release", expected="MAJOR.MINOR[.STABLE], for example 6.8 or 6.12.117")
        major, minor, patch = match.group(1, 2, 3)
        return _release(int(major), int(minor), int(patch or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}" + (f".{self.patch}" if self.patch else "")

    def at_least(self, *numbers: int) -> bool:
        """Tell whether this is the given release or a newer one.

        >>> Release(6, 9).at_least(6, 8)
        True
        """
        return (self.major, self.minor, self.patch) >= (*numbers, 0, 0)[:3]


@lru_cache(64)
def _release(major: int, minor: int, patch: int) -> Release:
    """Return one and the same object for a release: it is looked up by in each memslot call. Source: none in the kernel."""
    return Release(major, minor, patch)
