"""Read one vmalloc area that KVM took or gave back, with the stack of who did it, and say what several come to.

Source: mm/vmalloc.c alloc_vmap_area(), __get_vm_area_node() [6.1, 6.12].
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from replay.events import AllocFail, ObservedArea

FRAMES_MAX: Final = 64
AREAS_MAX: Final = 1 << 20
"""Most areas that are remembered to know their function when they are freed."""
# What stands between the area and the function that wanted it, in the names of any release.
_ALLOCATORS: Final = re.compile(r"(?:__)?(?:alloc_vmap_area|get_vm_area_node|k?v(?:malloc|calloc|zalloc)\w*)(?:\..*)?")
_FRAME: Final = re.compile(r"\s+([A-Za-z_][\w.]*)(?:\+(?:0x)?[0-9a-f]+)?(?: \[\w+\])?\s*", re.ASCII)


@attrs.define
class Area:
    """One area that was taken or given back; frames: the stack, from the allocator outwards."""

    taken: bool
    address: int
    pages: int = 0
    failed: bool = False
    frames: list[str] = attrs.field(factory=list)

    def take_frame(self, line: str) -> bool:
        """Take a line that is a frame of the stack, as bpftrace prints one; False when it is none. FRAMES_MAX are kept."""
        frame = _FRAME.fullmatch(line)
        if frame is not None and len(self.frames) < FRAMES_MAX:
            self.frames.append(frame[1])
        return frame is not None

    def site(self) -> str:
        """Return the function that asked for it, as the caller column of /proc/vmallocinfo names it; "" for none."""
        return next((frame.partition(".")[0] for frame in self.frames if not _ALLOCATORS.fullmatch(frame)), "")


def observed_areas(rows: Mapping[str, Sequence[int]]) -> tuple[ObservedArea, ...]:
    """Return areas and pages, taken and given back, by function; functions of which nothing is left are left out.

    >>> observed_areas({"memslot_rmap_alloc": (1, 4, 0, 0), "kvm_set_memslot": (0, 0, 0, 0)})
    (ObservedArea(site='memslot_rmap_alloc', areas_added=1, pages_added=4, areas_freed=0, pages_freed=0),)
    """
    return tuple(ObservedArea(site[:64], *row) for site, row in sorted(rows.items()) if any(row))


def failed_of(areas: Sequence[Area]) -> AllocFail | None:
    """Return the allocation that failed in a call, by its place among those of its function."""
    for place, area in enumerate(areas):
        if area.taken and area.failed:
            site = area.site()
            nth = sum(other.taken and other.site() == site for other in areas[: place + 1])
            return AllocFail(site=site[:64], nth=nth, count=1)
    return None
