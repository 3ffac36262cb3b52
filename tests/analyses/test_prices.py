"""Promises of what things cost and where failures can come from: exposure, layouts, the state at an event, the policy list."""

from collections.abc import Sequence

import pytest
from comparisons import REGISTER, ROOT, report_of
from lane_samples import CREATE, items, lane, machine, slot

from replay.analyses.compare_report import Exposure
from replay.analyses.cost import CostReport, layout_cost, layout_slots, recording_cost
from replay.analyses.policy_list import policies_report
from replay.analyses.state_at import replay_to
from replay.engine.lanes import make_lanes
from replay.errors import UsageError
from replay.events import AllocFail, MemslotSet, NotifierRegister, WriteTrackAdd
from replay.header import Header, Machine
from replay.kvm.policies import POLICIES
from replay.kvm.profile import parse_facts
from replay.stream import MemoryStream
from replay.units import Gfn

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def layout(bits: int, slots: int | None = None, lanes: Sequence[str] = ("eager", "on-demand"), facts: str = "") -> CostReport:
    """Price a layout under lanes of a machine of which nothing else is known."""
    return layout_cost(bits, slots, make_lanes(lanes, Machine(), parse_facts(facts)))


def write_track(report: CostReport) -> dict[str, list[int]]:
    """Return the bytes of write tracking of each lane, stage by stage."""
    return {one.name: [stage.write_track.nominal_end_bytes for stage in one.stages] for one in report.lanes}


