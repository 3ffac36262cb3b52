"""Read /proc/vmallocinfo: which vmalloc areas KVM's functions hold, and what changed between two readings.

Source of the lines: mm/vmalloc.c vmalloc_info_show() [6.1, 6.12, 6.18]: range, size with its guard page, caller, pages=N.
"""

import re
from collections.abc import Mapping
from typing import Final

from replay.events import ObservedArea

_LINE: Final = re.compile(rb"(0x[0-9a-f]+-0x[0-9a-f]+) +\d+ ([A-Za-z_]\w*)(?:\.[\w.]+)?\+\S+ (\[kvm\w*\] )?pages=(\d+)\b")
_OF_KVM: Final = re.compile(rb"(?:__)?(?:kvm_|memslot_)")

Areas = Mapping[bytes, tuple[str, int]]
"""Range of an area -> (allocating function, pages without the guard page)."""


def parse_areas(text: bytes) -> Areas | None:
    """Return the areas that functions of KVM hold; None when the kernel hides addresses (sysctl kernel.kptr_restrict).

    Without addresses an area that came can not be told from one that was there.

    >>> line = b"0x1a-0x2b    8192 memslot_rmap_alloc+0x68/0xb0 [kvm] pages=1 vmalloc N0=1"
    >>> parse_areas(line)
    {b'0x1a-0x2b': ('memslot_rmap_alloc', 1)}
    """
    found = {}
    for line in text.split(b"\n"):
        # Most lines are of others: a look for the words is cheaper than the pattern.
        match = _LINE.match(line) if b"kvm" in line or b"memslot" in line else None
        if match is None:
            continue
        place, caller, module, pages = match.groups()
        if not module and not _OF_KVM.match(caller):
            continue
        if not place.strip(b"0x-"):
            return None
        found[place] = (caller.decode(), int(pages))
    return found


def changed_areas(before: Areas, now: Areas) -> tuple[ObservedArea, ...]:
    """Return what was allocated and freed between two readings, by function, in alphabetical order."""
    rows: dict[str, list[int]] = {}
    for place, old, new in ((0, before, now), (2, now, before)):
        for key, area in new.items():
            if old.get(key) != area:
                row = rows.setdefault(area[0], [0, 0, 0, 0])
                row[place] += 1
                row[place + 1] += area[1]
    return tuple(ObservedArea(site, *row) for site, row in sorted(rows.items()))
