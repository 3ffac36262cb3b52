"""What `minimise` leaves: the same finding with the same cause, every event of it needed, and one state by every road."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from sweep import FULL, ROOT, Figures, files
from test_sweep_roads import LANES, ROADS, Whole, digests

from replay.analyses.check import check
from replay.analyses.compare import compare
from replay.analyses.minimise import BUDGET_EVENTS, Look, Search, contradictions, cut_down, divergences
from replay.engine.lanes import make_lanes
from replay.errors import KvmReplayError
from replay.events import Event
from replay.generate import GeneratedStream, Order, profile_named
from replay.header import LEFT_OUT, Counter, Header, Trailer, replace_machine
from replay.recording import open_recording
from replay.runs import events_of, items_of
from replay.stream import MemoryStream, Stream

RECORDINGS = [path for path in [*files("*.jsonl", small=True), *files("*.kvmr", small=True)] if "overflow" not in path.stem]
CHOSEN = RECORDINGS[:: 1 if FULL else 14]
EDGES = ROOT / "recordings" / "catalogue" / "D07-limit-edges.jsonl"
CONTRADICTED = ROOT / "recordings" / "kernel" / "6.12eager-npt1" / "03-lifecycle.kvmr"


def look_of(header: Header) -> Look:
    """Return how to look for the strongest divergence of a recording."""
    return divergences(lambda stream: compare(stream, make_lanes(list(LANES), header.machine)))


@attrs.frozen
class Reproducer:
    """What is left of a recording."""

    name: str
    stream: Stream
    search: Search

    def streamed(self, events: Sequence[Event] | None = None) -> Stream:
        """Return it as a stream, or some of its events under its ends."""
        items = self.search.items if events is None else list(items_of(events))
        return MemoryStream(self.stream.header, list(items), self.stream.trailer())

    def shows(self, stream: Stream) -> bool:
        """Tell whether a stream shows what is sought, under the same verdict and with no further doubt."""
        whole, sought = self.search.whole, self.search.sought
        try:
            shown = look_of(self.stream.header)(stream)
        except KvmReplayError:
            return False
        same = (shown.verdict, shown.doubts <= whole.doubts) == (whole.verdict, True)
        return same and sought is not None and sought.words in [cause.words for cause in shown.causes]


def reproducer(path: Path, budget: int = BUDGET_EVENTS) -> Reproducer | None:
    """Return what is left of a recording, None of one that shows no divergence."""
    stream = open_recording(str(path))
    search = Search(stream, look_of(stream.header), budget)
    if search.sought is not None:
        search.run()
    return Reproducer(str(path), stream, search) if search.sought is not None else None


@pytest.fixture(name="found", scope="module")
def _found() -> list[Reproducer]:
    return [one for path in CHOSEN if (one := reproducer(path)) is not None]


class TestMinimised:
    """A reproducer is as small as it gets, and still shows what it is for."""

    def test_same_finding(self, found: list[Reproducer], figures: Figures) -> None:
        """Class, cause in the same words and verdict are those of the whole; the events are the recording's own, in order."""
        for one in found:
            assert one.shows(one.streamed()), one.name
            following = events_of(open_recording(one.name).items())
            assert all(event in following for event in events_of(one.search.items)), one.name
            list(following)
        before, left = (sum(one.search.events_before for one in found), sum(one.search.events for one in found))
        assert len(found) > 12
        assert left < before // 4
        figures("recordings minimised", len(found), events_before=before, events_left=left)

    def test_each_event_is_needed(self, found: list[Reproducer], figures: Figures) -> None:
        """Without any one of its events a reproducer is none."""
        tried = 0
        for one in found:
            events = list(events_of(one.search.items))
            for number in range(len(events)):
                assert not one.shows(one.streamed(events[:number] + events[number + 1 :])), (one.name, number)
            assert one.search.minimal, one.name
            tried += len(events)
        assert tried > 40
        figures("events of reproducers dropped", tried, still_shown=0)

    @pytest.mark.parametrize("road", ROADS)
    def test_one_state_by_every_road(self, road: str, found: list[Reproducer], figures: Figures) -> None:
        """The state after a reproducer is the same straight, by checkpoints, from each form of file, in bulk and one by one."""
        for one in found:
            left = Whole(one.stream.header, tuple(one.search.items))
            assert ROADS[road](left) == digests(left.replayed(iter(left.items))), one.name
        figures(f"states of reproducers by way of: {road}", len(LANES) * len(found), differing=0)

    def test_contradiction(self) -> None:
        """A contradiction of `check` is kept as well, with model, kernel and rule in the same words."""
        stream = open_recording(str(CONTRADICTED))
        search = Search(stream, contradictions(check))
        assert search.sought is not None
        search.run()
        report = check(MemoryStream(stream.header, list(search.items), stream.trailer()))
        first = report.mismatches[0]
        assert (report.status(), first.facet, first.rule) == (1, search.sought.words[0], search.sought.words[2])
        assert (search.minimal, search.events < search.events_before // 4) == (True, True)


class TestBudget:
    """A search ends, and says whether it is done."""

    @pytest.mark.parametrize("profile", ["mixed", "gvtg"])
    def test_of_thousands(self, profile: str) -> None:
        """Of thousands of events of many VMs a few are left; twice the same."""
        order = Order(profile=profile_named(profile), events=4000, seed=5)
        found = []
        for _ in range(2):
            stream = GeneratedStream(order)
            header = replace_machine(stream.header, kernel_release="6.8.0", config_external_write_tracking=True, tdp=True)
            search = Search(MemoryStream(header, stream.items()), look_of(header))
            search.run()
            assert (search.minimal, search.events < 12, search.tries < 400) == (True, True, True)
            found.append(list(events_of(search.items)))
        assert found[0] == found[1]

    @pytest.mark.parametrize("budget", [1, 30, 60])
    def test_runs_out(self, budget: int) -> None:
        """What is left by then still shows it; no more is tried, and nobody says that it is minimal."""
        one = reproducer(EDGES, budget)
        assert one is not None
        assert one.shows(one.streamed())
        assert not one.search.minimal
        assert one.search.replayed < budget + 12 * one.search.events_before

    def test_ends(self) -> None:
        """The new ends say where it is from and what is left out; a loss stays, what an importer passed over does not."""
        one = reproducer(EDGES)
        assert one is not None
        search, old = one.search, attrs.evolve(one.stream.header, provenance="by hand")
        loss, passed = Counter(kind="overrun", count=2, severity="lost"), Counter(kind="KVM_RUN", count=9, severity="ignored")
        header, trailer = cut_down(old, Trailer(counters=(loss, passed)), "D07", search)
        assert header.provenance.startswith(f"minimised from D07: {search.events} of {search.events_before} events; ")
        assert header.provenance.endswith(". by hand")
        assert header.tools[-1].name == "kvm-replay minimise"
        left_out = Counter(kind=LEFT_OUT, count=search.events_before - search.events, severity="ignored")
        assert (trailer.events, trailer.counters) == (search.events, (left_out, loss))
