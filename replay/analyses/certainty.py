"""Say what keeps an answer from being certain that is no verdict: the state of lanes, what a page went through, a price.

The doubts are those of `compare`, as far as they concern what was asked for: losses at any place that nothing tells, and what
events up to the one that was asked for say is not known.
"""

from collections.abc import Iterable
from typing import Final

import attrs

from replay.analyses.findings import Uncertainty
from replay.analyses.uncertainty import SHADOW_PAGES, Doubts
from replay.header import Trailer

CERTAIN: Final = "nothing that the answer rests on is lost or not known; exit status 3 when it is not so"
UNCERTAINTIES: Final = "what is lost or not known, by first event"


def uncertainties(
    doubts: Doubts, trailer: Trailer, *, vm: int | None = None, arrays_only: bool = False
) -> tuple[Uncertainty, ...]:
    """Return the doubts about an answer, by first event.

    vm: the only VM that the answer is about, None for all. arrays_only: it is about memslots and the bytes of their arrays,
    which lost shadow pages do not touch: such doubts are kept and do not matter.
    """
    doubts.lacking()
    found = [doubt for doubt in doubts.finish(trailer) if vm is None or doubt.vm is None or doubt.vm == vm]
    if arrays_only:
        found = [attrs.evolve(one, matters=False) if one.affects == SHADOW_PAGES else one for one in found]
    return tuple(found)


def certain(found: Iterable[Uncertainty]) -> bool:
    """Tell whether nothing keeps an answer from being certain.

    >>> certain([Uncertainty(what="dirty bitmaps", count=1, matters=False)]), certain([Uncertainty(what="lost: x", count=3)])
    (True, False)
    """
    return not any(one.matters for one in found)
