"""What lacks something never answers "same" and never "they agree": dropped events, raised counters, torn and recovered files.

A share of the recordings is drawn in every run; KVM_REPLAY_SWEEP=full tries each of them, with more places to drop at.
"""

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import pytest
from kvmrwriter import Kvmr, payloads
from sweep import FULL, Figures, files

from replay.analyses.certainty import certain, uncertainties
from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.analyses.compare_report import CANNOT_TELL
from replay.analyses.state_at import replay_to
from replay.analyses.uncertainty import Doubts
from replay.engine.lanes import make_lanes
from replay.errors import EventError, RecordingError
from replay.events import Event, Lost
from replay.header import Counter, Header, Trailer
from replay.recording import open_recording
from replay.recording.recover import recover
from replay.runs import events_of, items_of
from replay.stream import MemoryStream, Stream

AGREE, UNSURE = 0, 3
EVENTS = (4, 2000)
"""Recordings with fewer events have nothing to drop; larger ones take their time."""
LOSS = Counter(kind="overrun", count=3, severity="lost")
STRANGE = Counter(kind="word of another release", count=1, first="trace.txt:7", severity="unknown")
IGNORED = Counter(kind="KVM_RUN", count=1000, severity="ignored")


@attrs.frozen
class Whole:
    """A recording in memory."""

    name: str
    header: Header
    events: tuple[Event, ...]
    trailer: Trailer

    def stream(self, events: Sequence[Event] | None = None, *counters: Counter) -> Stream:
        """Return it as a stream, with other events and with more counters."""
        trailer = attrs.evolve(self.trailer, counters=(*self.trailer.counters, *counters))
        return MemoryStream(self.header, list(items_of(self.events if events is None else events)), trailer)

    def compared(self, events: Sequence[Event] | None = None, *counters: Counter) -> str:
        """Return the verdict of eager against on-demand."""
        return compare(self.stream(events, *counters), make_lanes(["eager", "on-demand"], self.header.machine)).verdict

    def certain(self, events: Sequence[Event] | None = None, *counters: Counter) -> bool:
        """Tell whether the state after the last event is certain, as what pages went through up to there is."""
        lanes, stream = make_lanes(["eager", "on-demand"], self.header.machine), self.stream(events, *counters)
        doubts = Doubts(lanes, self.header.machine)
        replay_to(stream, lanes, None, doubts=doubts)
        return certain(uncertainties(doubts, stream.trailer()))

    def checked(self, events: Sequence[Event] | None = None, *counters: Counter) -> int:
        """Return the exit status of a check."""
        return check(self.stream(events, *counters), policy="eager" if "eager" in self.name else None).status()


def whole(path: Path) -> Whole:
    """Return a recording that comes with the project."""
    source = open_recording(str(path))
    events = tuple(events_of(source.items()))
    return Whole(f"{path.parent.name}/{path.stem}", source.header, events, source.trailer())


def clean() -> list[Whole]:
    """Return recordings that lack nothing: every seventh of the small ones, all when that is asked for."""
    found = [whole(path) for path in files("*.kvmr", small=True)[:: 1 if FULL else 7]]
    found = [one for one in found if EVENTS[0] <= len(one.events) <= EVENTS[1] and not one.trailer.total("lost")]
    return [one for one in found if one.checked() == AGREE]


@pytest.fixture(name="recordings", scope="module")
def _recordings() -> list[Whole]:
    return clean()


def gaps(one: Whole) -> Iterator[tuple[int, int]]:
    """Yield places and lengths of gaps, drawn with a fixed seed."""
    dice = random.Random(one.name)
    for _ in range(8 if FULL else 2):
        length = dice.choice((1, 2, 3))
        yield dice.randrange(1, len(one.events) - length + 1), length


