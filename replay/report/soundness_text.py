"""Say in text whether recordings are sound, and what was saved of those that are not."""

from collections.abc import Iterator
from typing import Final

from replay.report.paint import Paint
from replay.report.plain import printable
from replay.soundness import AT_LEAST, DAMAGED, EXACT, REFUSED, SOUND, STATES, TORN, Loss, RecoverReport, Soundness, VerifyReport
from replay.units import counted

STYLES: Final = {SOUND: "green", TORN: "yellow", DAMAGED: "red", REFUSED: "red"}


def verify_text(report: VerifyReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report: each file, and how many there are of each state when there are several."""
    paint = paint or Paint()
    for found in report.recordings:
        yield from soundness_text(found, paint)
        if found.events and found.state != SOUND:
            yield f"  `kvm-replay recover {printable(found.name)} -o NEW.kvmr` saves what is whole"
    if len(report.recordings) > 1:
        counts = [f"{getattr(report, state):,} {state}" for state in STATES if getattr(report, state)]
        yield f"{counted(len(report.recordings), 'recording')}: {', '.join(counts)}"


def recover_text(report: RecoverReport, paint: Paint | None = None) -> Iterator[str]:
    """Yield the lines of the report: what the source was, and what is saved."""
    paint = paint or Paint()
    if report.source is not None:
        yield from soundness_text(report.source, paint)
    said = "nothing is lost" if report.complete else 'its end counts the loss, so that verdicts say "cannot tell"'
    yield f"{printable(report.output)}: {counted(report.events, 'event')} saved; {said}"


def soundness_text(found: Soundness, paint: Paint) -> Iterator[str]:
    """Yield the lines of one file: its state, what of it is whole, what is lost, and why."""
    whole = f": {_whole(found)}" if found.form and (found.pieces or found.state == SOUND) else ""
    yield f"{printable(found.name)}: {paint(STYLES[found.state], found.state)}{whole}"
    if found.trouble:
        yield f"  {found.code} {printable(found.trouble)}"
    if found.loss is not None:
        yield f"  lost: {loss_text(found.loss, found.form, ended=found.ended)}"
    if found.recorded_losses:
        yield f"  it counts {counted(found.recorded_losses, 'loss', 'losses')} of its recorder; `kvm-replay info` has them"
    if found.remarks:
        yield f"  {printable(found.remarks)}"


def _whole(found: Soundness) -> str:
    piece = "block" if found.form == "kvmr" else "line"
    text = f"{counted(found.events, 'event')} in {counted(found.pieces, piece)}, {counted(found.size_bytes, 'byte')}"
    if found.state != SOUND:
        return f"{text} are whole"
    if found.checksums:
        return f"{text}; checksums, chain, counts and END fit"
    counts = "its counts fit" if found.ended else "written by hand, without an end that counts its events"
    return f"{text}; {counts}; JSON Lines has no checksums"


def loss_text(loss: Loss, form: str, *, ended: bool = False) -> str:
    """Say what is lost, as far as it is known; ended: the recording's end is whole, so what is behind it is none of it.

    >>> loss_text(Loss(size_bytes=90, pieces=1, events=2, counted="at least"), "kvmr")
    'at least 2 events; 90 bytes are left there, with the header of 1 block'
    """
    if loss.size_bytes is None:
        return "how much can not be told: the input was read only once"
    count = counted(loss.events or 0, "event")
    unknown = "nothing of the recording" if ended else "how many events can not be told"
    events = {EXACT: count, AT_LEAST: f"at least {count}"}.get(loss.counted, unknown)
    return f"{events}; {_left(loss, form)}"


def _left(loss: Loss, form: str) -> str:
    """Say what is left of what is lost."""
    if not loss.size_bytes:
        return "nothing is left there"
    size = counted(loss.size_bytes, "byte is left there", "bytes are left there")
    if not loss.pieces:
        return size
    if form != "kvmr":
        return f"{size}, {counted(loss.pieces, 'line')}"
    return f"{size}, with the {'header' if loss.pieces == 1 else 'headers'} of {counted(loss.pieces, 'block')}"
