"""Shape the result of `index`: where the index is, and what it holds."""

import attrs

from replay.events.base import ByFields, text, uint, values


@attrs.frozen(kw_only=True, eq=False, repr=False)
class LaneName(ByFields):
    """One lane."""

    name: str = text("name of the lane", length_max=128)
    policy: str = text("name of the policy", length_max=64)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class IndexReport(ByFields):
    """One index that was written."""

    recording: str = text("name of the recording", length_max=4096)
    index: str = text("name of the index", length_max=4096)
    events: int = uint("events of the recording")
    blocks: int = uint("blocks of events")
    checkpoints: int = uint("checkpoints in the index")
    recording_bytes: int = uint("size of the recording", unit="bytes")
    index_bytes: int = uint("size of the index", unit="bytes")
    lanes: tuple[LaneName, ...] = values("lanes that the checkpoints hold", LaneName, length_max=64)