class TestLosses:
    """Every dependent verdict of a recording that lacks something is "cannot tell"."""

    def test_counters(self, recordings: list[Whole], figures: Figures) -> None:
        """A counter of something lost or not understood is enough; what is ignored knowingly is none."""
        verdicts = {one.compared() for one in recordings}
        assert verdicts >= {"same", "divergence"}
        for one in recordings:
            for counter in (LOSS, STRANGE):
                assert one.compared(None, counter) == CANNOT_TELL, one.name
                assert one.checked(None, counter) == UNSURE, one.name
                assert not one.certain(None, counter), one.name
            assert one.compared(None, IGNORED) == one.compared(), one.name
            assert one.certain(None, IGNORED) == one.certain() == (one.compared() != CANNOT_TELL), one.name
            assert one.checked(None, IGNORED) == AGREE, one.name
        assert len(recordings) > 20
        figures("raised loss counters", 6 * len(recordings), believed=0)

    def test_dropped_and_counted(self, recordings: list[Whole], figures: Figures) -> None:
        """Events that are missing where only the end says so: no comparison is believed, also none that contradicts."""
        tried, refused = 0, 0
        for one in recordings:
            for at, length in gaps(one):
                rest = (*one.events[:at], *one.events[at + length :])
                try:
                    assert (one.compared(rest, LOSS), one.checked(rest, LOSS)) == (CANNOT_TELL, UNSURE), (one.name, at)
                    assert not one.certain(rest, LOSS), (one.name, at)
                except EventError:
                    refused += 1  # the birth of a VM is missing: that is no recording of anything
                tried += 1
        assert tried - refused > 40
        figures("events dropped, counted at the end", tried, believed=0, refused=refused)

    def test_dropped_in_a_known_place(self, recordings: list[Whole], figures: Figures) -> None:
        """Events that are missing where an event says so: what comes after is not compared."""
        tried, refused = 0, 0
        for one in recordings:
            for at, length in gaps(one):
                rest = (*one.events[:at], Lost(count=length, what="overrun"), *one.events[at + length :])
                try:
                    assert (one.compared(rest), one.checked(rest)) == (CANNOT_TELL, UNSURE), (one.name, at)
                    assert not one.certain(rest), (one.name, at)
                except EventError:
                    refused += 1
                tried += 1
        assert tried - refused > 40
        figures("events dropped, told in place", tried, believed=0, refused=refused)

    def test_torn_and_recovered(self, recordings: list[Whole], figures: Figures, tmp_path: Path) -> None:
        """A file without its end, and what recover makes of it, are both lacking."""
        by_name = {f"{path.parent.name}/{path.stem}": path for path in files("*.kvmr", small=True)}
        torn, saved = tmp_path / "torn.kvmr", tmp_path / "saved.kvmr"
        for one in recordings:
            torn.write_bytes(by_name[one.name].read_bytes()[:-1])
            recover(str(torn), str(saved), overwrite=True)
            for path in (torn, saved):
                again = attrs.evolve(whole(path), name=one.name)
                if again.events:
                    assert (again.compared(), again.checked()) == (CANNOT_TELL, UNSURE), (one.name, path.stem)
                    assert not again.certain(), (one.name, path.stem)
        figures("torn and recovered recordings", 2 * len(recordings), believed=0)

    def test_counts_that_do_not_fit(self, recordings: list[Whole], figures: Figures) -> None:
        """A block that says a number of events that it does not hold is refused, with every checksum mended."""
        by_name = {f"{path.parent.name}/{path.stem}": path for path in files("*.kvmr", small=True)}
        tried = 0
        for one in recordings:
            blocks = payloads(by_name[one.name].read_bytes())
            if len(blocks) > 2:
                blocks[1].events -= 1
                changed = io.BytesIO(Kvmr(blocks[:-1], end=blocks[-1]).data())
                with pytest.raises(RecordingError):
                    list(open_recording(changed).items())
                tried += 1
        assert tried > 20
        figures("counts of events lowered, checksums mended", tried, accepted=0)
