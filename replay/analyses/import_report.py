"""Shape the result of `import`: what was written, and what the traces lacked."""

import attrs

from replay.events.base import ByFields, flag, text, uint, values
from replay.header import CUT_SHORT_TEXT, Counter, SourceFile


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ImportReport(ByFields):
    """One recording that was written."""

    output: str = text("name of the recording", length_max=4096)
    title: str = text("its title", length_max=256)
    events: int = uint("events in it")
    cut_short: bool = flag(CUT_SHORT_TEXT, default=False)
    lost: int = uint("events that are known to be missing")
    unknown: int = uint("things in the traces that were not understood")
    ignored: int = uint("things in the traces that were understood and have no effect on the model")
    sources: tuple[SourceFile, ...] = values("traces that were read", SourceFile, length_max=4096)
    counters: tuple[Counter, ...] = values("losses, unknown and ignored things by kind", Counter, length_max=4096)
