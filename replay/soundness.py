"""Say what became of reading one recording to its end: sound, torn, damaged or refused; what of it is whole, what is lost.

The answer of `kvm-replay verify` and `recover`. Whoever reads files fills it in; whoever prints it needs no reader.
"""

from typing import Final

import attrs

from replay.events.base import enum, flag, text, uint, value, values

SOUND: Final = "sound"
TORN: Final = "torn"
DAMAGED: Final = "damaged"
REFUSED: Final = "refused"
STATES: Final = (SOUND, TORN, DAMAGED, REFUSED)

EXACT: Final = "exact"
AT_LEAST: Final = "at least"
UNKNOWN: Final = "unknown"

TEXT_MAX: Final = 8192


@attrs.frozen(kw_only=True)
class Loss:
    """What a file has behind its true prefix. It can not be trusted, so it is only counted."""

    size_bytes: int | None = uint("bytes behind the prefix; null: the input could be read only once", unit="bytes", optional=True)
    pieces: int | None = uint("blocks whose header is whole (.kvmr), or lines (.jsonl), behind the prefix", optional=True)
    events: int | None = uint("events behind the prefix, as far as whole headers or lines there tell", optional=True)
    counted: str = enum(
        "how sure `events` is. exact: a whole END at the end of the file counts them; at least: there may be more; "
        "unknown: nothing tells",
        EXACT,
        AT_LEAST,
        UNKNOWN,
        default=UNKNOWN,
    )


@attrs.frozen(kw_only=True)
class Soundness:
    """What became of reading one recording. pieces, events and size_bytes are those of the true prefix; of a sound one, all."""

    name: str = text("the file as it was named", length_max=TEXT_MAX)
    form: str = enum("how it is kept; empty when that can not be told", "", "kvmr", "jsonl", default="")
    state: str = enum(
        "sound: whole to its END. torn: it stops before. damaged: its bytes are not what was written. refused: it can not be "
        "read, is no recording, or needs a newer release",
        *STATES,
    )
    schema_version: str = text("version of its events, such as 1.0; empty when that can not be told", default="", length_max=16)
    checksums: bool = flag("each byte is held against a checksum; .jsonl has none")
    ended: bool = flag("its end is there and counts right; a .jsonl written by hand needs none")
    pieces: int = uint("whole blocks (.kvmr) or lines (.jsonl)", default=0)
    events: int = uint("events in them", default=0)
    size_bytes: int = uint("bytes of them", unit="bytes", default=0)
    code: str = text("code of what is wrong, as in docs/errors.md; empty for a sound one", default="", length_max=16)
    trouble: str = text("what is wrong, and where", default="", length_max=TEXT_MAX)
    loss: Loss | None = value("what is behind the prefix; null: nothing that is known of", Loss)
    recorded_losses: int = uint("things that its own end counts as lost: the recorder's losses, not the file's", default=0)
    remarks: str = text("what else a reader should know, sentences parted by semicolons", default="", length_max=TEXT_MAX)


@attrs.frozen(kw_only=True)
class VerifyReport:
    """What `verify` found: each file, in the order given."""

    recordings: tuple[Soundness, ...] = values("the files", Soundness, length_max=1 << 16)
    sound: int = uint("how many are sound", default=0)
    torn: int = uint("how many are torn", default=0)
    damaged: int = uint("how many are damaged", default=0)
    refused: int = uint("how many are refused", default=0)


@attrs.frozen(kw_only=True)
class RecoverReport:
    """What `recover` saved, and what it could not."""

    output: str = text("the new recording", length_max=TEXT_MAX)
    events: int = uint("events in it")
    complete: bool = flag("it holds all that there was")
    source: Soundness | None = value("the file that was read", Soundness)
