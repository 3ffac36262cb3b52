"""Shape the result of `generate`: what was made up."""

import attrs

from replay.events.base import ByFields, text, uint


@attrs.frozen(kw_only=True, eq=False, repr=False)
class GenerateReport(ByFields):
    """One synthetic recording that was written."""

    output: str = text("name of the recording", length_max=4096)
    profile: str = text("workload profile", length_max=64)
    seed: int = uint("seed that it was drawn from")
    command: str = text("command line that gives the same events again, without an output", length_max=4096)
    events: int = uint("events in it")
    hot_events: int = uint("of them hot ones: write tracking, guest writes, shadow pages")
    vms: int = uint("VMs that are created in it")