class TestLayouts:
    """A layout of equal memslots is priced when made, after a registration, after a shadow root."""

    def test_39_bits(self) -> None:
        """A sandbox of 39 bits: 256 MiB from the start under eager, nothing under on-demand until something enables it."""
        report = layout(39)
        assert (report.slots, report.slot_pages) == (1, 1 << 27)
        assert write_track(report) == {"eager": [256 * MIB] * 3, "on-demand": [0, 256 * MIB, 256 * MIB]}
        eager = report.lanes[0].stages[0].write_track
        assert (eager.charged_end_bytes, eager.real_end_bytes) == (256 * MIB, 256 * MIB + 512 * KIB + KIB)

    def test_what_is_left(self) -> None:
        """The other arrays are itemised too: lpage_info stays under either policy, rmaps come with the shadow root."""
        for one in layout(40).lanes:
            sizes = [{b.array: b.nominal_end_bytes for b in stage.arrays} for stage in one.stages]
            assert [size["lpage_info"] for size in sizes] == [2 * MIB + 4 * KIB] * 3
            assert [size["rmap"] for size in sizes] == [0, 0, 2 * GIB + 4 * MIB + 8 * KIB]

    @pytest.mark.parametrize(
        ("bits", "slots", "count", "pages", "eager"),
        [
            (40, None, 1, 1 << 28, 512 * MIB),
            (46, None, 16, 1 << 30, 32 * GIB),
            (46, 1024, 1024, 1 << 24, 32 * GIB),
            (39, 3, 3, (1 << 27) // 3, 6 * ((1 << 27) // 3)),
            (13, 2, 2, 1, 4),
            (43, None, 2, 1 << 30, 4 * GIB),
        ],
    )
    def test_slots(self, bits: int, slots: int | None, count: int, pages: int, eager: int) -> None:
        """As few memslots as a memslot's limit of pages allows, or as many as asked for; 2 bytes a page in all of them."""
        report = layout(bits, slots)
        assert (report.slots, report.slot_pages) == (count, pages)
        assert write_track(report)["eager"] == [eager] * 3
        assert write_track(report)["on-demand"] == [0, eager, eager]

    @pytest.mark.parametrize(
        ("bits", "slots", "found"),
        [
            (12, None, "12 address bits"),
            (52, None, "52 address bits"),
            (39, 0, "0 memslots"),
            (39, 40000, "40,000 memslots"),
            (13, 3, "3 memslots"),
            (46, 2, "2 memslots of 8,589,934,592 pages each"),
        ],
    )
    def test_what_no_kernel_takes(self, bits: int, slots: int | None, found: str) -> None:
        """A layout that no kernel takes is refused with what it takes."""
        with pytest.raises(UsageError, match=found):
            layout_slots(bits, slots)

    def test_what_one_lane_refuses(self) -> None:
        """A layout beyond the machine's physical bits names the lane and the check."""
        with pytest.raises(UsageError, match=r"lane eager refuses memslot 0 .*beyond the largest gfn"):
            layout(41, facts="max_phys_bits=40")

    def test_a_stage_that_fails(self) -> None:
        """Arrays larger than all memory: the registration fails, and the stage says so."""
        (lazy,) = layout(42, lanes=["on-demand"], facts="total_ram_pages=260000").lanes
        assert [(stage.stage, stage.ret) for stage in lazy.stages] == [("created", 0), ("registered", -12), ("rooted", -12)]

    def test_without_external_users(self) -> None:
        """Without the option nobody can register; a shadow root allocates."""
        (lazy,) = layout(39, lanes=["on-demand"], facts="config=n").lanes
        assert [stage.stage for stage in lazy.stages] == ["created", "rooted"]
        assert write_track(layout(39, lanes=["eager"], facts="config=n")) == {"eager": [0, 256 * MIB]}

    def test_tdp_off(self) -> None:
        """With tdp off every policy allocates all of it with the memslot."""
        for one in layout(39, facts="tdp=0").lanes:
            assert [stage.nominal_bytes for stage in one.stages] == [one.stages[0].nominal_bytes] * 3
            assert one.stages[0].write_track.nominal_end_bytes == 256 * MIB

    def test_recording(self) -> None:
        """A recording is priced by what its lanes held at most."""
        lanes = make_lanes(["eager", "on-demand"], machine())
        stream = MemoryStream(Header(machine=machine()), items(CREATE, slot(npages=4096), MemslotSet(vm=0, slot=0)))
        replay_to(stream, lanes, None)
        eager, lazy = recording_cost("r", lanes).lanes
        assert [stage.stage for stage in (*eager.stages, *lazy.stages)] == ["end", "end"]
        assert (eager.stages[0].write_track.nominal_peak_bytes, lazy.stages[0].write_track.nominal_peak_bytes) == (8 * KIB, 0)
        assert eager.stages[0].nominal_bytes == 0


class TestExposure:
    """The report counts where -ENOMEM can come from, lane by lane."""

    def test_counts(self) -> None:
        """Calls that allocate an array, their arrays, bytes, the largest, and failures."""
        events = [CREATE, slot(npages=4096), slot(1, base=0x2000), REGISTER, ROOT]
        eager, lazy = report_of(events).lanes
        lpage = 8 * 4 + 4
        assert eager.exposure == (
            Exposure(call="memslot.set", calls=2, arrays=6, nominal_bytes=8192 + 32 + lpage + 8, largest_bytes=8192),
            Exposure(call="shadow_root.alloc", calls=1, arrays=6, nominal_bytes=32768 + 64 + 8 + 128 + 16, largest_bytes=32768),
        )
        assert lazy.exposure == (
            Exposure(call="memslot.set", calls=2, arrays=4, nominal_bytes=lpage + 8, largest_bytes=32),
            Exposure(call="notifier.register", calls=1, arrays=2, nominal_bytes=8192 + 32, largest_bytes=8192),
            eager.exposure[1],
        )

    def test_failures(self) -> None:
        """A call that fails counts, with what it had allocated before."""
        fail = AllocFail(site="kvm_page_track_create_memslot")
        (eager,) = report_of([CREATE, fail, slot(ret=-12)], ["eager"]).lanes
        assert [(found.calls, found.arrays, found.failed) for found in eager.exposure] == [(1, 2, 1)]

    def test_calls_that_allocate_nothing(self) -> None:
        """A change of flags makes a slot object and no array: no place of -ENOMEM that the policies could move."""
        (eager,) = report_of([CREATE, slot(flags=2), MemslotSet(vm=0, slot=0)], ["eager"]).lanes
        assert [found.calls for found in eager.exposure] == [1]


class TestStateAt:
    """A replay stops after the event that is asked for, also within a run."""

    EVENTS = (CREATE, slot(), NotifierRegister(vm=0), *(WriteTrackAdd(vm=0, gfn=Gfn(gfn)) for gfn in (1, 2, 2, 3)), slot(1))

    @pytest.mark.parametrize(
        ("event", "counts", "slots"),
        [
            (0, {}, 0),
            (1, {}, 1),
            (2, {}, 1),
            (3, {1: 1}, 1),
            (5, {1: 1, 2: 2}, 1),
            (6, {1: 1, 2: 2, 3: 1}, 1),
            (7, {1: 1, 2: 2, 3: 1}, 2),
        ],
    )
    def test_cut(self, event: int, counts: dict[int, int], slots: int) -> None:
        """Each event of a run is a place to stop at."""
        one = lane()
        assert replay_to(MemoryStream(Header(), items(*self.EVENTS)), [one], event) == event
        found = list(one.machine.vm(0).slots())
        assert len(found) == slots
        assert {gfn: count for slot_ in found for gfn, count in slot_.arch.counts.items()} == counts

    def test_end(self) -> None:
        """Without a number it is the end; the last event's number comes back."""
        assert replay_to(MemoryStream(Header(), items(*self.EVENTS)), [lane()], None) == 7
        assert replay_to(MemoryStream(Header(), items()), [lane()], None) == -1

    @pytest.mark.parametrize(("events", "expected"), [(EVENTS, "expected 0 to 7"), ((), "expected a recording with events")])
    def test_beyond(self, events: tuple[WriteTrackAdd, ...], expected: str) -> None:
        """An event that is not there is refused with those that are."""
        with pytest.raises(UsageError, match=expected):
            replay_to(MemoryStream(Header(), items(*events)), [lane()], 8)


class TestPolicies:
    """The list says of each policy what its row says."""

    def test_list(self) -> None:
        """Each policy once, oldest first, with words that differ where the policies do."""
        found = policies_report().policies
        assert [policy.name for policy in found] == [policy.name for policy in POLICIES]
        lazy = next(policy for policy in found if policy.name == "on-demand")
        assert lazy.register_allocates
        assert lazy.enabled_when == (
            "CONFIG_KVM_EXTERNAL_WRITE_TRACKING=y and a notifier was registered, or a shadow root was loaded, or tdp is off"
        )
        old = found[0]
        assert (old.move_with_notifier, old.register_checks_mm) == ("allowed, tracking is dropped", False)
        assert "WARN" in old.tracking_when_disabled
        assert all(policy.source for policy in found)
