"""Hold what `live` found: what was asked of this machine's kernel, and how its answers were held against the model."""

import attrs

from replay.analyses.check_report import CANNOT_TELL, CheckReport
from replay.events.base import ByFields, flag, text, uint, value, values


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Origin(ByFields):
    """One fact of this machine and where it is from."""

    name: str = text("name of the fact", length_max=64)
    value: str = text("its value, empty: not known", length_max=128)
    origin: str = text("what it was read from, or why it is not known", length_max=256)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LiveReport(ByFields):
    """The answer of `live`. check is null when there was no kernel to ask; trouble then says why."""

    seed: int = uint("seed of the operations")
    operations: int = uint("operations done: calls, and descriptors closed, without the closing of all at the end")
    stopped: str = text("why it ended before all operations were done, empty: it did not", default="", length_max=128)
    trouble: str = text("why nothing could be asked, empty: it could", default="", length_max=1024)
    facts: tuple[Origin, ...] = values("facts of this machine", Origin, length_max=64)
    areas_compared: bool = flag("allocations were compared after each operation, from /proc/vmallocinfo")
    areas: str = text("how allocations were compared, or why not", default="", length_max=256)
    disturbed: int = uint("observations left out because another process uses KVM too", default=0)
    recording: str = text("file that the run was kept in, empty: none", default="", length_max=4096)
    replay: str = text("command that compares the recording again, empty: there is none", default="", length_max=8192)
    repeat: str = text("command that asks a kernel the same again", default="", length_max=8192)
    check: CheckReport | None = value("what the comparison of kernel and model found", CheckReport)

    def status(self) -> int:
        """Return 0 when all agree, 1 when the kernel contradicts the model, 3 when nothing can be said."""
        return CANNOT_TELL if self.check is None else self.check.status()
